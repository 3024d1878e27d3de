"""How far a search is, read from its files while it runs."""

import time

from rich.console import Console

from brainreg._utils.commands import brainreg_command
from brainreg._utils.formats import format_duration
from brainreg.records.driver import driver_of
from brainreg.records.manifest import read_manifest, trials_asked
from brainreg.records.results import load_results, read_space, search_advice
from brainreg.records.searches import CONFIRMATION
from brainreg.records.trial import FAILED, FINISHED, STOPPED, UNFINISHED
from brainreg.search.summary import advice_lines, confirm_lines, settings_table
from brainreg.search.timing import longest_final_attack, time_left
from brainreg.storage import Storage

_SHOWN = 5


def show_status(search: Storage, console: Console) -> None:
    """Print trials by state, what their settings are worth so far, and the time left.

    Raises:
        InputError: the folder holds no search of this version.
    """
    manifest, driver, results = read_manifest(search), driver_of(search), load_results(search)
    total = trials_asked(manifest)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    counts = results.state.value_counts()
    begun = int(counts.get(UNFINISHED, 0))
    ended = len(results) - begun
    done = total is not None and ended >= total
    name = str(search).rsplit("/", 1)[-1]
    if driver is not None:
        say(f"{name}: running, by process {driver['pid']} on {driver['host']}")
    elif not done:
        say(f"{name}: interrupted; go on: {brainreg_command('resume', search.uri)}")
    else:
        say(f"{name}: done")
    of = "" if total is None else f" of {total}"
    parts = [f"{ended}{of} trials done", f"{begun} {'running' if driver else 'interrupted'}"]
    parts += [f"{counts[state]} {state}" for state in (FINISHED, STOPPED, FAILED) if counts.get(state, 0)]
    say(", ".join(parts))
    if driver is not None and not done:
        now = time.time()
        running = results[results.state == UNFINISHED]
        if total is None:
            limits = {key: manifest["options"].get(key) for key in ("minutes", "gpu_hours")}
            told = ", ".join(f"{key} {value:g}" for key, value in limits.items() if value is not None)
            say(f"it ends by time: {told}")
        else:
            left = time_left(
                total=total,
                slots=driver["slots"],
                done=results[results.state != UNFINISHED].seconds.fillna(0).tolist(),
                running=[now - max(began, driver["began"]) for began in running.began],
                afterwards=longest_final_attack(manifest["space"]["budget"]["final_attack_seconds"], driver["slots"]),
            )
            say("time left: " + ("unknown until a trial is done" if left is None else f"about {format_duration(left)}"))
        for row in running.itertuples():
            epochs = f"epoch {row.epochs[-1]['epoch']} of {row.epoch_num}" if row.epochs else "starting"
            say(f"trial {row.trial}: {epochs}" + (f", on {row.node}" if row.node else ""))
    for row in results[results.state == FAILED].itertuples():
        say(f"trial {row.trial} failed: {row.error}")
    space = read_space(manifest)
    advice = None if space is None else search_advice(results, space)
    if space is not None and advice is not None and len(advice.settings):
        say("settings:" if done else "settings so far:")
        console.print(settings_table(advice, space.search, rows=_SHOWN))
        for line in advice_lines(advice, space):
            say(line)
    if search.exists(CONFIRMATION):
        say(f"confirmed, as far as it goes: {search.path(CONFIRMATION)}")
    elif done and advice is not None and advice.recommended is not None:
        for line in confirm_lines(search.uri):
            say(line)
