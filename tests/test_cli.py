import shlex
import sys

import pytest

from brainreg.cli import Parser, from_flags, given_values, run, to_flags, train_command
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters


def parse(line: str):
    parser = Parser("a test")
    parser.add_flags(Hyperparameters, "hyperparameters")
    parser.add_flag("max-concurrent")
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


def test_own_defaults_give_way_to_flags():
    assert from_flags(Hyperparameters, parse("--lr=1"), lr=2, epoch_num=3) == Hyperparameters(lr=1, epoch_num=3)


def test_both_spellings_of_a_flag_of_its_own():
    assert parse("--max-concurrent=3").max_concurrent == parse("--max_concurrent=3").max_concurrent == "3"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--reg_alhpa=1", "--reg_alhpa: no such flag; did you mean --reg_alpha"),
        ("--zzzzzz", "--zzzzzz: no such flag; see --help"),
        ("--reg_alpha", "argument --reg_alpha/--reg-alpha: expected one argument"),
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
        run(main)
    assert caught.value.code == status
    assert capsys.readouterr().err == text


def test_help_shows_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"--{name}" in shown for name in Hyperparameters.model_fields)
    assert "alpha, weight of the similarity loss; absent or 0: no regularization (default: None)" in shown


def test_train_command_says_what_is_not_the_default(tmp_path, monkeypatch):
    settings = Hyperparameters(task="digits", reg_alpha=2)
    command = "python train.py --task=digits --reg_alpha=2.0"
    monkeypatch.chdir(tmp_path)  # which holds no Python
    assert train_command(settings, None) == command
    assert train_command(settings, 1, "data") == f"{command} --threads=1"
    assert train_command(settings, 2, "my images") == f"{command} --threads=2 --data_dir='my images'"
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert train_command(settings, None) == f".venv/bin/{command}"
