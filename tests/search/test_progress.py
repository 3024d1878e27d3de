import io
import re
import time
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from brainreg._utils.formats import format_duration, format_hyperparameter
from brainreg.recommendation.setting_table import advise
from brainreg.records.results import advise_by_records
from brainreg.records.trial import TrialRecord
from brainreg.search.callbacks import Gauges
from brainreg.search.limits import Limits
from brainreg.search.progress import SearchProgress
from brainreg.search.summary import advice_lines, front_lines, recommendation, settings_table
from brainreg.spaces.space import Space

SPACE = Space(
    name="two",
    description="a test",
    task="digits",
    fixed={"base_channels": 2},
    search={"reg_alpha": {"low": 0.02, "high": 10, "log": True}, "reg_image_num": {"low": 100, "high": 1000}},
    objective={"eps": 0.1, "noise_eps": 0.1},
    budget={"num_samples": 4},
)
MEASURED = {"objective": 0.7, "clean_accuracy": 0.9, "robust_accuracy": 0.5, "noise_accuracy": 0.8}


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.fixture
def progress(clock, console) -> SearchProgress:
    return SearchProgress(total=4, slots=2, space=SPACE, console=console)


def run(number: int, setting: str = "", hyperparameters: dict | None = None, **content) -> TrialRecord:
    default = {"reg_alpha": 0.0} if setting == "unregularized" else {"reg_alpha": 0.5, "reg_image_num": 500}
    return TrialRecord(number, setting, {"task": "digits", **(hyperparameters or default)}, **content)


def finished(number: int, objective: float, setting: str = "", **content) -> TrialRecord:
    measured = {**MEASURED, "objective": objective}
    return run(number, setting, content.pop("hyperparameters", {}), measured=measured, **content)


