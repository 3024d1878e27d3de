"""Stop a search that runs, from another terminal, or one of its trials.

brainreg stop NAME
brainreg stop NAME --trial=7

Its running trials go on to their end, no further one begins, and it recommends a setting of what it knows then;
`brainreg resume NAME` would go on. A trial is stopped after its epoch, as if it were not worth going on with.
"""

import argparse
from collections.abc import Sequence

from brainreg._utils.flags import Parser, from_flags
from brainreg.errors import InputError
from brainreg.search import steering
from brainreg.search.plan import SearchOptions, find_search
from brainreg.storage import Storage

_OTHERS = tuple(name for name in SearchOptions.model_fields if name != "storage_path")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    own = parser(__doc__)
    own.add_flag("trial", help="number of a trial: stop it, and go on with the others")
    flags = own.parse_args(arguments)
    trial = None
    if flags.trial is not None:
        if not flags.trial.isdecimal():
            raise InputError(f"--trial={flags.trial}: must be the number of a trial")
        trial = int(flags.trial)
    print(steering.stop(named(flags), trial))
    return 0


def parser(description: str, others: Sequence[str] = _OTHERS) -> Parser:
    """Return a parser of a command whose first argument is the name of a search.

    Args:
        description: the module's docstring.
        others: fields of `SearchOptions` that are no flags.
    """
    own = Parser(description)
    own.add_argument("name", nargs="?", metavar="NAME", help="name of a search, or its folder")
    own.add_flags(SearchOptions, "the search", skip=others)
    return own


def named(flags: argparse.Namespace) -> Storage:
    """Return the folder of the search that is named.

    Raises:
        InputError: there is none.
    """
    if flags.name is None:
        raise InputError("NAME: missing; name a search, or its folder")
    return find_search(flags.name, from_flags(SearchOptions, flags).storage_path, "NAME")
