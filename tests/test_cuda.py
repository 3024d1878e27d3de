"""What runs on a GPU, on a pretended one; on a real one with `BRAINREG_TEST_GPU=1`."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from conftest import REAL_GPU
from pretended_cuda import OnDevice, PretendedCuda, plain, pretended_cuda

from brainreg.attacks import FGSM, PGD, AutoAttack, Noise
from brainreg.attacks.base import Attack
from brainreg.data.datasets import Dataset, find_dataset
from brainreg.evaluation.accuracy import correct
from brainreg.hyperparameters import Hyperparameters
from brainreg.method.sampler import PairSampler
from brainreg.models.base import InputScaling
from brainreg.models.build import build_model
from brainreg.training.checkpoint import as_classifier, fold_batchnorm
from brainreg.training.data import RegularizationPairs, TrainingData
from brainreg.training.loop import _validate, train

DRAWS = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (160, 1, 32, 32), dtype=torch.uint8, generator=DRAWS)
LABELS = torch.randint(0, 10, (160,), generator=DRAWS)


@contextlib.contextmanager
def gpu() -> Iterator[PretendedCuda | None]:
    """A GPU within the block: the real one, or a pretended one, which counts."""
    if REAL_GPU:
        yield None
    else:
        with pretended_cuda() as device:
            yield device


pretended_only = pytest.mark.skipif(REAL_GPU, reason="a real device counts nothing")
real_only = pytest.mark.skipif(not REAL_GPU, reason="needs a GPU and BRAINREG_TEST_GPU=1")


def job(device: str, range_options: dict | None = None, **changes) -> tuple[Hyperparameters, TrainingData]:
    """Settings, and data of random images; what is made here is made on the device."""
    settings = Hyperparameters(
        **{
            "task": "CIFAR10", "base_channels": 2, "reg_alpha": 0.1, "reg_thresh": 0.0, "reg_batch_size": 4,
            "resnet_batch_size": 16, "epoch_num": 1, "lr": 0.01, **changes,
        }
    )  # fmt: skip
    pairs = None
    if settings.regularized:
        options = {"reg_thresh": 0.0, "batch_size": 4, "device": device, **(range_options or {})}
        pairs = RegularizationPairs(IMAGES[:60], True, PairSampler(IMAGES[:60], **options))
    task = find_dataset("CIFAR10")
    data = TrainingData(task, 10, IMAGES, LABELS, torch.arange(128), IMAGES[128:], LABELS[128:], pairs)
    return settings, data


class TestPretence:
    """What the tests below rest on."""

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda there: there + torch.rand(3, 3),
            lambda there: torch.cat([there, torch.rand(3, 3)]),
            lambda there: there.numpy(),
            lambda there: torch.rand(3, 3)[there.argmax(1)],
            lambda there: torch.rand(3, device="cuda", generator=torch.Generator()),
        ],
        ids=["sum", "cat", "numpy", "index", "generator"],
    )
    def test_what_cuda_refuses_is_refused(self, wrong):
        with gpu():
            there = torch.rand(3, 3).to("cuda")
            assert there.device.type == (there + 1).device.type == "cuda"
            with pytest.raises((RuntimeError, TypeError)):
                wrong(there)

    @pretended_only
    def test_what_waits_is_counted_by_its_line(self):
        with gpu() as device:
            there = torch.rand(3).to("cuda")
            there[there > 2], there.sum().item(), there.cpu(), there + 1
        assert sum(device.waits.values()) == 4 and isinstance(there, OnDevice)

    def test_a_forgotten_move_is_found(self):
        def careless(images, generator):
            flips = torch.rand(len(images), generator=generator) < 0.5
            return torch.where(flips[:, None, None, None], images.flip(-1), images)

        settings, data = job("cpu")
        data = dataclasses.replace(data, task=Dataset("CIFAR10", centered=True, augment=careless))
        with gpu(), pytest.raises(RuntimeError, match="same device"):
            train(settings, data, device="cuda")


class TestTraining:
    @pytest.mark.parametrize(
        "changes",
        [{}, {"reg_alpha": 0}, {"precision": "bfloat16"}, {"archi": "timm:test_resnet"}, {"archi": "ResNet50"}],
        ids=["pairs", "unregularized", "bfloat16", "timm", "ResNet50"],
    )
    def test_it_computes_what_a_cpu_computes(self, changes):
        here = train(*job("cpu", **changes), device="cpu").history
        with gpu():
            there = train(*job("cuda", **changes), device="cuda").history
        for name in ("cross_entropy", "similarity_loss"):
            assert there[1][name] == pytest.approx(here[1][name], rel=0.02)
        assert there[0]["valid_cross_entropy"] == pytest.approx(here[0]["valid_cross_entropy"], rel=1e-4)

    @pytest.mark.parametrize(
        "range_options",
        [{}, {"reg_range": "high", "reg_thresh": 0.05}],
        ids=["all", "high"],
    )
    @pytest.mark.parametrize("few", [2**22, 1], ids=["permuted", "drawn"])
    def test_pairs_drawn_there_are_those_drawn_here(self, monkeypatch, range_options, few):
        monkeypatch.setattr("brainreg.method.sampler._FEW", few)
        options = {"reg_thresh": 0.0, "batch_size": 4, **range_options}
        here = PairSampler(IMAGES, **options).batches(30)
        with gpu():
            there = PairSampler(IMAGES, **options, device="cuda").batches(30)
            assert {part.device.type for part in there} == {"cuda"}
            there = [part.cpu() for part in there]
        for one, other in zip(here, plain(there), strict=True):
            assert torch.equal(one, other)

    @pretended_only
    @pytest.mark.parametrize("changes", [{}, {"reg_alpha": 0}, {"precision": "bfloat16"}])
    def test_no_step_waits_for_the_device(self, changes):
        waits = []
        with gpu() as device:
            settings, data = job("cuda", **changes)
            train(settings, data, device="cuda", on_step=lambda step, steps: waits.append(dict(device.waits)))
        assert len(waits) == 8
        assert waits[-2] == waits[0], {line for line in waits[-2] if waits[-2][line] != waits[0].get(line)}

    def test_it_goes_on_from_its_own_checkpoint(self, tmp_path):
        with gpu():
            for epochs in (1, 2):
                result = train(*job("cuda", epoch_num=epochs), device="cuda", checkpoint=tmp_path / "a.pt")
        assert len(result.history) == 3

    @pytest.mark.parametrize(("before", "after"), [("cpu", "cuda"), ("cuda", "cpu")])
    def test_it_goes_on_from_the_checkpoint_of_another_device(self, tmp_path, before, after):
        slow = {"lr": 0.0005}  # what is rounded otherwise grows less
        straight = train(*job("cpu", epoch_num=2, **slow), device="cpu").history

        def one(device: str, epochs: int) -> list[dict[str, float]]:
            with gpu() if device == "cuda" else contextlib.nullcontext():
                settings, data = job(device, epoch_num=epochs, **slow)
                return train(settings, data, device=device, checkpoint=tmp_path / "a.pt").history

        one(before, 1)
        history = one(after, 2)
        assert history[2]["cross_entropy"] == pytest.approx(straight[2]["cross_entropy"], rel=0.02)

    @real_only
    @pytest.mark.parametrize("changes", [{}, {"reg_alpha": 0}, {"precision": "bfloat16"}, {"archi": "timm:resnet18"}])
    def test_steps_are_replayed_and_learn_the_same(self, monkeypatch, caplog, changes):
        """128 images in batches of 16, then a last one of 8: the latter runs as it is."""
        settings, data = job("cuda", **changes, epoch_num=3)
        data = dataclasses.replace(data, train_indices=torch.arange(120))
        replays = []
        replay = torch.cuda.CUDAGraph.replay
        monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replays.append(1) or replay(graph))
        graphed = train(settings, data, device="cuda").history
        assert len(replays) == 3 * 7 - 3 and not caplog.records
        monkeypatch.setattr("brainreg.training.loop.GraphedStep", lambda step: step)
        eager = train(settings, data, device="cuda").history
        # Of so few images, the accuracy may differ by several.
        for name in ("cross_entropy", "similarity_loss", "valid_cross_entropy"):
            losses = [[epoch[name] for epoch in history[1:]] for history in (graphed, eager)]
            assert losses[0] == pytest.approx(losses[1], rel=0.03), name

    @real_only
    def test_what_waits_within_a_step_cannot_be_captured_and_is_run_as_it_is(self, monkeypatch, caplog):
        settings, data = job("cuda")

        class Waiting(type(data.task.augment)):
            def __init__(self):
                super().__init__(data.task.augment.draw, self.waits)

            def waits(self, images, draws):
                assert draws.sum().item() is not None
                return data.task.augment.apply(images, draws)

        waiting = dataclasses.replace(data, task=dataclasses.replace(data.task, augment=Waiting()))
        here = train(settings, data, device="cuda").history
        there = train(settings, waiting, device="cuda").history
        assert there[1]["cross_entropy"] == pytest.approx(here[1]["cross_entropy"], rel=0.02)
        assert "cannot be captured" in caplog.text


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_batch_of_all_images_is_three_passes(precision):
    """Logits, similarities, gradients, BatchNorm's statistics and channel means, up to rounding."""
    exact = precision == "float32"
    results = []
    images, a, b = (torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(n)) for n in (12, 4, 5))
    for at_once in (False, True):
        torch.manual_seed(0)
        network = build_model("ResNet18", base_channels=4)
        with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
            logits, scores = network.logits_and_similarity(images, a, b[:4], at_once=at_once)
        (logits.float().square().mean() + scores.mean()).backward()
        gradients = torch.cat([p.grad.flatten() for p in network.parameters()])
        results.append((logits.float(), scores, gradients, network.state_dict()))
    for one, other in zip(results[0][:3], results[1][:3], strict=True):
        assert (one - other).norm() <= (1e-4 if exact else 0.1) * one.norm()
    for name, value in results[0][3].items():
        torch.testing.assert_close(
            results[1][3][name], value, rtol=1e-4 if exact else 0.1, atol=1e-5 if exact else 0.02
        )


