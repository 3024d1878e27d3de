"""How many trials share a GPU: as many as train the most steps a second together, tried on this machine."""

from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch

from brainreg._utils.machine import cpu_cores
from brainreg.errors import InputError
from brainreg.search.options import AUTO, SearchOptions
from brainreg.search.probe import time_setting, under_load
from brainreg.spaces.space import Space
from brainreg.training.device import lacks_memory

# Twice as many trials must train so many times the steps, or they are not worth what each of them waits longer.
_WORTH = 1.15

# The most trials on a GPU that are tried.
_MOST = 16

# Part of a GPU's memory that trials may fill, and bytes of each beside what PyTorch reserves: CUDA itself.
_FILLED, _CONTEXT = 0.9, 600 * 2**20


@dataclass(frozen=True)
class Packing:
    """What was tried.

    Attributes:
        steps: steps a second of all trials together, by how many share a GPU.
        best: how many are worth it.
    """

    steps: dict[int, float]
    best: int

    def __str__(self) -> str:
        tried = ", ".join(f"{count}: {steps:.0f}" for count, steps in self.steps.items())
        share = "a trial has a GPU of its own" if self.best == 1 else f"{self.best} trials share a GPU"
        return f"--gpus_per_trial={AUTO}: {share} (trials at a time: training steps a second of all together: {tried})"


def try_packing(space: Space, options: SearchOptions, trials: int) -> Packing:
    """Train a few steps of the costliest setting on a GPU, with 1, 2, 4, ... at a time, as long as that pays.

    Args:
        space: its data are there.
        options: of the search.
        trials: of the search, which are the most at a time.

    Raises:
        InputError: this machine has no GPU, or the data are missing.
    """
    if not torch.cuda.device_count():
        raise InputError(f"--gpus_per_trial={AUTO}: this machine has no GPU to try it on; leave the flag out")
    memory = torch.cuda.get_device_properties(0).total_memory
    most = max(1, min(_MOST, trials, cpu_cores() // options.threads))
    steps: dict[int, float] = {}
    best, count = 1, 1
    while count <= most:
        try:
            timing = under_load(count, time_setting, space, options.data_dir, "cuda", options.threads, True)
        except (RuntimeError, BrokenProcessPool) as error:
            if count == 1 or not (lacks_memory(error) or isinstance(error, BrokenProcessPool)):
                raise
            break
        steps[count] = count / timing.step
        if count > 1 and steps[count] < _WORTH * steps[best]:
            break
        best = count
        most = min(most, int(_FILLED * memory / (timing.gpu_memory + _CONTEXT)))
        count *= 2
    return Packing(steps, best)
