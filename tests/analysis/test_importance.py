import numpy as np
import optuna
import pytest
from conftest import ROOT
from optuna.distributions import distribution_to_json

from brainreg.analysis.importance import EVALUATORS, FEWEST_TRIALS, TREES, importances
from brainreg.errors import InputError
from brainreg.records.manifest import write_manifest
from brainreg.records.trial import TrialFiles, TrialRecord
from brainreg.search.strategy import Strategy
from brainreg.spaces.space import Space
from brainreg.storage import Storage

SHARED = {"reg_alpha", "reg_thresh", "reg_range", "reg_image_num", "reg_batch_size"}


@pytest.fixture(scope="module")
def shares(searched):
    return importances(searched)


def test_shares_of_what_all_trials_have_by_each_evaluator(shares):
    assert shares.columns.tolist() == ["search", "parameter", "evaluator", "importance", "floor", "r2", "trials"]
    assert set(shares.search) == {"small"} and set(shares.trials) == {7}  # the unregularized ones have no parameters
    assert set(shares.evaluator) == set(EVALUATORS)
    for _, one in shares.groupby("evaluator"):
        assert set(one.parameter) == SHARED  # Th_2 is not of all
        assert one.importance.sum() == pytest.approx(1) and (one.importance >= 0).all()


def test_the_study_beside_the_trials_says_the_same(searched, shares):
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{searched}/study.db")
    proposed = optuna.create_study(direction="maximize")
    proposed.add_trials([trial for trial in study.trials if trial.params])
    for name, make in EVALUATORS.items():
        expected = optuna.importance.get_param_importances(proposed, evaluator=make(0, TREES), params=sorted(SHARED))
        mine = shares[shares.evaluator == name].set_index("parameter").importance.to_dict()
        assert mine == pytest.approx(expected)


def test_a_seed_gives_the_same_again(searched, shares):
    again = importances(str(searched))
    assert again.equals(shares)


def test_too_few_trials_or_another_version_have_no_rows(searched, tmp_path):
    for name in ("search.json", *(f"trial_{i:04d}" for i in range(FEWEST_TRIALS + 1))):  # two are unregularized
        (tmp_path / name).symlink_to(searched / name)
    old = ROOT / "tests" / "searches" / "format_1"
    assert importances([tmp_path, old]).empty
    assert set(importances([tmp_path, searched, old]).search) == {"small"}


def test_no_search(tmp_path):
    with pytest.raises(InputError, match="empty"):
        importances(tmp_path)


def search_of(folder, objective) -> None:
    """A search of 40 finished trials whose objective is a function of its settings and of a number from 0 to 1."""
    space = Space(
        name="made", description="a test", task="digits",
        search={
            "reg_alpha": {"low": 0.02, "high": 1, "log": True}, "reg_thresh": {"low": 0.3, "high": 0.8},
            "reg_range": {"choices": ["all", "low", "high"]},
        },
        objective={"eps": 0.1, "noise_eps": 0.1}, budget={"num_samples": 42},
    )  # fmt: skip
    study, draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), np.random.default_rng(0)
    storage = Storage(folder)
    write_manifest(
        storage,
        {"space": space.model_dump(mode="json"), "strategy": Strategy().model_dump(), "num_samples": 42, "seed": 0},
    )
    for number in range(2, 42):
        trial = study.ask()
        setting = space(trial)
        distributions = {name: distribution_to_json(one) for name, one in trial.distributions.items()}
        value = float(objective(setting, draws.random()))
        measured = {"objective": value, "clean_accuracy": value, "robust_accuracy": value, "noise_accuracy": value}
        record = TrialRecord(number, "", setting, trial.params, distributions, measured=measured)
        files = TrialFiles(storage, number)
        files.write_trial(record)
        files.write_progress(epochs=[], measured=measured, seconds=1.0, node="")


def test_noise_predicts_nothing_and_its_shares_have_no_meaning(tmp_path):
    search_of(tmp_path / "noise", lambda setting, number: number)
    shares = importances(tmp_path / "noise", trees=16)
    assert shares.importance.max() > 0.4  # as if it mattered
    assert (shares.r2 <= 0).all() and shares.floor.isna().all()


def test_what_matters_lies_above_what_shuffled_objectives_give(tmp_path):
    search_of(tmp_path / "signal", lambda setting, number: setting["reg_thresh"] + 0.1 * number)
    shares = importances(tmp_path / "signal", trees=16)
    assert (shares.r2 > 0.5).all() and ((shares.floor > 0) & (shares.floor < 1)).all()
    for _, one in shares.groupby("evaluator"):
        above = {*one[one.importance > one.floor].parameter}
        assert above == {"reg_thresh"}
