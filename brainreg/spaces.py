"""Search spaces: YAML files that say what is searched, what is fixed, and what is maximized."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from brainreg.attacks import AutoAttack
from brainreg.errors import InputError, checked_value, nearest, validated
from brainreg.hyperparameters import REGULARIZER, DatasetName, Hyperparameters
from brainreg.objective import Objective
from brainreg.paths import expand_home
from brainreg.published import published_setting

if TYPE_CHECKING:
    import optuna

SPACES_FOLDER = Path(__file__).resolve().parent.parent / "search_spaces"
_VARIANTS = "variants"  # folder of what a variant changes in any space

# Settings that a search runs before Optuna proposes any. Their names mark the trials in the results.
PUBLISHED, UNREGULARIZED = "published", "unregularized"

# The unregularized setting, but its best epoch is the one with the largest objective: what stopping earlier gives.
EARLY_STOPPED = "early_stopped"


def shown_name(setting: str) -> str:
    """Return what people read for the name of a given setting."""
    return "unregularized, epoch by objective" if setting == EARLY_STOPPED else setting


class Distribution(BaseModel):
    """What Optuna draws a hyperparameter from: `choices`, or the numbers from `low` to `high`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    choices: tuple[Any, ...] | None = Field(None, min_length=1, description="draw one of these")
    low: float | None = Field(None, description="smallest value")
    high: float | None = Field(None, description="largest value")
    log: bool = Field(False, description="draw evenly on a logarithmic scale")
    step: float | None = Field(None, gt=0, description="distance of the values that can be drawn")
    times: str | None = Field(None, description="the drawn number is multiplied by this other hyperparameter")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        bounds = [name for name in ("low", "high", "log", "step", "times") if getattr(self, name) not in (None, False)]
        if self.choices is not None:
            if bounds:
                raise ValueError(f"{bounds[0]}={getattr(self, bounds[0])}: does not go with choices")
        elif self.low is None or self.high is None:
            raise ValueError(f"{'low' if self.low is None else 'high'}: missing; give choices, or low and high")
        elif not self.low < self.high:
            raise ValueError(f"low={self.low:g}: must be below high={self.high:g}")
        elif self.log and self.low <= 0:
            raise ValueError(f"low={self.low:g}: must be above 0 on a logarithmic scale")
        elif self.log and self.step is not None:
            raise ValueError(f"step={self.step:g}: does not go with log")
        return self

    def summary(self) -> str:
        """The distribution in a few words."""
        if self.choices is not None:
            return f"one of {', '.join(map(str, self.choices))}"
        scale = " (log)" if self.log else f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{scale}" + (f", times {self.times}" if self.times else "")

    def extremes(self) -> tuple[Any, ...]:
        """The values that a bound can be checked by: all choices, or both ends."""
        return self.choices if self.choices is not None else (self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Whether `value` can be drawn (a step aside)."""
        return value in self.choices if self.choices is not None else self.low <= value <= self.high

    def suggest(self, trial: "optuna.Trial", name: str, kind: type) -> Any:
        """Draw a value in an Optuna trial, whole where the hyperparameter is."""
        if self.choices is not None:
            return trial.suggest_categorical(name, self.choices)
        if kind is int:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


class Budget(BaseModel):
    """How much a search does unless the command line says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_samples: int = Field(ge=1, description="trials")
    final_attack: AutoAttack = Field(
        AutoAttack(), description="attack on the best setting and the unregularized ones at the end"
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
    budget: Budget

    @model_validator(mode="before")
    @classmethod
    def _take_published_row(cls, content: Any) -> Any:
        if not (isinstance(content, Mapping) and isinstance(content.get("published"), str)):
            return content
        setting = published_setting(content["published"])
        for key in ("task", "reg_data"):
            if (row := setting.pop(key)) != content.get(key):
                raise ValueError(f"published={content['published']}: its {key} is {row}, not {content.get(key)}")
        return {**content, "published": setting}

    @model_validator(mode="after")
    def _check(self) -> Self:
        settings = {"fixed": self.fixed, "published": self.published or {}}
        for section, values in settings.items():
            for key in values:
                if key in ("task", "reg_data"):
                    raise ValueError(f"{section}.{key}: {key} is a key of the space itself")
                values[key] = _checked(f"{section}.{key}", key, values[key])
        for key, distribution in self.search.items():
            if key in ("task", "reg_data") or key in self.fixed:
                raise ValueError(f"search.{key}: given twice; {key} is fixed")
            kind = _kind(f"search.{key}", key)
            if distribution.choices is None and kind not in (int, float):
                raise ValueError(f"search.{key}: {key} is not a number; give choices")
            if distribution.times is not None and (key, distribution.times) != ("reg_thresh_2", "reg_thresh"):
                raise ValueError(f"search.{key}.times={distribution.times}: only reg_thresh_2 can be times reg_thresh")
            values = tuple(_checked(f"search.{key}", key, value) for value in distribution.extremes())
            if distribution.choices is not None:
                self.search[key] = distribution.model_copy(update={"choices": values})
            elif kind is int and distribution.step is not None and not distribution.step.is_integer():
                raise ValueError(f"search.{key}.step={distribution.step:g}: {key} is a whole number")
        self._check_second_threshold()
        if self.published is not None:
            validated(Hyperparameters, self.setting(PUBLISHED), spell=lambda key: f"published.{key}")
        validated(Hyperparameters, self.setting(UNREGULARIZED), spell=lambda key: f"fixed.{key}")
        return self

    def _check_second_threshold(self) -> None:
        """Th_2 exists where the range can be double, only there, and is always below Th."""
        default = Hyperparameters.model_fields["reg_range"].default
        if not self._can_be_double():
            if "reg_thresh_2" in {*self.search, *self.fixed}:
                where = "search" if "reg_thresh_2" in self.search else "fixed"
                ranges = self._values("reg_range") or (default,)
                raise ValueError(
                    f"{where}.reg_thresh_2: only the range double uses it, and reg_range is {', '.join(ranges)}"
                )
            return
        seconds = self._values("reg_thresh_2")
        if not seconds:
            raise ValueError("search.reg_thresh_2: missing; the range double needs a second threshold below reg_thresh")
        distribution = self.search.get("reg_thresh_2")
        lowest = min(self._values("reg_thresh") or (Hyperparameters.model_fields["reg_thresh"].default,))
        if distribution is not None and distribution.times is not None:
            if distribution.high >= 1:
                raise ValueError(f"search.reg_thresh_2.high={distribution.high:g}: must be below 1 times reg_thresh")
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
        """The names of the settings that are run before Optuna proposes any, in order."""
        controls = (UNREGULARIZED, EARLY_STOPPED)
        return (PUBLISHED, *controls) if self.published is not None else controls

    def setting(self, name: str) -> dict[str, Any]:
        """Return the hyperparameters of a given setting; the early-stopped one has those of the unregularized one."""
        data = {"task": self.task, "reg_data": self.reg_data}
        if name == PUBLISHED:
            setting = {**data, **self.fixed, **self.published}
            if setting.get("reg_range") != "double":
                setting.pop("reg_thresh_2", None)
            return setting
        others = {key: value for key, value in self.fixed.items() if key not in REGULARIZER}
        return {"task": self.task, **others, "reg_alpha": 0.0}

    def departures(self) -> dict[str, Any]:
        """Return the hyperparameters in which the published trial departs from what was published, with their values:
        a validation split large enough to attack; an override, say of the epochs, leaves it little else than alpha, the
        thresholds and the range. (The seed is none: what was published is not of one seed.)
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
        drawn = {}
        for key, distribution in self.search.items():
            if key == "reg_thresh_2" and setting.get("reg_range") != "double":
                continue
            value = setting.get(key, Hyperparameters.model_fields[key].default)
            if value is not None and distribution.times is not None:
                value = value / setting[distribution.times]
            if value is None or not distribution.contains(value):
                return {}
            drawn[self._parameter(key)] = value
        return drawn

    def _parameter(self, key: str) -> str:
        """The name of Optuna's parameter for a hyperparameter."""
        times = self.search[key].times
        return key if times is None else f"{key}/{times}"

    def __call__(self, trial: "optuna.Trial") -> dict[str, Any]:
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
            value = distribution.suggest(trial, self._parameter(key), _kind(key, key))
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
                setting = {"task": self.task, "reg_data": self.reg_data, **self.fixed, **others, **largest}
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
        for key in ("task", "reg_data"):
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


def _field(where: str, key: str):
    if key not in Hyperparameters.model_fields:
        raise ValueError(f"{where}: no such hyperparameter; {nearest(key, Hyperparameters.model_fields)}")
    return Hyperparameters.model_fields[key]


def _kind(where: str, key: str) -> type:
    """The plain type of a hyperparameter: int, float, bool or str."""
    annotation = _field(where, key).annotation
    for kind in (bool, int, float):
        if annotation in (kind, kind | None):
            return kind
    return str


def _checked(where: str, key: str, value: Any) -> Any:
    """Return a value in the hyperparameter's own type and within its bounds."""
    _field(where, key)
    return checked_value(Hyperparameters, key, value, where)


class _Loader(yaml.SafeLoader):
    """YAML in which no key comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.YAMLError(f"the key {twice} comes twice")
        return mapping


def space_names() -> list[str]:
    """Return the names of the spaces that come with the project."""
    return sorted(path.stem for path in SPACES_FOLDER.glob("*.yaml"))


def variant_names() -> list[str]:
    """Return the variants that every space has: `SPACE_VARIANT` is a space too, without a file of its own."""
    return sorted(path.stem for path in (SPACES_FOLDER / _VARIANTS).glob("*.yaml"))


def load_space(name: str | Path) -> Space:
    """Load a space by its name in `search_spaces/`, by that name and a variant's, or by the path of its file.

    A file may extend others: `extends: NAME`, or a list of names, takes their content, and what comes later, at
    last the file itself, replaces it, key by key (a key set to null is removed).

    Raises:
        InputError: no such space, or a file that says something wrong; the line names the file and the key.
    """
    source = _find(name)
    content = _read(source, ()) if isinstance(source, Path) else _variant(str(name), *source)
    own = source.stem if isinstance(source, Path) else name
    where = source if isinstance(source, Path) else f"space={name}"
    return validated(Space, {"name": own, **content}, spell=lambda key: f"{where}: {key}")


def _find(name: str | Path) -> Path | tuple[str, str]:
    """The file of a space, or the name of another space and of its variant."""
    own = SPACES_FOLDER / f"{name}.yaml"
    if own.is_file():
        return own
    if (path := Path(expand_home(name))).is_file():
        return path
    for variant in sorted(variant_names(), key=len, reverse=True):
        space = str(name).removesuffix(f"_{variant}")
        if space != str(name) and (SPACES_FOLDER / f"{space}.yaml").is_file():
            return space, variant
    raise InputError(f"space={name}: no such space, and no such file; {nearest(str(name), space_names())}")


def _variant(name: str, space: str, variant: str) -> dict[str, Any]:
    content = _extended([space, f"{_VARIANTS}/{variant}"], ())
    return {**content, "description": f"{content['description']} ({variant.replace('_', ' ')})"}


def _extended(names: list[str], extended: tuple[Path, ...]) -> dict[str, Any]:
    """The content of several spaces, merged in their order."""
    content: dict[str, Any] = {}
    for name in names:
        source = _find(name)
        part = _read(source, extended) if isinstance(source, Path) else _variant(name, *source)
        content = _merge(content, part)
    return content


def _read(path: Path, extended: tuple[Path, ...]) -> dict[str, Any]:
    if path in extended:
        raise InputError(f"{path}: extends={path.stem}: extends itself")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # safe: it is a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise InputError(f"{path}: must be a mapping with the keys {', '.join(Space.model_fields)}")
    bases = content.pop("extends", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list) and all(isinstance(base, str) for base in bases)):
        raise InputError(f"{path}: extends={bases}: must be the name of a space, or a list of names")
    for base in bases:
        try:
            _find(base)
        except InputError as error:
            raise InputError(f"{path}: extends={str(error).removeprefix('space=')}") from error
    return _merge(_extended(bases, (*extended, path)), content)


def _merge(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict) and not _is_distribution(value):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _is_distribution(value: dict[str, Any]) -> bool:
    return bool({"choices", "low"} & value.keys())
