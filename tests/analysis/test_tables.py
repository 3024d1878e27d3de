"""The tables, on trials of real searches (see test_plots.py); expected numbers are from their results.csv."""

import io
import math
import re

import pandas as pd
import pytest
from conftest import ROOT

from brainreg.analysis.alpha_th import alpha_th_table, format_table, table_notes, to_latex
from brainreg.analysis.averages import over_seeds
from brainreg.analysis.files import save, to_csv
from brainreg.analysis.trials import best_trials, costs, front_trials
from brainreg.records.searches import load_searches
from brainreg.records.trial import FINISHED, UNFINISHED
from brainreg.spaces.names import SETTINGS
from brainreg.statistics import wilson_interval

SEARCHES = ROOT / "tests" / "searches"
NAMES = ("digits_ranges", "mnist_seed0", "mnist_seed1", "format_1")


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    return load_searches([SEARCHES / name for name in NAMES]).trials


@pytest.fixture(scope="module")
def table(trials) -> pd.DataFrame:
    return alpha_th_table(trials)


def row(table: pd.DataFrame, search: str) -> pd.Series:
    return table[table.search == search].iloc[0]


def stored(search: str) -> pd.DataFrame:
    return pd.read_csv(SEARCHES / search / "results.csv").fillna({"setting": ""})


class TestOverSeeds:
    def test_the_interval_is_students_over_seeds(self):
        frame = pd.DataFrame({"setting": "a", "accuracy": [0.5, 0.6, 0.7, 0.6], "low": 0.0, "high": 1.0})
        (one,) = over_seeds(frame, ["setting"]).to_dict("records")
        # t(0.975, 3) = 3.18245; s = sqrt(0.02 / 3)
        half = 3.182446 * math.sqrt(0.02 / 3) / 2
        assert one["accuracy"] == pytest.approx(0.6) and one["seeds"] == 4
        assert (one["low"], one["high"]) == pytest.approx((0.6 - half, 0.6 + half))

    def test_one_seed_keeps_its_interval_over_images(self):
        frame = pd.DataFrame({"setting": ["a", "b"], "accuracy": [0.5, 0.6], "low": [0.4, 0.5], "high": [0.6, 0.8]})
        ones = over_seeds(frame, ["setting"])
        assert ones[["low", "high", "seeds"]].to_numpy().tolist() == [[0.4, 0.6, 1], [0.5, 0.8, 1]]

    def test_it_may_leave_0_to_1_and_is_unknown_where_nothing_is_known(self):
        ones = over_seeds(pd.DataFrame({"setting": ["a", "a", "b"], "accuracy": [0.9, 1.0, 0.5]}), ["setting"])
        assert (ones.low[0], ones.high[0]) == pytest.approx((0.95 - 12.7062 * 0.05, 0.95 + 12.7062 * 0.05), abs=1e-4)
        assert math.isnan(ones.low[1]) and math.isnan(ones.high[1])


