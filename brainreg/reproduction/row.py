"""One row of the published table, from its plan to its files: search, confirmation, notebooks, figures."""

import contextlib
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from brainreg._utils.formats import format_duration
from brainreg._utils.package import NOTEBOOKS
from brainreg.analysis.comparison import count_comparisons
from brainreg.confirmation.pilot import Pilot, best_design
from brainreg.data.files import nothing_written
from brainreg.data.fingerprints import TEST, UNKNOWN_DATA, check_same_data, part_name
from brainreg.errors import InputError, validated
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.driver import Driver, check_no_driver
from brainreg.records.manifest import MANIFEST
from brainreg.records.results import load_results
from brainreg.records.resume import damaged, differences, format_value, read_begun, write_begun
from brainreg.records.searches import CONFIRMATION
from brainreg.records.trial import FINISHED, UNFINISHED
from brainreg.reproduction.costs import (
    OVERHEAD,
    Costs,
    Measurement,
    Workload,
    payable_designs,
    row_costs,
    workload_within,
)
from brainreg.reproduction.publish import publish
from brainreg.reproduction.settings import ENOUGH_SEEDS, Reproduction
from brainreg.search.cluster import share_of_machines
from brainreg.search.options import SearchOptions
from brainreg.spaces.names import PROPOSED, UNREGULARIZED
from brainreg.spaces.space import Space
from brainreg.storage import Storage
from brainreg.training.data import load_test_images, load_training_data
from brainreg.training.device import device_name

_NOTEBOOKS = ("01_overview", "02_alpha_th_table", "03_landscape", "05_robustness_curves")

# Flags that are the search's own.
_PASSED_ON = ("sampler_seed", "precision")

# What the file of a reproduction must say of it to go on.
_NEEDED = {"space", "budget", "costs", "at_a_time", "devices", "wall_seconds", "workload"}

SIZES = {
    "narrow": Measurement(),
    "full": Measurement(num_epsilons=10, num_images=1000),
}


