"""What a search runs next: which setting, new or known, and with which seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from scipy.stats import qmc

from brainreg.recommendation.allocation import SettingRuns, Settings, choose, fit_surrogates
from brainreg.recommendation.places import Places
from brainreg.recommendation.recommend import fit_guarded, recommend
from brainreg.search.proposals import all_settings, setting_key
from brainreg.search.strategy import GOALS, SURROGATE, Strategy
from brainreg.seeds import search_seed
from brainreg.spaces.names import PROPOSED, PUBLISHED, UNREGULARIZED
from brainreg.spaces.space import Space

# The first runs of new settings share so many seeds in turn: settings of one seed are compared without its offset.
_FIRST_SEEDS = 4

# Before anything is learned, so many settings are spread over the space.
_SPREAD_SETTINGS = 6

# For every so many trials, each control has one more run.
_TRIALS_A_CONTROL_RUN = 12

# New settings that are looked at: spread over the space, and near each of the best known ones, with the standard
# deviation of their distance along each parameter.
_SPREAD_CANDIDATES, _NEAR_CANDIDATES, _NEAR_SETTINGS, _NEAR = 192, 16, 4, 0.1

# The last part of a search of so many trials or more runs known settings again, and no new ones.
_RACE_FROM, _RACE_TRIALS = 0.65, 13

# Of fewer finished trials, it is not told how much better the best setting may be.
_LEAST_FINISHED = 12

# Stopped runs are estimated from their proxies where so many finished runs show how the two go together.
_LEAST_PAIRS = 5


@dataclass(frozen=True)
class NextRun:
    """A run that is to begin.

    Attributes:
        seed: of the run.
        setting_number: number of the first trial of the setting; None where the setting is new.
        setting: name of a given setting, or empty.
        params: Optuna's parameters of the setting; empty where a sampler proposes them, and of a given setting that has
            none.
    """

    seed: int
    setting_number: int | None = None
    setting: str = PROPOSED
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, Any]:
        """What Optuna's trial keeps of it."""
        attributes: dict[str, Any] = {"seed": self.seed}
        attributes |= {"setting": self.setting} if self.setting else {}
        return attributes | ({} if self.setting_number is None else {"setting_number": self.setting_number})


def trial_setting(trial: FrozenTrial) -> int:
    """Return the number of the setting that a trial runs."""
    return trial.user_attrs.get("setting_number", trial.number)


