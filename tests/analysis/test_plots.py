"""Every figure against a stored picture; the trials are those of real searches, kept in tests/searches/ as tables.

`digits_ranges` and `digits_double` are searches of those spaces at a reduced size, `mnist_seed0` and `mnist_seed1` of
`mnist_mnist_ranges` with a short attack, and `format_1` is one that an earlier version of this project wrote.
`confirmation.csv` has the rows of a confirmation that stand for a measure.
"""

import io
from functools import partial

import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from matplotlib.collections import LineCollection
from matplotlib.text import Text
from PIL import Image

from brainreg.analysis.alpha_th import alpha_th_table
from brainreg.analysis.comparison import compare_settings
from brainreg.analysis.curves import load_curves
from brainreg.analysis.figures import comparison as analysis_figures_comparison
from brainreg.analysis.figures import front as analysis_figures_front
from brainreg.analysis.figures import importance as analysis_figures_importance
from brainreg.analysis.figures import landscape as analysis_figures_landscape
from brainreg.analysis.figures import progress as analysis_figures_progress
from brainreg.analysis.figures import robustness as analysis_figures_robustness
from brainreg.analysis.figures import style as analysis_figures_style
from brainreg.analysis.figures.settings import expectations
from brainreg.records.searches import load_advices, load_searches
from brainreg.records.trial import FINISHED, UNFINISHED
from brainreg.statistics import front

IMAGES, SEARCHES = ROOT / "tests" / "images", ROOT / "tests" / "searches"

DPI = 100

# Of `difference`: a mark that is missing is a tenth and more.
TOLERANCE = 0.05


def trials_of(*names: str) -> pd.DataFrame:
    return load_searches([SEARCHES / name for name in names]).trials


@pytest.fixture(scope="module")
def stopped() -> pd.DataFrame:
    """24 trials of seven ranges, 18 of them stopped early."""
    return trials_of("digits_ranges")


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    """14 trials of six ranges, with the published one."""
    return trials_of("mnist_seed0")


@pytest.fixture(scope="module")
def double() -> pd.DataFrame:
    """14 trials of one range."""
    return trials_of("digits_double")


@pytest.fixture(scope="module")
def several() -> pd.DataFrame:
    """Three searches, the last of them running."""
    trials = trials_of("mnist_seed0", "digits_double", "digits_ranges")
    return trials.assign(running=trials.search == "digits_ranges")


@pytest.fixture(scope="module")
def curves() -> pd.DataFrame:
    """Noise, FGSM and PGD on two networks of one seed."""
    return load_curves({name: SEARCHES / f"robustness_{name}.csv" for name in ("unregularized", "regularized")})


@pytest.fixture(scope="module")
def importances() -> pd.DataFrame:
    return pd.read_csv(SEARCHES / "importances.csv").assign(floor=0.3, r2=0.4)


@pytest.fixture(scope="module")
def differences() -> pd.DataFrame:
    """Of a real confirmation of an `mnist_mnist` search at a reduced size: three settings with four seeds."""
    return compare_settings(pd.read_csv(SEARCHES / "confirmation.csv"))


# What draws a picture, and the fixture that it draws.
FIGURES = {
    "progress": (analysis_figures_progress.progress, "stopped"),
    "progress_of_several": (analysis_figures_progress.progress, "several"),
    "landscape": (analysis_figures_landscape.landscape, "published"),
    "landscape_with_stopped": (analysis_figures_landscape.landscape, "stopped"),
    "landscape_by_range": (partial(analysis_figures_landscape.landscape, by="reg_range"), "published"),
    "landscape_by_n": (partial(analysis_figures_landscape.landscape, by="reg_image_num"), "double"),
    "landscape_of_several": (partial(analysis_figures_landscape.landscape, by="search"), "several"),
    "slices": (analysis_figures_landscape.slices, "published"),
    "pareto": (analysis_figures_front.pareto, "published"),
    "pareto_of_several": (analysis_figures_front.pareto, "several"),
    "hypervolume": (analysis_figures_front.hypervolume_over_time, "several"),
    "robustness": (partial(analysis_figures_robustness.robustness_curves, images="validation"), "curves"),
    "importance": (analysis_figures_importance.importance, "importances"),
    "paired_differences": (analysis_figures_comparison.paired_differences, "differences"),
    "comparison": (lambda trials: analysis_figures_comparison.comparison(alpha_th_table(trials)), "several"),
}


