"""`python -m brainreg` is the command `brainreg`."""

from brainreg.commands.main import run

if __name__ == "__main__":
    run()
