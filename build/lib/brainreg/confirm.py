"""`python -m brainreg.confirm`, as it was written before there was `brainreg confirm`."""

from brainreg._utils.flags import run_command
from brainreg.commands.confirm import main

if __name__ == "__main__":
    run_command(main)
