"""What a row will cost, from timed steps and counted passes."""

import contextlib
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from brainreg.analysis.comparison import count_comparisons
from brainreg.attacks import NOISES, AutoAttack
from brainreg.data.files import nothing_written
from brainreg.errors import InputError
from brainreg.evaluation.proxy import PROXY
from brainreg.evaluation.subject import load_split
from brainreg.hyperparameters import Hyperparameters
from brainreg.models.build import build_model
from brainreg.search.strategy import Strategy
from brainreg.spaces.space import Space
from brainreg.statistics import least_seeds
from brainreg.training.checkpoint import as_classifier, fold_batchnorm
from brainreg.training.data import TrainingData, load_training_data
from brainreg.training.loop import train
from brainreg.training.step import to_float

# Seconds that the starts of Ray, the loading of data and the notebooks take.
OVERHEAD = 90


# The next time, the same steps may take so much longer.
_MARGIN = 1.2


# Seconds of training that tell what a step costs.
_PROBE_SECONDS = 6


@dataclass(frozen=True)
class Measurement:
    """How the settings that a search found are measured on test images.

    Attributes:
        seeds: fresh ones, the fewest and the most; None: as many as a test needs that does not assume normal
            differences, and four more.
        attacks: as `brainreg.confirm` takes them.
        strengths: of Square and AutoAttack, in multiples of the search's eps.
        num_epsilons: strengths of a curve of noise.
        num_images: that are attacked, of each network.
        least_trials: of a search.
    """

    seeds: tuple[int, int] | None = None
    attacks: tuple[str, ...] = ("noise", "square", "autoattack")
    strengths: tuple[float, ...] = (0.5, 1, 1.5)
    num_epsilons: int = 6
    num_images: int = 24
    least_trials: int = 6

    def seeds_of(self, space: Space) -> tuple[int, int]:
        """Return the fewest and the most seeds of a row."""
        least = least_seeds(count_comparisons(space.controls))
        return self.seeds or (least, least + 4)


@dataclass(frozen=True)
class Costs:
    """Seconds, at most: where networks withstand attacks, and without early stopping.

    Attributes:
        training: of one network.
        proxy: attacking it in a few steps after each epoch, where the search stops trials early.
        objective: measuring it in the search.
        evaluation: measuring it on test images.
        choice: choosing the best epoch of one network by the objective.
        attacked_image: of `evaluation`, what each attacked image takes; 0: unknown.
    """

    training: float
    proxy: float
    objective: float
    evaluation: float
    choice: float = 0.0
    attacked_image: float = 0.0

    def search(self, trials: int, slots: int) -> float:
        """Seconds of so many trials."""
        proxy = self.proxy if Strategy().scheduler_of(trials) == "asha" else 0
        return math.ceil(trials / slots) * (self.training + proxy + self.objective) + self.choice

    def confirmation(self, settings: int, seeds: int, slots: int, more_images: int = 0) -> float:
        """Seconds of so many settings with so many seeds, and of attacking so many images more of each network."""
        one = self.training + self.evaluation + more_images * self.attacked_image
        return math.ceil(settings * seeds / slots) * one + seeds / slots * self.choice


class _Enough(Exception):
    """A step's cost is known."""


