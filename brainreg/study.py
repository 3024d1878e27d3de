"""The study: Optuna proposes settings and is told what became of them. Nothing of Ray is needed."""

import contextlib
import json
import re
import sqlite3
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from pydantic import BaseModel, ConfigDict, Field

from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.paths import expand_home
from brainreg.proposals import NewSettings, setting_key
from brainreg.records import FAILED, FINISHED, STOPPED, UNFINISHED, TrialRecord
from brainreg.seeds import text_seed
from brainreg.spaces import Space
from brainreg.storage import PATIENCE, StorageError, within

# Optuna's samplers propose at random until they have seen this many trials, a third of a shorter search.
_RANDOM_TRIALS = 10

# A Gaussian process sees so many finished trials at most: its next proposal takes longer the more it sees.
_MOST_OF_GP = 100

# What the two goals are, in the order of the study's values.
GOALS = {"combined": ("objective",), "pareto": ("clean_accuracy", "robust_accuracy")}

# What is known of a measured trial beside its values.
_ATTRIBUTES = ("objective", "clean_accuracy", "robust_accuracy", "noise_accuracy")

_STATES = {
    FINISHED: TrialState.COMPLETE,
    STOPPED: TrialState.PRUNED,
    FAILED: TrialState.FAIL,
    UNFINISHED: TrialState.RUNNING,
}
_ENDED = {TrialState.PRUNED: STOPPED, TrialState.FAIL: FAILED}


# In a shorter search, ASHA leaves too few trials that finish: of eight, one besides the unregularized setting.
_ASHA_FROM = 20


