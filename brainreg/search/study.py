"""Optuna's study: asked for settings, and informed of their outcomes. Nothing of Ray is needed."""

import contextlib
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from brainreg.errors import InputError
from brainreg.records.trial import FAILED, FINISHED, STOPPED, UNFINISHED, TrialRecord
from brainreg.search._compat import change_waiting, open_trial, stored_trial, system_attributes
from brainreg.search.database import open_database
from brainreg.search.planner import NextRun, RunPlanner
from brainreg.search.proposals import NewSettings, setting_key
from brainreg.search.samplers import make_sampler
from brainreg.search.strategy import GOALS, SURROGATE, Strategy, sampler_seed
from brainreg.spaces.space import Space
from brainreg.storage import StorageError

# What is known of a measured trial beside its values.
_ATTRIBUTES = ("objective", "clean_accuracy", "robust_accuracy", "noise_accuracy")

_STATES = {
    FINISHED: TrialState.COMPLETE,
    STOPPED: TrialState.PRUNED,
    FAILED: TrialState.FAIL,
    UNFINISHED: TrialState.RUNNING,
}

_ENDED = {TrialState.PRUNED: STOPPED, TrialState.FAIL: FAILED}


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Turn a database's errors into StorageError."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = getattr(error.__cause__ or error, "orig", None) or error
        raise StorageError(f"the study's database: {' '.join(str(cause).split())}") from error


@contextlib.contextmanager
def _not_taken(url: str, name: str) -> Iterator[None]:
    """Name a study that is there already."""
    try:
        yield
    except optuna.exceptions.DuplicatedStudyError as error:
        raise study_exists_error(url, name) from error


def study_exists_error(url: str, name: str) -> InputError:
    """Return the error of a new search whose study is there already."""
    shown = sqlalchemy.make_url(url).render_as_string(hide_password=True)
    return InputError(f"--study={shown}: already holds a study {name}; choose another --name")


