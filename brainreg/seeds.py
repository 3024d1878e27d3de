"""Every draw of a run comes from its one seed, by a stream for each use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import IntEnum

import numpy as np

from brainreg._utils.lazy import torch


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
    SEARCH_SEEDS = 13
    TRAINING_NOISE = 14


def seeded_generator(seed: int, stream: Stream, part: int = 0) -> torch.Generator:
    """Return the CPU generator of one part (an epoch, say) of one stream of a seed's draws."""
    return torch.Generator().manual_seed(_state(seed, stream, part))


def device_generator(seed: int, stream: Stream, part: int, device: torch.device) -> torch.Generator:
    """Return such a generator on a device; a CPU and a GPU draw other numbers."""
    return torch.Generator(device).manual_seed(_state(seed, stream, part))


def _state(seed: int, stream: Stream, part: int) -> int:
    state = np.random.SeedSequence([seed, stream, part]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def text_seed(text: str) -> int:
    """Return the seed that a text stands for: a whole number for itself, else 32 bits of its digest.

    >>> text_seed("7"), text_seed("a") == text_seed("b")
    (7, False)
    """
    if text.isascii() and text.isdecimal():
        return int(text)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def search_seed(seed: int, index: int) -> int:
    """Return one of the seeds that the runs of a search have; the first is the search's own.

    Args:
        seed: of the search.
        index: 0 and up.

    >>> search_seed(7, 0), search_seed(7, 1) == search_seed(7, 1), len({search_seed(7, i) for i in range(100)})
    (7, True, 100)
    """
    if index == 0:
        return seed
    return int(np.random.SeedSequence([seed, Stream.SEARCH_SEEDS, index]).generate_state(1)[0])


def fresh_seeds(identity: str, count: int, used: Iterable[int] = (), begun: Iterable[int] = ()) -> list[int]:
    """Return so many seeds, all different, that a search's identity draws: another search has others.

    Args:
        identity: of the search.
        count: how many.
        used: seeds that the search itself trained with, which are not fresh.
        begun: the first ones, where they were drawn before.

    >>> fresh_seeds("a", 5)[:2] == fresh_seeds("a", 2), fresh_seeds("a", 2) == fresh_seeds("b", 2)
    (True, False)
    """
    generator = seeded_generator(text_seed(identity), Stream.FRESH_SEEDS)
    used, seeds = set(used), list(begun)
    while len(seeds) < count:
        drawn = int(torch.randint(2**32, (1,), generator=generator))
        if drawn not in used and drawn not in seeds:
            seeds.append(drawn)
    return seeds[:count]