def test_whatever_measures_switches_tf32_off():
    """Validation, clean accuracy, attacks; and leaves it as it was."""
    allowed = []

    class Network(torch.nn.Module):
        def forward(self, images):
            if not self.training:
                flags = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
                allowed.append(flags)
            return images.flatten(1)[:, :10]

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    images, labels = IMAGES[:4].float() / 255, LABELS[:4]
    model = Network().eval()
    measures = {
        "attack": lambda: Noise("Gaussian")(model, images, labels, [0.1]),
        "clean": lambda: correct(model, images, labels),
        "validation": lambda: _validate(model, InputScaling(False), IMAGES[:4], labels),
    }
    for name, measure in measures.items():
        allowed.clear()
        measure()
        assert allowed and {*allowed} == {(False, False)}, name
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before, name


@real_only
def test_float32_is_measured_in_full():
    """TF32 would be off by 1e-4 and more."""
    torch.manual_seed(0)
    model = as_classifier(build_model("ResNet18", 1, 10, 4, 32), find_dataset("CIFAR10")).eval()
    images = IMAGES[:40].float() / 255
    exact = model.double()(images.double())
    seen = []
    hook = model.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with gpu():
        attacked = model.float().to("cuda")
        Noise("Gaussian")(attacked, images.to("cuda"), LABELS[:40].to("cuda"), [0.0])
        seen = [part.detach().cpu().double() for part in seen]
    hook.remove()
    assert (plain(torch.cat(seen)) - exact).abs().max() < 1e-4 * exact.abs().max()


