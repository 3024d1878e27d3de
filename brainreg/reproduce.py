"""Find a row of the published table again: a search, its confirmation on test images and the notebooks' figures.

python -m brainreg.reproduce mnist_mnist                  (or: make reproduce ROW=mnist_mnist)
python -m brainreg.reproduce cifar10_cifar10_ranges --size=full --budget=600
python -m brainreg.reproduce --table

A row is the name of a space. It says what it will cost before it begins. Interrupted, the same command goes on.
Settings, numbers and figures are put in analysis/results/, and `--table` shows what lies there as the README does.
"""

import contextlib
import json
import math
import multiprocessing
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field

from brainreg import tables
from brainreg.attacks import NOISES, AutoAttack
from brainreg.cli import Parser, check_writable, from_flags, given_values, make_folder, run, to_flags, write_text
from brainreg.errors import InputError
from brainreg.evaluate import load_split
from brainreg.hyperparameters import Hyperparameters
from brainreg.models import build_model
from brainreg.progress import SYMBOLS, duration, shown
from brainreg.published import row_name
from brainreg.records import MANIFEST, UNFINISHED, read_manifest
from brainreg.results import CONFIRMATION, load_results, ranked
from brainreg.search import SearchOptions, share_of_machines, stopped_by_sigterm
from brainreg.spaces import PUBLISHED, SPACES_FOLDER, UNREGULARIZED, Space, load_space
from brainreg.storage import Storage
from brainreg.training import (
    TrainingData,
    as_classifier,
    default_device,
    device_name,
    folded,
    load_training_data,
    to_float,
    train,
)

ROOT = SPACES_FOLDER.parent
RECORD = "reproduction.json"

# Narrow networks on a part of the images, for a CPU: a space file a row.
_NARROW = "narrow"

_NOTEBOOKS = ("01_overview", "02_alpha_th_table", "03_landscape", "05_robustness_curves")
_FIGURES = ("comparison", "differences", "landscape", "robustness_curves")
_TRIALS, _ALPHA_TH = "trials.csv", "alpha_th.csv"

# Seconds that the starts of Ray, the loading of data and the notebooks take.
_OVERHEAD = 90

# Seconds of training that tell what a step costs.
_PROBE_SECONDS = 6

# Columns of a search's table that say where it ran.
_OF_THE_MACHINE = ("checkpoint", "node")


@dataclass(frozen=True)
class Measurement:
    """How the settings that a search found are measured on test images.

    Attributes:
        seeds: fresh ones, the fewest and the most.
        attacks: as `brainreg.confirm` takes them.
        strengths: of Square and AutoAttack, in multiples of the search's eps.
        num_epsilons: strengths of a curve of noise.
        num_images: that are attacked, of each network.
        least_trials: of a search.
    """

    seeds: tuple[int, int]
    attacks: tuple[str, ...] = ("noise", "square", "autoattack")
    strengths: tuple[float, ...] = (0.5, 1, 1.5)
    num_epsilons: int = 6
    num_images: int = 50
    least_trials: int = 6


SIZES = {
    "narrow": Measurement(seeds=(5, 8)),
    "full": Measurement(seeds=(3, 5), num_epsilons=10, num_images=1000),
}


class Reproduction(BaseModel):
    """What is reproduced."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: Literal["narrow", "full"] | None = Field(
        None,
        description="narrow networks on a part of the images, or what the paper has (absent: full where there is a GPU"
        " or where the row has no narrow size)",
    )
    budget: float = Field(60, gt=0, description="minutes that it may cost; GPU minutes where there are GPUs")
    save_dir: str = Field(
        "analysis/results", description="folder in which ROW_SIZE/ gets settings, numbers and figures at the end"
    )


# ---------------------------------------------------------------------------------------------
# What it costs
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """Seconds, at most: where networks withstand attacks, and without early stopping.

    Attributes:
        training: of one network.
        objective: measuring it in the search.
        evaluation: measuring it on test images.
    """

    training: float
    objective: float
    evaluation: float

    def search(self, trials: int, slots: int) -> float:
        """Seconds of so many trials."""
        return math.ceil(trials / slots) * (self.training + self.objective)

    def confirmation(self, settings: int, seeds: int, slots: int) -> float:
        """Seconds of so many settings with so many seeds."""
        return math.ceil(settings * seeds / slots) * (self.training + self.evaluation)


class _Enough(Exception):
    """A step's cost is known."""


