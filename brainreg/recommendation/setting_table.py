"""The settings of a search as a table: what their runs say of each, and which one is recommended."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainreg.hyperparameters import REGULARIZER
from brainreg.recommendation.allocation import SettingRuns, Settings
from brainreg.recommendation.places import Places
from brainreg.recommendation.recommend import Recommendation, fit_guarded, recommend
from brainreg.recommendation.surrogate import Surrogate
from brainreg.spaces.names import PROPOSED, PUBLISHED, UNREGULARIZED
from brainreg.spaces.space import Space
from brainreg.statistics import knee

# Runs that repeat a setting: with fewer, too little is known of the noise of a run.
FEWEST_REPEATS = 3

# What is expected of a setting: column of a trial's table, and what its columns here begin with.
_EXPECTED = {"objective": "objective", "clean_accuracy": "clean", "robust_accuracy": "robust"}
_WEIGHTED_NOISE = {"noise_accuracy": "noise"}

# A setting that is as good as the best with less than this probability is said not to be.
LEAST_AS_GOOD = 0.1

# Columns of `Advice.settings` before and behind the searched hyperparameters, and behind what is expected.
_FIRST = ("setting_number", "setting")
_RUNS = ("rank", "runs", "trials", "recommended")
_LAST = (
    *("mean_objective", "largest_objective", "p_best", "p_near", "p_front"),
    *("p_better_unregularized", "p_better_published"),
)

# What `with_expectations` says of a trial.
EXPECTATIONS = (
    *("expected_objective", "expected_clean_accuracy", "expected_robust_accuracy", "probability_as_good"),
    "setting_rank",
)


@dataclass(frozen=True)
class Advice:
    """What a search recommends.

    Attributes:
        settings: a row for each setting with a finished run, the best first, with the hyperparameters that are
            searched. `trials` are the numbers of its finished runs; `objective`, `clean`, `robust` and, where it has a
            part in the objective, `noise` are what is expected of a further run, `_low` and `_high` the ends of their
            95% intervals, cut at 0 and 1; `p_best`
            is the probability that no other setting that was tried is better by more than 0.005, `p_near` by more than
            0.01, `p_front` that none is better in clean and in robust accuracy.
        recommended: its row; None where no regularized setting has finished.
        checkpoint: number of the trial whose network stands for it: of its runs, the one nearest to the expected
            objective.
        gains: of each given setting, by its name, the expected gain of the recommended one, and the ends of its 95%
            interval.
        noise: standard deviation of one run around its setting's expected objective; missing before two runs.
        regret: how much better the best of the settings is expected to be than the recommended one.
    """

    settings: pd.DataFrame
    recommended: pd.Series | None
    checkpoint: int | None
    gains: dict[str, tuple[float, float, float]]
    noise: float
    regret: float

    @property
    def caution(self) -> str:
        """A sentence where so few runs repeat a setting that their noise is assumed rather than measured; or empty."""
        repeats = int((self.settings.runs - 1).sum())
        if repeats >= FEWEST_REPEATS:
            return ""
        counted = {0: "no run repeats", 1: "1 run repeats"}.get(repeats, f"only {repeats} of the runs repeat")
        return (
            f"{counted} a setting, so that the noise of a run is assumed rather than measured: intervals and"
            " probabilities may be far too sure"
        )

    @property
    def as_good(self) -> pd.DataFrame:
        """The regularized settings that may be as good as the best: whose objective is, with 10% at least, within 0.01
        of that of every other setting. Of the others, it is known with 90% that they are not.
        """
        settings = self.settings
        return settings[may_be_recommended(settings) & (settings.p_near >= LEAST_AS_GOOD)]

    def ranges_as_good(self) -> dict[str, tuple[float, float]]:
        """Return `ranges` of the settings that may be as good."""
        return ranges(self.as_good)

    def runs_to_settle(self, probability: float = 0.9) -> int | None:
        """Return about how many more runs would make the recommendation sure, if the best two share them.

        None where it is sure already, or where that would take more than a thousand.
        """
        if self.recommended is None or self.recommended.p_best >= probability or len(self.settings) < 2:
            return None
        rivals = self.settings[(self.settings.setting != UNREGULARIZED) & ~self.settings.recommended]
        if rivals.empty or not self.noise > 0:
            return None
        gap = max(self.recommended.objective - rivals.objective.max(), 0.0) + 0.005
        each = (1.6449 * self.noise / gap) ** 2
        more = math.ceil(2 * each - self.recommended.runs - rivals.runs.iloc[0])
        return more if 0 < more <= 1000 else None


def expected_of(space: Space) -> dict[str, str]:
    """Return what is expected of a further run: the column of a trial's table, and what columns of `Advice.settings`
    begin with. Accuracy under noise is among it where it has a weight in the objective.
    """
    return _EXPECTED | _WEIGHTED_NOISE if space.objective.noise_weight else _EXPECTED


def ranges(rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest alpha and Th of settings or trials, by column, where known."""
    values = {name: rows[name].dropna().astype(float) for name in ("reg_alpha", "reg_thresh") if name in rows}
    return {name: (float(own.min()), float(own.max())) for name, own in values.items() if len(own)}


def may_be_recommended(settings: pd.DataFrame) -> np.ndarray:
    """Return which rows, of settings or trials, are of a setting with the regularizer, (rows,) bool."""
    return settings.setting.isin((PROPOSED, PUBLISHED)).to_numpy()


def knee_of(settings: pd.DataFrame) -> int | None:
    """Return which row of `Advice.settings` is the knee of the front of those that may be recommended."""
    able = np.flatnonzero(may_be_recommended(settings))
    bend = knee(settings.clean.iloc[able].tolist(), settings.robust.iloc[able].tolist()) if len(able) else None
    return None if bend is None else int(able[bend])


