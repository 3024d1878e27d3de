"""Extend a search that runs, from another terminal: give it more trials, or more time.

brainreg extend NAME --num-samples=80
brainreg extend NAME --minutes=90

One that does not run is extended when it goes on: brainreg resume NAME --num-samples=80
"""

from collections.abc import Sequence

from brainreg._utils.flags import given_values
from brainreg.commands.search_name import find_named, search_parser
from brainreg.search.options import SearchOptions

_LIMITS = ("num_samples", "minutes", "gpu_hours")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    flags = search_parser(__doc__, *_LIMITS).parse_args(arguments)
    given = given_values(SearchOptions, flags)
    from brainreg.search import steering  # slow, and no help needs it

    print(steering.extend(find_named(flags), {name: given[name] for name in _LIMITS if given.get(name) is not None}))
    return 0
