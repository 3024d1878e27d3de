"""Every draw of a run comes from its one seed, by a stream for each use."""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """The uses of a seed. Each has draws of its own, so that none moves another's: a regularized and an
    unregularized run of one seed see the same split, the same initial weights and the same batches.
    """

    SPLIT = 1
    FIRST_IMAGES = 2
    REGULARIZATION_AUGMENTATION = 3
    BATCHES = 4
    PAIRS = 5
    NOISE = 6
    ATTACKED_IMAGES = 7
    PAIRS_PROBE = 8
    BOUNDARY = 9
    ATTACK = 10
    PGD = 11
    FRESH_SEEDS = 12


def seeded_generator(seed: int, stream: Stream, part: int = 0) -> torch.Generator:
    """Return the CPU generator of one part (an epoch, say) of one stream of a seed's draws."""
    state = np.random.SeedSequence([seed, stream, part]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def fresh_seeds(seed: int, count: int) -> list[int]:
    """Return seeds that another seed draws, all different from it and from each other; the first are always the same.

    >>> fresh_seeds(0, 5)[:2] == fresh_seeds(0, 2)
    True
    """
    generator = seeded_generator(seed, Stream.FRESH_SEEDS)
    seeds: list[int] = []
    while len(seeds) < count:
        drawn = int(torch.randint(2**32, (1,), generator=generator))
        if drawn not in (seed, *seeds):
            seeds.append(drawn)
    return seeds
