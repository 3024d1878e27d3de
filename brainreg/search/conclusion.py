"""The end of a search: what it recommends is shown, saved and attacked in full."""

import json
import shlex

import pandas as pd
from rich.console import Console

from brainreg._utils.commands import python_name
from brainreg._utils.console import make_printer
from brainreg._utils.flags import train_command
from brainreg.hyperparameters import Hyperparameters
from brainreg.recommendation.setting_table import Advice
from brainreg.records.results import (
    BEST,
    SETTINGS_TABLE,
    TABLE,
    rank_trials,
    recommended_trial,
    search_advice,
    settings_of,
)
from brainreg.records.trial import CHECKPOINT, FAILED, STOPPED, trial_name
from brainreg.search.final_attack import run_final_attack
from brainreg.search.plan import SearchPlan
from brainreg.search.summary import advice_lines, confirm_lines, front_lines, recommendation, settings_table
from brainreg.spaces.names import EARLY_STOPPED, PROPOSED, shown_name
from brainreg.storage import StorageError


def describe_settings_count(plan: SearchPlan) -> str:
    """Return how many settings a search has that uses up its space, in words."""
    return "one setting" if plan.num_samples == 1 else f"{plan.num_samples} settings, the given ones counted"


def conclude(plan: SearchPlan, results: pd.DataFrame, console: Console, interrupted: bool) -> None:
    """Show the settings and what is recommended, save its network, and attack it and the unregularized one in full."""
    say = make_printer(console)
    finished = rank_trials(results)
    if finished.empty:
        failed = results[results.state == FAILED]
        reason = f"; trial {failed.trial.iloc[0]}: {failed.error.iloc[0]}" if len(failed) else ""
        say(f"\nno trial finished{reason}")
        return
    if plan.used_up and not interrupted:
        say(f"\nthe space is used up: it has no more than {describe_settings_count(plan)}")
    objective, best, advice = plan.space.objective, recommended_trial(finished), search_advice(results, plan.space)
    say(
        f"\nobjective = {objective.rule} accuracy, on validation images ({best.clean_n} clean,"
        f" {best.robust_n} attacked)"
    )
    say(f"robust: {objective.attack.title}, eps {objective.eps:g}")
    optimized = "" if objective.noise_weight else " (not optimized)"
    say(f"noise{optimized}: {objective.noise}, eps {objective.noise_eps:g}")
    stopped = int((results.state == STOPPED).sum())
    if stopped:
        say(f"stopped early, and not counted: {stopped} of {len(results)} trials")
    console.print(settings_table(advice, plan.space.search))
    for line in advice_lines(advice, plan.space):
        say(line)
    if plan.strategy.objective == "pareto":
        for line in front_lines(advice):
            say(line)
    if plan.space.other_hyperparameters:
        shared = settings_of(best).model_copy(update={"reg_alpha": 0.0})
        say(
            f"searched beside the regularizer: {', '.join(plan.space.other_hyperparameters)}; the given settings have"
            " other values, so a gain over them is not the regularizer's alone. A confirmation has the unregularized"
            " network with the recommended values as a control; to train one now:"
        )
        say(f"  {_command(shared, plan)}")
    first = finished.iloc[0].setting
    if first and not interrupted and (finished.setting == PROPOSED).any():
        say(f"no proposed setting is expected to be better than the {shown_name(first)} one")
    if changes := plan.space.departures():
        listed = ", ".join(f"{key} {value}" for key, value in changes.items())
        say(f"the published trial departs from what was published: {listed}")
    _save_best(plan, best, advice)
    if plan.space.budget.final_attack_seconds > 0 and not interrupted:
        run_final_attack(plan, finished, console)
    say(f"\ntrials:   {plan.folder.path(TABLE)}")
    say(f"settings: {plan.folder.path(SETTINGS_TABLE)}")
    say(f"network:  {plan.folder.path(f'{BEST}/{CHECKPOINT}')}, of trial {best.trial}")
    if not interrupted and advice.recommended is not None:
        for line in confirm_lines(plan.folder.uri):
            say(line)
    say("next, that network's setting on the test images:")
    say(f"  {_train_command(best, plan)}")


def _train_command(trial: pd.Series, plan: SearchPlan) -> str:
    if (
        trial.setting == EARLY_STOPPED
    ):  # `brainreg train` chooses the best epoch otherwise: its network is measured as it is
        checkpoint = shlex.quote(plan.folder.path(f"{BEST}/{CHECKPOINT}"))
        return f"{python_name()} -m brainreg evaluate --checkpoint={checkpoint} --split=test"
    return _command(settings_of(trial), plan)


def _command(settings: Hyperparameters, plan: SearchPlan) -> str:
    return train_command(settings, None if plan.gpus_per_trial else plan.options.threads, plan.options.data_dir)


def _save_best(plan: SearchPlan, best: pd.Series, advice: Advice) -> None:
    content = plan.folder.read(f"{trial_name(best.trial)}/{CHECKPOINT}")
    if content is None:
        raise StorageError(f"{plan.folder.path(f'{trial_name(best.trial)}/{CHECKPOINT}')}: is gone")
    plan.folder.write(f"{BEST}/{CHECKPOINT}", content)
    plan.folder.write(f"{BEST}/command.txt", _train_command(best, plan) + "\n")
    numbers = recommendation(advice, plan.space)
    if numbers is not None:
        plan.folder.write(f"{BEST}/recommendation.json", json.dumps(numbers, indent=2) + "\n")
