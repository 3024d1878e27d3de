"""The page of a search, on real ones: a small one that ran here, and records of larger ones."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from conftest import ROOT
from pages import Page
from testing import decoded

from brainreg._utils.html import ABSENT
from brainreg.analysis import importance as analysis_importance
from brainreg.analysis.importance import importances
from brainreg.commands.report import REPORT, main
from brainreg.errors import InputError
from brainreg.records.results import load_results, rank_trials
from brainreg.records.searches import load_searches, split_folders
from brainreg.records.trial import TrialFiles
from brainreg.reports.chart_data import FIRST, parallel_axes
from brainreg.reports.search import report
from brainreg.reports.subject import Subject
from brainreg.search.summary import front_lines
from brainreg.spaces.names import EARLY_STOPPED, shown_name
from brainreg.statistics import front
from brainreg.storage import Storage

SEARCHES = ROOT / "tests" / "searches"
OLD = SEARCHES / "format_1"

HEADINGS = [
    "Overview",
    "Trials",
    "The alpha/Th table",
    "Landscape",
    "Clean against robust",
    "Robustness by strength",
    "Importance",
]


@pytest.fixture(scope="module")
def small(searched) -> Page:
    """The page of the small search, all of whose trials finished."""
    return Page(report([searched]))


@pytest.fixture
def copy(searched, tmp_path, monkeypatch) -> Path:
    """A copy of the small search, whose files a test may change; its report shuffles objectives less often."""
    monkeypatch.setattr(analysis_importance, "_ORDERS", 2)
    ignored = shutil.ignore_patterns("ray", "study.db", "*.pt", REPORT)
    return Path(shutil.copytree(searched, tmp_path / "copy", ignore=ignored))


def trial_rows(page: Page) -> list[dict]:
    """What the table of all trials says, by the names of its columns."""
    head, *rows = page.region("All trials")
    return [dict(zip(head, row, strict=True)) for row in rows]


def chart_data(page: Page) -> dict[str, dict]:
    """What the charts of a page draw: a row for each trial, by its key."""
    return {row["key"]: row for row in json.loads(page.all("script", id="trials-data")[0]["text"])}


def charts(page: Page) -> dict[str, dict]:
    """The specifications of the charts of a page, by their names."""
    return json.loads(page.all("script", id="charts")[0]["text"])


def test_every_trial_is_in_the_table_with_the_command_that_trains_it(small, searched):
    results = load_results(searched)
    rows = trial_rows(small)
    assert [row["trial"] for row in rows] == [str(trial) for trial in results.trial]
    for row, trial in zip(rows, results.itertuples(), strict=True):
        assert row["state"] == "finished" and row["setting"] == (shown_name(trial.setting) or "proposed")
        for name in ("clean", "robust", "noise"):
            assert row[f"{name} (%)"] == f"{100 * getattr(trial, f'{name}_accuracy'):.1f}"
        assert row["objective (%)"] == f"{100 * trial.objective:.1f}"
        assert float(row["alpha"]) == pytest.approx(trial.reg_alpha, rel=0.01)
    best = rank_trials(results).iloc[0]
    commands = {row["trial"]: row["command"].removeprefix("command …") for row in rows}
    if best.setting != EARLY_STOPPED:  # train.py chooses the best epoch otherwise
        assert commands[str(best.trial)] == (searched / "best" / "command.txt").read_text().strip()
    (stopped,) = results[results.setting == EARLY_STOPPED].trial
    assert commands[str(stopped)] == ABSENT and all("--task=digits" in commands[str(trial)] for trial in (0, 2))


def test_the_charts_draw_every_trial(small, searched):
    results = load_results(searched)
    rows = chart_data(small)
    assert {*rows} == {f"0-{trial}" for trial in results.trial}
    for trial in results.itertuples():
        row = rows[f"0-{trial.trial}"]
        assert row["setting"] == f"0-s{trial.setting_number}" and row["state"] == "finished"
        for name in ("clean", "robust"):
            assert row[name] == pytest.approx(100 * getattr(trial, f"{name}_accuracy"), abs=0.01)
        assert row["objective"] == pytest.approx(100 * trial.objective, abs=0.01)
        assert row["alpha"] == pytest.approx(trial.reg_alpha, rel=1e-5)
        assert [epoch for epoch, _ in row["curve"]] == [one["epoch"] for one in trial.epochs]
        assert (row["places"] is None) == (trial.reg_alpha == 0)
    kinds = {row["kind"] for row in rows.values()}
    assert {"unregularized", shown_name(EARLY_STOPPED), FIRST} <= kinds
    best = rank_trials(results[results.setting == ""]).iloc[0]
    assert [key for key, row in rows.items() if row["kind"] == FIRST] == [f"0-{best.trial}"]
    members = front(results.clean_accuracy, results.robust_accuracy)
    assert [rows[f"0-{trial}"]["front"] for trial in results.trial] == members
    assert {mark["id"] for mark in small.all("tr") if "id" in mark} == {f"t{key}" for key in rows}


def test_a_selection_goes_through_all_charts(small):
    """What a script sets is there in each of them, and each has a brush."""
    assert [*charts(small)] == ["progress", "landscape", "front", "parallel", "curves"]
    for spec in charts(small).values():
        assert {"picked", "over", "hidden", "brush"} <= {one["name"] for one in spec["params"]}


def test_parallel_coordinates_place_each_trial_between_the_ends(small, searched):
    trials = load_searches([searched]).trials
    axes = parallel_axes(trials)
    assert [*axes][:2] == ["alpha", "Th"] and [*axes][-1] == "objective"
    places = pd.DataFrame([row["places"] for row in chart_data(small).values() if row["places"]], columns=[*axes])
    assert ((places >= 0) & (places <= 1) | places.isna()).all(axis=None)
    regularized = trials[trials.reg_alpha > 0].sort_values("reg_alpha")
    order = [chart_data(small)[f"0-{trial}"]["places"][0] for trial in regularized.trial]
    assert order == sorted(order) and order[0] == 0 and order[-1] == 1


def test_a_name_alone_is_a_search_below_results(searched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "first").symlink_to(searched)
    assert [*split_folders("first")] == [*split_folders("results/first")]
    with pytest.raises(InputError, match=r"/second: no such folder"):
        split_folders("second")


def test_everything_that_the_notebooks_show(small, searched):
    assert [head["text"] for head in small.all("h2")] == HEADINGS
    links = {link["href"].removeprefix("#"): link["text"] for link in small.all("a") if "data-t" not in link}
    assert links == {head["id"]: head["text"] for head in small.all("h2")}
    pictures = [decoded(image) for image in small.all("img")]
    captions = [one["text"] for one in small.all("figcaption")]
    results = load_results(searched)
    predicted = bool((importances(searched).r2 > 0).all())
    varied = {"by range": "reg_range", "by N": "reg_image_num", "by k": "reg_batch_size"}
    assert captions[0] == "Expected objective" and captions[1 + len(charts(small)) :] == [
        *("Clean and robust accuracy", "Alpha and Th"),
        *(caption for caption, name in varied.items() if results[name].nunique() > 1),
        "objective over N and over k",
        *("Clean against robust accuracy", "Hypervolume over time", "Expected accuracies"),
        *["Importance"] * predicted,
    ]
    assert len(pictures) == len(captions) - len(charts(small)) and all(
        len(one.convert("L").getcolors()) > 20 for one in pictures
    )  # not blank
    assert all(len(image["alt"]) > 20 for image in small.all("img"))
    text = small.all("main")[0]["text"]
    for said in (r"\begin{tabular}", "published_alpha", "not over seeds", "no confirmation.csv", "None was run."):
        assert said in text
    for label in ("States and cost", "The best trials", "The alpha/Th table", "The front"):
        assert len(small.region(label)) > 1
    assert not any({*row[1:]} == {ABSENT} for row in small.region("The alpha/Th table"))
    assert ("do not predict the objective" in text) is not predicted
    if predicted:
        head, *rows = small.region("Importance")
        assert {*head} == {"parameter", "fANOVA (%)", "mean decrease impurity (%)", "PED-ANOVA (%)"}
        assert all("(floor " in cell for row in rows for cell in row[1:])


def test_nothing_is_loaded_and_only_its_own_script_runs(small):
    assert not {"link", "iframe", "object", "embed", "base"} & {one["tag"] for one in small.elements}
    for element in small.elements:
        for name in ("src", "href", "srcset", "poster"):
            assert element.get(name, "#").startswith(("#", "data:image/png;base64,"))
        assert not any(name.startswith("on") for name in element)
    policy = small.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"].split("; ")
    assert policy[:3] == ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]
    assert len(policy) == 4 and policy[3].startswith("script-src 'sha256-")
    assert len(small.all("script", type="module")) == 1


def confirmed_row(measure: str) -> dict:
    """A row of a confirmation, of one seed."""
    settings = {"reg_alpha": 0.1, "reg_thresh": 0.5, "reg_range": "all", "reg_image_num": 9, "reg_batch_size": 8}
    return settings | {
        "setting": "unregularized", "rank": 0, "trial": 0, "reg_thresh_2": None, "seed": 7, "split": "test",
        "measure": measure, "attack": "clean", "eps": 0.1, "n": 9, "accuracy": 0.5, "low": 0.4, "high": 0.6,
        "weight": 0.5, "seeds": 2,
    }  # fmt: skip


def test_a_confirmed_search_shows_test_numbers_and_whether_they_differ(confirmed_search):
    page = Page(report([confirmed_search]))
    confirmation = pd.read_csv(confirmed_search / "confirmation.csv")
    head, *rows = page.region("Confirmed on test images")
    names = ["found, rank 1", "found, rank 2", "unregularized", "unregularized, epoch by objective"]
    assert [row[0] for row in rows] == names
    assert head[-1] == "noise (%), test" and all(row[head.index("seeds")] == "2" for row in rows)
    first = confirmation[(confirmation["rank"] == 1) & (confirmation.measure == "clean")].accuracy.mean()
    assert rows[0][head.index("clean (%), test")].startswith(f"{100 * first:.1f} [")
    text = page.all("main")[0]["text"]
    assert "against unregularized, paired over 2 seeds" in text and "Nothing is confirmed" not in text
    (lead,) = page.all("p", class_="lead")
    assert lead["text"].startswith("Confirmed on test images with 2 fresh seeds")
    assert "; against unregularized, epoch by objective " in lead["text"] and " points, " in lead["text"]
    assert f"clean {first:.1%} [" in text and "unregularized, epoch by objective: objective" in text
    every = page.region("Every attack and strength")
    assert len(every) - 1 == len(confirmation.drop_duplicates(["setting", "rank", "attack", "eps"]))


def test_a_search_that_is_not_confirmed_says_so_first(small):
    (lead,) = small.all("p", class_="lead")
    told = "Not confirmed: on validation images, of 9 settings with 9 finished trials, setting "
    assert lead["text"].startswith(told)
    assert "is too good by some luck" in lead["text"]


def test_the_settings_stand_first_with_what_is_expected_of_them(small, searched):
    results = load_results(searched)
    head, *rows = small.region("Settings")
    assert head[0] == "setting" and head[-4:] == [
        "objective (%)", "95% interval", "P(best)", "P(better)",
    ]  # fmt: skip
    ranked = rank_trials(results)
    assert [int(row[0].split(",")[0]) for row in rows] == ranked.setting_number.unique().tolist()
    assert sum("recommended" in row[0] for row in rows) == 1
    for row, trial in zip(rows, ranked.drop_duplicates("setting_number").itertuples(), strict=True):
        assert row[head.index("objective (%)")] == f"{100 * trial.expected_objective:.1f}"
        low, high = map(float, row[head.index("95% interval")].split(" to "))
        assert low < 100 * trial.expected_objective < high
    places = [small.source.index(text) for text in ("<figcaption>Expected objective<", "Settings", "All trials")]
    assert places == sorted(places)


def test_the_front_says_how_likely_each_setting_is_on_it(small, searched):
    ((advice, _),) = Subject(split_folders([searched])).advices.values()
    lines = [line.strip() for line in front_lines(advice)]
    assert len(lines) >= 2 and {*lines} <= {one["text"].strip() for one in small.all("li")}


def test_what_to_do_next_stands_behind_the_answer(small, searched, confirmed_search):
    """A confirmation, where there is none, and the network."""
    folder = shlex.quote(str(searched))
    text = small.all("pre")[0]["text"]
    assert text.startswith(f"brainreg confirm {folder} ") and f"brainreg export {folder} " in text
    assert "brainreg confirm" not in Page(report([confirmed_search])).all("pre")[0]["text"]


def test_the_runs_of_a_setting_lead_to_their_rows(small, searched):
    results = load_results(searched)
    links = [link for link in small.all("a") if "data-t" in link]
    assert {link["href"] for link in links} == {f"#t0-{trial}" for trial in results.trial}
    settings = {row["id"]: row["data-s"] for row in small.all("tr") if "id" in row}
    assert settings == {f"t0-{t}": f"0-s{s}" for t, s in zip(results.trial, results.setting_number, strict=True)}


@pytest.mark.long
def test_texts_of_files_are_escaped(copy):
    evil = "</td></script><script>alert(1)</script><img src=x onerror=alert(1)>\" & '"
    trial = copy / "trial_0002"
    content = json.loads((trial / "trial.json").read_text())
    (trial / "progress.json").unlink()
    (trial / "trial.json").write_text(json.dumps({**content, "ended": "failed", "error": evil, "retries": [evil]}))
    manifest = json.loads((copy / "search.json").read_text())
    manifest["device"] = evil
    (copy / "search.json").write_text(json.dumps(manifest))
    told = confirmed_row("clean") | {"setting": evil}
    pd.DataFrame([told, confirmed_row("robust") | {"setting": evil, "attack": evil}]).to_csv(
        copy / "confirmation.csv", index=False
    )
    named = copy.rename(copy.with_name("<i>x<&"))
    page = Page(report([named]))
    kinds = [script["type"] for script in page.all("script")]
    assert sorted(kinds) == ["application/json"] * 2 + ["module"] and page.all("i") == []
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    (row,) = [row for row in trial_rows(page) if row["state"] == "failed"]
    assert row["why"] == f"{evil}; tried again: {evil}"
    assert page.all("title")[0]["text"] == "Search <i>x<&"
    assert page.region("Confirmed on test images")[1][0] == evil
    assert [row[2] for row in page.region("Every attack and strength")[1:]] == ["clean", evil]


@pytest.mark.long
def test_states_of_trials_and_a_search_that_runs(copy):
    """This process says that it runs the search, as the driver of one does."""
    from brainreg.records.driver import Driver

    stopped, failed, begun = (copy / f"trial_000{i}" for i in (3, 4, 5))
    for folder, ended in ((stopped, "stopped"), (failed, "failed")):
        content = json.loads((folder / "trial.json").read_text())
        (folder / "trial.json").write_text(json.dumps({**content, "ended": ended, "error": "the loss is nan"}))
    (begun / "progress.json").unlink()
    with Driver(Storage(copy), slots=2):
        page = Page(report([copy]))
    assert page.all("span", class_="state")[0]["text"] == "running"
    assert "copy: running, 9 of 9 trials begun" in [item["text"] for item in page.all("li")]
    states = {row["trial"]: row["state"] for row in trial_rows(page)}
    assert [states[trial] for trial in "345"] == ["stopped", "failed", "unfinished"]
    assert all(row["objective (%)"] == ABSENT for row in trial_rows(page) if row["trial"] in "345")
    rows = chart_data(page)
    assert [rows[f"0-{i}"]["kind"] for i in (3, 4, 5)] == ["stopped", "failed", "unfinished"]
    assert [rows[f"0-{i}"]["groups"][0] for i in (3, 4, 5)] == ["s-stopped", "s-failed", "s-unfinished"]
    boxes = {box["data-hide"] for box in page.all("input")}
    assert boxes == {"s-finished", "s-stopped", "s-failed", "s-unfinished"}


@pytest.mark.parametrize("kept", [[], ["trial_0000"]])
def test_a_search_that_has_only_begun(copy, kept):
    for folder in copy.iterdir():
        if folder.is_dir() and folder.name not in kept:
            shutil.rmtree(folder)
    for name in ("results.csv", "epochs.csv"):
        (copy / name).unlink()
    for name in kept:
        (copy / name / "progress.json").unlink()
    page = Page(report([copy]))
    assert [head["text"] for head in page.all("h2")][-7:] == HEADINGS
    assert "copy: interrupted, 0 of 9 trials finished" in page.all("main")[0]["text"]
    assert len(page.region("All trials") or []) == (2 if kept else 0)


@pytest.mark.long
def test_what_is_damaged_is_told_and_the_rest_is_shown(copy):
    (copy / "trial_0003" / "progress.json").write_text('{"epochs": [')
    for name in ("confirmation.csv", "final_attack.csv"):
        (copy / name).write_text("\n")
    folder = copy / "best" / "evaluation-test"
    folder.mkdir(parents=True)
    (folder / "robustness.csv").write_text("a,b\n1,2\n")
    page = Page(report([copy]))
    text = page.all("main")[0]["text"]
    for said in (
        "left out: ", "progress.json: damaged", "confirmation.csv: damaged", "final_attack.csv: damaged",
        "They cannot be shown: ", "robustness.csv: not a table of robustness; it has no column attack.",
    ):  # fmt: skip
        assert said in text
    assert len(trial_rows(page)) == 8 and not page.all("span", class_="state")


@pytest.mark.long
def test_measured_robustness_is_shown_and_nothing_is_measured(copy):
    """As the evaluation and the final attack write it."""
    for network, folder in (("regularized", "best"), ("unregularized", "trial_0000")):
        target = copy / folder / "evaluation-test"
        target.mkdir(parents=True)
        shutil.copy(SEARCHES / f"robustness_{network}.csv", target / "robustness.csv")
    measured = pd.read_csv(SEARCHES / "robustness_regularized.csv")
    row = measured[measured.attack != "clean"].iloc[:1].assign(trial=3, setting="", fresh=True)
    row.to_csv(copy / "final_attack.csv", index=False)
    page = Page(report([copy]))
    shown = page.region("Measured on test images")
    assert {cells[0] for cells in shown[1:]} == {"best", "unregularized"}
    assert len(shown) == 1 + len(measured) + len(pd.read_csv(SEARCHES / "robustness_unregularized.csv"))
    assert "On test images, with 95% intervals" in [one["text"] for one in page.all("figcaption")]
    (head, final) = page.region("The final attack")
    assert final[:2] == ["3", "recommended"] and final[-1] == "did not attack these images"
    assert final[head.index("robust accuracy (%), validation")].startswith(f"{100 * row.accuracy.iloc[0]:.1f} [")


def test_another_version_is_told_and_what_its_table_says_is_shown():
    page = Page(report([OLD]))
    notes = [item["text"] for item in page.all("li")]
    assert "format_1: shown is what its results.csv says" in notes
    assert any("written in format 1; this version reads format 4" in note for note in notes)
    assert len(trial_rows(page)) == len(pd.read_csv(OLD / "results.csv"))
    assert len(page.all("img")) > 3


@pytest.mark.long
def test_several_searches_share_tables_and_figures(searched):
    page = Page(report([searched, SEARCHES / "digits_ranges"]))
    assert page.all("h1")[0]["text"] == "2 searches: small, digits_ranges"
    assert page.region("Overview")[0] == page.region("The alpha/Th table")[0] == ["", "small", "digits_ranges"]
    count = len(pd.read_csv(SEARCHES / "digits_ranges" / "results.csv"))
    rows = trial_rows(page)
    assert [row["search"] for row in rows] == ["small"] * 9 + ["digits_ranges"] * count
    assert {row["groups"][1] for row in chart_data(page).values()} == {"n0", "n1"}
    assert {box["data-hide"] for box in page.all("input")} >= {"n0", "n1"}
    assert any("cannot be compared" in item["text"] for item in page.all("li"))
    captions = [one["text"] for one in page.all("figcaption")]
    assert "Alpha and Th, by search" in captions and "digits_ranges: by range" in captions


@pytest.mark.long
def test_a_thousand_trials_fit_into_five_megabytes(copy):
    """The budget that counts: 1,000 trials, of the records of the small search."""
    records = [TrialFiles(Storage(copy), number).read() for number in range(2, 9)]
    for number in range(9, 1000):
        like = records[number % 7]
        folder = copy / f"trial_{number:04d}"
        folder.mkdir()
        content = {name: value for name, value in vars(like).items() if name not in ("number",)}
        progress = {name: content.pop(name) for name in ("epochs", "measured", "seconds", "node")}
        (folder / "trial.json").write_text(json.dumps({"number": number, **content}))
        (folder / "progress.json").write_text(json.dumps(progress))
    html = report([copy])
    assert html.count('<tr id="t0-') == 1000
    assert len(html.encode()) < 5_000_000


class TestCommand:
    def test_it_leads_to_the_pages_of_single_networks(self, copy, tmp_path):
        """Which `brainreg evaluate` and a confirmation wrote; from wherever the page lies."""
        pages = [copy / "best" / "evaluation-test", copy / "trial_0003" / "evaluation-validation"]
        pages += [copy / "confirmation" / name for name in ("early_stopped-seed_12", "trial_0005-seed_12")]
        for folder in pages:
            folder.mkdir(parents=True)
            (folder / "robustness.html").write_text("a page")
        there = tmp_path / "a folder # of pages"
        there.mkdir()
        for arguments, page in (([], copy / REPORT), ([f"--save={there / 'x.html'}"], there / "x.html")):
            assert main([str(copy), *arguments]) == 0
            shown = Page(page.read_text(encoding="utf-8"))
            links = {one["text"]: one["href"] for one in shown.all("a") if not one["href"].startswith("#")}
            assert [*links] == [
                *("best, on test images", "trial 0003, on validation images"),
                *("unregularized, epoch by objective, seed 12, on test images", "trial 0005, seed 12, on test images"),
            ]
            leads = [(page.parent / unquote(address)).resolve() for address in links.values()]
            assert leads == [folder / "robustness.html" for folder in pages]
        assert "Pages of single networks" not in report([copy])  # not as a file, so that no page is beside it

    def test_it_writes_into_the_searchs_folder_and_says_so(self, copy, capsys):
        page = copy / REPORT
        page.write_text("of before")  # which it takes the place of
        assert main([str(copy)]) == 0
        size = page.stat().st_size
        assert capsys.readouterr().out == (
            f"report: {page} ({size / 1e6:.2f} MB)\nopen:   {page.as_uri()} (in any browser; it needs no network)\n"
        )
        assert not list(copy.glob("*.part"))

    @pytest.mark.long
    def test_several_go_where_it_is_called(self, copy, monkeypatch, tmp_path, capsys):
        monkeypatch.chdir(tmp_path)
        assert main([str(copy), str(OLD)]) == 0
        assert (tmp_path / REPORT).read_text().count("<h1>2 searches: copy, format_1</h1>") == 1
        assert not (copy / REPORT).exists() and not (OLD / REPORT).exists()
        assert main([str(OLD), f"--save={tmp_path}/a/b.html"]) == 0
        assert (tmp_path / "a" / "b.html").stat().st_size > 100_000

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "EXPERIMENT: missing; name the folder of a search, such as results/NAME, or several"),
            (["{0}/cop"], "EXPERIMENT={0}/cop: no such folder; did you mean copy? known: copy"),
            (["{0}"], "EXPERIMENT={0}: holds no search itself, but these: copy; name one of them, or more"),
            (["{0}/empty"], "EXPERIMENT={0}/empty: empty; known: copy"),
            (["{0}/copy/best"], "EXPERIMENT={0}/copy/best: not the folder of a search; search.json is missing"),
            (["{0}/copy", "--save={0}"], "--save={0}: is a folder; must be a file, such as {0}/report.html"),
            (["{0}/copy", "--save={0}/file/r.html"], "--save={0}/file: {0}/file is a file; must be a folder"),
            (["{0}/copy", "--sav=x"], "--sav: no such flag; did you mean --save? --help lists them all"),
            (["{0}/broken"], "EXPERIMENT: {0}/broken/search.json: damaged (it does not say what is searched)"),
        ],
    )
    def test_bad_input_is_one_line(self, copy, tmp_path, arguments, said, monkeypatch):
        monkeypatch.chdir(tmp_path)  # where no folder of searches lies, whose names would be told, too
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("")
        if "broken" in said:
            (tmp_path / "broken").mkdir()
            (tmp_path / "broken" / "search.json").write_text('{"format": 2}')
        with pytest.raises(InputError) as caught:
            main([argument.format(tmp_path) for argument in arguments])
        assert str(caught.value) == said.format(tmp_path)

    def test_a_process_of_its_own_ends_with_2_and_without_a_traceback(self, tmp_path):
        command = [sys.executable, "-m", "brainreg", "report", "nowhere"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: EXPERIMENT={tmp_path}/nowhere: no such folder; must hold a search\n"


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.slow
class TestBrowser:
    @pytest.fixture
    def page(self, browser, searched, tmp_path):
        """The report in a browser without a network, which must have nothing to complain of."""
        (tmp_path / "page.html").write_text(report([searched]), encoding="utf-8")
        context = browser.new_context(viewport={"width": 1400, "height": 1000}, offline=True)
        page, complaints, asked = context.new_page(), [], []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector("main[data-charts='5']")
        yield page
        assert complaints == [] and [url for url in asked if not url.startswith(("file:", "data:"))] == []
        context.close()

    def shown(self, page, chart: str) -> int:
        """How many points of a chart are not faded."""
        opacities = page.locator(f"#chart-{chart} path[aria-roledescription=point]").evaluate_all(
            "marks => marks.map((mark) => Number(mark.getAttribute('opacity') ?? 1))"
        )
        return sum(opacity > 0.5 for opacity in opacities)

    def test_a_box_in_one_chart_selects_in_all_of_them(self, page, searched):
        results = load_results(searched)
        assert self.shown(page, "progress") == self.shown(page, "front") == len(results)
        page.locator("#chart-progress").scroll_into_view_if_needed()
        box = page.locator("#chart-progress svg").bounding_box()
        page.mouse.move(box["x"] + box["width"] - 6, box["y"] + 225)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 10, steps=4)
        page.mouse.up()
        page.wait_for_function("!document.getElementById('all').hidden")
        chosen = page.locator("#trials tbody tr:not(.left-out)").evaluate_all("rows => rows.map((row) => row.id)")
        assert 0 < len(chosen) < len(results) and f"t0-{len(results) - 1}" in chosen and "t0-0" not in chosen
        page.wait_for_timeout(300)
        assert self.shown(page, "progress") == self.shown(page, "front") == len(chosen)
        assert page.locator("#count").inner_text() == f"{len(chosen)} of {len(results)} trials"
        page.keyboard.press("Escape")
        page.wait_for_timeout(300)
        assert self.shown(page, "front") == len(results) and page.locator("#all").is_hidden()

    def test_a_setting_leads_to_its_runs_in_every_chart(self, page, searched):
        results = load_results(searched)
        best = rank_trials(results).iloc[0]
        row = page.locator(f'.settings tr[data-s="0-s{best.setting_number}"]')
        row.hover()
        runs = int((results.setting_number == best.setting_number).sum())
        assert page.locator("#trials tr.on").count() == runs
        row.locator("summary").click()
        row.get_by_role("link", name=f"trial {best.trial}", exact=True).click()
        page.wait_for_timeout(300)
        assert page.locator(f"#t0-{best.trial}").is_visible() and page.url.endswith(f"#t0-{best.trial}")

    def test_a_click_shows_a_trial_and_its_command_is_copied(self, page, searched):
        results = load_results(searched)
        card = page.locator("#card")
        assert not card.is_visible()
        chart = page.locator("#chart-front")
        chart.scroll_into_view_if_needed()
        box = page.locator("#chart-front path[aria-roledescription=point]").last.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        card.wait_for(state="visible")
        trial = results[results.trial == int(card.locator("h3").inner_text().split(":")[0].split()[1])].iloc[0]
        text = card.inner_text()
        assert f"{100 * trial.objective:.1f}" in text and "finished" in text
        runs = (results.setting_number == trial.setting_number).sum()
        assert page.locator("#trials tbody tr:not(.left-out)").count() == runs
        card.locator(".copy").click()
        page.wait_for_function("document.querySelector('#card .copy').textContent === 'Copied'")
        page.keyboard.press("Escape")
        page.wait_for_timeout(100)
        assert not card.is_visible() and page.locator("#trials tr.left-out").count() == 0

    def test_the_table_of_trials_fits_a_laptop(self, page):
        page.set_viewport_size({"width": 1300, "height": 900})
        held, wide = page.locator("#trials").evaluate("table => [table.parentElement.clientWidth, table.scrollWidth]")
        assert wide <= held

    def test_the_keyboard_reaches_every_trial(self, page, searched):
        results = load_results(searched)
        best = rank_trials(results).iloc[0]
        page.locator("#trials tbody tr").first.focus()
        for trial in results.trial:
            assert page.evaluate("document.activeElement.id") == f"t0-{trial}"
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Home")
        for _ in range(best.trial):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        command = (searched / "best" / "command.txt").read_text().strip()
        assert page.locator("#card code").inner_text() == command
        assert page.evaluate("document.activeElement.className") == "close"
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.id") == f"t0-{best.trial}"

    def test_the_table_is_sorted_and_filtered(self, page, searched):
        order = [str(trial) for trial in rank_trials(load_results(searched)).trial]
        cells = "[...document.querySelectorAll('#trials tbody th')].map((cell) => cell.textContent)"
        page.get_by_role("button", name="objective (%)", exact=True).click()
        assert page.evaluate(cells)[0] == order[0] and page.evaluate(cells)[-1] == order[-1]
        page.get_by_role("button", name="trial", exact=True).click()
        assert page.evaluate(cells) == [str(i) for i in range(9)]
        page.get_by_label("finished (9)").uncheck()
        assert not page.locator("#trials tbody tr").first.is_visible()
        page.wait_for_timeout(300)
        assert page.locator("#chart-front path[aria-roledescription=point]").count() == 0
        assert page.locator("#count").inner_text() == "0 of 9 trials"
