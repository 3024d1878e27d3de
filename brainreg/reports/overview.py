"""The first section: what each search found, how sure that is, and what it cost."""

import shlex

import pandas as pd

from brainreg._utils.formats import format_duration, format_probability
from brainreg.analysis.comparison import compare_settings, confirmation_table, verdict_of
from brainreg.analysis.figures.settings import expectations
from brainreg.analysis.trials import best_settings, listed_settings, same_in_all
from brainreg.analysis.trials import costs as cost_table
from brainreg.recommendation.setting_table import Advice
from brainreg.records.results import (
    expected_value,
    first_of_settings,
    rank_trials,
    recommended_trial,
)
from brainreg.records.trial import FINISHED
from brainreg.reports.parts import (
    Facts,
    Figures,
    Folded,
    Heading,
    Lead,
    Note,
    Notes,
    Part,
    Picture,
    Preformatted,
    Run,
    Settings,
    Table,
    cell,
)
from brainreg.reports.subject import Subject
from brainreg.spaces.names import FOUND, LIKE_FOUND, SETTINGS, shown_name
from brainreg.spaces.objective import objective_rule
from brainreg.spaces.space import Space


def overview(subject: Subject) -> list[Part]:
    """Return the section."""
    parts: list[Part] = []
    for name in subject.folders:
        parts += [*_lead(subject, name), *_next(subject, name), *_settings(subject, name)]
    seen = subject.searches.overview
    facts = seen.drop(columns=["published", "notes"]).set_index("search").astype(object)
    facts["hours"] = [format_duration(3600 * hours) for hours in facts.hours]
    facts = facts.rename(columns={"of": "of (trials asked for)", "hours": "time that workers spent"})
    groups = {name: subject.trials[subject.trials.search == name] for name in facts.index}
    facts["objective"] = [_measured(one) for one in groups.values()]
    facts["same in all its trials"] = [
        ", ".join(f"{key} {value}" for key, value in same_in_all(one).items()) for one in groups.values()
    ]
    if subject.several:
        parts.append(Table.of("Overview", facts.T.reset_index(names=""), texts=[*facts.index]))
    else:
        told = Facts({name: cell(value) for name, value in facts.iloc[0].items()})
        parts.append(Folded("About this search", told))
    costs = cost_table(subject.trials)
    if not costs.empty:
        parts += [Heading("States and cost"), Note("Times are those that workers spent, added up.")]
        parts.append(Table.of("States and cost", subject.without_search(costs)))
    return parts


def _lead(subject: Subject, name: str) -> list[Part]:
    """What a search found, in a few sentences: what was confirmed of it, or that nothing was."""
    state = subject.searches.overview.set_index("search").state[name]
    said = f"{name} is {state}. " if subject.several else ""
    confirmed, accuracies = _confirmed(subject, name)
    one = subject.trials[(subject.trials.search == name) & (subject.trials.state == FINISHED)].dropna(
        subset=["objective"]
    )
    if one.empty:
        return [Lead(said + (confirmed or "No trial has finished yet.")), Notes(accuracies)]
    ranked = rank_trials(one)
    best = recommended_trial(ranked)
    objective, clean, robust = (
        expected_value(best, name) for name in ("objective", "clean_accuracy", "robust_accuracy")
    )
    values = [("alpha", best.reg_alpha), ("Th", best.reg_thresh)]
    of = ", ".join(filter(None, [shown_name(best.setting), *(f"{key} {value:.3g}" for key, value in values)]))
    advice = subject.advices[name][0].recommended if name in subject.advices else None
    sure = ""
    if advice is not None and advice.setting_number == best.setting_number:
        low, high = 100 * advice.objective_low, 100 * advice.objective_high
        sure = f" [{low:.1f}, {high:.1f}], the best of them with {format_probability(advice.p_best)}"
    runs = int((one.setting_number == best.setting_number).sum())
    found = (
        f"of {one.setting_number.nunique()} settings with {len(one)} finished trials, setting"
        f" {best.setting_number} ({of}) is recommended, after {runs} of them: expected objective {objective:.1%}{sure};"
        f" clean {clean:.1%}, robust {robust:.1%}"
    )
    if advice is not None and "noise" in advice:
        found += f", under noise {advice.noise:.1%}"
    for other in first_of_settings(ranked).itertuples():
        if other.setting and other.setting_number != best.setting_number:
            found += f"; {shown_name(other.setting)}: {expected_value(other, 'objective'):.1%}"
    if confirmed:
        return [Lead(said + confirmed), Notes([*accuracies, f"in the search, on validation images: {found}"])]
    told = f"{said}Not confirmed: on validation images, {found}."
    largest = f"The largest objective of a single trial, {one.objective.max():.1%}, is too good by some luck."
    return [Lead(f"{told} {largest}")]


