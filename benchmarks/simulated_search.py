"""Searches of a table of runs by several rules, in virtual time."""

import contextlib
import heapq
import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from run_table import Run, RunTable

from brainreg.recommendation import recommend as recommending
from brainreg.recommendation import surrogate as surrogates
from brainreg.recommendation.allocation import SettingRuns, Settings, choose, fit_surrogates
from brainreg.recommendation.recommend import recommend
from brainreg.recommendation.surrogate import Surrogate
from brainreg.search.planner import NextRun, RunPlanner
from brainreg.search.proposals import _distributions
from brainreg.search.samplers import make_sampler
from brainreg.search.scheduler import AshaScheduler
from brainreg.search.strategy import Strategy
from brainreg.search.study import SearchStudy
from brainreg.seeds import search_seed
from brainreg.spaces.files import load_space
from brainreg.spaces.names import EARLY_STOPPED, UNREGULARIZED
from brainreg.spaces.space import Space

BUDGETS = (10, 15, 20, 25, 30, 40, 50, 60, 80)  # trainings in whose seconds the searches are compared
_PART_OF_SETTINGS = 0.8
_CANDIDATES = 256
_START = 8  # settings that are drawn at random first


@dataclass
class Draw:
    """One repetition's part of a table: its settings, the seeds that feed the search, and those of the truth.

    Or, where the settings' values are known, `known`: (settings of the table,).
    """

    table: RunTable
    settings: list[int]
    feed: list[int]
    truth: list[int]
    known: np.ndarray | None = None

    @classmethod
    def of(cls, table: RunTable, seed: int, known_truth: bool = False) -> "Draw":
        generator = np.random.default_rng([seed, 7])
        count = len(table.runs) - 1
        settings = [0, *sorted(1 + generator.permutation(count)[: round(_PART_OF_SETTINGS * count)])]
        seeds = generator.permutation(len(table.seeds))
        half = len(seeds) // 2
        if known_truth:
            redrawn, known = table.redrawn(generator)
            return cls(redrawn, settings, seeds.tolist(), [], known)
        return cls(table, settings, seeds[:half].tolist(), seeds[half:].tolist())

    def own(self) -> Settings:
        return Settings(self.table.settings.places[self.settings], self.table.settings.islands[self.settings])

    @cached_property
    def truth_error(self) -> float:
        """Standard error of a setting's mean over the truth's runs."""
        if self.known is not None:
            return 0.0
        values = self.table.values()[self.settings][:, self.truth]
        return float(np.sqrt(np.mean(values.var(axis=1, ddof=1)) / values.shape[1]))

    @cached_property
    def smooth_truth(self) -> tuple[np.ndarray, np.ndarray]:
        """The settings' objectives by the truth's runs: as a surrogate sees them, and their plain means."""
        if self.known is not None:
            return self.known[self.settings], self.known[self.settings]
        own = self.own()
        runs = self.table.runs_for_surrogate(own, self.settings, self.truth)
        smooth = Surrogate(runs, self.table.places.groups).posterior(own.places, own.islands)[0]
        return smooth, self.table.values()[np.ix_(self.settings, self.truth)].mean(axis=1)


@dataclass
class State:
    """What a search knows: a row for each run, in the order in which they began."""

    settings: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    extra: list[float] = field(default_factory=list)
    stopped: list[bool] = field(default_factory=list)
    last_proxy: list[float] = field(default_factory=list)

    def runs(self, own: dict[int, int]) -> SettingRuns:
        return SettingRuns(
            np.array([own[one] for one in self.settings]),
            np.array(self.seeds),
            np.array(self.values),
            np.array(self.extra),
        )


@dataclass(frozen=True)
class Rule:
    """How a search proposes, repeats and recommends.

    Attributes:
        sampler: thompson, or one of Optuna's; or study, the study of a search with its planner, as it is.
        scheduler: asha or none.
        recommend: posterior or raw (the largest value), mean (the largest mean of a setting's runs), or oracle (what
            is truly best of the settings that were tried).
        repeats: whether a setting may have further seeds.
        seeds: fixed number of seeds of each setting; None lets the search decide.
        finals: settings that get all seeds at the end of the budget.
        race: part of the budget at the end in which no new setting is begun.
        noise: prior of the noise's variance, median and spread of the logarithm; None is the product's own.
        offset: whether seeds have offsets.
        freedom: how much settings' variances of the noise resemble each other.
        widest: how far scales are drawn around the most likely ones, at most, in standard deviations of their prior.
        told_widest: the same, of the surrogate that recommends; None is that of the one that chooses.
    """

    sampler: str = "thompson"
    scheduler: str = "none"
    recommend: str = "posterior"
    repeats: bool = True
    seeds: int | None = None
    finals: int = 0
    race: float = 0.0
    noise: tuple[float, float] | None = None
    offset: bool = True
    freedom: float = surrogates._NOISE_FREEDOM
    widest: float = surrogates._WIDEST
    told_widest: float | None = None


