"""A pass of narrow networks on a CPU, forward and backward: channels_last, bfloat16, and several seeds as one network.

python benchmarks/cpu_layouts.py --save=benchmarks/results/cpu_layouts.csv

Each way runs in a process of its own, since oneDNN crashes in channels_last on some shapes; a crash is told. Times are
medians of processor seconds on one thread. `grouped` is four networks as one with grouped convolutions, against four
one after the other. ResNet18, batches of 64 images.
"""

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import torch
from torch import nn

from brainreg import build_model

_BATCH, _TOGETHER, _LIMIT = 64, 4, 300
_SHAPES = ((4, 28), (8, 32), (16, 32))  # channels, pixels a side
WAYS = ("usual", "channels_last", "bfloat16", "bfloat16, channels_last", "grouped")


def pass_seconds(channels: int, size: int, way: str, repeats: int) -> float:
    """Return the seconds of a pass of one network."""
    torch.set_num_threads(1)
    together = _TOGETHER if way == "grouped" else 1
    network = build_model("ResNet18", together, 10, channels * together, size).train()
    if together > 1:
        _group(network, together)
    images = torch.rand(_BATCH, together, size, size)
    if "channels_last" in way:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(repeats):
        began = time.process_time()
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in way):
            loss = network(images).sum()
        loss.backward()
        times.append(time.process_time() - began)
    return sorted(times)[len(times) // 2] / together


def _group(network: nn.Module, groups: int) -> None:
    """Let the convolutions of a network of several times the channels be those of as many networks."""
    for module in [*network.modules()]:
        for name, one in [*module.named_children()]:
            if isinstance(one, nn.Conv2d):
                where = one.in_channels, one.out_channels, one.kernel_size, one.stride, one.padding
                setattr(module, name, nn.Conv2d(*where, bias=one.bias is not None, groups=groups))


def _run(send: "multiprocessing.connection.Connection", *arguments: int | str) -> None:
    send.send(pass_seconds(*arguments))


def measure(channels: int, size: int, way: str, repeats: int) -> float:
    """Return `pass_seconds`, measured in another process; NaN where that crashes or takes too long."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(send, channels, size, way, repeats))
    process.start()
    send.close()
    try:
        return receive.recv() if receive.poll(_LIMIT) else float("nan")
    except EOFError:  # it crashed
        return float("nan")
    finally:
        process.kill()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="passes of each way")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY")
    parser.add_argument("--shapes", nargs="+", default=[f"{c}x{s}" for c, s in _SHAPES], help="CHANNELSxPIXELS")
    parser.add_argument("--save", type=Path, help="CSV file: a row for each shape and way")
    flags = parser.parse_args()
    rows = []
    for shape in flags.shapes:
        channels, size = map(int, shape.split("x"))
        for way in flags.ways:
            seconds = measure(channels, size, way, flags.repeats)
            usual = next((row["seconds"] for row in rows if row["channels"] == channels), seconds)
            rows.append(
                {"channels": channels, "pixels": size, "way": way, "seconds": seconds, "times": usual / seconds}
            )
            told = (
                "crashed, or took too long"
                if seconds != seconds
                else f"{1e3 * seconds:.0f} ms, {usual / seconds:.2f} times"
            )
            print(f"{channels} channels, {size}x{size}, {way}: {told}", flush=True)
    if flags.save:
        pd.DataFrame(rows).round(5).to_csv(flags.save, index=False)


if __name__ == "__main__":
    main()
