import io
import json
import math
import re
import shutil
import socket
from pathlib import Path

import optuna
import pandas as pd
import pytest
import ray
import torch
from rich.console import Console
from testing import SHORT_ATTACK, TINY, TO_THE_END, make_space, search

from brainreg._utils.flags import to_flags
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.manifest import FORMAT, read_manifest, write_manifest
from brainreg.records.results import BEST, load_results, rank_trials, recommended_trial, settings_of
from brainreg.search import cluster as search_cluster
from brainreg.search.cluster import Machine, Machines
from brainreg.search.final_attack import outcome_line
from brainreg.search.limits import Limits
from brainreg.search.options import SearchOptions
from brainreg.search.plan import SearchPlan, plan_resume, plan_search
from brainreg.search.run import run_search
from brainreg.search.status import show_status
from brainreg.search.strategy import sampler_seed
from brainreg.spaces.files import load_space
from brainreg.spaces.measurement import EPOCH_OBJECTIVE
from brainreg.spaces.space import Space
from brainreg.storage import Storage
from brainreg.training.checkpoint import load_checkpoint
from brainreg.training.data import load_training_data
from brainreg.training.loop import train


@pytest.fixture(scope="module", autouse=True)
def ray_shut_down_at_the_end():
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished search of six trials on two workers: its folder, its trials, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    return folder / "s", *search(make_space(), folder)


class TestFewClasses:
    """Three classes, for which the standard version's targeted DLR does not exist."""

    def space(self, write_folder, **budget) -> Space:
        return make_space(
            task=str(write_folder({"train": 12, "test": 12})),
            fixed={
                "base_channels": 2,
                "epoch_num": 1,
                "valid_portion": 0.3,
                "resnet_batch_size": 7,
                "reg_image_num": 10,
            },
            search={"reg_alpha": {"low": 0.1, "high": 10, "log": True}},
            objective={"eps": 0.02, "noise_eps": 0.2, "attack_image_num": 4},
            budget={"num_samples": 4, **budget},
        )

    def begun(self, space: Space, folder: Path) -> SearchPlan:
        """The plan of a search that has written its manifest, and nothing else yet."""
        plan = plan_search(space, SearchOptions(name="s", storage_path=str(folder)))
        models = {"space": plan.space, "strategy": plan.strategy, "options": plan.options}
        kept = {name: model.model_dump(mode="json") for name, model in models.items()}
        about = {"format": FORMAT, "id": plan.id, "num_samples": plan.num_samples, "data": dict(plan.data)}
        write_manifest(plan.folder, about | kept)
        return plan

    def test_what_the_data_decided_is_no_difference_when_it_is_resumed(self, write_folder, tmp_path):
        """The attacks that few classes allow, and how many of few images are attacked."""
        space = self.space(write_folder).override({}, {"attack_image_num": None})
        plan = self.begun(space, tmp_path / "out")
        assert plan.space.objective.attack != space.objective.attack
        assert plan.space.objective.attack_image_num == 4  # of nine
        assert plan_resume(plan.folder, {}, lambda stored: space).space == plan.space
        changed = space.override({}, {"attack_image_num": 1})
        with pytest.raises(InputError, match="attack_image_num=1: this search has 4"):
            plan_resume(plan.folder, {}, lambda stored: changed)

    def test_a_custom_attack_of_a_space_leaves_out_what_few_classes_do_not_allow(self, write_folder, tmp_path):
        """As the space of the digits does for images of three classes."""
        attack = load_space("digits_double").objective.attack
        assert attack.attacks == ("apgd-ce", "apgd-t")
        plan = self.begun(self.space(write_folder).override({}, {"attack": attack}), tmp_path / "out")
        assert plan.space.objective.attack == attack.model_copy(update={"attacks": ("apgd-ce",)})

    def test_few_images_validate_with_a_quarter_and_regularize_with_all_others(self, write_folder, tmp_path):
        """Where the space leaves open how many: of 30, eight validate."""
        space = self.space(write_folder)
        fixed = {key: value for key, value in space.fixed.items() if key not in ("reg_image_num", "valid_portion")}
        open_space = space.model_copy(update={"fixed": fixed})
        plan = self.begun(open_space, tmp_path / "out")
        assert plan.space.fixed == {**fixed, "valid_portion": 0.25, "reg_image_num": 22}
        assert plan_resume(plan.folder, {}, lambda stored: open_space).space == plan.space
        with pytest.raises(InputError, match="reg_image_num=10: this search has 22"):
            plan_resume(plan.folder, {}, lambda stored: open_space.override({"reg_image_num": 10}))
        assert plan_search(space, SearchOptions(storage_path=str(tmp_path))).space.fixed == space.fixed

    def test_a_search_that_began_with_the_defaults_goes_on_with_them(self, tmp_path):
        """As one of an earlier version, of which 14 of 1,438 digits validate."""
        space = make_space().override({}, {"attack_image_num": 10})
        fixed = {key: value for key, value in space.fixed.items() if key != "valid_portion"}
        plan = self.begun(space.model_copy(update={"fixed": fixed}), tmp_path)
        assert plan.space.fixed["valid_portion"] == 0.25
        manifest = read_manifest(plan.folder)
        del manifest["space"]["fixed"]["valid_portion"], manifest["data"]
        write_manifest(plan.folder, manifest)
        assert "valid_portion" not in plan_resume(plan.folder, {}, lambda stored: stored).space.fixed

    def test_the_other_attacks_run_and_are_named(self, write_folder, tmp_path):
        plan = plan_search(self.space(write_folder), SearchOptions(storage_path=str(tmp_path)))
        for attack in (plan.space.objective.attack, plan.space.budget.final_attack):
            assert attack.attacks == ("apgd-ce", "fab-t", "square") and attack.title.startswith("AutoAttack custom")

    def test_an_attack_that_is_asked_for_by_name_is_refused_by_its_key(self, write_folder, tmp_path):
        dlr = {"version": "custom", "attacks": ["apgd-t"]}
        space = self.space(write_folder, final_attack=dlr)
        with pytest.raises(InputError, match=r"^budget\.final_attack\.attacks=apgd-t: "):
            plan_search(space, SearchOptions(storage_path=str(tmp_path)))
        plan_search(space.override({}, {}, {"final_attack_seconds": 0}), SearchOptions(storage_path=str(tmp_path)))


