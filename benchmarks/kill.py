"""Kill a search with SIGKILL at random moments, go on with it each time, and count: nothing lost, nothing twice.

    python benchmarks/kill.py --kills=50

Each time one of these dies: the driver, a worker, the raylet (Ray's process on this machine), or everything at once,
as when a machine fails. At the end the trials' files, Optuna's study and Ray Tune's table must hold each trial once,
finished, with one result, and every epoch of it once; and a trial that was trained in pieces must be what it is when
it is trained without any interruption.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
VICTIMS = ("driver", "worker", "raylet", "machine")
EPOCHS = 3
SETTINGS = (
    "--space=digits_double", "--scheduler=none", f"--epoch_num={EPOCHS}", "--base_channels=4", "--train_image_num=800",
    "--reg_image_num=100", "--attack_image_num=20", "--final_attack_seconds=0", "--max_retries=100",
)  # fmt: skip


class Search:
    """A search in a process of its own, begun or resumed."""

    def __init__(self, folder: Path, name: str, trials: int, log: Path):
        self.folder = folder / name
        begun = (self.folder / "search.json").exists()
        what = (f"--resume={name}",) if begun else (*SETTINGS, f"--num-samples={trials}", f"--name={name}")
        command = [sys.executable, str(ROOT / "tune_main.py"), *what, f"--storage_path={folder}"]
        with log.open("a") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, start_new_session=True)
        self.tree: set[psutil.Process] = set()

    def look(self) -> list[psutil.Process]:
        """Return its living processes, Ray's and the workers among them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.tree |= {psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)}
        return [process for process in self.tree if process.is_running()]

    def named(self, part: str) -> list[psutil.Process]:
        """Return those whose command line begins with, or whose program is, `part`."""
        found = []
        for process in self.look():
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if line and (line[0].startswith(part) or Path(line[0]).name == part):
                found.append(process)
        return found

    def kill(self, victim: str, draws: random.Random) -> int:
        """Kill a victim; return how many processes that were."""
        if victim == "worker":
            # A worker is called after what it does: ray::ImplicitFunc.
            chosen = draws.sample(workers, 1) if (workers := self.named("ray::Implicit")) else []
        elif victim == "raylet":
            chosen = self.named("raylet")
        else:
            chosen = [psutil.Process(self.process.pid)] if victim == "driver" else self.look()
        for process in chosen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return len(chosen)

    def wait(self, seconds: float) -> int | None:
        """Wait for its end, and for that of Ray's processes; return its status, or None if it goes on."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        psutil.wait_procs(self.look(), timeout=30)
        return status


def progress_of(folder: Path) -> int:
    """Return how many epochs and results the trials' files hold."""
    count = 0
    for path in folder.glob("trial_*/progress.json"):
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        count += len(content["epochs"]) + bool(content["measured"])
    return count


def torture(folder: Path, kills: int, trials: int, seed: int) -> dict[str, int]:
    """Run a search to its end and kill it so often on the way; return how often each victim died."""
    draws, died = random.Random(seed), dict.fromkeys(VICTIMS, 0)
    victims = [VICTIMS[i % len(VICTIMS)] for i in range(kills)]
    draws.shuffle(victims)
    log = folder / "log.txt"
    search = Search(folder, "killed", trials, log)
    left = trials * (EPOCHS + 2)
    for i, victim in enumerate(victims):
        # Half of the kills come at any moment of the start, the others when a random part of the rest is done.
        before = progress_of(search.folder)
        share = max((left - before) // (kills - i + 1), 1)
        aim = before + draws.randint(1, max(2 * share - 1, 1))
        starting = victim != "worker" and draws.random() < 0.4
        deadline = time.monotonic() + (draws.uniform(0.5, 12) if starting else 240)
        while time.monotonic() < deadline and search.process.poll() is None and progress_of(search.folder) < aim:
            search.look()
            time.sleep(0.05)
        time.sleep(draws.uniform(0, 0.3))
        if search.process.poll() is not None:
            raise AssertionError(f"the search ended before kill {i + 1}; see {log}")
        count = search.kill(victim, draws)
        died[victim] += count > 0
        known = progress_of(search.folder)
        print(f"kill {i + 1}: {victim} ({count} processes), {known} of {left} epochs and results", flush=True)
        if victim == "worker":
            continue
        status = search.wait(90)
        assert status is not None, f"the search went on for a minute without its {victim}; see {log}"
        search = Search(folder, "killed", trials, log)
    status = search.wait(600)
    assert status == 0, f"the search ended with status {status}; see {log}"
    return died


def check(folder: Path, trials: int) -> None:
    """Raise AssertionError unless each trial is there once: in the files, in the study, in Ray Tune's table."""
    import optuna
    from ray.tune import ExperimentAnalysis

    from brainreg.records.results import load_results, settings_of
    from brainreg.training.data import load_training_data
    from brainreg.training.loop import train

    results = load_results(folder)
    assert results.trial.tolist() == list(range(trials)), results.trial.tolist()
    assert set(results.state) == {"finished"}, results[["trial", "state", "error"]].to_string()
    for row in results.itertuples():
        assert [epoch["epoch"] for epoch in row.epochs] == list(range(EPOCHS + 1)), (row.trial, row.epochs)
    study = optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * trials
    assert [trial.value for trial in study.trials] == results.objective.tolist()
    table = ExperimentAnalysis(str(folder / "ray")).dataframe().sort_values("config/number")
    assert table["config/number"].tolist() == list(range(trials)), table["config/number"].tolist()
    assert table["objective"].tolist() == results.objective.tolist()
    for number in (0, trials // 2, trials - 1):
        settings = settings_of(results.iloc[number])
        again = train(settings, load_training_data(settings), device="cpu")
        for now, then in zip(again.history, results.epochs[number], strict=True):
            assert now["valid_cross_entropy"] == then["valid_cross_entropy"], (number, now, then)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int, help="of the search (default: kills + 2)")
    parser.add_argument("--seed", type=int, default=0, help="of victims and moments")
    parser.add_argument("--folder", type=Path, help="where the search is kept (default: a temporary one)")
    flags = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    trials, began = flags.trials or flags.kills + 2, time.monotonic()
    folder = flags.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    died = torture(folder, flags.kills, trials, flags.seed)
    check(folder / "killed", trials)
    counted = ", ".join(f"{victim} {count}" for victim, count in died.items())
    print(f"killed {sum(died.values())} times ({counted}), and {trials} of {trials} trials are there, each once")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
