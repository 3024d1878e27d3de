"""A search that begins with the trials of another one."""

import io
import json
import shutil
from dataclasses import replace

import optuna
import pytest
import ray
import yaml
from rich.console import Console
from testing import TO_THE_END, make_space, search

from brainreg.commands import tune
from brainreg.errors import InputError
from brainreg.records.manifest import read_manifest
from brainreg.records.results import load_results
from brainreg.records.searches import load_searches
from brainreg.records.trial import CHECKPOINT, FINISHED, STOPPED, TrialFiles, read_trials, trial_name
from brainreg.search import run as search_run
from brainreg.search.options import SearchOptions
from brainreg.search.plan import plan_resume, plan_search
from brainreg.search.prior import CopiedTrial, copied_trials
from brainreg.search.proposals import most_trials
from brainreg.search.run import run_search
from brainreg.search.strategy import Strategy
from brainreg.search.study import SearchStudy
from brainreg.spaces.names import EARLY_STOPPED, PROPOSED, UNREGULARIZED
from brainreg.spaces.space import Space
from brainreg.storage import Storage

NO_ATTACK = {"final_attack_seconds": 0}


def space_of(**changes) -> Space:
    return make_space(**changes).override({}, {}, NO_ATTACK)


@pytest.fixture(scope="module", autouse=True)
def ray_shut_down_at_the_end():
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A search of eight trials that has ended, one of them a repeated setting."""
    folder = tmp_path_factory.mktemp("prior")
    search(space_of(), folder, "old", num_samples=8)
    return folder


@pytest.fixture
def folder(ended, tmp_path):
    shutil.copytree(ended / "old", tmp_path / "old")
    return tmp_path


def narrower(folder) -> Space:
    """The same space with half of the alphas that the earlier search proposed."""
    alphas = sorted(record.hyperparameters["reg_alpha"] for record in records(folder) if record.setting == PROPOSED)
    middle = (alphas[len(alphas) // 2 - 1] * alphas[len(alphas) // 2]) ** 0.5
    ranges = make_space().model_dump()["search"]
    return space_of(search={**ranges, "reg_alpha": {"low": middle, "high": 10, "log": True}})


def records(folder, name="old"):
    return read_trials(Storage(folder / name))


def plan_after(folder, space, **options):
    return plan_search(
        space, SearchOptions(**{"name": "new", "prior": "old", "storage_path": str(folder), **options}), TO_THE_END
    )


def copies_of(folder, space):
    return copied_trials(Storage(folder / "old"), space, {}, "data")


def test_it_runs_new_trials_beside_those_that_lie_in_its_space(folder):
    space = narrower(folder)
    inside = [
        one
        for one in records(folder)
        if one.setting or one.hyperparameters["reg_alpha"] >= space.search["reg_alpha"].low
    ]
    assert 3 < len(inside) < 8
    results, text = search(space, folder, "new", prior="old", num_samples=2)
    assert f"note: {len(inside)} of the 8 trials that ended in old are copied" in text
    assert f"{8 - len(inside)} lie outside this space" in text
    assert len(results) == len(inside) + 2 and (results.state == FINISHED).all()
    new = records(folder, "new")
    copied = [one for one in new if one.copied_from]
    assert [one.copied_from for one in copied] == [
        str(folder / "old" / trial_name(number)) for number in sorted(one.number for one in inside)
    ]
    for one, old in zip(copied, inside, strict=True):
        assert (one.hyperparameters, one.epochs) == (old.hyperparameters, old.epochs)
        assert one.measured == old.measured | {"attack_seconds": 0}
        before, now = (
            (folder / name / trial_name(number) / CHECKPOINT).read_bytes()
            for name, number in (("old", old.number), ("new", one.number))
        )
        assert before == now
    assert [one.setting for one in new[:2]] == [UNREGULARIZED, EARLY_STOPPED]
    assert all(not one.copied_from for one in new[-2:]), "its own trials come last"
    own = new[-1].hyperparameters
    assert own["reg_alpha"] == 0 or own["reg_alpha"] >= space.search["reg_alpha"].low
    advised = load_results(folder / "new")
    assert advised.expected_objective.notna().all(), "copied trials are runs like others"
    study = optuna.load_study(study_name="new", storage=f"sqlite:///{folder / 'new' / 'study.db'}")
    assert [one.state.name for one in study.trials] == ["COMPLETE"] * len(new)
    settings = {one.number: one.setting_number for one in new}
    assert all(settings[settings[number]] == settings[number] for number in settings)
    assert read_manifest(Storage(folder / "new"))["prior"]["trials"] == {
        str(one.number): old.number for one, old in zip(copied, inside, strict=True)
    }
    searches = load_searches(folder / "new")
    assert searches.notes == [f"new: {len(inside)} of its trials are copies of those of {folder / 'old'}"]
    own_seconds = sum(one.seconds for one in new[-2:])
    assert searches.overview.hours[0] == pytest.approx(own_seconds / 3600, abs=1e-4), "copies took no time"
    assert results.began.max() - results.began.min() < 600


def test_the_time_of_copied_trials_is_not_its_own(folder):
    plan = plan_after(folder, space_of(), num_samples=2, minutes=5)
    assert plan.num_samples == 10 and len(plan.copies) == 8
    limits = search_run._limits(plan)
    assert limits.seconds < 1 and limits.part_spent(8) < 0.1 and limits.part_spent(9) == 0.5


def test_what_was_not_run_is_run_and_has_its_number(folder):
    shutil.rmtree(folder / "old" / trial_name(1))  # early stopped
    copies, _ = copies_of(folder, space_of())
    assert [copy.record.number for copy in copies] == [0, *range(2, 8)]
    results, _ = search(space_of(), folder, "new", prior="old", num_samples=1)
    assert results.setting[1] == EARLY_STOPPED and not records(folder, "new")[1].copied_from
    assert len(results) == 8


def test_a_copy_that_was_interrupted_goes_on(folder, monkeypatch):
    written, write = [], CopiedTrial.write

    def interrupted(copy, into):
        if len(written) == 3:
            raise KeyboardInterrupt
        write(copy, into)
        written.append(copy.number)

    monkeypatch.setattr(CopiedTrial, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_search(plan_after(folder, space_of(), num_samples=1), Console(file=io.StringIO()))
    assert len(records(folder, "new")) == 3
    monkeypatch.setattr(CopiedTrial, "write", write)
    shutil.copytree(folder / "old" / trial_name(7), folder / "old" / trial_name(8))  # ended in the meantime
    TrialFiles(Storage(folder / "old"), 8).write_trial(replace(records(folder)[7], number=8))
    resumed = plan_resume(Storage(folder / "new"), {})
    assert [copy.number for copy in resumed.copies] == [3, 4, 5, 6, 7]
    results = run_search(resumed, Console(file=io.StringIO()))
    assert len(results) == 9 and (results.state == FINISHED).all()
    assert sum(bool(one.copied_from) for one in records(folder, "new")) == 8
    again = plan_resume(Storage(folder / "new"), {"num_samples": 10})
    assert again.copies == () and again.num_samples == 10
    with pytest.raises(InputError, match=r"--prior=other: this search began with old; resume it without the flag"):
        plan_resume(Storage(folder / "new"), {"prior": "other"})
    shutil.rmtree(folder / "old")
    (folder / "new" / trial_name(3) / "trial.json").write_text("{")
    results = run_search(plan_resume(Storage(folder / "new"), {}), Console(file=io.StringIO()))
    assert len(results) == 9 and (results.state == FINISHED).all(), "a copy's record is made again from the study"


def test_a_network_that_is_gone_meanwhile_ends_it_before_the_trial_is_written(folder):
    plan = plan_after(folder, space_of(), num_samples=1)
    (folder / "old" / trial_name(0) / CHECKPOINT).unlink()
    with pytest.raises(InputError, match=r"trial_0000/checkpoint.pt: is gone"):
        run_search(plan, Console(file=io.StringIO()))
    assert records(folder, "new") == []


def test_the_same_line_again_goes_on_with_it(folder, monkeypatch):
    """As a script of Slurm types it: --num-samples is that of the first time."""
    monkeypatch.chdir(folder)
    (folder / "same.yaml").write_text(yaml.safe_dump(space_of().model_dump(mode="json", exclude_none=True)))
    line = ["--space=same.yaml", "--prior=old", "--name=new", f"--storage_path={folder}", "--scheduler=none"]
    line += ["--resume-if-begun", "--num-samples=1"]
    for _ in range(2):
        assert tune.main(line) == 0
        assert len(records(folder, "new")) == 9
    assert plan_resume(Storage(folder / "new"), {"num_samples": 12}).num_samples == 12


def test_values_that_the_new_space_has_no_step_for_lie_outside(folder):
    search = make_space().model_dump()["search"]
    fixed = {**make_space().fixed}
    fixed.pop("reg_image_num")
    on, off = ({"low": low, "high": 1000, "step": 300} for low in (100, 50))
    copies, _ = copies_of(folder, space_of(fixed=fixed, search={**search, "reg_image_num": on}))
    assert len(copies) == 8 and copies[-1].record.params["reg_image_num"] == 100
    copies, said = copies_of(folder, space_of(fixed=fixed, search={**search, "reg_image_num": off}))
    assert {copy.record.setting for copy in copies} == {UNREGULARIZED, EARLY_STOPPED} and "outside this space" in said


@pytest.mark.parametrize("sampler", ["thompson", "tpe", "gp", "nsga2", "random"])
def test_every_sampler_takes_them_over(folder, sampler):
    for record in records(folder)[2:]:  # more of them than a generation has
        for seed in (11, 12):
            number = 8 + 2 * record.number + seed
            copy = replace(record, number=number, setting_number=number)
            alpha = record.hyperparameters["reg_alpha"]
            copy.hyperparameters = {**record.hyperparameters, "seed": seed}
            if alpha:
                copy.hyperparameters["reg_alpha"] = alpha * (1 + seed / 1000)
            shutil.copytree(folder / "old" / trial_name(record.number), folder / "old" / trial_name(number))
            TrialFiles(Storage(folder / "old"), number).write_trial(copy)
    copied = [copy.record for copy in copies_of(folder, space_of())[0]]
    study = SearchStudy(space_of(), Strategy(sampler=sampler, seeds=1), "s", records=copied)
    trial = study.ask()
    study.propose(trial)
    assert trial.number == len(copied)
    if sampler == "nsga2":
        assert study.study.get_trials()[-1].system_attrs["NSGAIISampler:generation"] == 1, "bred of the copies"


def test_settings_of_another_version_lie_outside(folder):
    old = records(folder)[3]
    TrialFiles(Storage(folder / "old"), 3).write_trial(
        replace(old, hyperparameters={**old.hyperparameters, "invented_later": 1})
    )
    assert 3 not in [copy.number for copy in copies_of(folder, space_of())[0]]
    manifest = json.loads((folder / "old" / "search.json").read_text())
    (folder / "old" / "search.json").write_text(json.dumps({**manifest, "format": 3}))
    with pytest.raises(InputError, match="--prior=old: was written by another version"):
        copies_of(folder, space_of())


def test_stopped_trials_are_copied_and_failed_ones_are_not(folder):
    old = records(folder)
    old[-1].ended, old[-1].measured = STOPPED, {}
    old[-2].ended, old[-2].measured = "failed", {}
    for one in old[-2:]:
        files = TrialFiles(Storage(folder / "old"), one.number)
        files.write_trial(one)
        files.write_progress(epochs=one.epochs, measured={}, seconds=one.seconds, node=one.node, data=one.data)
    copies, said = copies_of(folder, space_of())
    assert [copy.number for copy in copies] == [*range(6), 7]
    assert said == "7 of the 7 trials that ended in old are copied"


def test_a_trial_whose_network_was_deleted_is_left_out(folder):
    (folder / "old" / trial_name(2) / CHECKPOINT).unlink()
    copies, said = copies_of(folder, space_of())
    assert 2 not in [copy.number for copy in copies] and len(copies) == 7
    assert said == "7 of the 8 trials that ended in old are copied; 1 have no network any more"


def test_runs_of_one_setting_stay_together(folder):
    old = records(folder)
    setting = old[3]
    repeat = old[7]
    repeat.hyperparameters = {**setting.hyperparameters, "seed": 7}
    repeat.params, repeat.setting_number = setting.params, setting.number
    TrialFiles(Storage(folder / "old"), 7).write_trial(repeat)
    shutil.rmtree(folder / "old" / trial_name(2))
    copies, _ = copies_of(folder, space_of())
    of = {copy.number: copy.record for copy in copies}
    assert of[7].setting_number == of[3].setting_number == of[3].number == 2
    assert of[7].hyperparameters["seed"] == 7


def test_of_what_is_measured_otherwise_nothing_is_taken(folder):
    for space, message in (
        (space_of().override({}, {"eps": 0.03}), "its objective has eps=0.02, and here it is 0.03; their trials"),
        (space_of().override({"seed": 4}), "its seed is 0, and here 4; their trials cannot be compared"),
        (space_of(task="MNIST"), "its task is digits, and here MNIST"),
        (
            space_of().override({"epoch_num": 3}),
            r"none of its 8 trials lies in this space \(epoch_num is 2 there and 3 here\); begin without it",
        ),
    ):
        with pytest.raises(InputError, match=f"--prior=old: {message}"):
            copies_of(folder, space)
    with pytest.raises(InputError, match=r"--prior=ol: no such search in .*; there is old"):
        plan_after(folder, space_of(), prior="ol")
    assert not (folder / "new").exists()


def test_a_search_of_which_nothing_ended_is_refused(folder):
    for one in records(folder):
        shutil.rmtree(folder / "old" / trial_name(one.number))
    with pytest.raises(InputError, match="--prior=old: none of its trials has ended; wait for it, or begin without it"):
        copies_of(folder, space_of())


def test_a_space_whose_settings_can_be_counted_still_has_those_that_were_not_tried(folder):
    """With one run a setting, though copied settings have more runs than that."""
    search = {**make_space().model_dump()["search"]}
    search = {
        name: {"choices": [records(folder)[2].hyperparameters[name]]} for name in search if "thresh_2" not in name
    }
    search["reg_thresh_2"] = {"choices": [records(folder)[2].hyperparameters["reg_thresh_2"], 0.01]}
    space = space_of(search=search)
    assert most_trials(space, 1) == 4, "two given settings, and two that can be proposed"
    repeats = [replace(records(folder)[2], number=2 + i, setting_number=2) for i in range(5)]
    assert most_trials(space, 1, repeats) == 2 + 5 + 1
