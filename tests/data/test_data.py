import gzip
import hashlib
import io
import logging
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import write_idx
from PIL import Image
from sklearn.datasets import load_digits

from brainreg._utils import lazy
from brainreg.data import augmentation as data_augmentation
from brainreg.data import files as data_files
from brainreg.data import load as data_load
from brainreg.data import sources as data_sources
from brainreg.data.augmentation import no_augmentation, random_crop_and_flip, random_flip, random_resized_crop_and_flip
from brainreg.data.datasets import DATASETS
from brainreg.data.load import load_dataset, load_training_images
from brainreg.data.splits import first_images, split_train_validation
from brainreg.errors import InputError
from brainreg.seeds import Stream, seeded_generator


def generator():
    return seeded_generator(0, Stream.BATCHES)


class TestLoading:
    def test_digits_are_all_there_once_and_enlarged_twice(self):
        parts = [load_dataset("digits", split) for split in ("train", "test")]
        images = torch.cat([images for images, _ in parts])
        assert images.shape == (1797, 1, 16, 16) and images.dtype == torch.uint8
        assert [len(labels) for _, labels in parts] == [1438, 359]
        small = images[:, 0, ::2, ::2]
        assert torch.equal(small.repeat_interleave(2, 1).repeat_interleave(2, 2), images[:, 0])
        original = np.round(load_digits().images * 255 / 16).astype(np.uint8)
        assert sorted(map(bytes, small.numpy())) == sorted(map(bytes, original))

    @pytest.mark.parametrize(("split", "count"), [("train", 300), ("test", 60)])
    def test_mnist_files(self, mnist_folder, split, count):
        images, labels = load_dataset("MNIST", split, mnist_folder)
        assert images.shape == (count, 1, 28, 28) and images.dtype == torch.uint8 and labels.dtype == torch.int64
        first = 0 if split == "train" else 300
        assert labels.tolist() == load_digits().target[first : first + count].tolist()

    def test_image_folder_in_gray_and_rgb(self, cifar_folder, golden):
        gray, labels = load_dataset("CIFAR10", "train", cifar_folder)
        rgb, _ = load_dataset("CIFAR10", "train", cifar_folder, rgb=True)
        assert gray.shape == (40, 1, 32, 32) and rgb.shape == (40, 3, 32, 32)
        assert labels.tolist() == [label for label in range(10) for _ in range(4)]
        file = sorted((cifar_folder / "CIFAR10/train/class0").iterdir())[0]
        with Image.open(file) as image:
            assert np.array_equal(rgb[0].permute(1, 2, 0), np.asarray(image))
            assert np.array_equal(gray[0, 0], np.asarray(image.convert("L")))

    def test_cifar_pickles(self, tmp_path, monkeypatch, golden):
        """torchvision's own files, with checksums of the ones made here in place of the published ones."""
        rows = torch.cat([golden.images[:20]] * 3, dim=1).flatten(1).numpy()
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        listed = []
        for i, part in enumerate((slice(0, 12), slice(12, 20))):
            path = folder / f"data_batch_{i + 1}"
            path.write_bytes(pickle.dumps({"data": rows[part], "labels": golden["labels"][part].tolist()}))
            listed.append([path.name, torchvision.datasets.utils.calculate_md5(path)])
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", listed)
        images, labels = load_dataset("CIFAR10", "train", tmp_path)
        assert torch.equal(images, golden.images[:20]) and torch.equal(labels, golden["labels"][:20].long())
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"data_batch_2: missing or damaged; remove .* to have it downloaded"):
            load_dataset("CIFAR10", "train", tmp_path)

    def test_a_folder_by_its_path_without_splits_gives_a_fifth_for_tests(self, cifar_folder):
        folder = str(cifar_folder / "CIFAR10" / "train")
        train, train_labels = load_dataset(folder, "train", cifar_folder)
        test, test_labels = load_dataset(folder, "test", cifar_folder)
        assert (len(train), len(test)) == (32, 8)
        both = sorted(map(bytes, torch.cat([train, test]).numpy()))
        assert both == sorted(map(bytes, load_dataset("CIFAR10", "train", cifar_folder)[0].numpy()))
        assert test_labels.bincount().max() == 1

    def test_a_folder_by_its_path_with_val_for_tests(self, cifar_folder):
        folder = cifar_folder / "CIFAR10"
        (folder / "test").rename(folder / "val")
        assert len(load_dataset(str(folder), "test", cifar_folder)[0]) == 10

    def test_imagenet_is_cropped_and_resized_as_the_method_says(self, imagenet_folder):
        task, labels = load_dataset("ImageNet", "train", imagenet_folder, rgb=True)
        regularization, _ = load_dataset("ImageNet", "train", imagenet_folder, rgb=True, purpose="regularization")
        assert task.shape == (20, 3, 224, 224) and regularization.shape == (20, 3, 36, 64)
        assert labels.tolist() == [0] * 10 + [1] * 10
        with Image.open(imagenet_folder / "ImageNet/train/b/00.png") as image:
            assert image.size == (256, 340)
            crop = image.crop((0, 98, 256, 242))
            assert np.array_equal(
                regularization[10].permute(1, 2, 0), np.asarray(crop.resize((64, 36), Image.BILINEAR))
            )
            whole = image.resize((224, 297), Image.BILINEAR)  # torchvision rounds down
            assert np.array_equal(task[10].permute(1, 2, 0), np.asarray(whole.crop((0, 36, 224, 260))))

    @pytest.mark.parametrize(("rgb", "channels"), [(False, 1), (True, 3)])
    def test_imagenets_training_images_stay_in_their_files(self, imagenet_folder, rgb, channels):
        loaded = load_training_images("ImageNet", imagenet_folder, rgb)
        files, labels = loaded.images, loaded.labels
        assert len(files) == len(labels) == 20 and not (imagenet_folder / "cache").exists()
        one, other = files[torch.tensor([10, 0])]
        assert one.shape == (channels, 340, 256) and other.shape == (channels, 375, 500)
        with Image.open(imagenet_folder / "ImageNet/train/b/00.png") as image:
            assert np.array_equal(
                one[0], np.asarray(image if rgb else image.convert("L")).reshape(340, 256, -1)[..., 0]
            )
        task, _ = load_dataset("ImageNet", "train", imagenet_folder, rgb)
        assert torch.equal(files.classified(torch.tensor([19, 3])), task[[19, 3]])

    def test_training_images_of_one_size_are_those_of_the_data_set(self, cifar_folder):
        loaded = load_training_images("CIFAR10", cifar_folder)
        expected = load_dataset("CIFAR10", "train", cifar_folder)
        assert torch.equal(loaded.images, expected[0]) and torch.equal(loaded.labels, expected[1])

    def test_flipping_before_and_after_the_resize_is_the_same(self):
        """The method flips a regularization image before it is resized; here it is stored resized and then flipped."""
        pixels = np.random.default_rng(1).integers(0, 256, (144, 256), np.uint8)
        resize = data_augmentation.image_view("regularization")
        before = np.asarray(resize(Image.fromarray(pixels[:, ::-1])))
        after = np.asarray(resize(Image.fromarray(pixels)))[:, ::-1]
        assert np.array_equal(before, after)


