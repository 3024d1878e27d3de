"""The one kind of error that a user can mend: the command lines print it as one line and exit with 2."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class InputError(ValueError):
    """Unusable input. Its text is one line: what was given, its value, and what would be right."""

    def __init__(self, text: str):
        super().__init__("\\n".join(text.splitlines()))  # a file's name may hold line breaks


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind where it has none."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what a message about an unknown `name` ends with: the nearest known names, then all of them.

    >>> nearest("hgh", ["all", "high", "low"])
    'did you mean high? known: all, high, low'
    """
    known = list(known)
    lower = {candidate.lower(): candidate for candidate in known}
    close = [lower[match] for match in difflib.get_close_matches(str(name).lower(), lower, n=2, cutoff=0.6)]
    guess = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{guess}known: {', '.join(known)}"


class Faults(ValueError):
    """All that a pydantic validator finds wrong with a mapping. Each line begins with a key of the mapping."""

    def __init__(self, lines: Iterable[str]):
        self.lines = tuple(lines)
        super().__init__("; ".join(self.lines))


def validated(
    model: type[Model], values: Mapping[str, Any], spell: Callable[[str], str] = str, where: str = ""
) -> Model:
    """Return `model(**values)`.

    Args:
        model: the pydantic model.
        values: its fields.
        spell: how a dotted key is written where the values came from, say `--reg_alpha` for `reg_alpha`.
        where: what the line begins with, say the file that the values came from.

    Raises:
        InputError: all that is wrong, in one line.
    """
    try:
        return model(**values)
    except ValidationError as error:
        found = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        misspelt = [one["loc"] for one in found if one["type"] == "extra_forbidden"]
        lines = [
            spell(line)
            for one in found
            if not (one["type"] == "missing" and any(_is_meant(one["loc"], other) for other in misspelt))
            for line in _lines(one, model)
        ]
        raise InputError(f"{where}{'; '.join(dict.fromkeys(lines))}") from error


def _is_meant(missing: tuple[int | str, ...], misspelt: tuple[int | str, ...]) -> bool:
    """Whether a key that is missing is there under a name that is nearly right."""
    names = str(misspelt[-1]).lower(), [str(missing[-1]).lower()]
    return missing[:-1] == misspelt[:-1] and bool(difflib.get_close_matches(*names, cutoff=0.6))


def checked_value(model: type[BaseModel], name: str, value: Any, where: str) -> Any:
    """Return a value of one field of `model`, in the field's type and within its bounds.

    Args:
        where: what the value is called where it came from, say `--reg_alpha`.

    Raises:
        InputError: what is wrong with it, in one line.
    """
    field = model.model_fields[name]
    adapter: TypeAdapter[Any] = TypeAdapter(
        Annotated[field.annotation, field],  # type: ignore[arg-type]  # a type that is known when it runs
        config=ConfigDict(allow_inf_nan=False),
    )
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise InputError(f"{where}={value}: {_rule_of_all(error.errors())}") from error


def _lines(error: Mapping[str, Any], model: type[BaseModel]) -> list[str]:
    """What pydantic found wrong in one place, in lines that begin with a dotted key."""
    path = error["loc"]
    key = ".".join(map(str, path))
    if error["type"] == "extra_forbidden":
        return [f"{key}: no such key; {nearest(str(path[-1]), _known_keys(model, path[:-1]))}"]
    if error["type"] == "missing":
        return [f"{key}: missing"]
    # A check of several values names them itself.
    if error["type"] == "value_error" and isinstance(error["input"], Mapping):
        cause = error["ctx"]["error"]
        lines = cause.lines if isinstance(cause, Faults) else [rule(error)]
        return [".".join([*map(str, path), line]) for line in lines]
    return [f"{key}={error['input']}: {rule(error)}"]


def _rule_of_all(found: Sequence[Mapping[str, Any]]) -> str:
    """What would be right of a value that may be a number or a word, of which pydantic finds both wrong."""
    first = rule(found[0])
    words = [one["ctx"]["expected"].replace("'", "") for one in found if one["type"] == "literal_error"]
    return f"{first} or {words[0]}" if found[0]["type"] == "float_parsing" and words else first


def rule(error: Mapping[str, Any]) -> str:
    """Return what would be right where pydantic found one error, an item of `ValidationError.errors()`."""
    context = error.get("ctx", {})
    if error["type"] == "value_error":
        return str(context["error"]).removeprefix(f"{error['input']}: ")
    if error["type"] == "literal_error":
        known = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return f"no such choice; {nearest(str(error['input']), known)}"
    text = {
        "greater_than": "must be greater than {gt:.12g}",
        "greater_than_equal": "must be at least {ge:.12g}",
        "less_than": "must be less than {lt:.12g}",
        "less_than_equal": "must be at most {le:.12g}",
        "finite_number": "must be a finite number",
        "float_parsing": "must be a number",
        "float_type": "must be a number",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "int_type": "must be a whole number",
        "bool_parsing": "must be True or False",
        "bool_type": "must be True or False",
        "dict_type": "must be a mapping",
        "model_type": "must be a mapping",
        "tuple_type": "must be a list",
        "too_short": "must have one value at least",
        "string_type": "must be a text",
    }.get(error["type"])
    return text.format(**context) if text else error["msg"][0].lower() + error["msg"][1:]


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that a mapping at `path` inside `model` may have."""
    annotation: Any = model
    for part in path:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            annotation = annotation.model_fields[str(part)].annotation
        else:  # a mapping of names to models
            annotation = get_args(annotation)[-1]
    return list(annotation.model_fields)
