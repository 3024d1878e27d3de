"""The study: what Optuna is told and what it proposes, in a database of a file and in a real PostgreSQL."""

import contextlib
import doctest
import sqlite3
import threading
import warnings
from dataclasses import replace

import optuna
import pytest
from services import PASSWORD, postgresql_server, unanswered

from brainreg import statistics
from brainreg.errors import InputError
from brainreg.records.trial import FAILED, STOPPED, TrialRecord
from brainreg.search import database as database_module
from brainreg.search import samplers
from brainreg.search.database import open_database, set_aside_if_damaged
from brainreg.search.proposals import most_trials, setting_key
from brainreg.search.samplers import make_sampler
from brainreg.search.strategy import GOALS, Strategy, sampler_seed
from brainreg.search.study import SearchStudy
from brainreg.spaces.space import Space
from brainreg.statistics import front, hypervolume
from brainreg.storage import StorageError

SAMPLERS = ("thompson", "tpe", "gp", "nsga2", "random")
SEARCHED = {"reg_alpha", "reg_thresh", "reg_thresh_2/reg_thresh", "reg_batch_size"}
SPACE = Space(
    name="tiny",
    description="a test",
    task="digits",
    fixed={"reg_range": "double", "epoch_num": 3},
    search={
        "reg_alpha": {"low": 0.1, "high": 10, "log": True},
        "reg_thresh": {"low": 0.3, "high": 0.8},
        "reg_thresh_2": {"low": 0.1, "high": 0.9, "times": "reg_thresh"},
        "reg_batch_size": {"choices": [4, 8]},
    },
    objective={"eps": 0.1, "noise_eps": 0.1},
    budget={"num_samples": 9},
)


