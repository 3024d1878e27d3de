"""Show how far a search is.

brainreg status NAME
brainreg status NAME --storage_path=s3://BUCKET/PATH
"""

from collections.abc import Sequence

from brainreg._utils.console import make_console
from brainreg.commands.search_name import find_named, search_parser


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    search = find_named(search_parser(__doc__).parse_args(arguments))
    from brainreg.search.status import show_status  # slow, and no help needs it

    show_status(search, make_console())
    return 0
