"""`python -m brainreg.reproduce`, as it was written before there was `brainreg reproduce`."""

from brainreg._utils.flags import run_command
from brainreg.commands.reproduce import main

if __name__ == "__main__":
    run_command(main)