class Strategy(BaseModel):
    """How a search looks for its goal. It stays the same when a search is resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Literal["combined", "pareto"] = Field(
        "combined", description="maximize the weighted sum of clean and robust accuracy, or find their front"
    )
    sampler: Literal["tpe", "gp", "nsga2", "random"] = Field("tpe", description="what proposes the settings")
    scheduler: Literal["asha", "none"] | None = Field(
        None,
        description="stop trials that a cheap proxy of robust accuracy ranks low, or train all to the end (absent: asha"
        f" for {_ASHA_FROM} trials or more)",
    )

    sampler_seed: int | None = Field(
        None, ge=0, lt=2**32, description="seed of what the sampler draws (absent: from the seed and the space)"
    )

    def scheduler_of(self, num_samples: int) -> str:
        """Return the scheduler of a search of so many trials."""
        return self.scheduler or ("asha" if num_samples >= _ASHA_FROM else "none")

    def completed(self, space: Space, num_samples: int, seed: int) -> "Strategy":
        """Return the strategy of a search of so many trials, with its scheduler and its sampler's seed.

        Args:
            space: what is searched.
            num_samples: trials.
            seed: of the search.
        """
        scheduler = self.scheduler_of(num_samples)
        drawn = sampler_seed(space, seed) if self.sampler_seed is None else self.sampler_seed
        return self.model_copy(update={"scheduler": scheduler, "sampler_seed": drawn})


def sampler_seed(space: Space, seed: int) -> int:
    """Return the seed of a search's proposals: the same for one space and seed, another one for another space.

    (Of the seed alone, the first proposals of every space would be the same draws.)
    """
    defaults = {name: field.default for name, field in Hyperparameters.model_fields.items()}
    content = space.model_dump(mode="json", include={"task", "reg_data", "search", "published"}, exclude_defaults=True)
    content["fixed"] = {
        name: value for name, value in space.fixed.items() if name != "seed" and value != defaults[name]
    }
    return text_seed(json.dumps([seed, content], sort_keys=True))


def make_sampler(name: str, num_samples: int, seed: int, known: int = 0) -> BaseSampler:
    """Return one of Optuna's samplers.

    Args:
        name: tpe, gp, nsga2 or random.
        num_samples: trials of the whole search.
        seed: of the proposals.
        known: trials that were proposed before; a resumed search does not repeat its random draws.
    """
    startup = min(_RANDOM_TRIALS, max(num_samples // 3, 1))
    if known:
        seed = int(np.random.SeedSequence([seed, known]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=startup,
                multivariate=True,  # alpha and Th act together
                group=True,  # Th_2 exists in the range double only
                constant_liar=True,  # trials that run at the same time should differ
                seed=seed,
            )
        elif name == "gp":
            sampler = optuna.samplers.GPSampler(n_startup_trials=startup, seed=seed, warn_independent_sampling=False)
        elif name == "nsga2":
            sampler = optuna.samplers.NSGAIISampler(population_size=max(4, min(50, num_samples // 5)), seed=seed)
        else:
            return optuna.samplers.RandomSampler(seed=seed)
    # TPE learns from the given settings, too.
    return _OfProposals(sampler, most=_MOST_OF_GP if name == "gp" else None, given=name == "tpe")


class _Proposals(optuna.Study):
    """A study as its proposed trials alone show it: without those of given settings, which have no parameters.

    GPSampler and NSGAIISampler search the parameters that all trials share; one without any would leave them none.

    Attributes:
        most: finished trials that are shown; None shows all.
        given: whether those of given settings are shown after all.
    """

    most: int | None = None
    given: bool = False

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        trials = [trial for trial in trials if self.given or trial.params or not trial.state.is_finished()]
        return trials if self.most is None else _most_telling(trials, self.most)


def _most_telling(trials: list[FrozenTrial], most: int) -> list[FrozenTrial]:
    """Return the trials without some of the finished ones: the best half of `most` stay, and the newest others."""
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    ranked = sorted(finished, key=lambda trial: -sum(trial.values))
    newest = sorted(ranked[most // 2 :], key=lambda trial: -trial.number)
    left_out = {trial.number for trial in newest[most - most // 2 :]}
    return [trial for trial in trials if trial.number not in left_out]


class _OfProposals(BaseSampler):
    """Lets a sampler see `_Proposals`, with `most` finished trials."""

    def __init__(self, sampler: BaseSampler, most: int | None = None, given: bool = False):
        self._sampler, self._most, self._given = sampler, most, given
        self._view: _Proposals | None = None

    def _of(self, study: optuna.Study, anew: bool = False) -> _Proposals:
        if self._view is None:
            self._view = _Proposals(study.study_name, study._storage, sampler=study.sampler)
            self._view.most, self._view.given = self._most, self._given
        if anew:  # as Optuna itself: the trials are read once for all parameters of a proposal
            self._view._thread_local.cached_all_trials = None
        return self._view

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return self._sampler.infer_relative_search_space(self._of(study), trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return self._sampler.sample_relative(self._of(study), trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        return self._sampler.sample_independent(self._of(study), trial, name, distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(self._of(study, anew=True), trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(self._of(study, anew=True), trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Turn a database's errors into StorageError."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = getattr(error.__cause__ or error, "orig", None) or error
        raise StorageError(f"the study's database: {' '.join(str(cause).split())}") from error


@contextlib.contextmanager
def _not_taken(url: str | None, name: str) -> Iterator[None]:
    """Name a study that is there already."""
    try:
        yield
    except optuna.exceptions.DuplicatedStudyError as error:
        raise taken(url, name) from error


def taken(url: str, name: str) -> InputError:
    """Return the error of a new search whose study is there already."""
    shown = sqlalchemy.make_url(url).render_as_string(hide_password=True)
    return InputError(f"--study={shown}: already holds a study {name}; choose another --name")


class SearchStudy:
    """The study of a search: what is asked of Optuna, and what it is told.

    Args:
        space: what is searched.
        strategy: the goal and the sampler.
        num_samples: trials of the whole search.
        seed: of the proposals.
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
        num_samples: int,
        seed: int,
        name: str,
        url: str | None = None,
        records: Sequence[TrialRecord] = (),
        own: bool = False,
        lost: Collection[int] = (),
        new: bool = False,
    ):
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings are long, and told here in one line
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.space, self.strategy = space, strategy
        self.goals = GOALS[strategy.objective]
        self._attributes = [name for name in _ATTRIBUTES if name not in self.goals]
        storage = None if url is None else open_database(url, durable=not own)
        with _kept(), _not_taken(url, name):
            self.study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=["maximize"] * len(self.goals),
                load_if_exists=own or not new,
            )
            known = self.study.get_trials(deepcopy=False)
            if own and _lacks_parameters(known, records):  # a power cut took a part of it
                optuna.delete_study(study_name=name, storage=storage)
                self.study = optuna.create_study(
                    storage=storage, study_name=name, directions=["maximize"] * len(self.goals)
                )
                known = []
            if len(self.study.directions) != len(self.goals) or not _are_of(known, records, lost):
                shown = sqlalchemy.make_url(url).render_as_string(hide_password=True)
                raise InputError(f"--study={shown}: its study {name} is that of another search; give another --study")
            if not known:
                self.study.set_metric_names(list(self.goals))
            self._complete(known, records)
            begun = len(self.study.get_trials(deepcopy=False, states=_BEGUN))
            sampler = make_sampler(strategy.sampler, num_samples, seed, known=begun)
            settings = [space.setting(name) for name in space.given] + [record.hyperparameters for record in records]
            self._known = {setting_key(setting) for setting in settings}
            anew = int(np.random.SeedSequence([seed, begun, 1]).generate_state(1)[0])
            self.study.sampler = NewSettings(sampler, space, self._known, anew)

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
        attributes |= {"setting": record.setting} if record.setting else {}
        attributes |= {"error": record.error} if record.error else {}
        proxies = {one["epoch"]: one["proxy_objective"] for one in record.epochs if "proxy_objective" in one}
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
        return Trial(self.study, trial._trial_id)

    def ask(self) -> Trial:
        """Begin a trial.

        Raises:
            StorageError: the database fails.
        """
        with _kept():
            return self.study.ask()

    def propose(self, trial: Trial) -> TrialRecord:
        """Return the setting of a trial, as a new record."""
        with _kept():
            hyperparameters = self.space(trial)
            self._known.add(setting_key(hyperparameters))
            return TrialRecord(
                number=trial.number,
                setting=trial.user_attrs.get("setting", ""),
                hyperparameters=hyperparameters,
                params=trial.params,
                distributions={name: distribution_to_json(one) for name, one in trial.distributions.items()},
                noted=self.study._storage.get_trial_system_attrs(trial._trial_id),
                ended=_ENDED.get(self.study._storage.get_trial(trial._trial_id).state, ""),  # where its record was lost
                error=trial.user_attrs.get("error", ""),
            )

    def report(self, trial: Trial, epoch: int, value: float) -> None:
        """Tell Optuna the proxy of a trial's objective; it has a place for that where there is one goal."""
        with _kept():
            # A trial that goes on reports its last epoch again.
            stored = self.study._storage.get_trial(trial._trial_id)
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
        return self.study._storage.get_trial(trial._trial_id).state.is_finished()


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


