"""The command `brainreg`: one name for all commands; of a command nothing is imported before it is asked for."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from brainreg import __version__
from brainreg._utils.flags import run_command
from brainreg.errors import InputError, nearest

# Each is a module of this package, with a function `main(arguments) -> exit status`.
COMMANDS = {
    "train": "train one network, and measure how robust it is",
    "tune": "search the regularizer's hyperparameters",
    "resume": "go on with a search that was interrupted",
    "status": "show how far a search is",
    "pause": "end a search that runs, from another terminal; resume goes on",
    "stop": "begin no further trial of a search that runs, or stop one trial",
    "extend": "give a search that runs more trials or more time",
    "spaces": "list what can be searched",
    "evaluate": "measure a trained network",
    "confirm": "train what a search found again, with new seeds, and measure it on test images",
    "report": "write a search as one HTML page",
    "export": "take a network along: safetensors, ONNX, a model card",
    "reproduce": "find a row of the published table again",
    "completion": "print what lets a shell complete commands and flags",
}


def usage() -> str:
    """Return what `brainreg --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: brainreg COMMAND [FLAGS]",
            "",
            "Hyperparameter search for the pixel-similarity regularizer (arXiv 2410.03952).",
            "",
            *lines,
            "",
            "`brainreg COMMAND --help` lists the flags of a command. To begin with, on any machine, in minutes:",
            "  brainreg tune --space=digits_double",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names; return its exit status."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(f"brainreg {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(f"{name}: no such command; {nearest(name, COMMANDS)}")
    sys.argv = [f"brainreg {name}", *rest]  # what the help calls the program
    return import_module(f"brainreg.commands.{name}").main(rest)


def run() -> NoReturn:
    """Run `brainreg` with the arguments of the process."""
    run_command(main)
