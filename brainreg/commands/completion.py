"""Print what lets a shell complete commands and flags.

brainreg completion bash > ~/.local/share/bash-completion/completions/brainreg
brainreg completion zsh > ~/.zfunc/_brainreg     (with ~/.zfunc in fpath)
"""

import argparse
from collections.abc import Sequence
from importlib import import_module

import shtab

from brainreg._utils.flags import Parser, parser_of
from brainreg.errors import InputError, nearest

_SHELLS = ("bash", "zsh", "tcsh")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    from brainreg.commands.main import COMMANDS

    parser = Parser(__doc__)
    parser.add_argument("shell", nargs="?", metavar="SHELL", help=", ".join(_SHELLS))
    shell = parser.parse_args(arguments).shell
    if shell not in _SHELLS:
        given = "SHELL: missing" if shell is None else f"SHELL={shell}: no such shell"
        raise InputError(f"{given}; {nearest(shell or '', _SHELLS)}")
    whole = argparse.ArgumentParser(prog="brainreg")
    names = whole.add_subparsers()
    for name, what in COMMANDS.items():
        own = parser_of(import_module(f"brainreg.commands.{name}").main)
        names.add_parser(name, parents=[own], add_help=False, help=what)
    print(shtab.complete(whole, shell))
    return 0
