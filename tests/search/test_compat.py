"""What is used of Optuna and Ray that is not public does what it must."""

import re

import optuna
import pytest
from conftest import ROOT
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.execution.tune_controller import TuneController

from brainreg.search._compat import (
    change_waiting,
    contains,
    has_fixed_params,
    open_trial,
    stored_trial,
    system_attributes,
)


@pytest.fixture(params=["memory", "sqlite"])
def study(request, tmp_path):
    storage = None if request.param == "memory" else f"sqlite:///{tmp_path}/study.db"
    return optuna.create_study(storage=storage, direction="maximize")


def test_a_stored_trial_is_asked_and_told_again(study):
    asked = study.ask()
    value = asked.suggest_float("x", 0, 1)
    (stored,) = study.get_trials()
    again = open_trial(study, stored)
    assert again.number == asked.number and again.params == {"x": value}
    study.tell(again, 0.5)
    assert stored_trial(study, asked).state == TrialState.COMPLETE and stored_trial(study, asked).value == 0.5


def test_a_trial_that_waits_is_given_other_parameters(study):
    study.enqueue_trial({}, user_attrs={"setting": "published"})
    (waiting,) = study.get_trials(states=[TrialState.WAITING])
    change_waiting(study, waiting, {"seed": 3}, {"x": 0.25})
    asked = study.ask()
    assert asked.number == waiting.number and asked.user_attrs == {"setting": "published", "seed": 3}
    assert asked.suggest_float("x", 0, 1) == 0.25
    assert has_fixed_params(stored_trial(study, asked)) and "fixed_params" in system_attributes(study, asked)
    assert not has_fixed_params(stored_trial(study, study.ask()))


def test_what_a_distribution_can_give():
    assert contains(FloatDistribution(0, 1), 0.5) and not contains(FloatDistribution(0, 1), 1.5)
    assert contains(IntDistribution(2, 8, step=2), 4) and not contains(IntDistribution(2, 8, step=2), 3)
    assert contains(CategoricalDistribution(["a", "b"]), "b")


def test_ray_tune_can_requeue_a_trial():
    """That it does is tested with a real search that loses a node, in `test_cluster.py`."""
    assert callable(TuneController._requeue_trial)


def test_nothing_else_of_theirs_is_used():
    """A leading underscore after another object than self, cls or one of argparse's."""
    found = []
    for path in (ROOT / "brainreg").rglob("*.py"):
        if path.name in ("_compat.py", "flags.py"):
            continue
        for line in path.read_text().splitlines():
            if re.search(r"(study|trial|storage|distribution|controller)\._[a-z]", line) and "self._" not in line:
                found.append(f"{path.name}: {line.strip()}")
    assert not found
