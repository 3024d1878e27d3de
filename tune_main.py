"""`python tune_main.py` is `brainreg tune`: searches the hyperparameters of the regularizer."""

from brainreg._utils.flags import run_command
from brainreg.commands.tune import main

if __name__ == "__main__":
    run_command(main)
