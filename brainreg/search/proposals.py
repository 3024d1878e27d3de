"""Settings that were not tried before, and the end of a space that is used up."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from brainreg.hyperparameters import REGULARIZER, Hyperparameters
from brainreg.records.trial import TrialRecord
from brainreg.search._compat import contains, has_fixed_params
from brainreg.spaces.space import Space

# A space of more settings than this is not listed: no search uses it up.
_MOST_LISTED = 10_000

# So often a sampler may propose what is known already; then something else is drawn at random.
_TRIES, _RANDOM_TRIES = 5, 1000


def setting_key(hyperparameters: Mapping[str, Any]) -> str:
    """Return what tells two settings apart: with one key and one seed, trainings give the same network."""
    return json.dumps(setting_content(hyperparameters), sort_keys=True, default=str)


def setting_content(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that tell two settings apart, defaults too; without the seed."""
    defaults = {name: field.default for name, field in Hyperparameters.model_fields.items()}
    content = {name: value for name, value in {**defaults, **hyperparameters}.items() if name != "seed"}
    if not content["reg_alpha"]:
        content = {name: value for name, value in content.items() if name not in REGULARIZER}
    else:
        content["reg_data"] = content["reg_data"] or content["task"]
    return content


def all_settings(space: Space) -> dict[str, dict[str, Any]] | None:
    """Return the parameters of all settings that a space can propose, by their keys; None where they are too many."""
    values: dict[str, Sequence[Any]] = {}
    for name, distribution in _distributions(space):
        listed = _values(distribution)
        if listed is None:
            return None
        values[name] = listed
        if math.prod(len(one) for one in values.values()) > _MOST_LISTED:
            return None
    found: dict[str, dict[str, Any]] = {}
    for combination in itertools.product(*values.values()):
        trial = FixedTrial(dict(zip(values, combination, strict=True)))
        found.setdefault(setting_key(space(trial)), dict(trial.params))
    return found


def most_trials(space: Space, seeds: int | None, records: Sequence[TrialRecord] = ()) -> int | None:
    """Return how many trials a search can have; None where nothing limits them but what is asked for.

    Args:
        space: what is searched; its given settings are trials, too.
        seeds: runs of every setting; None lets the search run settings again as often as it likes.
        records: of the trials that began.
    """
    listed = all_settings(space)
    if listed is None or seeds is None:
        return None
    given = {*space.given} - {record.setting for record in records}
    known = [space.setting(name) for name in space.given] + [record.hyperparameters for record in records]
    begun = Counter(record.setting_number for record in records)
    untried = len(given) + len(listed.keys() - {setting_key(one) for one in known})
    return sum(max(seeds, runs) for runs in begun.values()) + seeds * untried


class _AnyParameter:
    """A trial that takes down what a space asks for."""

    def __init__(self):
        self.user_attrs: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self.params: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> Any:
        return self._taken(name, FloatDistribution(low, high, log=log, step=step))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any:
        return self._taken(name, IntDistribution(low, high, log=log, step=step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._taken(name, CategoricalDistribution(choices))

    def _taken(self, name: str, distribution: BaseDistribution) -> Any:
        self.distributions[name] = distribution
        self.params[name] = self.draw(name, distribution)
        return self.params[name]

    def draw(self, name: str, distribution: BaseDistribution) -> Any:
        raise NotImplementedError


class _Drawn(_AnyParameter):
    """A proposal of a sampler, before anything of it is stored."""

    def __init__(self, sampler: BaseSampler, study: optuna.Study, trial: FrozenTrial, relative: Mapping[str, Any]):
        super().__init__()
        self._sampler, self._study, self._trial, self._relative = sampler, study, trial, relative

    def draw(self, name: str, distribution: BaseDistribution) -> Any:
        if distribution.single():
            return next(iter(_values(distribution) or ()))
        if name in self._relative:
            value = self._relative[name]
            if contains(distribution, value):
                return value
        return self._sampler.sample_independent(self._study, self._trial, name, distribution)


class NewSettings(BaseSampler):
    """A sampler whose proposals are whole settings, none of which is known.

    Args:
        sampler: what proposes.
        space: what is searched.
        known: keys of the settings that are known; who proposes adds to it.
        seed: of what is drawn where the sampler only repeats itself.
    """

    def __init__(self, sampler: BaseSampler, space: Space, known: set[str], seed: int):
        self._sampler, self._space, self._known = sampler, space, known
        self._random, self._generator = RandomSampler(seed=seed), np.random.default_rng(seed)
        self._listed = all_settings(space)
        self._proposal: dict[str, Any] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Draw the whole setting, and return what it consists of."""
        if has_fixed_params(trial) or "setting" in trial.user_attrs:
            return {}  # nothing is to be proposed
        proposal = self._propose(study, trial)
        self._proposal = proposal.params
        return proposal.distributions

    def _propose(self, study: optuna.Study, trial: FrozenTrial) -> _AnyParameter:
        for proposal in self._proposals(study, trial):
            last = proposal
            if setting_key(self._space(proposal)) not in self._known:
                break
        return last

    def _proposals(self, study: optuna.Study, trial: FrozenTrial) -> Iterator[_AnyParameter]:
        shared = self._sampler.infer_relative_search_space(study, trial)
        for _ in range(_TRIES):
            yield _Drawn(self._sampler, study, trial, self._sampler.sample_relative(study, trial, shared))
        left = [params for key, params in (self._listed or {}).items() if key not in self._known]
        if left:
            yield _Drawn(self._random, study, trial, left[self._generator.integers(len(left))])
        for _ in range(_RANDOM_TRIES):
            yield _Drawn(self._random, study, trial, {})

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._proposal

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        return self._sampler.sample_independent(study, trial, name, distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()


def _distributions(space: Space) -> Iterator[tuple[str, BaseDistribution]]:
    """The parameters that a space may ask for, each with the distribution that it has."""

    class Asked(_AnyParameter):
        def draw(self, name: str, distribution: BaseDistribution) -> Any:
            if isinstance(distribution, CategoricalDistribution):
                # The range double asks for one parameter more than others.
                return "double" if "double" in distribution.choices else distribution.choices[0]
            assert isinstance(distribution, IntDistribution | FloatDistribution)
            return distribution.low

    asked = Asked()
    space(asked)
    yield from asked.distributions.items()


def _values(distribution: BaseDistribution) -> Sequence[Any] | None:
    """All values of a distribution; None where it has no list of them."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    assert isinstance(distribution, FloatDistribution)
    if distribution.single():
        return [distribution.low]
    if distribution.step is None:
        return None
    count = int((distribution.high - distribution.low) / distribution.step + 1e-8) + 1
    return [min(distribution.low + i * distribution.step, distribution.high) for i in range(count)]
