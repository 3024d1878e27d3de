"""List what can be searched.

brainreg spaces
"""

from collections.abc import Sequence

from brainreg.commands import tune


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return tune.main(["--list-spaces", *arguments])
