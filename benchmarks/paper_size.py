"""The published recipe at its own width: a row of the published table, unregularized and regularized, on test images.

    python benchmarks/paper_size.py --row="CIFAR-10 - CIFAR-10" --seeds 201 202 203 --processes=6 \\
        --save=benchmarks/results/paper_size.csv

Trains each setting with each seed (64 channels, all training images, one cycle of the learning rate unless told
otherwise) and measures it on test images: clean and under noise on all of them, under FGSM, PGD and AutoAttack's
two APGD on `--attack_images` of them. A row of the CSV file is one accuracy of one network. What the file holds is not
trained again. Several networks share one GPU; CUDA's MPS (`nvidia-cuda-mps-control -d`) lets them compute at the same
time.
"""

import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import torch

from brainreg._utils.flags import Parser, run_command
from brainreg.attacks import AutoAttack
from brainreg.data.datasets import find_dataset
from brainreg.evaluation.accuracy import as_large_as_fits
from brainreg.evaluation.robustness import evaluate
from brainreg.evaluation.settings import Evaluation, attacked_images
from brainreg.hyperparameters import Hyperparameters
from brainreg.spaces.published import published_setting
from brainreg.training.checkpoint import fold_batchnorm
from brainreg.training.data import load_test_images, load_training_data
from brainreg.training.device import default_device, device_name
from brainreg.training.loop import train
from brainreg.training.step import to_float

STRENGTHS = (0.002, 0.004, 0.008)


def measure(name: str, settings: Hyperparameters, flags: dict[str, Any]) -> list[dict[str, Any]]:
    """Train a setting and measure it on test images: a row for each attack and strength."""
    torch.set_num_threads(1)
    device = default_device()
    data = load_training_data(settings, flags["data_dir"], device)
    began = time.monotonic()

    def say(metrics: dict[str, float]) -> None:
        done = f"{name}, seed {settings.seed}: epoch {metrics['epoch']} of {settings.epoch_num}"
        print(f"{done}, {time.monotonic() - began:.0f} s, accuracy {metrics['valid_accuracy']:.3f}", flush=True)

    result = train(settings, data, device=device, on_epoch=say)
    trained = time.monotonic()
    test = load_test_images(settings, flags["data_dir"])
    images, labels = to_float(test.tensor).to(device), test.labels.to(device)
    classifier, task = fold_batchnorm(result.classifier), find_dataset(settings.task)
    plan = Evaluation(
        attacks=("noise", "fgsm", "pgd"), eps=STRENGTHS, num_epsilons=3, num_images=flags["attack_images"],
        attack_minutes=5,
    )  # fmt: skip
    rows = evaluate(classifier, images, labels, task, plan, settings.seed).table.to_dict("records")
    attack = AutoAttack(version="custom", attacks=("apgd-ce", "apgd-t"), n_iter=20, n_target_classes=3)
    seen = attacked_images(len(labels), flags["attack_images"], settings.seed).to(device)
    outcome = as_large_as_fits(
        lambda size: attack(
            classifier, images[seen], labels[seen], STRENGTHS, seed=settings.seed, batch_size=size
        ),
        250,
    )  # fmt: skip
    rows += [
        {"attack": attack.title, "eps": eps, "n": len(seen), "correct": int(right.sum())}
        for eps, right in zip(STRENGTHS, outcome.correct, strict=True)
    ]
    facts = {
        "setting": name, "seed": settings.seed, "reg_alpha": settings.reg_alpha, "reg_thresh": settings.reg_thresh,
        "base_channels": settings.base_channels, "epochs": settings.epoch_num, "precision": settings.precision,
        "best_epoch": result.best_epoch, "training_seconds": round(trained - began, 1),
        "measuring_seconds": round(time.monotonic() - trained, 1),
        "machine": device_name(device), "torch": torch.__version__,
    }  # fmt: skip
    return [
        {**facts, "attack": row["attack"], "eps": row["eps"], "n": row["n"], "correct": row["correct"],
         "accuracy": row["correct"] / row["n"]}
        for row in rows
    ]  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--row", default="CIFAR-10 - CIFAR-10", help="of the published table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[201, 202, 203], help="of the trainings")
    parser.add_argument("--processes", type=int, default=1, help="networks at a time")
    parser.add_argument("--base_channels", type=int, default=64, help="width; the paper's is 64")
    parser.add_argument("--phase_duration", type=int, default=4, help="epochs a phase of the learning rate; paper: 4")
    parser.add_argument("--cycles", type=int, default=1, help="cycles of five phases; the paper's are 2")
    parser.add_argument("--train_image_num", type=int, help="train on so many images only")
    parser.add_argument("--precision", default="bfloat16", help="of training: bfloat16 or float32")
    parser.add_argument("--attack_images", type=int, default=500, help="test images that are attacked")
    parser.add_argument("--save", required=True, help="CSV file for the rows")
    parser.add_flag("data_dir", default="data", help="folder of the data sets")
    flags = parser.parse_args(arguments)
    path = Path(flags.save)
    kept = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["setting", "seed"])
    known = set(zip(kept["setting"], kept["seed"], strict=True))
    published = published_setting(flags.row)
    common = {
        "base_channels": flags.base_channels, "epoch_num": 5 * flags.phase_duration * flags.cycles,
        "phase_duration": flags.phase_duration, "precision": flags.precision, "train_image_num": flags.train_image_num,
    }  # fmt: skip
    jobs = []
    for seed in flags.seeds:
        for name, alpha in (("published", published["reg_alpha"]), ("unregularized", 0.0)):
            settings = Hyperparameters(**{**published, **common, "reg_alpha": alpha, "seed": seed})
            if (name, seed) not in known:
                jobs.append((name, settings, vars(flags)))
    print(f"{len(jobs)} networks to train, {len(known)} in {path}", flush=True)
    with multiprocessing.get_context("spawn").Pool(flags.processes, maxtasksperchild=1) as pool:
        for rows in pool.imap_unordered(_measure, jobs, chunksize=1):
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = pd.concat([kept, pd.DataFrame(rows)]) if len(kept) else pd.DataFrame(rows)
            kept.to_csv(path, index=False)
            first = rows[0]
            accuracies = ", ".join(f"{row['attack']} {row['eps']:g}: {row['accuracy']:.3f}" for row in rows)
            print(f"{first['setting']}, seed {first['seed']}: {accuracies}", flush=True)
            print(f"  trained in {first['training_seconds']} s, measured in {first['measuring_seconds']} s", flush=True)
    table = kept.groupby(["attack", "eps", "setting"], sort=False)["accuracy"].agg(["mean", "std", "count"])
    print(table.round(4).to_string())
    return 0


def _measure(job: tuple[str, Hyperparameters, dict[str, Any]]) -> list[dict[str, Any]]:
    return measure(*job)


if __name__ == "__main__":
    run_command(main)
