"""Go on with a search that was interrupted.

brainreg resume NAME
brainreg resume NAME --num-samples=40

What the search is stays as it was; how many trials it has and what it runs on may change. Where a flag is not given,
that stays as it was, too.
"""

from collections.abc import Sequence

from brainreg.commands import tune
from brainreg.commands.search_name import search_parser
from brainreg.errors import InputError
from brainreg.search.options import SearchOptions

# Given to a search that has begun, these must be what they are.
_KEPT = ("name", "id", "prior")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    may_change = [name for name in SearchOptions.model_fields if name not in _KEPT]
    parser = search_parser(__doc__, *may_change, default="as the search had it")
    parser.add_flag("dry-run", action="store_true", help="check everything, show what would run, and exit")
    parser.parse_known_args(arguments)  # what else is given is compared with what the search is
    if not arguments or arguments[0].startswith("-"):
        raise InputError("NAME: missing; name a search, or its folder: brainreg resume NAME")
    return tune.main([f"--resume={arguments[0]}", *arguments[1:]], label="NAME")
