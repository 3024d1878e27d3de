"""The surrogate of noisy runs, what it recommends, and what it runs next."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from brainreg.hyperparameters import Hyperparameters
from brainreg.recommendation.allocation import SettingRuns, Settings, choose, fit_surrogates
from brainreg.recommendation.places import Places
from brainreg.recommendation.process import Process, Runs, Scales
from brainreg.recommendation.setting_table import advise
from brainreg.recommendation.surrogate import Surrogate, _half_covariance, _largest, _likely_ratios, _Loss
from brainreg.spaces.files import load_space

GROUPS = np.array([0])


def noisy_runs(settings: int, seeds: int, noise: float, offset: float, seed: int = 0) -> tuple[Runs, np.ndarray]:
    """Runs of a smooth objective of one parameter, best at 0.7, and its values without noise."""
    generator = np.random.default_rng(seed)
    places = np.linspace(0, 1, settings)[:, None]
    values = 0.7 - 0.4 * (places[:, 0] - 0.7) ** 2
    offsets = generator.normal(0, offset, seeds)
    chosen = np.repeat(np.arange(settings), seeds)
    of_seed = np.tile(np.arange(seeds), settings)
    measured = values[chosen] + offsets[of_seed] + generator.normal(0, noise, len(chosen))
    return Runs(places[chosen], np.full(len(chosen), -1), of_seed, measured, np.zeros(len(chosen))), values


class TestSurrogate:
    def test_noise_and_offsets_are_found(self):
        runs, _ = noisy_runs(20, 6, noise=0.03, offset=0.05)
        fitted = Surrogate(runs, GROUPS)
        assert fitted.noise == pytest.approx(0.03, rel=0.25) and 0.02 < fitted.offset < 0.12

    def test_it_is_nearer_to_the_truth_than_the_runs(self):
        nearer, inside = [], []
        for seed in range(10):
            runs, values = noisy_runs(20, 1, noise=0.05, offset=0, seed=seed)
            mean, covariance = Surrogate(runs, GROUPS).posterior(runs.places, runs.islands)
            nearer.append(np.abs(mean - values).mean() / np.abs(runs.values - values).mean())
            inside.append((np.abs(mean - values) <= 1.96 * np.sqrt(np.diag(covariance))).mean())
        assert np.mean(nearer) < 0.7 and np.mean(inside) > 0.8

    def test_the_slope_of_the_fit_is_that_of_differences(self):
        """The gradient that the optimizer follows, and at its end: no small step along any direction does better."""
        runs, _ = noisy_runs(8, 2, noise=0.05, offset=0.02)
        middles = np.log([0.7, 0.4, 0.02, 0.7])
        scales = Scales(float(runs.values.mean()), float(runs.values.std()), middles)
        loss = _Loss(runs, GROUPS, scales)
        best = scales.with_logs(_largest(loss, middles))

        def density(logs: np.ndarray) -> float:
            away = (logs - middles) / np.array([1.0, 1.0, 1.5, 0.8])
            return Process(runs, GROUPS, scales.with_logs(logs)).log_likelihood - 0.5 * away @ away

        for i in range(4):
            step = 0.05 * np.eye(4)[i]
            assert max(density(best.logs - step), density(best.logs + step)) <= density(best.logs) + 1e-6
            slope = (density(middles + 1e-4 * step) - density(middles - 1e-4 * step)) / (2e-4 * 0.05)
            assert -slope == pytest.approx(loss(middles)[1][i], rel=1e-3, abs=1e-4)

    def test_what_few_runs_leave_open_makes_it_less_sure(self):
        """The most likely scales alone say too much: over many draws, intervals hold the truth as often as they say."""
        held = {"all": [], "likely": []}
        for seed in range(30):
            runs, values = noisy_runs(10, 1, noise=0.05, offset=0, seed=seed)
            fitted = Surrogate(runs, GROUPS)
            likely = np.mean([one.scales.logs for one in fitted.processes], axis=0)  # they lie in opposite pairs
            one = Process(runs, GROUPS, fitted.processes[0].scales.with_logs(likely).with_ratios({}))
            for name, known in {"all": fitted, "likely": one}.items():
                mean, covariance = known.posterior(runs.places, runs.islands)
                held[name].append(np.abs(mean - values) <= 1.96 * np.sqrt(np.diag(covariance)))
        assert np.mean(held["all"]) > 0.9 and np.mean(held["likely"]) < np.mean(held["all"]) - 0.02

    def test_draws_come_from_all_processes(self):
        """Their mean and covariance are those of the posterior."""
        runs, _ = noisy_runs(5, 1, noise=0.05, offset=0)
        fitted = Surrogate(runs, GROUPS)
        mean, covariance = fitted.posterior(runs.places, runs.islands)
        draws = fitted.sample(runs.places, runs.islands, 20_000, np.random.default_rng(0))
        assert draws.mean(axis=0) == pytest.approx(mean, abs=0.003)
        assert np.sqrt(draws.var(axis=0)) == pytest.approx(np.sqrt(np.diag(covariance)), rel=0.05)

    def test_few_draws_come_from_processes_at_random(self):
        runs, _ = noisy_runs(5, 1, noise=0.05, offset=0)
        fitted, generator = Surrogate(runs, GROUPS), np.random.default_rng(0)
        draws = np.array([fitted.sample(runs.places[:1], runs.islands[:1], 1, generator)[0, 0] for _ in range(400)])
        mean, covariance = fitted.posterior(runs.places[:1], runs.islands[:1])
        assert draws.std() == pytest.approx(np.sqrt(covariance[0, 0]), rel=0.15)

    def test_settings_have_a_noise_of_their_own(self):
        """Half of them train alike with every seed; what is known of the others is less certain."""
        runs, values = noisy_runs(16, 10, noise=1, offset=0)
        own = np.repeat(np.where(np.arange(16) % 2, 0.1, 0.01), 10)
        centre = values.repeat(10)
        runs = replace(runs, values=centre + own * (runs.values - centre), islands=np.arange(16).repeat(10))
        fitted = Surrogate(runs, GROUPS)
        mean, covariance = fitted.posterior(runs.places[::10], runs.islands[::10])
        spread = np.sqrt(np.diag(covariance))
        assert fitted.noise == pytest.approx(np.sqrt((0.1**2 + 0.01**2) / 2), rel=0.25)
        assert spread[::2].max() < 0.6 * spread[1::2].min()
        assert (np.abs(mean - values) <= 1.96 * spread).mean() >= 14 / 16

    def test_what_is_expected_of_runs_that_go_on_tells_nothing(self):
        """Neither of the noise, nor of which process is right: only of what is left to be known."""
        runs, _ = noisy_runs(8, 3, noise=0.05, offset=0)
        fitted = Surrogate(runs, GROUPS)
        more = fitted.with_pending(np.repeat(runs.places[:1], 5, axis=0), np.full(5, -1), np.arange(3, 8))
        places, islands = runs.places[::3], runs.islands[::3]
        for one, other in zip(fitted.processes, more.processes, strict=True):
            assert one.scales is other.scales
            assert other.posterior(places, islands)[0] == pytest.approx(one.posterior(places, islands)[0], abs=1e-6)
            assert other.posterior(places, islands)[1][0, 0] < one.posterior(places, islands)[1][0, 0]

    def test_scales_are_drawn_as_wide_as_the_runs_leave_them_open(self):
        """In each direction of the posterior's curvature, their variance is what the curvature says."""
        runs, _ = noisy_runs(12, 2, noise=0.05, offset=0.02)
        scales = [one.scales for one in Surrogate(runs, GROUPS).processes]
        likely = np.mean([one.logs for one in scales], axis=0)  # they lie in opposite pairs
        ratios = _likely_ratios(runs, GROUPS, scales[0].with_logs(likely).with_ratios({}))
        loss = _Loss(runs, GROUPS, scales[0].with_ratios(ratios))
        middles, spreads = loss.prior
        assert max(np.abs(one.logs - middles).max() for one in scales) < 4 * spreads.min()  # none is cut off
        half = _half_covariance(loss, likely, spreads)
        steps = np.linalg.solve(half, np.array([one.logs - likely for one in scales]).T)
        assert (steps**2).mean(axis=1) == pytest.approx(np.ones(len(middles)), rel=0.1)

    def test_equal_values_leave_room_for_others(self):
        """Of values that are equal but for rounding, too."""
        for value in (0.1, 0.5, 0.7):
            runs = Runs(np.array([[0.1], [0.5], [0.9]]), np.full(3, -1), np.arange(3), np.full(3, value), np.zeros(3))
            _, covariance = Surrogate(runs, GROUPS).posterior(runs.places, runs.islands)
            assert np.sqrt(np.diag(covariance)).min() > 0.01

    def test_an_island_resembles_nothing(self):
        runs, _ = noisy_runs(10, 2, noise=0.01, offset=0)
        place, far = np.array([[0.7]]), np.array([3])
        fitted = Surrogate(runs, GROUPS)
        inside, outside = (fitted.posterior(place, islands)[1][0, 0] for islands in (np.array([-1]), far))
        assert outside > 10 * inside

    def test_one_run_is_enough(self):
        runs = Runs(np.array([[0.5]]), np.array([-1]), np.array([0]), np.array([0.6]), np.zeros(1))
        mean, covariance = Surrogate(runs, GROUPS).posterior(runs.places, runs.islands)
        assert mean[0] == pytest.approx(0.6, abs=0.5) and covariance[0, 0] > 0

    def test_each_run_as_the_others_predict_it(self):
        """The closed form gives what fitting without the run gives, with the same scales."""
        runs, _ = noisy_runs(6, 2, noise=0.05, offset=0.02)
        fitted = Surrogate(runs, GROUPS).processes[0]
        mean, _ = fitted.left_out()
        scales, others = fitted.scales, runs.part(np.arange(len(runs)) != 3)
        rest = Process(others, GROUPS, scales)
        cross = rest._kernel(others.places, others.islands, runs.places[3:4], runs.islands[3:4])[:, 0]
        cross += scales.offset * (others.seeds == runs.seeds[3])
        assert mean[3] == pytest.approx(scales.center + scales.scale * cross @ rest._weights, abs=1e-6)