class TestAlphaThTable:
    def test_a_row_for_each_search_in_the_published_order(self, table):
        assert table.data.tolist() == ["MNIST - MNIST"] * 2 + ["digits - digits"] * 2
        assert table.search.tolist() == ["mnist_seed0", "mnist_seed1", "digits_ranges", "format_1"]

    def test_published_beside_found(self, table):
        one = row(table, "mnist_seed0")
        assert (one.published_alpha, one.published_th, one.published_range) == (4, 0.2, "all")
        proposed = stored("mnist_seed0")
        best = proposed[proposed.setting == ""].sort_values("objective").iloc[-1]
        assert (one.found_alpha, one.found_th, one.found_range) == (best.reg_alpha, best.reg_thresh, best.reg_range)
        assert (one.found_N, one.found_k) == (best.reg_image_num, best.reg_batch_size) and pd.isna(one.found_th_2)
        assert one.found_robust == best.robust_accuracy and one.found_seeds == 1
        digits = row(table, "digits_ranges")
        assert pd.isna(digits.published_alpha) and pd.isna(digits.published_clean) and digits.published_seeds == 0
        assert digits.found_range == "double" and digits.found_th_2 < digits.found_th

    def test_one_seed_has_wilsons_interval_over_images(self, table):
        one = row(table, "digits_ranges")
        successes = round(one.unregularized_robust * one.robust_n)
        expected = wilson_interval(successes, one.robust_n)
        assert (one.unregularized_robust_low, one.unregularized_robust_high) == pytest.approx(expected)
        assert one.unregularized_seeds == 1 and one.robust_n == 60 and one.clean_n == 360

    def test_a_setting_that_ran_with_two_seeds_has_their_interval(self, table):
        given = [frame.loc[frame.setting == "unregularized"].iloc[0] for frame in map(stored, NAMES[1:3])]
        clean = [one.clean_accuracy for one in given]
        mean, half = sum(clean) / 2, 12.7062 * abs(clean[0] - clean[1]) / 2
        for search in NAMES[1:3]:
            one = row(table, search)
            assert one.unregularized_seeds == one.published_seeds == 2 and one.found_seeds == 1
            assert one.unregularized_clean == pytest.approx(mean)
            assert one.unregularized_clean_low == pytest.approx(mean - half, abs=1e-5)
        # The unregularized setting of digits, though as clean a slate, is another one.
        assert row(table, "digits_ranges").unregularized_clean != pytest.approx(mean, abs=1e-3)

    def test_it_says_between_which_values_others_may_be_as_good(self, trials):
        known = trials.assign(probability_as_good=0.05)
        proposed = known.index[(known.search == "mnist_seed0") & (known.state == FINISHED) & (known.setting == "")][:2]
        known.loc[proposed, "probability_as_good"] = 0.5, 0.1
        alphas = sorted(known.loc[proposed, "reg_alpha"])
        table = alpha_th_table(known)
        one = row(table, "mnist_seed0")
        assert [one.as_good_alpha_low, one.as_good_alpha_high] == alphas
        assert pd.isna(row(table, "digits_ranges").as_good_alpha_low)
        (shown,) = format_table(table).set_index("search").loc[["mnist_seed0"], "as good α"]
        assert shown == f"{alphas[0]:.3g} to {alphas[1]:.3g}"
        assert any(note.startswith("As good: ") for note in table_notes(table))

    def test_a_given_setting_that_is_as_good_is_named(self, table, trials):
        assert row(table, "digits_ranges").better == ""
        worse = trials.assign(objective=trials.objective.where(trials.setting != "", trials.objective / 4))
        assert row(alpha_th_table(worse), "mnist_seed0").better == "unregularized, published"
        notes = table_notes(alpha_th_table(worse))
        told = "In mnist_seed0, no proposed setting is expected to be better than the unregularized, published one."
        assert told in notes

    def test_notes_say_what_a_reader_must_know(self, table):
        notes = " ".join(table_notes(table))
        assert "validation images (6000 clean and 60 attacked)" in notes
        assert (
            "AutoAttack custom Linf (apgd-ce, apgd-t; 20 steps, 3 targets), eps 0.1 (digits_ranges, format_1)" in notes
        )
        assert "chosen on these images" in notes and "not over seeds" in notes and "up to 2" in notes
        assert "running" not in notes
        assert "did not run as published" in notes
        assert (
            "with base_channels 4, epoch_num 3, phase_duration 1, valid_portion 0.1, train_image_num 3000"
            " (mnist_seed0, mnist_seed1)." in notes
        )
        assert table_notes(table[:0]) == []

    def test_a_running_search_is_marked(self, trials):
        table = alpha_th_table(trials.assign(running=trials.search == "mnist_seed1"))
        assert table.running.tolist() == [False, True, False, False]
        assert "mnist_seed1 is running; what it found may change." in table_notes(table)

    def test_before_any_trial_has_finished(self, trials):
        table = alpha_th_table(trials.assign(state=UNFINISHED))
        assert len(table) == 4 and table.published_alpha.tolist()[:2] == [4, 4]
        assert table[[f"{setting}_clean" for setting in SETTINGS]].isna().all(axis=None)
        assert format_table(table)["found α"].tolist() == ["–"] * 4
        assert to_latex(table).count(r"\\[2pt]") == 4
        empty = alpha_th_table(trials[:0])
        assert len(empty) == len(format_table(empty)) == 0 and r"\bottomrule" in to_latex(empty)

    def test_as_people_read_it(self, table):
        shown = format_table(table).set_index("search")
        assert shown.loc["digits_ranges", "robust (%), unregularized"] == "25.0 [15.8, 37.2]"
        assert shown.loc["digits_ranges", "found Th"] == "0.719, 0.633"
        assert shown.loc["digits_ranges", "clean (%), published"] == "–"
        assert shown.loc["mnist_seed0", "published Th"] == "0.2"
        assert shown.loc["mnist_seed0", "clean (%), published"].endswith(", 2 seeds")

    def test_csv_has_the_numbers_in_full(self, table, tmp_path):
        again = pd.read_csv(io.StringIO(to_csv(table)))
        assert again.columns.tolist() == table.columns.tolist()
        assert again.found_robust.tolist() == table.found_robust.tolist()
        save(table, tmp_path / "tables", "alpha_th")
        assert (tmp_path / "tables" / "alpha_th.csv").read_text() == to_csv(table)
        assert (tmp_path / "tables" / "alpha_th.tex").read_text() == to_latex(table)
        save(table, "", "alpha_th")


