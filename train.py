"""Train one network with the pixel-similarity regularizer, and measure its accuracy and robustness.

python train.py --task=CIFAR10 --archi=ResNet18 --reg_data=CIFAR10 --reg_alpha=10 --reg_thresh=0.8
python train.py --task=digits --base_channels=8 --epoch_num=8 --resnet_batch_size=16
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

import brainreg
from brainreg.cli import Parser, check_writable, from_flags, run, write_text
from brainreg.data import find_dataset, load_dataset
from brainreg.errors import InputError
from brainreg.evaluation import Evaluation, evaluate
from brainreg.hyperparameters import Hyperparameters
from brainreg.published import published_setting
from brainreg.training import DivergedError, default_device, load_training_data, to_float, train

_LOG_SECONDS = 20
_MOST_THREADS = 1024
_SUMMARY, _TABLE = "results.json", "robustness.csv"


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = Parser(__doc__)
    parser.add_flag("published", help='row of the published table, say "CIFAR-10 - ImageNet"; other flags change it')
    parser.add_flags(Hyperparameters, "hyperparameters")
    parser.add_flags(Evaluation, "evaluation on the test images")
    parser.add_flag("data_dir", default="data", help="folder of the data sets (default: data)")
    parser.add_flag("save_dir", default="runs", help="folder of the runs' folders (default: runs)")
    parser.add_flag("threads", help="CPU threads; the same number repeats a run exactly (default: PyTorch's)")
    parser.add_flag("ignore_existing", action="store_true", help="repeat a run that is already in save_dir")
    flags = parser.parse_args(arguments)
    published = published_setting(flags.published) if flags.published is not None else {}
    settings, evaluation = from_flags(Hyperparameters, flags, **published), from_flags(Evaluation, flags)

    if flags.threads is not None:
        if not (flags.threads.isdigit() and 0 < int(flags.threads) <= _MOST_THREADS):
            raise InputError(f"--threads={flags.threads}: must be a whole number from 1 to {_MOST_THREADS}")
        torch.set_num_threads(int(flags.threads))
    folder = Path(flags.save_dir) / run_name(settings)

    # Everything that can be wrong with the data is found before anything is written.
    data = load_training_data(settings, flags.data_dir)
    asked = {
        "hyperparameters": settings.model_dump(),
        "evaluation": evaluation.model_dump(),
        "data": data.fingerprint,
    }
    if not flags.ignore_existing and (finished := _read_summary(folder)) and asked.items() <= finished.items():
        print(f"already done (--ignore_existing repeats it): {folder}")
        _show(finished, pd.read_csv(folder / _TABLE), folder)
        return 0

    task = find_dataset(settings.task)
    test_images, test_labels = load_dataset(settings.task, "test", flags.data_dir, settings.rgb)
    if test_images.shape[-2:] != data.valid_images.shape[-2:]:
        sizes = [f"{height}x{width}" for height, width in (data.valid_images.shape[-2:], test_images.shape[-2:])]
        raise InputError(f"--task={settings.task}: training images of {sizes[0]}, test images of {sizes[1]}")
    check_writable("--save_dir", flags.save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    if flags.ignore_existing:
        (folder / _SUMMARY).unlink(missing_ok=True)
        checkpoint.unlink(missing_ok=True)

    device = default_device()
    print(f"{len(data.train_indices)} training, {len(data.valid_labels)} validation, {len(test_labels)} test images")
    if data.pairs is not None:
        count = settings.reg_image_num
        print(f"{data.pairs.sampler} pairs of {count:,} images regularize")
    began = time.monotonic()
    with tqdm(unit="step", leave=False, disable=not sys.stderr.isatty()) as bar:

        def on_step(step: int, steps: int) -> None:
            bar.total = steps
            bar.update(step - bar.n)

        def on_epoch(metrics: dict[str, float]) -> None:
            tqdm.write(_epoch_line(metrics, settings.epoch_num, time.monotonic() - began))
            bar.reset()

        try:
            result = train(settings, data, device=device, checkpoint=checkpoint, on_epoch=on_epoch, on_step=on_step)
        except DivergedError as error:
            print(f"error: diverged in {error}", file=sys.stderr)
            return 1
    seconds = time.monotonic() - began
    pd.DataFrame(result.history).to_csv(folder / "epochs.csv", index=False)

    with tqdm(bar_format="{desc} ({elapsed})", leave=False, disable=not sys.stderr.isatty()) as bar:
        rows = evaluate(
            result.classifier,
            to_float(test_images).to(device),
            test_labels.to(device),
            task,
            evaluation,
            settings.seed,
            on_progress=_follow(bar),
        )
    robustness = pd.DataFrame(rows)
    robustness.to_csv(folder / _TABLE, index=False)
    summary = {
        **asked,
        "best_epoch": result.best_epoch,
        "test_accuracy": rows[0]["accuracy"],
        "training_seconds": seconds,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "versions": {"brainreg": brainreg.__version__, **{name: version(name) for name in ("torch", "pyautoattack")}},
    }
    write_text(folder / _SUMMARY, json.dumps(summary, indent=2) + "\n")
    _show(summary, robustness, folder)
    return 0


def run_name(settings: Hyperparameters) -> str:
    """Return the name of a run's folder: what one looks for, and a digest of all settings."""
    parts = [Path(settings.task).name, settings.archi.replace(":", "-")]
    if settings.regularized:
        parts += [f"alpha{settings.reg_alpha:g}", settings.reg_range, f"Th{settings.reg_thresh:g}"]
    digest = hashlib.sha256(json.dumps(settings.model_dump(), sort_keys=True).encode()).hexdigest()[:8]
    return "_".join([*parts, f"seed{settings.seed}", digest])


