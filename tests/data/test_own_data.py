"""Images of users: of any shape, in files of arrays, in torchvision's other data sets."""

import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import write_idx
from PIL import Image

from brainreg.data.files import nothing_written
from brainreg.data.load import load_dataset, load_images
from brainreg.data.sources import to_download
from brainreg.data.torchvision_names import TORCHVISION_NAMES
from brainreg.data.torchvision_sets import TorchvisionSet
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.training.data import load_test_images, load_training_data
from brainreg.training.loop import train


def pixels(generator, height, width, channels=3):
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8).squeeze()


@pytest.fixture
def photographs(tmp_path):
    """Three classes of images that are neither square nor of one size."""
    generator = np.random.default_rng(0)
    for label, (height, width) in enumerate([(20, 30), (40, 24), (17, 17)]):
        for number in range(12):
            folder = tmp_path / "photographs" / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(generator, height + number, width)).save(folder / f"{number:02}.png")
    return tmp_path / "photographs"


@pytest.fixture
def arrays(tmp_path):
    """A file of arrays, written with other contents."""
    generator = np.random.default_rng(0)
    content = {
        "train_images": generator.integers(0, 256, (30, 12, 12), dtype=np.uint8),
        "train_labels": np.arange(30, dtype=np.uint8)[:, None] % 3,
        "test_images": generator.integers(0, 256, (9, 12, 12), dtype=np.uint8),
        "test_labels": np.arange(9, dtype=np.uint8)[:, None] % 3,
    }

    def write(**other):
        whole = {name: value for name, value in {**content, **other}.items() if value is not None}
        np.savez(tmp_path / "images.npz", **whole)
        return str(tmp_path / "images.npz"), whole

    return write


class TestImageSize:
    def test_the_middle_square_of_the_shorter_side(self, tmp_path):
        """Of an image with a white middle square twice as large, all is white."""
        for label in "ab":
            (tmp_path / "wide" / label).mkdir(parents=True)
            image = np.zeros((32, 64, 3), np.uint8)
            image[:, 16:48] = 255
            for number in range(5):
                Image.fromarray(image if label == "a" else image.transpose(1, 0, 2)).save(
                    tmp_path / "wide" / label / f"{number}.png"
                )
        images, _ = load_dataset(str(tmp_path / "wide"), "train", tmp_path, image_size=16)
        assert images.shape == (8, 1, 16, 16)
        assert (images[:, :, 1:-1, 1:-1] == 255).all()

    @pytest.mark.parametrize("rgb", [False, True])
    def test_photographs_of_any_shape_train(self, photographs, tmp_path, rgb):
        settings = Hyperparameters(
            task=str(photographs), image_size=16, rgb=rgb, base_channels=2, epoch_num=1, phase_duration=1,
            valid_portion=0.2, reg_alpha=1, reg_image_num=10, reg_batch_size=2, reg_thresh=0.1,
        )  # fmt: skip
        data = load_training_data(settings, tmp_path, "cpu")
        assert data.image_size == 16 and data.pairs.images.shape[1:] == (3 if rgb else 1, 16, 16)
        assert load_test_images(settings, tmp_path).tensor.shape[1:] == data.images.shape[1:]
        logits = train(settings, data, device="cpu").classifier(data.valid_images / 255)
        assert logits.shape == (len(data.valid_images), 3)

    def test_without_it_one_line_names_it(self, photographs, tmp_path):
        with pytest.raises(InputError, match="all must have one size, which image_size gives them"):
            load_dataset(str(photographs), "train", tmp_path)
        shutil.rmtree(photographs / "class1")
        for path in photographs.glob("*/*"):
            Image.fromarray(np.zeros((20, 30), np.uint8)).save(path)
        with pytest.raises(InputError, match="images of 20x30; must be square, at least 8x8; image_size=20 makes them"):
            load_training_data(Hyperparameters(task=str(photographs), valid_portion=0.3), tmp_path)

    def test_known_data_sets_are_resized_as_files_are(self, cifar_folder, mnist_folder, tmp_path):
        """Arrays and files go through the same code, so that images of one content are the same."""
        images, labels = load_dataset("MNIST", "test", mnist_folder)
        resized, _ = load_dataset("MNIST", "test", mnist_folder, image_size=12)
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            folder = tmp_path / "files" / "train" / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{number:03}.png")
        files, _ = load_dataset(str(tmp_path / "files"), "train", tmp_path, image_size=12)
        order = [number for label in range(10) for number in (labels == label).nonzero().flatten().tolist()]
        assert torch.equal(files, resized[order])
        assert load_dataset("digits", "test", image_size=32)[0].shape[1:] == (1, 32, 32)
        assert load_dataset("CIFAR10", "test", cifar_folder, image_size=24, rgb=True)[0].shape[1:] == (3, 24, 24)

    def test_each_size_has_a_file_and_a_fingerprint_of_its_own(self, cifar_folder):
        sets = {size: load_images("CIFAR10", "train", cifar_folder, image_size=size) for size in (None, 16, 24)}
        again = {size: load_images("CIFAR10", "train", cifar_folder, image_size=size) for size in sets}
        assert [again[size].tensor.shape[-1] for size in sets] == [32, 16, 24]
        assert len({one.fingerprint for one in sets.values()}) == 3
        settings = Hyperparameters(image_size=16, valid_portion=0.3)
        names = load_training_data(settings, cifar_folder).fingerprints
        assert [*names] == ["training, 16x16", "validation, portion 0.3, seed 0, 16x16"]

    def test_imagenet_has_its_own(self):
        with pytest.raises(ValueError, match="image_size=64: ImageNet has a size of its own"):
            Hyperparameters(task="ImageNet", image_size=64)