def advise(finished: pd.DataFrame, space: Space) -> Advice:
    """Return what the runs of a search say of its settings.

    Args:
        finished: the finished trials of one search, with the columns of `brainreg.records.results.load_results`.
        space: what was searched.
    """
    groups = {number: own for number, own in finished.groupby("setting_number", sort=True)}
    names = {number: own.setting.iloc[0] for number, own in groups.items()}
    if not groups:
        return Advice(_frame([], space), None, None, {}, math.nan, math.nan)
    places = Places(space)
    settings = _settings(groups, names, places, space)
    order = {number: i for i, number in enumerate(groups)}
    runs = SettingRuns(
        np.array([order[number] for number in finished.setting_number]),
        finished.seed.fillna(space.seed).to_numpy(dtype=np.int64),
        finished.objective.to_numpy(dtype=float),
        np.zeros(len(finished)),
    )
    able = np.array([names[number] in (PROPOSED, PUBLISHED) for number in groups])
    results_of = {
        column: _recommendation(settings, runs.with_values(finished[column].to_numpy(dtype=float)), places, able, seed)
        for seed, column in enumerate(expected_of(space))
    }
    surrogate, said = results_of["objective"]
    on_front = _front_probabilities(results_of["clean_accuracy"][1].draws, results_of["robust_accuracy"][1].draws)
    rows = []
    for number, own in groups.items():
        i = order[number]
        row = {
            "setting_number": number,
            "setting": names[number],
            "runs": len(own),
            "trials": own.trial.tolist(),
            "recommended": bool(able.any() and i == said.setting),
            "mean_objective": float(own.objective.mean()),
            "largest_objective": float(own.objective.max()),
            "p_best": float(said.best[i]),
            "p_near": float(said.near[i]),
            "p_front": float(on_front[i]),
            **{name: own[name].iloc[0] for name in space.search},
        }
        for column, short in expected_of(space).items():
            one = results_of[column][1]
            low, high = np.clip((one.low[i], one.high[i]), 0, 1)  # an accuracy, or a mean of two
            row |= {short: one.mean[i], f"{short}_low": low, f"{short}_high": high}
        for control in (UNREGULARIZED, PUBLISHED):
            other = next((order[n] for n, name in names.items() if name == control), None)
            row[f"p_better_{control}"] = math.nan if other is None or other == i else said.better(i, other)
        rows.append(row)
    frame = _frame(rows, space)
    if not able.any():
        return Advice(frame, None, None, {}, surrogate.noise, math.nan)
    chosen = frame[frame.recommended].iloc[0]
    own = groups[chosen.setting_number]
    gains = {
        name: said.gain(said.setting, order[number])
        for number, name in names.items()
        if name != PROPOSED and order[number] != said.setting
    }
    nearest = own.trial.iloc[int((own.objective - chosen.objective).abs().to_numpy().argmin())]
    return Advice(frame, chosen, int(nearest), gains, surrogate.noise, said.regret)


def _settings(groups: dict[int, pd.DataFrame], names: dict[int, str], places: Places, space: Space) -> Settings:
    axes, islands = np.full((len(groups), len(places.groups)), 0.5), np.full(len(groups), -1)
    for i, (number, own) in enumerate(groups.items()):
        known = own.iloc[0]
        hyperparameters = {name: known[name] for name in (*space.search, *REGULARIZER) if not pd.isna(known[name])}
        given = names[number]
        inside = given == PROPOSED or (given in space.given and bool(space.parameters(given)))
        params = space.drawn(hyperparameters) if inside else None
        if params is None:
            islands[i] = number
        else:
            axes[i] = places.place(params)
    return Settings(axes, islands)


def _recommendation(
    settings: Settings, runs: SettingRuns, places: Places, able: np.ndarray, seed: int = 0
) -> tuple[Surrogate, Recommendation]:
    surrogate, settings = fit_guarded(settings, runs, places.groups)
    return surrogate, recommend(surrogate, settings, runs, able if able.any() else np.ones_like(able), seed)


def _front_probabilities(clean: np.ndarray, robust: np.ndarray) -> np.ndarray:
    """The probability of each setting to be on the front, of (draws, settings) of its two accuracies, drawn
    independently.
    """
    beaten = np.zeros(clean.shape, dtype=bool)
    for other in range(clean.shape[1]):
        beaten |= (clean < clean[:, [other]]) & (robust < robust[:, [other]])
    return 1 - beaten.mean(axis=0)


def _frame(rows: Sequence[dict], space: Space) -> pd.DataFrame:
    expected = [f"{name}{end}" for name in expected_of(space).values() for end in ("", "_low", "_high")]
    columns = [*_FIRST, *space.search, *_RUNS, *expected, *_LAST]
    frame = pd.DataFrame(rows, columns=columns).astype({"recommended": bool})
    frame = frame.sort_values(["objective", "setting_number"], ascending=[False, True], ignore_index=True)
    return frame.assign(rank=range(1, len(frame) + 1))[columns]


def with_expectations(results: pd.DataFrame, advice: Advice) -> pd.DataFrame:
    """Return trials with what is expected of their settings, in the columns `EXPECTATIONS`; missing where none is."""
    by_setting = advice.settings.set_index("setting_number")
    columns = dict(zip(EXPECTATIONS, ("objective", "clean", "robust", "p_near", "rank"), strict=True))
    known = {name: results.setting_number.map(by_setting[column].to_dict()) for name, column in columns.items()}
    return results.assign(**known).astype({**dict.fromkeys(EXPECTATIONS, "float64"), "setting_rank": "Int64"})
