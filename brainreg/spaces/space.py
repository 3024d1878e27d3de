"""A search space: what is searched, what is fixed, what is maximized, at which cost."""

from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from brainreg.attacks.autoattack.settings import AutoAttackSettings
from brainreg.errors import Faults, checked_value, nearest, validated
from brainreg.hyperparameters import REGULARIZER, DatasetName, Hyperparameters
from brainreg.spaces.distribution import Distribution, Suggests
from brainreg.spaces.names import EARLY_STOPPED, LIKE_FOUND, PUBLISHED, UNREGULARIZED
from brainreg.spaces.objective import Objective
from brainreg.spaces.published import published_setting

# Hyperparameters that are keys of the space itself.
_OWN_KEYS = ("task", "reg_data")


class Budget(BaseModel):
    """How much a search does unless the command line says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_samples: int = Field(40, ge=1, description="trials")
    final_attack: AutoAttackSettings = Field(
        AutoAttackSettings(), description="attack on the best setting and the unregularized ones at the end"
    )
    final_attack_seconds: float = Field(
        600, ge=0, description="time limit of it, for each of the three; 0 leaves it out"
    )
    final_attack_batch_size: int = Field(250, ge=1, description="images attacked together in it")


class Space(BaseModel):
    """A search space. As a callable it is what Optuna's define-by-run interface wants: trial in, settings out.

    Attributes:
        name: of its file.
        description: one line.
        task, reg_data: the data sets.
        fixed: hyperparameters that every trial has.
        search: hyperparameters that are searched, with their distributions.
        published: the published setting, which is the first trial; a file may name a row of the published table.
        objective: what is maximized.
        budget: how many trials, and how the winner is attacked at the end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    task: DatasetName
    reg_data: DatasetName | None = None
    fixed: dict[str, Any] = {}
    search: dict[str, Distribution] = Field(min_length=1)
    published: dict[str, Any] | None = None
    objective: Objective
    budget: Budget = Budget()

    @model_validator(mode="before")
    @classmethod
    def _take_published_row(cls, content: Any) -> Any:
        if not (isinstance(content, Mapping) and isinstance(content.get("published"), str)):
            return content
        setting = published_setting(content["published"])
        for key in _OWN_KEYS:
            if (row := setting.pop(key)) != content.get(key):
                raise ValueError(f"published={content['published']}: its {key} is {row}, not {content.get(key)}")
        return {**content, "published": setting}

    @field_validator("fixed", "published")
    @classmethod
    def _check_values(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if values is None else _without_faults(_checked_value, values)

    @field_validator("search")
    @classmethod
    def _check_distributions(cls, search: dict[str, Distribution]) -> dict[str, Distribution]:
        return _without_faults(_checked_distribution, search)

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = [f"search.{key}: given twice; {key} is fixed" for key in self.search if key in self.fixed]
        if twice:
            raise Faults(twice)
        self._check_second_threshold()
        if self.published is not None:
            validated(Hyperparameters, self.setting(PUBLISHED), spell=lambda key: f"published.{key}")
        validated(Hyperparameters, self.setting(UNREGULARIZED), spell=lambda key: f"fixed.{key}")
        return self

    def _check_second_threshold(self) -> None:
        """Th_2 exists where the range can be double, only there, and is always below Th."""
        default = Hyperparameters.model_fields["reg_range"].default
        where = "search" if "reg_thresh_2" in self.search else "fixed"
        if not self._can_be_double():
            if "reg_thresh_2" in {*self.search, *self.fixed}:
                ranges = self._values("reg_range") or (default,)
                raise ValueError(
                    f"{where}.reg_thresh_2: only the range double uses it, and reg_range is {', '.join(ranges)}"
                )
            return
        seconds = self._values("reg_thresh_2")
        if not seconds:
            raise ValueError("search.reg_thresh_2: missing; the range double needs a second threshold below reg_thresh")
        if None in seconds:
            raise ValueError(
                f"{where}.reg_thresh_2: can be none; the range double needs a second threshold below reg_thresh"
            )
        distribution = self.search.get("reg_thresh_2")
        lowest = min(self._values("reg_thresh") or (Hyperparameters.model_fields["reg_thresh"].default,))
        if distribution is not None and distribution.times is not None:
            if distribution.high is not None and distribution.high >= 1:
                raise ValueError(f"search.reg_thresh_2.high={distribution.high:g}: must be below 1 times reg_thresh")
            if lowest <= 0:
                raise ValueError(f"reg_thresh={lowest:g}: must be above 0, as reg_thresh_2 is a part of it")
        elif max(seconds) >= lowest:
            raise ValueError(
                f"reg_thresh_2={max(seconds):g}: must be below reg_thresh, which can be {lowest:g};"
                " search it `times: reg_thresh`, between 0 and 1, to keep it below"
            )

    def _can_be_double(self) -> bool:
        return "double" in self._values("reg_range")

    def _values(self, key: str) -> tuple[Any, ...]:
        """The values, or the ends of them, that a hyperparameter can have; none where it has its default."""
        if key in self.search:
            return self.search[key].extremes()
        return (self.fixed[key],) if key in self.fixed else ()

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the settings that are run before any is proposed, in order."""
        controls = (UNREGULARIZED, EARLY_STOPPED)
        return (PUBLISHED, *controls) if self.published is not None else controls

    @property
    def other_hyperparameters(self) -> tuple[str, ...]:
        """The hyperparameters that are searched beside the regularizer's; none where no setting is regularized."""
        if not any(self._values("reg_alpha")):
            return ()
        return tuple(name for name in self.search if name not in REGULARIZER)

    @property
    def controls(self) -> tuple[str, ...]:
        """The names of the settings that a confirmation trains beside the found ones, in order."""
        return (*self.given, LIKE_FOUND) if self.other_hyperparameters else self.given

    def setting(self, name: str) -> dict[str, Any]:
        """Return the hyperparameters of a given setting; the early-stopped one has those of the unregularized one."""
        data = {"task": self.task, "reg_data": self.reg_data}
        if name == PUBLISHED:
            setting = {**data, **self.fixed, **(self.published or {})}
            if setting.get("reg_range") != "double":
                setting.pop("reg_thresh_2", None)
            return setting
        others = {key: value for key, value in self.fixed.items() if key not in REGULARIZER}
        return {"task": self.task, **others, "reg_alpha": 0.0}

    def departures(self) -> dict[str, Any]:
        """Return the hyperparameters in which the published trial departs from what was published, with their values.

        These are a validation split large enough to attack; an override, say of the epochs, leaves it little else than
        alpha, the thresholds and the range. The seed is none: what was published is not of one seed.
        """
        if self.published is None:
            return {}
        setting = self.setting(PUBLISHED)
        same = {"task", "reg_data", "seed", *self.published}
        fields = Hyperparameters.model_fields
        return {key: value for key, value in setting.items() if key not in same and value != fields[key].default}

    def parameters(self, name: str) -> dict[str, Any]:
        """Return what Optuna is told of a given setting: the values it could have drawn itself, or nothing.

        The unregularized settings are no points of the space (alpha has no logarithm there), and a published
        one may be outside too; the study holds their results without parameters.
        """
        setting = self.setting(name)
        if name != PUBLISHED or any(setting.get(key) != value for key, value in self.fixed.items()):
            return {}
        return self.inside(setting) or {}

    def inside(self, setting: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what Optuna drew where these are the hyperparameters; None where it cannot draw that."""
        drawn = self.drawn(setting)
        searched = {self.parameter(key): one for key, one in self.search.items()}
        if drawn is None or not all(searched[name].contains(value) for name, value in drawn.items()):
            return None
        return drawn

    def drawn(self, setting: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the values that Optuna drew where these are the hyperparameters; None where one is missing.

        They may lie outside the space, by rounding or altogether.
        """
        drawn = {}
        for key, distribution in self.search.items():
            if key == "reg_thresh_2" and setting.get("reg_range") != "double":
                continue
            value = setting.get(key, Hyperparameters.model_fields[key].default)
            if value is None:
                return None
            drawn[self.parameter(key)] = value if distribution.times is None else value / setting[distribution.times]
        return drawn

    @property
    def seed(self) -> int:
        """The seed of a search."""
        return self.fixed.get("seed", Hyperparameters.model_fields["seed"].default)

    def is_whole(self, key: str) -> bool:
        """Return whether a hyperparameter is a whole number."""
        return _kind(key) is int

    def parameter(self, key: str) -> str:
        """Return the name of Optuna's parameter for a hyperparameter."""
        times = self.search[key].times
        return key if times is None else f"{key}/{times}"

    def __call__(self, trial: Suggests) -> dict[str, Any]:
        """Return the hyperparameters of an Optuna trial: a given setting, or drawn ones."""
        name = trial.user_attrs.get("setting")
        if name is not None and not self.parameters(name):
            return self.setting(name)
        drawn: dict[str, Any] = {}
        # The range comes first, since Th_2 depends on it, and Th_2 last, since it may depend on Th.
        for key in sorted(self.search, key=lambda key: {"reg_range": 0, "reg_thresh_2": 2}.get(key, 1)):
            distribution = self.search[key]
            if key == "reg_thresh_2" and (drawn | self.fixed).get("reg_range") != "double":
                continue
            value = distribution.suggest(trial, self.parameter(key), _kind(key))
            drawn[key] = value if distribution.times is None else value * (drawn | self.fixed)[distribution.times]
        fixed = dict(self.fixed)
        if (drawn | fixed).get("reg_range") != "double":
            fixed.pop("reg_thresh_2", None)
        return {"task": self.task, "reg_data": self.reg_data, **fixed, **drawn}

    def corners(self) -> list[dict[str, Any]]:
        """Return settings at the corners of the space, with the most images and pairs that it can propose.

        If none of them can be trained, because the range selects too few pairs or there are too few images,
        the space is useless.
        """
        largest = {
            key: max(self.search[key].extremes()) for key in ("reg_image_num", "reg_batch_size") if key in self.search
        }
        others = {key: distribution.extremes()[-1] for key, distribution in self.search.items()}
        settings = []
        for reg_range in self._values("reg_range") or (Hyperparameters.model_fields["reg_range"].default,):
            for thresh in self._values("reg_thresh") or (Hyperparameters.model_fields["reg_thresh"].default,):
                setting: dict[str, Any] = {"task": self.task, "reg_data": self.reg_data}
                setting |= self.fixed | others | largest
                setting |= {"reg_range": reg_range, "reg_thresh": thresh}
                if reg_range != "double":
                    setting.pop("reg_thresh_2", None)
                elif "reg_thresh_2" in self.search and self.search["reg_thresh_2"].times is not None:
                    setting["reg_thresh_2"] *= thresh
                settings.append(setting)
        return settings

    def override(
        self,
        hyperparameters: Mapping[str, Any],
        objective: Mapping[str, Any] | None = None,
        budget: Mapping[str, Any] | None = None,
    ) -> "Space":
        """Return a space where these hyperparameters are fixed, in every trial, and these other values hold.

        Where they differ from the published setting, that one is no longer a trial.

        Raises:
            InputError: they contradict the space or each other.
        """
        content = self.model_dump()
        values = dict(hyperparameters)
        for key in _OWN_KEYS:
            if key in values:
                content[key] = values.pop(key)
        content["fixed"] = {**self.fixed, **values}
        content["search"] = {key: value for key, value in content["search"].items() if key not in values}
        if values.get("reg_range", "double") != "double" and "reg_thresh_2" not in values:
            for section in ("fixed", "search"):
                content[section].pop("reg_thresh_2", None)
        if self.published is not None:
            published = self.published | {"task": self.task, "reg_data": self.reg_data}
            if any(value != published[key] for key, value in hyperparameters.items() if key in published):
                content["published"] = None
        content["objective"].update(objective or {})
        content["budget"].update(budget or {})
        return validated(Space, content)


def _field(key: str) -> FieldInfo:
    if key not in Hyperparameters.model_fields:
        raise ValueError(f"{key}: no such hyperparameter; {nearest(key, Hyperparameters.model_fields)}")
    return Hyperparameters.model_fields[key]


def _kind(key: str) -> type:
    """The plain type of a hyperparameter: int, float, bool or str."""
    annotation = _field(key).annotation
    for kind in (bool, int, float):
        if annotation in (kind, kind | None):
            return kind
    return str


def _without_faults(check: Callable[[str, Any], Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `check` makes of each value.

    Raises:
        Faults: all that it finds wrong.
    """
    checked, faults = {}, []
    for key, value in values.items():
        try:
            checked[key] = check(key, value)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise Faults(faults)
    return checked


def _checked_value(key: str, value: Any) -> Any:
    """Return a value in the hyperparameter's own type and within its bounds."""
    if key in _OWN_KEYS:
        raise ValueError(f"{key}: {key} is a key of the space itself")
    _field(key)
    return checked_value(Hyperparameters, key, value, key)


def _checked_distribution(key: str, distribution: Distribution) -> Distribution:
    """Return a distribution with values in the hyperparameter's own type and within its bounds."""
    if key == "seed":
        raise ValueError("seed: a search gives its runs their seeds itself; its own is fixed.seed")
    if key in ("image_size", "rgb"):
        raise ValueError(f"{key}: all trials of a search classify the same images; must be in fixed.{key}")
    if key in _OWN_KEYS:
        raise ValueError(f"{key}: given twice; {key} is fixed")
    kind = _kind(key)
    if distribution.choices is None and kind not in (int, float):
        raise ValueError(f"{key}: {key} is not a number; give choices")
    if distribution.times is not None and (key, distribution.times) != ("reg_thresh_2", "reg_thresh"):
        raise ValueError(f"{key}.times={distribution.times}: only reg_thresh_2 can be times reg_thresh")
    checked = tuple(_checked_value(key, value) for value in distribution.extremes())
    if distribution.choices is not None:
        return distribution.model_copy(update={"choices": checked})
    if kind is int and distribution.step is not None and not distribution.step.is_integer():
        raise ValueError(f"{key}.step={distribution.step:g}: {key} is a whole number")
    return distribution
