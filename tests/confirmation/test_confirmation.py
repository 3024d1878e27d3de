"""Confirmations of the small real search: real trainings with fresh seeds, measured on test images by cheap attacks."""

import contextlib
import dataclasses
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from collections import deque

import numpy as np
import pandas as pd
import psutil
import pytest
import ray
import scipy.stats
import torch
from conftest import CHEAP, ROOT, copied
from rich.console import Console
from services import s3_server

from brainreg.analysis.alpha_th import alpha_th_table, table_notes, to_latex
from brainreg.analysis.comparison import (
    compare_settings,
    confirmation_notes,
    confirmation_table,
    describe_differences,
    format_confirmation,
    verdict_of,
)
from brainreg.commands import confirm as commands_confirm
from brainreg.confirmation import plan as confirmation_plan
from brainreg.confirmation import worker as confirmation_worker
from brainreg.confirmation.plan import plan_confirmation
from brainreg.confirmation.run import COLUMNS, _next_job, run_confirmation, show_plan
from brainreg.confirmation.worker import run_job
from brainreg.data.load import load_dataset
from brainreg.errors import InputError
from brainreg.evaluation.plan import attacked_images
from brainreg.hyperparameters import REGULARIZER
from brainreg.records.driver import Driver
from brainreg.records.manifest import read_manifest
from brainreg.records.results import load_results, rank_trials
from brainreg.records.searches import CONFIRMATION, CONFIRMATION_FOLDER, load_searches
from brainreg.seeds import fresh_seeds
from brainreg.spaces.measurement import EPOCH_OBJECTIVE, measure_objective
from brainreg.spaces.objective import Objective
from brainreg.spaces.space import Space
from brainreg.statistics import holm, least_seeds, packed, unpacked
from brainreg.storage import Storage
from brainreg.training.checkpoint import fold_batchnorm, load_checkpoint, load_classifier, save_checkpoint
from brainreg.training.data import load_training_data
from brainreg.training.step import to_float

FLAGS = ("--attacks=noise,pgd", "--num-epsilons=3", "--num_images=30")


@pytest.fixture(scope="module", autouse=True)
def ray_shut_down_at_the_end():
    yield
    ray.shutdown()


def run(plan, folder) -> tuple[pd.DataFrame, str]:
    """Run a confirmation for real; return its rows and what it printed."""
    with (folder / "printed.txt").open("w+") as file:
        table = run_confirmation(plan, Console(file=file, width=120))
        file.seek(0)
        return table, file.read()


@pytest.fixture(scope="module")
def done(confirmed_search, tmp_path_factory):
    """A copy of the confirmed search, its rows, and what was printed."""
    search = copied(confirmed_search, tmp_path_factory.mktemp("done"))
    table = pd.read_csv(search / CONFIRMATION)
    return search, table.assign(measure=table.measure.fillna("")), (confirmed_search.parent / "printed.txt").read_text()


def drawn(done, count: int) -> list[int]:
    """The seeds of the confirmation of a search, by its id alone."""
    return fresh_seeds(json.loads((done[0] / "search.json").read_text())["id"], count, used=[0])