def probe(space: Space, measurement: Measurement, data_dir: str, device: str, threads: int) -> Costs:
    """Train a few steps and time a network's passes, and return what a trial and an evaluation would take from that.

    Raises:
        InputError: data that are missing.
    """
    torch.set_num_threads(threads)
    settings, data = _costliest(space, data_dir, device)
    marks: list[tuple[int, float]] = []

    def on_step(step: int, total: int) -> None:
        marks.append((step, time.monotonic()))
        if len(marks) > 8 and marks[-1][1] - marks[0][1] > _PROBE_SECONDS:
            raise _Enough

    with contextlib.suppress(_Enough):
        train(settings.model_copy(update={"epoch_num": 1}), data, device=device, on_step=on_step)
    warm = marks[min(5, len(marks) - 1)]
    step = (marks[-1][1] - warm[1]) / max(marks[-1][0] - warm[0], 1)
    steps = math.ceil(len(data.train_indices) / settings.resnet_batch_size) * settings.epoch_num

    network = build_model(
        settings.archi, data.in_channels, data.num_classes, settings.base_channels, data.image_size
    ).eval()
    model = folded(as_classifier(network, data.task)).to(device)
    test, _ = load_split(settings, "test", data_dir)
    images = to_float(test[: min(measurement.num_images, 250)]).to(device)
    forward, gradient = _pass_seconds(model, images)
    validation = len(data.valid_labels) * forward
    noise = len(test) * forward * len(NOISES) * (measurement.num_epsilons - 1)
    objective = space.objective
    square = AutoAttack(version="custom", attacks=("square",))
    return Costs(
        training=steps * step + settings.epoch_num * validation,
        objective=2 * validation + objective.attack_image_num * _withstood(objective.attack, forward, gradient),
        evaluation=len(test) * forward
        + noise
        + measurement.num_images * sum(_withstood(attack, forward, gradient) for attack in (AutoAttack(), square)),
    )


def _costliest(space: Space, data_dir: str, device: str) -> tuple[Hyperparameters, TrainingData]:
    """A setting with the most pairs a step that the space can propose, and its data."""
    problem = None
    for setting in space.corners():
        settings = Hyperparameters(**setting)
        try:
            return settings, load_training_data(settings, data_dir, device)
        except InputError as error:  # its range selects too few pairs, or there are no data
            problem = error
    raise problem


