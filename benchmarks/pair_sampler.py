"""Time and memory of drawing pairs without a list of all of them, at several N, on real images.

python benchmarks/pair_sampler.py --data_dir=data [--task=CIFAR10] [--images 5000 50000] [--device=cpu]

For each N and range: seconds until the first batch can be drawn, milliseconds a batch after that (k = 16, mean
over 500), and the peak memory above what the process held once the images were there. Each in a process of its own.
The last column is the count of the selected pairs, exact where they are listed.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# Ranges that select many pairs, some, and few of natural images.
RANGES = (
    {"reg_range": "all", "reg_thresh": 0.8},
    {"reg_range": "low", "reg_thresh": 0.25},
    {"reg_range": "low", "reg_thresh": 0.02},  # the most pairs that are listed
    {"reg_range": "double", "reg_thresh": 0.8, "reg_thresh_2": 0.1},
    {"reg_range": "high", "reg_thresh": 0.7},
    {"reg_range": "high", "reg_thresh": 0.8},
    {"reg_range": "high_positive", "reg_thresh": 0.9},
)
BATCHES = 500


def measure(options: argparse.Namespace) -> dict[str, float | str]:
    """Draw from one range, in this process."""
    import torch

    from brainreg.data.load import load_dataset
    from brainreg.method.sampler import PairSampler

    images = load_dataset(options.task, "train", options.data_dir)[0][: options.images[0]].clone()
    device = torch.device(options.device)
    next(PairSampler(images[:100], reg_thresh=0.5, batch_size=16, device=device))  # first calls are not measured
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
    began = time.perf_counter()
    sampler = PairSampler(images, **RANGES[options.measure], batch_size=16, device=device)
    next(sampler)
    if device.type == "cuda":
        torch.cuda.synchronize()
    ready = time.perf_counter() - began
    began = time.perf_counter()
    for batch in itertools.islice(sampler, BATCHES):
        batch[2].sum().item()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"ready": ready, "batch": 1000 * seconds / BATCHES, "gib": max(peak - before, 0), "pairs": str(sampler)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="CIFAR10")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 50_000])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options)))
        return
    print(f"{options.task}, device {options.device}, {len(os.sched_getaffinity(0))} cores, k = 16")
    print(f"{'N':>6} {'range':<22} {'ready s':>8} {'batch ms':>9} {'GiB':>5}  selected pairs")
    for count in options.images:
        for number, thresholds in enumerate(RANGES):
            command = [sys.executable, __file__, f"--measure={number}", f"--images={count}", f"--task={options.task}"]
            command += [f"--data_dir={options.data_dir}", f"--device={options.device}"]
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(ended.stdout.splitlines()[-1])
            name = " ".join(str(value) for value in thresholds.values())
            print(
                f"{count:>6} {name:<22} {found['ready']:>8.2f} {found['batch']:>9.2f} {found['gib']:>5.2f}"
                f"  {found['pairs']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