class TestChoose:
    def frequencies(self, values, counts, draws: int = 300) -> np.ndarray:
        """How often each of some settings is run next, which lie far apart and have runs of a noise of 0.03."""
        generator = np.random.default_rng(0)
        settings = Settings(np.zeros((len(values), 1)), np.arange(len(values)))
        chosen = np.repeat(np.arange(len(values)), counts)
        measured = np.array(values)[chosen] + generator.normal(0, 0.03, len(chosen))
        runs = SettingRuns(chosen, np.arange(len(chosen)), measured, np.zeros(len(chosen)))
        fitted = fit_surrogates(settings, runs, measured[None], GROUPS)
        allowed = np.ones(len(values), dtype=bool)
        picks = [choose(fitted, settings, allowed, generator) for _ in range(draws)]
        return np.bincount(picks, minlength=len(values)) / draws

    def test_the_best_two_get_most_runs(self):
        often = self.frequencies([0.7, 0.69, 0.5, 0.45, 0.4], [6] * 5)
        assert often[0] + often[1] > 0.8 and often.min() < 0.1

    def test_what_is_not_allowed_is_not_run(self):
        settings = Settings(np.zeros((2, 1)), np.arange(2))
        runs = SettingRuns(np.array([0, 1]), np.array([0, 1]), np.array([0.9, 0.1]), np.zeros(2))
        fitted = fit_surrogates(settings, runs, runs.values[None], GROUPS)
        generator = np.random.default_rng(0)
        assert {choose(fitted, settings, np.array([False, True]), generator) for _ in range(50)} == {1}

    def test_two_goals_look_along_the_whole_front(self):
        places = np.linspace(0, 1, 9)[:, None]
        settings = Settings(places, np.full(9, -1))
        runs = SettingRuns(np.arange(9), np.arange(9), places[:, 0], np.zeros(9))
        goals = np.array([0.5 + 0.3 * np.sqrt(places[:, 0]), 0.5 + 0.3 * np.sqrt(1 - places[:, 0])])
        fitted = fit_surrogates(settings, runs, goals, GROUPS)
        generator = np.random.default_rng(0)
        picks = {choose(fitted, settings, np.ones(9, dtype=bool), generator) for _ in range(200)}
        assert len(picks) >= 5


