"""Speed against a stand-in for the published recipe, side by side in one run, in turns; medians.

python benchmarks/performance.py --data_dir=data --parts step epoch data pairs autoattack boundary --rounds=5 \\
    --save=benchmarks/results/performance.csv

Sizes that are not given are those of the goals on a GPU, and small ones on a CPU. The table comes last.

step: images a second in training; epoch: one epoch with its evaluations; data: what a trial trains on, from a warm
cache; pairs: their draw, as a part of a step; autoattack: the standard version on validation images against the
authors' own run; boundary: the boundary attack on all images at once against one at a time; packing: trials an hour
with several at a time on one GPU.

What is measured is saved after each part; a part that fails is named, and the others go on.
"""

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import pyautoattack
import torch
from stand_in import StandIn
from torch.utils.flop_counter import FlopCounterMode

from brainreg._utils.flags import Parser, run_command, use_threads
from brainreg.attacks import AutoAttack
from brainreg.attacks.boundary import median_squared_distance
from brainreg.data.datasets import find_dataset
from brainreg.data.load import load_dataset
from brainreg.hyperparameters import Hyperparameters
from brainreg.method.sampler import PairSampler
from brainreg.training import loop
from brainreg.training.checkpoint import fold_batchnorm
from brainreg.training.data import RegularizationPairs, TrainingData, load_training_data
from brainreg.training.device import default_device, device_name
from brainreg.training.loop import train
from brainreg.training.step import to_float

PARTS = ("step", "epoch", "data", "pairs", "autoattack", "boundary", "packing")
Rows = list[dict[str, Any]]


