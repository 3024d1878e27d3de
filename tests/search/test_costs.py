"""What a search will cost."""

import dataclasses
import os
from types import SimpleNamespace

import pytest
import torch
from testing import make_space
from torch import nn

from brainreg.attacks import AutoAttack
from brainreg.errors import InputError
from brainreg.records.trial import FINISHED, TrialRecord
from brainreg.search import costs as search_costs
from brainreg.search import packing as search_packing
from brainreg.search import plan as search_plan
from brainreg.search import probe as search_probe
from brainreg.search.costs import TrialCosts, costs_of
from brainreg.search.options import SearchOptions
from brainreg.search.plan import SearchPlan, plan_search
from brainreg.search.probe import Timing, attack_seconds_per_image, time_setting, under_load
from brainreg.search.strategy import Strategy
from brainreg.storage import Storage

TIMING = Timing(
    step=0.1,
    forward=0.001,
    gradient=0.003,
    steps=200,
    validation_images=100,
    checkpoint=1000,
    forward_start=0.01,
    gradient_start=0.02,
)


def test_the_passes_of_an_attack_that_is_withstood_are_those_that_are_counted():
    """On a network that nothing changes the mind of."""

    class Counted(nn.Module):
        images = 0

        def forward(self, images):
            Counted.images += len(images)
            logits = torch.zeros(len(images), 10) + torch.arange(10.0) + 1e-3 * images.flatten(1).mean(1)[:, None]
            return logits * torch.linspace(1, 2, 10)

    images, labels = torch.rand(20, 1, 28, 28), torch.full((20,), 9)
    for attack in (
        AutoAttack(version="custom", attacks=("apgd-ce", "apgd-t"), n_iter=10, n_target_classes=3),
        AutoAttack(version="custom", attacks=("square",), n_queries=40),
    ):
        Counted.images = 0
        assert attack(Counted(), images, labels, [1e-4, 1e-3]).correct.all()
        counted = 20 * attack_seconds_per_image(attack, 2, 1.0, 1.0)
        assert 0.7 * counted < Counted.images < 1.4 * counted


def test_few_attacked_images_cost_mostly_what_any_pass_takes():
    """A network whose every pass starts slowly: what an attack takes is what its passes and their images say."""
    one, many = (TIMING.attack(AutoAttack(), images) for images in (1, 250))
    assert many < 100 * one  # and not 250 times as much
    assert TIMING.attack(AutoAttack(), 251) - many > one - 1e-9  # a second batch
    assert TIMING.attack(AutoAttack(), 25) - TIMING.attack(AutoAttack(), 24) == pytest.approx(
        attack_seconds_per_image(AutoAttack(), 1, 0.001, 0.003)
    )
    assert TIMING.attack(AutoAttack(), 250, batch_size=25) == pytest.approx(10 * TIMING.attack(AutoAttack(), 25))
    gradients = sum(
        count * attack_seconds_per_image(AutoAttack(), strengths, 0, 1)
        for count, strengths in ((24 * 0.003, 3), (3 * 0.02, 1))
    )
    forwards = attack_seconds_per_image(AutoAttack(), 1, 24 * 0.001 + 3 * 0.01, 0)
    assert TIMING.attack(AutoAttack(), 24, strengths=3) == pytest.approx(gradients + forwards)


@pytest.mark.parametrize(
    ("few", "of_few", "many", "of_many", "line"),
    [
        (10, 1.5, 250, 13.5, (1.0, 0.05)),
        (10, 0.5, 250, 12.5, (0.0, 0.05)),  # no start
        (10, 0.1, 250, 12.5, (0.0, 0.05)),  # few are faster an image: a timing went wrong
        (10, 3.0, 250, 2.5, (2.5, 0.0)),  # a GPU, which many images leave half idle
        (9, 1.8, 9, 1.8, (0.0, 0.2)),  # there are no more
    ],
)
def test_a_pass_is_a_start_and_what_each_image_adds(few, of_few, many, of_many, line):
    assert search_probe._line(few, of_few, many, of_many) == pytest.approx(line)


