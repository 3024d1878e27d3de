"""How well the cheap proxy of the robust accuracy ranks trained networks, against the full evaluation.

python benchmarks/proxy.py --models=24 --standard=60 --save=benchmarks/results/proxy.csv

Settings are drawn at random from a space, the unregularized one is among them; each network is trained for real. The
proxy is measured half way through the training and at its end, on the first few of the images that the full evaluation
attacks; Kendall's tau compares the rankings. With `--standard`, AutoAttack's standard version runs on some of those
images too, and is compared with.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import optuna
import pandas as pd
import torch
from scipy.stats import kendalltau

from brainreg._utils.flags import Parser, run_command, use_threads
from brainreg.attacks.noise import add_noise
from brainreg.evaluation.accuracy import correct, robust_accuracy
from brainreg.evaluation.proxy import proxy_accuracy
from brainreg.hyperparameters import Hyperparameters
from brainreg.spaces.files import load_space
from brainreg.spaces.measurement import divide_images, measure_objective
from brainreg.spaces.names import UNREGULARIZED
from brainreg.training.data import load_training_data
from brainreg.training.device import default_device, device_name
from brainreg.training.loop import train
from brainreg.training.step import to_float

IMAGES = (50, 100)


def main(arguments: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_flag("space", default="digits_double", help="space that the settings are drawn from")
    parser.add_argument("--models", type=int, default=24, help="networks to train")
    parser.add_argument("--standard", type=int, default=0, help="images that AutoAttack standard attacks, too")
    parser.add_argument("--save", help="CSV file for the numbers")
    parser.add_flag("threads", help="CPU threads")
    parser.add_flag("data_dir", default="data", help="folder of the data sets")
    flags = parser.parse_args(arguments)
    use_threads(flags.threads)
    space = load_space(flags.space)
    objective = space.objective
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    machine = device_name(default_device())
    print(
        f"{objective.attack.title}, eps {objective.eps:g}, {objective.attack_image_num} images; {machine}", flush=True
    )

    rows = []
    for number in range(flags.models):
        setting = space(study.ask()) if number else space.setting(UNREGULARIZED)
        settings = Hyperparameters(**setting)
        half = settings.model_copy(update={"epoch_num": (settings.epoch_num + 1) // 2})
        data = load_training_data(settings, flags.data_dir)
        row = {"model": number, "reg_alpha": settings.reg_alpha or 0.0, "reg_thresh": settings.reg_thresh}
        with tempfile.TemporaryDirectory() as folder:
            for when, part in (("half", half), ("end", settings)):
                classifier = train(part, data, checkpoint=Path(folder) / "checkpoint.pt").classifier
                device = next(classifier.parameters()).device
                images, labels = to_float(data.valid_images.to(device)), data.valid_labels.to(device)
                attacked, _ = divide_images(objective, len(labels), settings.seed)
                noised = add_noise(objective.noise, images, objective.noise_eps, settings.seed)
                clean, noise = (correct(classifier, one, labels).float().mean().item() for one in (images, noised))
                for n in IMAGES:
                    began = time.monotonic()
                    proxy = proxy_accuracy(classifier, images[attacked[:n]], labels[attacked[:n]], eps=objective.eps)
                    row[f"proxy_{when}_{n}"] = proxy
                    row[f"proxy_objective_{when}_{n}"] = objective.combined(clean, proxy, noise)
                    row[f"proxy_seconds_{when}_{n}"] = time.monotonic() - began
        measured = measure_objective(objective, classifier, images, labels, settings.seed)
        if flags.standard:
            some, began = attacked[: flags.standard], time.monotonic()
            row["standard_accuracy"] = robust_accuracy(classifier, images[some], labels[some], eps=objective.eps)
            row["standard_seconds"] = time.monotonic() - began
        rows.append({**row, **measured})
        print(
            f"{number:>3} alpha {row['reg_alpha']:<9.3g} objective {measured['objective']:.3f}, robust"
            f" {measured['robust_accuracy']:.3f}, proxy {row[f'proxy_end_{IMAGES[-1]}']:.3f}",
            flush=True,
        )
    table = pd.DataFrame(rows)
    print(f"\nKendall's tau with the full evaluation, over {len(table)} networks; median seconds")
    full = table.attack_seconds.median()
    print(f"{'proxy':<24} {'robust accuracy':>16} {'objective':>10} {'seconds':>8}   (full: {full:.1f})")
    for when in ("half", "end"):
        for n in IMAGES:
            robust = kendalltau(table[f"proxy_{when}_{n}"], table.robust_accuracy).statistic
            whole = kendalltau(table[f"proxy_objective_{when}_{n}"], table.objective).statistic
            seconds = table[f"proxy_seconds_{when}_{n}"].median()
            print(f"{f'{n} images, {when}':<24} {robust:>16.2f} {whole:>10.2f} {seconds:>8.2f}")
    if flags.standard:
        others = (f"proxy_half_{IMAGES[-1]}", f"proxy_end_{IMAGES[-1]}", "robust_accuracy")
        taus = [f"{name} {kendalltau(table[name], table.standard_accuracy).statistic:.2f}" for name in others]
        seconds = table.standard_seconds.median()
        print(f"with AutoAttack standard on {flags.standard} images ({seconds:.0f} s): {', '.join(taus)}")
    if flags.save:
        Path(flags.save).parent.mkdir(parents=True, exist_ok=True)
        table.assign(
            space=space.name, attack=objective.attack.title, machine=machine, threads=torch.get_num_threads(),
            torch=torch.__version__, date=time.strftime("%Y-%m-%d"),
        ).to_csv(flags.save, index=False)  # fmt: skip
    return 0


if __name__ == "__main__":
    run_command(main)
