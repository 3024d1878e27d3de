"""Other data under the same name: a search, a confirmation, a reproduction and their nodes refuse them."""

import json
import shutil

import pytest
import ray
from conftest import CHEAP, copied, write_idx
from rich.console import Console

from brainreg.commands import evaluate as commands_evaluate
from brainreg.commands import reproduce as commands_reproduce
from brainreg.commands import tune
from brainreg.confirmation.plan import plan_confirmation
from brainreg.confirmation.worker import run_job
from brainreg.data.load import load_images
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.manifest import write_manifest
from brainreg.records.searches import CONFIRMATION_FOLDER, load_searches
from brainreg.records.trial import read_trials
from brainreg.reproduction.row import Row
from brainreg.search import run as search_run
from brainreg.search.options import SearchOptions
from brainreg.search.plan import plan_resume, plan_search
from brainreg.search.run import run_search
from brainreg.search.strategy import Strategy
from brainreg.spaces.space import Space
from brainreg.storage import Storage
from brainreg.training.data import load_training_data
from brainreg.training.loop import train

ATTACK = {"version": "custom", "attacks": ["apgd-ce"], "n_iter": 2}


@pytest.fixture(scope="module", autouse=True)
def ray_shut_down_at_the_end():
    yield
    ray.shutdown()


@pytest.fixture
def space() -> Space:
    """MNIST regularized by FashionMNIST, in seconds."""
    return Space(
        name="tiny",
        description="a test",
        task="MNIST",
        reg_data="FashionMNIST",
        fixed={"base_channels": 1, "train_image_num": 20, "epoch_num": 1, "valid_portion": 0.1, "reg_image_num": 50},
        search={"reg_alpha": {"low": 0.1, "high": 10, "log": True}},
        objective={"eps": 0.02, "noise_eps": 0.2, "attack": ATTACK, "attack_image_num": 10},
        budget={"num_samples": 2, "final_attack": ATTACK, "final_attack_seconds": 0},
    )


@pytest.fixture
def data_dir(mnist_folder):
    """MNIST's own files, and the same images back to front as FashionMNIST's."""
    for name in ("train-images-idx3", "train-labels-idx1"):
        part = load_images("MNIST", "train", mnist_folder)
        array = (part.images[:, 0] if "images" in name else part.labels).flip(0).numpy()
        write_idx(mnist_folder / "FashionMNIST" / "raw" / f"{name}-ubyte", array)
    return mnist_folder


