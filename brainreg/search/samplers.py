"""Optuna's samplers, as a search uses them."""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

# Optuna's samplers propose at random until they have seen this many trials.
_RANDOM_TRIALS = 10

# Trials of a generation of NSGA-II.
_POPULATION = 8

# A Gaussian process sees so many finished trials at most: its next proposal takes longer the more it sees.
_MOST_OF_GP = 100


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Return one of Optuna's samplers.

    Args:
        name: tpe, gp, nsga2 or random.
        seed: of its draws.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(
                n_startup_trials=_RANDOM_TRIALS,
                multivariate=True,  # alpha and Th act together
                group=True,  # Th_2 exists in the range double only
                constant_liar=True,  # trials that run at the same time should differ
                seed=seed,
            )
        elif name == "gp":
            sampler = optuna.samplers.GPSampler(
                n_startup_trials=_RANDOM_TRIALS, seed=seed, warn_independent_sampling=False
            )
        elif name == "nsga2":
            sampler = optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=seed)
        else:
            return optuna.samplers.RandomSampler(seed=seed)
    # TPE learns from the given settings, too.
    return _OfProposals(sampler, most=_MOST_OF_GP if name == "gp" else None, given=name == "tpe")


class _Proposals(optuna.Study):
    """A study as its proposed trials alone show it: without those of given settings, which have no parameters.

    GPSampler and NSGAIISampler search the parameters that all trials share; one without any would leave them none.

    Attributes:
        most: finished trials that are shown; None shows all.
        given: whether those of given settings are shown after all.
    """

    most: int | None = None
    given: bool = False

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        trials = [trial for trial in trials if self.given or trial.params or not trial.state.is_finished()]
        return trials if self.most is None else _most_telling(trials, self.most)


def _most_telling(trials: list[FrozenTrial], most: int) -> list[FrozenTrial]:
    """Return the trials without some of the finished ones: the best half of `most` stay, and the newest others."""
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    ranked = sorted(finished, key=lambda trial: -sum(trial.values))
    newest = sorted(ranked[most // 2 :], key=lambda trial: -trial.number)
    left_out = {trial.number for trial in newest[most - most // 2 :]}
    return [trial for trial in trials if trial.number not in left_out]


class _OfProposals(BaseSampler):
    """Lets a sampler see `_Proposals`, with `most` finished trials."""

    def __init__(self, sampler: BaseSampler, most: int | None = None, given: bool = False):
        self._sampler, self._most, self._given = sampler, most, given
        self._view: _Proposals | None = None

    def _of(self, study: optuna.Study, anew: bool = False) -> _Proposals:
        if self._view is None:
            self._view = _Proposals(study.study_name, study._storage, sampler=study.sampler)
            self._view.most, self._view.given = self._most, self._given
        if anew:  # as Optuna itself: the trials are read once for all parameters of a proposal
            self._view._thread_local.cached_all_trials = None
        return self._view

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return self._sampler.infer_relative_search_space(self._of(study), trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return self._sampler.sample_relative(self._of(study), trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        return self._sampler.sample_independent(self._of(study), trial, name, distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(self._of(study, anew=True), trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(self._of(study, anew=True), trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()
