"""A confirmation from its first job to its table."""

import math
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import ray
from rich.console import Console

from brainreg._utils.console import make_printer, sigterm_as_interrupt
from brainreg._utils.formats import SYMBOLS, format_duration, format_hyperparameter
from brainreg.analysis.comparison import (
    MEASURES,
    compare_settings,
    confirmation_notes,
    confirmation_table,
    describe_differences,
    format_confirmation,
)
from brainreg.confirmation.jobs import Job
from brainreg.confirmation.plan import Plan, check_not_run, read_plan, write_plan
from brainreg.confirmation.worker import EPOCHS_DIFFER, ERROR, read_result, run_job
from brainreg.errors import InputError, first_line
from brainreg.evaluation.subject import REPORT
from brainreg.records.driver import Driver
from brainreg.records.manifest import MANIFEST
from brainreg.records.searches import CONFIRMATION, CONFIRMATION_FOLDER
from brainreg.search.cluster import say_dashboard, start_ray
from brainreg.search.nodes import check_gpus, check_nodes, watch_own_node
from brainreg.search.run import claimed_share
from brainreg.search.timing import time_left
from brainreg.spaces.names import shown_name

# Where nothing is redrawn, a line of progress is printed this often at least, in seconds.
_LINE_SECONDS = 60


def run_confirmation(plan: Plan, console: Console) -> pd.DataFrame:
    """Run a confirmation to its end, or go on with it; show and save what it measured.

    Returns:
        The rows of `confirmation.csv`.

    Raises:
        InputError: another process runs it, a node cannot run jobs, or what must be kept cannot be.
        KeyboardInterrupt: it was interrupted, after what is known was shown.
    """
    return _Confirmation(plan, console).run()


def show_plan(plan: Plan, done: int, say: Callable[[str], None]) -> None:
    """Say what a confirmation trains, how that was chosen, and what to know beforehand.

    Args:
        plan: of the confirmation.
        done: how many of its networks were done before.
        say: takes a line.
    """
    say(
        f"confirming {plan.name}: {plan.settings} settings with {plan.extent.seeds} fresh seeds each, {len(plan.jobs)}"
        f" networks, {done} of them done before, {plan.slots} at a time, in {plan.folder}"
    )
    left = len(plan.jobs) - done
    trainings = max(0, left - sum(job.same_training is not None for job in plan.jobs))
    if trainings and math.isfinite(plan.trial_seconds):
        least = format_duration(math.ceil(trainings / plan.slots) * plan.trial_seconds)
        say(
            f"at least {least}, as a trial of the search took {format_duration(plan.trial_seconds)}; the attacks on"
            " test images come on top"
        )
    for job in plan.jobs[: plan.settings]:
        settings = [f"{SYMBOLS[name]} {text}" for name, text in _symbols(job).items() if text]
        others = [name for name in plan.space.search if name not in SYMBOLS]
        settings += [f"{name} {format_hyperparameter(getattr(job.settings, name))}" for name in others]
        given = shown_name(job.setting) if not job.rank else f"rank {job.rank}, trial {job.trial}"
        say(f"  {given} ({', '.join(settings)})")
    say(f"chosen by {plan.chosen}; compared is rank 1, fixed before any test image is seen")
    say(f"seeds, drawn from the search's id (search.json): {', '.join(map(str, plan.manifest['seeds']))}")
    for note in plan.notes:
        say(f"note: {note}")


