import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from brainreg._utils.flags import Parser, from_flags, given_values, run_command, to_flags, train_command
from brainreg.confirmation.settings import Extent, TestEvaluation
from brainreg.errors import InputError, checked_value
from brainreg.evaluation.settings import Evaluation
from brainreg.hyperparameters import Hyperparameters
from brainreg.reproduction.settings import Reproduction
from brainreg.search.options import SearchOptions
from brainreg.search.strategy import Strategy
from brainreg.spaces.files import load_space
from brainreg.storage import Storage


def parse(line: str):
    parser = Parser("a test")
    parser.add_flags(Hyperparameters, "hyperparameters")
    parser.add_flag("max-concurrent")
    parser.add_flag("save_dir")
    return parser.parse_args(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("", {}),
        ("--reg_alpha=10 --reg_thresh=0.8", {"reg_alpha": 10.0, "reg_thresh": 0.8}),
        ("--reg-alpha 10 --reg-thresh 0.8", {"reg_alpha": 10.0, "reg_thresh": 0.8}),
        ("--rgb=True", {"rgb": True}),
        ("--rgb", {"rgb": True}),
        ("--rgb=False", {"rgb": False}),
        ("--no-reg_boosting", {"reg_boosting": False}),
        ("--no-reg-boosting", {"reg_boosting": False}),
        ("--arctanh=False", {"arctanh": False}),
        ("--reg_data=None", {"reg_data": None}),
        ("--lr=1e-2", {"lr": 0.01}),
    ],
)
def test_flags_are_spelled_as_published_or_with_dashes(line, values):
    assert given_values(Hyperparameters, parse(line)) == values
    assert from_flags(Hyperparameters, parse(line)) == Hyperparameters(**values)


@pytest.mark.parametrize(
    ("model", "line", "values"),
    [
        (SearchOptions, "--log=mlflow", {"log": ("mlflow",)}),
        (SearchOptions, "--log=mlflow,wandb", {"log": ("mlflow", "wandb")}),
        (Evaluation, "--attacks=noise,pgd", {"attacks": ("noise", "pgd")}),
        (Evaluation, "--eps=0.2,0.1", {"eps": (0.1, 0.2)}),
        (Evaluation, "--noise_eps=0.2", {"noise_eps": (0.2,)}),
        (TestEvaluation, "--eps=0.1", {"eps": (0.1,)}),
    ],
)
def test_several_values_are_separated_by_commas(model, line, values):
    parser = Parser("a test")
    parser.add_flags(model, "a group")
    assert given_values(model, parser.parse_args(shlex.split(line))) == values


def test_every_field_of_several_values_takes_a_flag():
    found = []
    for model in (Hyperparameters, SearchOptions, Strategy, Evaluation, Extent, TestEvaluation, Reproduction):
        for name, field in model.model_fields.items():
            if "tuple[" in str(field.annotation):
                found.append(name)
                with pytest.raises(InputError, match=rf"^--{name}=no,such: (?!must be a list)"):
                    checked_value(model, name, "no,such", where=f"--{name}")
    assert {"log", "attacks", "eps", "noise_eps"} <= {*found}


def test_own_defaults_give_way_to_flags():
    assert from_flags(Hyperparameters, parse("--lr=1"), lr=2, epoch_num=3) == Hyperparameters(lr=1, epoch_num=3)


def test_both_spellings_of_a_flag_of_its_own():
    assert parse("--max-concurrent=3").max_concurrent == parse("--max_concurrent=3").max_concurrent == "3"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--reg_alhpa=1", "--reg_alhpa: no such flag; did you mean --reg_alpha"),
        ("--zzzzzz", "--zzzzzz: no such flag; --help lists them all"),
        ("--reg_alpha", "--reg_alpha: its value is missing; give --reg_alpha=VALUE"),
        ("--reg_alpha=x", "--reg_alpha=x: must be a number"),
        ("--reg_alpha=nan", "--reg_alpha=nan: must be a finite number"),
    ],
)
def test_wrong_flags_are_one_line(line, message):
    with pytest.raises(InputError) as caught:
        from_flags(Hyperparameters, parse(line))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_settings_come_back_from_their_flags():
    settings = Hyperparameters(reg_alpha=0.1 + 0.2, rgb=True, arctanh=False, task=".", valid_portion=0.1)
    assert from_flags(Hyperparameters, parse(to_flags(settings))) == settings
    assert to_flags(Hyperparameters()) == ""


def test_flags_with_spaces_are_quoted(tmp_path):
    folder = tmp_path / "my images"
    folder.mkdir()
    settings = Hyperparameters(task=str(folder))
    assert from_flags(Hyperparameters, parse(to_flags(settings))) == settings