def seconds_of(action: Callable[[], Any], device: torch.device) -> float:
    """Wall seconds of an action, the device's own work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def in_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each way takes, `rounds` times, one after the other."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            taken[name].append(way())
            print(f"  turn {turn + 1}, {name}: {taken[name][-1]:.4g} s", flush=True)
    return taken


def table_rows(part: str, goal: str, taken: Mapping[str, list[float]], unit: str, work: float, of: str) -> Rows:
    """Rows of the table: medians, and how many times faster than the first way, turn by turn."""
    first = next(iter(taken.values()))
    rows = []
    for name, seconds in taken.items():
        times = statistics.median(slow / fast for slow, fast in zip(first, seconds, strict=True))
        median = statistics.median(seconds)
        value = work / median if "/s" in unit else median / work
        rows.append(
            {"part": part, "goal": goal, "way": name, "median": value, "unit": unit, "times": times,
             "rounds": len(seconds), "fastest": min(seconds), "slowest": max(seconds), "of": of}
        )  # fmt: skip
    return rows


class Bench:
    """Settings and data that the parts share."""

    def __init__(self, flags: Any, device: torch.device):
        self.flags, self.device = flags, device
        self.gpu = device.type == "cuda"
        self.settings = Hyperparameters(
            task="CIFAR10", base_channels=64 if self.gpu else 16, reg_alpha=10, reg_thresh=0.8, reg_batch_size=16,
            valid_portion=0.02, epoch_num=1,
        )  # fmt: skip
        self._data: TrainingData | None = None

    def say(self, text: str) -> None:
        print(text, flush=True)

    @property
    def data(self) -> TrainingData:
        if self._data is None:
            made_up = self.flags.made_up_images
            self._data = (
                self._made_up() if made_up else load_training_data(self.settings, self.flags.data_dir, self.device)
            )
        return self._data

    def _made_up(self) -> TrainingData:
        """Noise in the place of CIFAR-10, where it is not there: a step takes as long."""
        draws, settings = torch.Generator().manual_seed(0), self.settings
        images = torch.randint(0, 256, (50_000, 1, 32, 32), dtype=torch.uint8, generator=draws)
        labels = torch.randint(0, 10, (50_000,), generator=draws)
        sampler = PairSampler(
            images[:5000], reg_range="all", reg_thresh=settings.reg_thresh, reg_thresh_2=None,
            batch_size=settings.reg_batch_size, seed=0, device=self.device,
        )  # fmt: skip
        task, train, valid = find_dataset("CIFAR10"), torch.arange(49_000), torch.arange(49_000, 50_000)
        pairs = RegularizationPairs(images[:5000], True, sampler)
        return TrainingData(task, 10, images, labels, train, images[valid], labels[valid], pairs)

    def changed(self, **changes: Any) -> Hyperparameters:
        return Hyperparameters(**{**self.settings.model_dump(), **changes})

    def part_of(self, count: int, valid: int) -> TrainingData:
        """The data with fewer training and validation images."""
        values = {**vars(self.data), "train_indices": self.data.train_indices[:count]}
        values |= {"valid_images": self.data.valid_images[:valid], "valid_labels": self.data.valid_labels[:valid]}
        return TrainingData(**values)

    def stand_in(self, data: TrainingData) -> StandIn:
        if self.flags.made_up_images:
            color = self.data.images.repeat(1, 3, 1, 1)
        else:
            color, _ = load_dataset("CIFAR10", "train", self.flags.data_dir, rgb=True)
        chosen = torch.ones(len(color), dtype=torch.bool)
        chosen[self.data.train_indices] = False
        valid = chosen.nonzero().flatten()[: len(data.valid_labels)]
        assert torch.equal(self.data.labels[valid], data.valid_labels)
        return StandIn(self.settings, data, color, color[valid], self.device)

    # --- training -----------------------------------------------------------------------------

    def step(self) -> Rows:
        warm, steps = (20, 200) if self.gpu else (2, 10)
        data = self.part_of(64 * (warm + steps), 64)

        def theirs() -> float:
            stand_in, marks = self.stand_in(data), []
            stand_in.network.train()
            for step, batch in enumerate(stand_in.batches()):
                stand_in.step(*batch)
                if step + 1 in (warm, warm + steps):
                    marks.append(self._now())
            return marks[1] - marks[0]

        def ours(precision: str) -> float:
            marks = []

            def on_step(step: int, total: int) -> None:
                if step in (warm, warm + steps):
                    marks.append(self._now())

            train(self.changed(precision=precision), data, device=self.device, on_step=on_step)
            return marks[1] - marks[0]

        def launched_anew(precision: str) -> float:
            """Without the capture of a step as a CUDA graph."""
            with mock.patch.object(loop, "GraphedStep", lambda step: step):
                return ours(precision)

        ways = {"stand-in": theirs, "float32": lambda: ours("float32"), "bfloat16": lambda: ours("bfloat16")}
        if self.gpu:
            ways |= {
                "float32, no graph": lambda: launched_anew("float32"),
                "bfloat16, no graph": lambda: launched_anew("bfloat16"),
            }
        of = f"ResNet18, {self.settings.base_channels} channels, CIFAR-10 gray, batch 64, k 16; {steps} steps"
        taken = in_turns(ways, self.flags.rounds)
        goal = "10 times" if self.gpu else "2 times"
        rows = table_rows("step", goal, taken, "images/s", 64 * steps, of)
        flops = self._flops(data)
        for row, name in zip(rows, ways, strict=True):
            peak = self._peak(torch.bfloat16 if name.startswith("bfloat16") else torch.float32)
            achieved = flops * row["median"] / 64
            row["note"] = (
                f"{achieved / 1e9:.0f} GFLOP/s, {achieved / peak:.0%} of what a matrix multiplication reaches here"
                f" ({peak / 1e9:.0f})"
            )
        return rows

    def _now(self) -> float:
        if self.gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _flops(self, data: TrainingData) -> float:
        """Floating-point operations of one step: convolutions and matrix multiplications, forward and backward."""
        stand_in = self.stand_in(data)
        batch = next(iter(stand_in.batches()))
        with FlopCounterMode(display=False) as counter:
            stand_in.step(*batch)
        return counter.get_total_flops()

    def _peak(self, dtype: torch.dtype) -> float:
        """What a matrix multiplication reaches; in float32 as training's convolutions do it, on a GPU in TF32."""
        size = 8192 if self.gpu else 1024
        a, b = torch.randn(2, size, size, device=self.device).to(dtype)
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
        try:
            a @ b
            return 2 * size**3 / statistics.median(seconds_of(lambda: a @ b, self.device) for _ in range(7))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    def epoch(self) -> Rows:
        count, valid = (len(self.data.train_indices), len(self.data.valid_labels)) if self.gpu else (1600, 100)
        data = self.part_of(count, valid)
        stand_in = self.stand_in(data)

        def ours(precision: str) -> float:
            marks: list[float] = []  # the first after the evaluation of the untrained network, which is left out
            settings = self.changed(precision=precision)
            train(settings, data, device=self.device, on_epoch=lambda _: marks.append(self._now()))
            return marks[1] - marks[0]

        ways = {
            "stand-in": lambda: seconds_of(stand_in.epoch, self.device),
            "float32": lambda: ours("float32"),
            "bfloat16": lambda: ours("bfloat16"),
        }
        taken = in_turns(ways, self.flags.rounds)
        of = f"as step; {count} training and {valid} validation images; ours evaluates the validation set only"
        return table_rows("epoch", "15 times (GPU)", taken, "s", 1, of)

    # --- data ---------------------------------------------------------------------------------

    def load(self) -> Rows:
        if self.flags.made_up_images:
            return []
        settings = self.changed(valid_portion=0.01)
        load_training_data(settings, self.flags.data_dir, self.device)  # makes the cache where there is none
        taken = in_turns(
            {"warm cache": lambda: seconds_of(
                lambda: load_training_data(settings, self.flags.data_dir, self.device), self.device
            )},
            self.flags.rounds,
        )  # fmt: skip
        files = len(list((Path(self.flags.data_dir) / "CIFAR10").rglob("*")))
        of = f"CIFAR-10 gray, 5,000 regularization images; {files} source files"
        return table_rows("data", "under 1 s", taken, "s", 1, of)

    def pairs(self) -> Rows:
        sampler = self.data.pairs.sampler
        draws, steps = 1000, 5 if not self.gpu else 100

        def draw() -> float:
            def some() -> None:
                for _ in range(draws):
                    next(sampler)

            return seconds_of(some, self.device) / draws

        def step() -> float:
            marks: list[float] = []
            data = self.part_of(64 * (steps + 2), 64)
            train(
                self.changed(precision="bfloat16"), data, device=self.device,
                on_step=lambda step, total: marks.append(self._now()) if step in (2, steps + 2) else None,
            )  # fmt: skip
            return (marks[1] - marks[0]) / steps

        taken = in_turns({"step": step, "draw": draw}, self.flags.rounds)
        share = statistics.median(b / a for a, b in zip(taken["step"], taken["draw"], strict=True))
        rows = table_rows("pairs", "under 2%", taken, "s", 1, "a draw of 16 pairs (all, 0.8) and a bfloat16 step")
        rows[1]["note"] = f"{share:.3%} of a step"
        return rows

    # --- attacks ------------------------------------------------------------------------------

    def _attacked(self) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor, float, str]:
        """A trained network, validation images with their labels, a strength, and what they are called."""
        if self.gpu and not self.flags.made_up_images:
            settings = self.changed(epoch_num=3, precision="bfloat16", valid_portion=0.02, reg_alpha=0)
            eps = find_dataset("CIFAR10").attack_eps
        else:
            settings = Hyperparameters(
                task=self.flags.attack_task, base_channels=self.flags.attack_channels, epoch_num=10, phase_duration=3,
                valid_portion=0.5,
            )  # fmt: skip
            eps = self.flags.attack_eps
        data = load_training_data(settings, self.flags.data_dir, self.device)
        classifier = train(settings, data, device=self.device).classifier
        count = self.flags.attack_images
        images, labels = to_float(data.valid_images[:count]).to(self.device), data.valid_labels[:count]
        called = f"{settings.task}, ResNet18, {settings.base_channels} channels, {len(labels)} images"
        return classifier, images, labels.to(self.device), eps, called

    def autoattack(self) -> Rows:
        classifier, images, labels, eps, called = self._attacked()
        measured = fold_batchnorm(classifier)
        kept: dict[str, torch.Tensor] = {}

        def theirs() -> None:
            adversary = pyautoattack.AutoAttack(classifier, norm="Linf", eps=eps, seed=0, device=self.device)
            _, predicted = adversary.run_standard_evaluation(images, labels)
            kept["pyautoattack"] = predicted == labels

        def ours() -> None:
            kept["float32"] = AutoAttack()(measured, images, labels, [eps]).correct[0]

        ways = {"pyautoattack": theirs, "float32": ours}
        taken = in_turns(
            {name: lambda way=way: seconds_of(way, self.device) for name, way in ways.items()}, self.flags.attack_rounds
        )
        rows = table_rows("autoattack", "3 times", taken, "s", 1, f"{called}, Linf, eps {eps:g}")
        for row in rows:
            outcome, reference = kept[row["way"]], kept["pyautoattack"]
            row["note"] = (
                f"robust accuracy {outcome.float().mean():.4f}; robust here alone {int((outcome & ~reference).sum())},"
                f" there alone {int((reference & ~outcome).sum())}"
            )
        return rows

    def boundary(self) -> Rows:
        classifier, images, _, _, called = self._attacked()
        measured = fold_batchnorm(classifier)
        alone = images[: self.flags.boundary_alone]
        medians: dict[str, list[float]] = {"one at a time": [], "at once": []}
        images = images.repeat(-(-1000 // len(images)), 1, 1, 1)[:1000]

        def one_at_a_time() -> None:
            found = [
                median_squared_distance(classifier, image[None], seed=i, batch_size=1, repeats=1)
                for i, image in enumerate(alone)
            ]
            medians["one at a time"] = found

        def at_once() -> None:
            value = median_squared_distance(measured, images, seed=0, batch_size=250, repeats=1)
            medians["at once"] = [value]

        ways = {
            "one at a time": lambda: seconds_of(one_at_a_time, self.device) / len(alone),
            "at once": lambda: seconds_of(at_once, self.device) / len(images),
        }
        taken = in_turns(ways, self.flags.rounds)
        of = f"{called}; seconds an image: {len(alone)} images one at a time, {len(images)} at once; 50 steps"
        rows = table_rows("boundary", "50 times", taken, "s", 1, of)
        for row in rows:
            found = [value for value in medians[row["way"]] if value == value]
            row["note"] = f"median squared distance a value {statistics.median(found):.5f} ({len(found)} values)"
        return rows

    # --- packing ------------------------------------------------------------------------------

    def packing(self) -> Rows:
        """Trials of one epoch, 1, 2, 4 and 8 processes at a time on one GPU."""
        if not self.gpu or self.flags.made_up_images:
            return []
        load_training_data(self.settings, self.flags.data_dir, self.device)
        context, taken = multiprocessing.get_context("spawn"), {}
        for at_a_time in (1, 2, 4, 8):
            barrier = context.Barrier(at_a_time)
            queue = context.Queue()
            settings = self.changed(precision="bfloat16", epoch_num=2)
            processes = [
                context.Process(target=_trial, args=(settings.model_dump(), self.flags.data_dir, barrier, queue))
                for _ in range(at_a_time)
            ]
            for process in processes:
                process.start()
            marks = [queue.get(timeout=200) for _ in processes]
            for process in processes:
                process.join()
            # As if each trial had taken this long by itself.
            taken[f"{at_a_time} at a time"] = [(max(b for _, b in marks) - min(a for a, _ in marks)) / at_a_time]
        return table_rows("packing", "the best", taken, "s", 1, "seconds a trial of two epochs, bfloat16, as step")


def _trial(settings: dict[str, Any], data_dir: str, barrier: Any, queue: Any) -> None:
    chosen = Hyperparameters(**settings)
    data = load_training_data(chosen, data_dir)
    torch.zeros(1, device="cuda")
    barrier.wait()
    began = time.time()
    train(chosen, data, device="cuda")
    torch.cuda.synchronize()
    queue.put((began, time.time()))


def machine(device: torch.device) -> str:
    return device_name(device) + ("" if device.type == "cuda" else f", {torch.get_num_threads()} threads used")


def main(arguments: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="rows of the table")
    parser.add_argument("--device", help="cuda or cpu (absent: cuda where there is one)")
    parser.add_argument("--rounds", type=int, default=5, help="turns; AutoAttack has its own")
    parser.add_argument("--attack_rounds", type=int, default=1, help="turns of AutoAttack")
    parser.add_argument("--attack_task", default="digits", help="data set of the attacks on a CPU")
    parser.add_argument("--attack_channels", type=int, default=8, help="width of the attacked network on a CPU")
    parser.add_argument("--attack_eps", type=float, default=0.1, help="strength of AutoAttack on a CPU")
    parser.add_argument("--attack_images", type=int, default=200, help="images that AutoAttack attacks")
    parser.add_argument("--boundary_alone", type=int, default=10, help="images of the one-at-a-time boundary attack")
    parser.add_argument("--made_up_images", action="store_true", help="noise in the place of CIFAR-10")
    parser.add_argument("--minutes", type=float, default=600, help="time after which no further row is begun")
    parser.add_argument("--save", help="CSV file for the numbers")
    parser.add_flag("threads", help="CPU threads")
    parser.add_flag("data_dir", default="data", help="folder of the data sets")
    flags = parser.parse_args(arguments)
    use_threads(flags.threads)
    bench = Bench(flags, torch.device(flags.device or default_device()))
    rows: Rows = []
    failed = []
    began = time.monotonic()
    for part in flags.parts:
        if time.monotonic() - began > 60 * flags.minutes:
            print(f"{part}: not measured, the time is over", flush=True)
            continue
        print(part, flush=True)
        try:
            if part == os.environ.get("BRAINREG_FAILING_PART"):
                raise RuntimeError("made to fail by BRAINREG_FAILING_PART")
            rows += {"data": bench.load}.get(part, getattr(bench, part, None))()
        except Exception as error:  # what fails on a GPU that nobody has seen
            failed.append(part)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"{part}: failed: {reason}", flush=True)
            continue
        if flags.save:
            about = {"machine": machine(bench.device), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
            Path(flags.save).parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).assign(**about).to_csv(flags.save, index=False)
    print(f"\n{machine(bench.device)}; torch {torch.__version__}\n")
    print("| part | goal | way | on a GPU | on a CPU | against the first | turns | note |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        median = f"{row['median']:.4g} {row['unit']}"
        gpu, cpu = (median, "") if bench.gpu else ("not measured", median)
        print(
            f"| {row['part']} ({row['of']}) | {row['goal']} | {row['way']} | {gpu} | {cpu} | {row['times']:.2f} |"
            f" {row['rounds']} | {row.get('note', '')} |"
        )
    for part in (part for part in flags.parts if part not in {row["part"] for row in rows}):
        print(f"| {part} | | | not measured | not measured | | | {'failed' if part in failed else ''} |")
    return int(bool(failed))


if __name__ == "__main__":
    run_command(main)
