"""The scripts of benchmarks/: what they time against computes the same, and each of them still runs."""

import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from brainreg.hyperparameters import Hyperparameters
from brainreg.spaces.files import load_space
from brainreg.training import loop as training_loop
from brainreg.training.data import load_training_data
from brainreg.training.loop import train

BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text())

# The smallest that each can do.
SMALLEST = {
    "asha_bias.py": "--draws=2",
    "autoattack_grid.py": "--task=digits --base_channels=2 --epoch_num=1 --phase_duration=1 --train_image_num=200"
    " --valid_portion=0.25 --images=4 --eps 0.1 --threads=1 --save=grid.csv",
    "early_stopping.py": "--space=digits_double --seeds 101 --choice_images=4 --test_images=4",
    "kill.py": "--kills=1 --trials=2",
    "launches.py": "--base_channels=1 --batch=8 --pairs=2",
    "make_table.py": "--settings=1 --processes=1 --save=table.csv",
    "pair_sampler.py": "--task=digits --images 300",
    "proxy.py": "--models=3",
    "recommendation.py": "--repetitions=1 --processes=1 --budget=20 --rules today search --save=searches.csv",
    "report.py": "--trials=8 --scheduler=asha --rounds=1",
    "select_pairs.py": "--images=200 --rounds=1",
    "service_cost.py": "--trials=4 --rounds=1 --finished=10 --proposals=1",
    "performance.py": "--parts step pairs --made_up_images --rounds=1 --threads=1 --device=cpu",
    "precision.py": "--seeds=1",
    "cpu_layouts.py": "--shapes 8x8 --ways usual grouped --repeats=1",
    "front_rungs.py": "--draws=1",
    "fixed_settings.py": "--space=digits_double --settings early_stopped adversarial_eps=0.1 --seeds 1 2"
    " --set base_channels=2 epoch_num=1 phase_duration=1 train_image_num=200 --attack_images=4 --save=rows.csv",
    "choose_eps.py": "--task=digits --base_channels=2 --epoch_num=1 --valid_portion=0.25 --eps 0.1 --seeds 0",
}
WITHOUT_FLAGS = ("published_rows.py",)