class RunPlanner:
    """Chooses what to run next by what is known: top-two Thompson sampling over known settings and new ones.

    Args:
        space: what is searched.
        strategy: goal, sampler and seeds; its sampler's seed is known.
    """

    def __init__(self, space: Space, strategy: Strategy):
        self._space, self._strategy = space, strategy
        self._places = Places(space)
        self._listed = all_settings(space)

    def first_seed(self, number: int, settings: int) -> int:
        """Return the seed of a setting's first run.

        Args:
            number: of the trial; the given settings come first, and have the search's own seed.
            settings: how many settings there are already.
        """
        if number < len(self._space.given) or self._strategy.seeds is not None:
            return self._space.seed
        return search_seed(self._space.seed, settings % _FIRST_SEEDS)

    def next_run(self, trials: Sequence[FrozenTrial], number: int, part_spent: float = 0.0) -> NextRun:
        """Return what to run next.

        Args:
            trials: of the search that began, with their values as far as they have ended.
            number: of the next trial; one number and one knowledge give one answer.
            part_spent: of the search's limit, 0 to 1.
        """
        known = _KnownRuns(self._space, self._places, trials, len(GOALS[self._strategy.objective]))
        if self._strategy.seeds is not None:
            lacking = [one for one in known.repeatable if known.counts[one] < self._strategy.seeds]
            return self._repeat(known, min(lacking)) if lacking else self._new(known, number)
        for name in (UNREGULARIZED, PUBLISHED):
            control = known.given.get(name)
            if control in known.repeatable and known.counts[control] < 1 + len(trials) // _TRIALS_A_CONTROL_RUN:
                return self._repeat(known, control)
        proposed = sum(name == PROPOSED for name in known.names.values())
        if proposed < _SPREAD_SETTINGS or not known.ended:
            return self._new(known, number, self._spread(known, proposed))
        return self._choose(known, number, part_spent)

    def expected_regret(self, trials: Sequence[FrozenTrial]) -> float:
        """Return how much better the best of the settings is expected to be than the recommended one.

        Infinite where too little is known, and for several goals.
        """
        known = _KnownRuns(self._space, self._places, trials, len(GOALS[self._strategy.objective]))
        able = np.array([name in (PROPOSED, PUBLISHED) for name in known.names.values()])
        if len(known.values) > 1 or known.finished < _LEAST_FINISHED or not able.any():
            return float("inf")
        surrogate, settings = fit_guarded(known.settings, known.runs, self._places.groups)
        return recommend(surrogate, settings, known.runs, able).regret

    def _repeat(self, known: "_KnownRuns", setting: int) -> NextRun:
        used, index = known.seeds[setting], 0
        while (seed := search_seed(self._space.seed, index)) in used:
            index += 1
        return NextRun(seed, setting, known.names[setting], known.params[setting])

    def _new(self, known: "_KnownRuns", number: int, params: Mapping[str, Any] | None = None) -> NextRun:
        if self._listed is not None and self._listed.keys() <= known.keys and known.regularized:
            return self._repeat(known, min(known.regularized, key=lambda one: (known.counts[one], one)))
        seed = self.first_seed(number, len(known.names))
        proposes = self._strategy.sampler == SURROGATE
        if proposes and params is None:
            params = next(iter(self._candidates(known, np.random.default_rng([self._seed, number]))), {})
        return NextRun(seed, params=(params or {}) if proposes else {})

    def _spread(self, known: "_KnownRuns", index: int) -> dict[str, Any] | None:
        """The next setting of those that are spread over the space; None where none is left."""
        sobol = qmc.Sobol(len(self._places.names), seed=np.random.default_rng([self._seed, 0]))
        for parts in sobol.random(64)[index:]:
            params = self._params(parts)
            if self._key(params) not in known.keys:
                return params
        return None

    def _choose(self, known: "_KnownRuns", number: int, part_spent: float) -> NextRun:
        generator = np.random.default_rng([self._seed, number])
        surrogates = fit_surrogates(known.settings, known.runs, known.values, self._places.groups)
        race = number >= _RACE_TRIALS and part_spent >= _RACE_FROM
        repeatable = np.array([one in known.regularized for one in known.names])
        candidates = []
        if not race or not repeatable.any():
            candidates = self._candidates(known, generator, surrogates)
        allowed = np.append(repeatable, np.ones(len(candidates), dtype=bool))
        if not allowed.any():
            return self._new(known, number)
        settings = known.settings.and_new(self._places.place_all(candidates))
        chosen = choose(surrogates, settings, allowed, generator)
        if chosen < len(known.names):
            return self._repeat(known, list(known.names)[chosen])
        return self._new(known, number, candidates[chosen - len(known.names)])

    @property
    def _seed(self) -> int:
        assert self._strategy.sampler_seed is not None  # a planned search has one
        return self._strategy.sampler_seed

    def _candidates(
        self, known: "_KnownRuns", generator: np.random.Generator, surrogates: Sequence[Any] = ()
    ) -> list[dict[str, Any]]:
        """New settings, none of which is known."""
        if self._listed is not None:
            left = [params for key, params in self._listed.items() if key not in known.keys]
            order = generator.permutation(len(left))[: _SPREAD_CANDIDATES + _NEAR_CANDIDATES * _NEAR_SETTINGS]
            return [left[i] for i in order]
        names = self._places.names
        parts = [generator.random((_SPREAD_CANDIDATES, len(names)))]
        if surrogates:
            inside = [i for i, one in enumerate(known.names) if known.params[one]]
            means = surrogates[0].posterior(known.settings.places, known.settings.islands)[0]
            for i in sorted(inside, key=lambda i: -means[i])[:_NEAR_SETTINGS]:
                center = self._places.parts(known.params[list(known.names)[i]])
                middle = [center.get(name, 0.5) for name in names]
                near = generator.normal(middle, _NEAR, (_NEAR_CANDIDATES, len(names)))
                parts.append(np.abs(1 - np.abs(1 - near)).clip(0, 1 - 1e-9))  # what lies outside is mirrored
        found: dict[str, dict[str, Any]] = {}
        for row in np.concatenate(parts):
            params = self._params(row)
            key = self._key(params)
            if key not in known.keys:
                found.setdefault(key, params)
        return list(found.values())

    def _params(self, parts: Sequence[float]) -> dict[str, Any]:
        """The parameters of a setting that lies at these parts of its ranges, without those that it does not have."""
        values = {
            name: self._places.value(name, float(part)) for name, part in zip(self._places.names, parts, strict=True)
        }
        trial = FixedTrial(values)
        self._space(trial)
        return {name: values[name] for name in values if name in trial.distributions}

    def _key(self, params: Mapping[str, Any]) -> str:
        return setting_key(self._space(FixedTrial(dict(params))))