# The sampler of the rule that is the search's own study, with its planner.
STUDY = "study"


# Settings' variances of the noise are drawn to the common one altogether.
_ONE_NOISE = 1e9


# Only the most likely scales of the surrogate count.
_MOST_LIKELY = 1e-6


RULES = {
    "search": Rule(STUDY),
    "search, asha": Rule(STUDY, "asha"),
    "today": Rule("tpe", "asha", "raw", seeds=1),
    "random": Rule("random", "none", "raw", seeds=1),
    "oracle": Rule("random", "none", "oracle", seeds=1),
    "three seeds each": Rule("tpe", "none", "mean", seeds=3),
    "top three times five": Rule("tpe", "none", "mean", seeds=1, finals=3),
    "today, recommended by posterior": Rule("tpe", "none", repeats=False),
    "tpe proposes": Rule("tpe"),
    "thompson": Rule(),
    "thompson, asha": Rule(scheduler="asha"),
    "best raw value": Rule(recommend="raw"),
    "best mean": Rule(recommend="mean"),
    "no repeats": Rule(repeats=False),
    "optuna's noise": Rule(noise=(0.02, 0.7)),
    "no seed offset": Rule(offset=False),
    "one noise": Rule(freedom=_ONE_NOISE),
    "search, one noise": Rule(STUDY, freedom=_ONE_NOISE),
    "likely scales": Rule(widest=_MOST_LIKELY),
    "search, likely scales": Rule(STUDY, widest=_MOST_LIKELY),
    "search, told by likely scales": Rule(STUDY, told_widest=_MOST_LIKELY),
    "race": Rule(race=0.35),
    "race, asha": Rule(race=0.35, scheduler="asha"),
}


class _TablePlanner(RunPlanner):
    """The search's planner, for which a space has the settings of a table alone, and each of those so many seeds."""

    def __init__(self, space: Space, strategy: Strategy, params: list[dict[str, Any]], seeds: int):
        super().__init__(space, strategy)
        whole = {space.parameter(key) for key in space.search if space.is_whole(key)}
        table = [{name: int(one[name]) if name in whole else float(one[name]) for name in one} for one in params]
        self._listed, self._most = {self._key(one): one for one in table}, seeds

    def _spread(self, known: Any, index: int) -> dict[str, Any]:
        wanted = self._places.place(super()._spread(known, index))
        left = [one for key, one in self._listed.items() if key not in known.keys]
        away = ((self._places.place_all(left) - wanted) ** 2).sum(axis=1)
        return left[int(away.argmin())]

    def next_run(self, trials: Any, number: int, part_spent: float = 0.0) -> NextRun:
        counts = Counter(one.user_attrs.get("setting_number", one.number) for one in trials)
        for draw in range(50):
            run = super().next_run(trials, number + 1000 * draw, part_spent)
            if run.setting_number is None or run.setting or counts[run.setting_number] < self._most:
                return run
        return run