def test_a_final_attack_that_took_longer_than_it_was_given_says_why():
    outcome = {
        "trial": 3,
        "setting": "",
        "accuracy": 0.25,
        "low": 0.05,
        "high": 0.7,
        "n": 4,
        "fresh": True,
        "seconds": 20,
    }
    assert outcome_line(outcome, 1).endswith("did not attack; 0m20s, since a batch is attacked to its end")
    assert outcome_line(outcome, 15).endswith("on 4 validation images that the search did not attack")


@pytest.mark.long
class TestFinishedSearch:
    def test_all_trials_are_measured_and_the_first_are_unregularized(self, finished):
        _, results, _ = finished
        assert results.trial.tolist() == list(range(6)) and set(results.state) == {"finished"}
        assert results.setting.tolist() == ["unregularized", "early_stopped", "", "", "", ""]
        assert results.reg_alpha[:2].tolist() == [0, 0] and (results.reg_alpha[2:] > 0).all()
        assert (results.clean_n == 72).all() and (results.robust_n == 40).all()
        expected = 0.5 * results.clean_accuracy + 0.5 * results.robust_accuracy
        assert results.objective.tolist() == pytest.approx(expected.tolist())

    def test_the_epoch_of_one_unregularized_trial_is_chosen_by_the_objective(self, finished):
        _, results, _ = finished
        known = [epoch.get(EPOCH_OBJECTIVE, -1) for epoch in results.epochs[1]]
        assert results.best_epoch[1] == known.index(max(known)) > -1
        assert results.objective[1] == pytest.approx(max(known), abs=0.02)
        assert [epoch["valid_accuracy"] for epoch in results.epochs[0]] == pytest.approx(
            [epoch["valid_accuracy"] for epoch in results.epochs[1]], abs=0.02
        )  # the same training
        assert not any(EPOCH_OBJECTIVE in epoch for epochs in results.epochs.drop(1) for epoch in epochs)

    def test_every_epoch_is_recorded(self, finished):
        _, results, _ = finished
        for epochs in results.epochs:
            assert [epoch["epoch"] for epoch in epochs] == [0, 1, 2]
            assert all(math.isfinite(epoch["valid_accuracy"]) for epoch in epochs)

    def test_the_study_was_told_the_same(self, finished):
        folder, results, _ = finished
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/study.db")
        assert study.metric_names == ["objective"] and study.direction.name == "MAXIMIZE"
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 6
        assert [trial.value for trial in study.trials] == pytest.approx(results.objective.tolist())
        assert study.trials[0].params == {} and study.trials[0].user_attrs["setting"] == "unregularized"
        for trial, row in zip(study.trials[2:], results[2:].to_dict("records"), strict=True):
            assert trial.params["reg_alpha"] == row["reg_alpha"]
            assert trial.params["reg_thresh_2/reg_thresh"] * trial.params["reg_thresh"] == row["reg_thresh_2"]
            assert trial.user_attrs["robust_accuracy"] == row["robust_accuracy"]

    def test_what_is_left_says_what_was_searched_and_with_what(self, finished):
        folder, _, _ = finished
        manifest = read_manifest(Storage(folder))
        assert Space(**manifest["space"]) == make_space()
        assert manifest["seed"] == 0 and manifest["num_samples"] == 6
        assert manifest["strategy"]["sampler_seed"] == sampler_seed(make_space(), 0) and len(manifest["id"]) > 20
        assert manifest["versions"]["torch"] == torch.__version__.split("+")[0]
        assert {path.name for path in folder.iterdir()} >= {
            "search.json",
            "results.csv",
            "epochs.csv",
            "settings.csv",
            "study.db",
            "best",
        }

    def test_the_best_checkpoint_and_its_command_repeat_the_best_trial(self, finished):
        folder, results, _ = finished
        best = recommended_trial(rank_trials(results))
        content = json.loads((folder / BEST / "recommendation.json").read_text())
        assert content["trial"] == best.trial and content["setting_number"] == best.setting_number
        assert content["expected"]["objective"]["mean"] == pytest.approx(best.expected_objective)
        stored = load_checkpoint(folder / BEST / "checkpoint.pt")
        assert Hyperparameters(**stored["hyperparameters"]) == settings_of(best)
        command = (folder / BEST / "command.txt").read_text().strip()
        if best.setting == "early_stopped":  # train.py chooses the best epoch otherwise
            assert command.endswith(f"-m brainreg evaluate --checkpoint={folder / BEST}/checkpoint.pt --split=test")
            return
        flags = " ".join(["-m brainreg train", to_flags(settings_of(best)), "--threads=1"])
        assert re.fullmatch(r"\S*python " + re.escape(flags), command)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as the command says
        again = train(settings_of(best), load_training_data(settings_of(best)), device="cpu")
        torch.set_num_threads(threads)
        for now, then in zip(again.history, best.epochs, strict=True):
            assert now["valid_cross_entropy"] == pytest.approx(then["valid_cross_entropy"], rel=1e-3)

    def test_the_final_attack_is_on_images_that_no_trial_was_selected_by(self, finished):
        folder, results, _ = finished
        table = pd.read_csv(folder / "final_attack.csv", keep_default_na=False)
        assert table.trial.tolist()[0] == recommended_trial(rank_trials(results)).trial
        assert {"unregularized", "early_stopped"} <= {*table.setting}
        assert (table.n == 32).all() and table.fresh.all()  # 72 validation images, 40 of them in the objective
        assert set(table.attack) == {"AutoAttack custom Linf (apgd-ce; 2 steps)"}

    def test_what_the_terminal_shows(self, finished):
        folder, results, text = finished
        lines = text.splitlines()
        best = recommended_trial(rank_trials(results))
        assert lines[0] == f"starting Ray for 6 trials, 2 at a time, in {folder}"
        assert f"drawn from {sampler_seed(make_space(), 0)} " in lines[1]
        assert any(line.startswith("6/6 trials done, 0 running; recommended: setting ") for line in lines)
        assert "robust: AutoAttack custom Linf (apgd-ce; 2 steps), eps 0.02" in lines
        header = next(i for i, line in enumerate(lines) if line.split()[:2] == ["setting", "alpha"])
        ranked = rank_trials(results).setting_number.unique()
        shown = [line.split()[0] for line in lines[header + 1 :] if re.match(r" *\d+ +[\d.]+ ", line)]
        assert shown[: len(ranked)] == [str(n) for n in ranked]
        assert any(line.startswith(f"recommended: setting {best.setting_number} (alpha ") for line in lines)
        assert any(line.startswith("  against unregularized: ") for line in lines)
        command = r"\S*python\S* (-m brainreg train --task=digits --base_channels=2|-m brainreg evaluate --checkpoint=)"
        assert re.match(command, lines[-1].strip())
        told = lines.index("whether it is better over fresh seeds and on test images:")
        assert re.match(rf"  (\S*python\S* -m )?brainreg confirm {folder}$", lines[told + 1])
        show_status(Storage(folder), console := Console(file=io.StringIO(), width=120))
        assert lines[told + 1] in console.file.getvalue()
        assert "searched beside the regularizer" not in text

    @pytest.mark.long
    def test_what_is_searched_beside_the_regularizer_is_told(self, tmp_path):
        """The given settings keep its default, and the gain mixes the two."""
        space = make_space(
            fixed={**TINY, "reg_image_num": 100, "epoch_num": 1},
            search={"lr": {"choices": [0.01, 0.02]}, "reg_alpha": {"choices": [0.5, 1]}},
        )
        results, text = search(space, tmp_path, num_samples=len(space.given) + 1)
        best = settings_of(recommended_trial(rank_trials(results)))
        lines = text.splitlines()
        told = next(i for i, line in enumerate(lines) if line.startswith("searched beside the regularizer: lr;"))
        flags = lines[told + 1].split("brainreg train ")[1]
        assert "--reg_alpha=0.0" in flags and (f"--lr={best.lr}" in flags) == (best.lr != 0.1)


