"""search.json: what is searched, with which versions and which data."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from brainreg.errors import InputError, Model, validated
from brainreg.records.resume import damaged, read_begun, write_begun
from brainreg.storage import Storage

MANIFEST = "search.json"
FORMAT = 4

# Formats of earlier versions that can be read. 2 has no fingerprints of data; up to 3, each trial is a setting of its
# own, run with the seed of the search.
_EARLIER = (2, 3)


def write_manifest(search: Storage, content: dict[str, Any]) -> None:
    """Write what is searched, and with which versions: the first file of a search's folder."""
    write_begun(search, MANIFEST, {"format": FORMAT, **content})


class FormatError(InputError):
    """A search was written by another version of this project.

    Attributes:
        manifest: what it says of itself.
    """

    def __init__(self, text: str, manifest: dict[str, Any]):
        super().__init__(text)
        self.manifest = manifest


def read_manifest(search: Storage, needed: Collection[str] = ()) -> dict[str, Any]:
    """Return what is searched: the space, the strategy, the options, the versions, and the data's fingerprints.

    Args:
        search: the folder.
        needed: keys without which nothing can go on, beside the space.

    Raises:
        InputError: `search` holds no search of this project, or one of another format (`FormatError`).
    """
    manifest = read_begun(search, MANIFEST)
    if manifest is None:
        raise InputError(f"{search}: not the folder of a search; {MANIFEST} is missing")
    if manifest.get("format") not in (FORMAT, *_EARLIER):
        raise FormatError(
            f"{search.path(MANIFEST)}: written in format {manifest.get('format')}; this version reads format {FORMAT}",
            manifest,
        )
    if not isinstance(manifest.get("space"), dict) or "objective" not in manifest["space"]:
        raise damaged(search, MANIFEST, "it does not say what is searched")
    if missing := {*needed} - manifest.keys():
        raise damaged(search, MANIFEST, f"{', '.join(sorted(missing))}: missing")
    return manifest


def read_part(model: type[Model], search: Storage, manifest: Mapping[str, Any], key: str) -> Model:
    """Return one part of what a search's manifest says: its space, say.

    Args:
        model: what it is read as.
        search: the folder.
        manifest: of it.
        key: of the part.

    Raises:
        InputError: the part is damaged, or of another version; all that is wrong, in one line.
    """
    part = manifest.get(key)
    if not isinstance(part, Mapping):
        raise damaged(search, MANIFEST, f"{key} is {'missing' if part is None else 'no mapping'}")
    return validated(model, part, spell=lambda name: f"{key}.{name}", where=f"{search.path(MANIFEST)}: ")


def trials_asked(manifest: Mapping[str, Any]) -> int | None:
    """Return how many trials a search has: as many as it was asked for, or as it had when another limit ended it.

    None where time ends it, and has not yet.
    """
    if "ended" in manifest:
        return manifest["ended"]["trials"]
    options = manifest.get("options", {})
    timed = options.get("minutes") is not None or options.get("gpu_hours") is not None
    return None if timed and options.get("num_samples") is None else manifest["num_samples"]


def search_id(manifest: Mapping[str, Any]) -> str:
    """Return what tells a search from every other one: its own id, or what stands for it in an earlier version."""
    if "id" in manifest:
        return str(manifest["id"])
    return json.dumps([manifest.get("started"), manifest["space"]], sort_keys=True)
