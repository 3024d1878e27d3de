"""A search from its first trial to its best: run, concluded, resumed."""

import contextlib
import errno
import logging
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import sqlalchemy
import torch
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search import ConcurrencyLimiter
from rich.console import Console

import brainreg.search.cluster
from brainreg._utils.commands import brainreg_command
from brainreg._utils.console import make_printer, sigterm_as_interrupt
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.driver import Driver, check_no_driver
from brainreg.records.manifest import MANIFEST, read_manifest, trials_asked, write_manifest
from brainreg.records.results import (
    load_results,
    search_advice,
    write_tables,
)
from brainreg.records.trial import (
    UNFINISHED,
    TrialRecord,
    mend_trials,
    read_trials,
    trial_name,
    trial_numbers,
)
from brainreg.search.callbacks import Gauges, SearchCallback
from brainreg.search.claims import claims_of_others, kept, make_claim, one_at_a_time
from brainreg.search.cluster import gpus_needed, say_dashboard, share_of_machines, start_ray, visible_gpus
from brainreg.search.conclusion import conclude, describe_settings_count
from brainreg.search.database import set_aside_if_damaged
from brainreg.search.folders import check_new
from brainreg.search.limits import Limits
from brainreg.search.nodes import check_gpus, check_nodes, watch_own_node
from brainreg.search.options import SearchOptions
from brainreg.search.plan import SearchPlan
from brainreg.search.progress import SearchProgress
from brainreg.search.scheduler import AshaScheduler, RecoveringScheduler
from brainreg.search.searcher import StudySearch, WhenBroken
from brainreg.search.steering import Steering
from brainreg.search.study import SearchStudy
from brainreg.search.timing import longest_final_attack
from brainreg.search.trackers import make_loggers
from brainreg.search.trial import TrialJob, run_trial
from brainreg.spaces.names import UNREGULARIZED
from brainreg.spaces.space import Space
from brainreg.storage import Storage, StorageError
from brainreg.training.device import device_name

_RAYS_FOLDER = "ray"  # what Ray Tune itself keeps of the search, and TensorBoard's logs; nothing is read from it

# Ray Tune writes its own table this often, in seconds.
_RAYS_PERIOD = 10


@contextlib.contextmanager
def claimed_share(options: SearchOptions, jobs: int, name: str, say: Callable[[str], None]) -> Iterator[int]:
    """Take a share of this machine, until the end of the block; yields how many of the jobs run at a time.

    Of a cluster, nothing is taken: all its drivers share one Ray.
    """
    if options.address is not None:
        yield share_of_machines(options, jobs)[0]
        return
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with contextlib.ExitStack() as stack:
        with one_at_a_time():
            slots, gpus_per_trial = share_of_machines(options, jobs)
            others = claims_of_others()
            gpus: list[str] = []
            if gpus_per_trial:
                taken = {gpu for claim in others for gpu in claim.gpus}
                free = [gpu for gpu in visible_gpus() if gpu not in taken]
                count = gpus_needed(slots, gpus_per_trial)
                gpus = (free if len(free) >= count else visible_gpus())[:count]
            stack.enter_context(kept(make_claim(name, slots * options.cpus_per_trial, gpus)))
        if others:
            said = ", ".join(f"{claim.name} (process {claim.pid}, {claim.cores:g} CPU cores)" for claim in others)
            say(f"on this machine runs {said}: {slots} at a time here; --max-concurrent overrules that")
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)  # of all, Ray would hand out the first ones again
        try:
            yield slots
        finally:
            if gpus:
                os.environ.pop("CUDA_VISIBLE_DEVICES")
                if before is not None:
                    os.environ["CUDA_VISIBLE_DEVICES"] = before


def run_search(plan: SearchPlan, console: Console) -> pd.DataFrame:
    """Run a search to its end, or go on with it; show it, save what it found, and return its trials.

    Returns:
        `brainreg.records.results.load_results` of the search's folder.

    Raises:
        InputError: another process runs it, a node cannot run trials, or what must be kept cannot be.
    """
    with claimed_share(plan.options, plan.num_samples, plan.name, make_printer(console)) as slots:
        return _run(replace(plan, slots=slots), console)