@pytest.mark.parametrize(
    ("raised", "status", "text"),
    [
        (InputError("--a=1: must be 2"), 2, "error: --a=1: must be 2\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (None, 0, ""),
    ],
)
def test_exit_status(raised, status, text, capsys):
    def main(arguments):
        if raised is not None:
            raise raised
        return 0

    with pytest.raises(SystemExit) as caught:
        run_command(main)
    assert caught.value.code == status
    assert capsys.readouterr().err == text


def test_help_shows_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help-all")
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"--{name}" in shown for name in Hyperparameters.model_fields)
    assert "(default: 0.9)" in shown and "absent or 0: no regularization --" in shown


def test_the_short_help_fits_a_screen_and_names_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    words = {word for line in lines for word in line.split()}
    assert all(f"--{name}" in words for name in Hyperparameters.model_fields)


def test_a_default_that_the_description_tells_is_not_told_again():
    parser = Parser("")
    parser.add_flags(SearchOptions, "the search")
    shown = " ".join(parser.format_help().split())
    assert "(absent:" in shown and not re.search(r"\(absent:[^)]*\) \(default: None\)", shown)


def test_train_command_says_what_is_not_the_default(tmp_path, monkeypatch):
    settings = Hyperparameters(task="digits", reg_alpha=2)
    command = "python -m brainreg train --task=digits --reg_alpha=2.0"
    monkeypatch.chdir(tmp_path)  # which holds no Python
    assert train_command(settings, None) == command
    assert train_command(settings, 1, "data") == f"{command} --threads=1"
    assert train_command(settings, 2, "my images") == f"{command} --threads=2 --data_dir='my images'"
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert train_command(settings, None) == f".venv/bin/{command}"


class TestHome:
    """The shell leaves a `~` after `=` as it is."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "images").mkdir()
        return tmp_path

    def test_it_is_expanded_in_every_flag(self, home):
        parser = Parser("a test")
        parser.add_argument("experiments", nargs="*")
        for flag in ("save_dir", "data_dir", "checkpoint"):
            parser.add_flag(flag)
        parser.add_flags(Hyperparameters, "hyperparameters")
        line = "~/a ~ a~b --save_dir=~/runs --data_dir ~/data --checkpoint=a~b --task=~/images --reg_data=~/images"
        flags = parser.parse_args(shlex.split(line))
        assert flags.experiments == [str(home / "a"), str(home), "a~b"]
        assert (flags.save_dir, flags.data_dir, flags.checkpoint) == (str(home / "runs"), str(home / "data"), "a~b")
        settings = from_flags(Hyperparameters, flags)
        assert settings.task == settings.reg_data == str(home / "images")

    def test_of_nobody_is_one_line(self):
        with pytest.raises(InputError, match=r"^--save_dir=~nobody-of-this-name/a: .* ~nobody-of-this-name;"):
            parse("--save_dir=~nobody-of-this-name/a")

    def test_in_python_and_in_space_files(self, home):
        assert Hyperparameters(task="~/images").task == str(home / "images")
        assert Storage("~/a").uri == Storage(home / "a").uri
        (home / "own.yaml").write_text("extends: digits_double\ntask: ~/images\nreg_data: ~/images\n")
        assert load_space("~/own.yaml").task == str(home / "images")


# A command that prints what ASCII has not, then much, and then does its work.
COMMAND = """
import sys
from pathlib import Path
from rich.console import Console
from brainreg._utils.flags import run_command as run

def main(arguments):
    print("accuracy 0.5 ± 0.1 of α", "\\udcff")
    Console(width=120).print("table — ±")
    for number in range(20000):
        print(number)
    Path(arguments[0]).write_text("done")
    return 0

run(main)
"""


class TestStandardOutput:
    def start(self, path, encoding="utf-8", **streams):
        return subprocess.run(
            [sys.executable, "-c", COMMAND, str(path)], cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": encoding},
            stderr=subprocess.PIPE, **streams,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("encoding", "line"),
        [
            ("utf-8", "accuracy 0.5 ± 0.1 of α"),
            ("latin-1", "accuracy 0.5 ± 0.1 of alpha"),
            ("ascii", "accuracy 0.5 +- 0.1 of alpha"),
        ],
    )
    def test_of_any_encoding_shows_the_numbers(self, tmp_path, encoding, line):
        done = self.start(tmp_path / "work", encoding, stdout=subprocess.PIPE)
        assert done.returncode == 0 and not done.stderr
        assert done.stdout.decode(encoding).splitlines()[0].startswith(line)

    def test_may_lose_its_reader(self, tmp_path):
        command = f"{shlex.quote(sys.executable)} -c {shlex.quote(COMMAND)} work | head -1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
        )
        assert done.returncode == 0 and not done.stderr
        assert (tmp_path / "work").read_text() == "done"

    def test_may_be_full(self, tmp_path):
        with open("/dev/full", "w") as full:
            done = self.start(tmp_path / "work", stdout=full)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and b"No space left" in done.stderr
        assert (tmp_path / "work").read_text() == "done"

    def test_may_be_closed(self, tmp_path):
        command = f"{shlex.quote(sys.executable)} -c {shlex.quote(COMMAND)} work >&-"
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
        )
        assert done.returncode == 0 and not done.stderr
        assert (tmp_path / "work").read_text() == "done"
