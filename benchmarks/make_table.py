"""Train and measure many settings of a space to the end, and write every epoch down: a table to search in.

Other benchmarks let a search look its runs up in the table instead of training. Settings that
a search is given have the numbers -1, -2, ... Each seed has its own initialization, batches, split and attacked images;
`rest_accuracy` is the robust accuracy on the `rest_n` validation images that the objective does not attack. Seconds are
those of the processor: other work does not count, but lengthens them where cores share their parts. Interrupted, it
goes on with the runs that are missing; all settings of one seed come before those of the next.

    python benchmarks/make_table.py --settings=192 --save=benchmarks/results/digits_table.csv
    python benchmarks/make_table.py --settings=64 --seeds=8 --save=benchmarks/results/digits_runs.csv
    python benchmarks/make_table.py --space=narrow/mnist_mnist --settings=24 --seeds=6 --data_dir=data \
        --save=benchmarks/results/mnist_runs.csv
"""

import argparse
import multiprocessing
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import optuna
import pandas as pd
import torch

from brainreg.attacks import AutoAttack
from brainreg.hyperparameters import Hyperparameters
from brainreg.spaces.files import load_space
from brainreg.spaces.measurement import divide_images, measure_objective, measure_proxy
from brainreg.spaces.names import EARLY_STOPPED
from brainreg.spaces.space import Space
from brainreg.training.data import load_training_data
from brainreg.training.loop import train
from brainreg.training.step import to_float


def settings_of(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """The given settings, and others that cover a space evenly (a scrambled Sobol sequence), as Optuna drew them."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_asynchronous_seeding=False)
    study = optuna.create_study(sampler=sampler)
    rows = [
        {"setting": -1 - i, "hyperparameters": space.setting(name), "drawn": space.parameters(name)}
        for i, name in enumerate(space.given)
        if name != EARLY_STOPPED  # the unregularized setting, trained once more
    ]
    for number in range(count):
        trial = study.ask()
        rows.append({"setting": number, "hyperparameters": space(trial), "drawn": trial.params})
        study.tell(trial, 0.0)
    return rows


def tabulate(row: dict[str, Any], space: Space, data_dir: str) -> list[dict[str, Any]]:
    """Train one setting with one seed, and measure it."""
    torch.set_num_threads(1)
    settings = Hyperparameters(**row["hyperparameters"])
    began = time.process_time()
    data = load_training_data(settings, data_dir, "cpu")
    images, labels = to_float(data.valid_images), data.valid_labels
    lines, proxy_seconds = [], [0.0]

    def proxy(classifier: torch.nn.Module, metrics: dict[str, float]) -> dict[str, float]:
        before = time.process_time()
        measured = measure_proxy(space.objective, classifier, images, labels, settings.seed, metrics["valid_accuracy"])
        proxy_seconds[0] = time.process_time() - before
        return measured

    def on_epoch(metrics: dict[str, float]) -> None:
        if metrics["epoch"]:
            seconds = time.process_time() - began - proxy_seconds[0]
            lines.append({**metrics, "seconds": seconds, "proxy_seconds": proxy_seconds[0]})

    result = train(settings, data, device="cpu", on_epoch=on_epoch, measure=proxy)
    before = time.process_time()
    measured = measure_objective(space.objective, result.classifier, images, labels, settings.seed)
    measured["attack_seconds"] = time.process_time() - before
    rest = divide_images(space.objective, len(labels), settings.seed)[1][: space.objective.attack_image_num]
    measured["rest_n"], measured["rest_accuracy"] = len(rest), float("nan")
    if len(rest):
        outcome = AutoAttack.of(space.objective.attack)(
            result.classifier, images[rest], labels[rest], [space.objective.eps], seed=settings.seed
        )
        measured["rest_accuracy"] = outcome.correct[0].float().mean().item()
    names = (
        *("objective", "clean_accuracy", "robust_accuracy", "noise_accuracy", "attack_seconds"),
        *("rest_n", "rest_accuracy"),
    )
    final = {name: measured[name] for name in names}
    drawn = {space.parameter(key): row["drawn"].get(space.parameter(key)) for key in space.search}
    return [{"setting": row["setting"], "seed": settings.seed, **drawn, **line, **final} for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="digits_double")
    parser.add_argument("--settings", type=int, default=192)
    parser.add_argument("--seed", type=int, default=0, help="of the settings")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each setting, with the seeds 0, 1, ...")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--save", required=True)
    flags = parser.parse_args()
    space, path = load_space(flags.space), Path(flags.save)
    done = pd.read_csv(path).reindex(columns=["setting", "seed"]).fillna(0) if path.exists() else pd.DataFrame()
    done = {*done.astype(int).itertuples(index=False, name=None)}
    missing = [
        row | {"hyperparameters": {**row["hyperparameters"], "seed": seed}}
        for seed in range(flags.seeds)
        for row in settings_of(space, flags.settings, flags.seed)
        if (row["setting"], seed) not in done
    ]
    with multiprocessing.get_context("spawn").Pool(flags.processes) as pool:
        action = partial(tabulate, space=space, data_dir=flags.data_dir)
        for lines in pool.imap_unordered(action, missing):
            columns = pd.read_csv(path, nrows=0).columns if path.exists() else None
            pd.DataFrame(lines, columns=columns).to_csv(
                path, mode="a", header=columns is None, index=False, float_format="%.6g"
            )
            first = lines[0]
            print(f"setting {first['setting']}, seed {first['seed']}: objective {first['objective']:.3f}", flush=True)


if __name__ == "__main__":
    main()
