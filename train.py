"""`python train.py` is `brainreg train`: trains one network, and measures how robust it is."""

from brainreg._utils.flags import run_command
from brainreg.commands.train import main

if __name__ == "__main__":
    run_command(main)
