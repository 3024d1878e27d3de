"""Stop a search that runs, from another terminal, or one of its trials.

brainreg stop NAME
brainreg stop NAME --trial=7

Its running trials go on to their end, no further one begins, and it recommends a setting of what it knows then;
`brainreg resume NAME` would go on. A trial is stopped after its epoch, as if it were not worth going on with.
"""

from collections.abc import Sequence

from brainreg.commands.search_name import find_named, search_parser
from brainreg.errors import InputError


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = search_parser(__doc__)
    parser.add_flag("trial", help="number of a trial: stop it, and go on with the others")
    flags = parser.parse_args(arguments)
    trial = None
    if flags.trial is not None:
        if not flags.trial.isdecimal():
            raise InputError(f"--trial={flags.trial}: must be the number of a trial")
        trial = int(flags.trial)
    from brainreg.search import steering  # slow, and no help needs it

    print(steering.stop(find_named(flags), trial))
    return 0
