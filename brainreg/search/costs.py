"""What a search will cost, from timed steps and counted passes."""

import bisect
import contextlib
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from brainreg._utils.machine import cpu_cores
from brainreg.attacks.autoattack.settings import AutoAttackSettings
from brainreg.data.files import nothing_written
from brainreg.errors import InputError
from brainreg.evaluation.proxy import PROXY
from brainreg.hyperparameters import Hyperparameters
from brainreg.models.build import build_model
from brainreg.records.trial import CHECKPOINT, UNFINISHED
from brainreg.search.plan import SearchPlan
from brainreg.search.scheduler import KEPT, RUNGS
from brainreg.search.timing import longest_final_attack
from brainreg.spaces.space import Space
from brainreg.training.checkpoint import as_classifier, fold_batchnorm
from brainreg.training.data import TrainingData, load_training_data
from brainreg.training.loop import train
from brainreg.training.step import to_float

# Seconds of training that tell what a step costs.
_PROBE_SECONDS = 6


# Of those steps, the fewest that are timed, and the first ones that do not count.
_FEWEST_STEPS, _WARM_STEPS = 12, 5


# Images that a network is timed on.
_TIMED_IMAGES = 250


# Seconds until Ray runs the first trial.
START_SECONDS = 15


@dataclass(frozen=True)
class Timing:
    """What one network takes: the costliest setting of a space, with as many beside it as will run at a time.

    Attributes:
        step: seconds of a training step.
        forward, gradient: seconds of a forward pass, and of one with its gradient, an image.
        steps: of a training.
        validation_images: that every epoch measures.
        checkpoint: bytes that a trial keeps.
    """

    step: float
    forward: float
    gradient: float
    steps: int
    validation_images: int
    checkpoint: int

    def attack(self, attack: AutoAttackSettings, strengths: int = 1) -> float:
        """Return the seconds that an image costs which withstands an attack: its passes, counted."""
        return robust_counts(attack, strengths, self.forward, self.gradient)


@dataclass(frozen=True)
class TrialCosts:
    """Seconds of a trial, at most: where its network withstands attacks, and without early stopping.

    Attributes:
        training: of one network.
        proxy: attacking it in a few steps after each epoch, where the search stops trials early.
        objective: measuring it in the search.
        choice: choosing the best epoch of one network by the objective.
    """

    training: float
    proxy: float
    objective: float
    choice: float = 0.0

    @classmethod
    def of(cls, timing: Timing, space: Space) -> "TrialCosts":
        """Return what a trial of a space takes."""
        epochs, objective = Hyperparameters(**space.setting(space.given[0])).epoch_num, space.objective
        validation = timing.validation_images * timing.forward
        images = objective.attacked_of(timing.validation_images)
        attacked = images * timing.attack(objective.attack)
        return cls(
            training=timing.steps * timing.step + epochs * validation,
            proxy=epochs * objective.proxy_image_num * timing.attack(PROXY),
            objective=2 * validation + attacked,
            choice=epochs * (images * timing.attack(PROXY) + attacked),
        )

    def search(self, trials: int, slots: int, scheduler: str) -> float:
        """Return the seconds of so many trials, at most.

        Args:
            slots: trials at a time.
            scheduler: asha or none.
        """
        proxy = self.proxy if scheduler == "asha" else 0
        return math.ceil(trials / slots) * (self.training + proxy + self.objective) + self.choice

    def least_search(self, trials: int, slots: int, scheduler: str, given: int) -> float:
        """Return the seconds of so many trials at least: ASHA stops what it may, and attacks cost nothing.

        Args:
            given: trials of them that are not stopped.
        """
        whole, parts = min(given, trials), 1.0
        if scheduler == "asha":
            ends = [(1 - KEPT) * KEPT**i for i in range(len(RUNGS) - 1)]
            parts = sum(part * rung for part, rung in zip(ends, RUNGS, strict=False)) + KEPT ** (len(RUNGS) - 1)
        return (whole + parts * (trials - whole)) * self.training / slots