def test_a_step_of_the_stand_in_is_a_step_of_the_loop(monkeypatch):
    """With all images in one batch, their order is no matter."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from stand_in import StandIn

    settings = Hyperparameters(
        task="digits", base_channels=4, reg_alpha=0.5, reg_thresh=0.5, reg_image_num=100, reg_batch_size=4,
        valid_portion=0.2, train_image_num=96, resnet_batch_size=96, epoch_num=1, lr=0.02,
    )  # fmt: skip
    initial, trained = {}, {}
    build = training_loop.build_model

    def built(*arguments):
        network = build(*arguments)
        initial.update({name: value.clone() for name, value in network.state_dict().items()})
        return network

    def keep(classifier, metrics):
        trained.update({name: value.clone() for name, value in classifier[1].state_dict().items()})
        return {}

    monkeypatch.setattr(training_loop, "build_model", built)
    train(settings, load_training_data(settings, ROOT / "data", "cpu"), device="cpu", measure=keep)
    monkeypatch.setattr(training_loop, "build_model", build)

    data = load_training_data(settings, ROOT / "data", "cpu")  # its pairs from the first one on
    stand_in = StandIn(settings, data, data.images, data.valid_images, torch.device("cpu"))
    stand_in.network.load_state_dict(initial)
    stand_in.network.train()
    (batch,) = stand_in.batches()
    stand_in.step(*batch)
    after = stand_in.network.state_dict()
    moved = 0.0
    for name, value in trained.items():
        if value.is_floating_point():
            torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-4)
            moved = max(moved, float((value - initial[name]).abs().max()))
    assert moved > 0.01


class TestAshaBias:
    """Of the scheduler against strong regularization, in the table of real runs."""

    @pytest.fixture
    def table(self, monkeypatch):
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        from run_table import RESULTS, RunTable

        return RunTable(RESULTS / "digits_table.csv", load_space("digits_double"))

    def bias(self, *arguments, **options):
        from asha_bias import bias

        return bias(*arguments, **options, draws=60)

    def test_there_is_none(self, table):
        rungs, shares = self.bias(table, {})
        assert (rungs.excess.abs() < 2).all()
        for high, low in [*zip(rungs.high, rungs.low, strict=True), (shares["high"], shares["low"])]:
            assert abs(high.value - low.value) < 2 * math.hypot(high.error, low.error)

    def test_there_was_one_with_earlier_rungs_and_the_last_epoch(self, table):
        rungs, shares = self.bias(table, {"rungs": (1 / 4, 1 / 2, 1)}, last=True)
        assert rungs.proxy.iloc[0] == pytest.approx(-0.21, abs=0.01)
        assert rungs.proxy_se.iloc[0] == pytest.approx(0.05, abs=0.005)
        assert rungs.excess.min() < -2
        high, low = shares["high"], shares["low"]
        assert low.value - high.value > 2 * math.hypot(high.error, low.error)

    def test_one_would_be_seen(self, table):
        """Where proxies fall with log alpha, by 0.05 over its range."""
        lower = 0.05 * table.settings.places[:, table.places.names.index("reg_alpha")]
        table.runs = [
            [replace(run, reports=[one | {"proxy_objective": one["proxy_objective"] - less} for one in run.reports])]
            for (run,), less in zip(table.runs, lower, strict=True)
        ]
        assert (self.bias(table, {})[0].excess < -2).all()


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_it_runs(script, tmp_path):
    start = [str(BENCHMARKS / script), *SMALLEST.get(script, "--help").split()]
    if script in WITHOUT_FLAGS:
        start = ["-c", f"import runpy; print(runpy.run_path({start[0]!r})['main'])"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *start],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout, done.stderr


class TestRecommendation:
    """Of searches that are simulated in a table of real runs with several seeds."""

    @pytest.fixture(autouse=True)
    def benchmarks(self, monkeypatch):
        monkeypatch.syspath_prepend(str(BENCHMARKS))

    @pytest.fixture
    def module(self):
        import recommendation

        return recommendation

    @pytest.fixture
    def run_table(self):
        import run_table

        return run_table

    @pytest.fixture
    def table(self, run_table):
        return run_table.RunTable(run_table.RESULTS / "digits_runs.csv", load_space("digits_double"))

    @pytest.fixture
    def simulated(self):
        import simulated_search

        return simulated_search

    def test_where_the_noise_comes_from(self, module, tmp_path):
        """Offsets of seeds that all settings share are told from each run's own noise."""
        generator = np.random.default_rng(0)
        offsets = generator.normal(0, 0.03, 40)
        rows = [
            {"setting": setting, "seed": seed, "objective": 0.1 * setting + offset + generator.normal(0, 0.03)}
            | {"robust_accuracy": 0.5, "clean_accuracy": 0.9, "rest_n": 160}
            for setting in range(8)
            for seed, offset in enumerate(offsets)
        ]
        pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
        text = module.describe_noise(tmp_path / "runs.csv", load_space("digits_double"))
        assert text.startswith("8 settings, 40 seeds; ")
        share = float(re.search(r"variance: ([0-9.]+) offsets", text)[1])
        of_offsets = offsets.var(ddof=1)
        assert share == pytest.approx(of_offsets / (of_offsets + 0.03**2), abs=0.08)

    @pytest.mark.parametrize("rule", ["today", "thompson", "race, asha", "search", "oracle"])
    def test_a_search_is_told_only_what_feeds_it(self, simulated, table, rule):
        """It recommends a setting of its part of the table, and the truth's runs are none of its own."""
        drawn = simulated.Draw.of(table, 3)
        assert not {*drawn.feed} & {*drawn.truth} and len(drawn.settings) < len(table.runs)
        search = simulated.Search(drawn, simulated.RULES[rule], 3, 10, workers=2).run()
        values = table.values()
        for setting, seed, value in zip(search.state.settings, search.state.seeds, search.state.values, strict=True):
            known = values[setting, [drawn.feed[seed % len(drawn.feed)]]]
            assert np.isnan(value) or value == known
        assert search.told[0]["setting"] in drawn.settings[1:]

    def test_runs_drawn_anew_scatter_around_known_values_as_the_real_ones_do(self, table):
        """Their mean over many draws is the known value, and noise and settings vary as in the table without bias."""
        draws = [table.redrawn(np.random.default_rng(seed)) for seed in range(30)]
        truth = np.array([known for _, known in draws])
        away = np.array([drawn.values() for drawn, _ in draws]) - truth[:, :, None]
        assert np.abs(away.mean(axis=(0, 2))).max() < 0.025
        real = table.values()
        noise = real.var(axis=1, ddof=1).mean()
        assert (away**2).mean() == pytest.approx(noise, rel=0.1)
        assert truth.var(axis=1, ddof=1).mean() == pytest.approx(real.mean(axis=1).var(ddof=1) - noise / 8, rel=0.2)

    def test_a_drawn_run_keeps_how_its_proxies_lie_to_its_objective(self, run_table, table):
        run = table.runs[3][0]
        moved = run_table.moved(run, run.objective + 0.1)
        for one, other in zip(run.reports, moved.reports, strict=True):
            assert other["proxy_objective"] - one["proxy_objective"] == pytest.approx(0.1)
            assert other["valid_cross_entropy"] == one["valid_cross_entropy"]
        assert moved.training == run.training and run.objective == table.runs[3][0].objective

    def test_a_known_truth_has_no_error(self, simulated, table):
        drawn = simulated.Draw.of(table, 3, known_truth=True)
        smooth, plain = drawn.smooth_truth
        assert drawn.truth_error == 0 and (smooth == plain).all() and len(smooth) == len(drawn.settings)

    def test_calibration_counts_by_what_was_told(self, module):
        rows = [
            {"rule": "search", "trainings": 40, "best": best, "tried_regret": regret}
            for best, regret in [(0, 0.01), (0.25, 0), (0.8, 0), (0.85, 0.004), (0.75, 0.02), (0.8, 0), (np.nan, 0)]
        ]
        rows.append({"rule": "search", "trainings": 10, "best": 0.8, "tried_regret": 0.1})
        lines = module.calibration(pd.DataFrame(rows)).splitlines()
        assert lines[2:] == ["| search | 0 to 0.3 | 0.12 | 0.50 | 2 |", "| search | 0.7 to 0.9 | 0.80 | 0.75 | 4 |"]

    def test_rules_are_compared_over_the_same_draws(self, module):
        """The interval of one rule holds the truth everywhere, that of the other in one of two draws."""
        rows = [
            {"rule": rule, "trainings": 40, "seed": seed, "told": 0.5, "low": 0.4, "high": 0.6, "plain": plain}
            | {"truth_error": 0.0, "regret": regret}
            for rule, truths, regret in [("search", (0.55, 0.45), 0.01), ("other", (0.55, 0.3), 0.04)]
            for seed, plain in enumerate(truths)
        ]
        results = pd.DataFrame(rows)
        assert "other: held +0.5000 ± 0.5000, regret -0.0300 ± 0.0000" in module.differences(results)
        assert "other: 40: 0.50 (0.200); after 40 and 80 0.500 ± 0.500" in module.intervals(results)
        uncertain = results.assign(truth_error=0.1)
        assert module.held(uncertain).tolist() == [1, 1, 1, 1]

    def test_the_unregularized_setting_comes_first_where_the_space_has_a_published_one(self, run_table):
        table = run_table.RunTable(run_table.RESULTS / "mnist_runs.csv", load_space("narrow/mnist_mnist"))
        assert table.params[0] == {}
        assert table.params[1]["reg_alpha"] == pytest.approx(4.0)
        assert len(table.runs) == 26

    def test_seeds_that_not_all_settings_have_are_left_out(self, run_table, tmp_path):
        frame = pd.read_csv(run_table.RESULTS / "mnist_runs.csv")
        frame[(frame.seed < 2) | (frame.setting < 3)].to_csv(tmp_path / "part.csv", index=False)
        assert run_table.RunTable(tmp_path / "part.csv", load_space("narrow/mnist_mnist")).seeds == [0, 1]

    @pytest.mark.parametrize(
        ("wanted", "said"), [(0.05, "< 10"), (0.03, "15"), (0.02, "20"), (0.015, "70"), (0.005, "> 80")]
    )
    def test_when_a_regret_is_reached_is_read_between_the_points(self, module, wanted, said):
        curve = pd.Series([0.04, 0.02, 0.03, 0.01], index=[10, 20, 40, 80])
        assert module._first_below(curve, wanted) == said


def test_a_step_launches_less_than_600_kernels(monkeypatch):
    """Of the published recipe, in float32; those of three passes are about 800."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from launches import launches_of_step

    settings = Hyperparameters(base_channels=1, reg_alpha=10, resnet_batch_size=8, reg_batch_size=2)
    three, one = (launches_of_step(settings, at_once).total() for at_once in (False, True))
    assert 400 < one < 600 < three


@pytest.mark.long
def test_a_part_that_fails_does_not_take_the_others_along(tmp_path):
    flags = ["--parts", "pairs", "step", "--made_up_images", "--rounds=1", "--threads=1", "--device=cpu"]
    script = [sys.executable, str(BENCHMARKS / "performance.py"), *flags, f"--save={tmp_path / 'p.csv'}"]
    env = {**os.environ, "BRAINREG_FAILING_PART": "pairs"}
    run = subprocess.run(script, capture_output=True, text=True, timeout=300, env=env, cwd=ROOT)
    assert run.returncode == 1 and "pairs: failed: made to fail" in run.stdout and "| failed |" in run.stdout, (
        run.stderr
    )
    assert set(pd.read_csv(tmp_path / "p.csv").part) == {"step"}
