"""Go on with a search that was interrupted.

brainreg resume NAME
brainreg resume NAME --num-samples=40

What the search is stays as it was; how many trials it has and what it runs on may change. `brainreg tune --help`
lists the flags.
"""

from collections.abc import Sequence

from brainreg.commands import tune


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    return tune.main(tune.with_name(arguments, "resume", __doc__))
