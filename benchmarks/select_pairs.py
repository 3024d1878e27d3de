"""Time and memory of selecting pairs by pixel similarity, against two other ways, side by side.

python benchmarks/select_pairs.py [--images=5000] [--rounds=5]

Each way runs in a process of its own, in turn, so that its peak memory is its own:
  brainreg   brainreg.similarity: half of the product, pairs written in place
  plain      the whole product and NumPy's nonzero, in one go
  list       a stand-in for the published code, which compares all pairs in a Python loop

Memory is the peak above what the process held once the images were there.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

THRESHOLDS = (0.4, 0.1)


def make_images(count: int):
    """Gray noise images with smooth structure, so that similarities spread like those of photographs."""
    import torch

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return (255 * (0.8 * fine + 0.2 * torch.rand(count, 1, 32, 32, generator=generator))).to(torch.uint8)


def brainreg(images) -> int:
    from brainreg.method.pairs import select_pairs
    from brainreg.method.similarity import pixel_similarity

    return len(select_pairs(pixel_similarity(images), "double", *THRESHOLDS))


def plain(images) -> int:
    import numpy as np

    similarity = _similarity(images)
    selected = (np.abs(similarity) > THRESHOLDS[0]) | (np.abs(similarity) < THRESHOLDS[1])
    return len(np.stack(np.nonzero(np.triu(selected, k=1)), axis=1))


def list_of_pairs(images) -> int:
    similarity = _similarity(images)
    pairs = []
    for i in range(len(similarity)):
        row = similarity[i].tolist()
        for j in range(i + 1, len(row)):
            if abs(row[j]) > THRESHOLDS[0] or abs(row[j]) < THRESHOLDS[1]:
                pairs.append((i, j))
    return len(pairs)


def _similarity(images):
    import numpy as np

    pixels = images.numpy().reshape(len(images), -1).astype(np.float32) / 255
    pixels -= pixels.mean(axis=0)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    return pixels @ pixels.T


WAYS = {"brainreg": brainreg, "plain": plain, "list": list_of_pairs}


def measure(way: str, count: int) -> dict[str, float]:
    """Run one way once, in this process."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    images = make_images(count)
    WAYS[way](images[:200])  # imports and first calls are not what is measured
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
    began = time.perf_counter()
    pairs = WAYS[way](images)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"pairs": pairs, "seconds": seconds, "gib": max(peak - before, 0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.images)))
        return
    runs: dict[str, list[dict]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, done in runs.items():
            command = [sys.executable, __file__, f"--measure={way}", f"--images={options.images}"]
            done.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(f"N = {options.images}, range double, {len(os.sched_getaffinity(0))} cores, {options.rounds} rounds")
    print(f"{'way':<10} {'pairs':>10} {'seconds: median':>16} {'min':>7} {'max':>7} {'GiB: median':>12}")
    for way, done in runs.items():
        seconds = [run["seconds"] for run in done]
        gib = statistics.median(run["gib"] for run in done)
        print(
            f"{way:<10} {done[0]['pairs']:>10} {statistics.median(seconds):>16.2f} {min(seconds):>7.2f}"
            f" {max(seconds):>7.2f} {gib:>12.2f}"
        )


if __name__ == "__main__":
    main()