def change_one_image(data_dir, name: str, split: str) -> None:
    images = load_images(name, split, data_dir).images[:, 0].numpy().copy()
    images[len(images) // 2 + 1] = 0
    prefix = "train" if split == "train" else "t10k"
    write_idx(data_dir / name / "raw" / f"{prefix}-images-idx3-ubyte", images)


def options(tmp_path, data_dir) -> SearchOptions:
    return SearchOptions(name="s", storage_path=str(tmp_path / "out"), data_dir=str(data_dir))


class TestSearch:
    @pytest.fixture
    def begun(self, space, data_dir, tmp_path) -> Storage:
        """The folder of a search that was begun with `data_dir`."""
        plan = plan_search(space, options(tmp_path, data_dir))
        write_manifest(plan.folder, search_run._manifest(plan))
        return plan.folder

    def test_the_manifest_says_what_is_trained_on_and_no_test_images(self, begun):
        data = json.loads(begun.read("search.json"))["data"]
        assert list(data) == ["training", "validation, portion 0.1, seed 0", "regularization"]

    def test_it_goes_on_with_the_same_images_elsewhere(self, begun, data_dir, tmp_path):
        moved = shutil.copytree(data_dir, tmp_path / "moved", copy_function=shutil.copyfile)
        plan = plan_resume(begun, {"data_dir": str(moved)})
        assert plan.notes == () and plan.options.data_dir == str(moved)

    @pytest.mark.parametrize(("name", "part"), [("MNIST", "training"), ("FashionMNIST", "regularization")])
    def test_it_does_not_go_on_with_others(self, begun, data_dir, tmp_path, name, part):
        moved = shutil.copytree(data_dir, tmp_path / "moved")
        change_one_image(moved, name, "train")
        with pytest.raises(InputError, match=rf"^--data_dir={moved}: the images for {part} are not those of this"):
            plan_resume(begun, {"data_dir": str(moved)})
        change_one_image(data_dir, name, "train")
        with pytest.raises(InputError, match=rf"^--data_dir={data_dir}: "):
            plan_resume(begun, {})

    @pytest.mark.parametrize("earlier", [2, 3])
    def test_one_of_an_earlier_version_does_not_go_on_and_says_so(self, begun, earlier):
        """Its trials all had one seed, and were no runs of settings; the second has no fingerprints of data."""
        manifest = json.loads(begun.read("search.json"))
        begun.write("search.json", json.dumps({**manifest, "format": earlier}))
        with pytest.raises(InputError, match=rf"^search s: written in format {earlier}, .* format 4$"):
            plan_resume(begun, {})

    def test_every_record_says_what_it_was_trained_on(self, searched):
        """The seed of a run divides the images; all else is the same for all."""
        data = json.loads((searched / "search.json").read_text())["data"]
        seeds = set()
        for record in read_trials(Storage(searched)):
            seed = record.hyperparameters.get("seed", 0)
            seeds.add(seed)
            own = f"validation, portion 0.2, seed {seed}"
            assert own in record.data
            assert {**record.data, own: ""}.items() <= {**data, own: ""}.items()
            assert seed or record.data[own] == data[own]
        assert len(seeds) > 1

    @pytest.mark.long
    def test_a_node_with_other_data_is_refused(self, space, data_dir, tmp_path):
        """Its data change after the search was planned, as if a node had others."""
        plan = plan_search(space, options(tmp_path, data_dir), Strategy(scheduler="none"))
        change_one_image(data_dir, "MNIST", "train")
        with (tmp_path / "printed.txt").open("w") as file:
            results = run_search(plan, Console(file=file, width=120))
        assert set(results.state) == {"failed"} and results.error.str.contains(f"--data_dir={data_dir}: the").all()


class TestConfirmation:
    def changed(self, file, part: str) -> None:
        manifest = json.loads(file.read_text())
        manifest["data"][part] = "360x1x16x16-00000000"
        file.write_text(json.dumps(manifest))

    def test_the_manifest_and_the_records_say_what_was_measured(self, confirmed_search):
        found = json.loads((confirmed_search / CONFIRMATION_FOLDER / "confirmation.json").read_text())["data"]
        assert {name.split(",")[0] for name in found} == {"training", "validation", "regularization", "test"}
        results = [
            json.loads(path.read_text())["data"]
            for path in (confirmed_search / CONFIRMATION_FOLDER).glob("*/result.json")
        ]
        assert len(results) == len([*(confirmed_search / CONFIRMATION_FOLDER).glob("*-seed_*")]) > 0
        for data in results:
            assert data["test"] == found["test"] and data["training"] == found["training"]
        validation = {name for data in results for name in data if name.startswith("validation")}
        assert len(validation) == 2  # of two seeds

    @pytest.mark.parametrize("part", ["training", "regularization", "test"])
    def test_it_does_not_go_on_with_other_data(self, confirmed_search, tmp_path, part):
        folder = copied(confirmed_search, tmp_path)
        self.changed(folder / CONFIRMATION_FOLDER / "confirmation.json", part)
        with pytest.raises(InputError, match=rf"^--data_dir=.*: the images for {part} are not those of this conf"):
            plan_confirmation(folder, {}, {}, {})

    def test_it_confirms_on_the_data_of_the_search(self, searched, tmp_path):
        folder = copied(searched, tmp_path)
        self.changed(folder / "search.json", "training")
        with pytest.raises(InputError, match=r"^--data_dir=.*: the images for training are not those of the search"):
            plan_confirmation(folder, {}, {}, {})

    def test_one_of_a_version_without_fingerprints_goes_on_and_says_so(self, confirmed_search, tmp_path):
        folder = copied(confirmed_search, tmp_path)
        manifest = json.loads((folder / CONFIRMATION_FOLDER / "confirmation.json").read_text())
        del manifest["data"]
        (folder / CONFIRMATION_FOLDER / "confirmation.json").write_text(json.dumps(manifest))
        assert any("no fingerprints" in note for note in plan_confirmation(folder, {}, {}, {}).notes)

    def test_a_node_with_other_data_is_refused(self, searched, tmp_path):
        folder = copied(searched, tmp_path)
        plan = plan_confirmation(folder, {"top": 1, "seeds": 2}, CHEAP, {})
        data = {**plan.manifest["data"], "test": "360x1x16x16-00000000"}
        outcome = run_job(plan.jobs[0], plan.evaluation, plan.folder.uri, plan.options.data_dir, data, 1, "cpu")
        assert "--data_dir=" in outcome["error"] and "test" in outcome["error"] and not outcome["again"]
        assert not (folder / CONFIRMATION_FOLDER / plan.jobs[0].name / "result.json").exists()


@pytest.mark.long
class TestReproduction:
    def test_it_does_not_go_on_with_other_data(self, space, data_dir, tmp_path, capsys):
        moved = shutil.copytree(data_dir, tmp_path / "moved")
        change_one_image(moved, "MNIST", "test")

        def row(folder) -> Row:
            chosen = options(tmp_path, folder)
            return Row("tiny", "narrow", space, "tiny", chosen, {}, {"trials": 2, "seeds": 2}, str(tmp_path))

        plan = row(data_dir).plan()
        assert {name.split(",")[0] for name in plan["data"]} == {"training", "validation", "test"}
        row(data_dir).folder.write(row(data_dir).plan_file, json.dumps(plan))
        assert row(data_dir).plan()["data"] == plan["data"]
        with pytest.raises(InputError, match=f"^--data_dir={moved}: the images for test are not those of this repro"):
            row(moved).plan()


class TestDryRuns:
    @pytest.mark.parametrize(
        ("main", "line"),
        [(tune.main, "--space=cifar10_mnist"), (commands_reproduce.main, "cifar10_cifar10_all")],
        ids=["search", "reproduction"],
    )
    def test_what_would_be_downloaded_is_said(self, main, line, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        space = tmp_path / "mine.yaml"
        space.write_text("extends: cifar10_cifar100\ndescription: my own\n")
        line = line.replace("cifar10_mnist", str(space))
        assert main([line, "--dry-run", "--data_dir=absent"]) == 0
        shown = capsys.readouterr().out
        assert "--data_dir=absent: CIFAR10" in shown and "would be downloaded" in shown
        assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]

    @pytest.mark.long
    def test_nothing_is_written_beside_the_data(self, data_dir, tmp_path, monkeypatch, capsys):
        shutil.rmtree(data_dir / "cache")
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        line = ["--space=mnist_mnist", "--dry-run", f"--data_dir={data_dir}", "--valid_portion=0.1"]
        assert tune.main([*line, "--base_channels=1", "--reg_image_num=100", "--attack_image_num=10"]) == 0
        assert sorted(tmp_path.rglob("*")) == before


class TestMeasuredAfterwards:
    def test_validation_images_must_be_of_the_networks_own_data(self, data_dir, tmp_path):
        """Of other data, they may be what it was trained on."""
        settings = Hyperparameters(task="MNIST", base_channels=1, epoch_num=1, train_image_num=20, valid_portion=0.1)
        checkpoint = tmp_path / "checkpoint.pt"
        train(settings, load_training_data(settings, data_dir), device="cpu", checkpoint=checkpoint)
        line = [f"--checkpoint={checkpoint}", "--split=validation", "--attacks=gaussian", "--num-epsilons=2"]
        assert commands_evaluate.main([*line, f"--data_dir={data_dir}"]) == 0
        assert load_images("MNIST", "train", data_dir).labels.shape == (300,)
        moved = shutil.copytree(data_dir, tmp_path / "moved")
        change_one_image(moved, "MNIST", "train")
        with pytest.raises(InputError, match=rf"^--data_dir={moved}: the images for training are not those of this ne"):
            commands_evaluate.main([*line, f"--data_dir={moved}"])

    def test_searches_of_other_data_are_told_apart(self, searched, tmp_path):
        folders = [copied(searched, tmp_path / name) for name in "abc"]
        manifest = json.loads((folders[2] / "search.json").read_text())
        manifest["data"]["training"] = "1438x1x16x16-00000000"
        (folders[2] / "search.json").write_text(json.dumps(manifest))
        named = [folder.rename(folder.with_name(folder.parent.name)) for folder in folders]
        notes = load_searches(named).notes
        assert [note for note in notes if "images" in note] == ["c: its images for training are not those of a"]
