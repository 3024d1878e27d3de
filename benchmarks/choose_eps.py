"""Robust accuracy of unregularized networks over strengths, to choose a space's eps by.

python benchmarks/choose_eps.py --task=digits --base_channels=8 --epoch_num=20 --valid_portion=0.25 \\
    --eps 0.05 0.1 0.15 --seeds 0 1 2

A space's eps should leave an unregularized network between 20% and 80% of its images: at 0% or 100% all
settings look alike. Any hyperparameter is a flag. The attack is AutoAttack's custom version of APGD-CE and
targeted APGD (20 steps, 3 targets) unless `--standard` asks for all of it.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from brainreg._utils.flags import Parser, given_values, run_command
from brainreg.attacks import AutoAttack, add_noise
from brainreg.evaluation.accuracy import correct
from brainreg.hyperparameters import Hyperparameters
from brainreg.spaces.measurement import divide_images
from brainreg.spaces.objective import Objective
from brainreg.training.data import load_training_data
from brainreg.training.loop import train
from brainreg.training.step import to_float

SHORT = AutoAttack(version="custom", attacks=("apgd-ce", "apgd-t"), n_iter=20, n_target_classes=3)


def main(arguments: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--eps", type=float, nargs="+", required=True, help="strengths of the attack")
    parser.add_argument("--noise", type=float, nargs="+", default=[], help="strengths of Gaussian noise")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the runs")
    parser.add_argument("--images", type=int, default=200, help="validation images that are attacked")
    parser.add_argument("--standard", action="store_true", help="AutoAttack standard")
    parser.add_flag("data_dir", default="data", help="folder of the data sets")
    parser.add_flags(Hyperparameters, "hyperparameters", skip=("seed",))
    flags = parser.parse_args(arguments)
    attack = AutoAttack() if flags.standard else SHORT
    print(f"{attack.title}, {flags.images} validation images, seeds {flags.seeds}")
    found: dict[str, list[float]] = {}
    for seed in flags.seeds:
        settings = Hyperparameters(**{**given_values(Hyperparameters, flags), "seed": seed})
        data = load_training_data(settings, flags.data_dir)
        began = time.monotonic()
        classifier = train(settings, data).classifier
        device = next(classifier.parameters()).device
        images, labels = to_float(data.valid_images).to(device), data.valid_labels.to(device)
        print(f"seed {seed}: trained in {time.monotonic() - began:.0f} s", flush=True)
        found.setdefault("clean", []).append(correct(classifier, images, labels).float().mean().item())
        for eps in flags.noise:
            noisy = correct(classifier, add_noise("Gaussian", images, eps, seed), labels)
            found.setdefault(f"Gaussian noise {eps:g}", []).append(noisy.float().mean().item())
        objective = Objective(eps=1, noise_eps=1, attack_image_num=flags.images)
        chosen, _ = divide_images(objective, len(labels), seed)
        strengths = sorted(flags.eps)
        outcome = attack(classifier, images[chosen], labels[chosen], strengths, seed=seed)
        for eps, survived in zip(strengths, outcome.correct, strict=True):
            found.setdefault(f"eps {eps:g}", []).append(survived.float().mean().item())
    for name, accuracies in found.items():
        print(f"{name:<20} mean {statistics.mean(accuracies):.3f}  " + " ".join(f"{value:.3f}" for value in accuracies))
    return 0


if __name__ == "__main__":
    run_command(main)