class TestCache:
    def test_decoded_once_and_memory_mapped(self, cifar_folder, monkeypatch):
        first = load_dataset("CIFAR10", "train", cifar_folder)
        monkeypatch.setattr(data_sources.ImageFolder, "decode", lambda *arguments: pytest.fail("decoded again"))
        second = load_dataset("CIFAR10", "train", cifar_folder)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert [path.name for path in (cifar_folder / "cache").iterdir()] == ["CIFAR10-train-L.pt"]
        maps = Path("/proc/self/maps")
        assert not maps.exists() or "CIFAR10-train-L.pt" in maps.read_text()

    def test_the_same_folder_by_another_path_is_not_decoded_again(self, cifar_folder, monkeypatch):
        load_dataset("CIFAR10", "train", cifar_folder)
        monkeypatch.chdir(cifar_folder)
        monkeypatch.setattr(data_sources.ImageFolder, "decode", lambda *arguments: pytest.fail("decoded again"))
        load_dataset("CIFAR10", "train", ".")

    def test_modes_and_splits_have_files_of_their_own(self, cifar_folder):
        for split in ("train", "test"):
            for rgb in (False, True):
                load_dataset("CIFAR10", split, cifar_folder, rgb)
        assert len(list((cifar_folder / "cache").iterdir())) == 4

    @pytest.mark.parametrize("damage", ["truncated", "one byte", "other file"])
    def test_a_damaged_file_is_made_anew(self, cifar_folder, damage, caplog):
        expected = [tensor.clone() for tensor in load_dataset("CIFAR10", "train", cifar_folder)]
        path = cifar_folder / "cache" / "CIFAR10-train-L.pt"
        content = bytearray(path.read_bytes())
        if damage == "truncated":
            content = content[: len(content) // 2]
        elif damage == "one byte":
            content[len(content) // 2] ^= 1
        else:
            content = bytearray(b"nothing of ours")
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            found = load_dataset("CIFAR10", "train", cifar_folder)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert "damaged" in caplog.text
        caplog.clear()
        load_dataset("CIFAR10", "train", cifar_folder)
        assert caplog.text == ""

    def test_a_changed_source_is_decoded_again(self, cifar_folder):
        before, _ = load_dataset("CIFAR10", "train", cifar_folder)
        before = before.clone()
        file = sorted((cifar_folder / "CIFAR10/train/class3").iterdir())[0]
        Image.new("RGB", (32, 32), "white").save(file)
        after, _ = load_dataset("CIFAR10", "train", cifar_folder)
        assert (before != after).flatten(1).any(dim=1).nonzero().flatten().tolist() == [12]

    def test_a_failed_write_leaves_nothing(self, cifar_folder, monkeypatch, caplog):
        def full(*arguments, **options):
            raise OSError("No space left on device")

        monkeypatch.setattr(torch, "save", full)
        with caplog.at_level(logging.WARNING):
            images, _ = load_dataset("CIFAR10", "train", cifar_folder)
        assert len(images) == 40 and "No space left" in caplog.text
        assert list((cifar_folder / "cache").iterdir()) == []


def test_strengths_of_the_published_evaluation():
    """The largest of Gaussian, uniform, salt and pepper, and of transferred FGSM."""
    strengths = {name: (*DATASETS[name].noise_eps, DATASETS[name].transfer_eps) for name in DATASETS}
    assert strengths["CIFAR10"] == (0.1, 0.1, 0.1, 0.02) and strengths["CIFAR100"] == (0.1, 0.1, 0.1, 0.005)
    assert strengths["MNIST"] == strengths["FashionMNIST"] == (0.5, 0.5, 0.3, 0.5)


class TestBadData:
    def one_line(self, *arguments, **options) -> str:
        with pytest.raises(InputError) as caught:
            load_dataset(*arguments, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_unknown_name(self):
        assert (
            "CIFR10: no such data set, and no folder of images or .npz file there; did you mean CIFAR10"
            in self.one_line("CIFR10", "train")
        )

    @pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"])
    def test_absent_without_a_network(self, name, tmp_path):
        message = self.one_line(name, "train", tmp_path / "data")
        assert f"looked for {tmp_path}/data/" in message and f"{tmp_path}/data/{name}/train/<class>/*.png" in message
        assert "download failed (" in message and "--data_dir" in message
        assert list(tmp_path.iterdir()) == []

    def test_a_download_is_moved_to_the_data_folder(self, tmp_path, mnist_folder, monkeypatch):
        """What a server would send comes from files; all else is as it is."""
        shutil.move(mnist_folder / "MNIST", tmp_path / "served")

        def serve(root, download):
            shutil.copytree(tmp_path / "served", Path(root) / "MNIST")

        monkeypatch.setattr(torchvision.datasets, "MNIST", serve)
        assert len(load_dataset("MNIST", "train", tmp_path / "data")[0]) == 300
        assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["MNIST", "cache"]

    def test_imagenet_cannot_be_downloaded(self, tmp_path):
        assert f"looked for {tmp_path}/ImageNet/train/<class>" in self.one_line("ImageNet", "train", tmp_path)

    def test_empty_folder(self, tmp_path):
        assert self.one_line(str(tmp_path), "train") == (
            f"{tmp_path}: no folders in it; must hold a folder of images for each class"
        )

    def test_class_folder_without_images(self, cifar_folder):
        shutil.rmtree(cifar_folder / "CIFAR10/train/class4")
        (cifar_folder / "CIFAR10/train/class4").mkdir()
        assert "class4" in self.one_line("CIFAR10", "train", cifar_folder)

    def test_truncated_image(self, cifar_folder):
        file = sorted((cifar_folder / "CIFAR10/train/class2").iterdir())[1]
        file.write_bytes(file.read_bytes()[:200])
        assert self.one_line("CIFAR10", "train", cifar_folder).startswith(f"{file}: cannot be read (")
        assert not (cifar_folder / "cache").exists()

    def test_mixed_sizes(self, cifar_folder):
        file = sorted((cifar_folder / "CIFAR10/train/class2").iterdir())[1]
        Image.new("RGB", (40, 32)).save(file)
        assert f"{file}: 40x32 pixels, while the first image has 32x32" in self.one_line(
            "CIFAR10", "train", cifar_folder
        )

    @pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
    def test_truncated_mnist(self, mnist_folder, kind):
        file = mnist_folder / f"MNIST/raw/train-{kind}-ubyte"
        file.write_bytes(file.read_bytes()[:-50])
        assert self.one_line("MNIST", "train", mnist_folder).startswith(f"{file}: cannot be read (")

    def test_labels_that_do_not_fit_the_images(self, mnist_folder):
        file = mnist_folder / "MNIST/raw/train-labels-idx1-ubyte"
        write_idx(file, np.zeros(10))
        assert "10 labels for the 300 images" in self.one_line("MNIST", "train", mnist_folder)

    def test_splits_with_other_classes(self, cifar_folder):
        (cifar_folder / "CIFAR10/test/class7").rename(cifar_folder / "CIFAR10/test/class77")
        message = self.one_line("CIFAR10", "test", cifar_folder)
        assert "its classes differ" in message and "class7, class77" in message

    def test_no_test_images(self, cifar_folder):
        shutil.rmtree(cifar_folder / "CIFAR10/test")
        assert "no test images; looked for" in self.one_line("CIFAR10", "test", cifar_folder)

    @pytest.mark.parametrize("name", [name for name, dataset in DATASETS.items() if dataset.gray])
    def test_rgb_of_gray_data(self, name):
        assert self.one_line(name, "train", rgb=True) == f"rgb=True: the images of {name} are gray; leave rgb out"

    def test_rgb_of_a_gray_folder(self, tmp_path):
        for label in ("a", "b"):
            (tmp_path / label).mkdir()
            for i in range(5):
                Image.new("L", (8, 8)).save(tmp_path / label / f"{i}.png")
        assert "are gray; leave rgb out" in self.one_line(str(tmp_path), "train", tmp_path, rgb=True)


class TestSplit:
    def test_class_balanced_complete_and_seeded(self):
        labels = torch.arange(10).repeat_interleave(57)[torch.randperm(570, generator=generator())]
        train, valid = split_train_validation(labels, 0.1, seed=3)
        assert sorted(train.tolist() + valid.tolist()) == list(range(570))
        counts = labels[valid].bincount(minlength=10)
        assert len(valid) == 57 and counts.min() == 5 and counts.max() == 6
        again = split_train_validation(labels, 0.1, seed=3)[1]
        other = split_train_validation(labels, 0.1, seed=4)[1]
        assert torch.equal(valid, again) and not torch.equal(valid, other)

    def test_proportions_of_unequal_classes_are_kept(self):
        labels = torch.tensor([0] * 900 + [1] * 100)
        _, valid = split_train_validation(labels, 0.2, seed=0)
        assert labels[valid].bincount().tolist() == [180, 20]

    @pytest.mark.parametrize("portion", [0.01, 0.3, 0.5, 0.9, 0.999])
    def test_each_class_keeps_an_image_to_train_on(self, portion):
        """Of few images, of many, and where nearly all validate."""
        labels = torch.tensor([0] * 10 + [1] * 10 + [2, 3, 4] + [5, 5] + [7] * 3)  # none is of class 6
        train, valid = split_train_validation(labels, portion, seed=0)
        assert set(labels[train].tolist()) == {0, 1, 2, 3, 4, 5, 7}
        assert sorted(train.tolist() + valid.tolist()) == list(range(len(labels)))
        assert len(valid) == min(round(portion * len(labels)), len(labels) - 7)

    def test_classes_of_one_image_all_train(self):
        train, valid = split_train_validation(torch.arange(1000), 0.01, seed=0)
        assert len(train) == 1000 and len(valid) == 0

    def test_first_images_of_ordered_data_are_of_all_classes(self):
        ordered = torch.arange(10).repeat_interleave(100)
        chosen = first_images(ordered, 100, seed=0)
        assert ordered[chosen].unique().tolist() == list(range(10)) and len(chosen.unique()) == 100
        assert not torch.equal(chosen, first_images(ordered, 100, seed=1))

    def test_first_images_of_mixed_data_are_the_first(self):
        assert first_images(torch.tensor([3, 1, 2, 0]), 2, seed=0).tolist() == [0, 1]

    def test_streams_of_one_seed_differ(self):
        draws = {
            torch.rand(1, generator=seeded_generator(0, stream, part)).item() for stream in Stream for part in (0, 1)
        }
        assert len(draws) == 2 * len(Stream)


class TestAugmentation:
    def test_crops_come_from_the_reflection_padded_image(self):
        images = torch.randint(0, 256, (40, 3, 12, 12), dtype=torch.uint8, generator=generator())
        padded = torch.nn.functional.pad(images.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
        seen = set()
        for image, frame in zip(random_crop_and_flip(images, generator()), padded, strict=True):
            matches = [
                (top, left, flip)
                for top in range(9)
                for left in range(9)
                for flip in (False, True)
                if torch.equal(
                    frame[:, top : top + 12, left : left + 12].flip(-1)
                    if flip
                    else frame[:, top : top + 12, left : left + 12],
                    image,
                )
            ]
            assert len(matches) == 1
            seen.add(matches[0])
        assert len(seen) > 30 and {flip for _, _, flip in seen} == {False, True}

    def test_flips_are_a_half_of_the_images(self):
        images = torch.arange(4, dtype=torch.uint8).expand(2000, 1, 1, 4)
        flipped = random_flip(images, generator())[:, 0, 0, 0] == 3
        assert 900 < flipped.sum() < 1100

    def test_resized_crops_have_the_size_and_stay_inside_the_image(self):
        ramp = torch.arange(256, dtype=torch.uint8).expand(30, 1, 256, 256)
        crops = random_resized_crop_and_flip(ramp, generator(), size=32)
        assert crops.shape == (30, 1, 32, 32)
        widths = (crops[:, 0, 0, -1].int() - crops[:, 0, 0, 0].int()).abs()
        # A crop of 8% to 100% of the area at aspect 3/4 to 4/3 is at least a quarter as wide as the image.
        assert widths.min() > 50 and widths.max() <= 255 and widths.unique().numel() > 15

    def test_resized_crops_take_the_right_share_of_images_of_many_sizes(self, monkeypatch):
        """Crops of 300 images of 300x400 and 100x90: their areas are uniform in 8% to 100%, their aspects in bounds."""
        taken = []

        def crop(image, top, left, h, w, *rest, **options):
            taken.append((image, top, left, h, w))
            return image[:, :8, :8]

        monkeypatch.setattr(lazy.v2.functional, "resized_crop", crop)
        images = [torch.zeros(1, *size, dtype=torch.uint8) for size in [(300, 400), (100, 90)] * 150]
        random_resized_crop_and_flip(images, generator())
        shares = []
        for image, top, left, h, w in taken:
            height, width = image.shape[-2:]
            assert 0 <= top <= height - h and 0 <= left <= width - w
            assert 0.72 < w / h < 1.4
            shares.append(h * w / (height * width))
        # Shares near 1 fit at few aspects, so the mean lies a little under that of a uniform draw, 0.54.
        assert 0.07 < min(shares) < 0.15 and 0.85 < max(shares) <= 1 and 0.46 < np.mean(shares) < 0.56

    def test_a_very_long_image_is_cropped_in_its_middle(self):
        ramp = torch.arange(240, dtype=torch.uint8).repeat_interleave(10).expand(1, 4, 2400)
        crop = random_resized_crop_and_flip([ramp], generator(), size=5)
        assert crop.shape == (1, 1, 5, 5) and ((crop >= 118) & (crop <= 121)).all()

    @pytest.mark.parametrize("augment", [random_crop_and_flip, random_flip, random_resized_crop_and_flip])
    def test_a_seed_fixes_the_draws(self, augment):
        images = torch.randint(0, 256, (6, 1, 40, 40), dtype=torch.uint8, generator=generator())
        assert torch.equal(augment(images, generator()), augment(images, generator()))

    def test_every_data_set_has_the_rule_of_the_method(self):
        plain, cropped = (no_augmentation,) * 2, (random_crop_and_flip,) * 2
        assert {name: (dataset.augment, dataset.augment_regularization) for name, dataset in DATASETS.items()} == {
            **dict.fromkeys(("digits", "MNIST", "FashionMNIST"), plain),
            **dict.fromkeys(("CIFAR10", "CIFAR100"), cropped),
            "ImageNet": (random_resized_crop_and_flip, random_flip),
        }

    @pytest.mark.parametrize("augment", [no_augmentation, random_crop_and_flip, random_flip])
    def test_draws_made_ahead_are_those_of_batch_after_batch(self, augment):
        images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8)
        ahead, later = generator(), generator()
        draws = torch.cat([augment.draw(len(part), ahead) for part in images.split(4)])
        at_once = augment.apply(images, draws)
        assert torch.equal(at_once, torch.cat([augment(part, later) for part in images.split(4)]))
        assert at_once.shape == images.shape and torch.equal(ahead.get_state(), later.get_state())


class TestPackedFiles:
    """As they are downloaded, for a machine without a network."""

    @pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
    def test_of_mnist(self, mnist_folder, name):
        raw = mnist_folder / name / "raw"
        if name != "MNIST":
            shutil.move(mnist_folder / "MNIST", mnist_folder / name)
        expected = {split: load_dataset(name, split, mnist_folder) for split in ("train", "test")}
        expected = {split: [tensor.clone() for tensor in loaded] for split, loaded in expected.items()}
        shutil.rmtree(mnist_folder / "cache")
        for path in [*raw.iterdir()]:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        before = sorted(raw.iterdir())
        for split, tensors in expected.items():
            assert all(map(torch.equal, tensors, load_dataset(name, split, mnist_folder)))
        assert sorted(raw.iterdir()) == before
        assert {path.suffix for path in data_load.split_files(name, mnist_folder)} == {".gz"}

    @pytest.mark.parametrize("content", [b"", b"<html>", gzip.compress(b"packed\n")], ids=["empty", "html", "text"])
    @pytest.mark.parametrize("part", ["images-idx3", "labels-idx1"])
    def test_of_mnist_that_are_damaged(self, mnist_folder, part, content):
        path = mnist_folder / f"MNIST/raw/train-{part}-ubyte"
        packed = gzip.compress(path.read_bytes())
        path.unlink()
        path = path.with_name(f"{path.name}.gz")
        for one in (content, packed[:-20], packed[: len(packed) // 2]):
            path.write_bytes(one)
            with pytest.raises(InputError, match=r"ubyte.gz: cannot be read \("):
                load_dataset("MNIST", "train", mnist_folder)

    def test_of_mnist_of_which_one_is_missing(self, mnist_folder):
        path = mnist_folder / "MNIST/raw/train-labels-idx1-ubyte"
        path.unlink()
        with pytest.raises(InputError, match=f"; {path} is missing"):
            load_dataset("MNIST", "train", mnist_folder)

    @pytest.fixture
    def cifar_archive(self, tmp_path, monkeypatch, golden):
        """CIFAR-10's archive of 20 images, with its own checksums in place of the published ones."""
        content = {
            "data_batch_1": torch.cat([golden.images[:20]] * 3, dim=1).flatten(1).numpy(),
            "test_batch": torch.cat([golden.images[20:25]] * 3, dim=1).flatten(1).numpy(),
        }
        listed = {}
        archive = tmp_path / "cifar-10-python.tar.gz"
        with tarfile.open(archive, "w:gz") as packed:
            for name, rows in content.items():
                pickled = pickle.dumps({"data": rows, "labels": [i % 10 for i in range(len(rows))]})
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(pickled)
                packed.addfile(member, io.BytesIO(pickled))
                listed[name] = [[name, hashlib.md5(pickled).hexdigest()]]
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", listed["data_batch_1"])
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", listed["test_batch"])
        return archive

    def test_of_cifar(self, cifar_archive, golden):
        images, labels = load_dataset("CIFAR10", "train", cifar_archive.parent)
        assert torch.equal(images, golden.images[:20]) and labels.tolist() == [*range(10)] * 2
        assert len(load_dataset("CIFAR10", "test", cifar_archive.parent)[0]) == 5
        assert data_load.split_files("CIFAR10", cifar_archive.parent) == [cifar_archive]
        assert {path.name for path in cifar_archive.parent.iterdir()} == {cifar_archive.name, "cache"}

    @pytest.mark.parametrize("left", [0, 0.5, 0.99])
    def test_of_cifar_that_are_damaged(self, cifar_archive, left):
        content = cifar_archive.read_bytes()
        cifar_archive.write_bytes(content[: int(left * len(content))])
        with pytest.raises(InputError, match=f"{cifar_archive}: missing or damaged; remove {cifar_archive}"):
            load_dataset("CIFAR10", "train", cifar_archive.parent)

    def test_a_folder_of_which_a_part_was_unpacked_does_not_hide_the_archive(self, cifar_archive):
        (cifar_archive.parent / "cifar-10-batches-py").mkdir()
        assert len(load_dataset("CIFAR10", "train", cifar_archive.parent)[0]) == 20


class TestNothingWritten:
    def test_nothing_is_cached_or_downloaded(self, cifar_folder, imagenet_folder):
        with data_files.nothing_written():
            assert len(load_dataset("CIFAR10", "train", cifar_folder)[0]) == 40
            assert load_training_images("ImageNet", imagenet_folder).fingerprint
            with pytest.raises(InputError, match="MNIST: not found"):
                load_dataset("MNIST", "train", cifar_folder)
        assert not (cifar_folder / "cache").exists() and not (cifar_folder / "MNIST").exists()
        load_dataset("CIFAR10", "train", cifar_folder)
        assert (cifar_folder / "cache").exists()

    def test_what_would_be_downloaded(self, cifar_folder, mnist_folder):
        names = ["CIFAR10", "MNIST", "FashionMNIST", "CIFAR100", "CIFAR100", "digits", "ImageNet", None, "/a/path"]
        assert data_sources.to_download(names, cifar_folder) == ["FashionMNIST", "CIFAR100"]