class TestArrays:
    def test_as_medmnist_has_them(self, arrays, tmp_path):
        name, content = arrays()
        images, labels = load_dataset(name, "test", tmp_path)
        assert np.array_equal(images[:, 0], content["test_images"]) and labels.tolist() == [0, 1, 2] * 3
        assert len(load_dataset(name, "train", tmp_path)[1]) == 30

    def test_as_keras_has_them_with_other_numbers_of_classes(self, tmp_path):
        generator = np.random.default_rng(0)
        colored = generator.integers(0, 256, (6, 9, 9, 3), dtype=np.uint8)
        labels = np.array([5, 7, 5, 7, 40, 40])
        np.savez(tmp_path / "keras.npz", x_train=colored, y_train=labels, x_test=colored[:2], y_test=labels[:2])
        rgb, classes = load_dataset(str(tmp_path / "keras.npz"), "train", tmp_path, rgb=True)
        assert np.array_equal(rgb.permute(0, 2, 3, 1), colored) and classes.tolist() == [0, 1, 0, 1, 2, 2]
        gray, _ = load_dataset(str(tmp_path / "keras.npz"), "test", tmp_path)
        assert np.array_equal(gray[0, 0], np.asarray(Image.fromarray(colored[0]).convert("L")))

    def test_undivided_floats(self, tmp_path):
        values = np.linspace(0, 1, 40 * 64).reshape(40, 8, 8)
        np.savez(tmp_path / "one.npz", images=values, labels=np.arange(40) % 2)
        parts = [load_dataset(str(tmp_path / "one.npz"), split, tmp_path) for split in ("train", "test")]
        assert [len(labels) for _, labels in parts] == [32, 8]
        assert sorted(bytes(one.numpy()) for images, _ in parts for one in images) == sorted(
            map(bytes, np.rint(values * 255).astype(np.uint8))
        )

    def test_a_network_trains_on_them(self, arrays, tmp_path):
        settings = Hyperparameters(
            task=arrays()[0], image_size=16, base_channels=2, epoch_num=1, phase_duration=1, valid_portion=0.2
        )
        assert len(train(settings, load_training_data(settings, tmp_path), device="cpu").history) == 2

    @pytest.mark.parametrize(
        ("other", "told"),
        [
            (
                {"test_labels": None},
                "has the arrays test_images, train_images, train_labels; must have just one of these: ",
            ),
            ({"test_labels": np.zeros(4, int)}, "test_labels has 4 labels for 9 images"),
            ({"test_labels": np.zeros((9, 2), int)}, r"test_labels is int64 \(9, 2\); must be whole numbers"),
            ({"test_labels": np.full(9, 8)}, "test_labels has the class 8, of which there are no training images"),
            ({"test_images": np.zeros((9, 12, 12, 2), np.uint8)}, r"test_images is \(9, 12, 12, 2\); must be"),
            ({"test_images": np.zeros((9, 12, 12), np.int32)}, "test_images is int32; must be uint8, or floats"),
            ({"test_images": np.full((9, 12, 12), 255.0)}, "float pixels from 255 to 255; must be from 0 to 1"),
        ],
    )
    def test_what_is_wrong_is_named_in_one_line(self, arrays, tmp_path, other, told):
        name, _ = arrays(**other)
        with pytest.raises(InputError, match=told) as caught:
            load_dataset(name, "test", tmp_path)
        assert str(caught.value).startswith(name) and "\n" not in str(caught.value)

    def test_two_ways_to_call_the_arrays_are_refused(self, arrays, tmp_path):
        """Or the images of one would train, and those of the other test."""
        name, _ = arrays(images=np.zeros((9, 8, 8), np.uint8), labels=np.zeros(9, int))
        with pytest.raises(InputError, match="must have just one of these"):
            load_dataset(name, "train", tmp_path)

    @pytest.mark.parametrize("shape", [(), (4,), (4, 0, 8), (0, 8, 8), (4, 8, 8, 3, 1)])
    @pytest.mark.parametrize("kind", [np.uint8, np.float32])
    def test_shapes_of_no_images(self, tmp_path, shape, kind):
        np.savez(tmp_path / "no.npz", images=np.zeros(shape, kind), labels=np.zeros(4, int))
        with pytest.raises(InputError, match=r"no\.npz: images is "):
            load_dataset(str(tmp_path / "no.npz"), "train", tmp_path, image_size=8)

    def test_one_image_a_class_leaves_none_to_test_on(self, tmp_path):
        np.savez(tmp_path / "few.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4))
        with pytest.raises(InputError, match="no class has two images, so that none is left to test on"):
            load_dataset(str(tmp_path / "few.npz"), "test", tmp_path)

    def test_a_link_to_a_file_of_another_name(self, arrays, tmp_path):
        """As DVC and git-annex make them."""
        Path(arrays()[0]).rename(tmp_path / "3f2a")
        (tmp_path / "images.npz").symlink_to(tmp_path / "3f2a")
        settings = Hyperparameters(task=str(tmp_path / "images.npz"))
        assert Hyperparameters(**settings.model_dump()) == settings
        assert len(load_dataset(settings.task, "train", tmp_path)[1]) == 30

    def test_as_regularization_images(self, arrays, tmp_path):
        settings = Hyperparameters(
            task="digits", reg_data=arrays()[0], reg_alpha=1, reg_image_num=20, reg_batch_size=2, reg_thresh=0.1,
            image_size=16, valid_portion=0.2,
        )  # fmt: skip
        assert load_training_data(settings, tmp_path, "cpu").pairs.images.shape == (20, 1, 16, 16)

    @pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
    def test_a_damaged_file_is_named(self, tmp_path, content):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.npz: cannot be read"):
            load_dataset(str(tmp_path / "bad.npz"), "train", tmp_path)

    def test_gray_ones_have_no_color(self, arrays, tmp_path):
        with pytest.raises(InputError, match=r"rgb=True: the images of .* are gray"):
            load_dataset(arrays()[0], "train", tmp_path, rgb=True)


class TestTorchvision:
    @pytest.fixture
    def kmnist_folder(self, tmp_path, mnist_folder):
        """KMNIST's own files, which have MNIST's format."""
        shutil.copytree(mnist_folder / "MNIST", tmp_path / "data" / "KMNIST")
        return tmp_path / "data"

    @pytest.fixture
    def imagenette_folder(self, tmp_path):
        """Imagenette in small: a training and a validation split, images of many sizes."""
        generator = np.random.default_rng(0)
        classes = ["n01440764", "n02102040", "n02979186", "n03000684", "n03028079"]
        classes += ["n03394916", "n03417042", "n03425413", "n03445777", "n03888257"]
        for split in ("train", "val"):
            for name in classes:
                folder = tmp_path / "data" / "imagenette2" / split / name
                folder.mkdir(parents=True)
                for number in range(3):
                    Image.fromarray(pixels(generator, 24 + number, 40)).save(folder / f"{number}.JPEG")
        return tmp_path / "data"

    def test_one_with_train(self, kmnist_folder):
        images, labels = load_dataset("torchvision:KMNIST", "train", kmnist_folder)
        as_mnist = kmnist_folder / "KMNIST"
        as_mnist.rename(kmnist_folder / "MNIST")
        known, known_labels = load_dataset("MNIST", "train", kmnist_folder)
        assert torch.equal(images, known) and torch.equal(labels, known_labels)

    def test_one_with_split_and_no_test(self, imagenette_folder):
        images, labels = load_dataset("torchvision:Imagenette", "test", imagenette_folder, rgb=True, image_size=16)
        assert images.shape == (30, 3, 16, 16) and labels.tolist() == [label for label in range(10) for _ in range(3)]
        with pytest.raises(InputError, match="all must have one size, which image_size gives them"):
            load_dataset("torchvision:Imagenette", "train", imagenette_folder)

    def test_what_changed_is_decoded_again(self, kmnist_folder):
        before, _ = load_dataset("torchvision:KMNIST", "test", kmnist_folder)
        write_idx(kmnist_folder / "KMNIST/raw/t10k-images-idx3-ubyte", np.zeros(before[:, 0].shape, np.uint8))
        assert not load_dataset("torchvision:KMNIST", "test", kmnist_folder)[0].any()

    def test_a_network_trains_on_one(self, imagenette_folder):
        settings = Hyperparameters(
            task="torchvision:Imagenette", image_size=16, base_channels=2, epoch_num=1, phase_duration=1,
            valid_portion=0.34, reg_alpha=1, reg_image_num=10, reg_batch_size=2, reg_thresh=0.1,
        )  # fmt: skip
        data = load_training_data(settings, imagenette_folder, "cpu")
        assert data.num_classes == 10
        assert train(settings, data, device="cpu").history[-1]["epoch"] == 1

    def test_what_is_not_there_would_be_downloaded(self, kmnist_folder):
        names = ["torchvision:KMNIST", "torchvision:SVHN"]
        assert to_download(names, kmnist_folder) == ["torchvision:SVHN"]

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("torchvision:MNIST", "torchvision:MNIST: is known by its own name; must be MNIST"),
            ("torchvision:SVNH", "torchvision:SVNH: not a data set of torchvision that is known; did you mean SVHN"),
        ],
    )
    def test_a_wrong_name(self, name, told, tmp_path):
        with pytest.raises(InputError, match=told):
            load_dataset(name, "train", tmp_path)

    @pytest.mark.parametrize("name", ["FakeData", "ImageFolder", "CocoDetection", "LFWPeople"])
    def test_what_is_no_set_to_classify_is_not_known(self, name):
        with pytest.raises(InputError, match="not a data set of torchvision that is known; "):
            load_dataset(f"torchvision:{name}", "train")

    def test_each_that_is_known_takes_what_it_is_called_with(self):
        for name in TORCHVISION_NAMES:
            parameters = inspect.signature(getattr(torchvision.datasets, name)).parameters
            for split in ("train", "test"):
                asked = TorchvisionSet(name, split, Path("data")).arguments
                keywords = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
                assert keywords or {*asked} <= {*parameters}

    def test_one_without_splits_gives_a_fifth(self, tmp_path):
        """EuroSAT's folder, of which a link makes a part."""
        generator = np.random.default_rng(0)
        for name in ("AnnualCrop", "Forest"):
            (tmp_path / "elsewhere" / name).mkdir(parents=True)
            for number in range(10):
                Image.fromarray(pixels(generator, 12, 12)).save(tmp_path / "elsewhere" / name / f"{number}.jpg")
        (tmp_path / "data/eurosat").mkdir(parents=True)
        (tmp_path / "data/eurosat/2750").symlink_to(tmp_path / "elsewhere")
        parts = [load_dataset("torchvision:EuroSAT", split, tmp_path / "data") for split in ("train", "test")]
        assert [labels.bincount().tolist() for _, labels in parts] == [[8, 8], [2, 2]]
        for path in (tmp_path / "elsewhere").glob("*/*"):  # what lies behind the link is looked at, too
            Image.new("RGB", (12, 12)).save(path)
        assert not load_dataset("torchvision:EuroSAT", "train", tmp_path / "data")[0].any()

    def test_a_missing_test_split_is_not_replaced(self, imagenette_folder):
        shutil.rmtree(imagenette_folder / "imagenette2/val")
        with pytest.raises(InputError, match=r"imagenette2/val, and the download failed"), nothing_written():
            load_dataset("torchvision:Imagenette", "test", imagenette_folder)

    def test_a_damaged_image_is_named(self, imagenette_folder):
        file = sorted((imagenette_folder / "imagenette2/train").glob("*/*"))[4]
        file.write_bytes(b"")
        with pytest.raises(InputError, match="torchvision:Imagenette: image 4: cannot be read"):
            load_dataset("torchvision:Imagenette", "train", imagenette_folder, image_size=16)

    def test_a_look_writes_and_downloads_nothing(self, tmp_path, monkeypatch):
        """SEMEION's own class downloads unless it is told not to."""
        monkeypatch.setattr(torchvision.datasets.SEMEION, "download", lambda self: pytest.fail("downloads"))
        names = [f"torchvision:{name}" for name in TORCHVISION_NAMES]
        assert to_download(names, tmp_path) == names and list(tmp_path.iterdir()) == []
        (tmp_path / "semeion.data").write_text("not the published file")
        with pytest.raises(InputError, match=r"torchvision:SEMEION: .*cannot be read"):
            load_dataset("torchvision:SEMEION", "train", tmp_path)

    def test_what_cannot_be_downloaded_is_said_in_one_line(self, tmp_path, monkeypatch):
        monkeypatch.setattr("socket.socket.connect", lambda *arguments: (_ for _ in ()).throw(OSError("no network")))
        with pytest.raises(
            InputError, match=r"torchvision:SVHN: not found; looked for .*train_32x32\.mat, and the"
        ) as caught:
            load_dataset("torchvision:SVHN", "train", tmp_path / "data")
        assert "the download failed (" in str(caught.value) and "\n" not in str(caught.value)
        assert not (tmp_path / "data").exists()

    def test_a_download_is_moved_to_the_data_folder(self, kmnist_folder, tmp_path, monkeypatch):
        """What a server would send comes from files; all else is as it is."""
        shutil.move(kmnist_folder / "KMNIST", tmp_path / "served")

        def download(self):
            shutil.copytree(tmp_path / "served", Path(self.root) / "KMNIST")

        monkeypatch.setattr(torchvision.datasets.KMNIST, "download", download)
        assert len(load_dataset("torchvision:KMNIST", "train", kmnist_folder)[0]) == 300
        assert sorted(path.name for path in kmnist_folder.iterdir()) == ["KMNIST", "cache"]

    def test_a_download_that_ends_halfway_leaves_nothing(self, imagenette_folder, tmp_path, monkeypatch):
        """A full disk, after half of the files."""
        shutil.move(imagenette_folder / "imagenette2", tmp_path / "served")
        made = torchvision.datasets.Imagenette.__init__

        def served(self, root, download=False, **options):
            if download:
                for path in sorted((tmp_path / "served").rglob("*.JPEG"))[:30]:
                    copy = Path(root) / "imagenette2" / path.relative_to(tmp_path / "served")
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, copy)
                raise OSError(28, "No space left on device")
            made(self, root, download=False, **options)

        monkeypatch.setattr(torchvision.datasets.Imagenette, "__init__", served)
        with pytest.raises(InputError, match=r"the download failed \(No space left on device\)"):
            load_dataset("torchvision:Imagenette", "train", imagenette_folder, image_size=16)
        assert list(imagenette_folder.iterdir()) == []