class _Confirmation:
    """A confirmation while it runs: what is done, what failed, and what is shown of it."""

    def __init__(self, plan: Plan, console: Console):
        self.plan, self.say, self.console = plan, make_printer(console), console
        self.results: dict[Job, dict[str, Any]] = {}
        self.failed: dict[Job, str] = {}
        self.broken = ""
        self.began = self.said = time.monotonic()
        self.spent: list[float] = []

    def run(self) -> pd.DataFrame:
        name = f"{self.plan.name}/{CONFIRMATION_FOLDER}"
        with claimed_share(self.plan.options, len(self.plan.jobs), name, self.say) as slots:
            self.plan = replace(self.plan, slots=slots)
            return self._run()

    def _run(self) -> pd.DataFrame:
        plan, folder = self.plan, self.plan.folder
        with Driver(folder, plan.slots, check_not_run) as driver:
            if read_plan(plan.search) != plan.before:
                raise InputError(
                    f"EXPERIMENT={plan.search}: another process has just begun this confirmation, or gone on with it;"
                    " the same command goes on with that"
                )
            driver.on_lost = partial(setattr, self, "broken")
            for job in plan.jobs:
                if (result := read_result(folder, job)) is not None:
                    self.results[job] = result
            show_plan(plan, len(self.results), self.say)
            todo = deque(job for job in plan.jobs if job not in self.results)
            write_plan(plan)
            if todo:
                say_dashboard(start_ray(plan.options.address, plan.options.dashboard_host), self.say)
                data_dir = str(Path(plan.options.data_dir).resolve())
                if plan.options.address is not None:
                    for job in plan.jobs[: plan.settings]:
                        data = plan.manifest["data"]
                        check_nodes(job.settings, data_dir, plan.search, MANIFEST, ("train", "test"), data)
                    if plan.gpus_per_trial:
                        check_gpus(plan.gpus_per_trial)
                watch_own_node(self._end_at_once)
                try:
                    with sigterm_as_interrupt():
                        self._work(todo, data_dir)
                except KeyboardInterrupt:
                    self._write()
                    self.say(f"\ninterrupted: {self._done()}; started again, it goes on")
                    self._conclude()
                    raise
            table = self._write()
        self._conclude()
        return table

    def _work(self, todo: deque[Job], data_dir: str) -> None:
        plan = self.plan
        remote = ray.remote(num_cpus=plan.options.cpus_per_trial, num_gpus=plan.gpus_per_trial, max_retries=0)(run_job)
        running: dict[ray.ObjectRef, tuple[Job, float]] = {}
        tries = dict.fromkeys(plan.jobs, 0)
        try:
            while (todo or running) and not self.broken:
                while len(running) < plan.slots:
                    job = _next_job(todo, [job for job, _ in running.values()], self._epochs_differ)
                    if job is None:
                        break
                    place = plan.folder.uri, data_dir, plan.manifest["data"]
                    arguments = (job, plan.evaluation, *place, plan.options.threads, plan.device)
                    running[remote.remote(*arguments)] = job, time.monotonic()
                for done in ray.wait([*running], timeout=1)[0]:
                    job, began = running.pop(done)
                    self._ended(job, began, _outcome(done), todo, tries)
                if time.monotonic() - self.said > _LINE_SECONDS:
                    self._say_how_far([began for _, began in running.values()])
        finally:
            for one in running:
                ray.cancel(one, force=True)
        if self.broken:
            self._write()
            raise InputError(f"{self.broken}; {self._done()}. When that is mended, the same command goes on")

    def _epochs_differ(self, name: str) -> bool:
        return self.plan.folder.child(name).exists(EPOCHS_DIFFER)

    def _ended(self, job: Job, began: float, outcome: Mapping[str, Any], todo: deque[Job], tries: dict) -> None:
        for note in outcome.get("notes", ()):
            self.say(f"{job}: {note}")
        if outcome.get("broken"):
            self.broken = self.broken or outcome["error"]
        elif outcome.get("again") and tries[job] < self.plan.options.max_retries:
            tries[job] += 1
            self.say(f"{job}: tried again after {outcome['error']}")
            todo.append(job)  # last, as what takes its memory now may be done then
        elif outcome.get("error"):
            self.failed[job] = outcome["error"]
            self.spent.append(time.monotonic() - began)
            self.say(f"{job}: failed: {outcome['error']}")
        elif (result := read_result(self.plan.folder, job)) is None:
            self._ended(job, began, {"error": "its result cannot be read", "again": True}, todo, tries)
        else:
            self.results[job] = result
            self.spent.append(time.monotonic() - began)
            rows = sorted(self.plan.measures.items(), key=lambda item: MEASURES.index(item[1]))
            found = [f"{name} {self.results[job]['rows'][i]['accuracy']:.3f}" for i, name in rows]
            self.say(f"{job}: {', '.join(found)} on the test images; {format_duration(self.spent[-1])}")
            self._write()

    def _done(self) -> str:
        return f"{len(self.results)} of {len(self.plan.jobs)} networks are done"

    def _say_how_far(self, running: Sequence[float]) -> None:
        self.said = time.monotonic()
        rest = len(self.plan.jobs) - len(self.results) - len(self.failed) + len(self.spent)
        left = time_left(rest, self.plan.slots, self.spent, [self.said - one for one in running])
        so_far = f"{format_duration(self.said - self.began)} so far"
        self.say(f"{self._done()}; {so_far}" + ("" if left is None else f"; about {format_duration(left)} left"))

    def _write(self) -> pd.DataFrame:
        rows = [
            row for job in self.plan.jobs if job in self.results for row in _rows(self.plan, job, self.results[job])
        ]
        table = pd.DataFrame(rows, columns=COLUMNS).astype({"trial": "Int64"})
        self.plan.search.write(CONFIRMATION, table.to_csv(index=False))
        return table

    def _end_at_once(self, reason: str) -> NoReturn:
        """End the process where Ray would wait for ever. All that is known is in files already."""
        self.say(f"error: {reason}; nothing is lost, started again it goes on")
        self.console.file.flush()
        os._exit(1)

    def _conclude(self) -> None:
        """Show the table, the comparisons, and what to know of them."""
        plan, say = self.plan, self.say
        for job, reason in self.failed.items():
            say(f"failed: {job}: {reason}; started again, it is tried again")
            say(f"  its traceback: {plan.folder.path(f'{job.name}/{ERROR}')}")
        if not self.results:
            say("\nnothing is measured yet")
            return
        table = self._write().assign(search=plan.name)
        say("")
        self.console.print(
            format_confirmation(confirmation_table(table)).to_string(index=False), soft_wrap=True, highlight=False
        )
        for line in confirmation_notes(table):
            say(line)
        say("")
        for line in describe_differences(compare_settings(table)):
            say(line)
        warnings: dict[str, list[str]] = {}
        for result in self.results.values():
            for warning in result["warnings"]:  # of one kind are those that begin alike
                warnings.setdefault(re.split(r"[:(]", warning)[0], []).append(warning)
        for alike in warnings.values():
            say(f"warning: {alike[0]} (this or the like in {len(alike)} of {len(self.results)} networks)")
        say(f"\ntable:   {plan.search.path(CONFIRMATION)}")
        say(f"reports: {plan.folder.path(f'*/{REPORT}')}")


