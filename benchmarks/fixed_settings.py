"""Settings of a space that nobody searched, with several seeds, on test images: the published one and its rivals.

    python benchmarks/fixed_settings.py --space=narrow/cifar10_cifar10 --data_dir=data --processes=2 \\
        --settings unregularized published early_stopped adversarial_eps=0.008 augment_noise=0.1 \\
        --seeds 201 202 203 --save=benchmarks/results/cifar10_settings.csv

The published recipe at its own width, on a GPU:

    python benchmarks/fixed_settings.py --space=cifar10_cifar100 --settings unregularized published \\
        --set valid_portion=0.01 precision=bfloat16 --seeds 201 202 203 --processes=6 --save=paper_size.csv

A setting is a given one of the space (unregularized, early_stopped: the unregularized one whose epoch is chosen by the
space's objective, published), or KEY=VALUE, the unregularized one with that hyperparameter. Each network is measured
clean and under noise on all test images, and under AutoAttack's two APGD at half, once and one and a half times the
space's eps on `--attack_images` of them, others for each seed. A row of the CSV file is one accuracy of one network.
What the file holds is not trained again. Several networks share one GPU; CUDA's MPS (`nvidia-cuda-mps-control -d`)
lets them compute at the same time.
"""

import multiprocessing
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import torch

from brainreg._utils.flags import Parser, run_command
from brainreg.analysis.averages import over_seeds
from brainreg.attacks import AutoAttack
from brainreg.data.datasets import find_dataset
from brainreg.errors import checked_value
from brainreg.evaluation.accuracy import as_large_as_fits
from brainreg.evaluation.plan import attacked_images
from brainreg.evaluation.robustness import evaluate
from brainreg.evaluation.settings import Evaluation
from brainreg.hyperparameters import Hyperparameters
from brainreg.spaces.files import load_space
from brainreg.spaces.measurement import EPOCH_OBJECTIVE, objective_by_epoch
from brainreg.spaces.names import EARLY_STOPPED, UNREGULARIZED
from brainreg.spaces.space import Space
from brainreg.training.checkpoint import fold_batchnorm
from brainreg.training.data import load_test_images, load_training_data
from brainreg.training.device import default_device, device_name
from brainreg.training.loop import train
from brainreg.training.step import to_float

FACTORS = (0.5, 1, 1.5)


def value_of(text: str) -> dict[str, Any]:
    """The hyperparameter that KEY=VALUE gives."""
    key, _, value = text.partition("=")
    return {key: checked_value(Hyperparameters, key, value, key)}


def settings_of(space: Space, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a given setting, or of KEY=VALUE."""
    if "=" in name:
        return {**space.setting(UNREGULARIZED), **changes, **value_of(name)}
    return {**space.setting(name), **changes}


def measure(job: tuple[str, Hyperparameters], space: Space, data_dir: str, images_num: int) -> list[dict[str, Any]]:
    """Train a setting and measure it on test images: a row for each attack and strength."""
    name, settings = job
    torch.set_num_threads(1)
    device, objective = default_device(), space.objective
    data = load_training_data(settings, data_dir, device)
    began = time.monotonic()

    def say(metrics: dict[str, float]) -> None:
        done = f"{name}, seed {settings.seed}: epoch {metrics['epoch']} of {settings.epoch_num}"
        print(f"{done}, {time.monotonic() - began:.0f} s, accuracy {metrics['valid_accuracy']:.3f}", flush=True)

    choice = {}
    if name == EARLY_STOPPED:
        valid_images, valid_labels = to_float(data.valid_images.to(device)), data.valid_labels.to(device)
        by_epoch = objective_by_epoch(objective, valid_images, valid_labels, settings.seed)
        choice = {"measure": by_epoch, "choose_by": EPOCH_OBJECTIVE}
    result = train(settings, data, device=device, on_epoch=say, **choice)
    trained = time.monotonic()
    test = load_test_images(settings, data_dir)
    images, labels = to_float(test.tensor).to(device), test.labels.to(device)
    classifier, task = fold_batchnorm(result.classifier), find_dataset(settings.task)
    plan = Evaluation(attacks=("noise",), num_epsilons=3, noise_eps=(objective.noise_eps,))
    rows = evaluate(classifier, images, labels, task, plan, settings.seed).table.to_dict("records")
    attack = AutoAttack(version="custom", attacks=("apgd-ce", "apgd-t"), n_iter=20, n_target_classes=3)
    seen = attacked_images(len(labels), images_num, settings.seed).to(device)
    strengths = [round(factor * objective.eps, 9) for factor in FACTORS]
    outcome = as_large_as_fits(
        lambda size: attack(classifier, images[seen], labels[seen], strengths, seed=settings.seed, batch_size=size), 250
    )
    rows += [
        {"attack": attack.title, "eps": eps, "n": len(seen), "correct": int(right.sum())}
        for eps, right in zip(strengths, outcome.correct, strict=True)
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


def show(table: pd.DataFrame) -> None:
    """Print means over seeds with 95% intervals, in percent."""
    means = over_seeds(table, ("attack", "eps", "setting"))
    means["shown"] = [
        f"{100 * one.accuracy:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]" for one in means.itertuples()
    ]
    print(means.pivot(index=["attack", "eps"], columns="setting", values="shown").to_string())


def main(arguments: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--space", default="narrow/cifar10_cifar10", help="whose sizes, eps and noise are taken")
    parser.add_argument("--settings", nargs="+", default=[UNREGULARIZED, "published"], help="given ones, or KEY=VALUE")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="hyperparameters of all of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[201, 202, 203], help="of the trainings")
    parser.add_argument("--processes", type=int, default=1, help="networks at a time")
    parser.add_argument("--attack_images", type=int, default=200, help="test images that are attacked")
    parser.add_argument("--save", required=True, help="CSV file for the rows")
    parser.add_flag("data_dir", default="data", help="folder of the data sets")
    flags = parser.parse_args(arguments)
    path, space = Path(flags.save), load_space(flags.space)
    kept = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["setting", "seed"])
    known = set(zip(kept["setting"], kept["seed"], strict=True))
    changes = {key: value for text in flags.set for key, value in value_of(text).items()}
    jobs = [
        (name, Hyperparameters(**{**settings_of(space, name, changes), "seed": seed}))
        for seed in flags.seeds
        for name in flags.settings
        if (name, seed) not in known
    ]
    print(f"{len(jobs)} networks to train, {len(known)} in {path}", flush=True)
    action = partial(measure, space=space, data_dir=flags.data_dir, images_num=flags.attack_images)
    with multiprocessing.get_context("spawn").Pool(flags.processes, maxtasksperchild=1) as pool:
        for rows in pool.imap_unordered(action, jobs, chunksize=1):
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = pd.concat([kept, pd.DataFrame(rows)]) if len(kept) else pd.DataFrame(rows)
            kept.to_csv(path, index=False)
            first = rows[0]
            accuracies = ", ".join(f"{row['attack']} {row['eps']:g}: {row['accuracy']:.3f}" for row in rows)
            print(f"{first['setting']}, seed {first['seed']}: {accuracies}", flush=True)
            print(f"  trained in {first['training_seconds']} s, measured in {first['measuring_seconds']} s", flush=True)
    show(kept)
    return 0


if __name__ == "__main__":
    run_command(main)