@pytest.mark.long
def test_two_searches_of_one_seed_and_one_worker_propose_the_same(tmp_path):
    fixed = {**make_space().fixed, "epoch_num": 1, "seed": 3}
    first, second = (
        search(make_space(fixed=fixed), tmp_path, name, max_concurrent=1, num_samples=7)[0] for name in ("a", "b")
    )
    proposed = ["reg_alpha", "reg_thresh", "reg_thresh_2", "reg_batch_size"]
    pd.testing.assert_frame_equal(first[proposed], second[proposed])
    assert first.objective.tolist() == second.objective.tolist()
    assert first.reg_alpha.nunique() == 6


@pytest.mark.long
@pytest.mark.parametrize("limit", [{"num_samples": 8}, {"minutes": 4}])
def test_a_space_that_is_used_up_ends_the_search(limit, tmp_path):
    space = make_space(
        fixed={**TINY, "reg_alpha": 0.5, "reg_image_num": 100, "epoch_num": 1},
        search={"reg_range": {"choices": ["all", "high_positive"]}},
    )
    results, text = search(space, tmp_path, strategy=TO_THE_END.model_copy(update={"seeds": 1}), **limit)
    assert results.setting.tolist() == [*space.given, "", ""] and set(results.state) == {"finished"}
    assert set(results.reg_range.dropna()) == {"all", "high_positive"}
    assert "the space is used up" in text and read_manifest(Storage(tmp_path / "s"))["num_samples"] == len(results)
    assert plan_resume(Storage(tmp_path / "s"), {"num_samples": 9}).num_samples == len(results)