def _settings(subject: Subject, name: str) -> list[Part]:
    """What is expected of the best settings of a search; nothing where its space is another version's."""
    if name not in subject.advices:
        return []
    advice, space = subject.advices[name]
    text = "The expected objective of each setting with its 95% interval; the table below has the numbers"
    noise = "" if pd.isna(advice.noise) else f" (one run: standard deviation {100 * advice.noise:.1f} points)"
    note = Note(
        "What a further run of each setting is expected to give on validation images, by all runs of the search"
        f"{noise}. P(best): the probability that no other of its settings is better by more than half a point;"
        " P(better): that it is better than the unregularized one."
        + (f" Caution: {advice.caution}." if advice.caution else "")
    )
    return [
        Figures([Picture.of(expectations(advice), f"Expected objective{subject.of(name)}", text)]),
        note,
        _unfolding(subject, name, advice, space),
    ]


def _unfolding(subject: Subject, name: str, advice: Advice, space: Space) -> Settings:
    """The best settings of a search, each with its runs."""
    trials = subject.trials[subject.trials.search == name].set_index("trial")
    listed = listed_settings(advice)
    return Settings(
        table=Table.of(f"Settings{subject.of(name)}", best_settings(advice, space)),
        keys=[subject.setting_key(name, number) for number in listed.setting_number],
        runs=[
            [Run(subject.trial_key(name, one), str(one), f"{100 * trials.objective[one]:.1f}") for one in numbers]
            for numbers in listed.trials
        ],
    )


def _next(subject: Subject, name: str) -> list[Part]:
    """What to type next: a confirmation where there is none, more trials where few would do, and the network."""
    if name not in subject.advices:
        return []
    advice, _ = subject.advices[name]
    best, folder = advice.recommended, subject.folders[name]
    if best is None:
        return []
    confirmed = (subject.searches.confirmation.search == name).any()
    trials, more = int((subject.trials.search == name).sum()), advice.runs_to_settle()
    place = shlex.quote(folder.uri)
    steps = {f"brainreg export {place}": "take the recommended network along"}
    if more is not None and more <= trials:
        why = f"about {more} more runs of the best two settings would tell them apart with 90%"
        steps = {f"brainreg resume {place} --num-samples={trials + more}": why, **steps}
    if not confirmed:
        steps = {f"brainreg confirm {place}": "is it better on test images, over fresh seeds?", **steps}
    width = max(map(len, steps))
    return [Preformatted("\n".join(f"{command:<{width}}  # {why}" for command, why in steps.items()))]


def _confirmed(subject: Subject, name: str) -> tuple[str, list[str]]:
    """What a confirmation measured on test images: in a sentence, and each setting's accuracies; both empty if none."""
    confirmation = subject.searches.confirmation
    confirmation = confirmation[confirmation.search == name]
    summary = confirmation_table(confirmation)
    summary = summary[summary["rank"] < 2]
    if not (summary.setting == FOUND).any():
        return "", []
    first = summary[summary.setting == FOUND].iloc[0]
    seeds = f"{first.seeds}" + (f" of {first.planned}" if first.seeds < first.planned else "")
    sentence = f"Confirmed on test images with {seeds} fresh seeds: the found setting (trial {first.trial})"
    if pd.notna(first.objective):
        sentence += f" has an objective of {first.objective:.1%}{_ends(first, 'objective')}"
    differences = compare_settings(confirmation)
    weighted = confirmation.get("noise_weight", pd.Series(dtype=float)).gt(0).any()
    for row in differences[(differences.measure == "objective") & (differences.better == FOUND)].itertuples():
        sentence += f"; against {shown_name(row.than)} {100 * row.difference:+.1f} points, {verdict_of(row)}"
    accuracies = [
        f"{shown_name(setting)}: "
        + ", ".join(
            f"{measure} {getattr(row, measure):.1%}{_ends(row, measure)}"
            for measure in ("objective", "clean", "robust", *(["noise"] if weighted else []))
            if pd.notna(getattr(row, measure))
        )
        for setting in reversed((LIKE_FOUND, *SETTINGS))
        for row in summary[summary.setting == setting].itertuples()
    ]
    attack = f"; robust: {first.attack}, eps {first.eps:g}" if pd.notna(first.eps) else ""
    noise = f"; {first.noise_kind} noise, eps {first.noise_eps:g}" if weighted and pd.notna(first.noise_eps) else ""
    return f"{sentence}.", [*accuracies, f"means with 95% intervals over seeds{attack}{noise}"]


def _measured(trials: pd.DataFrame) -> str:
    """What the objective of a search is, in words."""
    known = trials[trials.weight.notna() & trials.eps.notna()]
    if known.empty:
        return ""
    first = known.iloc[0]
    counts = [
        f"{int(trials[name].max())} {said}"
        for name, said in (("clean_n", "clean"), ("robust_n", "attacked"))
        if trials[name].notna().any()
    ]
    said = f" ({', '.join(counts)})" if counts else ""
    optimized = "" if first.noise_weight else "not optimized: "
    return (
        f"{objective_rule(first.weight, first.noise_weight)} accuracy, on validation images{said}; robust:"
        f" {first.attack}, eps {first.eps:g}; {optimized}{first.noise} noise, eps {first.noise_eps:g}"
    )


def _ends(row: object, measure: str) -> str:
    """The interval of an accuracy, where it is known."""
    low, high = getattr(row, f"{measure}_low"), getattr(row, f"{measure}_high")
    return "" if pd.isna(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"
