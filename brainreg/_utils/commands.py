"""What printed commands are called: of this Python, and of its tools."""

import contextlib
import shlex
import shutil
import sys
from pathlib import Path


def python_name() -> str:
    """Return what this Python is called on the command line: by its path, where that lies below the working folder."""
    with contextlib.suppress(ValueError):
        return str(Path(sys.executable).relative_to(Path.cwd()))
    return "python"


def tool_name(name: str) -> str:
    """Return what a command of this Python's environment is called on the command line."""
    return str(Path(python_name()).with_name(name))


def brainreg_command(command: str, folder: str) -> str:
    """Return the line that runs a command of brainreg on a folder, as a shell in the working folder understands it."""
    with contextlib.suppress(ValueError):
        folder = str(Path(folder).relative_to(Path.cwd()))
    if _is_found("brainreg"):
        program = "brainreg"
    else:
        python = python_name()
        python = sys.executable if python == "python" and not _is_found(python) else python
        program = f"{shlex.quote(python)} -m brainreg"
    return f"{program} {command} {shlex.quote(folder)}"


def _is_found(name: str) -> bool:
    """Whether a shell finds this environment's program of a name."""
    found = shutil.which(name)
    return found is not None and Path(found).parent == Path(sys.executable).parent
