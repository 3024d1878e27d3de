"""The argument NAME of the commands that take a search: its name, or its folder."""

import argparse
from typing import TYPE_CHECKING

from brainreg._utils.flags import Parser, from_flags
from brainreg.errors import InputError
from brainreg.search.options import SearchOptions

if TYPE_CHECKING:
    from brainreg.storage import Storage


def search_parser(description: str, *flags: str, or_else: str = "", default: str | None = None) -> Parser:
    """Return a parser of a command whose first argument is NAME.

    Args:
        description: the module's docstring.
        flags: fields of `SearchOptions` that are flags of the command, beside `storage_path`.
        or_else: what else may be named.
        default: what the help calls the default of the flags, where it is not their own.
    """
    parser = Parser(description)
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"name of a search, or its folder{or_else}")
    every = [*SearchOptions.model_fields]
    parser.add_flags(SearchOptions, "where it is", skip=[name for name in every if name != "storage_path"])
    if flags:
        others = [name for name in every if name not in flags or name == "storage_path"]
        parser.add_flags(SearchOptions, "the search", skip=others, default=default)
    return parser


def check_name(flags: argparse.Namespace, or_else: str = "") -> str:
    """Return NAME.

    Raises:
        InputError: it is missing.
    """
    if flags.name is None:
        raise InputError(f"NAME: missing; name a search, or its folder{or_else}")
    return str(flags.name)


def find_named(flags: argparse.Namespace) -> "Storage":
    """Return the folder of the search NAME.

    Raises:
        InputError: NAME is missing, or there is no such search.
    """
    from brainreg.search.folders import find_search

    return find_search(check_name(flags), from_flags(SearchOptions, flags).storage_path, "NAME")
