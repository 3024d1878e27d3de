import optuna
import pytest
from conftest import ROOT

from brainreg.errors import InputError
from brainreg.importance import EVALUATORS, FEWEST_TRIALS, TREES, importances

SHARED = {"reg_alpha", "reg_thresh", "reg_range", "reg_image_num", "reg_batch_size"}


@pytest.fixture(scope="module")
def shares(searched):
    return importances(searched)


def test_shares_of_what_all_trials_have_by_each_evaluator(shares):
    assert shares.columns.tolist() == ["search", "parameter", "evaluator", "importance", "trials"]
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
