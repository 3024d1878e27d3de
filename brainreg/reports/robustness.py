"""How robust networks are by the strength of each attack, and what stood the final one."""

import io
import os
import shlex
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from brainreg.analysis.curves import confirmed_curves, load_measured_curves
from brainreg.analysis.figures.robustness import robustness_curves
from brainreg.errors import InputError
from brainreg.evaluation.subject import REPORT, SPLITS, evaluation_folder
from brainreg.records.results import BEST, FINAL_TABLE
from brainreg.records.searches import CONFIRMATION_FOLDER
from brainreg.reports.parts import Figures, Folded, Heading, Links, Note, Part, Picture, Table, intervals
from brainreg.reports.subject import Subject
from brainreg.spaces.names import shown_name
from brainreg.storage import StorageError

# Columns of the table of the final attack that are shown.
_FINAL = ("trial", "setting", "attack", "eps", "n", "accuracy", "low", "high", "fresh")


def robustness(subject: Subject) -> list[Part]:
    """Return the section."""
    parts: list[Part] = [Heading("The final attack"), *_final_attack(subject), Heading("Curves")]
    try:
        curves = load_measured_curves([*subject.folders.values()], subject.trials)
    except StorageError:
        raise
    except InputError as error:
        return [*parts, Note(f"They cannot be shown: {error}.")]
    fresh = confirmed_curves(subject.searches.confirmation)
    if len(fresh):
        alt = "Accuracy on test images by strength of each attack, a line for each setting of the confirmation"
        figure = robustness_curves(fresh, "test")
        caption = "Confirmed on test images, with 95% intervals over fresh seeds"
        parts.append(Figures([Picture.of(figure, caption, alt)]))
    for images, part in curves.groupby("images", sort=False):
        alt = f"Accuracy on {images} images by strength of each attack, a line for each network"
        caption = f"On {images} images, with 95% intervals"
        parts.append(Figures([Picture.of(robustness_curves(part, images), caption, alt)]))
        seen = part[["network", "attack", "eps", "n"]].assign(**{"accuracy (%)": intervals(part)})
        rows = Table.of(f"Measured on {images} images", seen, texts=["attack"])
        parts.append(Folded(f"All measurements on {images} images ({len(part)})", rows))
    if curves.empty and fresh.empty:
        checkpoint = shlex.quote(next(iter(subject.folders.values())).path(f"{BEST}/checkpoint.pt"))
        text = (
            f"None was measured yet. brainreg evaluate --checkpoint={checkpoint} measures a network (and the"
            " same for the trial without regularization), and the next report shows it;"
            " 05_robustness_curves.ipynb measures both."
        )
        parts.append(Note(text))
    return [*parts, *_pages(subject)]


def _pages(subject: Subject) -> list[Part]:
    """Where the pages of single networks lie, as seen from this page: those that `brainreg evaluate` wrote, and a
    confirmation's.
    """
    if subject.beside is None:
        return []
    beside = subject.beside.resolve()
    pages, confirmed = [], []
    for name, folder in subject.folders.items():
        if not folder.is_local:
            continue
        search = f"{name}: " if subject.several else ""
        for split in SPLITS:
            for page in sorted(Path(str(folder)).glob(f"*/{evaluation_folder(split)}/{REPORT}")):
                network = page.parent.parent.name.replace("_", " ")
                pages.append((f"{search}{network}, on {split} images", _address(page, beside)))
        for page in sorted(Path(str(folder)).glob(f"{CONFIRMATION_FOLDER}/*/{REPORT}")):
            setting, _, seed = page.parent.name.partition("-seed_")
            what = f"{shown_name(setting).replace('_', ' ')}, seed {seed}"
            confirmed.append((f"{search}{what}, on test images", _address(page, beside)))
    parts: list[Part] = [Links(pages)] if pages else []
    if confirmed:
        parts.append(Folded(f"The confirmation's networks ({len(confirmed)})", Links(confirmed)))
    return [Heading("Pages of single networks"), *parts] if parts else []


def _address(page: Path, beside: Path) -> str:
    """The address of a page, as seen from a folder."""
    return quote(Path(os.path.relpath(page, beside)).as_posix())


def _final_attack(subject: Subject) -> list[Part]:
    found: list[pd.DataFrame] = []
    damaged: list[Part] = []
    for name, folder in subject.folders.items():
        content = folder.read(FINAL_TABLE)
        if content is None:
            continue
        try:
            table = pd.read_csv(io.BytesIO(content), dtype={"setting": str}).fillna({"setting": ""})
            found.append(table[[*_FINAL]].assign(search=name))
        except (ValueError, KeyError):
            damaged.append(Note(f"{folder.path(FINAL_TABLE)}: damaged; not a table of the final attack."))
    if not found:
        return damaged or [Note("None was run.")]
    attacks = pd.concat(found, ignore_index=True)
    seen = attacks[["search", "trial"]].assign(
        setting=attacks.setting.map(shown_name).replace("", "recommended"),
        attack=attacks.attack,
        eps=attacks.eps,
        images=attacks.n,
        **{"robust accuracy (%), validation": intervals(attacks)},
    )
    seen["the search"] = attacks.fresh.astype(str).map(
        {"True": "did not attack these images", "False": "attacked these images, too"}
    )
    note = "On validation images, with Wilson’s 95% interval over images."
    table = Table.of("The final attack", subject.without_search(seen), texts=["setting", "attack", "the search"])
    return [*damaged, Note(note), table]
