"""The last, strongest attack on the best and the unregularized network of a search."""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import ray
import torch
from rich.console import Console

from brainreg._utils.console import make_printer
from brainreg._utils.formats import format_duration
from brainreg.attacks.autoattack.attack import AutoAttack
from brainreg.attacks.resumable import attack_within
from brainreg.data.fingerprints import check_same_data
from brainreg.evaluation.accuracy import as_large_as_fits
from brainreg.evaluation.robustness import row
from brainreg.records.manifest import read_manifest
from brainreg.records.results import FINAL_TABLE, first_of_settings, recommended_trial
from brainreg.records.trial import CHECKPOINT, TrialFiles
from brainreg.search.plan import SearchPlan
from brainreg.spaces.measurement import divide_images
from brainreg.spaces.names import EARLY_STOPPED, UNREGULARIZED, shown_name
from brainreg.spaces.objective import Objective
from brainreg.spaces.space import Budget
from brainreg.storage import Storage
from brainreg.training.checkpoint import fold_batchnorm, load_classifier
from brainreg.training.data import load_training_data
from brainreg.training.step import to_float

# While the final attack runs, a line says so this often, in seconds.
_LINE_SECONDS = 30

# Where the attack took so many times the time that it was given, a line says why.
_LONGER = 1.5


def run_final_attack(plan: SearchPlan, finished: pd.DataFrame, console: Console) -> None:
    """Attack the recommended and the unregularized networks in full, side by side, on as many images as time allows.

    Args:
        plan: of the search.
        finished: its trials, of `rank_trials`.
        console: where to show it.
    """
    say = make_printer(console)
    budget, objective = plan.space.budget, plan.space.objective
    first = first_of_settings(finished)
    compared = first[first.setting.isin([UNREGULARIZED, EARLY_STOPPED])]
    chosen = pd.concat([recommended_trial(finished).to_frame().T, compared]).drop_duplicates("trial")
    limit = format_duration(budget.final_attack_seconds)
    say(f"\n{budget.final_attack.title}, eps {objective.eps:g}, for {limit} on each of {len(chosen)} trials ...")
    remote = ray.remote(num_cpus=plan.options.cpus_per_trial, num_gpus=plan.gpus_per_trial)(final_attack)
    data_dir = str(Path(plan.options.data_dir).resolve())
    waiting = [
        remote.remote(plan.folder.uri, number, data_dir, objective, budget, plan.options.threads, plan.device)
        for number in chosen.trial.tolist()
    ]
    began, left = time.monotonic(), waiting
    while left:
        _, left = ray.wait(left, num_returns=len(left), timeout=_LINE_SECONDS)
        if left:
            say(
                f"  {len(waiting) - len(left)} of {len(waiting)} done after {format_duration(time.monotonic() - began)}"
            )
    rows = [
        {"trial": trial.trial, "setting": trial.setting, **outcome}
        for trial, outcome in zip(chosen.itertuples(), ray.get(waiting), strict=True)
    ]
    plan.folder.write(FINAL_TABLE, pd.DataFrame(rows).to_csv(index=False))
    for outcome in rows:
        say(outcome_line(outcome, budget.final_attack_seconds))


def outcome_line(outcome: dict[str, Any], limit: float) -> str:
    """Return what is printed of one attacked trial.

    Args:
        outcome: a row of the table.
        limit: seconds that the attack was given.
    """
    attacked = "did not attack" if outcome["fresh"] else "attacked, too"
    longer = outcome["seconds"] > _LONGER * limit
    took = f"; {format_duration(outcome['seconds'])}, since a batch is attacked to its end" if longer else ""
    return (
        f"  trial {outcome['trial']} ({shown_name(outcome['setting']) or 'recommended'}): robust accuracy"
        f" {outcome['accuracy']:.3f}, 95% interval {outcome['low']:.3f} to {outcome['high']:.3f},"
        f" on {outcome['n']} validation images that the search {attacked}{took}"
    )


def final_attack(
    search: str, number: int, data_dir: str, objective: Objective, budget: Budget, threads: int, device: str
) -> dict[str, Any]:
    """Attack a trial's best network on validation images; those that the objective did not see come first.

    Returns:
        A row of a robustness table, and `fresh`: whether none of the images was attacked for an objective. (All
        validation images have a part in clean accuracy and in the choice of the best epoch.)
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        path = TrialFiles(Storage(search), number).folder.fetch(CHECKPOINT, temporary)
        classifier, settings = load_classifier(path)
    data = load_training_data(settings.model_copy(update={"reg_alpha": None}), data_dir)
    searched = read_manifest(Storage(search)).get("data")
    check_same_data(data.fingerprints, searched, f"--data_dir={data_dir}", "this search")
    seed = settings.seed
    seen, unseen = divide_images(objective, len(data.valid_labels), seed)
    order = unseen if len(unseen) else seen
    attacked = partial(
        attack_within,
        AutoAttack.of(budget.final_attack),
        fold_batchnorm(classifier).to(device),
        to_float(data.valid_images[order].to(device)),
        data.valid_labels[order].to(device),
        [objective.eps],
        seconds=budget.final_attack_seconds,
        seed=seed,
    )
    measured = as_large_as_fits(lambda size: attacked(batch_size=size), budget.final_attack_batch_size)
    outcome = row(budget.final_attack.title, objective.eps, measured.correct[0], measured.seconds, seed)
    return {**outcome, "fresh": bool(len(unseen))}
