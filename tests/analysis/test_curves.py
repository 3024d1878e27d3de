import pandas as pd
import pytest
from conftest import ROOT

from brainreg.analysis.curves import confirmed_curves, load_curves, measure_searches
from brainreg.errors import InputError
from brainreg.evaluation.robustness import COLUMNS
from brainreg.evaluation.settings import Evaluation
from brainreg.records.results import load_results, rank_trials
from brainreg.records.searches import load_searches

SEARCHES = ROOT / "tests" / "searches"
EVALUATION = Evaluation(attacks=("gaussian", "fgsm"), num_epsilons=2, num_images=40)


def measured(folder, **options):
    return measure_searches(folder, EVALUATION, data_dir=ROOT / "data", **options)


@pytest.fixture(scope="module")
def curves(searched):
    return measured(searched)


def test_the_best_and_the_unregularized_network_are_measured(searched, curves):
    finished = rank_trials(load_results(searched))
    trials = [finished[finished.setting == name].iloc[0] for name in ("unregularized", "early_stopped", "")]
    assert curves.columns.tolist() == ["network", *COLUMNS]
    names = ["unregularized", "unregularized, epoch by objective", f"best proposed (trial {trials[-1].trial})"]
    assert curves.network.unique().tolist() == names
    for network, trial in zip(names, trials, strict=True):
        curve = curves[curves.network == network]
        assert curve.attack.unique().tolist() == ["clean", "Gaussian", "FGSM Linf"]
        clean = curve[curve.attack == "clean"].iloc[0]
        assert (clean.accuracy, clean.n) == (pytest.approx(trial.clean_accuracy), trial.clean_n)  # the same images


def test_on_test_images_where_that_is_asked_for(searched, curves):
    other = measured(searched, split="test")
    assert set(other[other.attack == "clean"].n) == {359} != set(curves[curves.attack == "clean"].n)


def test_a_search_before_its_first_result_has_no_rows(searched, tmp_path):
    (tmp_path / "search.json").symlink_to(searched / "search.json")
    curves = measured(tmp_path)
    assert curves.empty and curves.columns.tolist() == ["network", *COLUMNS]


def test_a_search_of_another_version_is_one_line():
    with pytest.raises(InputError, match="written in format 1"):
        measured(SEARCHES / "format_1")


def test_tables_that_were_written_before(tmp_path):
    stored = SEARCHES / "robustness_regularized.csv"
    curves = load_curves({"regularized": f"{stored}, {stored}", "none": "", "other": stored})
    assert curves.network.value_counts().to_dict() == {"regularized": 54, "other": 27}
    assert curves[curves.network == "other"].accuracy.tolist() == pd.read_csv(stored).accuracy.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "robustness.csv: no such table"),
        ("", "robustness.csv: not a table of robustness"),
        ("attack,eps\nclean,0\n", "robustness.csv: not a table of robustness; it has no column norm"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "robustness.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        load_curves({"a": str(tmp_path / "robustness.csv")})
    with pytest.raises(InputError, match="name at least one"):
        load_curves({"a": ""})


def test_what_was_confirmed_has_a_curve_for_each_setting_that_is_compared(confirmed_search, searched):
    confirmation = load_searches(confirmed_search).confirmation
    curves = confirmed_curves(confirmation)
    first = confirmation[confirmation["rank"] == 1].trial.iloc[0]
    assert curves.columns.tolist() == ["network", *COLUMNS]
    assert {*curves.network} == {"unregularized", "unregularized, epoch by objective", f"found (trial {first})"}
    pgd = curves[(curves.network == "unregularized") & (curves.attack == "PGD Linf (20 steps)")]
    assert pgd.accuracy.tolist() == confirmation[
        (confirmation.setting == "unregularized") & (confirmation.attack == "PGD Linf (20 steps)")
    ].accuracy.tolist() != []  # fmt: skip
    assert confirmed_curves(load_searches(searched).confirmation).empty and confirmed_curves(None).empty
