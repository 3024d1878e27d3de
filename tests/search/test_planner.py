"""What is run next: new settings, known ones with other seeds, and which of them."""

import numpy as np
import pytest

from brainreg.records.trial import FAILED, TrialRecord
from brainreg.search.limits import Limits
from brainreg.search.planner import NextRun
from brainreg.search.strategy import Strategy
from brainreg.search.study import SearchStudy
from brainreg.seeds import search_seed
from brainreg.spaces.space import Space

SPACE = Space(
    name="two",
    description="a test",
    task="digits",
    fixed={"base_channels": 2},
    search={"reg_alpha": {"low": 0.01, "high": 1, "log": True}, "reg_thresh": {"low": 0.1, "high": 0.9}},
    objective={"eps": 0.1, "noise_eps": 0.1},
    budget={"num_samples": 9},
)
FINITE = Space(**{**SPACE.model_dump(), "search": {"reg_thresh": {"choices": [0.2, 0.5, 0.8]}}})


def measured(objective: float) -> dict:
    return {"objective": objective, "clean_accuracy": 0.9, "robust_accuracy": 0.5, "noise_accuracy": 0.4}


def truth(record: TrialRecord) -> float:
    """A peak at alpha 0.1 and Th 0.6."""
    if record.setting:
        return 0.5
    alpha, thresh = record.hyperparameters["reg_alpha"], record.hyperparameters["reg_thresh"]
    return 0.7 - 0.1 * np.log10(alpha / 0.1) ** 2 - 0.8 * (thresh - 0.6) ** 2


def run(
    study: SearchStudy, count: int, noise: float = 0.03, slots: int = 1, part: float | None = None
) -> list[TrialRecord]:
    """Let a search run so many trials, all that it has, `slots` at a time; each gives its truth and noise. Return
    their records.
    """
    generator, running, records = np.random.default_rng(0), [], []
    for number in range(count):
        trial = study.ask(number / count if part is None else part)
        records.append(study.propose(trial))
        running.append((trial, records[-1]))
        if len(running) == slots:
            trial, record = running.pop(0)
            record.measured = measured(truth(record) + noise * generator.standard_normal())
            study.tell_finished(trial, record.measured)
    for trial, record in running:
        record.measured = measured(truth(record))
        study.tell_finished(trial, record.measured)
    return records


def counts(records: list[TrialRecord]) -> dict[int, int]:
    numbers = [record.setting_number for record in records]
    return {number: numbers.count(number) for number in dict.fromkeys(numbers)}


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("sampler", ["thompson", "tpe"])
def test_good_settings_run_again_with_other_seeds(sampler, slots):
    records = run(SearchStudy(SPACE, Strategy(sampler=sampler), "s"), 40, slots=slots)
    runs = [(record.setting_number, record.hyperparameters.get("seed", 0)) for record in records]
    assert len({*runs}) == len(runs)  # one seed again would give one network again
    often = [number for number, count in counts(records).items() if count > 2 and not records[number].setting]
    assert often and sum(record.is_repeat for record in records) >= 12
    better = np.mean([truth(records[number]) for number in often])
    assert better > np.mean([truth(record) for record in records if not record.setting and not record.is_repeat])
    for record in records:
        first = records[record.setting_number]
        alike = {**record.hyperparameters, "seed": 0} == {**first.hyperparameters, "seed": 0}
        assert alike and record.params == first.params and record.setting == first.setting


def test_the_surrogate_finds_the_peak_where_single_runs_are_noise():
    records = run(SearchStudy(SPACE, Strategy(), "s"), 40, noise=0.05)
    late = [record for record in records[20:] if not record.setting]
    assert np.mean([truth(record) for record in late]) > 0.65  # of the whole space, it is 0.55


def test_controls_run_again_now_and_then():
    records = run(SearchStudy(SPACE, Strategy(), "s"), 36)
    assert [record.number for record in records if record.setting == "unregularized"] == [0, 12, 24]
    assert sum(record.setting == "early_stopped" for record in records) == 1