def printed(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_time_left_is_said_only_when_it_can_be_known(progress, clock):
    progress.started(run(0, "", {}))
    assert progress.line() == "0/4 trials done, 1 running; 0m00s so far; time left unknown until a trial is done"
    clock[0] += 10
    progress.finished(0, MEASURED)
    progress.started(run(1, "", {}))
    clock[0] += 4
    # Two trials to come at 10 s, and 6 s of the running one, on two workers.
    assert progress.seconds_left() == pytest.approx((20 + 6) / 2)
    assert re.fullmatch(
        r"1/4 trials done, 1 running; recommended: setting 0, 0\.700 ± 0\.\d+, the best with over 99%; 0m14s so far;"
        r" about 0m13s left",
        progress.line(),
    )


def test_a_trial_that_takes_longer_than_the_others_is_not_said_to_end_at_once(progress, clock):
    for number in range(4):
        progress.started(run(number, "", {}))
    clock[0] += 10
    for number in range(3):
        progress.finished(number, MEASURED)
    clock[0] += 20
    assert progress.line().endswith("0m30s so far; longer than the others")


def test_time_left_includes_what_comes_after_the_trials(progress, clock):
    progress.afterwards = 100
    for number in range(4):
        progress.started(run(number, "", {}))
        clock[0] += 10
        progress.finished(number, MEASURED)
    assert progress.seconds_left() == 100


def test_failures_are_counted_and_no_trial_that_failed_is_best(progress, clock):
    progress.started(run(0, "", {}))
    progress.failed(0, "DivergedError: epoch 1")
    assert progress.line().startswith("1/4 trials done, 0 running, 1 failed; 0m00s")


def test_lines_for_a_log_file(progress, clock, console):
    progress.started(run(3, "published", {"reg_alpha": 0.31416, "reg_image_num": 500}))
    progress.trained(3, 1, 2, 0.6)
    clock[0] += 5
    progress.finished(3, MEASURED)
    assert printed(console)[0] == (
        "trial 3 (published, alpha 0.314, N 500): objective 0.700 (clean 0.900, robust 0.500), under noise 0.800"
    )


def test_a_silent_log_gets_a_line_now_and_then(progress, clock, console):
    progress.tick()
    assert printed(console) == []
    clock[0] += 31
    progress.tick()
    progress.tick()
    assert len(printed(console)) == 1


def test_the_live_table(progress, clock, console):
    progress.started(run(0, "unregularized", {"reg_alpha": 0.0}))
    progress.started(run(1, "", {"reg_alpha": 2.5, "reg_image_num": 1000}))
    progress.trained(1, 1, 2, 0.612)
    progress.started(run(2, "", {"reg_alpha": 1.0}))
    progress.trained(2, 2, 2, 0.7)
    clock[0] += 9
    console.file.truncate(0)
    progress.finished(0, MEASURED)
    table = Console(file=io.StringIO(), width=100)
    table.print(progress)
    rows = [line.split() for line in printed(table)]
    assert rows[0] == ["trial", "alpha", "N", "clean", "robust", "noise", "objective", "state"]
    assert rows[1] == ["0", "0", "0.900", "0.500", "0.800", "0.700", "9", "s,", "unregularized"]
    assert rows[2] == ["1", "2.5", "1000", "epoch", "1/2,", "valid", "0.612"]
    assert rows[3] == ["2", "1", "under", "attack"]
    assert rows[4][:4] == ["1/4", "trials", "done,", "2"]


def test_a_long_search_shows_its_latest_trials(progress, clock):
    for number in range(50):
        progress.started(run(number, "", {}))
        progress.finished(number, MEASURED)
    progress.started(run(50, "", {}))
    table = Console(file=io.StringIO(), width=160)
    table.print(progress)
    lines = printed(table)
    assert lines[0] == "(31 earlier trials not shown)" and len(lines) == 23
    assert lines[-2].split() == ["50", "0.5", "500", "starting"]


def test_what_is_recommended_and_the_luckiest_run_are_told_apart(progress):
    """Setting 1 had one lucky run among four; setting 2 is as good every time."""
    values = {1: (0.75, 0.5, 0.52, 0.48), 2: (0.7, 0.69, 0.71, 0.7)}
    number = 0
    for setting, own in values.items():
        for seed, value in enumerate(own):
            hyperparameters = {"reg_alpha": 0.1 * setting, "reg_image_num": 500, "seed": seed}
            progress.started(run(number, "", hyperparameters, setting_number=4 * (setting - 1)))
            progress.finished(number, {**MEASURED, "objective": value})
            number += 1
    counts = progress.counts()
    assert counts["largest_objective"] == 0.75
    assert counts["recommended_objective_low"] < counts["recommended_objective"] < counts["recommended_objective_high"]
    assert 0.6 < counts["recommended_objective"] < 0.72 and counts["recommended_probability_best"] > 0.7
    assert "recommended: setting 4, 0.6" in progress.line() or "recommended: setting 4, 0.7" in progress.line()


@pytest.mark.parametrize("noise_weight", [0, 0.3])
def test_noise_is_counted_where_it_has_a_part_in_the_objective(noise_weight, clock, console):
    space = SPACE.override({}, {"noise_weight": noise_weight}, {})
    progress = SearchProgress(total=4, slots=2, space=space, console=console)
    for number in range(2):
        progress.started(run(number))
        progress.finished(number, MEASURED)
    counts = progress.counts()
    assert ("recommended_noise_accuracy" in counts) == bool(noise_weight)
    assert counts.get("recommended_noise_accuracy", 0.8) == pytest.approx(0.8, abs=0.05)


def test_a_run_of_a_setting_that_ran_before_says_so(progress, clock, console):
    progress.started(run(0))
    progress.started(run(5, setting_number=0))
    progress.finished(5, MEASURED)
    assert printed(console)[0].startswith("trial 5 (setting 0 again, alpha 0.5, N 500): objective 0.700")


def test_time_left_is_that_of_the_limit(clock, console):
    limits = Limits(minutes=2)
    progress = SearchProgress(None, 2, SPACE, console, limits=limits)
    progress.started(run(0))
    clock[0] += 30
    assert progress.line() == "0 trials done, 1 running; 0m30s so far; time left unknown"
    progress.finished(0, MEASURED)
    assert progress.seconds_left() == 90 + 15  # a trial that runs at the end is half way, on average


def test_the_table_of_settings_keeps_given_ones_in_sight():
    records = [
        finished(
            i,
            0.5 + 0.05 * i,
            "unregularized" if i == 0 else "",
            hyperparameters={"reg_alpha": 0.1 * i, **({"reg_image_num": 500} if i else {})},
        )
        for i in range(9)
    ]
    records.append(
        finished(9, 0.88, hyperparameters={"reg_alpha": 0.8, "reg_image_num": 500, "seed": 7}, setting_number=8)
    )
    advice = advise_by_records(records, SPACE)
    table = Console(file=io.StringIO(), width=120)
    table.print(settings_table(advice, SPACE.search, rows=3))
    rows = [line.split() for line in printed(table)]
    assert rows[0] == ["setting", "alpha", "N", "runs", "clean", "robust", "objective", "95%", "interval", "P(best)"]
    assert [row[0] for row in rows[1:]] == ["8", "7", "6", "0"]
    assert rows[1][:4] == ["8", "0.8", "500", "2"] and rows[1][-1] == "recommended"
    assert rows[4][:3] == ["0", "0", "1"] and rows[4][-1] == "unregularized"
    lines = advice_lines(advice, SPACE)
    assert lines[0].startswith("recommended: setting 8 (alpha 0.8, N 500): expected objective 0.8")
    good = advice.ranges_as_good()["reg_alpha"]
    assert lines[1].startswith(
        f"  as good, for all that is known (within 0.01): {len(advice.as_good)} of 8 settings, alpha"
    )
    assert lines[2].startswith("  against unregularized: +0.3")
    (caution,) = (line for line in lines if "the noise of a run is assumed" in line)
    assert caution.startswith("  1 run repeats a setting, so that ")
    content = recommendation(advice, SPACE)
    assert content["as_good"]["reg_alpha"] == {"low": good[0], "high": good[1]} and good[0] <= 0.8 <= good[1]
    assert content["hyperparameters"] == {"reg_alpha": 0.8, "reg_image_num": 500}
    assert content["trials"] == [8, 9] and content["trial"] in (8, 9) and content["largest_objective"] == 0.9
    assert content["probability_better"]["unregularized"] > 0.9 and content["gains"]["unregularized"]["low"] > 0


def test_the_front_is_told_with_the_weights_at_which_its_members_win():
    settings = pd.DataFrame(
        {
            "setting_number": [7, 0, 3, 5, 9],
            "setting": ["", "unregularized", "", "", ""],
            "clean": [0.90, 0.98, 0.80, 0.70, 0.95],
            "robust": [0.60, 0.30, 0.62, 0.50, 0.40],
            "p_front": [0.97, 0.8, 0.7, 0.1, 0.6],
        }
    )
    lines = front_lines(SimpleNamespace(settings=settings))
    # 0.95 w + 0.4 (1 - w) = 0.9 w + 0.6 (1 - w) at w = 0.2 / 0.25; settings 7 and 3 are equal at 0.02 / 0.12
    assert lines == [
        "front of expected clean and robust accuracy: settings 0, 3, 7, 9; hypervolume beyond unregularized 0.291",
        "  setting 0: clean 0.980, robust 0.300; on the front with 80%; a control, never recommended",
        "  setting 9: clean 0.950, robust 0.400; on the front with 60%; the best for a clean weight of 0.80 to 1.00",
        "  setting 7: clean 0.900, robust 0.600; on the front with 97%; the best for a clean weight of 0.17 to 0.80",
        "  setting 3: clean 0.800, robust 0.620; on the front with 70%; the best for a clean weight of 0.00 to 0.17",
        "  knee: setting 7, where more of one accuracy begins to cost most of the other; --objective_weight=0.48 would"
        " recommend it",
    ]


def test_enough_repeats_need_no_caution():
    def one(number, setting_number, objective):
        hyperparameters = {"reg_alpha": 0.1 + setting_number, "reg_image_num": 500, "seed": number}
        return finished(number, objective, hyperparameters=hyperparameters, setting_number=setting_number)

    single = [one(number, number, 0.5 + 0.01 * number) for number in range(4)]
    assert advise_by_records(single, SPACE).caution.startswith("no run repeats a setting")
    repeated = [one(number, number % 2, 0.5 + 0.01 * number) for number in range(5)]
    advice = advise_by_records(repeated, SPACE)
    assert advice.caution == "" and not any("assumed" in line for line in advice_lines(advice, SPACE))


def test_nothing_is_recommended_before_a_regularized_setting_has_finished():
    advice = advise_by_records([finished(0, 0.6, "unregularized")], SPACE)
    assert recommendation(advice, SPACE) is None and "none is recommended" in advice_lines(advice, SPACE)[0]
    assert advise(pd.DataFrame({"setting_number": []}), SPACE).recommended is None


@pytest.mark.parametrize(
    ("value", "text"), [(0.00012345, "0.000123"), (10.0, "10"), (5000, "5000"), (None, ""), (pd.NA, ""), ("all", "all")]
)
def test_settings_are_short(value, text):
    assert format_hyperparameter(value) == text


def test_durations():
    assert [format_duration(seconds) for seconds in (0.4, 75, 8000)] == ["0m00s", "1m15s", "2h13m"]


def test_ray_is_told_of_a_search_of_any_name():
    Gauges("größe α=1").set({"trials_done": 1.0})  # Ray's own labels are ASCII
