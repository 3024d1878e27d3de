"""A search that runs is paused, stopped or extended from another terminal."""

import os
import shlex
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from brainreg._utils.commands import brainreg_command
from brainreg.errors import InputError
from brainreg.records.manifest import read_manifest, read_part, write_manifest
from brainreg.records.requests import Request, ask, take
from brainreg.records.results import read_space
from brainreg.records.trial import UNFINISHED, read_trials
from brainreg.search.limits import Limits
from brainreg.search.proposals import most_trials
from brainreg.search.strategy import Strategy
from brainreg.spaces.names import shown_name
from brainreg.storage import Storage

if TYPE_CHECKING:
    from brainreg.search.progress import SearchProgress
    from brainreg.search.scheduler import RecoveringScheduler


class Steering:
    """What the driver of a search does of what is asked of it.

    Args:
        search: the folder.
        limits, scheduler, progress: of the search; what is asked changes them.
    """

    def __init__(self, search: Storage, limits: Limits, scheduler: "RecoveringScheduler", progress: "SearchProgress"):
        self._search, self._limits, self._scheduler, self._progress = search, limits, scheduler, progress

    def look(self, driver: str) -> None:
        """Do what is asked of the driver with this token.

        Raises:
            StorageError: what is asked cannot be read, or its limits cannot be kept.
        """
        for request in take(self._search, driver):
            self._do(request)

    def _do(self, request: Request) -> None:
        if request.limits:
            self._extend(request.limits)
        if request.trial is not None:
            self._scheduler.unwanted.add(request.trial)
            self._progress.said(f"trial {request.trial} ends after its epoch: that was asked for (brainreg stop)")
        if request.stop:
            self._limits.stopped = "that was asked for (brainreg stop)"
            self._progress.said("no further trial begins: that was asked for (brainreg stop); the running ones end")
        if request.pause:
            self._progress.said("interrupted: that was asked for (brainreg pause)")
            os.kill(os.getpid(), signal.SIGINT)

    def _extend(self, limits: Mapping[str, Any]) -> None:
        """Keep the limits first: a search that is resumed has them, too."""
        manifest = read_manifest(self._search)
        manifest["options"] |= limits
        if "num_samples" in limits:
            manifest["num_samples"] = limits["num_samples"]
        write_manifest(self._search, {key: value for key, value in manifest.items() if key != "format"})
        self._limits.trials = limits.get("num_samples", self._limits.trials)
        self._limits.minutes = limits.get("minutes", self._limits.minutes)
        self._limits.gpu_hours = limits.get("gpu_hours", self._limits.gpu_hours)
        self._progress.total = self._limits.trials
        self._progress.said(f"{_described(limits)}: that was asked for (brainreg extend)")


def pause(search: Storage) -> str:
    """End a search now, as Ctrl-C in its terminal does; return what happens, in words.

    Raises:
        InputError: no process runs it.
    """
    who = ask(search, Request(pause=True))
    return f"{who} ends; go on: {brainreg_command('resume', search.uri)}"


def stop(search: Storage, trial: int | None = None) -> str:
    """Begin no further trial of a search, or stop one of its trials; return what happens, in words.

    Raises:
        InputError: no process runs it, or the trial does not run.
    """
    if trial is None:
        who = ask(search, Request(stop=True))
        return f"{who} begins no further trial, and recommends a setting when the running ones have ended"
    records = {record.number: record for record in read_trials(search, damaged=[])}
    if trial not in records:
        known = f"it has begun 0 to {max(records)}" if records else "it has begun none"
        raise InputError(f"--trial={trial}: {_name(search)} has no such trial; {known}")
    if records[trial].state != UNFINISHED:
        raise InputError(f"--trial={trial}: has ended already ({records[trial].state})")
    who, given = ask(search, Request(trial=trial)), records[trial].setting
    lacks = f"; nothing is compared with {shown_name(given)} until it runs again" if given else ""
    return f"{who} stops trial {trial} after its epoch; one under attack ends by itself{lacks}"


def extend(search: Storage, limits: Mapping[str, Any]) -> str:
    """Give a search that runs other limits; return what happens, in words.

    Args:
        search: the folder.
        limits: num_samples, minutes and gpu_hours, those that change.

    Raises:
        InputError: no process runs it, there is no limit, or it has begun more trials than that.
    """
    if not limits:
        raise InputError("--num-samples: missing; name a limit: --num-samples, --minutes or --gpu-hours")
    wanted = limits.get("num_samples")
    if wanted is not None:
        records, manifest = read_trials(search, damaged=[]), read_manifest(search)
        if wanted < len(records):
            raise InputError(f"--num_samples={wanted}: this search has begun {len(records)} trials already")
        space = read_space(manifest)
        strategy = read_part(Strategy, search, manifest, "strategy")
        most = None if space is None else most_trials(space, strategy.seeds, records)
        if most is not None and wanted > most:
            raise InputError(f"--num_samples={wanted}: the space has no more than {most} trials")
    return f"{ask(search, Request(**limits))} goes on with {_described(limits)}"


def _described(limits: Mapping[str, Any]) -> str:
    units = {"num_samples": "trials", "minutes": "minutes", "gpu_hours": "GPU hours"}
    return ", ".join(f"{value:g} {units[name]}" for name, value in limits.items())


def _name(search: Storage) -> str:
    return shlex.quote(str(search).rsplit("/", 1)[-1])