# A server that falls silent in the middle of a question is given up after some 30 s, not after many minutes (libpq).
_NOTICE_SILENCE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000}

# Another program may hold a SQLite file locked so long, in seconds: a browser with an open transaction, a backup.
_LOCKED = 60.0

_BEGUN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def open_database(url: str, durable: bool = True) -> optuna.storages.RDBStorage:
    """Open the database of a study.

    Args:
        url: as SQLAlchemy writes it.
        durable: whether SQLite waits for the disk at each commit, some 0.01 s, of which a trial has a dozen. Without,
            nothing is lost when processes are killed, but a power cut may damage the file.

    Raises:
        InputError: the address is none, or nothing answers there.
    """
    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        shown = re.sub(r":[^/@]*@", ":***@", url)
        raise InputError(f"--study={shown}: {_ADDRESS}") from error
    shown = parsed.render_as_string(hide_password=True)
    if "password" in parsed.query:
        shown = parsed.difference_update_query(["password"]).render_as_string(hide_password=True)
        raise InputError(f"--study={shown}: a password stands before the host, USER:PASSWORD@HOST")
    if parsed.get_backend_name() == "sqlite" and (parsed.database or "").startswith("~"):
        parsed = parsed.set(database=expand_home(parsed.database))
        url = parsed.render_as_string(hide_password=False)
    options: dict[str, Any] = {} if durable else {"pool_events": [(_do_not_wait, "connect")]}
    options["connect_args"] = {"timeout": _LOCKED}
    patience = PATIENCE + _LOCKED
    if parsed.get_backend_name() != "sqlite":
        # The server may be started anew between two questions.
        options = {"connect_args": {"connect_timeout": int(PATIENCE) // 2}, "pool_pre_ping": True}
        patience = PATIENCE
    if parsed.get_backend_name() == "postgresql":
        options["connect_args"] |= _NOTICE_SILENCE
    try:
        return within(patience, lambda: optuna.storages.RDBStorage(url, engine_kwargs=options))
    except ImportError as error:
        raise InputError(
            f"--study={shown}: its driver is not installed; for postgresql+psycopg://, `pip install"
            " 'brainreg[postgresql]'`"
        ) from error
    except sqlalchemy.exc.ArgumentError as error:
        raise InputError(f"--study={shown}: {_ADDRESS}") from error
    except (OSError, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        raise InputError(f"--study={shown}: no database answers there ({_first_line(error)})") from error


def _do_not_wait(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=OFF")  # write-ahead logging is as fast, but not to be had on NFS


def set_aside_if_damaged(url: str) -> str | None:
    """Rename the file of a SQLite database that cannot be read, and return its new path; None where it is whole.

    Raises:
        StorageError: it cannot be renamed.
    """
    path = Path(sqlalchemy.make_url(url).database)
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchone() == ("ok",):
                return None
    except sqlite3.OperationalError:  # no access, or locked: another matter, that who opens it will name
        return None
    except sqlite3.DatabaseError:
        pass
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: damaged, and cannot be set aside ({error.strerror})") from error
    return str(aside)


_ADDRESS = "must be an address such as postgresql+psycopg://USER@HOST/DATABASE"


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


def hypervolume(clean: Sequence[float], robust: Sequence[float], reference: tuple[float, float] = (0.0, 0.0)) -> float:
    """Return the area that a set of (clean, robust) accuracies dominates and that a reference alone does not.

    With the unregularized setting as the reference, it is what regularization adds. (The reference is no corner beyond
    which alone area counts: a setting that trades clean for robust accuracy would then count nothing.)

    >>> hypervolume([0.9, 0.5], [0.2, 0.6]), hypervolume([0.9, 0.5], [0.2, 0.6], (0.9, 0.1))
    (0.38, 0.29)
    """
    area, best = 0.0, 0.0
    for x, y in sorted([*zip(clean, robust, strict=True), reference], reverse=True):
        if y > best:
            area += x * (y - best)
            best = y
    return round(area - reference[0] * reference[1], 12)


def front(clean: Sequence[float], robust: Sequence[float]) -> list[bool]:
    """Return which (clean, robust) accuracies no other one exceeds in one and equals or exceeds in the other."""
    points = list(zip(clean, robust, strict=True))
    return [
        not any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)
        for point in points
    ]