def probe(
    space: Space, measurement: Measurement, data_dir: str, device: str, threads: int, dry_run: bool = False
) -> Costs:
    """Train a few steps and time a network's passes, and return what a trial and an evaluation would take from that.

    Args:
        dry_run: neither download data nor keep what was decoded.

    Raises:
        InputError: data that are missing.
    """
    torch.set_num_threads(threads)
    if dry_run:
        with nothing_written():
            return probe(space, measurement, data_dir, device, threads)
    settings, data = _costliest(space, data_dir, device)
    marks: list[tuple[int, float]] = []

    def on_step(step: int, total: int) -> None:
        marks.append((step, time.monotonic()))
        if len(marks) > 8 and marks[-1][1] - marks[0][1] > _PROBE_SECONDS:
            raise _Enough

    with contextlib.suppress(_Enough):
        train(settings.model_copy(update={"epoch_num": 1}), data, device=device, on_step=on_step)
    warm = marks[min(5, len(marks) - 1)]
    step = (marks[-1][1] - warm[1]) / max(marks[-1][0] - warm[0], 1)
    steps = math.ceil(len(data.train_indices) / settings.resnet_batch_size) * settings.epoch_num

    network = build_model(
        settings.archi, data.in_channels, data.num_classes, settings.base_channels, data.image_size
    ).eval()
    model = fold_batchnorm(as_classifier(network, data.task)).to(device)
    test, _ = load_split(settings, "test", data_dir)
    images = to_float(test[: min(measurement.num_images, 250)]).to(device)
    forward, gradient = _pass_seconds(model, images)
    validation = len(data.valid_labels) * forward
    noise = len(test) * forward * len(NOISES) * (measurement.num_epsilons - 1)
    objective, strengths = space.objective, len(measurement.strengths)
    square = AutoAttack(version="custom", attacks=("square",))
    attacked = objective.attack_image_num * robust_counts(objective.attack, 1, forward, gradient)
    attacked_image = sum(robust_counts(attack, strengths, forward, gradient) for attack in (AutoAttack(), square))
    fewer_steps = objective.attack_image_num * robust_counts(PROXY, 1, forward, gradient)
    return Costs(
        training=steps * step + settings.epoch_num * validation,
        proxy=settings.epoch_num * objective.proxy_image_num * robust_counts(PROXY, 1, forward, gradient),
        objective=2 * validation + attacked,
        choice=settings.epoch_num * (fewer_steps + attacked),
        evaluation=len(test) * forward + noise + measurement.num_images * attacked_image,
        attacked_image=attacked_image,
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


def robust_counts(attack: AutoAttack, strengths: int, forward: float, gradient: float) -> float:
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


def load_probe(
    space: Space,
    measurement: Measurement,
    data_dir: str,
    device: str,
    threads: int,
    at_a_time: int,
    dry_run: bool = False,
) -> Costs:
    """Return what `probe` finds in so many processes at a time: they slow each other down.

    Args:
        at_a_time: networks that share the processor, or one GPU.
        dry_run: neither download data nor keep what was decoded.
    """
    with ProcessPoolExecutor(at_a_time, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(probe, space, measurement, data_dir, device, threads, dry_run) for _ in range(at_a_time)]
        costs = [job.result() for job in jobs]
    parts = [[getattr(one, name) for one in costs] for name in Costs.__dataclass_fields__]
    return Costs(*(sum(values) / len(values) for values in parts))


@dataclass(frozen=True)
class Workload:
    """How much is done, and the seconds that it takes at most.

    Attributes:
        trials: of the search.
        seeds: of each setting in the confirmation.
        search, confirmation: seconds.
    """

    trials: int
    seeds: int
    search: float
    confirmation: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.search + self.confirmation + OVERHEAD


def workload_within(
    minutes: float | None, costs: Costs, space: Space, measurement: Measurement, slots: int, gpus: int = 1
) -> Workload:
    """Return the largest workload that takes no longer: half of the time is the confirmation's, the rest the search's.

    Args:
        minutes: times the number of GPUs; None: an hour, or what the least takes where that is more.
        slots: networks at a time, on all GPUs.

    Raises:
        InputError: not even the smallest fits.
    """
    settings = 1 + len(space.controls)
    fewest, most = measurement.seeds_of(space)
    least = min(measurement.least_trials, space.budget.num_samples)

    def of(trials: int, seeds: int) -> Workload:
        return Workload(trials, seeds, costs.search(trials, slots), costs.confirmation(settings, seeds, slots))

    smallest = gpus * of(least, fewest).seconds / 60
    if minutes is None:
        minutes = max(60.0, smallest)
    if smallest > minutes:
        raise InputError(
            f"--budget={minutes:g}: {least} trials and {fewest} seeds, the least, take up to {math.ceil(smallest)}"
            f" minutes; give --budget={math.ceil(_MARGIN * smallest)}, or leave the flag out"
        )
    seconds = 60 * minutes / gpus + 1e-6  # rounding
    half = (seconds - OVERHEAD) / 2
    fitting = [n for n in range(fewest, most + 1) if of(least, n).seconds <= seconds]
    seeds = max((n for n in fitting if of(least, n).confirmation <= half), default=fewest)
    trials = max(n for n in range(least, space.budget.num_samples + 1) if of(n, seeds).seconds <= seconds)
    while seeds < most and of(trials, seeds + 1).seconds <= seconds:  # what the search leaves
        seeds += 1
    return of(trials, seeds)


def payable_designs(
    costs: Costs, space: Space, measurement: Measurement, slots: int, seconds: float, test_images: int
) -> list[tuple[int, int, float]]:
    """Return the seeds, images and seconds of the confirmations that take no longer than so many seconds: no fewer
    seeds than a test needs, and as many attacked images as is usual, or some doublings of that.
    """
    fewest, _ = measurement.seeds_of(space)
    settings, designs = 1 + len(space.controls), []
    for doublings in range(6):
        images = min(measurement.num_images * 2**doublings, test_images)
        for seeds in range(fewest, 3 * fewest + 1):
            cost = costs.confirmation(settings, seeds, slots, images - measurement.num_images)
            if cost <= seconds + 1e-6:
                designs.append((seeds, images, cost))
    return designs
