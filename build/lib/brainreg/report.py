"""`python -m brainreg.report`, as it was written before there was `brainreg report`."""

from brainreg._utils.flags import run_command
from brainreg.commands.report import main

if __name__ == "__main__":
    run_command(main)