class TestLatex:
    """What pdflatex made of it was looked at; here is what would break it."""

    def test_every_line_has_all_columns_and_braces_balance(self, table):
        text = to_latex(table)
        columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
        body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
        lines = [line for line in body.splitlines() if line.strip()]
        assert len(lines) == 2 * len(table)
        for line in lines:
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
        assert text.count(r"\begin") == text.count(r"\end") == 2

    def test_what_is_special_to_latex_is_escaped(self, table):
        text = to_latex(table.assign(search="100%_&#$~^\\{a}"))
        assert r"100\%\_\&\#\$\textasciitilde{}\textasciicircum{}\textbackslash{}\{a\}" in text
        caption = re.search(r"\\caption\{(.*)\}\n", to_latex(table))[1]
        assert "%" not in caption.replace(r"\%", "") and "_" not in caption.replace(r"\_", "")

    def test_numbers(self, table):
        lines = to_latex(table).splitlines()
        digits = next(i for i, line in enumerate(lines) if "digits -- digits & --" in line)
        assert lines[digits].split(" & ")[1:7] == ["--", "--", "0.029", "0.72, 0.63", "double", "96.1"]
        assert r"{\scriptsize digits\_ranges}" in lines[digits + 1] and "[93.6, 97.7]" in lines[digits + 1]
        mnist = next(line for line in lines if "MNIST -- MNIST & 4 & 0.2 & 0.042" in line)
        assert "94.6$^{(2)}$" in mnist
        assert "a raised number counts the seeds" in to_latex(table)
        one = table[table.search == "digits_ranges"]
        assert "raised" not in to_latex(one) and "scriptsize digits" not in to_latex(one)


def test_the_best_trials_and_the_given_ones(trials):
    best = best_trials(trials, rows=2)
    assert best.groupby("search").trial.count().to_dict() == {
        "digits_ranges": 3, "mnist_seed0": 3, "mnist_seed1": 3, "format_1": 3
    }  # fmt: skip
    first = best[best.search == "digits_ranges"].iloc[0]
    assert (first.trial, first.setting, first.range, first["objective (%)"]) == (6, "proposed", "double", "66.8")
    assert {"alpha", "Th", "Th_2", "N", "k"} <= set(best.columns)


def test_the_front(trials):
    front = front_trials(trials[trials.search == "mnist_seed0"])
    clean, robust = front["clean (%)"].astype(float).tolist(), front["robust (%)"].astype(float).tolist()
    assert len(front) == 2 and clean == sorted(clean, reverse=True) and robust == sorted(robust)


def test_what_it_cost(trials):
    seen = costs(trials).set_index(["search", "state"])
    assert seen.loc[("digits_ranges", "stopped"), "trials"] == 18
    seconds = stored("digits_ranges").query("state == 'stopped'").seconds.sum()
    assert (
        seen.loc[("digits_ranges", "stopped"), "time of workers"]
        == f"{round(seconds) // 60}m{round(seconds) % 60:02d}s"
    )
    assert seen.loc[("format_1", "finished"), "epochs trained"] == "–"  # which its table does not say
    assert costs(trials).trials.sum() == len(trials) and (trials.state == FINISHED).sum() == 31


@pytest.mark.parametrize("function", [best_trials, front_trials, costs, alpha_th_table])
def test_no_trials_make_an_empty_table(function, trials):
    assert len(function(trials[:0])) == 0
