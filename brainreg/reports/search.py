"""A search, or several, as one HTML page that any browser opens without a network."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import brainreg
from brainreg._utils.html import ABSENT, render_page
from brainreg.records.searches import RUNNING, split_folders
from brainreg.reports.alpha_th import alpha_th
from brainreg.reports.charts import library
from brainreg.reports.importance import importance
from brainreg.reports.landscape import front, landscape
from brainreg.reports.overview import overview
from brainreg.reports.parts import Note, Part
from brainreg.reports.robustness import robustness
from brainreg.reports.subject import Subject
from brainreg.reports.trials import Trials
from brainreg.storage import Storage


@dataclass(frozen=True)
class _Section:
    """A section of the page; that of the trials has more than parts."""

    id: str
    title: str
    parts: Sequence[Part]
    trials: Trials | None = None


def report(folders: Sequence[str | Path | Storage], beside: Path | None = None) -> str:
    """Return the page of one search, or of several side by side.

    Args:
        folders: of the searches, running or ended.
        beside: folder of this machine in which the page will lie, so that it can lead to the pages of networks; None
            leaves those out.

    Raises:
        InputError: a folder that does not exist, or that holds no search; storage that does not answer.
    """
    subject = Subject(split_folders(folders), beside)
    names = [*subject.folders]
    running = [*subject.searches.overview[subject.searches.overview.state == RUNNING].search]
    return render_page(
        "search.html.jinja",
        f"{len(names)} searches: {', '.join(names)}" if subject.several else f"Search {names[0]}",
        style="search.css",
        script="search.js",
        library=library(),
        running=(f": {', '.join(running)}" if subject.several else "") if running else None,
        now=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        version=brainreg.__version__,
        notes=subject.searches.notes,
        sections=[
            _Section("overview", "Overview", overview(subject)),
            _trials(subject),
            _Section("alpha-th", "The alpha/Th table", alpha_th(subject)),
            _Section("landscape", "Landscape", landscape(subject)),
            _Section("front", "Clean against robust", front(subject)),
            _Section("robustness", "Robustness by strength", robustness(subject)),
            _Section("importance", "Importance", importance(subject)),
        ],
        absent=ABSENT,
    )


def _trials(subject: Subject) -> _Section:
    name, title = "trials-section", "Trials"
    if subject.trials.empty:
        return _Section(name, title, [Note("No trial has begun.")])
    trials = Trials(subject)
    return _Section(name, title, trials.best, trials)
