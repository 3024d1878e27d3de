"""Which hyperparameters matter for the objective."""

from brainreg.analysis.figures.importance import importance as draw_importance
from brainreg.records.trial import FINISHED
from brainreg.reports.parts import Figures, Note, Notes, Part, Picture, Table
from brainreg.reports.subject import Subject

# Where so many trials finished, fewer trees tell what is important: all of them would take longer than all the rest.
_MANY, _FEWER_TREES = 300, 16


def importance(subject: Subject) -> list[Part]:
    """Return the section."""
    from brainreg.analysis.importance import EVALUATORS, TREES, importances

    many = (subject.trials.state == FINISHED).sum() > _MANY
    trees = _FEWER_TREES if many else TREES
    shares = importances([*subject.folders.values()], trees=trees)
    fewer = f", a quarter of Optuna’s {TREES}, since more than {_MANY} trials finished" if many else ""
    note = (
        f"Shares of the importance for the validation objective by Optuna’s evaluators ({', '.join(EVALUATORS)}),"
        f" of all finished trials with parameters; random forests of {trees} trees{fewer}, seed 0. fANOVA and the"
        " mean decrease in impurity ask what explains the objective over all of them; PED-ANOVA asks what tells the"
        " best tenth from all. They answer different questions and may disagree. Shares sum to 100% even where the"
        " objectives are noise: objectives in a random order stay below the lines of the figure (floor in the"
        " table) 19 times in 20. Trials that were stopped early are left out, which makes the rest look alike."
    )
    if shares.empty:
        return [Note(note), Note("Too few trials with parameters have finished.")]
    nothing = [
        f"{name}: the hyperparameters do not predict the objective of its {one.trials.iloc[0]} trials"
        f" (cross-validated R² {one.r2.iloc[0]:.2f}), so their importance is not shown."
        for name, one in shares[~(shares.r2 > 0)].groupby("search", sort=False)
    ]
    shares = shares[shares.r2 > 0]
    if shares.empty:
        return [Note(note), Notes(nothing)]
    figure = Picture.of(draw_importance(shares), "Importance", "Shares of the importance, a bar for each evaluator")
    shares = shares.assign(
        shown=[f"{100 * a:.1f} (floor {100 * b:.1f})" for a, b in zip(shares.importance, shares.floor, strict=True)]
    )
    table = shares.pivot(index=["search", "parameter"], columns="evaluator", values="shown")
    seen = Table.of(
        "Importance", subject.without_search(table.rename(columns="{} (%)".format).reset_index()), texts=["parameter"]
    )
    return [Note(note), Notes(nothing), Figures([figure]), seen]