@pytest.mark.long
def test_failed_trials_are_named_and_told_as_failed(tmp_path):
    """Half of the proposals diverge or select no pair; the search goes on, and Optuna learns nothing false."""
    space = make_space(
        fixed={**TINY, "reg_range": "high", "reg_image_num": 30, "epoch_num": 1},
        search={
            "lr": {"choices": [0.1, 1e30]},
            "reg_thresh": {"choices": [0.1, 0.99]},
            "reg_alpha": {"low": 1, "high": 2},
        },
    )
    results, text = search(space, tmp_path, num_samples=7)  # each failure costs a new process
    good = (results.lr == 0.1) & (results.reg_thresh.fillna(0.1) == 0.1)
    assert (results.state == "finished").tolist() == good.tolist()
    assert 0 < good.sum() < 7
    failed = results[~good]
    for row in failed.itertuples():
        expected = "reg_range=high: selects 0 of" if row.reg_thresh == 0.99 else "DivergedError: epoch 1"
        assert expected in row.error and "\n" not in row.error
        assert f"trial {row.trial} (" in text
    assert text.count(": failed: ") == len(failed)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/s/study.db")
    assert [trial.state.name == "FAIL" for trial in study.trials] == (~good).tolist()
    assert all(trial.value is None for trial in study.trials if trial.state.name == "FAIL")