class TestDone:
    def test_every_row_says_how_it_was_measured(self, done):
        _, table, _ = done
        assert tuple(table.columns) == COLUMNS and set(table.split) == {"test"} and set(table.seeds) == {2}
        jobs = table.groupby(["setting", "rank", "seed"])
        assert jobs.ngroups == 8 and (jobs.size() == 1 + 3 * 4 + 3).all()
        assert sorted(table.seed.unique()) == sorted(drawn(done, 2)) and 0 not in table.seed.tolist()
        measured = table[table.measure != ""]
        assert (measured.groupby(["setting", "rank", "seed"]).measure.agg(set) == {"clean", "robust", "noise"}).all()
        robust = table[table.measure == "robust"]
        assert set(robust.attack) == {"PGD Linf (20 steps)"} and set(robust.eps) == {0.05} and set(robust.n) == {30}
        noise = table[table.measure == "noise"]
        assert set(noise.attack) == {"Gaussian"} and set(noise.eps) == {0.4}  # as the search had it
        assert set(table[table.attack == "clean"].n) == {359} and table.versions.str.startswith("brainreg ").all()

    def test_settings_are_the_best_proposed_ones_and_the_unregularized_ones(self, done):
        search, table, _ = done
        best = rank_trials(load_results(search)).query("setting == ''")
        found = table[table.setting == "found"].drop_duplicates("rank").sort_values("rank")
        assert found["rank"].tolist() == [1, 2] and found.trial.tolist() == best.trial.tolist()[:2]
        assert found.reg_alpha.tolist() == best.reg_alpha.tolist()[:2]
        unregularized = table[table.setting.isin(["unregularized", "early_stopped"])]
        assert set(unregularized.reg_alpha) == {0} and set(unregularized["rank"]) == {0}

    def test_one_unregularized_network_is_that_of_the_epoch_with_the_best_objective(self, done):
        search, table, _ = done
        space = Space(**read_manifest(Storage(search))["space"])
        for seed in drawn(done, 2):
            state = load_checkpoint(search / CONFIRMATION_FOLDER / f"early_stopped-seed_{seed}" / "checkpoint.pt")
            other = load_checkpoint(search / CONFIRMATION_FOLDER / f"unregularized-seed_{seed}" / "checkpoint.pt")
            for key, value in state["model"].items():  # the last epoch's: the training is the same
                torch.testing.assert_close(value, other["model"][key])
            known = [epoch.get(EPOCH_OBJECTIVE, -1) for epoch in state["history"]]
            assert state["best_epoch"] == known.index(max(known)) and other["chosen_by"] is None
            classifier, settings = load_classifier(
                search / CONFIRMATION_FOLDER / f"early_stopped-seed_{seed}" / "checkpoint.pt"
            )
            data = load_training_data(settings, ROOT / "data")
            images, labels = to_float(data.valid_images), data.valid_labels
            measured = measure_objective(space.objective, fold_batchnorm(classifier), images, labels, seed)
            assert measured["objective"] == pytest.approx(max(known), abs=0.02)
            assert {*table[(table.setting == "early_stopped") & (table.seed == seed)].best_epoch} == {
                state["best_epoch"]
            }

    def test_both_unregularized_networks_are_of_one_training(self, done):
        """As long as it was, to the last digit; of one epoch, the network is measured once."""
        search, table, _ = done
        for seed in drawn(done, 2):
            folders = [
                search / CONFIRMATION_FOLDER / f"{name}-seed_{seed}" for name in ("early_stopped", "unregularized")
            ]
            states = [load_checkpoint(folder / "checkpoint.pt") for folder in folders]
            assert states[0]["seconds"] == states[1]["seconds"]
            parts = [{path.name: path.read_bytes() for path in (folder / "parts").iterdir()} for folder in folders]
            assert (parts[0] == parts[1]) == (states[0]["best_epoch"] == states[1]["best_epoch"])

    @pytest.mark.parametrize("left", ["nothing", "a part of it", "what an earlier version left", "a damaged file"])
    def test_an_unregularized_network_is_trained_where_the_other_one_is_not_there(self, left, searched, tmp_path):
        search = copied(searched, tmp_path)
        evaluation = {**CHEAP, "attacks": ("fgsm",)}
        plan = plan_confirmation(search, {"top": 1, "seeds": 2}, evaluation, {"data_dir": str(ROOT / "data")})
        jobs = {job.setting: job for job in plan.jobs[:3]}

        def run_one(job):
            place = plan.folder.uri, plan.options.data_dir, plan.manifest["data"]
            assert run_job(job, plan.evaluation, *place, 1, "cpu") == {"notes": []}
            return load_checkpoint(search / CONFIRMATION_FOLDER / job.name / "checkpoint.pt")

        unregularized = jobs["unregularized"]
        assert unregularized.same_training == jobs["early_stopped"].name
        if left != "nothing":
            state = run_one(jobs["early_stopped"])
            path = search / CONFIRMATION_FOLDER / unregularized.same_training / "checkpoint.pt"
            if left == "a part of it":
                state["history"].pop()
            elif left == "what an earlier version left":
                del state["lowest_cross_entropy"]
            save_checkpoint(path, state)
            if left == "a damaged file":
                path.write_bytes(path.read_bytes()[:1000])
        own = run_one(unregularized)
        assert len(own["history"]) == unregularized.settings.epoch_num + 1 and own["chosen_by"] is None
        assert left == "nothing" or own["seconds"] != state["seconds"]

    def test_a_job_waits_for_the_same_training_and_no_longer(self, done):
        jobs = plan_confirmation(done[0], {}, {}, {}).jobs
        by_name = {job.name: job for job in jobs}
        unregularized = next(job for job in jobs if job.same_training)
        other = by_name[unregularized.same_training]
        differ: set[str] = set()
        todo = deque([unregularized, other])
        assert _next_job(todo, [], differ.__contains__) is other and [*todo] == [unregularized]
        assert _next_job(todo, [other], differ.__contains__) is None and [*todo] == [unregularized]
        assert _next_job(todo, [], differ.__contains__) is unregularized and not todo  # it ended, or failed
        assert _next_job(deque(jobs), [], differ.__contains__) is jobs[0]
        todo, differ = deque([unregularized]), {other.name}  # the other one is attacked still
        assert _next_job(todo, [other], differ.__contains__) is unregularized and not todo

    def test_a_job_says_where_both_unregularized_networks_are_of_different_epochs(self, done):
        for folder in (done[0] / CONFIRMATION_FOLDER).glob("*-seed_*"):
            state = load_checkpoint(folder / "checkpoint.pt")
            losses = [epoch["valid_cross_entropy"] for epoch in state["history"]]
            assert (folder / "epochs_differ").exists() == (state["best_epoch"] != losses.index(min(losses)))

    def test_a_confirmation_that_was_begun_without_it_goes_on_without_it(self, done, tmp_path):
        search = copied(done[0], tmp_path)
        path = search / CONFIRMATION_FOLDER / "confirmation.json"
        manifest = json.loads(path.read_text())
        del manifest["controls"]
        path.write_text(json.dumps(manifest))
        plan = plan_confirmation(search, {"seeds": 3}, {}, {})
        assert {job.setting for job in plan.jobs} == {"found", "unregularized"} and len(plan.jobs) == 9
        assert not any(job.same_training for job in plan.jobs)

    def test_without_a_limit_of_time_images_are_attacked_in_as_few_batches_as_they_fit_in(self, done):
        parts = (done[0] / CONFIRMATION_FOLDER).glob("*/parts/*.pt")
        assert {tuple(map(int, path.name.split("-")[1:3])) for path in parts} == {(0, 359), (0, 25), (25, 5)}

    def test_each_images_outcome_is_kept(self, done):
        """In all rows of a job's own file, and in the table where settings are compared."""
        search, table, _ = done
        for path in (search / CONFIRMATION_FOLDER).glob("*/result.json"):
            result = json.loads(path.read_text())
            assert len(result["outcomes"]) == len(result["rows"])
            for row, text in zip(result["rows"], result["outcomes"], strict=True):
                outcomes = unpacked(text)
                assert (len(outcomes), outcomes.sum()) == (row["n"], row["correct"])
            seed = int(path.parent.name.rpartition("_")[2])
            assert result["attacked"] == attacked_images(359, 30, seed).tolist()
        compared = table[(table.measure != "") | table.attack.str.startswith("PGD")]
        assert (compared.outcomes.map(lambda text: unpacked(text).sum()) == compared.correct).all()
        assert (compared.groupby(["setting", "rank", "seed"]).size() == 5).all()

    def test_a_job_is_what_train_py_measures(self, done, tmp_path):
        """The command line of one network, with the fresh seed, gives the same numbers on the same test images."""
        search, table, _ = done
        seed = drawn(done, 1)[0]
        ended = subprocess.run(
            [sys.executable, "train.py", "--task=digits", "--base_channels=4", "--train_image_num=400", "--epoch_num=3",
             "--phase_duration=1", "--valid_portion=0.2", f"--seed={seed}", *FLAGS, "--eps=0.025,0.05,0.075",
             "--noise_eps=0.4",
             "--threads=1", f"--save_dir={tmp_path}"],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        trained = pd.read_csv(next(tmp_path.glob("*/robustness.csv")))
        job = table[(table.setting == "unregularized") & (table.seed == seed)]
        assert job.attack.tolist() == trained.attack.tolist() and job.correct.tolist() == trained.correct.tolist()

    def test_what_the_terminal_shows(self, done):
        search, table, text = done
        assert "confirming small: 4 settings with 2 fresh seeds each, 8 networks, 0 of them done before" in text
        assert len(re.findall(r"seed \d+: clean 0\.\d+, robust \d\.\d+, noise", text)) == 8
        trial = table[table["rank"] == 1].trial.iloc[0]
        assert f"found (trial {trial}) against unregularized, paired over 2 seeds:" in text
        # Seeds are drawn from the search's id, others each time: two may differ by the same number of images.
        told = r"(, 95% interval .* to .*, p .*: (not )?larger than the noise|.*: the same with every seed, so)"
        assert re.search(rf"  robust, eps 0\.05 [+-]0\.\d+{told}", text)
        bootstrap = "bootstrap over seeds and images .*% of the variance is that of the 30 images"
        assert re.search(f"{bootstrap}|no image was classified otherwise with any seed", text)
        assert "against unregularized, epoch by objective, paired over 2 seeds:" in text
        assert "corrected for 2 comparisons" in text
        assert "With 2 seeds, no difference is larger than the noise unless" in text and "note: --seeds=2: no" in text
        assert "Compared is rank 1 alone" in text and "warning: few images" in text

    def test_started_again_it_repeats_nothing(self, done, tmp_path):
        search, table, _ = done
        before = {path: path.stat().st_mtime_ns for path in search.rglob("*") if "confirmation/" in str(path)}
        again, text = run(plan_confirmation(search, {}, {}, {}), tmp_path)
        assert "8 networks, 8 of them done before" in text and "Ray" not in text
        after = {path: path.stat().st_mtime_ns for path in search.rglob("*") if "confirmation/" in str(path)}
        changed = {path.name for path in before if after[path] != before[path]}
        assert before.keys() == after.keys() and changed <= {"driver.json", "confirmation.json"}
        assert again.accuracy.tolist() == table.accuracy.tolist()

    @pytest.mark.parametrize(
        ("extent", "evaluation", "message"),
        [
            ({"top": 1}, {}, "--top=1: this confirmation has 2, and none is left out"),
            ({}, {"num_images": 40}, "--num_images=40: this confirmation measures with 30; go on without the flag, or"),
            ({}, {"eps": (0.1,)}, "--eps=0.1: this confirmation measures with 0.025,0.05,0.075; go on"),
            ({}, {"attacks": ("fgsm",)}, "--attacks=fgsm: this confirmation measures with noise,pgd; go on"),
        ],
    )
    def test_it_stays_the_confirmation_that_it_is(self, done, extent, evaluation, message):
        search, _, _ = done
        with pytest.raises(InputError) as caught:
            plan_confirmation(search, extent, evaluation, {})
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)

    def test_as_many_seeds_as_a_test_without_normal_differences_needs(self, searched, tmp_path):
        plan = plan_confirmation(copied(searched, tmp_path), {}, {}, {})
        assert plan.extent.seeds == least_seeds(2) == 7 and not any("normal" in note for note in plan.notes)
        few = plan_confirmation(plan.search, {"seeds": 6}, {}, {})
        assert any("that takes 7 seeds or more" in note for note in few.notes)

    def test_more_seeds_keep_those_of_before_and_are_noted(self, done):
        plan = plan_confirmation(done[0], {"seeds": 3}, {}, {})
        assert [job.settings.seed for job in plan.jobs[::4]] == drawn(done, 3)
        assert any("finds one by chance" in note for note in plan.notes)

    def test_a_confirmation_of_an_earlier_version_keeps_its_seeds(self, done, tmp_path):
        """They came from the search's seed; its search had no id."""
        search = copied(done[0], tmp_path)
        manifest, began = (
            json.loads((search / name).read_text())
            for name in ("search.json", f"{CONFIRMATION_FOLDER}/{CONFIRMATION_FOLDER}.json")
        )
        del manifest["id"], manifest["strategy"]["sampler_seed"]
        (search / "search.json").write_text(json.dumps(manifest))
        (search / CONFIRMATION_FOLDER / f"{CONFIRMATION_FOLDER}.json").write_text(
            json.dumps({**began, "seeds": [5, 6]})
        )
        plan = plan_confirmation(search, {"seeds": 4}, {}, {})
        assert plan.manifest["seeds"][:2] == [5, 6] and len({*plan.manifest["seeds"]}) == 4
        (search / CONFIRMATION_FOLDER / f"{CONFIRMATION_FOLDER}.json").unlink()
        assert not {5, 6, *drawn(done, 4)} & {*plan_confirmation(search, {"seeds": 4}, {}, {}).manifest["seeds"]}

    def test_two_at_a_time(self, done):
        search, _, _ = done
        for folder in (search, search / CONFIRMATION_FOLDER):
            with Driver(Storage(folder), 1), pytest.raises(InputError, match=rf"^EXPERIMENT={folder}: process \d+ on"):
                plan_confirmation(search, {}, {}, {})

    def test_the_alpha_th_table_has_test_numbers_where_they_are(self, done, searched):
        search, table, _ = done
        searches = load_searches([search, searched.parent / "small"])
        both = alpha_th_table(searches.trials, searches.confirmation)
        assert sorted(both.images) == ["test", "validation"]
        row = both[both.images == "test"].iloc[0]
        clean = table[(table["rank"] == 1) & (table.measure == "clean")].accuracy
        assert row.found_clean == pytest.approx(clean.mean()) and row.found_seeds == 2 and row.clean_n == 359
        assert row.attack == "PGD Linf (20 steps)" and row.robust_n == 30 and pd.isna(row.published_clean)
        notes = " ".join(table_notes(both))
        assert "not confirmed on test images" in notes and "trained anew with fresh seeds" in notes
        assert "& test \\\\" in to_latex(both) and "& valid. \\\\" in to_latex(both)
        assert (alpha_th_table(searches.trials).images == "validation").all()

    def test_a_search_that_went_on_says_that_another_trial_ranks_first(self, done):
        searches = load_searches(done[0])
        trials = searches.trials
        other = trials[(trials.setting == "") & (trials.state == "finished")].objective.astype(float).idxmin()
        trials.loc[other, ["expected_objective", "setting_rank"]] = 0.999, 0
        (row,) = alpha_th_table(trials, searches.confirmation).itertuples()
        assert row.newer == trials.trial[other] and row.images == "test"
        told = f"its trial {row.newer} ranks first now, and is not the one that was confirmed"
        assert told in " ".join(table_notes(alpha_th_table(trials, searches.confirmation)))

    def test_of_a_confirmation_that_has_begun_only_test_numbers_are_shown(self, done):
        searches = load_searches(done[0])
        begun = searches.confirmation[searches.confirmation.setting == "found"]
        row = alpha_th_table(searches.trials, begun).iloc[0]
        assert row.images == "test" and pd.isna(row.unregularized_clean) and row.unregularized_seeds == 0


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_if_it_had_not_been(searched, done, tmp_path):
    """A worker dies, then the driver, both by SIGKILL."""
    search = copied(searched, tmp_path)
    command = [sys.executable, "-m", "brainreg", "confirm", str(search), "--top", "1", "--seeds=2", *FLAGS]
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    tree = psutil.Process(driver.pid)

    def workers() -> list[psutil.Process]:
        found = []
        for process in tree.children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):
                found += [process] * process.cmdline()[0].startswith("ray::run_job")
        return found

    deadline = time.monotonic() + 300
    try:
        while time.monotonic() < deadline and not (victims := workers()):
            time.sleep(0.05)
        victims[0].kill()
        while time.monotonic() < deadline and "tried again after" not in log.read_text():
            time.sleep(0.1)
        while time.monotonic() < deadline and not (search / CONFIRMATION).exists():  # written after each result
            time.sleep(0.1)
    finally:
        processes = tree.children(recursive=True)
        driver.kill()
    assert driver.wait() == -signal.SIGKILL
    psutil.wait_procs(processes, timeout=30)
    before = {path: path.read_bytes() for path in (search / CONFIRMATION_FOLDER).glob("*/result.json")}
    assert "tried again after" in log.read_text() and 0 < len(before) < 6, log.read_text()
    assert pd.read_csv(search / CONFIRMATION).seed.notna().all()  # whole, though not all of it is there

    table, text = run(plan_confirmation(search, {}, {}, {}), tmp_path)
    assert f"6 networks, {len(before)} of them done before" in text
    assert {path: path.read_bytes() for path in before} == before
    names = ["setting", "rank", "seed", "attack", "eps", "correct", "n"]
    expected = done[1][done[1]["rank"] < 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[names], expected[names])


