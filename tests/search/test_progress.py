import io
import time

import pandas as pd
import pytest
from rich.console import Console

from brainreg._utils.formats import format_duration, format_setting
from brainreg.search.callbacks import Gauges
from brainreg.search.progress import SearchProgress, ranked_table

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
    return SearchProgress(total=4, slots=2, searched=["reg_alpha", "reg_image_num"], console=console)


def printed(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_time_left_is_said_only_when_it_can_be_known(progress, clock):
    progress.started(0, "", {})
    assert progress.line() == "0/4 trials done, 1 running; 0m00s so far; time left unknown until a trial is done"
    clock[0] += 10
    progress.finished(0, MEASURED)
    progress.started(1, "", {})
    clock[0] += 4
    # Two trials to come at 10 s, and 6 s of the running one, on two workers.
    assert progress.seconds_left() == pytest.approx((20 + 6) / 2)
    assert progress.line() == "1/4 trials done, 1 running; best 0.700 (trial 0); 0m14s so far; about 0m13s left"


def test_a_trial_that_takes_longer_than_the_others_is_not_said_to_end_at_once(progress, clock):
    for number in range(4):
        progress.started(number, "", {})
    clock[0] += 10
    for number in range(3):
        progress.finished(number, MEASURED)
    clock[0] += 20
    assert progress.line().endswith("0m30s so far; longer than the others")


def test_time_left_includes_what_comes_after_the_trials(progress, clock):
    progress.afterwards = 100
    for number in range(4):
        progress.started(number, "", {})
        clock[0] += 10
        progress.finished(number, MEASURED)
    assert progress.seconds_left() == 100


def test_failures_are_counted_and_no_trial_that_failed_is_best(progress, clock):
    progress.started(0, "", {})
    progress.failed(0, "DivergedError: epoch 1")
    assert progress.line().startswith("1/4 trials done, 0 running, 1 failed; 0m00s")


def test_lines_for_a_log_file(progress, clock, console):
    progress.started(3, "published", {"reg_alpha": 0.31416, "reg_image_num": 500})
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
    progress.started(0, "unregularized", {"reg_alpha": 0.0})
    progress.started(1, "", {"reg_alpha": 2.5, "reg_image_num": 1000})
    progress.trained(1, 1, 2, 0.612)
    progress.started(2, "", {"reg_alpha": 1.0})
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
        progress.started(number, "", {})
        progress.finished(number, MEASURED)
    progress.started(50, "", {})
    table = Console(file=io.StringIO(), width=100)
    table.print(progress)
    lines = printed(table)
    assert lines[0] == "(31 earlier trials not shown)" and len(lines) == 23
    assert lines[-2].split()[:2] == ["50", "starting"]


def test_ranked_table_keeps_given_settings_in_sight():
    frame = pd.DataFrame(
        [
            {"trial": i, "setting": "unregularized" if i == 9 else "", "reg_alpha": 0.5, "seconds": 3.0, **MEASURED}
            for i in range(10)
        ]
    )
    table = Console(file=io.StringIO(), width=100)
    table.print(ranked_table(frame, ["reg_alpha"], rows=3))
    assert [line.split()[0] for line in printed(table)[1:]] == ["0", "1", "2", "9"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.00012345, "0.000123"), (10.0, "10"), (5000, "5000"), (None, ""), (pd.NA, ""), ("all", "all")]
)
def test_settings_are_short(value, text):
    assert format_setting(value) == text


def test_durations():
    assert [format_duration(seconds) for seconds in (0.4, 75, 8000)] == ["0m00s", "1m15s", "2h13m"]


def test_ray_is_told_of_a_search_of_any_name():
    Gauges("größe α=1").set({"trials_done": 1.0})  # Ray's own labels are ASCII
