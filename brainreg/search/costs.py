"""What a search will cost, from timed steps and counted passes."""

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

from brainreg._utils.machine import cpu_cores
from brainreg.evaluation.proxy import PROXY
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.trial import UNFINISHED
from brainreg.search.plan import SearchPlan
from brainreg.search.probe import Timing, time_setting, under_load
from brainreg.search.scheduler import KEPT, RUNGS
from brainreg.search.timing import longest_final_attack
from brainreg.spaces.names import EARLY_STOPPED
from brainreg.spaces.space import Space

# Seconds until Ray runs the first trial.
START_SECONDS = 15


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
        validation = timing.classify(timing.validation_images)
        images = objective.attacked_of(timing.validation_images)
        attacked = timing.attack(objective.attack, images)
        noise = validation if objective.noise_weight else 0.0
        return cls(
            training=timing.steps * timing.step + epochs * validation,
            proxy=epochs * (timing.attack(PROXY, objective.proxy_image_num) + noise),
            objective=2 * validation + attacked,
            choice=epochs * (timing.attack(PROXY, images) + attacked + noise),
        )

    def search(self, trials: int, slots: int, scheduler: str, chosen: bool = False) -> float:
        """Return the seconds of so many trials, at most.

        Args:
            slots: trials at a time.
            scheduler: asha or none.
            chosen: whether the one whose epoch is chosen by the objective is not among them.
        """
        proxy = self.proxy if scheduler == "asha" else 0
        choice = 0 if chosen else self.choice
        return math.ceil(trials / slots) * (self.training + proxy + self.objective) + choice

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
    ended = [record.setting for record in plan.records if record.state != UNFINISHED]
    left, given = plan.num_samples - len(ended), len({*plan.space.given} - {*ended})
    chosen = EARLY_STOPPED in ended

    def least(trials: int) -> float:
        return costs.least_search(trials, slots, scheduler, given)

    def most(trials: int) -> float:
        return costs.search(trials, slots, scheduler, chosen)

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
        disk=(all_fit + len(plan.copies) + 1) * timing.checkpoint,  # the recommended network twice
    )


def _most_within(limit: float, seconds: Callable[[int], float], trials: int) -> int:
    """The most trials, of so many, that take no longer than a limit; one at least."""
    if math.isinf(limit):
        return trials
    fitting = bisect.bisect_right(range(trials + 1), limit, key=seconds) - 1
    return min(max(fitting, 1), trials)
