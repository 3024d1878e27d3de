"""The alpha/Th table, and what was confirmed on test images."""

from brainreg.analysis.alpha_th import alpha_th_table, format_table, table_notes, to_latex
from brainreg.analysis.averages import over_seeds
from brainreg.analysis.comparison import (
    compare_settings,
    confirmation_notes,
    confirmation_table,
    describe_differences,
    format_confirmation,
)
from brainreg.analysis.figures.comparison import comparison as draw_comparison
from brainreg.analysis.figures.comparison import paired_differences
from brainreg.analysis.files import to_csv
from brainreg.analysis.formats import ABSENT
from brainreg.reports.parts import Figures, Folded, Heading, Note, Notes, Part, Picture, Preformatted, Table, intervals
from brainreg.reports.subject import Subject


def alpha_th(subject: Subject) -> list[Part]:
    """Return the section."""
    table = alpha_th_table(subject.trials, subject.searches.confirmation)
    if table.empty:
        return [Note("No trial has begun.")]
    shown = format_table(table).set_index("search").rename(columns={"data": "data sets"})
    shown = shown.loc[:, (shown != ABSENT).any()]  # a space without a published setting has nothing of it
    parts: list[Part] = [Table.of("The alpha/Th table", shown.T.reset_index(names=""), texts=[*shown.index])]
    parts.append(Notes(table_notes(table)))
    if table[["unregularized_clean", "published_clean", "found_clean"]].notna().to_numpy().any():
        text = "Clean and robust accuracy of each setting, with 95% intervals; the table above has the numbers"
        parts.append(Figures([Picture.of(draw_comparison(table), "Clean and robust accuracy", text)]))
    parts.append(Folded("As LaTeX", Preformatted(to_latex(table))))
    parts.append(Folded("As CSV", Preformatted(to_csv(table))))
    return [*parts, Heading("Confirmed on test images"), *_confirmed(subject)]


def _confirmed(subject: Subject) -> list[Part]:
    confirmation = subject.searches.confirmation
    summary = confirmation_table(confirmation)
    missing = [name for name in subject.folders if name not in {*summary.search}]
    told = f"Nothing is confirmed of {', '.join(missing)}: no confirmation.csv with results."
    parts: list[Part] = [Note(f"{told} All its numbers are validation's.")] if missing else []
    if summary.empty:
        return parts
    seen = format_confirmation(summary)
    parts.append(Table.of("Confirmed on test images", seen, texts=["search", "setting", "range"]))
    differences = compare_settings(confirmation)
    parts.append(Notes(confirmation_notes(confirmation)))
    parts.append(Preformatted("\n".join(describe_differences(differences))))
    if len(differences):
        text = "The differences between settings on test images, with 95% intervals; the text above has the numbers"
        parts.append(Figures([Picture.of(paired_differences(differences), "Differences, paired over seeds", text)]))
    by = [name for name in ("search", "setting", "rank", "attack", "eps") if name != "search" or subject.several]
    curves = over_seeds(confirmation[confirmation.split == "test"], by)
    curves = curves[by].assign(**{"accuracy (%), test": intervals(curves), "seeds": curves.seeds})
    every = Table.of("Every attack and strength", curves, texts=["search", "setting", "attack"])
    return [*parts, Folded("Every attack and strength", every)]