@pytest.mark.long
def test_a_failed_job_is_named_and_the_others_go_on(searched, tmp_path):
    search = copied(searched, tmp_path)
    plan = plan_confirmation(search, {"top": 1, "seeds": 2}, {**CHEAP, "attacks": ("fgsm",)}, {})
    broken = dataclasses.replace(plan.jobs[0], settings=plan.jobs[0].settings.model_copy(update={"lr": 1e30}))
    table, text = run(dataclasses.replace(plan, jobs=(broken, *plan.jobs[1:])), tmp_path)
    assert re.search(rf"failed: {re.escape(str(broken))}: DivergedError: epoch 1, .*; started again, it is tried", text)
    assert "DivergedError" in (search / CONFIRMATION_FOLDER / broken.name / "error.txt").read_text()
    assert table.groupby(["setting", "rank", "seed"]).ngroups == 5
    assert "found, rank 1" in text and "1 of 2" in text  # seeds
    assert "paired over 1 seed:" in text and "one seed, so the noise is unknown" in text
    again, text = run(plan_confirmation(search, {}, {}, {}), tmp_path)
    assert "6 networks, 5 of them done before" in text and again.groupby(["setting", "seed"]).ngroups == 6


@pytest.mark.slow
def test_a_full_confirmation_on_s3(searched, tmp_path):
    """Files go there while jobs run, and come back when a job goes on."""
    ray.shutdown()
    with s3_server() as server:
        folder = Storage(server.uri("searches")).child("small")
        for path in searched.rglob("*"):
            if path.is_file() and "ray" not in path.parts:
                folder.write(str(path.relative_to(searched)), path.read_bytes())
        plan = plan_confirmation(folder, {"top": 1, "seeds": 2}, {**CHEAP, "attacks": ("fgsm",)}, {})
        table, _ = run(plan, tmp_path)
        assert table.groupby(["setting", "seed"]).ngroups == 6
        names = folder.child(CONFIRMATION_FOLDER).child(plan.jobs[0].name).names()
        assert {"checkpoint.pt", "parts", "result.json", "robustness.csv", "robustness.html"} <= {*names}
        place = confirmation_worker._Workplace(
            folder.child(CONFIRMATION_FOLDER).child(plan.jobs[0].name), str(tmp_path / "again")
        )
        assert (place.path / "checkpoint.pt").is_file() and list((place.path / "parts").glob("*.pt"))
        ray.shutdown()


