"""Files that are no code and come with this project: in the package where it is installed, beside it in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def _folder(installed: str, checkout: str) -> Path:
    own = _PACKAGE / installed
    return own if own.is_dir() else _PACKAGE.parent / checkout


SPACES = _folder("search_spaces", "search_spaces")
NOTEBOOKS = _folder("notebooks", "analysis")