@pretended_only
def test_square_waits_for_the_device_four_times_a_query():
    """All four are lines of its authors: two ask which images are left, two move what was drawn."""
    torch.manual_seed(0)
    model = fold_batchnorm(as_classifier(build_model("ResNet18", 1, 10, 2, 32), find_dataset("CIFAR10")))
    images = IMAGES[:4].float() / 255
    labels, waits = model(images).argmax(dim=1), []
    for queries in (10, 20):
        with pretended_cuda() as device:
            attack = AutoAttack(version="custom", attacks=("square",), n_queries=queries)
            attack(copy.deepcopy(model).to("cuda"), images.to("cuda"), labels.to("cuda"), [1e-4])
        waits.append(device.waits)
    a_query = {line: (count - waits[0][line]) / 10 for line, count in waits[1].items() if count != waits[0][line]}
    assert 0 < sum(a_query.values()) <= 4, a_query


ATTACKS = [
    FGSM(), PGD(steps=3), Noise("Gaussian"),
    *(
        AutoAttack(norm=norm, version="custom", attacks=(name,), n_iter=4, n_target_classes=2, n_queries=10)
        for norm in ("Linf", "L2", "L1")
        for name in ("apgd-ce", "apgd-t", "fab-t", "square")
    ),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.title)
def test_verdicts_are_those_of_a_cpu(attack: Attack):
    torch.manual_seed(0)
    model = fold_batchnorm(as_classifier(build_model("ResNet18", 1, 10, 2, 32), find_dataset("CIFAR10")))
    images = IMAGES[:4].float() / 255
    labels = model(images).argmax(dim=1)
    scale = {None: 1, "Linf": 1, "L2": 10, "L1": 100}[attack.norm]
    strengths = [0.01 * scale, 0.1 * scale]
    here = attack(model, images, labels, strengths).correct
    with gpu():
        there = attack(model.to("cuda"), images.to("cuda"), labels.to("cuda"), strengths).correct.cpu()
    assert (plain(there) != here).sum() <= (1 if REAL_GPU else 0)