@pytest.fixture(scope="module")
def server():
    with postgresql_server() as running:
        yield running


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request, tmp_path) -> str:
    """Address of a database without this test's study."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    return request.getfixturevalue("server").url


@pytest.fixture
def name(tmp_path) -> str:
    """Name of a study that no other test has."""
    return tmp_path.name


@pytest.fixture(params=SAMPLERS)
def sampler(request) -> str:
    return request.param


@pytest.fixture(params=["combined", "pareto"])
def strategy(request, sampler) -> Strategy:
    return Strategy(objective=request.param, sampler=sampler)


def opened(strategy: Strategy, name: str, url: str | None = None, records=(), space=SPACE, seed=0) -> SearchStudy:
    """A study of one run of each setting, so that a sampler proposes each trial."""
    strategy = strategy.model_copy(update={"sampler_seed": seed, "seeds": strategy.seeds or 1})
    return SearchStudy(space, strategy, name, url, records, own=True)


def measured(clean: float, robust: float) -> dict:
    """What a finished trial reports, and more that Optuna is not told."""
    return {
        "objective": (clean + robust) / 2, "clean_accuracy": clean, "robust_accuracy": robust, "noise_accuracy": 0.3,
        "clean_n": 9, "best_epoch": 2,
    }  # fmt: skip


def epochs(*proxies: float) -> list[dict]:
    return [{"epoch": 0, "valid_accuracy": 0.1}] + [
        {"epoch": i, "valid_accuracy": 0.5, "proxy_objective": value} for i, value in enumerate(proxies, start=1)
    ]


ERROR = "DivergedError: epoch 1: the loss is nan"


def told(study: SearchStudy) -> list[TrialRecord]:
    """Run six trials as a search does: two finish, one is stopped though its proxy is the highest, one fails, one
    runs, one has just begun. Return their records."""
    records = []
    for number in range(6):
        trial = study.ask()
        record = study.propose(trial)
        assert record.number == number
        if number < 5:
            record.epochs = epochs(0.4 + 0.1 * number, 0.5 + 0.1 * number)[: 2 if number == 4 else 3]
            for epoch in record.epochs[1:]:
                study.report(trial, epoch["epoch"], epoch["proxy_objective"])
        if number < 2:
            record.measured = measured(0.8, 0.2 + 0.1 * number)
            study.tell_finished(trial, record.measured)
        elif number == 2:
            record.ended = STOPPED
            study.tell_stopped(trial)
        elif number == 3:
            record.ended, record.error = FAILED, ERROR
            study.tell_failed(trial, ERROR)
        records.append(record)
    return records


def contents(study: SearchStudy) -> list[tuple]:
    """All that a study knows of its trials, but for the times."""
    return [
        (
            trial.number, trial.state.name, trial.values, trial.params, trial.distributions, trial.user_attrs,
            trial.system_attrs, trial.intermediate_values,
        )
        for trial in study.study.get_trials()
    ]  # fmt: skip


class TestTold:
    def test_what_reaches_the_study(self, strategy, name, database):
        study = opened(strategy, name, database)
        records = told(study)
        trials = study.study.get_trials()
        one_goal = strategy.objective == "combined"
        assert [trial.state.name for trial in trials] == [
            "COMPLETE", "COMPLETE", "PRUNED", "FAIL", "RUNNING", "RUNNING",
        ]  # fmt: skip
        assert trials[0].values == pytest.approx([0.5] if one_goal else [0.8, 0.2])
        assert trials[1].values == pytest.approx([0.55] if one_goal else [0.8, 0.3])
        assert [trial.values for trial in trials[2:]] == [[0.7] if one_goal else None, None, None, None]
        proxies = [{1: 0.4, 2: 0.5}, {1: 0.5, 2: 0.6}, {1: 0.6, 2: 0.7}, {1: 0.7, 2: 0.8}, {1: 0.8}, {}]
        for trial, expected in zip(trials, proxies if one_goal else [{}] * 6, strict=True):
            assert trial.intermediate_values == pytest.approx(expected)
        beside = (
            ["clean_accuracy", "robust_accuracy", "noise_accuracy"] if one_goal else ["objective", "noise_accuracy"]
        )
        kept = {name: measured(0.8, 0.2)[name] for name in beside}
        assert trials[0].user_attrs == {"setting": "unregularized", "seed": 0, **kept} and trials[0].params == {}
        assert trials[2].user_attrs == {"seed": 0} and trials[3].user_attrs == {"seed": 0, "error": ERROR}
        assert trials[1].user_attrs["setting"] == "early_stopped" and trials[1].params == {}
        for trial, record in zip(trials[2:], records[2:], strict=True):
            assert trial.params == record.params and trial.params.keys() == SEARCHED
            assert record.hyperparameters["reg_alpha"] == trial.params["reg_alpha"]

    def test_the_best_is_one_that_finished(self, strategy, name):
        study = opened(strategy, name)
        told(study)
        assert study.study.metric_names == list(GOALS[strategy.objective])
        best = [study.study.best_trial] if strategy.objective == "combined" else study.study.best_trials
        assert [trial.number for trial in best] == [1]

    def test_what_is_over_stays_so(self, strategy, name):
        """A search that is resumed tells again what was known."""
        study = opened(strategy, name)
        told(study)
        before = contents(study)
        for trial in study.begun()[:4]:
            study.report(trial, 3, 0.9)
            study.tell_finished(trial, measured(1, 1))
            study.tell_stopped(trial)
            study.tell_failed(trial, "E: another")
        assert contents(study) == before

    def test_an_epoch_that_is_reported_again_is_no_warning(self, name):
        study = opened(Strategy(), name)
        told(study)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            study.report(study.begun()[4], 1, 0.9)
        assert study.study.trials[4].intermediate_values == {1: 0.8}


class TestResumed:
    def test_trials_that_began_are_handed_out_again(self, strategy, name, database):
        study = opened(strategy, name, database)
        records = told(study)
        before = contents(study)
        again = opened(strategy, name, database, records)
        begun = again.begun()
        assert [trial.number for trial in begun] == list(range(6)) and contents(again) == before
        for trial, record in zip(begun, records, strict=True):
            proposed = again.propose(trial)
            assert (proposed.hyperparameters, proposed.params) == (record.hyperparameters, record.params)
            assert proposed.setting == record.setting
        again.report(begun[4], 2, 0.95)
        again.tell_finished(begun[4], measured(0.9, 0.9))
        new = again.propose(again.ask())
        assert new.number == 6 and new.params not in [record.params for record in records]
        third = opened(strategy, name, database, [*records[:4], replace(records[4], measured=measured(0.9, 0.9)), new])
        assert [trial.state.name for trial in third.study.trials[4:]] == ["COMPLETE", "RUNNING", "RUNNING"]

    def test_a_lost_database_is_made_again_from_records(self, strategy, name, database):
        study = opened(strategy, name, database)
        records = told(study)
        again = opened(strategy, f"{name} again", database, records)
        assert contents(again) == contents(study)
        assert again.study.metric_names == study.study.metric_names
        again.tell_stopped(again.begun()[4])
        assert again.study.trials[4].state.name == "PRUNED" and again.propose(again.ask()).number == 6

    def test_a_part_that_is_lost_is_made_again(self, name, database):
        """A study that was restored from a backup, say."""
        records = told(opened(Strategy(), name))
        opened(Strategy(), name, database, records[:3])
        again = opened(Strategy(), name, database, records)
        assert [trial.state.name for trial in again.study.trials[2:]] == ["PRUNED", "FAIL", "RUNNING", "RUNNING"]

    def test_what_was_proposed_but_not_recorded_is_proposed_anew(self, name):
        """The process was killed between the two."""
        study = opened(Strategy(), name)
        records = told(study)
        again = opened(Strategy(), name, records=[*records[:2], *records[3:]])
        assert [trial.state.name for trial in again.study.trials[1:4]] == ["COMPLETE", "WAITING", "FAIL"]
        assert [trial.number for trial in again.begun()] == [0, 1, 3, 4, 5]
        proposed = again.propose(again.ask())
        assert proposed.number == 2 and proposed.params.keys() == SEARCHED
        assert again.propose(again.ask()).number == 6

    def test_what_was_asked_but_not_proposed_is_proposed_then(self, name, database):
        study = opened(Strategy(), name, database)
        records = told(study)
        assert study.ask().number == 6
        again = opened(Strategy(), name, database, records)
        assert again.propose(again.begun()[6]).params.keys() == SEARCHED

    def test_the_study_of_another_search_is_refused(self, name, database):
        records = told(opened(Strategy(), name, database))
        others = told(opened(Strategy(), "another", seed=1))
        for strategy, known in (
            (Strategy(objective="pareto"), records),
            (Strategy(), ()),
            (Strategy(), records[:3]),
            (Strategy(), others),
        ):
            with pytest.raises(InputError) as caught:
                opened(strategy, name, database, known)
            message = str(caught.value)
            assert message.startswith("--study=") and PASSWORD not in message and "\n" not in message
            assert message.endswith(f"its study {name} is that of another search; give another --study")


class TestProposals:
    def propose(self, study: SearchStudy, count: int) -> list[dict]:
        """Ask for so many proposals, one after the other; the best is where Th is 0.5."""
        proposed = []
        for _ in range(count):
            trial = study.ask()
            proposed.append(study.propose(trial).params)
            study.tell_finished(trial, measured(0.8, 1 - abs(trial.params.get("reg_thresh", 0) - 0.5)))
        return proposed

    @pytest.mark.parametrize("objective", ["combined", "pareto"])
    @pytest.mark.parametrize("name_of", ["tpe", "gp", "nsga2"])
    def test_a_sampler_learns_from_proposals_though_given_settings_have_no_parameters(self, name_of, objective, name):
        study = opened(Strategy(objective=objective, sampler=name_of), name)
        assert self.propose(study, 8)[:2] == [{}, {}]  # of the unregularized settings
        trial = study.ask()
        space = study.study.sampler.infer_relative_search_space(study.study, trial._cached_frozen_trial)
        assert space.keys() == SEARCHED and trial.relative_params and trial.relative_params.keys() <= SEARCHED
        if name_of == "tpe":
            return  # it searches in groups of parameters, and those of no trial are one
        # The sampler alone finds no parameter that all trials share, and draws each at random.
        alone = make_sampler(name_of, 0)._sampler
        assert alone.infer_relative_search_space(study.study, trial._cached_frozen_trial) == {}

    def test_given_settings_that_have_parameters_count(self, name):
        published = {"reg_alpha": 1.0, "reg_thresh": 0.5, "reg_thresh_2": 0.2, "reg_batch_size": 4}
        space = Space(**{**SPACE.model_dump(), "published": published})
        study = opened(Strategy(sampler="gp"), name, space=space)
        proposed = self.propose(study, 3)
        assert proposed[0] == {
            "reg_alpha": 1.0, "reg_thresh": 0.5, "reg_thresh_2/reg_thresh": 0.4, "reg_batch_size": 4,
        }  # fmt: skip
        assert proposed[1:] == [{}, {}] and [trial.user_attrs["setting"] for trial in study.study.trials] == [
            "published", "unregularized", "early_stopped",
        ]  # fmt: skip

    def test_nsga2_goes_on_with_its_generation_when_the_database_was_lost(self, name):
        strategy = Strategy(objective="pareto", sampler="nsga2")
        study, records = opened(strategy, name), []
        for i in range(10):  # two of given settings
            trial = study.ask()
            records.append(study.propose(trial))
            records[-1].measured = measured(0.1 * i, 0.9 - 0.1 * i)
            study.tell_finished(trial, records[-1].measured)
        for one in (study, opened(strategy, name, records=records)):
            generation = one.propose(one.ask()).noted["NSGAIISampler:generation"]
            assert generation == 1  # eight are a generation

    def test_one_seed_proposes_the_same_and_another_does_not(self, sampler, name):
        strategy = Strategy(sampler=sampler)
        first, second, other = (self.propose(opened(strategy, name, seed=seed), 5) for seed in (3, 3, 4))
        assert first == second and first[2:] != other[2:]

    def test_another_space_of_the_same_seed_has_other_draws(self):
        """And the same space has the same, whatever it is called and whatever is only said."""
        content = SPACE.model_dump()
        seeds = [
            sampler_seed(Space(**{**content, **change}), seed)
            for change, seed in (
                ({}, 0),
                ({"name": "another", "description": "another"}, 0),
                ({"fixed": {**content["fixed"], "seed": 0, "momentum": 0.9}}, 0),
                ({}, 1),
                ({"task": "MNIST"}, 0),
                ({"task": "MNIST", "reg_data": "MNIST"}, 0),
                ({"fixed": {**content["fixed"], "epoch_num": 4}}, 0),
                ({"search": {**content["search"], "reg_alpha": {"low": 0.1, "high": 11, "log": True}}}, 0),
            )
        ]
        assert seeds[0] == seeds[1] == seeds[2] and len({*seeds}) == 6

    def test_a_resumed_search_does_not_repeat_its_draws(self, sampler, name, tmp_path):
        url = f"sqlite:///{tmp_path}/study.db"
        study, records, proposed = opened(Strategy(sampler=sampler), name, url), [], []
        for _ in range(2):
            for _ in range(3):
                trial = study.ask()
                records.append(study.propose(trial))
                proposed.append(records[-1].params)
            study = opened(Strategy(sampler=sampler), name, url, records)
        assert len({params["reg_alpha"] for params in proposed[2:]}) == 4

    @pytest.mark.parametrize("resumed", [False, True])
    def test_no_setting_is_proposed_twice_and_all_are(self, strategy, name, resumed):
        """Some are told, some run, and the search is resumed after each; one of the choices is a given setting."""
        finite = Space(
            **{
                **SPACE.model_dump(),
                "fixed": {"epoch_num": 3},
                "search": {
                    "reg_alpha": {"choices": [0.0, 1.0]},
                    "reg_range": {"choices": ["double", "low"]},
                    "reg_thresh": {"low": 0.5, "high": 0.7, "step": 0.1},
                    "reg_thresh_2": {"choices": [0.1, 0.2]},
                },
            }
        )
        every = len(finite.given) + 3 * 2 + 3  # Th_2 exists in the range double only
        assert most_trials(finite, 1) == every and most_trials(finite, None) is None
        assert most_trials(finite, 3) == 3 * every
        study, records = opened(strategy, name, space=finite), []
        for number in range(every):
            trial = study.ask()
            record = study.propose(trial)
            if number % 3:
                record.measured = measured(0.8, 0.1 * number)
                study.tell_finished(trial, record.measured)
            records.append(record)
            if resumed:
                study = opened(strategy, f"{name} {number}", records=records, space=finite)
        proposed = [setting_key(record.hyperparameters) for record in records if not record.setting]
        assert len({*proposed}) == len(proposed) == 9 and most_trials(finite, 1, records) == every

    def test_spaces_that_are_not_used_up(self):
        assert most_trials(SPACE, 1) is None
        many = {"reg_image_num": {"low": 100, "high": 50_000}, "reg_alpha": {"choices": [1, 2]}}
        assert most_trials(Space(**{**SPACE.model_dump(), "fixed": {}, "search": many}), 1) is None

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ({"reg_alpha": 0.0, "reg_thresh": 0.1}, {"reg_alpha": 0.0, "reg_thresh": 0.2}, True),
            ({"reg_alpha": 1.0, "reg_thresh": 0.1}, {"reg_alpha": 1.0, "reg_thresh": 0.2}, False),
            ({"reg_alpha": 1.0, "reg_data": None}, {"reg_alpha": 1.0, "reg_data": "digits"}, True),
            ({"reg_alpha": 1.0}, {"reg_alpha": 1.0, "seed": 1}, True),
            ({"reg_alpha": 1.0}, {"reg_alpha": 1.0, "momentum": 0.9}, True),
        ],
    )
    def test_what_is_one_setting(self, one, other, same):
        first, second = (setting_key({"task": "digits", **setting}) for setting in (one, other))
        assert (first == second) == same

    def test_many_trials_at_a_time(self, strategy, name):
        """As many as there are workers are proposed before the first has a result."""
        study = opened(strategy, name)
        params = [study.propose(study.ask()).params for _ in range(9)]
        assert len({one["reg_alpha"] for one in params[2:]}) == 7

    def test_a_parameter_that_not_all_proposals_have(self, sampler, name):
        """Th_2 exists in the range double only; three trials run at a time."""
        searched = {**SPACE.model_dump()["search"], "reg_range": {"choices": ["double", "low", "high"]}}
        study = opened(
            Strategy(sampler=sampler), name, space=Space(**{**SPACE.model_dump(), "fixed": {}, "search": searched})
        )
        running, ranges = [], []
        for _ in range(15):
            running.append(study.ask())
            setting = study.propose(running[-1]).hyperparameters
            assert ("reg_thresh_2" in setting) == (setting.get("reg_range") == "double")
            ranges.append(setting.get("reg_range"))
            if len(running) == 3:
                study.tell_finished(running.pop(0), measured(0.8, setting.get("reg_thresh", 0)))
        assert len(set(ranges)) > 2

    @pytest.mark.parametrize("objective", ["combined", "pareto"])
    def test_a_gaussian_process_sees_the_best_and_the_newest_trials(self, objective, name, monkeypatch):
        monkeypatch.setattr(samplers, "_MOST_OF_GP", 6)
        study = opened(Strategy(objective=objective, sampler="gp"), name)
        self.propose(study, 15)
        running = study.ask().number
        finished = study.study.get_trials()[1:-1]  # without the unregularized setting
        best = sorted(finished, key=lambda trial: trial.values[-1])[-3:]
        newest = [trial for trial in finished if trial not in best][-3:]
        shown = study.study.sampler._sampler._of(study.study)._get_trials()
        assert [trial.number for trial in shown] == [*sorted(trial.number for trial in best + newest), running]


class TestDatabases:
    def refused(self, url: str) -> str:
        with pytest.raises(InputError) as caught:
            open_database(url)
        assert "\n" not in str(caught.value) and PASSWORD not in str(caught.value)
        assert str(caught.value).startswith("--study=")
        return str(caught.value)

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("nonsense", "--study=nonsense: must be an address such as postgresql+psycopg://USER@HOST/DATABASE"),
            ("", "--study=: must be an address such as"),
            (f"postgres:/user:{PASSWORD}@host/db", "--study=postgres:/user:***@host/db: must be an address such as"),
            (f"postgresql://u:{PASSWORD}@host:5x/db", "--study=postgresql://u:***@host:5x/db: must be an address such"),
            ("foo://host/db", "--study=foo://host/db: must be an address such as"),
            ("oracle://host/db", "--study=oracle://host/db: its driver is not installed; for postgresql+psycopg"),
            (
                f"postgresql+psycopg://host/db?user=u&password={PASSWORD}",
                "--study=postgresql+psycopg://host/db?user=u: a password stands before the host, USER:PASSWORD@HOST",
            ),
            (
                "sqlite:////no/such/folder/study.db",
                "--study=sqlite:////no/such/folder/study.db: no database answers there (unable to open database file)",
            ),
        ],
    )  # fmt: skip
    def test_what_is_no_database(self, url, words):
        assert self.refused(url).startswith(words)

    def test_a_file_that_is_no_database(self, tmp_path):
        (tmp_path / "a.txt").write_text("some text\n" * 100)
        assert self.refused(f"sqlite:///{tmp_path}/a.txt").endswith(
            "no database answers there (file is not a database)"
        )

    @pytest.mark.parametrize("listening", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_nobody_answers(self, listening):
        pytest.importorskip("psycopg", reason="psycopg is not installed")
        with unanswered(listening) as address:
            message = self.refused(f"postgresql+psycopg://user:{PASSWORD}@{address}/db")
        reason = "connection timeout expired" if listening else "Connection refused"
        assert message.startswith(f"--study=postgresql+psycopg://user:***@{address}/db: no database answers there (")
        assert reason in message

    @pytest.mark.parametrize(("own", "synchronous"), [(True, 0), (False, 2)])
    def test_sqlite_waits_for_the_disk_where_others_share_it(self, name, tmp_path, own, synchronous):
        study = SearchStudy(SPACE, Strategy(), name, f"sqlite:///{tmp_path}/study.db", own=own)
        with study.study._storage._backend.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == synchronous
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"  # write-ahead fails on NFS

    @pytest.mark.parametrize(
        "lock",
        [
            "BEGIN IMMEDIATE",
            pytest.param("BEGIN EXCLUSIVE", marks=pytest.mark.long),
            pytest.param("BEGIN; SELECT * FROM trials", marks=pytest.mark.long),
        ],
    )
    def test_it_waits_for_who_holds_the_file_and_ends_where_that_lasts(self, name, tmp_path, monkeypatch, lock):
        """Longer than SQLite's own five seconds; a reader with an open transaction keeps others from their commit."""
        url = f"sqlite:///{tmp_path}/study.db"
        records = told(opened(Strategy(), name, url))

        def hold():
            holder = sqlite3.connect(tmp_path / "study.db", isolation_level=None, check_same_thread=False)
            for statement in lock.split("; "):
                holder.execute(statement).fetchone()
            return holder

        def release(holder) -> None:
            holder.execute("ROLLBACK")
            holder.close()

        timer = threading.Timer(7, release, [hold()])
        timer.start()
        study = opened(Strategy(), name, url, records)
        study.tell_stopped(study.begun()[4])
        assert study.study.trials[4].state.name == "PRUNED"
        timer.join()
        monkeypatch.setattr(database_module, "_LOCKED", 0.2)
        study = opened(Strategy(), name, url, records)
        holder = hold()
        with pytest.raises(StorageError, match=r"^the study's database: database is locked$"):
            study.ask()
        release(holder)
        assert study.ask().number == 6

    def test_a_new_search_does_not_join_the_study_of_another_that_began_at_once(self, name, database):
        SearchStudy(SPACE, Strategy(), name, database, new=True).ask()
        with pytest.raises(InputError, match=f"already holds a study {name}; choose another --name"):
            SearchStudy(SPACE, Strategy(sampler_seed=1), name, database, new=True)

    def test_a_damaged_file_is_set_aside(self, name, tmp_path):
        url, path = f"sqlite:///{tmp_path}/study.db", tmp_path / "study.db"
        assert set_aside_if_damaged(url) is None
        told(opened(Strategy(), name, url))
        assert set_aside_if_damaged(url) is None
        content = path.read_bytes()
        path.write_bytes(content[:3000] + b"x" * 40_000 + content[43_000:])
        assert set_aside_if_damaged(url) == f"{path}.damaged"
        assert not path.exists() and (tmp_path / "study.db.damaged").stat().st_size == len(content)
        path.write_text("this is no database at all" * 99)
        assert set_aside_if_damaged(url) == f"{path}.damaged" and not path.exists()

    def test_what_a_power_cut_took_of_it_is_made_again(self, name, tmp_path):
        """The file is whole, but the last commits are missing."""
        url = f"sqlite:///{tmp_path}/study.db"
        study = opened(Strategy(), name, url)
        records = told(study)
        expected = contents(opened(Strategy(), name, records=records))
        with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as connection, connection:
            connection.execute("DELETE FROM trial_params WHERE trial_id = 5")
        assert opened(Strategy(), name, url, records).study.trials[4].params == records[4].params
        assert contents(opened(Strategy(), name, url, records)) == expected

    def test_a_database_that_fails_is_one_line(self, name, tmp_path):
        study = opened(Strategy(), name, f"sqlite:///{tmp_path}/study.db")
        told(study)
        trial = study.begun()[4]
        with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as connection:
            connection.execute("DROP TABLE trials")
        for action in (
            lambda: study.report(trial, 2, 0.5),
            lambda: study.tell_finished(trial, measured(0.5, 0.5)),
            lambda: study.tell_stopped(trial),
            lambda: study.tell_failed(trial, ERROR),
        ):
            with pytest.raises(StorageError, match=r"^the study's database: no such table: trials$"):
                action()

    @pytest.mark.slow
    def test_a_server_that_is_started_anew_loses_nothing(self, server, name):
        study = opened(Strategy(), name, server.url)
        trial = study.ask()
        server.stop()
        try:
            with pytest.raises(StorageError) as caught:
                study.ask()
            assert str(caught.value).startswith("the study's database: ") and "\n" not in str(caught.value)
            assert PASSWORD not in str(caught.value)
            assert "Connection refused" in self.refused(server.url)
        finally:
            server.start()
        study.tell_finished(trial, measured(0.5, 0.5))
        server.stop()
        server.start()
        assert study.ask().number == 1 and study.study.trials[0].state.name == "COMPLETE"

    @pytest.mark.slow
    def test_a_wrong_password_or_database(self, server):
        assert "password authentication failed" in self.refused(server.url.replace(PASSWORD, "wrong"))
        assert '"nope" does not exist' in self.refused(server.url.replace("/postgres", "/nope"))

    @pytest.mark.slow
    def test_optunas_own_tools_read_it(self, server, name):
        told(opened(Strategy(objective="pareto"), name, server.url))
        study = optuna.load_study(study_name=name, storage=server.url)
        assert study.metric_names == ["clean_accuracy", "robust_accuracy"] and len(study.trials) == 6