@pytest.mark.long
def test_a_search_in_which_nothing_finishes_says_why(tmp_path):
    results, text = search(make_space(fixed={**make_space().fixed, "lr": 1e30}), tmp_path, num_samples=1)
    assert set(results.state) == {"failed"}
    assert "no trial finished; trial 0: " in text and "DivergedError: epoch 1" in text
    assert not (tmp_path / "s" / BEST).exists()


@pytest.mark.long
def test_the_search_never_sees_the_test_split(cifar_folder, tmp_path):
    """It runs where there are no test images at all."""
    shutil.rmtree(cifar_folder / "CIFAR10" / "test")
    fixed = {
        **TINY,
        "valid_portion": 0.25,
        "train_image_num": 20,
        "epoch_num": 1,
        "reg_image_num": 20,
        "reg_range": "all",
    }
    objective = {"eps": 0.02, "noise_eps": 0.2, "attack": SHORT_ATTACK, "attack_image_num": 5}
    space = make_space(task="CIFAR10", fixed=fixed, search={"reg_alpha": {"low": 1, "high": 2}}, objective=objective)
    results, _ = search(space, tmp_path, num_samples=3, data_dir=str(cifar_folder))
    assert set(results.state) == {"finished"} and (results.clean_n == 10).all()


class TestPlan:
    """Everything is checked before anything is written or started."""

    def refused(self, tmp_path, space=None, **options) -> str:
        with pytest.raises(InputError) as caught:
            plan_search(space or make_space(), SearchOptions(**{"storage_path": str(tmp_path / "out"), **options}))
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
        return str(caught.value)

    def test_gpus(self, tmp_path):
        gpus = torch.cuda.device_count()
        assert self.refused(tmp_path, gpus_per_trial=gpus + 1) == f"--gpus_per_trial={gpus + 1}: there are {gpus} GPUs"

    def test_a_part_above_one_gpu(self, tmp_path, monkeypatch):
        monkeypatch.setattr(search_cluster, "machines", lambda address, host: Machines((Machine(8, 4), Machine(8, 1))))
        expected = "--gpus_per_trial=1.5: must be a part of one GPU, up to 1, or a whole number of GPUs"
        assert self.refused(tmp_path, gpus_per_trial=1.5) == expected
        assert self.refused(tmp_path, gpus_per_trial=5).startswith("--gpus_per_trial=5: no machine has so many")

    def test_cpus(self, tmp_path):
        assert self.refused(tmp_path, cpus_per_trial=10_000).startswith("--cpus_per_trial=10000: there are")

    def test_address(self, tmp_path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"  # bound, but nobody listens
            assert self.refused(tmp_path, address=address).startswith(
                f"--address={address}: no Ray cluster answers there"
            )

    def test_an_address_that_is_none(self, tmp_path):
        assert self.refused(tmp_path, address="foo").startswith("--address=foo: no Ray cluster answers there")

    def test_a_storage_path_or_a_name_that_is_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        options = {"storage_path": str(tmp_path / "file" / "out")}
        assert re.match(r"--storage_path=.*: .*file is a file; must be a folder", self.refused(tmp_path, **options))
        with pytest.raises(InputError, match=r"--name=file: .* already holds something"):
            plan_search(make_space(), SearchOptions(name="file", storage_path=str(tmp_path)))

    def test_name(self, tmp_path):
        assert "--name=a/b: must be the name of a folder, not a path" in self.refused(tmp_path, name="a/b")

    def test_more_images_than_there_are(self, tmp_path):
        space = make_space(fixed={**make_space().fixed, "reg_image_num": 1400})
        assert self.refused(tmp_path, space).startswith("reg_image_num=1400: digits has 1366 training images")

    def test_more_images_than_there_are_at_the_end_of_a_searched_range(self, tmp_path):
        search = {"reg_image_num": {"low": 100, "high": 2000}, "reg_alpha": {"low": 1, "high": 2}}
        space = make_space(fixed={**TINY, "reg_range": "all"}, search=search)
        assert self.refused(tmp_path, space).startswith("reg_image_num=2000: digits has 1366 training images")

    def test_more_pairs_a_step_than_there_are(self, tmp_path):
        fixed = {**TINY, "reg_range": "all", "reg_image_num": 5, "reg_batch_size": 11}
        space = make_space(fixed=fixed, search={"reg_alpha": {"low": 1, "high": 2}})
        assert self.refused(tmp_path, space).startswith(
            "reg_batch_size=11: a step needs as many pairs, and the range all"
        )

    def test_a_range_that_selects_no_pair(self, tmp_path):
        fixed = {**TINY, "reg_range": "high", "reg_thresh": 0.99, "reg_image_num": 20}
        space = make_space(fixed=fixed, search={"reg_alpha": {"low": 1, "high": 2}})
        assert self.refused(tmp_path, space).startswith("reg_range=high: selects 0 of the 190 pairs of 20 images at")

    def test_more_attacked_images_than_validation_images(self, tmp_path):
        space = make_space(objective={"eps": 0.1, "noise_eps": 0.1, "attack_image_num": 73})
        assert self.refused(tmp_path, space) == "attack_image_num=73: there are 72 validation images"

    def test_a_folder_that_holds_another_search(self, tmp_path):
        folder = tmp_path / "out" / "s"
        folder.mkdir(parents=True)
        (folder / "search.json").write_text(json.dumps({"format": 1}))
        with pytest.raises(InputError, match=r"--name=s: .*out/s already holds a search; .*.*brainreg resume \S+/s$"):
            plan_search(make_space(), SearchOptions(name="s", storage_path=str(tmp_path / "out")))
        assert [path.name for path in folder.iterdir()] == ["search.json"]

    def test_each_search_has_an_id_of_its_own_unless_it_is_given(self, tmp_path):
        def plan(**options):
            return plan_search(make_space(), SearchOptions(storage_path=str(tmp_path), **options))

        first, second = plan(), plan()
        assert first.id != second.id and first.strategy.sampler_seed == second.strategy.sampler_seed
        assert plan(id="mine").id == "mine"

    def test_slots(self, tmp_path):
        def slots(**options) -> int:
            return plan_search(make_space(), SearchOptions(storage_path=str(tmp_path), **options)).slots

        assert slots(max_concurrent=1) == 1 and slots(num_samples=1) == 1
        assert slots(cpus_per_trial=0.25, num_samples=3) == 3


@pytest.mark.long
def test_a_search_runs_settings_again_with_other_seeds_and_ends_by_its_time(tmp_path, monkeypatch):
    """The space has four settings; as no number of trials is given, time ends the search. Each trial takes 3 s of it,
    however long it takes on this machine."""
    began = []
    monkeypatch.setattr(Limits, "begin", lambda self, trial_id: began.append(trial_id))
    monkeypatch.setattr(Limits, "seconds", property(lambda self: 3.0 * len(began)))
    space = make_space(
        fixed={**TINY, "reg_image_num": 100, "epoch_num": 1, "reg_range": "all"},
        search={"reg_alpha": {"choices": [0.5, 1]}, "reg_thresh": {"choices": [0.4, 0.8]}},
        budget={"num_samples": 3, "final_attack": SHORT_ATTACK, "final_attack_seconds": 0},
    )
    results, text = search(space, tmp_path, minutes=0.4)
    folder = tmp_path / "s"
    manifest = read_manifest(Storage(folder))
    assert manifest["ended"] == {"trials": len(results), "reason": "its time is over (--minutes=0.4)"}
    assert "no further trial is begun: its time is over (--minutes=0.4)" in text and "interrupted" not in text
    assert set(results.state) == {"finished"} and results.setting_number.nunique() == 6 and len(results) == 8
    assert not results.duplicated(["setting_number", "seed"]).any()
    assert (results.setting_number <= results.trial).all()
    for _, own in results.groupby("setting_number"):
        assert own[["reg_alpha", "reg_thresh", "setting"]].drop_duplicates().shape[0] == 1
    table = pd.read_csv(folder / "settings.csv")
    assert table.runs.sum() == len(results) and table["rank"].tolist() == [*range(1, 7)]
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/study.db")
    for trial, row in zip(study.trials, results.itertuples(), strict=True):
        assert trial.user_attrs["seed"] == row.seed
        assert trial.user_attrs.get("setting_number", trial.number) == row.setting_number
    show_status(Storage(folder), console := Console(file=io.StringIO(), width=120))
    assert f"s: done\n{len(results)} of {len(results)} trials done" in console.file.getvalue()
    # Its time is spent; with more, it goes on, and nothing that ended is run again.
    _, text = resumed(folder, minutes=0.5)
    again = load_results(folder)
    assert len(again) == 10 and read_manifest(Storage(folder))["ended"]["trials"] == len(again)
    assert again.seconds[: len(results)].tolist() == results.seconds.tolist()
    manifest = read_manifest(Storage(folder))
    write_manifest(Storage(folder), {key: manifest[key] for key in manifest if key not in ("ended", "format")})
    show_status(Storage(folder), console := Console(file=io.StringIO(), width=120))
    told = r"s: interrupted; go on: .*brainreg resume \S+/s\n10 trials done, 0 interrupted, 10 finished\nsettings so"
    assert re.match(told, console.file.getvalue())


def resumed(folder, **options) -> tuple[pd.DataFrame, str]:
    plan = plan_resume(Storage(folder), options)
    console = Console(file=io.StringIO(), width=120)
    return run_search(plan, console), console.file.getvalue()


def test_gpu_hours_are_no_limit_of_a_search_without_gpus(tmp_path):
    options = SearchOptions(name="s", storage_path=str(tmp_path), gpu_hours=1)
    with pytest.raises(InputError, match=r"^--gpu_hours=1: trials take no GPU; limit the search with --minutes$"):
        plan_search(make_space(), options)