@dataclass(frozen=True)
class Row:
    """A row that is being reproduced.

    Attributes:
        row, size: which.
        space: what is searched, and `space_name`, as it is given to the search.
        options: of search and confirmation, and `given`, those of them that flags gave.
        asked: those of `budget`, `trials`, `seeds`, `images`, `id`, `sampler_seed` and `precision` that flags gave.
    """

    row: str
    size: str
    space: Space
    space_name: str
    options: SearchOptions
    given: Mapping[str, Any]
    asked: Mapping[str, Any]
    save_dir: str

    @property
    def name(self) -> str:
        return f"{Path(self.row).stem}_{self.size}"

    @property
    def id(self) -> str:
        """The search's: the row's own, so that the same command trains the same networks, unless another is asked for.

        Rows have different ones, and so are confirmed with different seeds.
        """
        return self.asked.get("id") or self.default_id

    @property
    def default_id(self) -> str:
        """The one that the row has where none is asked for."""
        return f"reproduction of {Path(self.row).stem}, {self.size}"

    @property
    def measurement(self) -> Measurement:
        return SIZES[self.size]

    @property
    def folder(self) -> Storage:
        return Storage(self.options.storage_path)

    @property
    def search(self) -> Path:
        return Path(self.options.storage_path) / f"reproduce_{self.name}"

    @property
    def plan_file(self) -> str:
        return f"{self.search.name}.json"

    def go(self) -> int:
        """Do what is left; return the exit status."""
        file = f"{self.search.name}.driver.json"
        self._check_not_run(self.folder, file)
        plan = self.plan()  # what is wrong is said before anything is written
        with Driver(self.folder, 1, self._check_not_run, file=file):
            return self._go(plan)

    def _check_not_run(self, folder: Storage, file: str) -> None:
        """Raise InputError if another process reproduces this row in this folder."""
        check_no_driver(folder, file, flag=f"ROW={self.row}", runs=f"reproduces it in {folder}")

    def _go(self, plan: dict[str, Any]) -> int:
        write_begun(self.folder, self.plan_file, plan)
        stages = (("search", self._search), ("confirmation", self._confirm), ("notebooks", self._show))
        for stage, action in stages:
            if status := action(plan):
                say(f"the {stage} ended with status {status}; when that is mended, the same command goes on")
                return status
        publish(self, plan)
        return 0

    # --- the plan -----------------------------------------------------------------------------

    def plan(self, dry_run: bool = False) -> dict[str, Any]:
        """What was planned before, or is now; and said. A dry run keeps nothing of the data that it decodes."""
        slots, gpus = share_of_machines(self.options, 10**6)
        device = "cuda" if gpus else "cpu"
        if (plan := self._planned()) is not None:
            workload, spent = Workload(**plan["workload"]), sum(plan["wall_seconds"].values())
            say(
                f"goes on with {self.name}: {workload.trials} trials, {workload.seeds} seeds;"
                f" {format_duration(spent)} of about {format_duration(workload.seconds)} are spent"
            )
            if device_name(device) not in plan["devices"]:
                say(f"note: begun on {plan['devices'][0]}, goes on on {device_name(device)}, at another speed")
                plan["devices"].append(device_name(device))
            data = self._data(dry_run)
            check_same_data(data, plan.get("data"), f"--data_dir={self.options.data_dir}", "this reproduction")
            if "data" not in plan:
                say(f"note: {UNKNOWN_DATA.format('reproduction')}")
            return plan
        if (self.search / MANIFEST).exists():
            raise InputError(
                f"ROW={self.row}: {self.search} holds a search, and its plan {self.folder.path(self.plan_file)} is"
                " missing; remove the folder to begin anew"
            )
        data = self._data(dry_run)
        say(f"{self.name}: timing a few steps ...")
        at_a_time = slots if not gpus else max(1, int(1 / gpus))
        arguments = (self.space, self.measurement, self.options.data_dir, device, self.options.threads)
        costs = row_costs(*arguments, at_a_time, dry_run)
        asked, settings = Reproduction(**self.asked), 1 + len(self.space.controls)
        if asked.trials is not None and asked.seeds is not None:
            more = (asked.images or self.measurement.num_images) - self.measurement.num_images
            seconds = costs.row_search(asked.trials, slots), costs.confirmation(settings, asked.seeds, slots, more)
            workload = Workload(asked.trials, asked.seeds, *seconds)
        else:
            cards = max(1, round(slots * gpus))
            workload = workload_within(asked.budget, costs, self.space, self.measurement, slots, cards)
        say(
            f"will cost about {format_duration(workload.seconds)} on {device_name(device)}, {slots} networks at a time,"
            " if all withstand the attacks:\n"
            f"  search: {workload.trials} trials, {format_duration(workload.search)} (each"
            f" {format_duration(costs.training)} of training and {format_duration(costs.objective)} of"
            " attack; one chooses its epoch by the objective, for"
            f" {format_duration(costs.choice)} more)\n"
            f"  confirmation: {settings} settings with {workload.seeds} seeds, {format_duration(workload.confirmation)}"
            f" (each {format_duration(costs.training)} of training, one for both unregularized ones, and"
            f" {format_duration(costs.evaluation)} of noise and attacks)\n"
            f"  starts and notebooks: {format_duration(OVERHEAD)}"
        )
        return {
            "row": self.row,
            "size": self.size,
            "space": self.space.model_dump(mode="json"),
            "budget": asked.budget or max(60, math.ceil(workload.seconds / 60)),
            "id": self.id,
            "sampler_seed": asked.sampler_seed,
            "images": asked.images,
            "precision": asked.precision,
            "workload": asdict(workload),
            "costs": asdict(costs),
            "at_a_time": slots,
            "devices": [device_name(device)],
            "wall_seconds": {},
            "data": data,
        }

    def _data(self, dry_run: bool) -> dict[str, str]:
        """Fingerprints of what the given settings train on, and of the test images."""
        found: dict[str, str] = {}
        with nothing_written() if dry_run else contextlib.nullcontext():
            for name in self.space.given:
                settings = Hyperparameters(**self.space.setting(name))
                found |= load_training_data(settings, self.options.data_dir, "cpu").fingerprints
            test = load_test_images(settings, self.options.data_dir)
        return {**found, part_name(TEST, settings): test.fingerprint}

    def _planned(self) -> dict[str, Any] | None:
        """The plan of before; one line where it is of something else."""
        path = self.folder.path(self.plan_file)
        anew = f"remove {self.search} and {path} to begin anew"
        plan = read_begun(self.folder, self.plan_file, _NEEDED, anew)
        if plan is None:
            return None
        try:
            Workload(**plan["workload"])
        except TypeError as error:
            raise damaged(self.folder, self.plan_file, error, anew) from error
        begun = {**plan["workload"], **{key: plan.get(key) for key in ("budget", "images", "id", *_PASSED_ON)}}
        for key, value in self.asked.items():
            if value != begun[key]:
                raise InputError(
                    f"--{key}={format_value(value)}: {self.name} was begun with {format_value(begun[key])}; go on"
                    f" without the flag, or {anew}"
                )
        where = f"{path}: "
        before = validated(Space, plan["space"], spell=lambda key: f"space.{key}", where=where).model_dump(mode="json")
        now = self.space.override({"precision": plan["precision"]}, {}, {}) if plan.get("precision") else self.space
        for key, old, new in differences(before, now.model_dump(mode="json")):
            raise InputError(
                f"ROW={self.row}: {key} is {format_value(new)}, and was {format_value(old)} when it was begun; {anew}"
            )
        return plan

    # --- the stages ---------------------------------------------------------------------------

    def _search(self, plan: dict[str, Any]) -> int:
        trials = plan["workload"]["trials"]
        command = [sys.executable, "-m", "brainreg", "tune"]
        if (self.search / MANIFEST).exists():
            states = load_results(self.search).state
            if (states != UNFINISHED).sum() >= trials:
                say(f"the search is done: {trials} trials")
                return self._nothing_found()
            command += [f"--resume={self.search}"]
        else:
            command += [f"--space={self.space_name}", f"--name={self.search.name}"]
            command += [f"--storage_path={self.options.storage_path}", f"--id={plan.get('id') or self.id}"]
            command += [f"--{key}={plan[key]}" for key in _PASSED_ON if plan.get(key) is not None]
        command += [f"--num-samples={trials}", "--final_attack_seconds=0", *self._machine_flags()]
        return self._run("search", command, plan) or self._nothing_found()

    def _nothing_found(self) -> int:
        """1 where there is nothing to confirm."""
        results = load_results(self.search)
        if ((results.setting == PROPOSED) & (results.state == FINISHED)).any():
            return 0
        failed = results.error[results.error.fillna("") != ""]
        say(f"no proposed trial has finished{f'; the first that failed: {failed.iloc[0]}' if len(failed) else ''}")
        return 1

    def _confirm(self, plan: dict[str, Any]) -> int:
        measurement, eps = self.measurement, self.space.objective.eps
        seeds, images = self.design(plan)
        command = [sys.executable, "-m", "brainreg", "confirm", str(self.search), "--top=1"]
        command += [f"--seeds={seeds}", f"--attacks={','.join(measurement.attacks)}"]
        command += [f"--eps={','.join(f'{eps * factor:.6g}' for factor in measurement.strengths)}"]
        command += [f"--num_epsilons={measurement.num_epsilons}", f"--num_images={images}"]
        status = self._run("confirmation", command + self._machine_flags(), plan)
        if status == 1 and (self.search / CONFIRMATION).exists():
            seeds = pd.read_csv(self.search / CONFIRMATION).groupby("setting").seed.nunique()
            if len(seeds) == 1 + len(self.space.controls) and seeds.min() >= ENOUGH_SEEDS:
                say("some trainings failed, as told above; what is measured is shown, and the notes say so")
                return 0
        return status

    def design(self, plan: dict[str, Any]) -> tuple[int, int]:
        """Seeds and attacked images of the confirmation: those that were asked for, or what finds a difference most
        probably within the planned time, as the search's repeated runs tell.
        """
        workload, measurement = Workload(**plan["workload"]), self.measurement
        if "design" not in plan:
            plan["design"] = [workload.seeds, plan.get("images") or measurement.num_images]
            costs, pilot = Costs(**plan["costs"]), Pilot.of_search(load_results(self.search))
            chosen = "trials" in self.asked or (self.search / CONFIRMATION).exists() or not costs.attacked_image
            if not chosen and measurement.seeds is None and pilot is not None:
                given = Hyperparameters(**self.space.setting(UNREGULARIZED))
                test_images = len(load_test_images(given, self.options.data_dir).labels)
                payable = payable_designs(
                    costs, self.space, measurement, plan["at_a_time"], workload.confirmation, test_images
                )
                plan["design"] = list(best_design(pilot, payable, count_comparisons(self.space.controls)))
                seeds, images = plan["design"]
                say(f"as the search's repeated runs tell: {seeds} seeds, {images} attacked images of each network")
            write_begun(self.folder, self.plan_file, plan)
        seeds, images = plan["design"]
        return seeds, images

    def _machine_flags(self) -> list[str]:
        return [f"--{name}={value}" for name, value in self.given.items() if name != "storage_path"]

    def _show(self, plan: dict[str, Any]) -> int:
        outcome = self.outcome
        outcome.mkdir(exist_ok=True)
        for notebook in _NOTEBOOKS:
            command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level=WARNING"]
            command += [str(NOTEBOOKS / f"{notebook}.ipynb"), str(outcome / f"{notebook}.ipynb")]
            command += ["-p", "experiment", str(self.search.resolve())]
            if notebook != "01_overview":
                command += ["-p", "save_dir", str(outcome.resolve())]
            if notebook == "05_robustness_curves":
                command += ["-p", "split", "confirmed"]
            if status := self._run("notebooks", command, plan, log=outcome / f"{notebook}.log"):
                return status
        return self._run("notebooks", [sys.executable, "-m", "brainreg", "report", str(self.search)], plan)

    @property
    def outcome(self) -> Path:
        return self.search / "reproduction"

    def _run(self, stage: str, command: Sequence[str], plan: dict[str, Any], log: Path | None = None) -> int:
        """Run a command, and count its seconds, also of one that does not come to its end.

        Args:
            log: file for what it prints, which is shown where it fails.
        """
        say(f"\n$ {shlex.join(['python', *command[1:]])}")
        before, began = plan["wall_seconds"].get(stage, 0.0), time.monotonic()
        with log.open("w") if log else contextlib.nullcontext() as out:
            # In a session of its own, it is interrupted once, by what follows: by SIGTERM, as SIGINT may be ignored.
            process = subprocess.Popen(command, start_new_session=True, stdout=out, stderr=out)
        interrupted = False
        try:
            while process.poll() is None:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    pass
                except KeyboardInterrupt:
                    interrupted = True
                    process.terminate()
                plan["wall_seconds"][stage] = before + time.monotonic() - began
                write_begun(self.folder, self.plan_file, plan)
        finally:  # a full disk, say
            if process.poll() is None:
                process.terminate()
                process.wait()
        status = process.returncode
        if status and log:
            say(log.read_text())
        return 130 if interrupted else status if status >= 0 else 128 - status


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)
