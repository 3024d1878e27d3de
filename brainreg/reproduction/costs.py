"""What a row will cost: its search, and its confirmation."""

import contextlib
import math
from dataclasses import dataclass

from brainreg.analysis.comparison import count_comparisons
from brainreg.attacks.autoattack.attack import AutoAttack
from brainreg.attacks.noise import NOISES
from brainreg.data.files import nothing_written
from brainreg.errors import InputError
from brainreg.evaluation.settings import attack_batch_size
from brainreg.evaluation.subject import load_split
from brainreg.hyperparameters import Hyperparameters
from brainreg.search.costs import TrialCosts
from brainreg.search.probe import time_setting, under_load
from brainreg.search.strategy import Strategy
from brainreg.spaces.space import Space
from brainreg.statistics import least_seeds

# Seconds that the starts of Ray, the loading of data and the notebooks take.
OVERHEAD = 90

# The next time, the same steps may take so much longer.
_MARGIN = 1.2


@dataclass(frozen=True)
class Measurement:
    """How the settings that a search found are measured on test images.

    Attributes:
        seeds: fresh ones, the fewest and the most; None: as many as a test needs that does not assume normal
            differences, and four more.
        attacks: as `brainreg confirm` takes them.
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
class Costs(TrialCosts):
    """Seconds, at most: where networks withstand attacks, and without early stopping.

    Attributes:
        evaluation: measuring a network on test images.
        attacked_image: of `evaluation`, what each attacked image more takes; 0: unknown.
        Others as in `TrialCosts`.
    """

    evaluation: float = 0.0
    attacked_image: float = 0.0

    def row_search(self, trials: int, slots: int) -> float:
        """Return the seconds of the row's search of so many trials."""
        return self.search(trials, slots, Strategy().scheduler_of(trials))

    def confirmation(self, settings: int, seeds: int, slots: int, more_images: int = 0) -> float:
        """Return the seconds of so many settings with so many seeds, and of attacking so many images more of each
        network; of the settings, the unregularized one and the one that stops early are of one training.
        """
        trainings, networks = (math.ceil(count * seeds / slots) for count in (settings - 1, settings))
        measuring = self.evaluation + more_images * self.attacked_image
        return trainings * self.training + networks * measuring + seeds / slots * self.choice


def row_costs(
    space: Space,
    measurement: Measurement,
    data_dir: str,
    device: str,
    threads: int,
    at_a_time: int,
    dry_run: bool = False,
) -> Costs:
    """Time a few steps and a network's passes, and return what a trial and an evaluation take by that.

    Args:
        at_a_time: networks that share the processor, or one GPU.
        dry_run: neither download data nor keep what was decoded.

    Raises:
        InputError: data that are missing.
    """
    timing = under_load(at_a_time, time_setting, space, data_dir, device, threads, dry_run)
    with nothing_written() if dry_run else contextlib.nullcontext():
        test, _ = load_split(Hyperparameters(**space.setting(space.given[0])), "test", data_dir)
    clean = timing.classify(len(test))
    strengths, attacks = len(measurement.strengths), (AutoAttack(), AutoAttack(version="custom", attacks=("square",)))
    noise = clean * len(NOISES) * (measurement.num_epsilons - 1)
    together = attack_batch_size(device)

    def attacked(images: int) -> float:
        return sum(timing.attack(one, images, strengths, together) for one in attacks)

    return Costs(
        **vars(TrialCosts.of(timing, space)),
        evaluation=clean + noise + attacked(measurement.num_images),
        attacked_image=attacked(together) / together,
    )


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
        return Workload(trials, seeds, costs.row_search(trials, slots), costs.confirmation(settings, seeds, slots))

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
