"""Fingerprints of data: all bytes count, and where the data lie does not."""

import json
import os
import shutil

import pytest
import torch
from conftest import write_idx
from PIL import Image

from brainreg.data import folders
from brainreg.data.fingerprints import TEST, VALIDATION, check_same_data, fingerprint, part_name
from brainreg.data.load import load_images, load_training_images
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.training.data import load_test_images, load_training_data
from brainreg.training.loop import train


def test_every_byte_and_every_label_counts():
    images, labels = torch.zeros(3000, 1, 8, 8, dtype=torch.uint8), torch.zeros(3000, dtype=torch.int64)
    before = fingerprint(images, labels)
    for i in (0, 1, 7, 1499, 2998, 2999):
        other = images.clone()
        other[i, 0, 3, 5] = 1
        assert fingerprint(other, labels) != before
        other = labels.clone()
        other[i] = 1
        assert fingerprint(images, other) != before
    assert fingerprint(images.view(3000, 1, 4, 16), labels) != before


def test_what_the_cache_knows_is_not_computed_again(mnist_folder, monkeypatch):
    first = load_images("MNIST", "train", mnist_folder)
    assert first.fingerprint == fingerprint(first.images, first.labels)
    again = load_images("MNIST", "train", mnist_folder)
    monkeypatch.setattr("brainreg.data.fingerprints.checksum", lambda *tensors: pytest.fail("read again"))
    assert again.fingerprint == first.fingerprint


def test_blanked_images_between_the_first_and_the_last_are_seen(mnist_folder):
    settings = Hyperparameters(task="MNIST", valid_portion=0.1)
    before = load_training_data(settings, mnist_folder).fingerprints
    images = load_images("MNIST", "train", mnist_folder).images[:, 0].numpy().copy()
    images[1::2] = 0
    write_idx(mnist_folder / "MNIST/raw/train-images-idx3-ubyte", images)
    after = load_training_data(settings, mnist_folder).fingerprints
    assert before.keys() == after.keys() and all(before[name] != after[name] for name in before)


@pytest.mark.parametrize("name", ["CIFAR10", "ImageNet"])
def test_the_same_images_elsewhere_and_later_are_the_same(cifar_folder, imagenet_folder, tmp_path, name):
    before = load_training_images(name, tmp_path).fingerprint
    moved = shutil.copytree(tmp_path / name, tmp_path / "moved" / name, copy_function=shutil.copyfile).parent
    assert load_training_images(name, moved).fingerprint == before
    path = next((moved / name / "train").rglob("03.png"), None) or next((moved / name / "train").rglob("*.png"))
    with Image.open(path) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert load_training_images(name, moved).fingerprint != before


class TestFilesOfImageNet:
    def test_all_bytes_count_and_are_read_once(self, imagenet_folder, monkeypatch):
        loaded = load_training_images("ImageNet", imagenet_folder)
        before = loaded.fingerprint
        path = imagenet_folder / "ImageNet/train/b/07.png"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)  # of the same name and size
        os.utime(path, ns=(1, 1))
        after = load_training_images("ImageNet", imagenet_folder).fingerprint
        assert after != before and after.startswith("20-")
        monkeypatch.setattr(folders, "_file_checksum", lambda path: pytest.fail("read again"))
        assert load_training_images("ImageNet", imagenet_folder).fingerprint == after

    def test_the_class_of_a_file_counts(self, imagenet_folder):
        before = load_training_images("ImageNet", imagenet_folder).fingerprint
        train = imagenet_folder / "ImageNet/train"
        (train / "a").rename(train / "c")
        assert load_training_images("ImageNet", imagenet_folder).fingerprint != before

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 1}'])
    def test_a_damaged_record_of_it_is_made_anew(self, imagenet_folder, content):
        before = load_training_images("ImageNet", imagenet_folder).fingerprint
        (path,) = (imagenet_folder / "cache").glob("*.json")
        path.write_text(content)
        assert load_training_images("ImageNet", imagenet_folder).fingerprint == before
        assert json.loads(path.read_text())["fingerprint"] == before


class TestParts:
    def test_of_a_run(self, cifar_folder, mnist_folder):
        settings = Hyperparameters(
            task="CIFAR10", reg_data="MNIST", reg_alpha=1, reg_image_num=100, valid_portion=0.25, seed=3
        )
        found = load_training_data(settings, cifar_folder).fingerprints
        assert list(found) == ["training", "validation, portion 0.25, seed 3", "regularization"]
        assert len(set(found.values())) == 3
        assert found["regularization"] == load_images("MNIST", "train", mnist_folder).fingerprint
        assert load_test_images(settings, cifar_folder).fingerprint not in found.values()

    def test_the_tasks_own_images_regularize(self, cifar_folder):
        settings = Hyperparameters(task="CIFAR10", rgb=True, reg_alpha=1, reg_image_num=20, valid_portion=0.25)
        found = load_training_data(settings, cifar_folder).fingerprints
        assert found["training, RGB"] == found["regularization, RGB"]

    def test_only_what_both_know_is_compared(self):
        one = {part_name(VALIDATION, Hyperparameters(valid_portion=0.1, seed=seed)): f"{seed}" for seed in (0, 1)}
        check_same_data(
            one,
            {part_name(VALIDATION, Hyperparameters(valid_portion=0.2)): "other", "training": "x"},
            "--data_dir=d",
            "it",
        )
        check_same_data(one, None, "--data_dir=d", "it")
        with pytest.raises(InputError, match=r"^--data_dir=d: the images for test are not those of it: a, there b"):
            check_same_data({**one, TEST: "a"}, {**one, TEST: "b"}, "--data_dir=d", "it")


class TestCheckpoints:
    SETTINGS = Hyperparameters(task="MNIST", base_channels=1, epoch_num=1, train_image_num=20, valid_portion=0.1)

    def test_of_one_image_changed_in_the_middle_is_not_gone_on_from(self, mnist_folder, tmp_path):
        checkpoint = tmp_path / "checkpoint.pt"
        train(self.SETTINGS, load_training_data(self.SETTINGS, mnist_folder), device="cpu", checkpoint=checkpoint)
        images = load_images("MNIST", "train", mnist_folder).images[:, 0].numpy().copy()
        images[151] = 0
        write_idx(mnist_folder / "MNIST/raw/train-images-idx3-ubyte", images)
        data = load_training_data(self.SETTINGS, mnist_folder)
        with pytest.raises(InputError, match=f"^data_dir={mnist_folder}: the images for training are not those of"):
            train(self.SETTINGS, data, device="cpu", checkpoint=checkpoint)

    def test_of_a_version_without_fingerprints_goes_on_and_says_so(self, mnist_folder, tmp_path, caplog):
        checkpoint = tmp_path / "checkpoint.pt"
        data = load_training_data(self.SETTINGS, mnist_folder)
        train(self.SETTINGS, data, device="cpu", checkpoint=checkpoint)
        content = torch.load(checkpoint, weights_only=True)
        torch.save({**content, "format": 3, "data": "300x1x28x28-12345678"}, checkpoint)
        train(self.SETTINGS.model_copy(update={"epoch_num": 2}), data, device="cpu", checkpoint=checkpoint)
        assert "no fingerprints of its data" in caplog.text
        assert torch.load(checkpoint, weights_only=True)["data"] == data.fingerprints