def test_the_first_settings_are_spread_over_the_space():
    for seed in range(5):
        records = run(SearchStudy(SPACE, Strategy(sampler_seed=seed), "s"), 8)[2:]
        assert not any(record.is_repeat for record in records)
        thresholds = sorted(record.hyperparameters["reg_thresh"] for record in records)
        assert np.diff([0.1, *thresholds, 0.9]).max() < 0.45


def test_first_runs_share_four_seeds_and_given_settings_have_that_of_the_search():
    space = Space(**{**SPACE.model_dump(), "fixed": {"base_channels": 2, "seed": 5}})
    records = run(SearchStudy(space, Strategy(), "s"), 30)
    assert all(record.hyperparameters["seed"] == 5 for record in records if record.setting and not record.is_repeat)
    firsts = {record.hyperparameters["seed"] for record in records if not record.is_repeat}
    assert firsts == {search_seed(5, index) for index in range(4)}


@pytest.mark.parametrize("sampler", ["thompson", "tpe", "random"])
def test_so_many_seeds_of_every_setting(sampler):
    records = run(SearchStudy(SPACE, Strategy(sampler=sampler, seeds=3), "s"), 15)
    assert list(counts(records).values()) == [3] * 5
    assert {record.hyperparameters.get("seed", 0) for record in records} == {search_seed(0, i) for i in range(3)}


@pytest.mark.parametrize("sampler", ["thompson", "tpe"])
def test_a_space_that_is_used_up_runs_its_settings_again(sampler):
    space = Space(**{**FINITE.model_dump(), "fixed": {"base_channels": 2, "reg_alpha": 0.1}})
    records = run(SearchStudy(space, Strategy(sampler=sampler), "s"), 20)
    found = counts(records)
    assert len(found) == 5 and sum(found.values()) == 20  # two given ones and three proposed
    assert not any(record.is_repeat for record in records[:5])


def test_the_end_of_a_long_search_tries_nothing_new():
    study = SearchStudy(SPACE, Strategy(), "s")
    run(study, 20)
    assert all(record.is_repeat for record in run(study, 10, part=0.7))
    assert not all(record.is_repeat for record in run(study, 10, part=0.3))


def test_a_setting_that_failed_is_not_run_again():
    study = SearchStudy(SPACE, Strategy(seeds=2), "s")
    trial = study.ask()
    study.propose(trial)
    study.tell_failed(trial, "E: diverged")
    assert study.propose(study.ask()).setting_number == 1


def test_a_resumed_search_goes_on_as_if_it_had_not_been_interrupted(tmp_path):
    """With its database, and with the trials' records alone."""
    whole = run(SearchStudy(SPACE, Strategy(), "s"), 30, part=0.0)
    url = f"sqlite:///{tmp_path}/study.db"
    first = run(SearchStudy(SPACE, Strategy(), "s", url), 20, part=0.0)
    assert [one.hyperparameters for one in first] == [one.hyperparameters for one in whole[:20]]
    for again in (
        SearchStudy(SPACE, Strategy(), "s", url, first, own=True),
        SearchStudy(SPACE, Strategy(), "t", None, first),
    ):
        trial = again.ask()
        assert trial.number == 20 and again.propose(trial).hyperparameters == whole[20].hyperparameters


def test_a_trial_that_was_never_recorded_is_planned_anew():
    records = run(SearchStudy(SPACE, Strategy(), "s"), 20)
    lacking = [record for record in records if record.number != 13]
    study = SearchStudy(SPACE, Strategy(), "t", None, lacking)
    trial = study.ask()
    assert trial.number == 13 and study.propose(trial).hyperparameters["reg_alpha"] is not None