def _next_job(todo: deque[Job], running: Sequence[Job], epochs_differ: Callable[[str], bool]) -> Job | None:
    """Take the first job that need not wait for another one; None where all of them must.

    One that shares a training waits until that has ended, and where both choose the same epoch until its network is
    measured, too: then it has nothing to do itself.
    """
    unfinished = {job.name for job in (*todo, *running)}
    for job in todo:
        if job.same_training is None or job.same_training not in unfinished or epochs_differ(job.same_training):
            todo.remove(job)
            return job
    return None


def _outcome(done: ray.ObjectRef) -> dict[str, Any]:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        return {"error": str(error).strip().splitlines()[-1], "again": False}
    except ray.exceptions.RayError as error:  # a lost worker, a lost node, memory that Ray took back
        return {"error": f"{type(error).__name__}: {first_line(error)}", "again": True}


# The columns of `confirmation.csv`, a row for each setting, seed, attack and strength. `setting`: found, or
# one of `Space.controls`. `rank` in the search, 0 of the given ones. `measure`: clean, robust or noise where a
# row stands for that in summaries. `seeds`: how many are to be measured. `weight`: of the clean accuracy in the
# objective, `noise_weight`: of that under noise. `outcomes`: which images are classified correctly
# (`brainreg.statistics.unpacked`), where it is compared.
COLUMNS = (
    *("setting", "rank", "trial", *SYMBOLS, "seed", "split", "measure"),
    *("attack", "eps", "norm", "n", "correct", "accuracy", "low", "high", "seconds"),
    *("weight", "noise_weight", "seeds", "best_epoch", "training_seconds", "versions", "outcomes"),
)


def _symbols(job: Job) -> dict[str, Any]:
    """What a table says of a setting."""
    settings = job.settings.model_dump()
    if not job.settings.regularized:
        return dict.fromkeys(SYMBOLS, "") | {"reg_alpha": "0"}
    return {name: format_hyperparameter(settings[name]) if settings[name] is not None else "" for name in SYMBOLS}


def _rows(plan: Plan, job: Job, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one job; all or none of them are in the table."""
    settings = job.settings.model_dump()
    hidden = {} if job.settings.regularized else {**dict.fromkeys(SYMBOLS), "reg_alpha": 0.0}
    facts = {
        "setting": job.setting,
        "rank": job.rank,
        "trial": job.trial,
        **{name: settings[name] for name in SYMBOLS},
        **hidden,
        "split": "test",
        "weight": plan.space.objective.weight,
        "noise_weight": plan.space.objective.noise_weight,
        "seeds": plan.extent.seeds,
        "best_epoch": result["best_epoch"],
        "training_seconds": result["training_seconds"],
    }
    rows, outcomes = result["rows"], result.get("outcomes") or [None] * len(result["rows"])
    measured = {row["attack"] for i, row in enumerate(rows) if plan.measures.get(i) == "robust"}
    return [
        {
            **facts,
            **row,
            "measure": plan.measures.get(i, ""),
            "outcomes": outcomes[i] if i in plan.measures or row["attack"] in measured else None,
        }
        for i, row in enumerate(rows)
    ]
