"""Pause a search that runs, from another terminal: it ends as by Ctrl-C, and `brainreg resume NAME` goes on.

brainreg pause NAME
"""

from collections.abc import Sequence

from brainreg.commands import stop
from brainreg.search import steering


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = stop.parser(__doc__)
    flags = parser.parse_args(arguments)
    print(steering.pause(stop.named(flags)))
    return 0
