"""Space files: found by name, extended, merged, checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from brainreg._utils.package import SPACES
from brainreg._utils.paths import expand_home
from brainreg.errors import InputError, nearest, validated
from brainreg.spaces.space import Space

SPACES_FOLDER = SPACES
_VARIANTS = "variants"  # folder of what a variant changes in any space
_NARROW = "narrow"


class _Loader(yaml.SafeLoader):
    """YAML in which no key comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.YAMLError(f"the key {twice} comes twice")
        return mapping


def space_names() -> list[str]:
    """Return the names of the spaces that come with the project."""
    return sorted(path.stem for path in SPACES_FOLDER.glob("*.yaml"))


def narrow_names() -> list[str]:
    """Return the names of the small versions of spaces, with the `narrow/` before them."""
    return sorted(f"{_NARROW}/{path.stem}" for path in (SPACES_FOLDER / _NARROW).glob("*.yaml"))


def variant_names() -> list[str]:
    """Return the variants that every space has: `SPACE_VARIANT` is a space too, without a file of its own."""
    return sorted(path.stem for path in (SPACES_FOLDER / _VARIANTS).glob("*.yaml"))


def load_space(name: str | Path) -> Space:
    """Load a space by its name in `search_spaces/`, by that name and a variant's, or by the path of its file.

    A file may extend others: `extends: NAME`, or a list of names, takes their content, and what comes later, at
    last the file itself, replaces it, key by key (a key set to null is removed).

    Raises:
        InputError: no such space, or a file that says something wrong; the line names the file and all such keys.
    """
    source = _find(name)
    content = _read(source, ()) if isinstance(source, Path) else _variant(str(name), *source)
    own = source.stem if isinstance(source, Path) else name
    where = source if isinstance(source, Path) else f"space={name}"
    return validated(Space, {"name": own, **_without_nulls(content)}, where=f"{where}: ")


def _find(name: str | Path) -> Path | tuple[str, str]:
    """The file of a space, or the name of another space and of its variant."""
    own = SPACES_FOLDER / f"{name}.yaml"
    if own.is_file():
        return own
    if (path := Path(expand_home(name))).is_file():
        return path
    for variant in sorted(variant_names(), key=len, reverse=True):
        space = str(name).removesuffix(f"_{variant}")
        if space != str(name) and (SPACES_FOLDER / f"{space}.yaml").is_file():
            return space, variant
    raise InputError(f"space={name}: no such space, and no such file; {nearest(str(name), space_names())}")


def _variant(name: str, space: str, variant: str) -> dict[str, Any]:
    content = _extended([space, f"{_VARIANTS}/{variant}"], ())
    for key in content.get("fixed") or {}:  # what the variant fixes is not searched
        if key in (content.get("search") or {}) and content["fixed"][key] is not None:
            content["search"] = {name: one for name, one in content["search"].items() if name != key}
    return {**content, "description": f"{content['description']} ({variant.replace('_', ' ')})"}


def _extended(names: list[str], extended: tuple[Path, ...]) -> dict[str, Any]:
    """The content of several spaces, merged in their order."""
    content: dict[str, Any] = {}
    for name in names:
        source = _find(name)
        part = _read(source, extended) if isinstance(source, Path) else _variant(name, *source)
        content = _merge(content, part)
    return content


def _read(path: Path, extended: tuple[Path, ...]) -> dict[str, Any]:
    if path in extended:
        raise InputError(f"{path}: extends={path.stem}: extends itself")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # safe: it is a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise InputError(f"{path}: must be a mapping with the keys {', '.join(Space.model_fields)}")
    bases = content.pop("extends", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        raise InputError(f"{path}: extends={bases}: must be the name of a space, or a list of names")
    for base in bases:
        try:
            _find(base)
        except InputError as error:
            raise InputError(f"{path}: extends={str(error).removeprefix('space=')}") from error
    return _merge(_extended(bases, (*extended, path)), content)


def _merge(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """One content over another; what is null stays so, since a part of a space may be merged into another one."""
    merged = dict(base)
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and not _is_distribution(value):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _without_nulls(content: dict[str, Any]) -> dict[str, Any]:
    """A content without the keys that are null."""
    known = {key: value for key, value in content.items() if value is not None}
    return {key: _without_nulls(value) if isinstance(value, dict) else value for key, value in known.items()}


def _is_distribution(value: dict[str, Any]) -> bool:
    return bool({"choices", "low"} & value.keys())