@pytest.mark.parametrize("state", [FAILED, "finished"])
def test_many_trials_at_a_time_before_anything_is_known(state):
    study = SearchStudy(SPACE, Strategy(), "s")
    trials = [study.ask() for _ in range(20)]
    records = [study.propose(trial) for trial in trials]
    runs = {(record.setting_number, record.hyperparameters.get("seed", 0)) for record in records}
    assert len(runs) == 20 and len({record.hyperparameters["reg_alpha"] for record in records}) == 18
    for trial, record in zip(trials, records, strict=True):
        if state == FAILED:
            study.tell_failed(trial, "E: all fail")
        else:
            study.tell_finished(trial, measured(truth(record)))
    assert study.propose(study.ask()).number == 20


def test_with_two_goals_it_looks_at_their_whole_front():
    study = SearchStudy(SPACE, Strategy(objective="pareto"), "s")
    alphas = []
    for _ in range(40):
        trial = study.ask()
        record = study.propose(trial)
        alpha = np.log10(record.hyperparameters["reg_alpha"] or 1e-3)
        study.tell_finished(trial, {**measured(0.5), "clean_accuracy": -alpha / 3, "robust_accuracy": 1 + alpha / 2})
        alphas.append(alpha)
    late = alphas[20:]
    assert min(late) < -1.3 and max(late) > -0.7


def test_what_a_stopped_run_was_worth_is_estimated():
    """Runs of high proxies ended well; one of a low proxy was stopped, and is not proposed again."""
    study = SearchStudy(SPACE, Strategy(), "s")
    stopped = []
    for _ in range(30):
        trial = study.ask()
        record = study.propose(trial)
        value = truth(record)
        study.report(trial, 1, value - 0.1)
        if value < 0.6 and not record.setting and not record.is_repeat:
            study.tell_stopped(trial)
            stopped.append(record.number)
        else:
            study.tell_finished(trial, measured(value))
    again = {record.setting_number for record in run(study, 10, part=0.0)}
    assert stopped and not again & {*stopped}


def test_what_is_left_to_gain_falls():
    study = SearchStudy(SPACE, Strategy(), "s")
    run(study, 6, noise=0.1)
    assert study.expected_regret() == float("inf")
    run(study, 14, noise=0.1)
    early = study.expected_regret()
    run(study, 60, noise=0.1)
    assert 0 <= study.expected_regret() < early < 0.1


def test_attributes_of_a_run():
    assert NextRun(3).attributes == {"seed": 3}
    assert NextRun(3, 4, "published").attributes == {"seed": 3, "setting": "published", "setting_number": 4}


class TestLimits:
    @pytest.fixture
    def clock(self, monkeypatch):
        now = [1000.0]
        monkeypatch.setattr("brainreg.search.limits.time.monotonic", lambda: now[0])
        return now

    def test_minutes(self, clock):
        limits = Limits(minutes=2, before=(30.0, 0.0))
        assert limits.reason() == "" and limits.part_spent(5) == 0.25
        clock[0] += 90
        assert limits.reason() == "its time is over (--minutes=2)" and limits.part_spent(5) == 1

    def test_gpu_hours_are_those_of_trials_that_hold_gpus(self, clock):
        limits = Limits(gpus_per_trial=0.5, gpu_hours=1, before=(0.0, 1800.0))
        limits.begin("a")
        clock[0] += 1800
        assert limits.part_spent(1) == 0.75
        limits.end("a")
        limits.end("a")
        clock[0] += 9000  # nothing runs
        assert limits.gpu_seconds == 2700 and limits.reason() == ""
        limits.begin("b")
        clock[0] += 1800
        assert limits.reason() == "its GPU hours are spent (--gpu-hours=1)"

    def test_trials_are_ended_by_ray_tune_and_only_count_as_a_part(self):
        assert Limits(trials=8).part_spent(6) == 0.75 and Limits(trials=8).reason() == ""
        assert Limits(trials=28, copied=20).part_spent(26) == 0.75, "of its own trials"
        assert Limits(trials=20, copied=20).part_spent(20) == 0