def plan(trials=20, slots=2, scheduler="asha", records=(), **options) -> SearchPlan:
    space = make_space().override({}, {}, {"final_attack_seconds": 60})
    return SearchPlan(
        space, Strategy(scheduler=scheduler), SearchOptions(**options), 0, "id", trials, slots, 0, Storage("s"), records
    )


class TestCosts:
    def test_of_a_whole_search(self):
        one = TrialCosts.of(TIMING, plan().space)
        costs = costs_of(plan(scheduler="none"), TIMING)
        least, most = (seconds - search_costs.START_SECONDS for seconds in costs.seconds)
        assert costs.trials == (20, 20) and costs.disk == 21 * 1000
        assert least == pytest.approx(20 * one.training / 2)
        assert most == pytest.approx(10 * (one.training + one.objective) + one.choice + 2 * 60)  # three final attacks

    def test_asha_may_stop_most_trials(self):
        stopped, whole = costs_of(plan(), TIMING), costs_of(plan(scheduler="none"), TIMING)
        assert stopped.seconds[0] < 0.7 * whole.seconds[0]
        assert stopped.seconds[1] > whole.seconds[1]  # the proxy of each epoch

    def test_what_has_ended_costs_nothing_more(self):
        ended = tuple(TrialRecord(number=i, setting="", hyperparameters={}, ended=FINISHED) for i in range(15))
        left = costs_of(plan(records=ended), TIMING)
        assert left.trials == (5, 5) and left.seconds[1] < costs_of(plan(), TIMING).seconds[1]

    def test_the_epoch_by_the_objective_is_chosen_once(self):
        ended = [TrialRecord(number=i, setting="", hyperparameters={}, ended=FINISHED) for i in range(20)]
        assert costs_of(plan(records=tuple(ended[:19])), TIMING).seconds[1] > TrialCosts.of(TIMING, plan().space).choice
        ended[1] = TrialRecord(number=1, setting="early_stopped", hyperparameters={}, ended=FINISHED)
        least, most = costs_of(plan(records=tuple(ended)), TIMING).seconds
        assert most - least == 2 * 60  # the final attack alone

    def test_noise_with_a_weight_is_measured_after_each_epoch(self):
        plain = TrialCosts.of(TIMING, plan().space)
        weighted = TrialCosts.of(TIMING, plan().space.override({}, {"noise_weight": 0.2}))
        epochs, passes = plan().space.fixed["epoch_num"], TIMING.classify(TIMING.validation_images)
        assert weighted.proxy - plain.proxy == pytest.approx(epochs * passes)
        assert weighted.choice - plain.choice == pytest.approx(epochs * passes)
        assert (weighted.training, weighted.objective) == (plain.training, plain.objective)

    def test_a_limit_of_time_leaves_as_many_trials_as_fit(self):
        costs = costs_of(plan(1000, minutes=5), TIMING)
        fewest, most = costs.trials
        assert 1 <= fewest < most < 1000
        one = costs.trial
        assert one.search(fewest, 2, "asha") <= 300 < one.search(fewest + 1, 2, "asha")
        assert costs.seconds[1] >= 300 and costs.seconds[0] <= 300 + search_costs.START_SECONDS
        assert costs_of(plan(8, minutes=1000), TIMING) == costs_of(plan(8), TIMING)  # the limit is never met

    def test_a_limit_of_gpu_hours_counts_every_gpu(self):
        on_gpus = dataclasses.replace(plan(1000, slots=4, gpu_hours=1), gpus_per_trial=0.5)
        costs = costs_of(on_gpus, TIMING)
        assert costs.gpu_hours[0] <= 1 <= costs.gpu_hours[1] < 1.1
        assert costs.seconds[0] <= 1800 + search_costs.START_SECONDS