class _KnownRuns:
    """The runs of a search, by their settings.

    Attributes:
        names: of the settings, by their numbers, in one order for all attributes.
        params: Optuna's parameters of each setting.
        counts, seeds: how many runs each setting has, and their seeds.
        repeatable: settings of which a run has finished, runs or was stopped, and none failed.
        regularized: those of them that may be recommended.
        given: numbers of the given settings, by their names.
        keys: of all settings, as `setting_key` makes them.
        settings, runs, values: as `fit_surrogates` wants them.
        ended, finished: how many runs have a value, estimated or not, and how many have one of their own.
    """

    def __init__(self, space: Space, places: Places, trials: Sequence[FrozenTrial], goals: int):
        firsts = {trial_setting(one): one for one in reversed(trials)}
        self.names = {number: firsts[number].user_attrs.get("setting", PROPOSED) for number in sorted(firsts)}
        self.params = {number: dict(firsts[number].params) for number in self.names}
        self.counts = dict.fromkeys(self.names, 0)
        self.seeds: dict[int, set[int]] = {number: set() for number in self.names}
        failed = set()
        for one in trials:
            number = trial_setting(one)
            self.counts[number] += 1
            self.seeds[number].add(one.user_attrs.get("seed", space.seed))
            if one.state == TrialState.FAIL:
                failed.add(number)
        self.repeatable = {number for number in self.names if number not in failed}
        self.regularized = {one for one in self.repeatable if self.names[one] in (PROPOSED, PUBLISHED)}
        self.given = {name: number for number, name in self.names.items() if name}
        inside = {number: params for number, params in self.params.items() if params}
        self.keys = {setting_key(space(FixedTrial(params))) for params in inside.values()}
        self.keys |= {setting_key(space.setting(name)) for name in space.given}
        self.settings = Settings(
            np.array([places.place(self.params[one]) for one in self.names]).reshape(-1, len(places.groups)),
            np.array([-1 if one in inside else one for one in self.names], dtype=int),
        )
        order = {number: i for i, number in enumerate(self.names)}
        rows = [(one, *value) for one in trials if (value := _value(one, trials, goals)) is not None]
        self.values = np.array([values for _, values, _ in rows], dtype=float).reshape(-1, goals).T
        self.runs = SettingRuns(
            np.array([order[trial_setting(one)] for one, *_ in rows], dtype=int),
            np.array([one.user_attrs.get("seed", space.seed) for one, *_ in rows], dtype=np.int64),
            self.values[0] if len(rows) else np.empty(0),
            np.array([extra for *_, extra in rows], dtype=float),
        )
        self.ended = int((~np.isnan(self.runs.values)).sum())
        self.finished = sum(one.state == TrialState.COMPLETE for one in trials)


def _value(trial: FrozenTrial, trials: Sequence[FrozenTrial], goals: int) -> tuple[list[float], float] | None:
    """What a run gave, missing while it runs, and the variance of an estimate; None of a run that tells nothing."""
    if trial.state == TrialState.COMPLETE:
        return list(trial.values), 0.0
    if trial.state == TrialState.RUNNING:
        return [np.nan] * goals, 0.0
    if trial.state != TrialState.PRUNED or goals > 1 or not trial.intermediate_values:
        return None
    epoch = max(trial.intermediate_values)
    pairs = [
        (one.intermediate_values[epoch], one.values[0])
        for one in trials
        if one.state == TrialState.COMPLETE and epoch in one.intermediate_values
    ]
    if len(pairs) < _LEAST_PAIRS:
        return None
    proxies, values = np.array(pairs).T
    if np.ptp(proxies) == 0:
        return None
    slope, level = np.polyfit(proxies, values, 1)
    rest = float(np.var(values - slope * proxies - level))
    return [float(slope * trial.intermediate_values[epoch] + level)], rest
