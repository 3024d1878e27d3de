"""Go on with a search that was interrupted.

brainreg resume NAME
brainreg resume NAME --num-samples=40

What the search is stays as it was; how many trials it has and what it runs on may change. `brainreg tune --help`
lists the flags.
"""

from collections.abc import Sequence

from brainreg.commands import tune
from brainreg.errors import InputError


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    if asked := {"-h", "--help", "--help-all"} & {*arguments}:
        print(f"{__doc__.strip()}\n\nThe flags are those of a search:\n")
        return tune.main([*asked])
    if not arguments or arguments[0].startswith("-"):
        raise InputError("NAME: missing; name a search, or its folder: brainreg resume NAME")
    return tune.main([f"--resume={arguments[0]}", *arguments[1:]], label="NAME")