def test_a_setting_is_timed(monkeypatch):
    monkeypatch.setattr(search_probe, "_PROBE_SECONDS", 0.2)
    threads = torch.get_num_threads()
    space = make_space()
    timing = time_setting(space, "data", "cpu", 1)
    assert min(timing.step, timing.forward) > 0 and timing.steps % space.setting("unregularized")["epoch_num"] == 0
    assert timing.checkpoint > 1000 and torch.get_num_threads() == threads


def own_process(process: int) -> TrialCosts:
    return TrialCosts(float(os.getpid() != process), 2.0, 3.0)


@pytest.mark.long
@pytest.mark.parametrize("at_a_time", [1, 2])
def test_under_load_is_the_mean_of_processes_that_end(at_a_time):
    """So that the process that asks holds no GPU afterwards, one network at a time or several."""
    assert under_load(at_a_time, own_process, os.getpid()) == TrialCosts(1.0, 2.0, 3.0)


class TestPacking:
    """How many trials share a GPU; the times are made up, since there may be none here."""

    @pytest.fixture
    def tried(self, monkeypatch):
        """Try it where so many at a time take these seconds a step, on a GPU of 10 GB."""

        def on(seconds: dict[int, float], memory: float = 1e9, cores: int = 16, fails: int = 99, **options):
            def under_load(count: int, *arguments: object) -> Timing:
                if count >= fails:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return dataclasses.replace(TIMING, step=seconds[count], gpu_memory=int(memory))

            monkeypatch.setattr(search_packing, "under_load", under_load)
            monkeypatch.setattr(search_packing, "cpu_cores", lambda: cores)
            monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
            properties = SimpleNamespace(total_memory=10**10)
            monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
            return search_packing.try_packing(make_space(), SearchOptions(**options), 20)

        return on

    def test_as_many_as_train_faster_together(self, tried):
        """Two train 1.9 times the steps of one, four 1.6 times those of two, eight no more than four."""
        packing = tried({1: 0.01, 2: 0.0105, 4: 0.013, 8: 0.026}, memory=4e8)
        assert packing.best == 4 and {*packing.steps} == {1, 2, 4, 8}
        assert "4 trials share a GPU (" in str(packing) and "1: 100, 2: 190, 4: 308, 8: 308" in str(packing)

    @pytest.mark.parametrize(
        ("limits", "most"),
        [({"memory": 2e9}, 2), ({"cores": 3}, 2), ({"cpus_per_trial": 8}, 2), ({"fails": 4}, 2), ({"memory": 8e9}, 1)],
    )
    def test_no_more_than_fit(self, tried, limits, most):
        """Into the memory, beside what CUDA itself takes of it, and onto the cores."""
        assert tried(dict.fromkeys((1, 2, 4, 8, 16), 0.01), **limits).best == most

    def test_one_that_does_not_fit_at_all_is_told(self, tried):
        with pytest.raises(torch.OutOfMemoryError):
            tried({}, fails=1)

    def test_a_search_has_the_share_and_says_what_was_tried(self, tmp_path, monkeypatch):
        packing = search_packing.Packing({1: 100.0, 2: 190.0, 4: 200.0}, 2)
        monkeypatch.setattr(search_plan, "try_packing", lambda *arguments: packing)
        monkeypatch.setattr(search_plan, "share_of_machines", lambda options, jobs: (4, options.gpus_per_trial))
        plan = plan_search(make_space(), SearchOptions(gpus_per_trial="auto", storage_path=str(tmp_path)))
        assert plan.gpus_per_trial == plan.options.gpus_per_trial == 0.5 and plan.notes == (str(packing),)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to try it on")
    def test_without_a_gpu_it_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"^--gpus_per_trial=auto: this machine has no GPU to try it on; "):
            plan_search(make_space(), SearchOptions(gpus_per_trial="auto", storage_path=str(tmp_path)))