def _pass_seconds(model: torch.nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """Seconds of a forward pass and of a forward pass with its gradient, an image."""

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def gradient() -> None:
        shown = images.clone().requires_grad_()
        model(shown).logsumexp(dim=1).sum().backward()

    found = []
    for one in (forward, gradient):
        one()
        times = []
        for _ in range(10):
            began = time.perf_counter()
            one()
            if images.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        found.append(sorted(times)[5] / len(images))
    return found[0], found[1]


def _withstood(attack: AutoAttack, forward: float, gradient: float) -> float:
    """Seconds that an image costs which withstands an attack, over any number of strengths: its passes are counted."""
    steps, targets = attack.n_iter + 5, attack.n_target_classes  # five for starts and checks
    gradients = {"apgd-ce": steps, "apgd-dlr": steps, "apgd-t": steps * targets, "fab": steps, "fab-t": steps * targets}
    used = attack.attacks or ("apgd-ce", "apgd-t", "fab-t", "square")
    queries = attack.n_queries if "square" in used else 0
    return sum(gradients.get(name, 0) for name in used) * gradient + queries * forward


def _probed(space: Space, measurement: Measurement, options: SearchOptions, slots: int, device: str) -> Costs:
    """`probe` in as many processes as trials run at a time: they slow each other down."""
    if device == "cpu" and slots > 1:
        with ProcessPoolExecutor(slots, mp_context=multiprocessing.get_context("spawn")) as pool:
            arguments = (space, measurement, options.data_dir, device, options.threads)
            costs = [job.result() for job in [pool.submit(probe, *arguments) for _ in range(slots)]]
    else:
        costs = [probe(space, measurement, options.data_dir, device, options.threads)]
    parts = [[getattr(one, name) for one in costs] for name in Costs.__dataclass_fields__]
    return Costs(*(sum(values) / len(values) for values in parts))


@dataclass(frozen=True)
class Workload:
    """How much is done, and the seconds that it takes at most.

    Attributes:
        trials: of the search.
        seeds: of each setting in the confirmation.
        search, confirmation: seconds.
    """

    trials: int
    seeds: int
    search: float
    confirmation: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.search + self.confirmation + _OVERHEAD


def workload_within(seconds: float, costs: Costs, space: Space, measurement: Measurement, slots: int) -> Workload:
    """Return the largest workload that takes no longer: half of the time is the confirmation's, the rest the search's.

    Raises:
        InputError: not even the smallest fits.
    """
    settings = 1 + len(space.given)
    fewest, most = measurement.seeds
    least = min(measurement.least_trials, space.budget.num_samples)

    def of(trials: int, seeds: int) -> Workload:
        return Workload(trials, seeds, costs.search(trials, slots), costs.confirmation(settings, seeds, slots))

    if (smallest := of(least, fewest)).seconds > seconds:
        raise InputError(
            f"--budget={seconds / 60:.3g}: {least} trials and {fewest} seeds, the least, take up to"
            f" {math.ceil(smallest.seconds / 60)} minutes"
        )
    half = (seconds - _OVERHEAD) / 2
    seeds = max((n for n in range(fewest, most + 1) if of(least, n).confirmation <= half), default=fewest)
    trials = max(n for n in range(least, space.budget.num_samples + 1) if of(n, seeds).seconds <= seconds or n == least)
    if of(trials, seeds).seconds > seconds:
        seeds = fewest
    while seeds < most and of(trials, seeds + 1).seconds <= seconds:  # what the search leaves
        seeds += 1
    return of(trials, seeds)


# ---------------------------------------------------------------------------------------------
# A row
# ---------------------------------------------------------------------------------------------


@dataclass
class _Row:
    """A row that is being reproduced."""

    row: str
    size: str
    space: Space
    space_name: str
    budget: float | None  # where the flag was given
    save_dir: str
    options: SearchOptions
    say: Callable[[str], None]

    @property
    def name(self) -> str:
        return f"{Path(self.row).stem}_{self.size}"

    @property
    def measurement(self) -> Measurement:
        return SIZES[self.size]

    @property
    def search(self) -> Path:
        return Path(self.options.storage_path) / f"reproduce_{self.name}"

    @property
    def plan_file(self) -> Path:
        return self.search.with_name(f"{self.search.name}.json")

    def go(self) -> int:
        """Do what is left; return the exit status."""
        plan = self._plan()
        stages = (("search", self._search), ("confirmation", self._confirm), ("notebooks", self._show))
        for stage, action in stages:
            status = action(plan)
            if status:
                self.say(f"the {stage} ended with status {status}; nothing is lost, the same command goes on")
                return status
        self._publish(plan)
        return 0

    def _plan(self) -> dict[str, Any]:
        """What was planned before, or is now; and said."""
        slots, gpus = share_of_machines(self.options, 10**6)
        device = "cuda" if gpus else "cpu"
        if self.plan_file.exists():
            plan = json.loads(self.plan_file.read_text())
            if self.budget is not None and self.budget != plan["budget"]:
                raise InputError(
                    f"--budget={self.budget:g}: {self.name} was begun with {plan['budget']:g}; go on without the flag,"
                    f" or remove {self.search} and {self.plan_file} to begin anew"
                )
            workload = Workload(**plan["workload"])
            spent = sum(plan["wall_seconds"].values())
            self.say(
                f"goes on with {self.name}: {workload.trials} trials, {workload.seeds} seeds;"
                f" {duration(spent)} of at most {duration(workload.seconds)} are spent"
            )
            return plan
        self.say(f"{self.name}: timing a few steps ...")
        costs = _probed(self.space, self.measurement, self.options, slots, device)
        cards = max(1, round(slots * gpus)) if gpus else 1
        budget = Reproduction(**({} if self.budget is None else {"budget": self.budget})).budget
        workload = workload_within(60 * budget / cards, costs, self.space, self.measurement, slots)
        settings = 1 + len(self.space.given)
        self.say(
            f"will cost at most {duration(workload.seconds)} on {device_name(device)}, {slots} networks at a time:\n"
            f"  search: {workload.trials} trials, {duration(workload.search)} (each {duration(costs.training)} of"
            f" training and {duration(costs.objective)} of attack)\n"
            f"  confirmation: {settings} settings with {workload.seeds} seeds, {duration(workload.confirmation)} (each"
            f" {duration(costs.training)} of training and {duration(costs.evaluation)} of noise and attacks)\n"
            f"  starts and notebooks: {duration(_OVERHEAD)}"
        )
        return {
            "row": self.row,
            "size": self.size,
            "workload": asdict(workload),
            "costs": asdict(costs),
            "slots": slots,
            "device": device_name(device),
            "budget": budget,
            "wall_seconds": {},
        }

    def _search(self, plan: dict[str, Any]) -> int:
        trials = plan["workload"]["trials"]
        command = [sys.executable, str(ROOT / "tune_main.py")]
        if (self.search / MANIFEST).exists():
            states = load_results(self.search).state
            if (states != UNFINISHED).sum() >= trials and read_manifest(Storage(self.search))["num_samples"] == trials:
                self.say(f"the search is done: {trials} trials")
                return 0
            command += [f"--resume={self.search}"]
        else:
            command += [f"--space={self.space_name}", f"--name={self.search.name}"]
            command += [f"--storage_path={self.options.storage_path}"]
        command += [f"--num-samples={trials}", "--final_attack_seconds=0", *self._machine_flags()]
        return self._run("search", command, plan)

    def _confirm(self, plan: dict[str, Any]) -> int:
        measurement, eps = self.measurement, self.space.objective.eps
        command = [sys.executable, "-m", "brainreg.confirm", str(self.search), "--top=1"]
        command += [f"--seeds={plan['workload']['seeds']}", f"--attacks={','.join(measurement.attacks)}"]
        command += [f"--eps={','.join(f'{eps * factor:.6g}' for factor in measurement.strengths)}"]
        command += [f"--num_epsilons={measurement.num_epsilons}", f"--num_images={measurement.num_images}"]
        return self._run("confirmation", command + self._machine_flags(), plan)

    def _machine_flags(self) -> list[str]:
        return shlex.split(to_flags(self.options.model_copy(update={"storage_path": "results"})))

    def _show(self, plan: dict[str, Any]) -> int:
        outcome = self._outcome
        outcome.mkdir(exist_ok=True)
        for notebook in _NOTEBOOKS:
            command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level=WARNING"]
            command += [str(ROOT / "analysis" / f"{notebook}.ipynb"), str(outcome / f"{notebook}.ipynb")]
            command += ["-p", "experiment", str(self.search.resolve())]
            if notebook != "01_overview":
                command += ["-p", "save_dir", str(outcome.resolve())]
            if notebook == "05_robustness_curves":
                command += ["-p", "split", "confirmed"]
            status = self._run("notebooks", command, plan)
            if status:
                return status
        return self._run("notebooks", [sys.executable, "-m", "brainreg.report", str(self.search)], plan)

    @property
    def _outcome(self) -> Path:
        return self.search / "reproduction"

    def _run(self, stage: str, command: Sequence[str], plan: dict[str, Any]) -> int:
        """Run a command, and count its seconds, also of one that does not come to its end."""
        self.say(f"\n$ {' '.join(['python', *command[1:]])}")
        before, began = plan["wall_seconds"].get(stage, 0.0), time.monotonic()
        process = subprocess.Popen(command, start_new_session=True)  # it is interrupted once, by what follows
        status, interrupted = None, False
        while status is None:
            try:
                status = process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt:
                interrupted = True
                process.send_signal(signal.SIGINT)
            plan["wall_seconds"][stage] = before + time.monotonic() - began
            make_folder(f"--storage_path={self.options.storage_path}", self.plan_file.parent)
            write_text(self.plan_file, json.dumps(plan, indent=1))
        return 130 if interrupted else status if status >= 0 else 128 - status

    def _publish(self, plan: dict[str, Any]) -> None:
        """Put what was found where it is kept."""
        target = Path(self.save_dir) / self.name
        make_folder(f"--save_dir={self.save_dir}", target)
        manifest, results = read_manifest(Storage(self.search)), load_results(self.search)
        kept = [name for name in results.columns if name not in (*_OF_THE_MACHINE, "epochs", "retries")]
        confirmation = pd.read_csv(self.search / CONFIRMATION)
        write_text(target / _TRIALS, results[kept].to_csv(index=False))
        write_text(target / CONFIRMATION, confirmation.to_csv(index=False))
        for name in (_ALPHA_TH, "robustness_curves.csv", *(f"{figure}.png" for figure in _FIGURES)):
            if (self._outcome / name).exists():
                shutil.copyfile(self._outcome / name, target / name)
        best = ranked(results).query("setting == ''").iloc[0]
        workload = Workload(**plan["workload"])
        measured = confirmation.groupby(["setting", "seed"])
        record = {
            "row": self.row,
            "size": self.size,
            "command": f"make reproduce ROW={self.row} SIZE={self.size} BUDGET={plan['budget']:g}",
            "space": manifest["space"],
            "strategy": manifest["strategy"],
            "seed": manifest["seed"],
            "trials": workload.trials,
            "best_trial": int(best.trial),
            "confirmed_seeds": sorted(int(seed) for seed in confirmation.seed.unique()),
            "versions": manifest["versions"],
            "device": plan["device"],
            "at_a_time": plan["slots"],
            "date": time.strftime("%Y-%m-%d"),
            "seconds": {
                "estimated_at_most": round(workload.seconds),
                "wall": {name: round(value) for name, value in plan["wall_seconds"].items()},
                "trials": round(float(results.seconds.sum())),
                "confirmed_networks": round(
                    float(measured.training_seconds.first().sum() + confirmation.seconds.fillna(0).sum())
                ),
            },
        }
        write_text(target / RECORD, json.dumps(record, indent=1) + "\n")
        spent = sum(plan["wall_seconds"].values())
        self.say(f"\nall of it: {duration(spent)}; settings, numbers and figures: {target}\n")
        self.say("\n".join(tables.said(tables.paired(confirmation.assign(search=self.name)))))


def _say(text: str) -> None:
    print(text, flush=True)


# ---------------------------------------------------------------------------------------------
# The table of all rows
# ---------------------------------------------------------------------------------------------


def reproduced(folder: str | Path) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield what each row left in a folder: its record, and its confirmation with the row's name as `search`."""
    for path in sorted(Path(folder).glob(f"*/{RECORD}")):
        record = json.loads(path.read_text())
        yield record, pd.read_csv(path.with_name(CONFIRMATION)).assign(search=path.parent.name)


def markdown_table(folder: str | Path) -> str:
    """Return the tables of all rows in a folder, as the README shows them, and what they cost.

    Accuracies and differences are in percent, means over seeds with 95% intervals, on test images.

    Raises:
        InputError: nothing was reproduced there.
    """
    accuracies = ["| data | setting | clean | under noise | AutoAttack |", "|---|---|---|---|---|"]
    differences = ["| data | difference | clean | under noise | AutoAttack |", "|---|---|---|---|---|"]
    costs = []
    for record, confirmation in reproduced(folder):
        name = f"{row_name(record['space']['task'], record['space']['reg_data'])}, {record['size']}"
        summary = tables.confirmed(confirmation)
        for setting in (UNREGULARIZED, PUBLISHED, tables.FOUND):
            for one in summary[summary.setting == setting].itertuples():
                cells = [name, f"{setting}{_symbols(one)}", *(_accuracy(one, measure) for measure in _SHOWN)]
                accuracies.append(f"| {' | '.join(cells)} |")
        paired = tables.paired(confirmation)
        for (better, than), group in paired.groupby(["better", "than"], sort=False):
            by_measure = {row.measure: _difference(row) for row in group.itertuples()}
            cells = [name, f"{better} - {than}", *(by_measure.get(measure, "") for measure in _SHOWN)]
            differences.append(f"| {' | '.join(cells)} |")
        costs.append(_cost(name, record, summary.iloc[0]))
    if not costs:
        raise InputError(f"--save_dir={folder}: nothing was reproduced there")
    return "\n".join([*accuracies, "", *differences, "", *costs])


_SHOWN = ("clean", "noise", "robust")


def _accuracy(one: Any, measure: str) -> str:
    mean, low, high = (100 * getattr(one, f"{measure}{end}") for end in ("", "_low", "_high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _difference(row: Any) -> str:
    larger = not math.isnan(row.corrected) and row.corrected < 0.05
    verdict = ("**better**" if row.difference > 0 else "**worse**") if larger else "within noise"
    return f"{100 * row.difference:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}] {verdict}"


def _symbols(one: Any) -> str:
    if one.setting == UNREGULARIZED:
        return ""
    settings = {SYMBOLS[name]: getattr(one, name) for name in SYMBOLS if name != "reg_range"}
    whole = {SYMBOLS[name] for name in SYMBOLS if Hyperparameters.model_fields[name].annotation is int}
    texts = [
        f"{symbol} {shown(int(value) if symbol in whole else value)}"
        for symbol, value in settings.items()
        if pd.notna(value)
    ]
    return f" ({', '.join(texts)})"


def _cost(name: str, record: Mapping[str, Any], first: Any) -> str:
    seconds, seeds = sum(record["seconds"]["wall"].values()), len(record["confirmed_seeds"])
    noise, attack = f"{first.noise_kind} noise of {first.noise_eps:.3g}", f"{first.attack} of {first.eps:.3g}"
    return (
        f"* {name}: {record['trials']} trials, then each setting with {seeds} fresh seeds; {first.clean_n:.0f} test"
        f" images, clean and under {noise}, {first.robust_n:.0f} under {attack}; {duration(seconds)} on"
        f" {record['device']}: `{record['command']}`"
    )


def _find_row(row: str, size: str | None) -> tuple[str, str]:
    """The size that is meant, and the name of its space."""
    narrow = SPACES_FOLDER / _NARROW / f"{row}.yaml"
    load_space(row)  # or it is no row
    if size == _NARROW and not narrow.exists():
        names = ", ".join(sorted(path.stem for path in narrow.parent.glob("*.yaml")))
        raise InputError(f"--size=narrow: {row} has no narrow size; these have: {names}")
    size = size or (_NARROW if narrow.exists() and default_device().type == "cpu" else "full")
    return size, f"{_NARROW}/{row}" if size == _NARROW else row


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("row", nargs="?", metavar="ROW", help="name of a space, such as mnist_mnist")
    parser.add_flag("table", action="store_true", help="show what was reproduced, and exit")
    parser.add_flag("dry-run", action="store_true", help="say what it would cost, and exit")
    parser.add_flags(Reproduction, "how much")
    parser.add_flags(SearchOptions, "the machine", skip=("num_samples", "name", "study", "tensorboard"))
    flags = parser.parse_args(arguments)
    asked, options = from_flags(Reproduction, flags), from_flags(SearchOptions, flags)
    if flags.table:
        print(markdown_table(asked.save_dir))
        return 0
    if flags.row is None:
        raise InputError("ROW: missing; name a space, such as mnist_mnist")
    if "://" in options.storage_path:
        raise InputError(f"--storage_path={options.storage_path}: must be a folder of this machine")
    for flag, folder in (("--save_dir", asked.save_dir), ("--storage_path", options.storage_path)):
        check_writable(flag, folder)
    try:
        import papermill  # noqa: F401
    except ImportError as error:
        raise InputError("ROW: its notebooks need papermill; install '.[analysis]'") from error
    size, space_name = _find_row(flags.row, asked.size)
    budget = given_values(Reproduction, flags).get("budget")
    row = _Row(flags.row, size, load_space(space_name), space_name, budget, asked.save_dir, options, _say)
    if flags.dry_run:
        row._plan()
        print("nothing was started (--dry-run)")
        return 0
    with stopped_by_sigterm():
        return row.go()


if __name__ == "__main__":
    run(main)
