"""What printed commands are called: of this Python, and of its tools."""

import contextlib
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
