"""`python -m brainreg.evaluate`, as it was written before there was `brainreg evaluate`."""

from brainreg._utils.flags import run_command
from brainreg.commands.evaluate import main

if __name__ == "__main__":
    run_command(main)
