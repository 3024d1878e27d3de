"""Flags that are derived from pydantic models, errors of one line, and output that any terminal takes."""

import argparse
import codecs
import io
import logging
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Annotated, Any, Final, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from brainreg._utils.commands import python_name
from brainreg._utils.machine import cpu_cores
from brainreg._utils.paths import expand_home
from brainreg.errors import InputError, Model, checked_value, nearest, validated

# Where data sets are looked for, unless `--data_dir` says otherwise.
DATA_DIR = "data"

# Where searches have their folders, unless `--storage_path` says otherwise.
RESULTS_DIR = "results"

_MOST_THREADS = 1024


def _split(value: Any) -> Any:
    """A flag's text, `a,b`, as what it lists."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


# Marks a field of several values: its flag takes them separated by commas.
COMMA_SEPARATED: Final = BeforeValidator(_split)


class _ShortHelp(argparse.Action):
    """Shows the help that fits a screen."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> NoReturn:
        assert isinstance(parser, Parser)
        parser._print_message(parser.short_help(), sys.stdout)
        parser.exit()


class _Described(Exception):
    """A command has said what its flags are."""


_described: ContextVar["list[Parser] | None"] = ContextVar("_described", default=None)


def parser_of(main: Callable[[Sequence[str]], int]) -> "Parser":
    """Return the parser of a command, which is not run further than that."""
    parsers: list[Parser] = []
    token = _described.set(parsers)
    try:
        main(["NAME"])
    except _Described:
        return parsers[0]
    finally:
        _described.reset(token)
    raise TypeError(f"{main}: has no parser")