class Search:
    """A search of a table, in virtual time."""

    def __init__(self, drawn: Draw, rule: Rule, seed: int, budget: int, workers: int):
        self.drawn, self.rule, self.budget, self.workers = drawn, rule, budget, workers
        table = drawn.table
        self.table, self.places = table, table.places
        self.generator = np.random.default_rng([seed, 1])
        self.state = State()
        self.own_settings = drawn.own()
        self.uses_proxy = rule.scheduler == "asha"
        full = np.mean([run.seconds(False) for number in drawn.settings for run in table.runs[number]])
        self.full = float(full)
        self.study = self.own_study(seed) if rule.sampler == STUDY else None
        self.trials: list[tuple[Any, int]] = []
        name = rule.sampler if rule.sampler not in ("thompson", STUDY) else "random"
        self.sampler_study = optuna.create_study(sampler=make_sampler(name, seed), direction="maximize")
        self.open_trials: dict[int, Any] = {}
        epochs = len(table.runs[0][0].training)
        self.asha = AshaScheduler(epochs) if self.uses_proxy else None
        self.todo: list[tuple[int, int]] = []
        self.told: dict[int, dict[str, float]] = {}
        self._start = [int(one) for one in self.generator.permutation(drawn.settings[1:])]
        self.proposal_seconds = 0.0
        self.limit = budget * self.full / workers

    def own_study(self, seed: int) -> SearchStudy:
        """The study of a search that can propose the settings of the table alone."""
        space = self.table.space
        study = SearchStudy(space, Strategy(sampler_seed=seed), "table")
        study._planner = _TablePlanner(
            space, study.strategy, [self.table.params[one] for one in self.drawn.settings[1:]], len(self.drawn.feed)
        )
        return study

    # --- what to run next

    def asked(self, now: float) -> tuple[int, int]:
        """What the search's own study runs next."""
        trial = self.study.ask(now / self.limit)
        record = self.study.propose(trial)
        setting = 0
        if record.setting not in (UNREGULARIZED, EARLY_STOPPED):
            params = self.places.place(record.params)
            places = self.table.settings.places[self.drawn.settings]
            away = ((places - params) ** 2).sum(axis=1)
            away[0] = np.inf
            setting = self.drawn.settings[int(away.argmin())]
        seed = record.hyperparameters.get("seed", 0)
        index = next(i for i in itertools.count() if search_seed(0, i) == seed)
        if record.setting == EARLY_STOPPED:
            index = 1  # the table has no such runs; the search pays for one
        self.trials.append((trial, record.number))
        return setting, index % len(self.drawn.feed)

    def counts(self) -> dict[int, int]:
        counts: dict[int, int] = defaultdict(int)
        for setting in self.state.settings:
            counts[setting] += 1
        return counts

    def propose(self, now: float) -> tuple[int, int]:
        rule, state = self.rule, self.state
        begun = len(state.settings)
        if self.study is not None:
            return self.asked(now)
        if self.todo:
            return self.todo.pop(0)
        most = len(self.drawn.feed)
        if begun == 0:
            return self.first(0)
        if rule.seeds is not None:
            if rule.finals and now >= 0.6 * self.limit and not self.told.get("finals"):
                self.told["finals"] = {}
                means = self.means()
                best = sorted((one for one in means if one), key=lambda one: -means[one])[: rule.finals]
                self.todo = [(one, seed) for seed in range(1, most) for one in best]
                if self.todo:
                    return self.todo.pop(0)
            return self.first(self.sampled())
        counts = self.counts()
        if counts[0] < min(1 + begun // 12, most):
            return 0, counts[0]
        if begun < _START:
            return self.first(self.sampled())
        began = time.perf_counter()
        known = sorted(counts)
        own = {setting: i for i, setting in enumerate(known)}
        settings = Settings(self.table.settings.places[known], self.table.settings.islands[known])
        runs = self.estimated().runs(own)
        fitted = fit_surrogates(settings, runs, runs.values[None], self.places.groups)
        racing = rule.race and now >= (1 - rule.race) * self.limit
        candidates = np.empty((0, len(self.places.groups)))
        if not racing:
            candidates = self.random_places(_CANDIDATES)
        everything = settings.and_new(candidates)
        allowed = np.array([rule.repeats and counts[one] < most for one in known] + [True] * len(candidates))
        if not allowed.any():
            allowed[:] = True
        chosen = choose(fitted, everything, allowed, self.generator)
        self.proposal_seconds += time.perf_counter() - began
        if chosen < len(known):
            return known[chosen], counts[known[chosen]] % most
        if rule.sampler == "thompson":
            return self.first(self.nearest(candidates[chosen - len(known)]))
        return self.first(self.sampled())

    def first(self, setting: int) -> tuple[int, int]:
        """A first visit, whose seed is the next of the pool; where the table has it already, a further one."""
        most = len(self.drawn.feed)
        if self.rule.seeds == 1:
            return setting, 0
        if self.rule.seeds:
            self.todo = [(setting, seed) for seed in range(1, min(self.rule.seeds, most))]
            return setting, 0
        used = {seed for one, seed in zip(self.state.settings, self.state.seeds, strict=True) if one == setting}
        start = len({*self.state.settings}) % most
        return setting, next((s % most for s in range(start, start + most) if s % most not in used), start)

    def random_places(self, count: int) -> np.ndarray:
        names = self.places.names
        drawn = self.generator.random((count, len(names)))
        return self.places.place_all(
            [{name: self.places.value(name, part) for name, part in zip(names, row, strict=True)} for row in drawn]
        )

    def nearest(self, place: np.ndarray) -> int:
        places = self.table.settings.places[self.drawn.settings]
        distances = ((places - place) ** 2).sum(axis=1)
        distances[0] = np.inf
        if self.rule.seeds is not None or not self.rule.repeats:
            known = {*self.state.settings}
            distances[[i for i, one in enumerate(self.drawn.settings) if one in known]] += 1e6
        return self.drawn.settings[int(distances.argmin())]

    def sampled(self) -> int:
        """A setting that Optuna's sampler proposes."""
        trial = self.sampler_study.ask(dict(_distributions(self.table.space)))
        setting = self.nearest(self.places.place(trial.params))
        self.open_trials[setting] = trial
        return setting

    # --- the runs

    def run(self) -> "Search":
        order, events = itertools.count(), []

        def begin(now: float) -> None:
            setting, seed = self.propose(now)
            number = len(self.state.settings)
            for name, value in zip(
                ("settings", "seeds", "values", "extra", "stopped", "last_proxy"),
                (setting, seed, math.nan, 0.0, False, math.nan),
                strict=True,
            ):
                getattr(self.state, name).append(value)
            run = self.table.runs[setting][self.drawn.feed[seed % len(self.drawn.feed)]]
            heapq.heappush(events, (now + self.epoch_seconds(run, 1), next(order), number, run, 1))

        for _ in range(self.workers):
            begin(0.0)
        checks = [budget * self.full / self.workers for budget in BUDGETS if budget <= self.budget]
        while events:
            now, _, number, run, epoch = heapq.heappop(events)
            while checks and now > checks[0]:
                self.check(len(BUDGETS[: sum(b <= self.budget for b in BUDGETS)]) - len(checks))
                checks.pop(0)
            if not checks:
                break
            if epoch > len(run.training):
                self.state.values[number] = run.objective
                if self.study is not None:
                    measured = {"objective": run.objective, "clean_accuracy": 0, "robust_accuracy": 0}
                    self.study.tell_finished(self.trials[number][0], {**measured, "noise_accuracy": 0})
                self.tell(number, run.objective)
                begin(now)
                continue
            setting, report = self.state.settings[number], run.reports[epoch - 1]
            first_visit = setting not in self.state.settings[:number]
            if self.study is not None and self.uses_proxy:
                self.study.report(self.trials[number][0], int(report["epoch"]), report["proxy_objective"])
            if self.asha is not None and setting and first_visit and not self.asha.decide(number, report):
                self.state.stopped[number] = True
                if self.study is not None:
                    self.study.tell_stopped(self.trials[number][0])
                self.state.last_proxy[number] = self.asha._best[number][-1]
                self.tell(number, self.state.last_proxy[number])
                begin(now)
                continue
            heapq.heappush(events, (now + self.epoch_seconds(run, epoch + 1), next(order), number, run, epoch + 1))
        return self

    def epoch_seconds(self, run: Run, epoch: int) -> float:
        if epoch > len(run.training):
            return run.measured["attack_seconds"]
        return run.training[epoch - 1] + (run.proxying[epoch - 1] if self.uses_proxy else 0.0)

    def tell(self, number: int, value: float) -> None:
        trial = self.open_trials.pop(self.state.settings[number], None)
        if trial is not None:
            self.sampler_study.tell(trial, value)

    def means(self) -> dict[int, float]:
        values: dict[int, list[float]] = defaultdict(list)
        for setting, value in zip(self.state.settings, self.state.values, strict=True):
            if not math.isnan(value):
                values[setting].append(value)
        return {setting: float(np.mean(one)) for setting, one in values.items()}

    def estimated(self) -> State:
        """The state, in which a stopped run has the value that its proxy predicts."""
        state = self.state
        if not any(state.stopped):
            return state
        pairs = [
            (self.asha._best[number][-1], state.values[number])
            for number in range(len(state.values))
            if not math.isnan(state.values[number]) and number in self.asha._best
        ]
        if len(pairs) < 5:
            return State(
                *(
                    [one for one, stopped in zip(getattr(state, name), state.stopped, strict=True) if not stopped]
                    for name in ("settings", "seeds", "values", "extra", "stopped", "last_proxy")
                )
            )
        proxies, values = np.array(pairs).T
        slope, level = np.polyfit(proxies, values, 1)
        rest = float(np.var(values - slope * proxies - level))
        return State(
            state.settings,
            state.seeds,
            [
                slope * proxy + level if stopped else value
                for value, proxy, stopped in zip(state.values, state.last_proxy, state.stopped, strict=True)
            ],
            [rest if stopped else 0.0 for stopped in state.stopped],
            state.stopped,
            state.last_proxy,
        )

    # --- what is recommended

    def check(self, index: int) -> None:
        """Remember what the search would say now."""
        rule, means = self.rule, self.means()
        ended = {setting: value for setting, value in means.items() if setting}
        line: dict[str, float] = {
            "runs": len(self.state.settings),
            "finished": sum(not math.isnan(v) for v in self.state.values),
        }
        line["settings"] = len({*self.state.settings})
        if not ended:
            self.told[index] = line
            return
        truth = dict(zip(self.drawn.settings, self.drawn.smooth_truth[0], strict=True))
        line["best_tried"] = max(truth[setting] for setting in means)
        if rule.recommend == "oracle":
            chosen = max(ended, key=lambda one: truth[one])
            self.told[index] = line | {"setting": chosen, "told": truth[chosen]}
            return
        if rule.recommend in ("raw", "mean"):
            chosen = max(ended, key=lambda one: ended[one])
            if rule.recommend == "raw":
                chosen, value = max(
                    (
                        (s, v)
                        for s, v in zip(self.state.settings, self.state.values, strict=True)
                        if s and not math.isnan(v)
                    ),
                    key=lambda pair: pair[1],
                )
            else:
                value = ended[chosen]
            self.told[index] = line | {"setting": chosen, "told": value}
            return
        known = sorted({*self.state.settings})
        own = {setting: i for i, setting in enumerate(known)}
        settings = Settings(self.table.settings.places[known], self.table.settings.islands[known])
        runs = self.estimated().runs(own)
        with widest_scales(rule.widest if rule.told_widest is None else rule.told_widest):
            fitted, settings = recommending.fit_guarded(settings, runs, self.places.groups)
        result = recommend(fitted, settings, runs, np.array(known) > 0)
        bare = {} if 0 not in own else {"better": result.better(result.setting, own[0])}
        self.told[index] = line | {
            "setting": known[result.setting],
            "told": float(result.mean[result.setting]),
            "low": float(result.low[result.setting]),
            "high": float(result.high[result.setting]),
            "best": float(result.best[result.setting]),
            "noise": fitted.noise,
            "offset": fitted.offset,
            **bare,
        }


@contextlib.contextmanager
def widest_scales(widest: float) -> Iterator[None]:
    """Let surrogates be fitted with so wide draws of their scales."""
    before, surrogates._WIDEST = surrogates._WIDEST, widest
    try:
        yield
    finally:
        surrogates._WIDEST = before


def repeat(
    seed: int, path: Path, space_name: str, names: list[str], workers: int, budget: int, known_truth: bool
) -> list[dict[str, Any]]:
    """One repetition: all rules search the same draw of the table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    drawn = Draw.of(load_table(path, space_name), seed, known_truth)
    smooth, plain = drawn.smooth_truth
    inside = [i for i, one in enumerate(drawn.settings) if one]
    where = {setting: i for i, setting in enumerate(drawn.settings)}
    rows = []
    for name in names:
        rule = RULES[name]
        priors = dict(surrogates._PRIORS)
        if rule.noise:
            surrogates._PRIORS["noise"] = rule.noise
        if not rule.offset:
            surrogates._PRIORS["offset"] = (1e-6, 0.01)
        surrogates._NOISE_FREEDOM = rule.freedom
        try:
            with widest_scales(rule.widest):
                search = Search(drawn, rule, seed, budget, workers).run()
        finally:
            surrogates._PRIORS.update(priors)
            surrogates._NOISE_FREEDOM = Rule.freedom
        for index, size in enumerate(one for one in BUDGETS if one <= budget):
            told = search.told.get(index, {})
            row = {"rule": name, "seed": seed, "trainings": size, "truth_error": drawn.truth_error, **told}
            if "setting" in told:
                i = where[told["setting"]]
                row |= {"smooth": smooth[i], "plain": plain[i], "regret": smooth[inside].max() - smooth[i]}
                row["tried_regret"] = told["best_tried"] - smooth[i]
                row["plain_regret"] = smooth[inside].max() - plain[i]
                row["better_than_bare"] = plain[i] - plain[0]
            row["proposal_ms"] = 1000 * search.proposal_seconds / max(len(search.state.settings), 1)
            rows.append(row)
    return rows


_TABLES: dict[tuple[Path, str], RunTable] = {}


def load_table(path: Path, space_name: str) -> RunTable:
    if (path, space_name) not in _TABLES:
        _TABLES[path, space_name] = RunTable(path, load_space(space_name))
    return _TABLES[path, space_name]
