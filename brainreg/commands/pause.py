"""Pause a search that runs, from another terminal: it ends as by Ctrl-C, and `brainreg resume NAME` goes on.

brainreg pause NAME
"""

from collections.abc import Sequence

from brainreg.commands.search_name import find_named, search_parser


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    flags = search_parser(__doc__).parse_args(arguments)
    from brainreg.search import steering  # slow, and no help needs it

    print(steering.pause(find_named(flags)))
    return 0