def _run(plan: SearchPlan, console: Console) -> pd.DataFrame:
    """Run a search on its share of the machine."""
    folder, options = plan.folder, plan.options
    say = make_printer(console)
    known = f"{_ended(plan.records)} of them done before, " if plan.resumed or plan.copies else ""
    ray = "starting Ray" if options.address is None else f"connecting to Ray at {options.address}"
    say(f"{ray} for {plan.end_in_words}, {known}{plan.slots} at a time, in {folder}")
    if plan.used_up:
        say(f"the space has no more than {describe_settings_count(plan)}, each of which is trained once")
    say(f"seed {plan.seed}; its proposals are drawn from {plan.strategy.sampler_seed} (--sampler_seed)")
    for note in plan.notes:
        say(f"note: {note}")
    loggers = make_loggers(plan, _RAYS_FOLDER, say)
    say_dashboard(start_ray(options.address, options.dashboard_host), say)
    check = check_no_driver if plan.resumed else lambda folder, file: check_new(folder, plan.name)
    with Driver(folder, plan.slots, check) as driver:
        if plan.resumed:  # another process may have gone on with it until now
            for note in mend_trials(folder):
                say(f"note: {note}")
        try:
            return _drive(plan, driver, loggers, console)
        except StorageError as error:
            done = _ended(_readable(folder))
            raise InputError(
                f"{error}; {done} of {plan.num_samples} trials are done. When that is mended, go on:"
                f" {brainreg_command('resume', folder.uri)}"
            ) from error


def _ended(records: Sequence[TrialRecord]) -> int:
    return sum(record.state != UNFINISHED for record in records)


def _readable(folder: Storage) -> Sequence[TrialRecord]:
    """Those trials that can be read, where the storage may have failed."""
    with contextlib.suppress(StorageError):
        return read_trials(folder, damaged=[])
    return ()


def _drive(plan: SearchPlan, driver: Driver, loggers: Sequence[tune.Callback], console: Console) -> pd.DataFrame:
    """Run a search as the one process that writes to its folder.

    Raises:
        StorageError: what must be kept cannot be.
    """
    space, folder, options, say = plan.space, plan.folder, plan.options, make_printer(console)
    write_manifest(folder, _manifest(plan))
    with sigterm_as_interrupt():
        for copy in plan.copies:
            copy.write(folder)
    plan = replace(plan, records=tuple(read_trials(folder)))
    data_dir = str(Path(options.data_dir).resolve())
    job = TrialJob(
        *(space.objective, folder.uri, data_dir, plan.data, options.threads, plan.device),
        proxy=plan.strategy.scheduler == "asha",
    )
    final_attacks = longest_final_attack(space.budget.final_attack_seconds, plan.slots)
    limits = _limits(plan)
    progress = SearchProgress(limits.trials, plan.slots, space, console, final_attacks, limits)
    progress.resume(plan.records)
    if options.address is not None:
        check_nodes(Hyperparameters(**space.setting(space.given[0])), data_dir, folder, MANIFEST, data=plan.data)
        if plan.gpus_per_trial and (names := check_gpus(plan.gpus_per_trial)):
            write_manifest(folder, read_manifest(folder) | {"device": ", ".join(names)})
    lost = trial_numbers(folder) - {record.number for record in plan.records}
    study = _study(plan, lost, say)
    search = StudySearch(study, folder, plan.records, lost, limits)
    driver.on_lost = partial(setattr, search, "broken")
    if _ended(plan.records) < plan.num_samples:
        scheduler = _scheduler(plan)
        callbacks = [SearchCallback(search, scheduler, progress, Gauges(plan.name)), JsonLoggerCallback(), *loggers]
        tuner = _tuner(plan, job, search, scheduler, callbacks)
        watch_own_node(partial(_end_at_once, plan, progress, console))
        driver.on_beat = Steering(folder, limits, scheduler, progress).look
        with progress, sigterm_as_interrupt(), _full_disks_named():
            tuner.fit()
    if search.broken:
        raise StorageError(search.broken)
    results = load_results(folder)
    done, asked = int((results.state != UNFINISHED).sum()), limits.trials or plan.num_samples
    if search.end_reason:
        asked = study.begun_count
        write_manifest(folder, read_manifest(folder) | {"ended": {"trials": asked, "reason": search.end_reason}})
        say(f"\nno further trial is begun: {search.end_reason}")
    write_tables(folder, results, search_advice(results, space))
    if done < asked:
        of = "" if limits.trials is None else f" of {asked}"
        say(f"\ninterrupted: {done}{of} trials are done; go on: {brainreg_command('resume', folder.uri)}")
    conclude(plan, results, console, interrupted=done < asked)
    return results


def _limits(plan: SearchPlan) -> Limits:
    """The limits of a search; what its trials took before it was resumed counts, shared by those that run at a time."""
    options = plan.options
    spent = sum(record.seconds or 0.0 for record in plan.records)
    return Limits(
        None if options.open_ended and not plan.used_up else plan.num_samples,
        plan.gpus_per_trial,
        *(options.minutes, options.gpu_hours, options.tolerance),
        before=(spent / plan.slots, spent * plan.gpus_per_trial),
        copied=sum(bool(record.copied_from) for record in plan.records),
    )


def is_done(plan: SearchPlan, results: pd.DataFrame) -> bool:
    """Return whether all trials of a search that ran have ended."""
    asked = trials_asked(read_manifest(plan.folder))
    return asked is not None and int((results.state != UNFINISHED).sum()) >= asked