@pytest.fixture
def draw(request):
    """Draws a figure by its name."""

    def draw(name):
        function, frame = FIGURES[name]
        return function(request.getfixturevalue(frame))

    return draw


def picture(figure) -> Image.Image:
    return Image.open(io.BytesIO(analysis_figures_style.png(figure, DPI))).convert("RGB")


def difference(one: Image.Image, other: Image.Image) -> float:
    """How much two pictures differ where they differ most: of squares of six pixels' side, whose mean colors are
    compared, so that a letter that is drawn a little otherwise does not count; 1 where the sizes do.
    """
    if max(abs(one.width - other.width), abs(one.height - other.height)) > 3:
        return 1.0
    width, height = min(one.width, other.width), min(one.height, other.height)
    means = [np.asarray(image.crop((0, 0, width, height)).reduce(6), dtype=float) / 255 for image in (one, other)]
    return float(np.abs(means[0] - means[1]).max())


@pytest.mark.parametrize("name", FIGURES)
def test_the_figure_is_the_stored_picture(name, draw, tmp_path):
    drawn = picture(draw(name))
    drawn.save(path := tmp_path / f"{name}.png", optimize=True)
    stored = IMAGES / f"{name}.png"
    assert stored.is_file(), f"nothing to compare with; where {path} is right, copy it to {stored}"
    differs = difference(drawn, Image.open(stored))
    assert differs < TOLERANCE, f"{differs:.2f}; where {path} is right, copy it to {stored}"


def test_the_comparison_sees_what_a_reader_would(stopped, published):
    whole = picture(analysis_figures_progress.progress(stopped))
    assert difference(whole, whole) == 0
    assert (
        difference(whole, picture(analysis_figures_progress.progress(stopped[stopped.trial != 20]))) > TOLERANCE
    )  # one cross
    assert (
        difference(whole, picture(analysis_figures_progress.progress(stopped.assign(running=True)))) > TOLERANCE
    )  # its name
    moved = published.copy()
    moved.loc[moved.trial == 7, "robust_accuracy"] -= 0.03
    whole = picture(analysis_figures_front.pareto(published))
    assert difference(whole, picture(analysis_figures_front.pareto(moved))) > TOLERANCE


def texts_of(figure) -> list[Text]:
    """What is written in a figure, without the labels of ticks outside of the axes."""
    ticks = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        outside = [
            tick for tick in axis.get_major_ticks() + axis.get_minor_ticks() if not low <= tick.get_loc() <= high
        ]
        ticks |= {label for tick in outside for label in (tick.label1, tick.label2)}
    return [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in ticks
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_it_is_as_wide_as_a_column_and_legible_and_its_axes_are_labelled(name, draw):
    figure = draw(name)
    figure.canvas.draw()
    assert figure.get_figwidth() == analysis_figures_style.COLUMN
    written = texts_of(figure)
    assert min(text.get_fontsize() for text in written) >= 7
    for text in written:
        seen = text.get_window_extent()
        assert min(seen.x0, seen.y0) >= -2, text.get_text()
        assert seen.x1 <= figure.bbox.width + 2 and seen.y1 <= figure.bbox.height + 2, text.get_text()
    said = " ".join(text.get_text() for text in written)
    assert "%" in said or "fraction" in said
    images = {"importance": "", "paired_differences": "test images"}  # shares of importance have no images
    assert images.get(name, "validation") in said


def test_the_users_own_style_changes_nothing(stopped):
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "xtick.labelsize": 20}):
        styled = picture(analysis_figures_progress.progress(stopped))
    assert difference(styled, picture(analysis_figures_progress.progress(stopped))) == 0
    assert dict(matplotlib.rcParams) == before