class TestFront:
    def test_examples_of_the_documentation(self):
        assert doctest.testmod(statistics).failed == 0

    def test_hypervolume(self):
        assert hypervolume([], []) == 0
        assert hypervolume([0.5], [0.5]) == 0.25 == hypervolume([0.5, 0.5, 0.4], [0.5, 0.5, 0.5])
        assert hypervolume([1, 0.5, 0.2], [0.2, 0.5, 1]) == pytest.approx(0.2 + 0.15 + 0.1)
        assert hypervolume([0.2, 1, 0.5], [1, 0.2, 0.5]) == pytest.approx(0.45)

    def test_hypervolume_beyond_a_reference(self):
        reference = (0.9, 0.3)
        assert hypervolume([0.9, 0.5], [0.3, 0.2], reference) == 0 == hypervolume([], [], reference)
        assert hypervolume([0.9, 0.6], [0.3, 0.5], reference) == pytest.approx(0.6 * 0.2)  # clean for robust accuracy
        assert hypervolume([0.95], [0.4], reference) == pytest.approx(0.95 * 0.4 - 0.27)

    def test_front(self):
        assert front([], []) == []
        assert front([0.9, 0.5, 0.5, 0.4], [0.2, 0.6, 0.5, 0.6]) == [True, True, False, False]
        assert front([0.5, 0.5], [0.5, 0.5]) == [True, True]  # equal ones exceed each other nowhere
