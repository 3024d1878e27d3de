"""The command line of the search: what it refuses, and one search as a user starts it."""

import os
import re
import shlex
import sqlite3
import subprocess
import sys

import numpy as np
import optuna
import pandas as pd
import pytest
from conftest import ROOT

from brainreg.commands import tune
from brainreg.errors import InputError
from brainreg.records.results import load_results, rank_trials
from brainreg.search import costs as search_costs
from brainreg.search.probe import Timing
from brainreg.spaces.files import load_space, space_names

SPACE = "--space=digits_double"
DRY_RUN = [SPACE, "--dry-run", "--max-concurrent=1"]


@pytest.fixture(autouse=True)
def timed_before(request, monkeypatch):
    """Steps are timed in the test of what it costs, and none in the others, which are about something else."""
    if "shows_the_plan" not in request.node.name:
        timing = Timing(0.03, 1e-4, 3e-4, 170, 360, 10**6)
        monkeypatch.setattr(search_costs, "under_load", lambda *arguments: timing)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "--space: missing; known: cifar100_cifar10, cifar100_cifar100,"),
        ("--space=digits_duble", "space=digits_duble: no such space, and no such file; did you mean digits_double"),
        (f"{SPACE} --sapce=x", "--sapce: no such flag; did you mean --space"),
        (
            f"{SPACE} --task=MNITS",
            "--task=MNITS: no such data set, and no folder of images or .npz file there; did you mean MNIST",
        ),
        (f"{SPACE} --archi=ResNet19", "--archi=ResNet19: no such architecture; did you mean ResNet18"),
        (f"{SPACE} --reg_range=hgh", "--reg_range=hgh: no such choice; did you mean high?"),
        (f"{SPACE} --reg_alpha=-1", "--reg_alpha=-1: must be at least 0"),
        (f"{SPACE} --reg-alpha=nan", "--reg_alpha=nan: must be a finite number"),
        (
            f"{SPACE} --reg_thresh=0.2 --reg_thresh_2=0.2",
            "reg_thresh_2=0.2: must be below reg_thresh, which can be 0.2",
        ),
        (f"{SPACE} --reg_image_num=5000", "reg_image_num=5000: digits has 1078 training images after validation"),
        (
            f"{SPACE} --reg_image_num=4 --reg_batch_size=50",
            "reg_batch_size=50: a step needs as many pairs, and the range",
        ),
        (
            f"{SPACE} --reg_range=high --reg_thresh=0.99 --reg_image_num=20",
            "reg_range=high: selects 0 of the 190 pairs of 20 images at reg_thresh=0.99",
        ),
        (f"{SPACE} --gpus-per-trial=99", "--gpus_per_trial=99: there are"),
        (f"{SPACE} --gpus-per-trial=many", "--gpus_per_trial=many: must be a number or auto"),
        (f"{SPACE} --dashboard-host=203.0.113.7", "--dashboard_host=203.0.113.7: not an address of this machine ("),
        (f"{SPACE} --num-samples=0", "--num_samples=0: must be at least 1"),
        (f"{SPACE} --attack_image_num=361", "attack_image_num=361: there are 360 validation images"),
        (f"{SPACE} --eps=8", "--eps=8: must be at most 1"),
        (f"{SPACE} --objective-weight=1.5", "--objective_weight=1.5: must be at most 1"),
        (f"{SPACE} --noise_weight=0.7", "objective.noise_weight=0.7 and weight=0.5: must add up to at most 1"),
        (f"{SPACE} --noise-weight=0.2 --objective=pareto", "--noise_weight=0.2: with --objective=pareto must be 0: "),
        (f"{SPACE} --task=ImageNet", "task=ImageNet: not found; looked for"),
        ("--space=cifar10_all --data_dir=absent", "task=CIFAR10: not found; looked for absent/"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(line, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        tune.main(shlex.split(line))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_list_of_spaces(capsys):
    assert tune.main(["--list-spaces"]) == 0
    listed, others = capsys.readouterr().out.split("\n\n")
    assert [line.split()[0] for line in listed.splitlines()] == space_names()
    assert all(len(line.split()) > 5 for line in listed.splitlines())
    narrow, variants = (line.split(": ")[1].split(", ") for line in others.splitlines())
    assert "narrow/mnist_mnist" in narrow and {"_ranges", "_adversarial"} <= {*variants}
    for name in (*narrow, *space_names()):
        for variant in variants:
            load_space(f"{name}{variant}")


@pytest.mark.parametrize("space", ["narrow/digits_double", "digits_ranges_noise"])
def test_a_search_without_a_name_is_called_after_its_space(space, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tune.main([f"--space={space}", "--dry-run"]) == 0
    assert re.search(rf"^results: {tmp_path}/results/{space.split('/')[-1]}_20", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("flags", "scheduler"),
    [
        (["--num-samples=19"], "none"),
        (["--num-samples=20"], "asha"),
        (["--num-samples=99", "--scheduler=none"], "none"),
    ],
)
def test_short_searches_stop_no_trial_unless_asked_to(flags, scheduler, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tune.main([*DRY_RUN, *flags]) == 0
    assert f"sampler thompson, scheduler {scheduler}" in capsys.readouterr().out


@pytest.mark.long
def test_dry_run_shows_the_plan_and_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tune.main([*DRY_RUN, "--epoch_num=3", "--seed=7", "--objective-weight=0.2"]) == 0
    shown = capsys.readouterr().out
    assert "searched: reg_thresh_2 0.05 to 0.9, times reg_thresh" in shown
    assert "first: unregularized (reg_alpha 0)" in shown
    assert re.search(r"^fixed: task digits, .*epoch_num 3, .*seed 7", shown, re.MULTILINE)
    assert "objective: 0.2 clean + 0.8 robust; AutoAttack custom" in shown
    assert re.search(r"^cost: 14 trials in \d+m\d\ds to .*, up to \d+ MB, by a few steps on ", shown, re.MULTILINE)
    assert shown.splitlines()[-1] == "nothing was started (--dry-run)"
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_was_begun_goes_on_and_another_one_begins(searched, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begun = ["--name=small", f"--storage_path={searched.parent}", "--resume-if-begun", "--dry-run"]
    assert tune.main([*begun, "--max-concurrent=1", "--num-samples=12"]) == 0
    assert "\ncost: 3 trials in " in capsys.readouterr().out  # nine have ended
    assert tune.main([*DRY_RUN, "--name=new", "--resume-if-begun"]) == 0
    assert "\ncost: 14 trials in " in capsys.readouterr().out
    with pytest.raises(InputError, match="--resume_if_begun: names no search; give --name"):
        tune.main([*DRY_RUN, "--resume-if-begun"])


def test_dry_run_makes_no_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tune.main([*DRY_RUN, f"--study=sqlite:///{tmp_path}/study.db"]) == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"--study=sqlite.*/none is no folder that can be written to"):
        tune.main([*DRY_RUN, f"--study=sqlite:///{tmp_path}/none/study.db"])


def test_dry_run_leaves_a_database_as_it_is(tmp_path, monkeypatch):
    """One of another program, an empty one, and one with studies, whose name is refused all the same."""
    monkeypatch.chdir(tmp_path)
    for name, table in (("mine", "CREATE TABLE pages (n INTEGER)"), ("empty", "")):
        with sqlite3.connect(tmp_path / f"{name} #1.db") as database:
            database.execute(table)
    optuna.create_study(study_name="taken", storage=f"sqlite:///{tmp_path}/studies.db")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for url in (*(f"sqlite:///{tmp_path}/{name}.db" for name in ("mine #1", "empty #1", "studies")), "sqlite://"):
        assert tune.main([*DRY_RUN, "--name=new", f"--study={url}"]) == 0
    with pytest.raises(InputError, match="already holds a study taken"):
        tune.main([*DRY_RUN, "--name=taken", f"--study=sqlite:///{tmp_path}/studies.db"])
    (tmp_path / "text.db").write_text("no database, but text that is long enough to be taken for one" * 10)
    with pytest.raises(InputError, match="no database answers there"):
        tune.main([*DRY_RUN, f"--study=sqlite:///{tmp_path}/text.db"])
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != "text.db"} == before


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_wrong_flag_ends_the_process_with_status_2():
    ended = command("tune_main.py", SPACE, "--reg_alpha=-1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: --reg_alpha=-1: must be at least 0\n"


@pytest.mark.long
def test_a_search_and_the_command_that_it_ends_with(tmp_path):
    """As a user would: a space file of one's own, a search, its last line."""
    space = tmp_path / "mine.yaml"
    space.write_text(
        "extends: digits_double\ndescription: my own\nobjective: {attack_image_num: 100}\n"
        "budget: {final_attack: {version: custom, attacks: [apgd-ce, square], n_iter: 10, n_queries: 50}}\n"
    )
    ended = command(
        "tune_main.py", f"--space={space}", "--num-samples=3", "--epoch_num=2", "--base_channels=4",
        "--reg_image_num=200", "--final_attack_seconds=1", "--final-attack-batch-size=4", "--name=first",
        f"--storage-path={tmp_path}",
        "--scheduler=none",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    results = load_results(tmp_path / "first")
    assert len(results) == 3 and set(results.state) == {"finished"} and set(results.epoch_num) == {2}
    assert set(results.robust_n) == {100}
    assert "Ray dashboard: http://" in ended.stdout and "ray get-auth-token" in ended.stdout
    assert "AutoAttack custom Linf (apgd-ce, apgd-t; 20 steps, 3 targets), eps 0.1" in ended.stdout
    assert (
        "AutoAttack custom Linf (apgd-ce, square; 10 steps, 50 queries), eps 0.1, for 0m01s on each of" in ended.stdout
    )
    assert re.search(r"on \d+ validation images that the search did not attack", ended.stdout)

    last = ended.stdout.splitlines()[-1].split()
    assert last[0].endswith("python") and last[1:4] == ["-m", "brainreg", "train"]
    trained = command(*last[1:], "--attack=False", f"--save_dir={tmp_path / 'runs'}")
    assert trained.returncode == 0, trained.stderr
    history = pd.read_csv(next((tmp_path / "runs").glob("*/epochs.csv")))
    assert history.valid_cross_entropy.tolist() == [
        epoch["valid_cross_entropy"] for epoch in rank_trials(results).iloc[0].epochs
    ]
    assert "clean accuracy 0." in trained.stdout


@pytest.mark.long
def test_a_search_of_own_images_with_an_own_network(tmp_path):
    """Workers import the module from the folder in which the command was typed, and so does what opens the result."""
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 4
    images = generator.integers(0, 60, (120, 14, 11, 3), dtype=np.uint8)
    images[np.arange(120), 2 + labels * 3] = 255  # a bright row for each class
    np.savez(tmp_path / "rows.npz", images=images, labels=labels)
    (tmp_path / "rows_net.py").write_text(
        "from torch import nn\n\n\ndef build(in_channels, num_classes, image_size):\n"
        "    maps = nn.Sequential(nn.Conv2d(in_channels, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())\n"
        "    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * (-(-image_size // 2)) ** 2, num_classes))\n"
        "    return nn.Sequential(maps, head), ['0']\n"
    )

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        line = [sys.executable, "-m", "brainreg", *arguments]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    ended = run(
        "tune", "--space=digits_double", "--task=rows.npz", "--image-size=11", "--archi=rows_net:build",
        "--num-samples=3", "--epoch_num=2", "--reg_image_num=40", "--valid_portion=0.25", "--attack_image_num=20",
        "--proxy_image_num=20", "--eps=0.02", "--final_attack_seconds=0", "--scheduler=none", "--name=rows",
        "--data_dir=.",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    results = load_results(tmp_path / "results/rows")
    assert set(results.state) == {"finished"} and set(results.archi) == {"rows_net:build"}
    assert set(results.image_size) == {11} and set(results.task) == {str(tmp_path / "rows.npz")}
    checkpoint = "--checkpoint=results/rows/best/checkpoint.pt"
    assert run("evaluate", checkpoint, "--num_images=4", "--attacks=noise", "--data_dir=.").returncode == 0
    (tmp_path / "rows_net.py").unlink()
    missing = run("evaluate", checkpoint, "--num_images=4", "--attacks=noise", "--data_dir=.")
    assert missing.returncode == 2 and "archi=rows_net:build: no module rows_net" in missing.stderr
    assert "Traceback" not in missing.stderr