class Parser(argparse.ArgumentParser):
    """An argument parser whose every flag is written with underscores or dashes, and whose errors are one line.

    `--help` fits a screen: it says what the command's own flags mean, and names those of each group. `--help-all` says
    what all of them mean.
    """

    def __init__(self, description: str):
        super().__init__(
            description=description,
            usage="%(prog)s [FLAGS]",
            allow_abbrev=False,
            add_help=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100),
        )
        self._of_models: list[argparse._ArgumentGroup] = []
        self.add_argument("-h", "--help", action=_ShortHelp, nargs=0, help="show this and exit")
        self.add_argument("--help-all", action="help", help="show what every flag means, and exit")

    def add_flag(self, name: str, **options: Any) -> None:
        """Add `--name`, also spelled with the other separator."""
        self._add(self, [f"--{name}"], dest=name.replace("-", "_"), **options)

    def _add(self, own: argparse._ActionsContainer, spellings: Sequence[str], **options: Any) -> None:
        """Add a flag; what its spellings are with the other separator is understood, and not shown."""
        action = own.add_argument(*spellings, **options)
        for spelling in spellings:
            rest = spelling.removeprefix("--")
            for other in (f"--{rest.replace('_', '-')}", f"--{rest.replace('-', '_')}"):
                self._option_string_actions.setdefault(other, action)

    def short_help(self) -> str:
        """Return what `--help` shows."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        for group in self._action_groups:
            if group not in self._of_models:
                formatter.start_section(group.title)
                formatter.add_arguments(group._group_actions)
                formatter.end_section()
        lines = [formatter.format_help().rstrip(), ""]
        if self._of_models:
            lines.append("more flags, which --help-all explains:")
        for group in self._of_models:
            shown = [one for one in group._group_actions if one.help != argparse.SUPPRESS]
            names = " ".join(one.option_strings[0] for one in shown)
            lines += textwrap.wrap(f"{group.title}: {names}", 98, initial_indent="  ", subsequent_indent="    ",
                                   break_on_hyphens=False)  # fmt: skip
        return "\n".join(lines).rstrip() + "\n"

    def add_flags(
        self, model: type[BaseModel], title: str, skip: Sequence[str] = (), default: str | None = None
    ) -> None:
        """Add a flag for each field of `model`; a flag that is not given is left out of the parsed values.

        Args:
            title: of the group of flags in the help.
            skip: fields without a flag.
            default: what the help calls the default of all of them, where it is not the field's own.
        """
        own = self.add_argument_group(title)
        self._of_models.append(own)
        for name, field in model.model_fields.items():
            if name in skip:
                continue
            options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "metavar": _metavar(field)}
            if field.annotation is bool:
                self._add(own, [f"--{name}"], nargs="?", const="True", help=_help(field, default), **options)
                options.pop("metavar")
                negated = {"action": "store_const", "const": "False", "help": argparse.SUPPRESS}
                self._add(own, [f"--no-{name}"], **negated, **options)
            else:
                self._add(own, [f"--{name}"], help=_help(field, default), **options)

    def parse_known_args(  # type: ignore[override]  # argparse's own is generic in the namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> Any:
        """Parse, unless `parser_of` asks; a `~` at the start of a value is the home folder, in every flag: the shell
        leaves it after `=`.
        """
        if (parsers := _described.get()) is not None:
            parsers.append(self)
            raise _Described
        flags, rest = super().parse_known_args(args, namespace)
        for name, value in vars(flags).items():
            try:
                if isinstance(value, str):
                    setattr(flags, name, expand_home(value))
                elif isinstance(value, list):
                    setattr(flags, name, [expand_home(one) if isinstance(one, str) else one for one in value])
            except InputError as error:
                raise InputError(f"--{name}={error}") from error
        return flags, rest

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = unknown.split()[0].split("=")[0]
            known = [name for name in self._option_string_actions if name.startswith("--")]
            message = f"{flag}: no such flag; {nearest(flag, known).split('known:')[0]}--help lists them all"
        if message.endswith(": expected one argument"):
            flag = message.removeprefix("argument ").removesuffix(": expected one argument")
            message = f"{flag}: its value is missing; give {flag}=VALUE"
        raise InputError(message)


def given_values(model: type[Model], flags: argparse.Namespace) -> dict[str, Any]:
    """Return the values of those fields of `model` whose flags were given, checked and in their own types."""
    given = {name: value for name, value in vars(flags).items() if name in model.model_fields}
    for name, value in given.items():
        if value in ("None", "none") and value not in _choices(model.model_fields[name]):
            given[name] = None
    return {name: checked_value(model, name, value, where=f"--{name}") for name, value in given.items()}


def from_flags(model: type[Model], flags: argparse.Namespace, **others: Any) -> Model:
    """Return the model that the flags describe, with `others` for defaults of its own."""
    return validated(model, {**others, **given_values(model, flags)}, spell=lambda key: f"--{key}")


# Packages that a plain installation lacks, and the extra that brings each.
_EXTRAS = {
    **dict.fromkeys(("pyautoattack", "foolbox", "imagecorruptions"), "attacks"),
    **dict.fromkeys(("ray", "optuna", "sqlalchemy"), "search"),
    **dict.fromkeys(
        ("matplotlib", "altair", "vl_convert", "papermill", "nbclient", "nbformat", "ipykernel"), "analysis"
    ),
    **dict.fromkeys(("safetensors", "onnx", "onnxruntime", "onnxscript"), "export"),
    **dict.fromkeys(("mlflow", "wandb"), "trackers"),
    "timm": "timm",
}


def run_command(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a command line: exit with its status, or with one line and status 2 where the input is unusable.

    What standard output cannot show is shown by its code, and who reads it may go (`| head`): the work goes on.
    """
    for stream in ("stdout", "stderr"):
        setattr(sys, stream, _Output.instead_of(getattr(sys, stream)))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        status = main(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        install = f"{python_name()} -m pip install 'brainreg[{_EXTRAS[package]}]'"
        print(f"error: {package}: missing; install it with {install}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.stdout.flush()
    sys.exit(status or int(getattr(sys.stdout, "lost", False)))


_PLAIN = {"±": "+-", "α": "alpha", "…": "...", "’": "'"}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """How a stream shows what its encoding has not: in ASCII, or by its code."""
    assert isinstance(error, UnicodeEncodeError)
    shown = (
        _PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode()
        for one in error.object[error.start : error.end]
    )
    return "".join(shown), error.end


codecs.register_error("plain", _plain)


class _Output(io.TextIOWrapper):
    """A standard stream whose errors end no run: the numbers are in files, too. `lost`: not all could be written."""

    lost = False

    @classmethod
    def instead_of(cls, stream: Any) -> Any:
        if stream is None:  # closed, as by `>&-`
            return open(os.devnull, "w", encoding="utf-8", errors="replace")
        if stream not in (sys.__stdout__, sys.__stderr__):  # another program's, which must know itself
            return stream
        line_buffering = stream.line_buffering or stream is sys.__stderr__
        return cls(stream.buffer, stream.encoding, "plain", line_buffering=line_buffering)

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Send all that is still to come to nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError) and self.fileno() == 1:
            self.lost = True
            print(f"warning: standard output cannot be written to ({error.strerror})", file=sys.stderr)


def to_flags(model: BaseModel) -> str:
    """Return the flags that give `model`, those of its defaults left out, in the order of its fields."""
    values = model.model_dump()
    changed = [name for name, field in type(model).model_fields.items() if values[name] != field.default]
    return " ".join(f"--{name}={shlex.quote(str(values[name]))}" for name in changed)


def train_command(settings: BaseModel, threads: int | None, data_dir: str = DATA_DIR) -> str:
    """Return the command that trains a setting again, to the same numbers on a CPU of the same kind, and evaluates it.

    Args:
        settings: the hyperparameters.
        threads: of the CPU that it was trained on; None on a GPU.
        data_dir: folder of the data sets.
    """
    parts = [f"{shlex.quote(python_name())} -m brainreg train", to_flags(settings)]
    if threads is not None:
        parts.append(f"--threads={threads}")
    if data_dir != DATA_DIR:
        parts.append(f"--data_dir={shlex.quote(data_dir)}")
    return " ".join(parts)


def use_threads(threads: str | None) -> None:
    """Let PyTorch use so many CPU threads, or, without the flag `--threads`, as many as there are cores for it."""
    import torch  # takes seconds, and the help of most commands needs none

    if threads is None:
        # PyTorch's own number takes a container's quota of CPU time for no limit.
        return torch.set_num_threads(min(torch.get_num_threads(), cpu_cores()))
    if not (threads.isdecimal() and 0 < int(threads) <= _MOST_THREADS):
        raise InputError(f"--threads={threads}: must be a whole number from 1 to {_MOST_THREADS}")
    torch.set_num_threads(int(threads))


def _choices(field: FieldInfo) -> tuple[str, ...]:
    kinds = get_args(field.annotation)
    if _numbers_or_names(field):
        return ()
    choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), kinds)  # of Literal[...] | None
    return choices if all(isinstance(choice, str) for choice in choices) else ()


def _numbers_or_names(field: FieldInfo) -> bool:
    """Whether a field takes a number, which is annotated, or one of some names."""
    kinds = [get_origin(kind) for kind in get_args(field.annotation)]
    return Annotated in kinds and Literal in kinds


def _metavar(field: FieldInfo) -> str:
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    if _numbers_or_names(field):
        return "|".join(["NUMBER", *(name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind))])
    if get_origin(kinds[0]) is tuple or get_origin(field.annotation) is tuple:
        return "A,B,..."
    if _choices(field):
        return "NAME"
    return {bool: "True|False", int: "INT", float: "FLOAT"}.get(kinds[0], "NAME")


def _help(field: FieldInfo, default: str | None) -> str:
    choices = f": {', '.join(_choices(field))}" if _choices(field) else ""
    own = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    is_told = own is None and "absent" in (field.description or "")
    told = "" if is_told or own == "" else f" (default: {default or own})"
    return f"{field.description}{choices}{told}".replace("%", "%%")