@contextlib.contextmanager
def _full_disks_named() -> Iterator[None]:
    """Turn what Ray Tune makes of a full disk, in a folder of its own too, into StorageError."""
    try:
        yield
    except (OSError, tune.TuneError) as error:
        full = [line for line in str(error).splitlines() if os.strerror(errno.ENOSPC) in line]
        if not full:
            raise
        raise StorageError(full[-1].strip()) from error


def _study(plan: SearchPlan, lost: Collection[int], say: Callable[[str], None]) -> SearchStudy:
    own = plan.options.study is None
    if own and (aside := set_aside_if_damaged(plan.database)):
        say(f"the study's database is damaged; it is made again from the trials' records, and kept as {aside}")
    return SearchStudy(
        *(plan.space, plan.strategy, plan.name, plan.database, plan.records),
        own=own,
        lost=lost,
        new=not plan.resumed,
    )


def _scheduler(plan: SearchPlan) -> RecoveringScheduler:
    if plan.strategy.scheduler == "asha":
        return AshaScheduler(_most_epochs(plan.space), plan.records)
    return RecoveringScheduler()


def _tuner(
    plan: SearchPlan,
    job: TrialJob,
    search: StudySearch,
    scheduler: RecoveringScheduler,
    callbacks: Sequence[tune.Callback],
) -> tune.Tuner:
    options = plan.options
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # two of its three formats nobody asked for
    for name in ("ray.tune.execution.tune_controller", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a failed trial's traceback stands in its error.txt
    rays = plan.folder.child(_RAYS_FOLDER)
    trainable = partial(run_trial, job=job)
    trainable.__name__ = run_trial.__name__  # type: ignore[attr-defined]  # which the dashboard shows
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": options.cpus_per_trial, "gpu": plan.gpus_per_trial}),
        tune_config=tune.TuneConfig(
            # A proposal waits for a free worker, so that it knows every result there is.
            search_alg=ConcurrencyLimiter(search, max_concurrent=plan.slots),
            scheduler=scheduler,
            num_samples=-1,  # the searcher knows how many, which may change
            reuse_actors=True,  # a new process would import torch again
            trial_name_creator=_ray_name,
            trial_dirname_creator=_ray_name,
        ),
        run_config=tune.RunConfig(
            name=_RAYS_FOLDER,
            storage_path=rays.root.rsplit("/", 1)[0],
            storage_filesystem=rays.filesystem,
            stop=WhenBroken(search),
            callbacks=[*callbacks],
            failure_config=tune.FailureConfig(max_failures=options.max_retries),
            sync_config=tune.SyncConfig(sync_period=_RAYS_PERIOD),
            verbose=0,
        ),
    )


def _end_at_once(plan: SearchPlan, progress: SearchProgress, console: Console, reason: str) -> NoReturn:
    """End the process where Ray Tune would wait for ever. All that is known is in files already."""
    progress.__exit__()
    make_printer(console)(f"error: {reason}; nothing is lost, go on: {brainreg_command('resume', plan.folder.uri)}")
    console.file.flush()
    os._exit(1)


def _most_epochs(space: Space) -> int:
    searched = space.search.get("epoch_num")
    return int(max(searched.extremes())) if searched else Hyperparameters(**space.setting(UNREGULARIZED)).epoch_num


def _ray_name(trial: Trial) -> str:
    return trial_name(trial.config["number"])


def _manifest(plan: SearchPlan) -> dict[str, Any]:
    packages = ("torch", "torchvision", "ray", "optuna", "pyautoattack", "numpy")
    options = plan.options.model_dump(exclude={"id"})
    if options["study"] is not None:
        options["study"] = sqlalchemy.make_url(options["study"]).render_as_string(hide_password=True)
    content = {
        "id": plan.id,
        "space": plan.space.model_dump(mode="json"),
        "strategy": plan.strategy.model_dump(),
        "options": options,
        "seed": plan.seed,
        "num_samples": plan.num_samples,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "brainreg": brainreg.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "device": _device_name(plan),
        "data": dict(plan.data),
    }
    if plan.copies:
        content["prior"] = {
            "search": plan.copies[0].search.uri,
            "trials": {copy.record.number: copy.number for copy in plan.copies},
        }
    if plan.resumed:
        before = read_manifest(plan.folder)
        content |= {key: before[key] for key in ("started", "prior") if key in before}
        content["resumed"] = [*before.get("resumed", []), time.strftime("%Y-%m-%dT%H:%M:%S%z")]
    return content


def _device_name(plan: SearchPlan) -> str:
    if not plan.gpus_per_trial:
        return device_name("cpu")
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CUDA, on other machines than the driver's"