class TestPlan:
    def test_published_and_a_front(self, searched, tmp_path):
        search = copied(searched, tmp_path)
        manifest = json.loads((search / "search.json").read_text())
        manifest["strategy"]["objective"] = "pareto"
        manifest["space"]["published"] = {"reg_alpha": 0.5, "reg_thresh": 0.5, "reg_range": "all"}
        manifest["space"]["fixed"]["reg_image_num"] = manifest["space"]["search"].pop("reg_image_num")["low"]
        (search / "search.json").write_text(json.dumps(manifest))
        plan = plan_confirmation(search, {"top": 1, "seeds": 2}, {}, {})
        assert [(job.setting, job.rank) for job in plan.jobs[:4]] == [
            ("found", 1),
            ("published", 0),
            ("unregularized", 0),
            ("early_stopped", 0),
        ]
        assert plan.chosen.startswith("of the front of clean and robust accuracy, the best expected objective")
        assert plan.jobs[1].settings.reg_alpha == 0.5 and plan.evaluation.eps == (0.025, 0.05, 0.075)
        assert plan.evaluation.attacks == ("noise", "fgsm", "pgd", "autoattack") and plan.evaluation.num_images == 1000
        assert not (search / CONFIRMATION_FOLDER).exists() and not (search / CONFIRMATION).exists()

    def test_a_searched_lr_is_shared_by_an_unregularized_control(self, searched, tmp_path):
        """A gain over it is the regularizer's alone."""
        search = copied(searched, tmp_path)
        manifest = json.loads((search / "search.json").read_text())
        manifest["space"]["search"]["lr"] = {"low": 0.01, "high": 0.2}
        (search / "search.json").write_text(json.dumps(manifest))
        for path in search.glob("trial_*/trial.json"):
            trial = json.loads(path.read_text())
            if not trial["setting"]:
                trial["hyperparameters"]["lr"] = 0.05
            path.write_text(json.dumps(trial))
        plan = plan_confirmation(search, {"top": 2, "seeds": 2}, {}, {})
        first = {job.setting: job.settings for job in plan.jobs[:5] if job.rank < 2}
        assert [*first] == ["found", "unregularized", "early_stopped", "unregularized_like_found"]
        control = first["unregularized_like_found"]
        assert (control.lr, control.regularized) == (0.05, False) and first["unregularized"].lr == 0.1
        others = {*REGULARIZER}
        assert control.model_dump(exclude=others) == first["found"].model_dump(exclude=others)
        assert plan_confirmation(search, {"top": 1}, {}, {}).extent.seeds == least_seeds(3)
        said: list[str] = []
        show_plan(plan, 0, said.append)
        assert any("lr 0.05" in line for line in said)
        assert any(line.startswith("  unregularized (alpha 0, lr 0.1") for line in said)

    def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(self, searched, tmp_path, capsys):
        search = copied(searched, tmp_path)
        before = sorted(search.rglob("*"))
        assert commands_confirm.main([str(search), "--top=1", "--seeds=2", "--dry-run"]) == 0
        printed = capsys.readouterr().out
        assert "3 settings with 2 fresh seeds each, 6 networks" in printed and "nothing was started" in printed
        assert re.search(r"^at least \d+m\d\ds, as a trial of the search took ", printed, re.MULTILINE)
        assert sorted(search.rglob("*")) == before

    def test_the_same_images_are_attacked_for_all_settings_of_a_seed(self):
        _, labels = load_dataset("digits", "test")
        assert attacked_images(len(labels), 30, 5).tolist() == attacked_images(len(labels), 30, 5).tolist()

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("", "EXPERIMENT: missing; name the folder of a search"),
            ("{}l", "EXPERIMENT={}l: no such folder; did you mean small? known: small"),
            ("{0},{0}l", "EXPERIMENT={}l: no such folder"),
            ("{} --top=0", "--top=0: must be at least 1"),
            ("{} --top=99", "--top=99: there are 7 proposed settings to choose from (the best expected objective"),
            ("{} --seeds=1", "--seeds=1: must be at least 2"),
            ("{} --seeds=many", "--seeds=many: must be a whole number"),
            ("{} --seed=2", "--seed: no such flag; did you mean --seeds"),
            ("{} --minutes=5", "--minutes: no such flag"),
            ("{} --tolerance=0.01", "--tolerance: no such flag"),
            ("{} --attacks=autoatack", "--attacks=autoatack: no such attack; did you mean autoattack"),
            ("{} --eps=8", "--eps=8: must be in [0, 1]"),
            ("{} --num_images=0", "--num_images=0: must be at least 1"),
            ("{} --attack-minutes=0", "--attack_minutes=0: must be greater than 0"),
            ("{} --gpus-per-trial=99", "--gpus_per_trial=99: there are"),
            ("{} --cpus-per-trial=999", "--cpus_per_trial=999: there are"),
            ("{} --address=127.0.0.1:1", "--address=127.0.0.1:1: no Ray cluster answers there"),
            (
                "{} --attacks=corruptions,gaussian_noise",
                "--attacks=corruptions,gaussian_noise: images: 16x16 pixels; corruptions need",
            ),
        ],
    )
    def test_bad_input_is_one_line_and_nothing_is_written(self, line, message, searched, tmp_path):
        search = copied(searched, tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        with pytest.raises(InputError) as caught:
            commands_confirm.main(line.format(search).split())
        text = str(caught.value)
        assert text.startswith(message.format(search)) and "\n" not in text, text
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    def test_damaged_files_of_a_confirmation(self, done, tmp_path):
        search = copied(done[0], tmp_path)
        result = next((search / CONFIRMATION_FOLDER).glob("*/result.json"))
        result.write_text('{"rows": [')
        assert confirmation_worker.read_result(Storage(search / CONFIRMATION_FOLDER), dataclasses.replace(
            next(job for job in plan_confirmation(search, {}, {}, {}).jobs if job.name == result.parent.name)
        )) is None  # fmt: skip
        (search / CONFIRMATION_FOLDER / "confirmation.json").write_text("{")
        with pytest.raises(InputError, match=r"confirmation\.json: damaged \(.*\); remove .* to begin anew$"):
            plan_confirmation(search, {}, {}, {})


# ---------------------------------------------------------------------------------------------
# Statistics
# ---------------------------------------------------------------------------------------------


def made_up(**accuracies) -> pd.DataFrame:
    """A confirmation whose robust accuracies are known; clean ones are all 0.9."""
    rows = [
        {"search": "s", "setting": setting, "rank": int(setting == "found"), "trial": 3, "seed": seed,
         "measure": measure, "accuracy": value, "low": 0.0, "high": 1.0, "split": "test", "weight": 0.25,
         "seeds": len(values), "n": 100, "attack": "A", "eps": 0.1, "reg_alpha": 1.0, "reg_thresh": 0.5,
         "reg_thresh_2": None, "reg_image_num": 4390.0, "reg_batch_size": 8, "reg_range": "all"}
        for setting, values in accuracies.items()
        for seed, robust in enumerate(values)
        for measure, value in (("clean", 0.9), ("robust", robust))
        if robust is not None
    ]  # fmt: skip
    return pd.DataFrame(rows)


FOUND = [0.62, 0.58, 0.66, 0.61, 0.70]
PUBLISHED = [0.60, 0.59, 0.60, 0.62, 0.63]
UNREGULARIZED = [0.50, 0.47, 0.52, 0.50, 0.58]


class TestStatistics:
    def test_against_scipys_paired_t_test(self):
        table = compare_settings(made_up(found=FOUND, published=PUBLISHED, unregularized=UNREGULARIZED))
        robust = table[table.measure == "robust"].set_index(["better", "than"])
        pairs = {
            ("found", "unregularized"): (FOUND, UNREGULARIZED),
            ("found", "published"): (FOUND, PUBLISHED),
            ("published", "unregularized"): (PUBLISHED, UNREGULARIZED),
        }
        expected = {names: scipy.stats.ttest_rel(*values) for names, values in pairs.items()}
        for names, test in expected.items():
            row, (low, high) = robust.loc[names], test.confidence_interval(1 - 0.05 / 3)
            assert row.p == pytest.approx(test.pvalue)
            if row.corrected < 0.05:
                low, high = max(low, 0), high
            assert (row.low, row.high) == pytest.approx((low, high))
            flips = [np.mean(np.subtract(*pairs[names]) * signs) for signs in itertools.product((-1, 1), repeat=5)]
            assert row.flip_p == pytest.approx(np.mean(np.abs(flips) >= abs(flips[0]) - 1e-12))
        by_size = sorted(expected, key=lambda names: expected[names].pvalue)
        first = robust.loc[by_size[0]]
        assert first.corrected == pytest.approx(3 * first.p) and (robust.corrected >= robust.p).all()
        assert robust.corrected.max() <= 1 and (robust.comparisons == 3).all()
        assert (robust.flip_corrected >= 2 / 32 * 1.999).all()  # with five seeds it cannot find anything
        objective = table[table.measure == "objective"].set_index(["better", "than"])
        assert objective.difference.tolist() == pytest.approx((0.75 * robust.difference).tolist())

    def test_noise_has_a_part_in_the_objective_where_it_had_one_in_the_searchs(self):
        def objectives(**columns) -> list[float]:
            measured = made_up(found=FOUND, unregularized=UNREGULARIZED)
            noise = measured[measured.measure == "robust"].assign(measure="noise", accuracy=0.4)
            table = confirmation_table(pd.concat([measured, noise]).assign(**columns))
            return table.set_index("setting").objective_by_seed["found"]

        plain = [0.25 * 0.9 + 0.75 * robust for robust in FOUND]
        assert objectives() == pytest.approx(plain)  # of an earlier version, whose table has no such column
        assert objectives(noise_weight=0.0) == pytest.approx(plain)
        weighted = [0.25 * 0.9 + 0.2 * 0.4 + 0.55 * robust for robust in FOUND]
        assert objectives(noise_weight=0.2) == pytest.approx(weighted)
        unknown = made_up(found=FOUND, unregularized=UNREGULARIZED).assign(noise_weight=0.2)  # noise was not measured
        assert set(compare_settings(unknown).measure) == {"clean", "robust"}
        said = "The objective is not compared: accuracy under noise, a part of it, was not measured."
        assert said in confirmation_notes(unknown) and said not in confirmation_notes(unknown.assign(noise_weight=0.0))

    def test_what_is_not_measured_of_the_objective_is_told_before(self):
        plain, weighted = Objective(eps=0.1), Objective(eps=0.1, noise_weight=0.2)
        assert confirmation_plan._parts_not_measured(plain, {0: "clean", 1: "robust"}) == []
        assert confirmation_plan._parts_not_measured(plain, {0: "clean", 1: "noise"}) == ["robust accuracy"]
        both = ["robust accuracy", "accuracy under Gaussian noise"]
        assert confirmation_plan._parts_not_measured(weighted, {0: "clean"}) == both
        assert confirmation_plan._parts_not_measured(weighted, {0: "clean", 1: "robust"}) == both[1:]

    def test_the_interval_leaves_out_0_exactly_where_a_difference_is_larger_than_the_noise(self):
        draws, seen = np.random.default_rng(1), set()
        for effect in np.repeat([0.02, 0.05, 0.1], 8):
            settings = {
                name: (0.5 + effect * i + draws.normal(0, 0.05, 7)).tolist()
                for i, name in enumerate(("unregularized", "early_stopped", "published", "found"))
            }
            for row in compare_settings(made_up(**settings)).query("measure == 'robust'").itertuples():
                outside = not row.low < 0 < row.high
                assert outside == verdict_of(row).startswith("larger than the noise") and row.comparisons == 4
                seen.add(verdict_of(row))
        assert {"not larger than the noise", "larger than the noise, better, if differences are normal"} <= seen

    def test_enough_seeds_find_a_difference_without_normal_ones(self):
        other = np.random.default_rng(0).normal(0.5, 0.01, 8)
        row = compare_settings(made_up(found=(other + 0.1).tolist()[:6], unregularized=other.tolist()[:6]))
        assert row[row.measure == "robust"].flip_p.iloc[0] == pytest.approx(2 / 2**6)
        jitter = np.linspace(0.09, 0.11, 8)
        for seeds, found in ((least_seeds(1) - 1, False), (least_seeds(1), True)):
            table = compare_settings(
                made_up(found=(other + jitter).tolist()[:seeds], unregularized=other.tolist()[:seeds])
            )
            (row,) = table[table.measure == "robust"].itertuples()
            assert (verdict_of(row) == "larger than the noise, better") is found

    def test_the_sign_of_a_difference_may_depend_on_the_strength(self):
        weak, strong = (
            made_up(found=[0.7, 0.8], unregularized=[0.9, 0.95]),
            made_up(found=FOUND[:2], unregularized=[0, 0.1]),
        )
        own = made_up(found=[0.6, 0.7], unregularized=[0.5, 0.6])
        others = [
            one[one.measure == "robust"].assign(measure="", eps=eps) for one, eps in ((weak, 0.05), (strong, 0.15))
        ]
        far = others[1].assign(eps=0.4)
        table = compare_settings(pd.concat([own, *others, far], ignore_index=True)).set_index("measure")
        assert table.difference["robust_weaker"] < 0 < table.difference["robust"] < table.difference["robust_stronger"]
        assert table.eps[["robust_weaker", "robust", "robust_stronger"]].tolist() == [0.05, 0.1, 0.15]
        told = " ".join(describe_differences(compare_settings(pd.concat([own, *others], ignore_index=True))))
        assert "robust, eps 0.05 -0.175" in told and "robust, eps 0.15 +" in told
        summary = confirmation_table(pd.concat([own, *others], ignore_index=True))
        assert summary.robust_weaker.tolist() == pytest.approx([0.75, 0.925])
        assert {"robust, eps 0.05 (%), test", "robust, eps 0.15 (%), test"} <= {*format_confirmation(summary).columns}

    def test_intervals_are_not_cut_off_at_0(self):
        summary = confirmation_table(made_up(found=[0.0, 0.3, 0.0], unregularized=[1.0, 0.7, 1.0]))
        assert summary.robust_low.min() < 0 and summary.robust_high.max() > 1
        assert summary.robust_by_seed[0] == [0.0, 0.3, 0.0]

    def test_images_and_seeds_have_their_part_in_the_spread(self):
        """Of 40 images a seed, each a coin: all the spread is theirs. Of seeds that differ: none of it."""
        draws = np.random.default_rng(2)

        def told(first, second) -> object:
            table = made_up(found=[np.mean(one) for one in first], unregularized=[np.mean(one) for one in second])
            table["outcomes"] = None
            for setting, outcomes in (("found", first), ("unregularized", second)):
                rows = table.index[(table.measure == "robust") & (table.setting == setting)]
                table.loc[rows, "outcomes"] = [packed(one) for one in outcomes]
            (row,) = compare_settings(table).query("measure == 'robust'").itertuples()
            return row

        images = told(*draws.random((2, 60, 40)) < [[[0.6]], [[0.4]]])
        assert images.spread.share_of_images > 0.8 and images.spread.images == 40
        assert images.bootstrap_low < images.difference < images.bootstrap_high
        assert images.bootstrap_high - images.bootstrap_low == pytest.approx(images.high - images.low, rel=0.6)
        whole = np.ones(40, dtype=bool)
        seeds = told([whole if i % 2 else ~whole for i in range(20)], [~whole] * 20)
        assert seeds.spread.share_of_images == pytest.approx(0, abs=1e-6)
        # What is foretold of more images and seeds is what they then give.
        more = told(*draws.random((2, 60, 160)) < [[[0.6]], [[0.4]]])
        foretold = images.spread.half_width(60, 160, 1)
        assert foretold == pytest.approx((more.high - more.low) / 2, rel=0.3)
        assert seeds.spread.half_width(20, 4000, 1) == pytest.approx(seeds.spread.half_width(20, 40, 1))

    def test_pairs_are_of_one_seed_and_only_of_seeds_that_both_have(self):
        few = [None, 0.47, 0.52, 0.50, None]
        row = compare_settings(made_up(found=FOUND[::-1], unregularized=few)).query("measure == 'robust'").iloc[0]
        expected = np.subtract(FOUND[::-1][1:4], few[1:4])
        assert row.seeds == 3 and row.difference == pytest.approx(expected.mean()) and row.comparisons == 1

    def test_settings_without_a_seed_in_common_are_not_compared(self):
        table = compare_settings(
            made_up(found=[0.5, None, None], published=[None, 0.5, 0.6], unregularized=[None, 0.4, 0.7])
        )
        assert {*zip(table.better, table.than, strict=True)} == {("published", "unregularized")}

    def test_seeds_that_are_missing_are_told(self):
        notes = " ".join(confirmation_notes(made_up(found=[0.5, None, None, 0.6], unregularized=[0.5] * 4)))
        assert "failed or are not done are left out" in notes and "found, rank 1 2 of 4 seeds are measured" in notes
        assert "unregularized 4" not in notes
        assert "left out" not in " ".join(confirmation_notes(made_up(found=FOUND, unregularized=UNREGULARIZED)))

    def test_plain_sentences(self):
        sure = " ".join(describe_differences(compare_settings(made_up(found=FOUND, unregularized=UNREGULARIZED))))
        assert "found (trial 3) against unregularized, paired over 5 seeds:" in sure
        assert re.search(
            r"robust, eps 0\.1 \+0\.120, 95% interval \+0\.\d+ to \+0\.\d+, p < 0\.001, sign-flip p 0\.062: larger than"
            r" the noise, better, if differences are normal",
            sure,
        )
        turned = " ".join(describe_differences(compare_settings(made_up(found=UNREGULARIZED, unregularized=FOUND))))
        assert re.search(r"robust, eps 0\.1 -0\.120, .* p < 0\.001, .*: larger than the noise, worse", turned)
        assert "clean +0.000, 95% interval +0.000 to +0.000, p 1.000, sign-flip p 1.000: not larger" in sure
        noisy = made_up(found=[0.5, 0.7, 0.6], unregularized=[0.6, 0.5, 0.55])
        assert any(
            re.search(r"robust, eps 0\.1 \+0\.050, .*: not larger than the noise", line)
            for line in describe_differences(compare_settings(noisy))
        )
        same = made_up(found=[0.6, 0.7], unregularized=[0.5, 0.6])
        assert any(
            "robust, eps 0.1 +0.100" in line and "the noise is unknown" in line
            for line in describe_differences(compare_settings(same))
        )

    def test_holm(self):
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        values = [0.01, 0.04, 0.03, float("nan")]  # one that is unknown may be smaller than all of them
        assert holm(values)[:3] == pytest.approx([0.04, 0.09, 0.09]) and np.isnan(holm(values)[3])
        assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]

    def test_intervals_over_seeds(self):
        summary = confirmation_table(made_up(found=FOUND, unregularized=UNREGULARIZED))
        row = summary[summary.setting == "found"].iloc[0]
        low, high = scipy.stats.t.interval(0.95, 4, np.mean(FOUND), scipy.stats.sem(FOUND))
        assert (row.robust, row.robust_low, row.robust_high) == pytest.approx((np.mean(FOUND), low, high))
        shown = format_confirmation(summary).iloc[0]
        assert shown["robust, eps 0.1 (%), test"].startswith("63.4 [") and shown.N == "4390"

    def test_notes_of_few_seeds_and_of_different_images(self):
        cut = made_up(found=[0.6, 0.7], unregularized=[0.5, 0.6])
        cut.loc[(cut.measure == "robust") & (cut.setting == "found"), "n"] = 60
        notes = " ".join(confirmation_notes(cut))
        assert "With 2 seeds" in notes and "60 to 100 under A" in notes and "not over the same images" in notes

    @pytest.mark.parametrize(
        "nothing", [None, pd.DataFrame(columns=["search"]), pd.DataFrame(columns=["search", *COLUMNS])]
    )
    def test_nothing_is_confirmed(self, nothing):
        assert (
            len(confirmation_table(nothing)) == len(compare_settings(nothing)) == 0
            and describe_differences(compare_settings(nothing)) == []
        )
        assert confirmation_notes(nothing) == [] and len(format_confirmation(confirmation_table(nothing))) == 0

    def test_fresh_seeds(self):
        seeds = fresh_seeds("7", 100)
        assert len({7, *seeds}) == 101 and all(0 <= seed < 2**32 for seed in seeds)
        assert fresh_seeds("7", 3) == seeds[:3] and not {*fresh_seeds("8", 3)} & {*seeds}
        assert fresh_seeds("7", 3, used=seeds[:1]) == seeds[1:4]
        assert fresh_seeds("7", 3, begun=[5]) == [5, *seeds[:2]]
