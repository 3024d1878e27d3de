"""The scheduler that stops trials: its decisions, without Ray running."""

import itertools
import random
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from brainreg.records.trial import FAILED, STOPPED, TrialRecord
from brainreg.search.scheduler import AshaScheduler


def report(epoch: int, value: float, cross_entropy: float | None = None) -> dict[str, float]:
    """Of an epoch; later ones have a lower cross-entropy unless it is given."""
    entropy = 1 / (epoch + 1) if cross_entropy is None else cross_entropy
    return {"epoch": epoch, "valid_cross_entropy": entropy, "valid_accuracy": 0.9, "proxy_objective": value}


def trial(number: int, setting: str = "", setting_number: int | None = None) -> SimpleNamespace:
    own = number if setting_number is None else setting_number
    return SimpleNamespace(
        trial_id=f"ray_{number}", config={"number": number, "setting": setting, "setting_number": own}
    )


def record(number: int, values: list[float], cross_entropies: list[float] = (), **content) -> TrialRecord:
    """A trial that reported these proxies, after epoch 0, which has none."""
    reports = [report(*one) for one in itertools.zip_longest(range(1, len(values) + 1), values, cross_entropies)]
    epochs = [{"epoch": 0, "valid_cross_entropy": 2.3, "valid_accuracy": 0.1}, *reports]
    return TrialRecord(number, content.pop("setting", ""), {}, epochs=epochs, **content)


def goes_on(
    scheduler: AshaScheduler,
    number: int,
    epoch: int,
    value: float,
    setting: str = "",
    cross_entropy: float | None = None,
) -> bool:
    decision = scheduler.on_trial_result(None, trial(number, setting), report(epoch, value, cross_entropy))
    return decision == TrialScheduler.CONTINUE


def reach(scheduler: AshaScheduler, epoch: int, values: list[float]) -> list[bool]:
    """Trials 0, 1, ... reach a rung, one after the other."""
    return [goes_on(scheduler, number, epoch, value) for number, value in enumerate(values)]


def test_a_trial_below_the_best_third_of_those_before_it_is_stopped():
    scheduler = AshaScheduler(10)
    # The first has nothing to be compared with. The quantile of 0.5 and 0.7 is 0.633, that of 0.3, 0.5 and 0.7 0.567.
    assert reach(scheduler, 8, [0.5, 0.7, 0.3, 0.567, 0.5]) == [True, True, False, True, False]
    assert scheduler.stopped == {2, 4}


def test_a_further_run_of_a_setting_is_spared_and_is_no_measure_for_others():
    scheduler = AshaScheduler(10, [record(9, [0.9] * 10, setting_number=4, measured={"objective": 0.9})])
    reach(scheduler, 8, [0.5, 0.6])
    again = trial(2, setting_number=1)
    assert scheduler.on_trial_result(None, again, report(8, 0.1)) == TrialScheduler.CONTINUE
    assert [*scheduler.rungs[8]] == [0, 1] and not goes_on(scheduler, 3, 8, 0.5)
    assert scheduler.stopped == {3}


def test_it_is_compared_at_the_rungs_only():
    scheduler = AshaScheduler(10)
    for epoch in range(11):
        goes_on(scheduler, 0, epoch, 0.9)
    stopping = [epoch for epoch in range(11) if not goes_on(scheduler, 100 + epoch, epoch, 0.1)]
    assert stopping == [4, 8, 10]


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [(1, [1]), (2, [1, 2]), (3, [2, 3]), (4, [2, 3, 4]), (10, [4, 8, 10]), (40, [16, 30, 40]), (55, [22, 42, 55])],
)
def test_the_last_rung_lies_at_the_last_epoch(epochs, rungs):
    """After which the full attack would follow."""
    scheduler = AshaScheduler(epochs)
    for epoch in range(1, epochs + 1):
        assert goes_on(scheduler, 0, epoch, 0.9)
    assert [epoch for epoch in range(epochs + 2) if not goes_on(scheduler, 100 + epoch, epoch, 0.1)] == rungs


def test_a_trial_is_compared_with_those_of_its_rung():
    scheduler = AshaScheduler(10)
    reach(scheduler, 8, [0.8, 0.9])
    assert goes_on(scheduler, 2, 4, 0.1)  # the first at the first rung


def test_a_trial_that_reports_again_is_counted_once():
    scheduler = AshaScheduler(10)
    reach(scheduler, 4, [0.4, 0.6])
    for _ in range(5):
        assert goes_on(scheduler, 0, 4, 0.4)  # its worker was lost; it went on before
    assert goes_on(scheduler, 2, 4, 0.54)  # above the quantile of 0.4 and 0.6, 0.533


def test_reports_without_a_proxy_go_on():
    scheduler = AshaScheduler(10)
    reach(scheduler, 10, [0.9])
    for result in (
        {"epoch": 10, "objective": 0.1, "clean_accuracy": 0.1},  # what was measured at last
        {"epoch": 0, "valid_accuracy": 0.1},
        {"replayed": True, "epoch": 10},
        {"broken": "no space left"},
    ):
        assert scheduler.on_trial_result(None, trial(1), result) == TrialScheduler.CONTINUE
    assert not goes_on(scheduler, 1, 10, 0.1)