@dataclass(frozen=True)
class SearchCosts:
    """What is left of a search; of each pair, at least and at most.

    Attributes:
        trial: what a trial takes.
        trials: how many its limits leave.
        seconds: until it has ended.
        final_attack: of those, at most, the attack at the end.
        gpu_hours: of all trials together.
        disk: bytes, at most.
    """

    trial: TrialCosts
    trials: tuple[int, int]
    seconds: tuple[float, float]
    final_attack: float
    gpu_hours: tuple[float, float]
    disk: int


class _Enough(Exception):
    """A step's cost is known."""


Numbers = TypeVar("Numbers")  # a dataclass of numbers


def time_setting(space: Space, data_dir: str, device: str, threads: int, dry_run: bool = False) -> Timing:
    """Train a few steps of the costliest setting of a space, and time its network's passes.

    Args:
        dry_run: neither download data nor keep what was decoded.

    Raises:
        InputError: data that are missing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with nothing_written() if dry_run else contextlib.nullcontext():
            return _timing(*_costliest(space, data_dir, device), device)
    finally:
        torch.set_num_threads(before)


def _timing(settings: Hyperparameters, data: TrainingData, device: str) -> Timing:
    marks: list[float] = []

    def on_step(step: int, total: int) -> None:
        marks.append(time.monotonic())
        if len(marks) >= _FEWEST_STEPS and marks[-1] - marks[0] > _PROBE_SECONDS:
            raise _Enough

    an_epoch = math.ceil(len(data.train_indices) / settings.resnet_batch_size)
    enough = settings.model_copy(update={"epoch_num": math.ceil(_FEWEST_STEPS / an_epoch)})
    with contextlib.suppress(_Enough):
        train(enough, data, device=device, on_step=on_step)
    warm = marks[_WARM_STEPS:]
    network = build_model(
        settings.archi, data.in_channels, data.num_classes, settings.base_channels, data.image_size
    ).eval()
    model = fold_batchnorm(as_classifier(network, data.task)).to(device)
    forward, gradient = _pass_seconds(model, to_float(data.valid_images[:_TIMED_IMAGES]).to(device))
    with tempfile.TemporaryDirectory() as folder:
        few = replace(data, train_indices=data.train_indices[: settings.resnet_batch_size])
        train(settings.model_copy(update={"epoch_num": 1}), few, device=device, checkpoint=Path(folder, CHECKPOINT))
        checkpoint = Path(folder, CHECKPOINT).stat().st_size
    return Timing(
        step=(warm[-1] - warm[0]) / (len(warm) - 1),
        forward=forward,
        gradient=gradient,
        steps=an_epoch * settings.epoch_num,
        validation_images=len(data.valid_labels),
        checkpoint=checkpoint,
    )


def _costliest(space: Space, data_dir: str, device: str) -> tuple[Hyperparameters, TrainingData]:
    """A setting with the most pairs a step that the space can propose, and its data."""
    problem = InputError("search: no setting can be trained")
    for setting in space.corners():
        settings = Hyperparameters(**setting)
        try:
            return settings, load_training_data(settings, data_dir, device)
        except InputError as error:  # its range selects too few pairs, or there are no data
            problem = error
    raise problem


def _pass_seconds(model: torch.nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """Seconds of a forward pass and of a forward pass with its gradient, an image."""

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def gradient() -> None:
        shown = images.clone().requires_grad_()
        model(shown).logsumexp(dim=1).sum().backward()

    found = []
    for one in (forward, gradient):
        one()
        times = []
        for _ in range(10):
            began = time.perf_counter()
            one()
            if images.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        found.append(sorted(times)[5] / len(images))
    return found[0], found[1]


def robust_counts(attack: AutoAttackSettings, strengths: int, forward: float, gradient: float) -> float:
    """Return the seconds that an image costs which withstands an attack over so many strengths: its passes, counted.

    Args:
        forward, gradient: seconds of a forward pass, and of one with its gradient, an image.
    """
    steps, targets = attack.n_iter + 5, attack.n_target_classes  # five for starts and checks
    seconds = {
        "apgd-ce": strengths * steps * gradient,  # alone, it is run at each strength
        "apgd-dlr": steps * gradient,
        "apgd-t": steps * targets * gradient,
        "fab": steps * (gradient + forward),
        "fab-t": steps * targets * (gradient + forward),
        "square": attack.n_queries * forward,
    }
    return sum(seconds[name] for name in attack.attacks or ("apgd-ce", "apgd-t", "fab-t", "square"))


def under_load(at_a_time: int, function: Callable[..., Numbers], *arguments: Any) -> Numbers:
    """Return the mean of what so many processes at a time find: they slow each other down, and leave no GPU held.

    Args:
        at_a_time: networks that share the processor, or one GPU.
        function, arguments: gives a dataclass of numbers.
    """
    with ProcessPoolExecutor(at_a_time, mp_context=multiprocessing.get_context("spawn")) as pool:
        found: Sequence[Any] = [job.result() for job in [pool.submit(function, *arguments) for _ in range(at_a_time)]]
    kind = type(found[0])
    return cast(Numbers, kind(*(sum(getattr(each, one.name) for each in found) / at_a_time for one in fields(kind))))


def search_costs(plan: SearchPlan) -> SearchCosts:
    """Time a few steps on this machine, and return what is left of a search.

    Raises:
        InputError: the plan's data are missing.
    """
    there = min(plan.slots, max(1, cpu_cores() // plan.options.threads))
    at_a_time = there if not plan.gpus_per_trial else max(1, min(plan.slots, int(1 / plan.gpus_per_trial)))
    arguments = (plan.space, plan.options.data_dir, plan.device, plan.options.threads, True)
    return costs_of(plan, under_load(at_a_time, time_setting, *arguments))


def costs_of(plan: SearchPlan, timing: Timing) -> SearchCosts:
    """Return what is left of a search whose networks take so long."""
    costs, slots, options = TrialCosts.of(timing, plan.space), plan.slots, plan.options
    scheduler = plan.strategy.scheduler_of(plan.num_samples)
    ended = sum(record.state != UNFINISHED for record in plan.records)
    left, given = plan.num_samples - ended, max(0, len(plan.space.given) - ended)

    def least(trials: int) -> float:
        return costs.least_search(trials, slots, scheduler, given)

    def most(trials: int) -> float:
        return costs.search(trials, slots, scheduler)

    limit = min(
        math.inf if options.minutes is None else 60 * options.minutes,
        math.inf if options.gpu_hours is None else 3600 * options.gpu_hours / (plan.gpus_per_trial * slots),
    )
    fewest, all_fit = _most_within(limit, most, left), _most_within(limit, least, left)
    final = longest_final_attack(plan.space.budget.final_attack_seconds, slots)
    ends = least(all_fit), most(left) if fewest == left else limit + most(1)
    to_hours = plan.gpus_per_trial * slots / 3600
    return SearchCosts(
        trial=costs,
        trials=(fewest, all_fit),
        seconds=(START_SECONDS + ends[0], START_SECONDS + ends[1] + final),
        final_attack=final,
        gpu_hours=(to_hours * ends[0], to_hours * ends[1]),
        disk=(all_fit + 1) * timing.checkpoint,  # the recommended network twice
    )


def _most_within(limit: float, seconds: Callable[[int], float], trials: int) -> int:
    """The most trials, of so many, that take no longer than a limit; one at least."""
    if math.isinf(limit):
        return trials
    fitting = bisect.bisect_right(range(trials + 1), limit, key=seconds) - 1
    return min(max(fitting, 1), trials)