def _follow(bar: tqdm) -> Callable[[str], None]:
    """A function that shows what is being evaluated: in place in a terminal, now and then in a log."""
    said = time.monotonic()

    def say(text: str) -> None:
        nonlocal said
        bar.set_description_str(f"evaluating: {text}")
        if bar.disable and time.monotonic() - said > _LOG_SECONDS:
            print(f"evaluating: {text}", flush=True)
            said = time.monotonic()

    return say


def _read_summary(folder: Path) -> dict[str, Any]:
    """What a finished run left; nothing where it is missing or damaged, so that the run is repeated."""
    if not (folder / _TABLE).is_file():
        return {}
    try:
        summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def _epoch_line(metrics: dict[str, float], epochs: int, seconds: float) -> str:
    line = f"epoch {metrics['epoch']}/{epochs}: "
    if "lr" in metrics:
        line += f"lr {metrics['lr']:.3g}, cross-entropy {metrics['cross_entropy']:.3f}, "
        line += f"similarity loss {metrics['similarity_loss']:.3f}, "
    line += f"validation cross-entropy {metrics['valid_cross_entropy']:.3f}, accuracy {metrics['valid_accuracy']:.3f}"
    return f"{line} ({seconds:.0f} s)"


def _show(summary: dict[str, Any], robustness: pd.DataFrame, folder: Path) -> None:
    """Print the numbers of a finished run, and where they are."""
    clean = robustness.iloc[0]
    print(f"best epoch {summary['best_epoch']}")
    print(f"test accuracy {clean.accuracy:.4f} (95% interval {clean.low:.4f} to {clean.high:.4f}, {clean.n} images)")
    for name, curve in robustness.iloc[1:].groupby("attack", sort=False):
        if len(curve) > 1:
            print(
                f"{name} noise, accuracy at eps: "
                + ", ".join(f"{row.eps:.3g}: {row.accuracy:.3f}" for row in curve.itertuples())
            )
            continue
        attacked = curve.iloc[0]
        print(
            f"{name}, eps {attacked.eps:g}: robust accuracy {attacked.accuracy:.3f}"
            f" (95% interval {attacked.low:.3f} to {attacked.high:.3f}, {attacked.n} images)"
        )
    print(f"checkpoint: {folder / 'checkpoint.pt'}")
    print(f"numbers:    {folder / _SUMMARY}, {folder / _TABLE}, {folder / 'epochs.csv'}")


if __name__ == "__main__":
    run(main)
