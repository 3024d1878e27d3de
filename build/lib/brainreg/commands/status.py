"""Show how far a search is.

brainreg status NAME
brainreg status NAME --storage_path=s3://BUCKET/PATH
"""

from collections.abc import Sequence

from brainreg.commands import tune


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return tune.main(tune.with_name(arguments, "status", __doc__))
