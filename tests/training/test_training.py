import dataclasses
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import islice

import pytest
import torch
from conftest import ROOT

from brainreg.attacks import PGD
from brainreg.data.datasets import Dataset
from brainreg.data.load import load_dataset
from brainreg.data.splits import split_train_validation
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.method.loss import similarity_loss
from brainreg.method.pairs import select_pairs
from brainreg.method.sampler import PairSampler
from brainreg.method.similarity import pixel_similarity
from brainreg.models.base import SimilarityNetwork
from brainreg.models.build import build_model
from brainreg.models.resnet import ResNet
from brainreg.seeds import Stream, seeded_generator
from brainreg.training import checkpoint as training_checkpoint
from brainreg.training import data as training_data
from brainreg.training import loop as training_loop
from brainreg.training.batches import Batch
from brainreg.training.checkpoint import CheckpointWriter, load_checkpoint, load_classifier, with_lowest_cross_entropy
from brainreg.training.data import load_training_data
from brainreg.training.loop import DivergedError, learning_rate, train
from brainreg.training.optimizer import build_optimizer, load_optimizer, optimizer_state
from brainreg.training.step import TrainingStep, to_float

SMALL = {"task": "digits", "base_channels": 2, "train_image_num": 128, "epoch_num": 2, "valid_portion": 0.1}
REGULARIZED = {**SMALL, "reg_alpha": 1, "reg_thresh": 0.5, "reg_image_num": 60, "reg_batch_size": 8}


def run(settings: dict, **options):
    hyperparameters = Hyperparameters(**settings)
    return train(hyperparameters, load_training_data(hyperparameters), device="cpu", **options)


def weights(result) -> dict[str, torch.Tensor]:
    return result.classifier.state_dict()


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


