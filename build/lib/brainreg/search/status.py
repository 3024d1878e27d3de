"""How far a search is, read from its files while it runs."""

import shlex
import time

from rich.console import Console

from brainreg._utils.formats import format_duration
from brainreg.records.driver import driver_of
from brainreg.records.manifest import read_manifest
from brainreg.records.results import load_results, rank_trials
from brainreg.records.searches import CONFIRMATION
from brainreg.records.trial import FAILED, FINISHED, STOPPED, UNFINISHED
from brainreg.search.progress import luck_lines, ranked_table, time_left
from brainreg.storage import Storage

_SHOWN = 5


def show_status(search: Storage, console: Console) -> None:
    """Print trials by state, the best so far, and the time left.

    Raises:
        InputError: the folder holds no search of this version.
    """
    manifest, driver, results = read_manifest(search), driver_of(search), load_results(search)
    total = manifest["num_samples"]

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    counts = results.state.value_counts()
    begun = int(counts.get(UNFINISHED, 0))
    ended = len(results) - begun
    name = str(search).rsplit("/", 1)[-1]
    if driver is not None:
        say(f"{name}: running, by process {driver['pid']} on {driver['host']}")
    elif ended < total:
        say(f"{name}: interrupted; go on with --resume={shlex.quote(name)}")
    else:
        say(f"{name}: done")
    parts = [f"{ended} of {total} trials done", f"{begun} {'running' if driver else 'interrupted'}"]
    parts += [f"{counts[state]} {state}" for state in (FINISHED, STOPPED, FAILED) if counts.get(state, 0)]
    say(", ".join(parts))
    if driver is not None and ended < total:
        now = time.time()
        running = results[results.state == UNFINISHED]
        left = time_left(
            total=total,
            slots=driver["slots"],
            done=results[results.state != UNFINISHED].seconds.fillna(0).tolist(),
            running=[now - max(began, driver["began"]) for began in running.began],
            afterwards=-(-2 // driver["slots"]) * manifest["space"]["budget"]["final_attack_seconds"],
        )
        say("time left: " + ("unknown until a trial is done" if left is None else f"about {format_duration(left)}"))
        for row in running.itertuples():
            epochs = f"epoch {row.epochs[-1]['epoch']} of {row.epoch_num}" if row.epochs else "starting"
            say(f"trial {row.trial}: {epochs}" + (f", on {row.node}" if row.node else ""))
    for row in results[results.state == FAILED].itertuples():
        say(f"trial {row.trial} failed: {row.error}")
    finished = rank_trials(results)
    if len(finished):
        say("best so far:" if ended < total else "best:")
        console.print(ranked_table(finished, manifest["space"]["search"], rows=_SHOWN))
    if search.exists(CONFIRMATION):
        say(f"confirmed, as far as it goes: {search.path(CONFIRMATION)}")
    elif ended == total:
        for line in luck_lines(finished, str(search)):
            say(line)
