"""Final accuracy in float32 and in bfloat16, over seeds, on the digits, regularized.

python benchmarks/precision.py --seeds=6
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

from brainreg.hyperparameters import Hyperparameters
from brainreg.training.data import load_training_data
from brainreg.training.loop import train

SETTINGS = {
    "task": "digits", "base_channels": 4, "epoch_num": 6, "phase_duration": 2, "valid_portion": 0.1, "reg_alpha": 1,
    "reg_thresh": 0.5, "reg_image_num": 60, "reg_batch_size": 8,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    flags = parser.parse_args()
    rows = []
    for seed in range(flags.seeds):
        for precision in ("float32", "bfloat16"):
            settings = Hyperparameters(**SETTINGS, seed=seed, precision=precision)
            last = train(settings, load_training_data(settings), device="cpu").history[-1]
            names = ("valid_accuracy", "cross_entropy", "similarity_loss")
            rows.append({"precision": precision, **{name: last[name] for name in names}})
    frame = pd.DataFrame(rows).groupby("precision", sort=False).agg(["mean", "std"])
    print(frame.round(3).to_string())


if __name__ == "__main__":
    main()
