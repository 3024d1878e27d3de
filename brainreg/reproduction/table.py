"""What rows found, as the tables of README and documentation."""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from brainreg._utils.formats import SYMBOLS, format_duration, format_hyperparameter
from brainreg.analysis.comparison import compare_settings, confirmation_table, verdict_of
from brainreg.errors import InputError, first_line
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.searches import CONFIRMATION
from brainreg.reproduction.publish import RECORD
from brainreg.spaces.names import EARLY_STOPPED, FOUND, LIKE_FOUND, PUBLISHED, SETTINGS, UNREGULARIZED, shown_name
from brainreg.spaces.published import row_name

# What a row's record and its confirmation must have to be shown.
_RECORD = ("row", "size", "space", "trials", "confirmed_seeds", "seconds", "devices", "command")
_COLUMNS = ("setting", "rank", *SYMBOLS, "seed", "seeds", "measure", "attack", "eps", "n", "correct", "accuracy")


def load_reproductions(folder: str | Path) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield what each row left in a folder: its record, and its confirmation with the row's name as `search`.

    Raises:
        InputError: one of the two files is missing or damaged.
    """
    for path in sorted(Path(folder).glob(f"*/{RECORD}")):
        file = path
        try:
            record = json.loads(path.read_text())
            if not isinstance(record, dict):
                raise ValueError("it is no mapping")
            _check_names(record, _RECORD)
            file = path.with_name(CONFIRMATION)
            confirmation = pd.read_csv(file)
            _check_names(confirmation.columns, _COLUMNS)
        except (OSError, ValueError) as error:
            raise InputError(f"--save_dir={folder}: {file}: damaged ({first_line(error)})") from error
        yield record, confirmation.assign(search=path.parent.name)


def _check_names(found: Collection[str], needed: Collection[str]) -> None:
    if missing := [name for name in needed if name not in found]:
        raise ValueError(f"{', '.join(missing)}: missing")


def gains_table(folder: str | Path) -> str:
    """Return what the found setting of each row in a folder gains over both unregularized ones, as the README shows it.

    Differences are in points of accuracy on test images, with what `compare_settings` says of them.

    Raises:
        InputError: nothing was reproduced there.
    """
    lines = ["| row | found minus | clean | under noise | AutoAttack |", "|---|---|---|---|---|"]
    for record, confirmation in load_reproductions(folder):
        differences, first = compare_settings(confirmation), confirmation_table(confirmation).iloc[0]
        for than in (UNREGULARIZED, EARLY_STOPPED):
            group = differences[(differences.better == FOUND) & (differences.than == than)]
            cells = {row.measure: _difference(row) for row in group.itertuples()}
            if cells:
                name = f"{record['row']}, {record['size']}, {len(record['confirmed_seeds'])} seeds"
                clean, noise, robust = (cells.get(measure, "") for measure in ("clean", "noise", "robust"))
                lines.append(f"| {name} | {shown_name(than)} | {clean} | {noise} | {robust}, eps {first.eps:.3g} |")
    if len(lines) == 2:
        raise _nothing(folder)
    return "\n".join(lines)


def _nothing(folder: str | Path) -> InputError:
    return InputError(f"--save_dir={folder}: nothing was reproduced there")


def markdown_table(folder: str | Path) -> str:
    """Return the tables of all rows in a folder, as docs/found.md shows them, and what they cost.

    Accuracies and differences are in percent, means over seeds with 95% intervals, on test images; behind the mean
    under AutoAttack at the search's strength are those of the seeds.

    Raises:
        InputError: nothing was reproduced there.
    """
    heads = "clean | under noise | AutoAttack, half eps | AutoAttack, eps | AutoAttack, 1.5 eps"
    accuracies = [f"| row | setting | {heads} |", "|---|---|---|---|---|---|---|"]
    differences = [f"| row | difference | {heads} |", "|---|---|---|---|---|---|---|", _CLAIM]
    costs = []
    for record, confirmation in load_reproductions(folder):
        name, summary = f"{record['row']}, {record['size']}", confirmation_table(confirmation)
        for setting in (LIKE_FOUND, *SETTINGS):
            for one in summary[summary.setting == setting].itertuples():
                cells = [
                    name,
                    f"{shown_name(setting)}{_symbols(one)}",
                    *(_accuracy(one, measure) for measure in _SHOWN),
                ]
                accuracies.append(f"| {' | '.join(cells)} |")
        for (better, than), group in compare_settings(confirmation).groupby(["better", "than"], sort=False):
            by_measure = {row.measure: _difference(row) for row in group.itertuples()}
            cells = [
                name,
                f"{shown_name(better)} - {shown_name(than)}",
                *(by_measure.get(measure, "") for measure in _SHOWN),
            ]
            differences.append(f"| {' | '.join(cells)} |")
        costs.append(_cost(name, record, summary.iloc[0]))
    if not costs:
        raise _nothing(folder)
    return "\n".join([*accuracies, "", *differences, "", *costs])


_SHOWN = ("clean", "noise", "robust_weaker", "robust", "robust_stronger")
_CLAIM = f"| *arXiv 2410.03952* | *published - unregularized, as claimed* | *slightly worse* |{' *better* |' * 4}"


def _accuracy(one: Any, measure: str) -> str:
    mean, low, high = (100 * getattr(one, f"{measure}{end}") for end in ("", "_low", "_high"))
    if math.isnan(mean):
        return ""
    seeds = "" if one.seeds == one.planned else f" ({one.seeds} of {one.planned} seeds)"
    each = f" ({', '.join(f'{100 * value:.0f}' for value in one.robust_by_seed)})" if measure == "robust" else ""
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]{each}{seeds}"


def _difference(row: Any) -> str:
    said = {
        "better": "**better**",
        "worse": "**worse**",
        "better, if differences are normal": "*better, if normal*",
        "worse, if differences are normal": "*worse, if normal*",
        "not larger than the noise": "within noise",
    }
    verdict = verdict_of(row).removeprefix("larger than the noise, ")
    interval = "" if math.isnan(row.low) else f" [{100 * row.low:+.1f}, {100 * row.high:+.1f}]"
    return f"{100 * row.difference:+.1f}{interval} {said.get(verdict, verdict)}"


def _symbols(one: Any) -> str:
    if one.setting not in (PUBLISHED, FOUND):
        return ""
    whole = {name for name in SYMBOLS if Hyperparameters.model_fields[name].annotation is int}
    values = {name: getattr(one, name) for name in SYMBOLS if pd.notna(getattr(one, name))}
    texts = [
        f"{SYMBOLS[name]} {format_hyperparameter(int(value) if name in whole else value)}"
        for name, value in values.items()
    ]
    return f" ({', '.join(texts)})"


def _cost(name: str, record: Mapping[str, Any], first: Any) -> str:
    seconds, seeds = sum(record["seconds"]["wall"].values()), len(record["confirmed_seeds"])
    noise, attack = f"{first.noise_kind} noise of {first.noise_eps:.3g}", f"{first.attack} of {first.eps:.3g}"
    data = row_name(record["space"]["task"], record["space"]["reg_data"])
    good = record.get("as_good") or {}
    ranges = [
        f"{symbol} {' to '.join(format_hyperparameter(good[f'as_good_{key}_{end}']) for end in ('low', 'high'))}"
        for key, symbol in (("alpha", "alpha"), ("th", "Th"))
        if f"as_good_{key}_low" in good
    ]
    said = f", in which as good, for all that is known, were settings of {', '.join(ranges)}" if ranges else ""
    return (
        f"* {name}: {data}; {record['trials']} trials{said}, then each setting with {seeds} fresh seeds;"
        f" {first.clean_n:.0f} test images, clean and under {noise}, {first.robust_n:.0f} of them, other ones for each"
        f" seed, under {attack}; {format_duration(seconds)} on {', '.join(record['devices'])}: `{record['command']}`"
    )
