"""Which hyperparameters matter, against what pure chance would show, and how well the model predicts."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    MeanDecreaseImpurityImportanceEvaluator,
    PedAnovaImportanceEvaluator,
)
from optuna.search_space import intersection_search_space
from optuna.trial import FrozenTrial, TrialState, create_trial

from brainreg.errors import InputError, validated
from brainreg.records.manifest import MANIFEST, read_manifest
from brainreg.records.searches import split_folders
from brainreg.records.trial import read_trials
from brainreg.search.strategy import Strategy
from brainreg.search.study import SearchStudy
from brainreg.spaces.space import Space
from brainreg.storage import Storage, StorageError

# By the names that figures show. The first two ask what explains the objective in the whole space, the third what tells
# the best tenth of the trials from all.
EVALUATORS: dict[str, Callable[[int, int], BaseImportanceEvaluator]] = {
    "fANOVA": lambda seed, trees: FanovaImportanceEvaluator(n_trees=trees, seed=seed),
    "mean decrease impurity": lambda seed, trees: MeanDecreaseImpurityImportanceEvaluator(n_trees=trees, seed=seed),
    "PED-ANOVA": lambda seed, trees: PedAnovaImportanceEvaluator(),
}

# Of a random forest: Optuna's own default.
TREES = 64

# With fewer trials there is nothing to tell.
FEWEST_TRIALS = 5

# Random orders of the objectives. Of shares that are noise, one in twenty is larger than all of these: a 95% band.
_ORDERS = 19

_FOLDS = 5  # of the cross-validation


def importances(
    folders: str | Path | Storage | Sequence[str | Path | Storage], seed: int = 0, trees: int = TREES
) -> pd.DataFrame:
    """Return how much each searched hyperparameter matters to the objective.

    Trials without parameters (given settings that are no points of the space) are left out, and those that did not
    finish. The study is made again from the trials' records, which it equals, wherever its database is. Hyperparameters
    that only some trials have, as Th_2, are no part of the comparison.

    Args:
        folders: of the searches, as `brainreg.records.searches.load_searches` takes them.
        seed: of the random forests.
        trees: of each. fANOVA takes time for each tree: a quarter of a second, where 1,000 trials have finished.

    Returns:
        search (its folder), parameter (Optuna's name of it), evaluator, importance (a share: those of one search and
        evaluator sum to 1), floor (the largest share that the same objectives in 19 random orders give: a smaller
        importance is not told from noise), r2 (of a random forest's cross-validated predictions of the objective; where
        it is not above 0, importance means nothing, and there is no floor) and trials (how many it is made of). No rows
        of a search of fewer than `FEWEST_TRIALS`, one whose trials all have the same objective, or one of another
        version.

    Raises:
        InputError: a folder holds no search.
    """
    rows = []
    for name, search in split_folders(folders).items():
        try:
            study = _proposed(search)
        except StorageError:
            raise
        except InputError:
            continue
        trials = study.get_trials(deepcopy=False)
        shared = [*intersection_search_space(trials)]
        if not shared or len(trials) < FEWEST_TRIALS or len({trial.value for trial in trials}) == 1:
            continue
        r2 = predicted(trials, shared, seed, trees)
        draws = np.random.default_rng(seed)
        shuffled = [_shuffled(trials, draws) for _ in range(_ORDERS)] if r2 > 0 else []
        for evaluator, make in EVALUATORS.items():
            shares = _shares(study, make(seed, trees), shared)
            fewer = [_shares(one, make(seed, max(trees // 8, 1)), shared) for one in shuffled]
            for parameter, share in shares.items():
                floor = max((one[parameter] for one in fewer), default=math.nan)
                rows.append((name, parameter, evaluator, share, floor, r2, len(trials)))
    return pd.DataFrame(rows, columns=["search", "parameter", "evaluator", "importance", "floor", "r2", "trials"])


def _shares(study: optuna.Study, evaluator: BaseImportanceEvaluator, parameters: Sequence[str]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.importance.get_param_importances(study, evaluator=evaluator, params=[*parameters])


def _shuffled(trials: Sequence[FrozenTrial], draws: np.random.Generator) -> optuna.Study:
    """A study of the same settings, with their objectives in a random order."""
    study = optuna.create_study(direction="maximize")
    values = draws.permutation([trial.value or 0.0 for trial in trials])
    study.add_trials(
        [
            create_trial(value=float(value), params=trial.params, distributions=trial.distributions)
            for trial, value in zip(trials, values, strict=True)
        ]
    )
    return study


def predicted(trials: Sequence[FrozenTrial], parameters: Sequence[str], seed: int = 0, trees: int = TREES) -> float:
    """Return how well a random forest predicts objectives that it has not seen from the parameters: a cross-validated
    R2, 1 at best; 0 is as good as the mean.

    Args:
        trials: finished ones.
        parameters: that all of them have.
        seed: of the forests and of the folds.
        trees: of each forest.
    """
    # Imported here: both are slow to import, and few commands come here.
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold, cross_val_predict

    columns = []
    for name in parameters:
        distribution, values = trials[0].distributions[name], [trial.params[name] for trial in trials]
        if isinstance(distribution, CategoricalDistribution):
            columns += [[float(value == choice) for value in values] for choice in distribution.choices]
        else:
            columns.append(values)  # trees ask for the order alone, so no scale matters
    objectives = np.array([trial.value for trial in trials])
    folds = KFold(min(_FOLDS, len(trials)), shuffle=True, random_state=seed)
    found = cross_val_predict(
        RandomForestRegressor(trees, random_state=seed), np.array(columns).T, objectives, cv=folds
    )
    return float(1 - np.sum((objectives - found) ** 2) / np.sum((objectives - objectives.mean()) ** 2))


def _proposed(search: Storage) -> optuna.Study:
    """A study of one goal, the objective, of the finished trials that have parameters."""
    manifest, where = read_manifest(search), search.path(MANIFEST)
    told = SearchStudy(
        validated(Space, manifest["space"], spell=lambda key: f"space.{key}", where=f"{where}: "),
        validated(Strategy, manifest["strategy"], spell=lambda key: f"strategy.{key}", where=f"{where}: "),
        name=str(search).rsplit("/", 1)[-1],
        records=read_trials(search, damaged=[]),
    ).study
    study = optuna.create_study(direction="maximize")
    for trial in told.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if trial.params:
            objective = trial.user_attrs["objective"] if len(trial.values) > 1 else trial.values[0]
            study.add_trial(create_trial(value=objective, params=trial.params, distributions=trial.distributions))
    return study