class TestData:
    def test_validation_images_are_taken_out_before_anything_else(self):
        settings = Hyperparameters(**{**REGULARIZED, "reg_image_num": 1294, "train_image_num": None})
        data = load_training_data(settings)
        train_part, valid_part = split_train_validation(data.labels, 0.1, seed=0)
        assert torch.equal(data.train_indices, train_part)
        assert torch.equal(data.valid_images, data.images[valid_part])
        # All that is left regularizes, and nothing else: 1,438 images less 144 for validation.
        assert torch.equal(data.pairs.images, data.images[train_part])

    def test_pairs_and_targets_are_those_of_the_range(self):
        settings = Hyperparameters(**{**REGULARIZED, "reg_range": "double", "reg_thresh_2": 0.1})
        pairs = load_training_data(settings).pairs
        similarity = pixel_similarity(pairs.images)
        selected = {tuple(pair) for pair in select_pairs(similarity, "double", 0.5, 0.1).tolist()}
        rows, columns, targets = (torch.cat(part) for part in zip(*islice(pairs.sampler, 20), strict=True))
        assert selected.issuperset(zip(rows.tolist(), columns.tolist(), strict=True))
        high = similarity[rows, columns].abs() > 0.5
        assert torch.equal(targets.abs() == 1, high) and high.any() and not high.all()

    def test_targets_are_similarities_without_boosting_and_scaled_with_a_value(self):
        plain = load_training_data(Hyperparameters(**REGULARIZED, reg_boosting=False)).pairs
        similarity = pixel_similarity(plain.images)
        for rows, columns, targets in islice(plain.sampler, 5):
            torch.testing.assert_close(targets, similarity[rows, columns], rtol=0, atol=1e-6)
        scaled = load_training_data(Hyperparameters(**REGULARIZED, reg_boosting_val=0.5)).pairs
        drawn = torch.cat([targets for _, _, targets in islice(scaled.sampler, 20)])
        assert drawn.unique().tolist() == [-0.5, 0, 0.5]

    def test_cifar_regularization_images_are_augmented_once(self, cifar_folder):
        settings = Hyperparameters(reg_alpha=1, reg_image_num=20, valid_portion=0.25)
        first, second = (load_training_data(settings, cifar_folder).pairs for _ in range(2))
        assert torch.equal(first.images, second.images) and first.centered
        stored = {bytes(image.numpy()) for image in load_dataset("CIFAR10", "train", cifar_folder)[0]}
        assert sum(bytes(image.numpy()) not in stored for image in first.images) > 15

    @pytest.mark.parametrize(
        ("task", "reg_data", "centered"),
        [("MNIST", None, False), ("MNIST", "CIFAR10", True), ("CIFAR10", "MNIST", True), ("CIFAR10", None, True)],
    )
    def test_scaling_of_regularization_images(self, cifar_folder, mnist_folder, task, reg_data, centered):
        settings = Hyperparameters(task=task, reg_data=reg_data, reg_alpha=1, reg_image_num=20, valid_portion=0.25)
        assert load_training_data(settings, cifar_folder).pairs.centered is centered

    @pytest.mark.parametrize("rgb", [False, True])
    @pytest.mark.parametrize("reg_data", [None, "ImageNet", "copy"])
    def test_a_cifar_task_in_gray_and_color_with_every_regularization_set(
        self, cifar_folder, imagenet_folder, rgb, reg_data
    ):
        """Shapes, scaling and pools; `copy` is another folder of color images, by its path."""
        if reg_data == "copy":
            reg_data = str(shutil.copytree(cifar_folder / "CIFAR10" / "test", cifar_folder / "copy"))
        settings = Hyperparameters(
            task="CIFAR10", reg_data=reg_data, rgb=rgb, reg_alpha=1, reg_image_num=8, reg_batch_size=2, reg_thresh=0.1,
            valid_portion=0.25, base_channels=2, epoch_num=1, resnet_batch_size=15,
        )  # fmt: skip
        data = load_training_data(settings, cifar_folder)
        channels = 3 if rgb else 1
        assert data.images.shape[1:] == (channels, 32, 32) and data.in_channels == channels
        size = (36, 64) if reg_data == "ImageNet" else (32, 32)
        assert data.pairs.images.shape == (8, channels, *size) and data.pairs.centered
        # RGB is averaged to one channel for the similarities, and the network sees all three.
        pixels = data.pairs.images.float().mean(dim=1, keepdim=True)
        rows, columns, targets = next(data.pairs.sampler)
        similarity = pixel_similarity(pixels)[rows, columns]
        assert torch.equal(targets, torch.where(similarity.abs() > 0.1, similarity.sign(), 0))
        result = train(settings, data, device="cpu")
        assert result.classifier[1].stem[0].in_channels == channels
        assert result.history[1]["similarity_loss"] > 0

    @pytest.mark.parametrize(("task", "reg_data"), [("MNIST", None), ("CIFAR10", "MNIST")])
    def test_rgb_asked_of_gray_data_is_named(self, cifar_folder, mnist_folder, task, reg_data):
        settings = Hyperparameters(task=task, reg_data=reg_data, rgb=True, reg_alpha=1, valid_portion=0.25)
        with pytest.raises(InputError, match="rgb=True: the images of MNIST are gray; leave rgb out"):
            load_training_data(settings, cifar_folder)

    def test_a_gray_task_takes_color_images_as_gray(self, cifar_folder, mnist_folder):
        settings = Hyperparameters(task="MNIST", reg_data="CIFAR10", reg_alpha=1, reg_image_num=20)
        assert load_training_data(settings, cifar_folder).pairs.images.shape == (20, 1, 32, 32)

    def test_the_tasks_own_images_by_their_path_leave_validation_images_out(self, cifar_folder):
        own = {"task": "CIFAR10", "reg_alpha": 1, "reg_image_num": 30, "valid_portion": 0.25}
        by_path = Hyperparameters(**own, reg_data=str(cifar_folder / "CIFAR10"))
        data = load_training_data(by_path, cifar_folder)
        assert {bytes(image.numpy()) for image in data.pairs.images} == {
            bytes(image.numpy()) for image in data.images[data.train_indices]
        }
        with pytest.raises(InputError, match=r"reg_image_num=31: .* has 30 training images after validation images"):
            load_training_data(by_path.model_copy(update={"reg_image_num": 31}), cifar_folder)

    def test_imagenet_is_cropped_from_whole_images_each_time_anew(self, imagenet_folder, monkeypatch, tmp_path):
        settings = Hyperparameters(
            task="ImageNet", rgb=True, reg_alpha=1, reg_image_num=12, reg_batch_size=4, valid_portion=0.2,
            base_channels=1, resnet_batch_size=8, epoch_num=2, archi="timm:test_resnet",
        )  # fmt: skip
        data = load_training_data(settings, imagenet_folder)
        assert data.valid_images.shape == (4, 3, 224, 224) and data.image_size == 224
        assert data.pairs.images.shape == (12, 3, 36, 64)
        seen = []
        augment = data.task.augment

        def follow(images, generator):
            seen.append(([image.shape for image in images], augment(images, generator)))
            return seen[-1][1]

        monkeypatch.setattr(training_data, "find_dataset", lambda name: dataclasses.replace(data.task, augment=follow))
        checkpoint = tmp_path / "checkpoint.pt"
        result = train(settings, load_training_data(settings, imagenet_folder), device="cpu", checkpoint=checkpoint)
        assert sorted(shape[1:] for shapes, _ in seen[:2] for shape in shapes) == [(340, 256)] * 8 + [(375, 500)] * 8
        first, second = (torch.cat([images for _, images in seen[i : i + 2]]) for i in (0, 2))
        assert first.shape == (16, 3, 224, 224) and not torch.equal(first, second)
        # The same files elsewhere are the same data: the run is found to be finished.
        moved = shutil.copytree(imagenet_folder / "ImageNet", tmp_path / "moved" / "ImageNet").parent
        again = train(settings, load_training_data(settings, moved), device="cpu", checkpoint=checkpoint)
        assert same(weights(again), weights(result)) and len(seen) == 4

    def test_imagenets_validation_images_do_not_regularize_it(self, imagenet_folder):
        """Four of its twenty training images validate, whether it regularizes itself by default or by name."""
        for reg_data in (None, "ImageNet"):
            settings = Hyperparameters(
                task="ImageNet", reg_data=reg_data, reg_alpha=1, reg_image_num=17, valid_portion=0.2, reg_batch_size=2
            )
            with pytest.raises(InputError, match="reg_image_num=17: ImageNet has 16 training images after validation"):
                load_training_data(settings, imagenet_folder)

    def test_images_of_an_ordered_folder_are_of_all_classes(self, cifar_folder):
        settings = Hyperparameters(reg_alpha=1, reg_image_num=20, valid_portion=0.25, train_image_num=20)
        data = load_training_data(settings, cifar_folder)
        assert len(data.labels[data.train_indices].unique()) >= 8
        assert data.valid_labels.unique().tolist() == list(range(10))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"reg_image_num": 1295}, "reg_image_num=1295: digits has 1294 training images after validation images"),
            ({"train_image_num": 1295}, "train_image_num=1295: digits has 1294 training images"),
            ({"valid_portion": 1e-5}, "valid_portion=1e-05: of 1438 images 0 would validate"),
            (
                {"reg_range": "high", "reg_thresh": 0.99, "reg_image_num": 20},
                "reg_range=high: selects 0 of the 190 pairs of 20 images at reg_thresh=0.99",
            ),
            (
                {"reg_batch_size": 200, "reg_image_num": 20},
                "reg_batch_size=200: a step needs as many pairs, and the range all selects 190 of the 190 pairs",
            ),
        ],
    )
    def test_too_much_asked_is_one_line(self, settings, message):
        with pytest.raises(InputError) as caught:
            load_training_data(Hyperparameters(**{**REGULARIZED, **settings}))
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)

    def test_images_that_are_not_square_are_refused(self, tmp_path):
        from PIL import Image

        for label in "ab":
            (tmp_path / label).mkdir()
            for i in range(5):
                Image.new("L", (20, 16)).save(tmp_path / label / f"{i}.png")
        with pytest.raises(InputError, match="images of 16x20; must be square, at least 8x8"):
            load_training_data(Hyperparameters(task=str(tmp_path), valid_portion=0.2), tmp_path)