class SearchStudy:
    """The study of a search: what is asked of Optuna, and what it is told.

    Args:
        space: what is searched.
        strategy: the goal, the sampler with its seed, and the seeds of a setting.
        name: of the study.
        url: of its database, as SQLAlchemy writes it; None keeps it in memory.
        records: what is known of the search's trials; a study that lacks them is made again from them.
        own: whether the database is this search's alone, so that what a power cut takes of it can be made again.
        lost: numbers of trials whose record was lost; what the study knows of them is all that is known.
        new: whether the search begins, so that a shared database must not hold a study of its name.

    Raises:
        InputError: the database does not answer, or its study is another one.
    """

    def __init__(
        self,
        space: Space,
        strategy: Strategy,
        name: str,
        url: str | None = None,
        records: Sequence[TrialRecord] = (),
        own: bool = False,
        lost: Collection[int] = (),
        new: bool = False,
    ):
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings are long, and told here in one line
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        if strategy.sampler_seed is None:
            strategy = strategy.model_copy(update={"sampler_seed": sampler_seed(space, space.seed)})
        self.space, self.strategy, self._planner = space, strategy, RunPlanner(space, strategy)
        self.goals = GOALS[strategy.objective]
        self._attributes = [name for name in _ATTRIBUTES if name not in self.goals]
        storage = None if url is None else open_database(url, durable=not own)
        shown = "" if url is None else url
        with _kept(), _not_taken(shown, name):
            self.study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=["maximize"] * len(self.goals),
                load_if_exists=own or not new,
            )
            known = self.study.get_trials(deepcopy=False)
            if storage is not None and own and _lacks_parameters(known, records):  # a power cut took a part of it
                optuna.delete_study(study_name=name, storage=storage)
                self.study = optuna.create_study(
                    storage=storage, study_name=name, directions=["maximize"] * len(self.goals)
                )
                known = []
            if len(self.study.directions) != len(self.goals) or not _are_of(known, records, lost):
                shown = sqlalchemy.make_url(shown).render_as_string(hide_password=True)
                raise InputError(f"--study={shown}: its study {name} is that of another search; give another --study")
            if not known:
                self.study.set_metric_names(list(self.goals))
            self._complete(known, records)
            settings = [space.setting(name) for name in space.given] + [record.hyperparameters for record in records]
            self._known = {setting_key(setting) for setting in settings}

    def _complete(self, known: Sequence[FrozenTrial], records: Sequence[TrialRecord]) -> None:
        """Add the given settings and the recorded trials that the study lacks."""
        of_number = {record.number: record for record in records}
        for number in range(len(known), max([len(self.space.given) - 1, *of_number]) + 1):
            if number in of_number:
                self.study.add_trial(self._frozen(of_number[number]))
            elif number < len(self.space.given):
                name = self.space.given[number]
                self.study.enqueue_trial(self.space.parameters(name), user_attrs={"setting": name})
            else:  # proposed, but never recorded
                self.study.enqueue_trial({})

    def _frozen(self, record: TrialRecord) -> FrozenTrial:
        attributes = {name: record.measured[name] for name in self._attributes if name in record.measured}
        attributes["seed"] = record.hyperparameters.get("seed", self.space.seed)
        attributes |= {"setting_number": record.setting_number} if record.is_repeat else {}
        attributes |= {"setting": record.setting} if record.setting else {}
        attributes |= {"error": record.error} if record.error else {}
        proxies: dict[int, float] = {
            int(one["epoch"]): one["proxy_objective"] for one in record.epochs if "proxy_objective" in one
        }
        values = None
        if len(self.goals) > 1:
            proxies = {}  # Optuna has no place for them
        if record.state == FINISHED:
            values = [record.measured[goal] for goal in self.goals]
        elif record.state == STOPPED and proxies:
            values = [proxies[max(proxies)]]  # as Optuna itself does
        return create_trial(
            state=_STATES[record.state],
            values=values,
            params=record.params,
            distributions={name: json_to_distribution(text) for name, text in record.distributions.items()},
            user_attrs=attributes,
            system_attrs=record.noted,
            intermediate_values=proxies,
        )

    def begun(self) -> list[Trial]:
        """Return the trials that were ever proposed, by their numbers."""
        with _kept():
            trials = self.study.get_trials(deepcopy=False, states=_BEGUN)
            return [self._resumed(trial) for trial in trials]

    def _resumed(self, trial: FrozenTrial) -> Trial:
        self.study.sampler = self._sampler(trial.number)
        return open_trial(self.study, trial)

    @property
    def begun_count(self) -> int:
        """How many trials were ever proposed."""
        with _kept():
            return len(self.study.get_trials(deepcopy=False, states=_BEGUN))

    def ask(self, part_spent: float = 0.0) -> Trial:
        """Begin a trial: a given setting, then what the planner chooses.

        Args:
            part_spent: of the search's limit, 0 to 1.

        Raises:
            StorageError: the database fails.
        """
        with _kept():
            trials = self.study.get_trials(deepcopy=False)
            begun = [one for one in trials if one.state in _BEGUN]
            waiting = next((one for one in trials if one.state == TrialState.WAITING), None)
            number = len(trials) if waiting is None else waiting.number
            if waiting is None:
                run = self._planner.next_run(begun, number, part_spent)
                self.study.enqueue_trial(dict(run.params), user_attrs=run.attributes)
            elif "setting" in waiting.user_attrs:
                self._give(waiting, NextRun(self._planner.first_seed(number, number)))
            elif "seed" not in waiting.user_attrs:  # its record was lost
                self._give(waiting, self._planner.next_run(begun, number, part_spent))
            self.study.sampler = self._sampler(number)
            return self.study.ask()

    def _give(self, waiting: FrozenTrial, run: NextRun) -> None:
        """Let a trial that waits be a certain run."""
        change_waiting(self.study, waiting, dict(run.attributes), dict(run.params))

    def _sampler(self, number: int) -> NewSettings:
        """What proposes a trial's setting: of one number it draws the same, whether the search was resumed or not."""
        assert self.strategy.sampler_seed is not None  # since it began
        draws = np.random.SeedSequence([self.strategy.sampler_seed, number]).generate_state(2)
        name = "random" if self.strategy.sampler == SURROGATE else self.strategy.sampler
        return NewSettings(make_sampler(name, int(draws[0])), self.space, self._known, int(draws[1]))

    def expected_regret(self) -> float:
        """Return how much better the best setting is expected to be than the recommended one; infinite at first."""
        with _kept():
            return self._planner.expected_regret(self.study.get_trials(deepcopy=False, states=_BEGUN))

    def propose(self, trial: Trial) -> TrialRecord:
        """Return the setting of a trial, as a new record."""
        with _kept():
            hyperparameters = self.space(trial)
            self._known.add(setting_key(hyperparameters))
            seed = trial.user_attrs.get("seed", self.space.seed)
            if seed != self.space.seed:
                hyperparameters["seed"] = seed
            return TrialRecord(
                number=trial.number,
                setting=trial.user_attrs.get("setting", ""),
                hyperparameters=hyperparameters,
                params=trial.params,
                distributions={name: distribution_to_json(one) for name, one in trial.distributions.items()},
                noted=system_attributes(self.study, trial),
                ended=_ENDED.get(stored_trial(self.study, trial).state, ""),  # where its record was lost
                error=trial.user_attrs.get("error", ""),
                setting_number=trial.user_attrs.get("setting_number", trial.number),
            )

    def report(self, trial: Trial, epoch: int, value: float) -> None:
        """Tell Optuna the proxy of a trial's objective; it has a place for that where there is one goal."""
        with _kept():
            # A trial that goes on reports its last epoch again.
            stored = stored_trial(self.study, trial)
            if len(self.goals) == 1 and not stored.state.is_finished() and epoch not in stored.intermediate_values:
                trial.report(value, epoch)

    def tell_finished(self, trial: Trial, measured: dict[str, Any]) -> None:
        """Tell Optuna what was measured."""
        with _kept():
            if not self._is_over(trial):
                for name in self._attributes:
                    trial.set_user_attr(name, measured[name])
                self.study.tell(trial, [measured[goal] for goal in self.goals])

    def tell_stopped(self, trial: Trial) -> None:
        """Tell Optuna that a trial was not worth going on with. It ranks those behind all that finished."""
        with _kept():
            if not self._is_over(trial):
                self.study.tell(trial, state=TrialState.PRUNED)

    def tell_failed(self, trial: Trial, error: str) -> None:
        """Tell Optuna that a trial failed. It learns nothing from those."""
        with _kept():
            if not self._is_over(trial):
                trial.set_user_attr("error", error)
                self.study.tell(trial, state=TrialState.FAIL)

    def _is_over(self, trial: Trial) -> bool:
        return stored_trial(self.study, trial).state.is_finished()


def _lacks_parameters(known: Sequence[FrozenTrial], records: Sequence[TrialRecord]) -> bool:
    """Return whether a study has trials without parameters that their records, which are written later, have."""
    of_number = {record.number: record for record in records}
    return any(of_number[one.number].params.keys() > one.params.keys() for one in known if one.number in of_number)


def _are_of(known: Sequence[FrozenTrial], records: Sequence[TrialRecord], lost: Collection[int]) -> bool:
    """Return whether a study's trials are those of a search; what is begun may not have been recorded."""
    of_number = {record.number: record for record in records}
    for trial in known:
        record = of_number.get(trial.number)
        if record is None and trial.state.is_finished() and trial.number not in lost:
            return False
        if record is not None and any(record.params.get(name) != value for name, value in trial.params.items()):
            return False
    return True


_BEGUN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