def trials(rows: list[dict]) -> pd.DataFrame:
    """Finished trials: setting_number, setting, seed, objective and the searched values."""
    space = load_space("digits_double")
    names = ["trial", "setting", "setting_number", *Hyperparameters.model_fields]
    filled = []
    for number, row in enumerate(rows):
        values = {"reg_alpha": 0.1, "reg_thresh": 0.5, "reg_thresh_2": 0.2, "reg_image_num": 500, "reg_batch_size": 8}
        if row.get("setting"):
            values = dict.fromkeys(values) | {"reg_alpha": 0.0}
        accuracy = {name: row["objective"] for name in ("clean_accuracy", "robust_accuracy")}
        filled.append(
            {**dict.fromkeys(names), **space.fixed, **values, "setting": "", **accuracy, **row, "trial": number}
        )
    return pd.DataFrame(filled)


class TestAdvise:
    SPACE = load_space("digits_double")

    def test_the_luckiest_run_is_not_recommended(self):
        """Eight runs of one setting are worth more than one lucky run among poor ones."""
        lucky = {"setting_number": 0, "reg_alpha": 0.835, "reg_thresh": 0.47, "seed": 9, "objective": 0.78}
        good = [
            {"setting_number": 1, "reg_alpha": 0.05, "seed": i, "objective": 0.77 + 0.035 * (-1) ** i} for i in range(8)
        ]
        poor = [
            {
                "setting_number": 9 + i,
                "reg_alpha": 0.8 + 0.01 * i,
                "reg_thresh": 0.4 + 0.02 * i,
                "seed": i,
                "objective": 0.6 + 0.035 * (-1) ** i,
            }
            for i in range(8)
        ]
        advice = advise(trials([lucky, *good, *poor]), self.SPACE)
        assert advice.recommended.setting_number == 1 and advice.recommended.runs == 8
        assert advice.recommended.objective == pytest.approx(0.77, abs=0.01)
        assert advice.settings.largest_objective.max() == pytest.approx(0.805)
        assert advice.checkpoint in advice.recommended.trials

    def test_gains_over_given_settings(self):
        bare = [
            {"setting": "unregularized", "setting_number": 0, "seed": i, "objective": 0.6 + 0.01 * i} for i in range(3)
        ]
        found = [{"setting_number": 3, "seed": i, "objective": 0.7 + 0.01 * i} for i in range(3)]
        advice = advise(trials([*bare, *found]), self.SPACE)
        gain, low, high = advice.gains["unregularized"]
        assert low < gain < high and gain > 0.05 and advice.recommended.p_better_unregularized > 0.95

    def test_unregularized_settings_are_never_recommended(self):
        bare = [{"setting": "unregularized", "setting_number": 0, "seed": i, "objective": 0.9} for i in range(3)]
        found = [{"setting_number": 3, "seed": i, "objective": 0.5 + 0.01 * i} for i in range(3)]
        assert advise(trials([*bare, *found]), self.SPACE).recommended.setting_number == 3
        alone = advise(trials(bare), self.SPACE)
        assert alone.recommended is None and alone.checkpoint is None and len(alone.settings) == 1

    def test_who_may_be_on_the_front(self):
        """Many runs: two settings that trade one accuracy for the other are on it, one that both beat is not."""
        accuracies = {1: (0.95, 0.30), 2: (0.85, 0.60), 3: (0.84, 0.29), 4: (0.70, 0.65)}
        generator = np.random.default_rng(0)
        rows = [
            {
                "setting_number": number,
                "reg_alpha": 0.05 * number,
                "seed": seed,
                "objective": (clean + robust) / 2 + noise,
                "clean_accuracy": clean + noise,
                "robust_accuracy": robust + noise,
            }
            for number, (clean, robust) in accuracies.items()
            for seed, noise in enumerate(generator.normal(0, 0.01, 6))
        ]
        known = advise(trials(rows), self.SPACE).settings.set_index("setting_number")
        assert (known.p_front[[1, 2, 4]] > 0.9).all() and known.p_front[3] < 0.1
        one_run = advise(trials(rows[::6]), self.SPACE).settings.set_index("setting_number")
        assert known.p_front[3] < one_run.p_front[3]  # less is known, and more is possible

    def test_what_may_be_as_good_as_the_best(self):
        """Many runs tell which settings are; few leave others possible. What may not be recommended has no part."""
        truths = {1: (0.05, 0.700), 2: (0.06, 0.697), 3: (0.3, 0.60), 4: (0.9, 0.50)}
        generator = np.random.default_rng(0)
        rows = [{"setting": "unregularized", "setting_number": 0, "seed": 0, "objective": 0.71}] + [
            {"setting_number": number, "reg_alpha": alpha, "seed": seed, "objective": truth + generator.normal(0, 0.01)}
            for seed in range(6)
            for number, (alpha, truth) in truths.items()
        ]
        known = advise(trials(rows), self.SPACE)
        assert {*known.as_good.setting_number} == {1, 2}
        assert known.ranges_as_good()["reg_alpha"] == (0.05, 0.06)
        assert (known.settings.p_near >= known.settings.p_best).all()
        once = [row | {"objective": 0.6 + 0.01 * i} for i, row in enumerate(rows[1:5])]
        assert len(advise(trials(once), self.SPACE).as_good) > 2

    def test_accuracy_under_noise_where_it_has_a_part_in_the_objective(self):
        rows = [
            {"setting_number": n, "reg_alpha": 0.1 + n / 10, "seed": seed, "objective": 0.6, "noise_accuracy": accuracy}
            for n, accuracy in enumerate((0.3, 0.8))
            for seed in range(6)
        ]
        weighted = self.SPACE.override({}, {"noise_weight": 0.2})
        known = advise(trials(rows), weighted).settings.set_index("setting_number")
        assert (known.noise_low <= known.noise).all() and (known.noise <= known.noise_high).all()
        assert known.noise[0] == pytest.approx(0.3, abs=0.05) and known.noise[1] == pytest.approx(0.8, abs=0.05)
        plain = advise(trials(rows), self.SPACE).settings
        assert "noise" not in plain and "noise" not in advise(trials(rows).iloc[:0], self.SPACE).settings
        assert {*known.columns} - {*plain.columns} == {"noise", "noise_low", "noise_high"}

    def test_nothing_has_finished(self):
        advice = advise(trials([{"setting_number": 0, "seed": 0, "objective": 0.5}]).iloc[:0], self.SPACE)
        assert advice.recommended is None and advice.settings.empty and math.isnan(advice.noise)
        assert advice.as_good.empty and advice.ranges_as_good() == {}

    def test_intervals_hold_the_truth(self):
        """Of repeated small searches with a known truth, about 95% of the recommended settings' intervals hold it."""
        held = 0
        for seed in range(30):
            generator = np.random.default_rng(seed)
            alphas = np.exp(generator.uniform(np.log(0.02), 0, 12))
            truths = 0.7 - 0.02 * np.log(alphas / 0.1) ** 2
            rows = [
                {"setting_number": i, "reg_alpha": alpha, "seed": s, "objective": truth + generator.normal(0, 0.03)}
                for i, (alpha, truth) in enumerate(zip(alphas, truths, strict=True))
                for s in range(2)
            ]
            chosen = advise(trials(rows), self.SPACE).recommended
            held += chosen.objective_low <= truths[chosen.setting_number] <= chosen.objective_high
        assert held >= 25


class TestPlaces:
    @pytest.mark.parametrize("name", ["digits_double", "digits_ranges", "cifar10_ranges", "mnist_mnist"])
    def test_values_and_parts_are_each_others_way_back(self, name):
        places = Places(load_space(name))
        generator = np.random.default_rng(0)
        for _ in range(20):
            params = {key: places.value(key, generator.random()) for key in places.names}
            again = {key: places.value(key, part) for key, part in places.parts(params).items()}
            assert again == pytest.approx(params) if all(isinstance(v, float) for v in params.values()) else True
            axes = places.place(params)
            assert axes.shape == places.groups.shape and axes.min() >= 0 and axes.max() <= 1

    def test_the_ends_of_a_range(self):
        places = Places(load_space("digits_double"))
        assert places.value("reg_image_num", 0.0) == 200 and places.value("reg_image_num", 0.9999) == 1000
        assert places.value("reg_alpha", 0.0) == pytest.approx(0.02) and places.value("reg_alpha", 1.0) == 1