def test_files_for_a_paper(stopped, tmp_path):
    figure = analysis_figures_progress.progress(stopped)
    analysis_figures_style.save(figure, tmp_path / "figures", "progress")
    assert (tmp_path / "figures" / "progress.pdf").read_bytes().startswith(b"%PDF")
    assert Image.open(tmp_path / "figures" / "progress.png").width == round(300 * analysis_figures_style.COLUMN)
    analysis_figures_style.save(figure, "", "progress")
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows


def only(trials: pd.DataFrame, state: str) -> pd.DataFrame:
    """The same trials, before or after their time."""
    unmeasured = {name: np.nan for name in ("objective", "clean_accuracy", "robust_accuracy")}
    return trials.assign(state=state, **(unmeasured if state != FINISHED else {}))


TRIAL_FIGURES = {
    "progress": analysis_figures_progress.progress,
    "landscape": analysis_figures_landscape.landscape,
    "landscape by range": lambda trials: analysis_figures_landscape.landscape(trials, by="reg_range"),
    "slices": analysis_figures_landscape.slices,
    "pareto": analysis_figures_front.pareto,
    "hypervolume": analysis_figures_front.hypervolume_over_time,
    "comparison": lambda trials: analysis_figures_comparison.comparison(alpha_th_table(trials)),
}


@pytest.mark.parametrize("name", TRIAL_FIGURES)
@pytest.mark.parametrize("state", ["none", UNFINISHED])
def test_where_nothing_has_finished_the_figure_says_so(name, state, published):
    trials = published[:0] if state == "none" else only(published, state)
    figure = TRIAL_FIGURES[name](trials)
    assert picture(figure).width == round(DPI * analysis_figures_style.COLUMN)
    assert "finished yet" in " ".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("name", TRIAL_FIGURES)
@pytest.mark.parametrize("count", [1, 3])
def test_a_search_that_has_just_begun_is_drawn(name, count, published):
    """The published and the unregularized trial come first."""
    picture(TRIAL_FIGURES[name](published.sort_values("trial")[:count]))


@pytest.mark.parametrize("name", TRIAL_FIGURES)
def test_a_search_of_another_version_is_drawn_as_far_as_it_is_known(name):
    trials = trials_of("format_1")
    figure = TRIAL_FIGURES[name](trials)
    said = " ".join(text.get_text() for text in figure.findobj(Text))
    assert ("when is not known" in said) == (name == "hypervolume")


def test_a_column_that_the_trials_lack_is_told(published):
    figure = analysis_figures_landscape.landscape(published.assign(reg_image_num=pd.NA), by="reg_image_num")
    assert "N of the trials is not known" in " ".join(text.get_text() for text in figure.findobj(Text))


def test_importance_has_a_floor_and_is_not_drawn_where_nothing_is_predicted(importances):
    figure = analysis_figures_importance.importance(importances)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert all("R\u00b2 0.40" in title for title in titles)
    bars = sum(len(axes.patches) for axes in figure.axes)
    assert sum(len(lines.get_segments()) for lines in figure.findobj(LineCollection)) == bars > 0
    first = importances.search.iloc[0]
    some = analysis_figures_importance.importance(
        importances.assign(r2=np.where(importances.search == first, -0.1, 0.4))
    )
    assert len(some.axes) == len(figure.axes) - 1
    none = analysis_figures_importance.importance(importances.assign(r2=-0.1))
    assert len(none.axes) == 0 and "do not predict" in " ".join(text.get_text() for text in none.findobj(Text))