class TestBestEpoch:
    """The objective measures the epoch with the lowest validation cross-entropy, and so do the rungs."""

    def test_a_trial_is_not_stopped_for_its_last_epoch(self):
        scheduler = AshaScheduler(10)
        reach(scheduler, 10, [0.8, 0.8])
        goes_on(scheduler, 2, 9, 0.85, cross_entropy=0.3)
        assert goes_on(scheduler, 2, 10, 0.4, cross_entropy=0.4)

    def test_nor_kept_for_it(self):
        scheduler = AshaScheduler(10)
        reach(scheduler, 10, [0.8, 0.8])
        goes_on(scheduler, 2, 9, 0.4, cross_entropy=0.3)
        assert not goes_on(scheduler, 2, 10, 0.85, cross_entropy=0.4)

    def test_it_is_that_of_the_trial_itself(self):
        scheduler = AshaScheduler(10)
        goes_on(scheduler, 0, 2, 0.9, cross_entropy=0.1)
        reach(scheduler, 8, [0.9, 0.6, 0.7])
        assert scheduler.stopped == {1, 2}

    def test_of_two_as_low_it_is_the_earlier_as_in_training(self):
        scheduler = AshaScheduler(10)
        reach(scheduler, 10, [0.8, 0.8])
        goes_on(scheduler, 2, 9, 0.85, cross_entropy=0.3)
        assert goes_on(scheduler, 2, 10, 0.4, cross_entropy=0.3)

    def test_what_others_are_compared_with_is_their_best_epoch(self):
        scheduler = AshaScheduler(10)
        goes_on(scheduler, 0, 9, 0.5, cross_entropy=0.2)
        goes_on(scheduler, 0, 10, 0.9, cross_entropy=0.3)
        assert goes_on(scheduler, 1, 10, 0.6)

    def test_it_is_known_when_the_search_is_resumed(self):
        """Of a trial that goes on, and of those that it is compared with."""
        others = [record(0, [0.8] * 9 + [0.1], [0.3] * 9 + [0.4], ended=STOPPED)]
        begun = record(1, [0.9] * 9, [0.3] * 9)
        assert goes_on(AshaScheduler(10, [*others, begun]), 1, 10, 0.1, cross_entropy=0.4)
        assert not goes_on(AshaScheduler(10, [*others, begun]), 2, 10, 0.7)


class TestGivenSettings:
    def test_they_are_never_stopped(self):
        scheduler = AshaScheduler(10)
        reach(scheduler, 4, [0.8, 0.9])
        assert goes_on(scheduler, 2, 4, 0.1, setting="unregularized") and scheduler.stopped == set()

    def test_others_are_not_compared_with_them(self):
        scheduler = AshaScheduler(10)
        assert goes_on(scheduler, 0, 4, 0.9, setting="published")
        assert goes_on(scheduler, 1, 4, 0.2)
        assert not goes_on(scheduler, 2, 4, 0.1)

    def test_nor_when_the_search_is_resumed(self):
        given = record(0, [0.9] * 10, setting="unregularized", measured={"objective": 0.9})
        scheduler = AshaScheduler(10, [given])
        assert goes_on(scheduler, 1, 4, 0.2) and not goes_on(scheduler, 2, 4, 0.1)


class TestResumed:
    def test_what_was_reported_before_counts(self):
        before = AshaScheduler(10)
        reach(before, 4, [0.2, 0.8])
        resumed = AshaScheduler(
            10, [record(0, [0, 0, 0, 0.2], ended=STOPPED), record(1, [0, 0, 0, 0.8, 0.9], ended=FAILED)]
        )
        for scheduler in (before, resumed):
            assert not goes_on(scheduler, 2, 4, 0.59)  # the quantile of 0.2 and 0.8 is 0.6
            assert goes_on(scheduler, 3, 4, 0.67)  # and that of 0.2, 0.59 and 0.8 is 0.66

    def test_the_last_report_of_an_unfinished_trial_is_decided_when_it_comes_again(self):
        others = [record(0, [0, 0, 0, 0.8], ended=STOPPED), record(1, [0, 0, 0, 0.9], ended=STOPPED)]
        unfinished = record(2, [0, 0, 0, 0.1])
        assert not goes_on(AshaScheduler(10, [*others, unfinished]), 2, 4, 0.1)

    def test_a_trial_that_had_passed_a_rung_is_not_stopped_there(self):
        scheduler = AshaScheduler(10, [record(0, [0, 0, 0, 0.1, 0.2]), record(1, [0, 0, 0, 0.9], ended=STOPPED)])
        assert goes_on(scheduler, 0, 4, 0.1)

    def test_it_is_not_counted_twice(self):
        scheduler = AshaScheduler(10, [record(0, [0, 0, 0, 0.4, 0.5]), record(1, [0, 0, 0, 0.6, 0.7])])
        for number, value in ((0, 0.4), (1, 0.6)) * 3:
            goes_on(scheduler, number, 4, value)
        assert goes_on(scheduler, 2, 4, 0.54) and scheduler.stopped == set()


def test_it_decides_as_ray_tunes_own_scheduler():
    """Which has rungs at a quarter, a half and the whole where it keeps the best half."""
    draws = random.Random(0)
    own = AshaScheduler(8, rungs=(1 / 4, 1 / 2, 1), kept=1 / 2)
    rays = AsyncHyperBandScheduler("epoch", "proxy_objective", "max", max_t=9, grace_period=2, reduction_factor=2)
    running, decisions = {number: 0 for number in range(60)}, []
    for number in running:
        rays.on_trial_add(None, trial(number))
    while running:
        number = draws.choice(list(running))
        running[number] += 1
        result = report(running[number], draws.random())
        decisions.append(own.on_trial_result(None, trial(number), result))
        assert rays.on_trial_result(None, trial(number), result) == decisions[-1]
        if decisions[-1] == TrialScheduler.STOP or running[number] == 8:
            del running[number]
    assert len(own.stopped) == decisions.count(TrialScheduler.STOP) and 30 < len(own.stopped) < 60