def test_learning_rates_of_the_published_schedule():
    rates = [learning_rate(Hyperparameters(), epoch) for epoch in range(40)]
    assert rates == pytest.approx([0.1 * 0.3 ** (epoch % 20 // 4) for epoch in range(40)])
    assert rates[20] == 0.1 and rates[19] == pytest.approx(0.1 * 0.3**4)


class TestCheckpointWriter:
    """In the background, as on a GPU."""

    def test_the_last_one_is_always_there_and_those_between_are_not_waited_for(self, tmp_path, monkeypatch):
        path, written, go_on = tmp_path / "c.pt", [], threading.Event()

        def slow(path, checkpoint):
            go_on.wait(10)
            written.append(checkpoint["number"].item())

        monkeypatch.setattr(training_checkpoint, "save_checkpoint", slow)
        with CheckpointWriter(path, background=True) as writer:
            number = torch.tensor(0)
            for _ in range(5):
                number += 1  # what is written is what it was
                writer.write({"number": number, "history": [{}]})
                time.sleep(0.05)
            assert written == []
            go_on.set()
        assert written == [1, 5]

    def test_no_more_than_a_tenth_of_the_time_is_spent(self, tmp_path, monkeypatch):
        clock = iter(range(0, 1000, 2))  # each write takes 2 s
        pauses = []
        monkeypatch.setattr(training_checkpoint, "save_checkpoint", lambda path, checkpoint: None)
        monkeypatch.setattr(training_checkpoint.time, "monotonic", lambda: next(clock))
        wait_for = threading.Condition.wait_for

        def follow(condition, predicate, timeout=None):
            if timeout is not None:
                pauses.append(timeout)
                return True
            return wait_for(condition, predicate)

        monkeypatch.setattr(threading.Condition, "wait_for", follow)
        with CheckpointWriter(tmp_path / "c.pt", background=True) as writer:
            writer.write({})
        assert pauses == [18.0]

    @pytest.mark.parametrize("background", [False, True])
    def test_a_full_disk_ends_the_training(self, tmp_path, monkeypatch, background):
        def full(path, checkpoint):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(training_checkpoint, "save_checkpoint", full)
        with (
            pytest.raises(OSError, match="No space left"),
            CheckpointWriter(tmp_path / "c.pt", background=background) as writer,
        ):
            writer.write({})
        with pytest.raises(ZeroDivisionError), CheckpointWriter(tmp_path / "c.pt", background=True) as writer:
            writer.write({})
            _ = 1 / 0

    def test_what_sends_it_elsewhere_is_called_after_each(self, tmp_path):
        sent = []
        path = tmp_path / "c.pt"
        with CheckpointWriter(path, background=True, on_written=lambda: sent.append(path.stat().st_size)) as writer:
            writer.write({"model": {"weight": torch.ones(3)}})
        assert len(sent) == 1 and sent[0] > 0


class TestBaselines:
    """Noise on training images, and fast adversarial training."""

    @pytest.fixture
    def step(self):
        """A step of a small network, and a batch of it, whose images are recorded as the network gets them."""

        def build(**changes):
            settings = Hyperparameters(**{**SMALL, "lr": 0.01, **changes})
            torch.manual_seed(0)
            network = build_model("ResNet18", 1, 10, 2, 16).train()
            optimizer = build_optimizer(network, lr=0.01, momentum=0, weight_decay=0)
            seen = []
            network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
            return TrainingStep(settings, network, optimizer, centered=False), seen

        return build

    images = torch.randint(0, 256, (32, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 10

    def test_noise_is_added_to_images_in_0_to_1(self, step):
        run_step, seen = step(augment_noise=0.3)
        noise = torch.randn(32, 1, 16, 16, generator=torch.Generator().manual_seed(1))
        run_step(Batch(self.images, self.labels, noise=noise))
        assert torch.equal(seen[0], (self.images / 255 + 0.3 * noise).clamp(0, 1)) and len(seen) == 1

    def test_fgsm_goes_uphill_and_stays_within_eps(self, step):
        eps = 0.05
        run_step, seen = step(adversarial_eps=eps)
        network = run_step.network
        start = 2 * torch.rand(32, 1, 16, 16, generator=torch.Generator().manual_seed(1)) - 1
        clean = self.images / 255
        begun = (clean + eps * start).clamp(0, 1)
        losses = [torch.nn.functional.cross_entropy(network(images), self.labels) for images in (clean, begun)]
        seen.clear()
        run_step(Batch(self.images, self.labels, start=start))
        first, attacked = seen
        assert torch.equal(first, begun)
        assert (attacked - clean).abs().max() <= eps + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
        assert run_step.sums[0] > 1.02 * max(losses).item()  # it is this loss that is trained on
        # A step of 1.25 eps: half of the pixels and more end at the edge of the ball.
        assert ((attacked - clean).abs() > 0.99 * eps).float().mean() > 0.3

    @pytest.mark.parametrize("changes", [{"augment_noise": 0.2}, {"adversarial_eps": 0.05}, {}])
    def test_it_goes_on_where_it_was(self, changes, tmp_path):
        settings = {**REGULARIZED, **changes}
        straight = run(settings)
        run({**settings, "epoch_num": 1}, checkpoint=tmp_path / "checkpoint.pt")
        again = run(settings, checkpoint=tmp_path / "checkpoint.pt")
        assert same(weights(again), weights(straight)) and again.history == straight.history
        if changes:
            assert run(REGULARIZED).history[1]["cross_entropy"] != straight.history[1]["cross_entropy"]

    @pytest.mark.long
    def test_adversarial_training_makes_robust(self):
        settings = {**SMALL, "base_channels": 4, "train_image_num": None, "epoch_num": 6}
        data = load_training_data(Hyperparameters(**settings))
        images = to_float(data.valid_images)
        kept = []
        for changes in ({}, {"adversarial_eps": 0.1}):
            classifier = run({**settings, **changes}).classifier
            kept.append(PGD(steps=5)(classifier, images, data.valid_labels, [0.1]).correct.float().mean().item())
        assert kept[1] > kept[0] + 0.15, kept


def test_momentum_of_another_device_is_laid_out_as_its_parameter():
    """Fused SGD goes through parameter and momentum as they lie in memory."""
    layouts = torch.contiguous_format, torch.channels_last
    for before, after in (layouts, layouts[::-1]):
        networks = []
        for layout in (before, after):
            torch.manual_seed(0)
            networks.append(torch.nn.Conv2d(3, 4, 3).to(memory_format=layout))
        gradients = [torch.rand(4, 3, 3, 3), torch.rand(4)]

        def step(network, optimizer, gradients=gradients):
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            optimizer.step()

        first, second = (build_optimizer(network, lr=0.1, momentum=0.9, weight_decay=0.1) for network in networks)
        step(networks[0], first)
        networks[1].load_state_dict(networks[0].state_dict())
        load_optimizer(second, optimizer_state(first))
        assert second.param_groups[0]["lr"] == 0.1
        for network, optimizer in zip(networks, (first, second), strict=True):
            step(network, optimizer)
        torch.testing.assert_close(networks[1].weight, networks[0].weight)


class TestOwnData:
    settings = Hyperparameters(**{**SMALL, "epoch_num": 1})

    @pytest.mark.parametrize(
        "changes",
        [
            {"labels": lambda data: data.labels.int()},
            {"labels": lambda data: data.labels[:, None], "valid_labels": lambda data: data.valid_labels.byte()},
        ],
    )
    def test_labels_as_people_have_them(self, changes):
        data = load_training_data(self.settings)
        changed = dataclasses.replace(data, **{name: change(data) for name, change in changes.items()})
        losses = [train(self.settings, one, device="cpu").history[-1]["cross_entropy"] for one in (data, changed)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("images", lambda data: to_float(data.images), r"^data\.images: torch\.float32 of shape .*; must be uint8"),
            (
                "valid_images",
                lambda data: data.valid_images[0],
                r"^data\.valid_images: torch\.uint8 of shape \(1, 16, 16\)",
            ),
            ("labels", lambda data: data.labels[:5], r"^data\.labels: 5 of them for \d+ images"),
            ("labels", lambda data: data.labels + 1, r"^data\.labels: from 1 to 10; the task has 10 classes"),
            ("valid_labels", lambda data: data.valid_labels.float(), r"^data\.valid_labels: torch\.float32; must be"),
        ],
    )
    def test_what_is_none_is_refused_in_one_line(self, name, change, message):
        data = load_training_data(self.settings)
        with pytest.raises(InputError, match=message):
            train(self.settings, dataclasses.replace(data, **{name: change(data)}), device="cpu")


class TestTraining:
    def test_it_learns(self):
        result = run({**SMALL, "base_channels": 4, "train_image_num": None, "epoch_num": 6})
        assert result.history[0]["valid_accuracy"] < 0.3
        assert result.history[-1]["valid_accuracy"] > 0.85
        assert result.best_epoch == min(result.history, key=lambda epoch: epoch["valid_cross_entropy"])["epoch"]

    @pytest.mark.long
    def test_it_learns_in_bfloat16_and_is_measured_in_float32(self, monkeypatch):
        dtypes = set()
        forward = ResNet.forward

        def watched(network, images):
            logits = forward(network, images)
            dtypes.add((network.training, logits.dtype))
            return logits

        monkeypatch.setattr(ResNet, "forward", watched)
        exact, rough = (
            run({**REGULARIZED, "base_channels": 4, "train_image_num": None, "epoch_num": 6, "precision": precision})
            for precision in ("float32", "bfloat16")
        )
        assert dtypes == {(True, torch.float32), (True, torch.bfloat16), (False, torch.float32)}
        assert all(parameter.dtype == torch.float32 for parameter in rough.classifier.parameters())
        assert rough.history[0] == exact.history[0]
        assert rough.history[-1]["valid_accuracy"] > 0.6
        # What is rounded otherwise grows with each step; over all epochs, three seeds were up to 12% apart.
        for name in ("cross_entropy", "similarity_loss"):
            means = [sum(epoch[name] for epoch in result.history[1:]) / 6 for result in (rough, exact)]
            assert means[0] == pytest.approx(means[1], rel=0.3)

    def test_a_step_in_bfloat16_is_the_one_in_float32_up_to_rounding(self, tmp_path):
        settings = {**REGULARIZED, "epoch_num": 1, "train_image_num": 64}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            initial = build_model("ResNet18", 1, 10, 2, 16)
        losses, steps = [], []
        for precision in ("float32", "bfloat16"):
            checkpoint = tmp_path / f"{precision}.pt"
            epoch = run({**settings, "precision": precision}, checkpoint=checkpoint).history[1]
            after = load_checkpoint(checkpoint)["model"]
            losses.append([epoch["cross_entropy"], epoch["similarity_loss"]])
            steps.append(torch.cat([(after[name] - old).flatten() for name, old in initial.named_parameters()]))
        assert losses[0] == pytest.approx(losses[1], rel=0.05)
        assert (steps[1] - steps[0]).norm() < 0.5 * steps[0].norm()  # 0.24; 0.9 with a tenth of the learning rate

    def test_the_similarity_loss_falls(self):
        history = run(
            {**REGULARIZED, "epoch_num": 4, "reg_alpha": 10, "arctanh": False, "train_image_num": None}
        ).history
        losses = [epoch["similarity_loss"] for epoch in history[1:]]
        assert losses[-1] < 0.6 * losses[0]

    def test_metrics_of_each_epoch(self):
        seen, steps = [], []
        result = run(REGULARIZED, on_epoch=seen.append, on_step=lambda step, total: steps.append((step, total)))
        assert seen == result.history and [epoch["epoch"] for epoch in seen] == [0, 1, 2]
        assert set(seen[1]) == {
            "epoch", "lr", "cross_entropy", "similarity_loss", "valid_cross_entropy", "valid_accuracy",
        }  # fmt: skip
        assert steps == [(1, 2), (2, 2)] * 2

    def test_the_total_is_cross_entropy_plus_alpha_times_the_similarity_loss(self, tmp_path):
        """One step against the same step by hand, with the method's three passes in their order."""
        changes = {"epoch_num": 1, "train_image_num": 64, "reg_alpha": 3, "weight_decay": 0.3}
        settings = Hyperparameters(**{**REGULARIZED, **changes})
        data = load_training_data(settings)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            network = build_model("ResNet18", 1, 10, 2, 16)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.3)
        batches = seeded_generator(0, Stream.BATCHES, 1)
        order = data.train_indices[torch.randperm(64, generator=batches)]
        rows, columns, targets = next(data.pairs.sampler)
        logits = network.train()(to_float(data.images[order]))
        cross_entropy = torch.nn.functional.cross_entropy(logits, data.labels[order])
        scores = network.pair_similarity(to_float(data.pairs.images[rows]), to_float(data.pairs.images[columns]))
        similarity = similarity_loss(scores, targets)
        (cross_entropy + 3 * similarity).backward()
        optimizer.step()

        result = run(settings.model_dump(), checkpoint=tmp_path / "checkpoint.pt")
        assert result.history[1]["cross_entropy"] == pytest.approx(cross_entropy.item(), rel=1e-5)
        assert result.history[1]["similarity_loss"] == pytest.approx(similarity.item(), rel=1e-5)
        trained = load_checkpoint(tmp_path / "checkpoint.pt")["model"]
        assert network.similarity_weights.abs().min() > 1e-4  # the five scalars are trained, too
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(trained[name], tensor, rtol=1e-4, atol=1e-5)

    def test_pairs_are_shuffled_anew_at_the_start_of_each_epoch(self, monkeypatch):
        """In an epoch no pair comes twice; the next one begins with all of them, not with those that are left."""
        changes = {"reg_image_num": 20, "reg_batch_size": 16, "resnet_batch_size": 32}
        settings = Hyperparameters(**{**REGULARIZED, **changes})
        data, drawn = load_training_data(settings), []
        draw = PairSampler.batches

        def follow(sampler, count):
            rows, columns, targets = draw(sampler, count)
            drawn.extend(rows * 20 + columns)
            return rows, columns, targets

        monkeypatch.setattr(PairSampler, "batches", follow)
        train(settings, data, device="cpu")
        assert data.pairs.sampler.count == 190 and len(drawn) == 2 * 4
        first, second = ({*torch.cat(drawn[start : start + 4]).tolist()} for start in (0, 4))
        assert len(first) == len(second) == 64
        assert 10 < len(first & second) < 40  # 22 by chance; none, were the rest of the first shuffle taken

    def test_without_alpha_the_similarity_pathway_is_never_run(self, monkeypatch):
        monkeypatch.setattr(SimilarityNetwork, "pair_similarity", lambda *arguments: pytest.fail("a similarity pass"))
        monkeypatch.setattr(training_data, "PairSampler", lambda *arguments: pytest.fail("pixel similarity"))
        run({**SMALL, "epoch_num": 1, "reg_alpha": 0})

    def test_a_network_of_timm_is_trained_saved_and_gone_on_with(self, tmp_path):
        settings = {**REGULARIZED, "archi": "timm:test_efficientnet"}
        straight = run(settings)
        run({**settings, "epoch_num": 1}, checkpoint=tmp_path / "checkpoint.pt")
        assert same(weights(run(settings, checkpoint=tmp_path / "checkpoint.pt")), weights(straight))
        assert same(load_classifier(tmp_path / "checkpoint.pt")[0].state_dict(), weights(straight))
        assert straight.history[-1]["similarity_loss"] != straight.history[-2].get("similarity_loss")

    def test_regularized_and_unregularized_runs_of_a_seed_start_alike(self, tmp_path):
        plain, regularized = (load_training_data(Hyperparameters(**settings)) for settings in (SMALL, REGULARIZED))
        assert torch.equal(plain.train_indices, regularized.train_indices)
        assert torch.equal(plain.valid_images, regularized.valid_images)
        untrained = [run({**settings, "epoch_num": 1, "lr": 1e-9}) for settings in (SMALL, REGULARIZED)]
        assert untrained[0].history[0] == untrained[1].history[0]
        # The batches are the same too: an all but vanishing learning rate leaves the same cross-entropy.
        assert untrained[0].history[1]["cross_entropy"] == pytest.approx(untrained[1].history[1]["cross_entropy"])

    def test_a_seed_fixes_everything(self):
        assert same(weights(run(REGULARIZED)), weights(run(REGULARIZED)))
        assert not same(weights(run(REGULARIZED)), weights(run({**REGULARIZED, "seed": 1})))

    def test_the_global_random_state_is_left_alone(self):
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        run({**SMALL, "epoch_num": 1})
        assert torch.rand(1) == expected

    def test_every_training_image_is_seen_once_an_epoch(self, monkeypatch):
        seen = []
        settings = Hyperparameters(**{**SMALL, "train_image_num": 100, "epoch_num": 1})
        data = load_training_data(settings)

        def augment(images, generator):
            seen.append(images.clone())
            return images

        watched = Dataset("digits", gray=True, augment=augment)
        train(settings, training_data.TrainingData(**{**vars(data), "task": watched}), device="cpu")
        assert [len(batch) for batch in seen] == [64, 36]
        expected = sorted(map(bytes, data.images[data.train_indices].numpy()))
        assert sorted(map(bytes, torch.cat(seen).numpy())) == expected

    @pytest.mark.parametrize(("cause", "settings"), [("lr", {"lr": 1e30}), ("alpha", {"reg_alpha": 1e38})])
    def test_a_loss_that_diverges_ends_the_run_with_a_named_error(self, cause, settings, tmp_path):
        checkpoint = tmp_path / "checkpoint.pt"
        with pytest.raises(DivergedError, match="epoch 1"):
            run({**REGULARIZED, **settings}, checkpoint=checkpoint)
        assert not checkpoint.exists()

    def test_best_weights_are_not_the_last_ones(self, tmp_path):
        """The published code's best weights alias the live ones on a CPU."""
        checkpoint = tmp_path / "checkpoint.pt"
        result = run({**SMALL, "epoch_num": 6, "lr": 0.3, "train_image_num": 256}, checkpoint=checkpoint)
        assert 0 < result.best_epoch < 6, "the test needs a run whose best epoch is not its last"
        stored = load_checkpoint(checkpoint)
        assert not same(stored["best_model"], stored["model"])
        settings = Hyperparameters(**SMALL)
        data = load_training_data(settings)
        logits = result.classifier(to_float(data.valid_images))
        loss = torch.nn.functional.cross_entropy(logits, data.valid_labels).item()
        assert loss == pytest.approx(result.history[result.best_epoch]["valid_cross_entropy"], rel=1e-4)


class TestWork:
    """What a run costs, counted, so that a slower one is noticed on any machine."""

    def test_a_step_is_three_passes_and_the_epoch_evaluates_the_validation_images_alone(self, monkeypatch):
        passes = []
        features = ResNet.features

        def counted(network, images):
            passes.append((network.training, len(images)))
            return features(network, images)

        monkeypatch.setattr(ResNet, "features", counted)
        run({**REGULARIZED, "epoch_num": 1})
        untrained, steps, last = passes[:1], passes[1:-1], passes[-1:]
        assert untrained == last == [(False, 144)]
        assert steps == [(True, 64), (True, 8), (True, 8)] * 2

    def test_without_pairs_a_step_is_one_pass(self, monkeypatch):
        passes = []
        features = ResNet.features
        monkeypatch.setattr(
            ResNet, "features", lambda network, images: passes.append(len(images)) or features(network, images)
        )
        run({**SMALL, "epoch_num": 1})
        assert passes == [144, 64, 64, 144]

    def test_batches_are_bytes_until_they_are_scaled(self, monkeypatch):
        settings = Hyperparameters(**REGULARIZED)
        data = load_training_data(settings)
        cut = []
        to_float = training_loop.to_float
        monkeypatch.setattr(training_loop, "to_float", lambda images: cut.append(images.dtype) or to_float(images))
        train(settings, data, device="cpu")
        assert {*cut} == {torch.uint8}  # what is cut and augmented is a quarter of the bytes of float32

    def test_the_device_is_waited_for_once_in_a_hundred_steps(self, monkeypatch):
        waits = []
        check = training_loop._check_finite
        monkeypatch.setattr(
            training_loop, "_check_finite", lambda sums, epoch, step: waits.append(step) or check(sums, epoch, step)
        )
        monkeypatch.setattr(torch.Tensor, "item", lambda tensor: waits.append("item") or float(tensor.tolist()))
        settings = {**SMALL, "resnet_batch_size": 2, "train_image_num": 260, "epoch_num": 1}
        data = load_training_data(Hyperparameters(**settings))
        waits.clear()
        train(Hyperparameters(**settings), data, device="cpu")
        # Two metrics of the untrained network, two of the epoch, and every hundredth step.
        assert waits == ["item", "item", 100, 130, "item", "item"]


class TestBestEpoch:
    """The best epoch can be chosen by a metric that is measured."""

    settings = Hyperparameters(**{**SMALL, "epoch_num": 4})

    def trained(self, values, checkpoint=None, settings=None, choose_by="score"):
        """Train with these values of the metric, of the untrained network first; None: it is not measured."""
        settings = settings or self.settings

        def measure(classifier, metrics):
            assert not classifier.training
            value = values[metrics["epoch"]]
            return {} if value is None else {"score": value}

        data = load_training_data(settings)
        return train(settings, data, device="cpu", measure=measure, choose_by=choose_by, checkpoint=checkpoint)

    @pytest.mark.parametrize(
        ("values", "best"),
        [([0, 3, 1, 5, 4], 3), ([0, 5, 5, 1, 1], 1), ([9, 3, 1, 5, 4], 0), ([None, 3, None, 2, None], 1)],
    )
    def test_the_largest_value_and_ties_to_the_earliest(self, values, best, tmp_path):
        result = self.trained(values, tmp_path / "c.pt")
        assert result.best_epoch == best
        # The weights are that epoch's: those of a training that ends there.
        if best:
            shorter = self.settings.model_copy(update={"epoch_num": best})
            then = self.trained([0, 1, 2, 3, 4], settings=shorter).classifier.state_dict()
            for name, value in result.classifier.state_dict().items():
                torch.testing.assert_close(value, then[name])

    def test_it_is_kept_when_training_goes_on(self, tmp_path):
        shorter = self.settings.model_copy(update={"epoch_num": 2})
        self.trained([0, 7, 1, None, None], tmp_path / "c.pt", shorter)
        assert self.trained([0, 7, 1, 5, 6], tmp_path / "c.pt").best_epoch == 1

    @pytest.mark.parametrize("interrupted", [False, True])
    def test_its_checkpoint_keeps_what_the_lowest_cross_entropy_would_have_kept(self, interrupted, tmp_path):
        if interrupted:
            self.trained([0, 9, 1, None, None], tmp_path / "c.pt", self.settings.model_copy(update={"epoch_num": 2}))
        self.trained([0, 9, 1, 2, 3], tmp_path / "c.pt")
        self.trained([None] * 5, tmp_path / "published.pt", choose_by=None)
        chosen, expected = (load_checkpoint(tmp_path / name) for name in ("c.pt", "published.pt"))
        own = with_lowest_cross_entropy(chosen)
        assert chosen["best_epoch"] == 1 and own["best_epoch"] > 1 and own["chosen_by"] is None
        assert own.keys() == expected.keys() and own["best_epoch"] == expected["best_epoch"]
        for name, value in expected["best_model"].items():
            torch.testing.assert_close(own["best_model"][name], value)
        for one, other in zip(own["history"], expected["history"], strict=True):
            assert one == pytest.approx(other) and one.keys() == other.keys()
        assert with_lowest_cross_entropy(expected) is None

    def test_a_training_does_not_go_on_with_another_choice(self, tmp_path):
        self.trained([0, 7, 1, 2, 3], tmp_path / "c.pt")
        with pytest.raises(InputError, match="best epoch is chosen by score, not by valid_cross_entropy"):
            self.trained([0, 7, 1, 2, 3], tmp_path / "c.pt", choose_by=None)


# Kills itself in the middle of the second epoch, as a machine that goes away would.
KILLED = """
import os, signal, sys
from brainreg.hyperparameters import Hyperparameters
from brainreg.training.data import load_training_data
from brainreg.training.loop import train
settings = Hyperparameters.model_validate_json(sys.argv[1])
calls = []
def on_step(step, steps):
    calls.append(step)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
train(settings, load_training_data(settings), device="cpu", checkpoint=sys.argv[2], on_step=on_step)
"""


class TestCheckpoints:
    def test_a_killed_run_goes_on_to_the_same_weights(self, tmp_path):
        settings = Hyperparameters(**{**REGULARIZED, "epoch_num": 3})
        checkpoint = tmp_path / "checkpoint.pt"
        process = subprocess.run([sys.executable, "-c", KILLED, settings.model_dump_json(), checkpoint], cwd=ROOT)
        assert process.returncode == -signal.SIGKILL
        assert load_checkpoint(checkpoint)["history"][-1]["epoch"] == 1
        resumed = run(settings.model_dump(), checkpoint=checkpoint)
        whole = run(settings.model_dump())
        assert same(weights(resumed), weights(whole)) and resumed.history == whole.history

    def test_more_epochs_go_on_from_a_finished_run(self, tmp_path):
        checkpoint = tmp_path / "checkpoint.pt"
        run(REGULARIZED, checkpoint=checkpoint)
        longer = run({**REGULARIZED, "epoch_num": 3}, checkpoint=checkpoint)
        assert same(weights(longer), weights(run({**REGULARIZED, "epoch_num": 3})))

    def test_a_checkpoint_of_other_settings_is_refused(self, tmp_path):
        checkpoint = tmp_path / "checkpoint.pt"
        run(SMALL, checkpoint=checkpoint)
        with pytest.raises(InputError, match=r"lr=0.5: .*checkpoint.pt was trained with lr=0.1"):
            run({**SMALL, "lr": 0.5}, checkpoint=checkpoint)

    def test_the_classifier_of_a_checkpoint_is_the_best_one(self, tmp_path):
        checkpoint = tmp_path / "checkpoint.pt"
        result = run(REGULARIZED, checkpoint=checkpoint)
        classifier, settings = load_classifier(checkpoint)
        assert same(classifier.state_dict(), weights(result)) and not classifier.training
        assert settings == Hyperparameters(**REGULARIZED)

    def test_loading_executes_nothing(self, tmp_path):
        path = tmp_path / "evil.pt"
        torch.save({"format": 1, "hyperparameters": Bomb(tmp_path / "exploded")}, path)
        with pytest.raises(InputError, match="not a checkpoint of this project"):
            load_checkpoint(path)
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.parametrize("content", [b"", b"text", None])
    def test_other_files_are_refused(self, tmp_path, content):
        path = tmp_path / "checkpoint.pt"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match="no such checkpoint" if content is None else "not a checkpoint"):
            load_checkpoint(path)

    def test_the_weights_of_another_network_are_refused_in_one_line(self, tmp_path):
        """As where a library builds a network of the same name otherwise."""
        settings, path = Hyperparameters(**{**SMALL, "epoch_num": 1}), tmp_path / "checkpoint.pt"
        data = load_training_data(settings)
        train(settings, data, device="cpu", checkpoint=path)
        content = torch.load(path, weights_only=True)
        for weights in (content["model"], content["best_model"]):
            del weights["classifier.bias"]
        torch.save(content, path)
        longer = settings.model_copy(update={"epoch_num": 2})
        for action in (lambda: train(longer, data, device="cpu", checkpoint=path), lambda: load_classifier(path)):
            with pytest.raises(InputError, match=f"^{re.escape(str(path))}: its weights are those of another network"):
                action()

    def test_another_format_is_named(self, tmp_path):
        torch.save({"format": 99}, tmp_path / "checkpoint.pt")
        with pytest.raises(InputError, match="checkpoint of format 99; this version reads format 4"):
            load_checkpoint(tmp_path / "checkpoint.pt")


class Bomb:
    """An object that runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)
