"""Where in the space trials are good, and what clean accuracy costs."""

from brainreg.analysis.figures.front import expected_front, hypervolume_over_time
from brainreg.analysis.figures.front import pareto as draw_front
from brainreg.analysis.figures.landscape import landscape as draw_landscape
from brainreg.analysis.figures.landscape import slices as draw_slices
from brainreg.analysis.trials import front_trials
from brainreg.records.trial import FINISHED
from brainreg.reports.parts import Figures, Heading, Note, Notes, Part, Picture, Table
from brainreg.reports.subject import Subject
from brainreg.search.summary import front_lines


def landscape(subject: Subject) -> list[Part]:
    """Return the section of alpha and Th."""
    note = (
        "The heat map is the mean of the trials nearby, and fades away where there are none; fewer than six trials have"
        " none. With a single seed, a"
        " lone bright dot may be luck. The star is the proposed setting with the"
        " largest expected objective, the diamond the published one."
    )
    alt = "Heat map of the validation objective over alpha and Th"
    figures = []
    if subject.several:
        figures.append(
            Picture.of(draw_landscape(subject.trials, by="search"), "Alpha and Th, by search", alt, is_map=True)
        )
    for name, one in subject.trials.groupby("search", sort=False):
        of = f"{name}: " if subject.several else ""
        if not subject.several:
            figures.append(Picture.of(draw_landscape(one), "Alpha and Th", alt, is_map=True))
        for said, column in (("range", "reg_range"), ("N", "reg_image_num"), ("k", "reg_batch_size")):
            if one[column].nunique() > 1:
                drawn = draw_landscape(one, by=column)
                figures.append(Picture.of(drawn, f"{of}by {said}", f"{alt}, a panel for each part of {said}", True))
        if one.reg_image_num.nunique() > 1 or one.reg_batch_size.nunique() > 1:
            alt_slices = "The validation objective against N and against k, with a mark for each range"
            figures.append(Picture.of(draw_slices(one), f"{of}objective over N and over k", alt_slices))
    if not figures:
        return [Note("No trial has begun.")]
    same = [
        said
        for said, column in (("range", "reg_range"), ("N", "reg_image_num"), ("k", "reg_batch_size"))
        if subject.trials[column].nunique() < 2
    ]
    left_out = [Note(f"The same in all trials, so without a figure: {', '.join(same)}.")] if same else []
    return [Note(note), Figures(figures), *left_out]


def front(subject: Subject) -> list[Part]:
    """Return the section of clean against robust accuracy."""
    if not (subject.trials.state == FINISHED).any():
        return [Note("No trial has finished yet.")]
    note = (
        "The front: the trials that no other one exceeds in one accuracy and equals or exceeds in the other. Its"
        " hypervolume is the area that it dominates and that the unregularized trial alone does not. All on"
        " validation images; a front of many trials is too good by some amount."
    )
    alts = (
        "Clean against robust accuracy of each trial, the front, and its hypervolume",
        "How the hypervolume of the front grew over time",
    )
    figures = [
        Picture.of(draw_front(subject.trials), "Clean against robust accuracy", alts[0]),
        Picture.of(hypervolume_over_time(subject.trials), "Hypervolume over time", alts[1]),
    ]
    members = Table.of("The front", subject.without_search(front_trials(subject.trials)))
    expected: list[Part] = []
    for name, (advice, _) in subject.advices.items():
        if len(advice.settings):
            alt = "Expected clean and robust accuracy of each setting, with 95% intervals, and their front"
            expected += [
                Heading(f"The front of expected accuracies{subject.of(name)}"),
                Figures([Picture.of(expected_front(advice), f"Expected accuracies{subject.of(name)}", alt)]),
                Notes(front_lines(advice)),
            ]
    return [Note(note), Figures(figures), *expected, Heading("The trials of the front"), members]
