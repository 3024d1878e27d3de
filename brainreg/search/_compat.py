"""What this package uses of Optuna and Ray Tune that is no public interface of theirs; all of it, and nothing else.

pyproject.toml allows the minor versions that this was tested with, and `tests/search/test_compat.py` says what it must
do: whoever allows another begins there.
"""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial


def open_trial(study: optuna.Study, trial: FrozenTrial) -> Trial:
    """Return a stored trial so that it can be asked and told again; its study's sampler begins it."""
    return Trial(study, trial._trial_id)


def stored_trial(study: optuna.Study, trial: Trial) -> FrozenTrial:
    """Return what a study's storage knows of a trial now."""
    return study._storage.get_trial(trial._trial_id)


def system_attributes(study: optuna.Study, trial: Trial) -> dict[str, Any]:
    """Return what Optuna itself noted of a trial."""
    return study._storage.get_trial_system_attrs(trial._trial_id)


def change_waiting(
    study: optuna.Study, trial: FrozenTrial, user_attributes: dict[str, Any], params: dict[str, Any]
) -> None:
    """Give attributes, and, where there are any, parameters to a trial that waits to be asked for."""
    for name, value in user_attributes.items():
        study._storage.set_trial_user_attr(trial._trial_id, name, value)
    if params:
        study._storage.set_trial_system_attr(trial._trial_id, "fixed_params", params)


def has_fixed_params(trial: FrozenTrial) -> bool:
    """Return whether a trial was enqueued with its parameters."""
    return bool(trial.system_attrs.get("fixed_params"))


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a distribution can give a value."""
    return distribution._contains(distribution.to_internal_repr(value))


def first_generation() -> dict[str, Any]:
    """Return what Optuna notes of a trial of NSGA-II's first generation, of which the others are bred."""
    return {optuna.samplers.NSGAIISampler._get_generation_key(): 0}


def requeue(controller: Any, trial: Any) -> None:
    """Put a trial back into the queue of Ray Tune's controller, as that does with trials that run."""
    controller._requeue_trial(trial)
