"""Run the ten rows of the published table at a reduced size on real images, a line each.

python benchmarks/published_rows.py --data_dir=data

Each row is the published command with fewer channels, images and epochs, so that a CPU can run it; the accuracies
say that it runs and learns, and nothing of the published results. Other flags are passed on to `brainreg train`.
"""

import contextlib
import io
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from brainreg.commands import train
from brainreg.spaces.published import PUBLISHED_SETTINGS

REDUCED = (
    "--base_channels=4 --epoch_num=2 --train_image_num=3000 --reg_image_num=500 --num_images=10"
    " --num_epsilons=3 --attack_minutes=0.01"
)


def main(arguments: list[str]) -> None:
    print(f"each with {REDUCED}")
    for row in PUBLISHED_SETTINGS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            line = [f"--published={row}", *shlex.split(REDUCED), f"--save_dir={folder}", *arguments]
            status = train.main(line)
            summary = json.loads(next(Path(folder).glob("*/results.json")).read_text(encoding="utf-8"))
        settings = summary["hyperparameters"]
        print(
            f"{row:<28} alpha {settings['reg_alpha']:g}, Th {settings['reg_thresh']:g}: status {status},"
            f" test accuracy {summary['test_accuracy']:.3f}, {time.monotonic() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
