"""Tables as CSV files."""

from pathlib import Path

import pandas as pd

from brainreg.analysis.alpha_th import to_latex


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV: numbers in full, accuracies as fractions."""
    return table.to_csv(index=False)


def save(table: pd.DataFrame, folder: str | Path, name: str) -> None:
    """Write an alpha/Th table as NAME.csv and NAME.tex. No folder: nothing is written."""
    if str(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{name}.csv").write_text(to_csv(table), encoding="utf-8")
        Path(folder, f"{name}.tex").write_text(to_latex(table), encoding="utf-8")
