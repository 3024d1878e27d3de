"""Search the hyperparameters of the pixel-similarity regularizer.

brainreg tune --space=digits_double
brainreg tune --space=cifar10_double --data_dir=data --gpus-per-trial=0.5
brainreg tune --resume=NAME
brainreg tune --status=NAME
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from brainreg._utils.console import make_console, make_printer
from brainreg._utils.flags import Parser, from_flags, given_values
from brainreg.commands import spaces
from brainreg.errors import InputError, checked_value
from brainreg.hyperparameters import Hyperparameters
from brainreg.search.options import SearchOptions
from brainreg.search.strategy import Strategy
from brainreg.spaces.files import load_space, space_names
from brainreg.spaces.names import shown_name
from brainreg.spaces.objective import Objective
from brainreg.spaces.space import Budget, Space

if TYPE_CHECKING:
    from brainreg.search.costs import SearchCosts
    from brainreg.search.plan import SearchPlan


def main(arguments: Sequence[str], label: str = "--resume") -> int:
    """Run the command line; return its exit status.

    Args:
        arguments: of the command line.
        label: what an error calls the search to go on with.
    """
    parser = Parser(__doc__)
    parser.add_flag("space", help="name of a space in search_spaces/, or path of a space file")
    parser.add_flag("resume", help="name or folder of a search that was interrupted: go on with it")
    parser.add_flag(
        "resume-if-begun",
        action="store_true",
        help="go on with the search --name where it was begun, else begin it: for what runs a command again",
    )
    parser.add_flag("status", help="name or folder of a search: show how far it is, and exit")
    parser.add_flag("list-spaces", action="store_true", help="list the spaces and exit")
    parser.add_flag("dry-run", action="store_true", help="check everything, show what would run, and exit")
    parser.add_flag("objective-weight", help="w, weight of the clean accuracy in the objective (default: the space's)")
    parser.add_flags(Strategy, "how it searches")
    parser.add_flags(SearchOptions, "the search")
    parser.add_flags(Objective, "the objective", skip=("weight", "attack"), default="the space's")
    parser.add_flags(Budget, "the attack at the end", skip=("num_samples", "final_attack"), default="the space's")
    parser.add_flags(Hyperparameters, "hyperparameters, fixed in every trial", default="the space's")
    flags = parser.parse_args(arguments)
    console = make_console()
    if flags.list_spaces:
        return spaces.main([])
    from brainreg.search.folders import find_search, is_begun  # here and below: slow, and no help needs it

    storage_path = from_flags(SearchOptions, flags).storage_path
    if flags.status is not None:
        from brainreg.search.status import show_status

        show_status(find_search(flags.status, storage_path, "--status"), console)
        return 0
    if flags.resume_if_begun:
        if "name" not in flags:
            raise InputError("--resume_if_begun: names no search; give --name")
        if is_begun(flags.name, storage_path):
            flags.resume = flags.__dict__.pop("name")
    if flags.resume is None and flags.space is None:
        raise InputError(f"--space: missing; known: {', '.join(space_names())}, or the path of a space file")
    if flags.resume is not None and "name" in flags:
        raise InputError(f"--name={flags.name}: a search that is resumed keeps its name")
    begun = find_search(flags.resume, storage_path, label) if flags.resume is not None else None
    from brainreg.records.trial import FINISHED
    from brainreg.search.plan import plan_resume, plan_search
    from brainreg.search.run import is_done, run_search

    if begun is not None:
        plan = plan_resume(
            begun,
            given_values(SearchOptions, flags),
            lambda stored: _override(load_space(flags.space) if flags.space else stored, flags),
            given_values(Strategy, flags),
            flags.dry_run,
        )
    else:
        plan = plan_search(
            _override(load_space(flags.space), flags),
            from_flags(SearchOptions, flags),
            from_flags(Strategy, flags),
            flags.dry_run,
        )
    if flags.dry_run:
        _show(plan, console)
        return 0
    results = run_search(plan, console)
    if not is_done(plan, results):
        return 130  # interrupted
    return 0 if (results.state == FINISHED).any() else 1


def _override(space: Space, flags: argparse.Namespace) -> Space:
    """A space with what the flags override."""
    objective = given_values(Objective, flags)
    if flags.objective_weight is not None:
        objective["weight"] = checked_value(Objective, "weight", flags.objective_weight, "--objective_weight")
    budget = {name: value for name, value in given_values(Budget, flags).items() if name != "num_samples"}
    return space.override(given_values(Hyperparameters, flags), objective, budget)


def _show(plan: "SearchPlan", console: Console) -> None:
    """Print what the search would run."""
    from brainreg.search.cluster import machines
    from brainreg.search.costs import search_costs

    say = make_printer(console)
    space, strategy, objective = plan.space, plan.strategy, plan.space.objective
    say(f"space {space.name}: {space.description}")
    fixed = {"task": space.task, "reg_data": space.reg_data, **space.fixed}
    say(f"fixed: {_in_words(fixed)}")
    for name, distribution in space.search.items():
        say(f"searched: {name} {distribution.summary()}")
    for name in space.given:
        own = {key: value for key, value in space.setting(name).items() if value != fixed.get(key)}
        say(f"first: {shown_name(name)} ({_in_words(own)})")
    noise = f"; {objective.noise} noise, eps {objective.noise_eps:g}" if objective.noise_weight else ""
    say(
        f"objective: {objective.rule}; {objective.attack.title},"
        f" eps {objective.eps:g}, {objective.attack_image_num or 'up to 200'} validation images{noise}"
    )
    say(f"strategy: objective {strategy.objective}, sampler {strategy.sampler}, scheduler {strategy.scheduler}")
    there = machines(plan.options.address, plan.options.dashboard_host)
    say(
        f"{plan.end_in_words}, {plan.slots} at a time, each with CPU cores: {plan.options.cpus_per_trial:g}, GPUs:"
        f" {plan.gpus_per_trial:g}; there are CPU cores: {there.cpus:g}, GPUs: {there.gpus:g}"
    )
    say(f"results: {plan.folder}")
    for note in plan.notes:
        say(f"note: {note}")
    if plan.missing:
        say(
            f"--data_dir={plan.options.data_dir}: {', '.join(plan.missing)} not there, and would be downloaded; what"
            " depends on the images was not checked"
        )
    else:
        _show_costs(plan, search_costs(plan), console)
    say("nothing was started (--dry-run)")


def _in_words(settings: Mapping[str, Any]) -> str:
    from brainreg._utils.formats import format_hyperparameter  # which needs pandas

    return ", ".join(f"{name} {format_hyperparameter(value)}" for name, value in settings.items() if value is not None)


def _show_costs(plan: "SearchPlan", costs: "SearchCosts", console: Console) -> None:
    """Print what the search would take."""
    from brainreg._utils.formats import format_duration
    from brainreg.training.device import device_name

    stopped = "weak trials are stopped early and " if plan.strategy.scheduler == "asha" else ""
    one, (fewest, most), hours = costs.trial, costs.trials, costs.gpu_hours
    trials = f"{most}" if fewest == most else f"{fewest} to {most}"
    last = f" (the attack at the end up to {format_duration(costs.final_attack)})" if costs.final_attack else ""
    parts = [
        f"{trials} trials in {' to '.join(map(format_duration, costs.seconds))}{last}",
        *([f"{hours[0]:.2g} to {hours[1]:.2g} GPU hours"] if plan.gpus_per_trial else []),
        f"up to {costs.disk / 1e6:.0f} MB",
    ]
    console.print(
        f"cost: {', '.join(parts)}, by a few steps on {device_name(plan.device)}; a trial: up to"
        f" {format_duration(one.training)} of training and {format_duration(one.objective)} of attacks. The least is"
        f" where {stopped}attacks succeed at once.",
        soft_wrap=True,
        highlight=False,
    )
