"""A row found again: what is refused, what it costs, and one row from its first command to its files."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from conftest import ROOT

from brainreg.analysis import comparison as analysis_comparison
from brainreg.commands import reproduce as commands_reproduce
from brainreg.confirmation.pilot import Pilot
from brainreg.errors import InputError
from brainreg.reproduction import costs as reproduction_costs
from brainreg.reproduction import row as reproduction_row
from brainreg.reproduction.costs import Costs, Measurement, payable_designs, row_costs, workload_within
from brainreg.reproduction.row import SIZES, Row
from brainreg.reproduction.table import gains_table, load_reproductions, markdown_table
from brainreg.search import probe as search_probe
from brainreg.search.options import SearchOptions
from brainreg.spaces.files import SPACES_FOLDER, load_space
from brainreg.spaces.published import PUBLISHED_SETTINGS
from brainreg.statistics import least_seeds

RESULTS = ROOT / "analysis" / "results"
DIGITS = load_space("digits_double")
COSTS = Costs(training=30, proxy=5, objective=10, evaluation=60)


# ---------------------------------------------------------------------------------------------
# The command line
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "ROW: missing; name a space"),
        ("mnist_mnits", "space=mnist_mnits: no such space, and no such file; did you mean mnist_mnist"),
        ("digits_double --size=wide", "--size=wide: no such choice; known: narrow, full"),
        ("cifar10_ranges --size=narrow", "--size=narrow: cifar10_ranges has no narrow size; these have: "),
        ("digits_double --budget=0", "--budget=0: must be greater than 0"),
        ("digits_double --budget=soon", "--budget=soon: must be a number"),
        ("digits_double --trials=3", "--trials=3: --seeds is missing; give trials and seeds, or a budget"),
        ("digits_double --images=9", "--images=9: --trials and --seeds are missing"),
        ("digits_double --seeds=1 --trials=3", "--seeds=1: must be at least 2"),
        (
            "digits_double --seeds=2 --trials=3 --budget=9",
            "--trials=3: --budget=9 is given, too; give trials and seeds",
        ),
        (
            "digits_double --storage_path=s3://bucket/a",
            "--storage_path=s3://bucket/a: must be a folder of this machine",
        ),
        (
            "digits_double --storage_path=/dev/null/a",
            "--storage_path=/dev/null/a: /dev/null is a file; must be a folder",
        ),
        ("digits_double --gpus-per-trial=99", "--gpus_per_trial=99: there are"),
        ("mnist_mnist --data_dir=absent", "task=MNIST: not found; looked for absent/"),
        ("--table --save_dir=absent", "--save_dir=absent: nothing was reproduced there"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(line, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        commands_reproduce.main(shlex.split(line))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_every_narrow_row_is_a_published_row_at_a_smaller_size():
    names = [path.stem for path in (SPACES_FOLDER / "narrow").glob("*.yaml")]
    assert {f"{row['task']}_{row['reg_data']}".lower() for row in PUBLISHED_SETTINGS.values()} <= {*names}
    for name in names:
        narrow, full = load_space(f"narrow/{name}"), load_space(name)
        assert (narrow.task, narrow.reg_data, narrow.published) == (full.task, full.reg_data, full.published)
        assert narrow.fixed["base_channels"] < 64


# ---------------------------------------------------------------------------------------------
# What it costs
# ---------------------------------------------------------------------------------------------


def test_the_workload_fits_into_the_budget_and_uses_it():
    settings, slots = 1 + len(DIGITS.given), 2
    few, many = SIZES["narrow"].seeds_of(DIGITS)
    assert (few, many) == (least_seeds(2), least_seeds(2) + 4)
    for minutes in range(6, 60):
        try:
            workload = workload_within(minutes, COSTS, DIGITS, SIZES["narrow"], slots)
        except InputError as error:
            least = f"--budget={minutes}: 6 trials and 7 seeds, the least, take up to 18 minutes; give --budget=22"
            assert minutes < 18 and str(error).startswith(least)
            continue
        assert workload.seconds <= 60 * minutes
        assert 6 <= workload.trials <= DIGITS.budget.num_samples and few <= workload.seeds <= many
        assert workload.search == COSTS.row_search(workload.trials, slots) == -(-workload.trials // 2) * 40
        assert workload.confirmation == COSTS.confirmation(settings, workload.seeds, slots)
        more = dataclasses.replace(workload, seeds=workload.seeds + 1)
        unused = 60 * minutes - workload.seconds
        another = COSTS.confirmation(settings, more.seeds, slots) - workload.confirmation
        assert workload.seeds == many or unused < another
    slow = dataclasses.replace(COSTS, training=300)
    for one in (COSTS, slow):  # the least takes less, and more, than an hour
        absent = workload_within(None, one, DIGITS, SIZES["narrow"], slots)
        assert absent.trials >= 6 and absent.seeds >= few
        assert absent.seconds > 3400 or (absent.trials, absent.seeds) == (DIGITS.budget.num_samples, many)
    with pytest.raises(InputError) as refused:
        workload_within(60, slow, DIGITS, SIZES["narrow"], slots)
    named = int(re.search(r"give --budget=(\d+)", str(refused.value))[1])
    assert workload_within(named, slow, DIGITS, SIZES["narrow"], slots).seconds <= 60 * named
    assert workload == workload_within(1e6, COSTS, DIGITS, SIZES["narrow"], slots)  # all that is asked for


def test_designs_fit_into_the_confirmations_time():
    costs, settings = dataclasses.replace(COSTS, attacked_image=1.5), 1 + len(DIGITS.controls)
    few, _ = SIZES["narrow"].seeds_of(DIGITS)
    seconds = costs.confirmation(settings, few + 3, slots=2)
    designs = payable_designs(costs, DIGITS, SIZES["narrow"], 2, seconds, test_images=40)
    assert {images for _, images, _ in designs} == {24, 40}  # there are no more
    for seeds, images, cost in designs:
        assert few <= seeds <= few + 3 and cost <= seconds
        assert cost == costs.confirmation(settings, seeds, 2, images - 24)
    assert costs.confirmation(settings, few, 2, 16) - costs.confirmation(settings, few, 2) == pytest.approx(
        -(-settings * few // 2) * 24
    )


def test_both_unregularized_settings_are_of_one_training():
    less = COSTS.confirmation(3, 8, 2) - dataclasses.replace(COSTS, training=0).confirmation(3, 8, 2)
    assert less == pytest.approx(2 * 8 / 2 * COSTS.training)


def test_a_confirmation_is_planned_by_the_searchs_repeats(searched, tmp_path, monkeypatch):
    """What they say decides on seeds and images, once; who names trials and seeds has them."""
    monkeypatch.setattr(reproduction_row.Pilot, "of_search", lambda results: Pilot(9, 40, 0.0, 0.25))
    costs = dataclasses.replace(COSTS, attacked_image=0.1)
    workload = dataclasses.asdict(workload_within(60, costs, DIGITS, SIZES["narrow"], 2))

    def row(**asked):
        return Row("digits_double", "narrow", DIGITS, "digits_double", options, {}, asked, str(tmp_path))

    options = SearchOptions(storage_path=str(tmp_path), data_dir=str(ROOT / "data"))
    shutil.copytree(searched, row().search)
    plan = {"workload": workload, "costs": dataclasses.asdict(costs), "at_a_time": 2}
    seeds, images = row().design(plan)
    assert seeds >= least_seeds(2) and images > 24 and json.loads((tmp_path / row().plan_file).read_text()) == plan
    assert costs.confirmation(1 + len(DIGITS.controls), seeds, 2, images - 24) <= workload["confirmation"]
    monkeypatch.setattr(reproduction_row.Pilot, "of_search", lambda results: None)
    assert row().design(plan) == (seeds, images)
    asked = {"workload": workload, "costs": dataclasses.asdict(costs), "at_a_time": 2, "images": 30}
    assert row(trials=3, seeds=workload["seeds"], images=30).design(asked) == (workload["seeds"], 30)


def test_a_row_costs_what_its_space_and_its_measurement_say(monkeypatch):
    monkeypatch.setattr(search_probe, "_PROBE_SECONDS", 0.5)
    seconds = {"step": 0.1, "forward": 0.001, "gradient": 0.003, "forward_start": 0.01, "gradient_start": 0.02}
    monkeypatch.setattr(
        reproduction_costs,
        "under_load",
        lambda at_a_time, time_it, *arguments: dataclasses.replace(time_it(*arguments), **seconds),
    )
    space = DIGITS.override({"base_channels": 2, "epoch_num": 2, "train_image_num": 640}, {}, {})
    less = Measurement(seeds=(2, 2), num_epsilons=2, num_images=8)
    short = row_costs(space, less, str(ROOT / "data"), "cpu", 1, 1)
    longer = row_costs(
        space.override({"epoch_num": 20}, {}, {}), Measurement(seeds=(2, 2), num_images=80), "data", "cpu", 1, 1
    )
    assert 0 < short.training < longer.training and 0 < short.evaluation < longer.evaluation
    assert 0 < short.attacked_image * 8 < short.evaluation and short.objective > 0
    # More images come in more batches, of 25 on a CPU, whose passes start anew.
    more = row_costs(space, dataclasses.replace(less, num_images=108), str(ROOT / "data"), "cpu", 1, 1)
    assert more.evaluation - short.evaluation == pytest.approx(100 * short.attacked_image, rel=0.05)


# ---------------------------------------------------------------------------------------------
# A row, from its first command to its files
# ---------------------------------------------------------------------------------------------

_SMALL = """
import sys
from brainreg.analysis import comparison as analysis_comparison
from brainreg.commands import reproduce as commands_reproduce
from brainreg.reproduction import row as reproduction_row
from brainreg._utils.flags import run_command as run
from brainreg.reproduction.costs import Measurement
small = Measurement(seeds=(2, 2), attacks=("gaussian", "pgd"), num_epsilons=3, num_images=20, least_trials=3)
reproduction_row.SIZES["full"] = small
run(commands_reproduce.main)
"""


def test_a_rows_precision_goes_to_its_search_and_is_kept(tmp_path, monkeypatch):
    """Without the flag, what was begun goes on as it was; with another one it is refused."""
    monkeypatch.setattr(reproduction_row, "row_costs", lambda *arguments: COSTS)
    commands = []

    def run(self, stage, command, plan, log=None):
        commands.append(command)
        return 1

    monkeypatch.setattr(Row, "_run", run)
    line = ["digits_double", "--size=narrow", f"--storage_path={tmp_path}", "--save_dir", str(tmp_path)]
    for more in (["--precision=bfloat16"], [], ["--precision=bfloat16"]):
        assert commands_reproduce.main([*line, *more]) == 1
        assert "--precision=bfloat16" in commands.pop()
    plan = json.loads((tmp_path / "reproduce_digits_double_narrow.json").read_text())
    assert plan["space"]["fixed"]["precision"] == plan["precision"] == "bfloat16"
    with pytest.raises(InputError) as refused:
        commands_reproduce.main([*line, "--precision=float32"])
    assert str(refused.value).startswith(
        "--precision=float32: digits_double_narrow was begun with bfloat16; go on without the flag, or remove"
    )


def test_an_interrupted_row_ends_its_command_also_where_that_ignores_sigint(tmp_path, monkeypatch):
    """As what a script starts in the background does."""
    options = SearchOptions(storage_path=str(tmp_path))
    row = Row("digits_double", "narrow", DIGITS, "digits_double", options, {}, {}, str(tmp_path))
    began = tmp_path / "began"
    command = "import pathlib, signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    command += "; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"

    def interrupt(*about):
        if began.exists():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    try:
        plan = {"wall_seconds": {}}
        assert row._run("search", [sys.executable, "-c", command, str(began)], plan) == 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert plan["wall_seconds"]["search"] < 50


@pytest.mark.slow
def test_a_row_is_found_again_and_goes_on_where_it_was_interrupted(tmp_path):
    (tmp_path / "tiny.yaml").write_text(
        "extends: digits_double\ndescription: a test\n"
        "fixed: {base_channels: 4, epoch_num: 2, phase_duration: 1, train_image_num: 400}\n"
        "objective: {attack_image_num: 40, attack: {version: custom, attacks: [apgd-ce], n_iter: 3}}\n"
        "budget: {num_samples: 3}\n"
    )
    folder = tmp_path / "results"
    line = [sys.executable, "-c", _SMALL, "tiny.yaml", f"--save_dir={tmp_path / 'kept'}", "--precision=float32"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for stage in ("search.json", "confirmation"):
        with (tmp_path / "out.txt").open("a") as out:
            process = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=out, stderr=subprocess.STDOUT)
            while not (folder / "reproduce_tiny_full" / stage).exists():
                assert process.poll() is None, (tmp_path / "out.txt").read_text()
                time.sleep(0.2)
            process.send_signal(signal.SIGTERM if stage == "search.json" else signal.SIGINT)
            assert process.wait(120) == 130
        plan = folder / "reproduce_tiny_full.json"  # as an earlier version wrote it, which gave noise no weight
        plan.write_text(plan.read_text().replace('"noise_weight": 0.0,', "").replace('"noise_weight": 0,', ""))
        assert "noise_weight" not in plan.read_text()
    assert not (tmp_path / "kept").exists()
    refused = subprocess.run([*line, "--budget=7"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.startswith("error: --budget=7: tiny_full was begun with 60;")
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on with tiny_full: 3 trials, 2 seeds" in done.stdout and "paired over 2 seeds" in done.stdout

    said = (tmp_path / "out.txt").read_text()
    assert said.index("will cost about") < said.index("brainreg tune") and "the same command goes on" in said
    kept = tmp_path / "kept" / "tiny_full"
    assert {path.name for path in kept.iterdir()} >= {
        "reproduction.json", "trials.csv", "confirmation.csv", "alpha_th.csv", "robustness_curves.png",
        "comparison.png", "landscape.png",
    }  # fmt: skip
    record = json.loads((kept / "reproduction.json").read_text())
    assert "--precision=float32" in record["command"] and record["space"]["fixed"]["precision"] == "float32"
    assert record["trials"] == 3 and len(record["confirmed_seeds"]) == 2 and record["seconds"]["wall"]["search"] > 0
    assert len(pd.read_csv(kept / "trials.csv")) == 3
    assert str(tmp_path) not in "".join(path.read_text() for path in kept.iterdir() if path.suffix != ".png")
    shown = markdown_table(tmp_path / "kept")
    assert "| tiny, full | unregularized | " in shown and "| found - unregularized | " in shown


# ---------------------------------------------------------------------------------------------
# What was reproduced
# ---------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_documentation_shows_what_was_reproduced():
    assert markdown_table(RESULTS) in (ROOT / "docs/found.md").read_text()
    assert gains_table(RESULTS) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("reproduction.json", '{"row": ', "reproduction.json: damaged (Expecting value"),
        ("reproduction.json", "[]", "reproduction.json: damaged (it is no mapping)"),
        ("reproduction.json", "{}", "reproduction.json: damaged (row, size, space, trials, confirmed_seeds"),
        ("confirmation.csv", None, "confirmation.csv: damaged (No such file or directory)"),
        ("confirmation.csv", "", "confirmation.csv: damaged (No columns to parse from file)"),
        ("confirmation.csv", "setting,seed\n", "confirmation.csv: damaged (rank, reg_alpha,"),
    ],
)
def test_a_damaged_row_is_one_line(file, content, reason, tmp_path):
    folder = tmp_path / "digits_double_narrow"
    folder.mkdir()
    for name in ("reproduction.json", "confirmation.csv"):
        (folder / name).write_bytes((RESULTS / folder.name / name).read_bytes())
    assert markdown_table(tmp_path).startswith("| row | setting |")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(InputError) as caught:
        gains_table(tmp_path)
    assert str(caught.value).startswith(f"--save_dir={tmp_path}: {folder}/{reason}")


def test_what_was_reproduced_is_whole():
    rows = [*load_reproductions(RESULTS)]
    reproduced = {record["row"] for record, _ in rows}
    asked = {"mnist_mnist", "mnist_fashionmnist", "fashionmnist_fashionmnist", "cifar10_cifar10", "digits_double"}
    assert reproduced >= asked
    for record, confirmation in rows:
        folder = RESULTS / f"{record['row']}_{record['size']}"
        assert sorted(confirmation.seed.unique()) == record["confirmed_seeds"]
        summary = analysis_comparison.confirmation_table(confirmation)
        assert (summary.seeds == len(record["confirmed_seeds"])).all()
        assert {"Gaussian", "Uniform", "SaltPepper"} <= {*confirmation.attack}
        assert any("Square" in name for name in confirmation.attack)
        assert any("AutoAttack standard" in name for name in confirmation.attack)
        trials = pd.read_csv(folder / "trials.csv")
        assert len(trials) == record["trials"] and record["found_trial"] in set(trials.trial)
        assert (folder / "robustness_curves.png").exists() and (folder / "comparison.png").exists()
        texts = "".join(path.read_text() for path in folder.iterdir() if path.suffix != ".png")
        assert not re.search(r"/(home|tmp|root|Users|mnt)/", texts) and str(ROOT) not in texts
