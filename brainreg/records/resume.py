"""How what was begun is stored, and compared with what is asked for now: of searches, confirmations, reproductions.

What of it may change, each of them decides: `search.plan.plan_resume`, `confirmation.plan.plan_confirmation`,
`reproduction.row.Row`. Who runs it now is in `brainreg.records.driver`, on which data in `brainreg.data.fingerprints`.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from brainreg.errors import InputError
from brainreg.storage import Storage


def read_begun(folder: Storage, file: str, needed: Collection[str] = (), anew: str = "") -> dict[str, Any] | None:
    """Return what the file of something that was begun says of it; None where it was not.

    Args:
        folder, file: where it is.
        needed: keys that it must have.
        anew: how to begin anew, where the file is damaged.

    Raises:
        InputError: it is damaged, or of another version.
    """
    content = folder.read(file)
    if content is None:
        return None
    try:
        begun = json.loads(content)
        if not isinstance(begun, dict):
            raise ValueError("it is no mapping")
        if missing := {*needed} - begun.keys():
            raise ValueError(f"{', '.join(sorted(missing))}: missing, as in another version's")
    except ValueError as error:
        raise damaged(folder, file, error, anew) from error
    return begun


def damaged(folder: Storage, file: str, reason: object, anew: str = "") -> InputError:
    """Return the error that a file cannot be gone on with; `anew` as for `read_begun`."""
    return InputError(f"{folder.path(file)}: damaged ({reason})" + (f"; {anew}" if anew else ""))


def write_begun(folder: Storage, file: str, content: Mapping[str, Any]) -> None:
    """Write what was begun; whole, or not at all."""
    folder.write(file, json.dumps(content, indent=2) + "\n")


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The keys in which two nested mappings differ, dotted, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new


def format_value(value: Any) -> str:
    """Return a value of a flag as it is typed."""
    if isinstance(value, list | tuple):
        return ",".join(map(format_value, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
