"""What is kept of a reproduced row, where the README's tables are made from."""

import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from brainreg._utils.files import make_folder
from brainreg._utils.formats import format_duration
from brainreg.analysis.alpha_th import ranges_as_good
from brainreg.analysis.comparison import compare_settings, describe_differences
from brainreg.errors import InputError
from brainreg.records.manifest import read_manifest
from brainreg.records.results import load_results
from brainreg.records.searches import CONFIRMATION
from brainreg.records.trial import FINISHED
from brainreg.reproduction.costs import Workload
from brainreg.storage import Storage

if TYPE_CHECKING:
    from brainreg.reproduction.row import Row

RECORD = "reproduction.json"
_FIGURES = ("comparison", "differences", "landscape", "robustness_curves")
_TRIALS, _ALPHA_TH, _CURVES = "trials.csv", "alpha_th.csv", "robustness_curves.csv"

# Columns of a search's table that say where it ran, or are told in full elsewhere.
_LEFT_OUT = ("checkpoint", "node", "epochs", "retries")


def publish(row: "Row", plan: dict[str, Any]) -> None:
    """Put what was found where it is kept: all of it, or nothing."""
    target = Path(row.save_dir) / row.name
    part = target.with_name(f"{target.name}.part")
    make_folder(f"--save_dir={row.save_dir}", part)
    manifest, results = read_manifest(Storage(row.search)), load_results(row.search)
    confirmation = pd.read_csv(row.search / CONFIRMATION)
    kept = results[[name for name in results.columns if name not in _LEFT_OUT]]
    kept = kept.assign(error=kept.error.str.split(":").str[0])  # what follows may name places of the machine
    try:
        kept.to_csv(part / _TRIALS, index=False)
        confirmation.to_csv(part / CONFIRMATION, index=False)
        for name in (_ALPHA_TH, _CURVES, *(f"{figure}.png" for figure in _FIGURES)):
            if (row.outcome / name).exists():
                shutil.copyfile(row.outcome / name, part / name)
        record = _record(row, plan, manifest, results, confirmation)
        (part / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        if target.exists():
            shutil.rmtree(target)
        os.replace(part, target)
    except OSError as error:
        raise InputError(
            f"--save_dir={row.save_dir}: cannot be written ({error.strerror}); when that is mended, the same"
            " command goes on"
        ) from error
    spent = sum(plan["wall_seconds"].values())
    print(f"\nall of it: {format_duration(spent)}; settings, numbers and figures: {target}\n", flush=True)
    print("\n".join(describe_differences(compare_settings(confirmation.assign(search=row.name)))), flush=True)


def _record(
    row: "Row", plan: dict[str, Any], manifest: Mapping[str, Any], results: pd.DataFrame, confirmation: pd.DataFrame
) -> dict[str, Any]:
    found = confirmation[confirmation["rank"] == 1]
    # An attack's seconds are of all its strengths; what both unregularized networks share has the very same seconds.
    trained = confirmation.drop_duplicates(["seed", "training_seconds"]).training_seconds.sum()
    attacked = confirmation.drop_duplicates(["seed", "attack", "seconds"]).seconds.sum()
    seeds, images = row.design(plan)
    flags = [f"--trials={len(results)}", f"--seeds={seeds}"]
    flags += [f"--images={images}"] if images != row.measurement.num_images else []
    own = {key: plan.get(key) for key in ("sampler_seed", "id", "precision")}
    if own["id"] == row.default_id:
        own["id"] = None
    flags += [f"--{key}={shlex.quote(str(value))}" for key, value in own.items() if value is not None]
    return {
        "row": Path(row.row).stem,
        "size": row.size,
        "command": f'make reproduce ROW={Path(row.row).stem} SIZE={row.size} ARGS="{" ".join(flags)}"',
        "id": plan.get("id", row.id),
        "space": manifest["space"],
        "strategy": manifest["strategy"],
        "seed": manifest["seed"],
        "trials": len(results),
        "found_trial": int(found.trial.iloc[0]),
        "as_good": ranges_as_good(results[results.state == FINISHED]),
        "planned_seeds": seeds,
        "confirmed_seeds": sorted(int(seed) for seed in confirmation.seed.unique()),
        "versions": manifest["versions"],
        "data": plan.get("data", {}),
        "devices": plan["devices"],
        "at_a_time": plan["at_a_time"],
        "date": time.strftime("%Y-%m-%d"),
        "seconds": {
            "estimated": round(Workload(**plan["workload"]).seconds),
            "wall": {name: round(value) for name, value in plan["wall_seconds"].items()},
            "trials": round(float(results.seconds.sum())),
            "confirmed_networks": round(float(trained + attacked)),
        },
    }