def test_the_star_is_at_the_setting_that_is_expected_to_be_the_best(searched):
    trials = load_searches(searched).trials
    proposed = trials[(trials.state == FINISHED) & (trials.setting == "")]
    last = proposed.sort_values("objective").iloc[0]  # its one run is the least, and yet more is expected of it
    trials.loc[trials.trial == last.trial, "expected_objective"] = 0.99
    (axes,) = analysis_figures_landscape.landscape(trials).axes[:1]
    (star,) = (line for line in axes.lines if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (last.reg_alpha, last.reg_thresh)


def test_the_front_of_expected_accuracies_is_drawn_with_its_intervals(searched):
    ((advice, _),) = load_advices(searched, load_searches(searched).trials).values()
    settings = advice.settings
    members = settings[front(settings.clean, settings.robust)].sort_values("clean")
    (axes,) = analysis_figures_front.expected_front(advice).axes
    (line,) = (one for one in axes.lines if len(one.get_xdata()) == len(members) and one.get_marker() == "None")
    assert np.allclose(line.get_xdata(), 100 * members.clean) and np.allclose(line.get_ydata(), 100 * members.robust)
    named = {text.get_text().split()[0] for text in axes.texts}
    assert named == {str(number) for number in members.setting_number}
    across = [one.get_segments()[0] for one in axes.collections if isinstance(one, LineCollection)]
    ends = {tuple(np.round(segment[:, 0], 6)) for segment in across if np.ptp(segment[:, 1]) == 0}
    wanted = 100 * settings[["clean_low", "clean_high"]].to_numpy()
    assert ends == {tuple(np.round(pair, 6)) for pair in wanted} and wanted.max() <= 100


def test_the_expectations_of_settings_are_drawn_with_their_intervals(searched):
    ((advice, _),) = load_advices(searched, load_searches(searched).trials).values()
    shown = advice.settings[
        (advice.settings["rank"] <= 3) | (advice.settings.setting != "") | advice.settings.recommended
    ]
    figure = expectations(advice, rows=3)
    (axes,) = figure.axes
    names = dict(label.get_text().split(": ") for label in axes.get_yticklabels())
    assert [*names] == [str(number) for number in shown.setting_number]
    given = shown[shown.setting == "unregularized"].setting_number
    assert len(given) and all(names[str(number)] == "unregularized" for number in given)
    places = {
        round(float(line.get_ydata()[0])): float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() != "o"
    }
    stars = [line for line in axes.lines if line.get_marker() == "*"]
    assert len(stars) == 1 and stars[0].get_xdata()[0] == pytest.approx(100 * advice.recommended.objective)
    assert len(places) == len(shown[(shown.setting != "") | shown.recommended])
    (segments,) = {len(one.get_segments()) for one in axes.collections if isinstance(one, LineCollection)}
    assert segments == 1
    ends = [one.get_segments()[0][:, 0] for one in axes.collections if isinstance(one, LineCollection)]
    assert np.allclose(ends, 100 * shown[["objective_low", "objective_high"]].to_numpy())
    texts = [text.get_text() for text in axes.texts]
    assert sum("run" in text and "%" in text for text in texts) == len(shown)


def test_each_seed_of_a_curve_is_a_point():
    rows = [
        {"network": "a", "attack": "A", "norm": "Linf", "eps": eps, "accuracy": 0.5 + 0.1 * seed, "low": 0, "high": 1}
        for eps in (0.1, 0.2) for seed in range(3)
    ]  # fmt: skip
    (axes,) = analysis_figures_robustness.robustness_curves(pd.DataFrame(rows)).axes
    assert sorted({len(line.get_xdata()) for line in axes.lines}) == [2, 6]


def test_there_is_no_curve_of_one_strength_and_no_importance_of_few_trials(curves, importances):
    for figure in (
        analysis_figures_robustness.robustness_curves(curves[curves.attack == "clean"]),
        analysis_figures_importance.importance(importances[:0]),
    ):
        picture(figure)
        assert len(figure.axes) == 0


def test_curves_of_several_seeds_have_intervals_over_seeds(curves):
    """A second table of the same network is another seed's."""
    other = curves.assign(accuracy=(curves.accuracy - 0.02).clip(0, 1))
    figure = analysis_figures_robustness.robustness_curves(pd.concat([curves, other]))
    (band, *_), (line, *_) = figure.axes[0].collections, figure.axes[0].lines
    at_zero = band.get_paths()[0].vertices
    middle = line.get_ydata()[0]
    accuracies = curves[(curves.network == "regularized") & (curves.attack == "Gaussian")].accuracy
    assert middle == pytest.approx(100 * (accuracies.iloc[0] - 0.01))
    # Student's interval over two values that differ by 0.02: 12.706 * 0.01.
    low = at_zero[np.isclose(at_zero[:, 0], 0)][:, 1].min()
    assert low == pytest.approx(middle - 100 * 12.7062 * 0.01, abs=0.01)
