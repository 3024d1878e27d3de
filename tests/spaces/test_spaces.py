import pickle

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.method.ranges import RANGES
from brainreg.spaces.files import _merge, _without_nulls, load_space, space_names, variant_names
from brainreg.spaces.names import EARLY_STOPPED, LIKE_FOUND, PUBLISHED, UNREGULARIZED
from brainreg.spaces.published import PUBLISHED_SETTINGS
from brainreg.spaces.space import Space

CONTENT = {
    "description": "a test",
    "task": "digits",
    "fixed": {"reg_range": "double", "epoch_num": 2},
    "search": {
        "reg_alpha": {"low": 0.1, "high": 10, "log": True},
        "reg_thresh": {"low": 0.3, "high": 0.9},
        "reg_thresh_2": {"low": 0.1, "high": 0.9, "times": "reg_thresh"},
        "reg_image_num": {"low": 100, "high": 1000, "step": 100},
        "reg_batch_size": {"choices": [4, 8]},
    },
    "objective": {"eps": 0.1, "noise_eps": 0.2},
    "budget": {"num_samples": 5},
}

BASELINES = {"noise": "augment_noise", "adversarial": "adversarial_eps"}


def changed(path: str, value) -> dict:
    """CONTENT with another value at a dotted path; None removes it."""
    content = yaml.safe_load(yaml.safe_dump(CONTENT))
    *parents, last = path.split(".")
    inner = content
    for parent in parents:
        inner = inner.setdefault(parent, {})
    if value is None:
        inner.pop(last)
    else:
        inner[last] = value
    return content


@pytest.fixture
def write(tmp_path):
    def write(content, name="mine"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def space(write) -> Space:
    return load_space(write(CONTENT))


def proposals(space: Space, count: int, seed: int = 0) -> list[tuple[dict, optuna.Trial]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trials = [study.ask() for _ in range(count)]
    return [(space(trial), trial) for trial in trials]


class TestShipped:
    def test_the_promised_spaces_are_there(self):
        assert {
            "digits_double", "digits_ranges", "mnist_all", "cifar10_all", "cifar10_double", "cifar10_ranges",
        } <= set(space_names())  # fmt: skip

    @pytest.mark.parametrize("name", space_names())
    def test_every_space_proposes_valid_settings(self, name):
        space = load_space(name)
        assert space.name == name and "\n" not in space.description
        for setting, _ in proposals(space, 50):
            Hyperparameters(**setting)

    @pytest.mark.parametrize("name", space_names())
    def test_the_published_setting_comes_first_where_there_is_one(self, name):
        space = load_space(name)
        if space.task == "digits":
            assert space.given == (UNREGULARIZED, EARLY_STOPPED)
            return
        assert space.given == (PUBLISHED, UNREGULARIZED, EARLY_STOPPED)
        setting = Hyperparameters(**space.setting(PUBLISHED))
        rows = {(row["task"], row["reg_data"]): row for row in PUBLISHED_SETTINGS.values()}
        assert rows[space.task, space.reg_data].items() <= setting.model_dump().items()
        assert (setting.reg_image_num, setting.reg_batch_size) == (5000, 16)

    @pytest.mark.parametrize(
        ("name", "ranges"),
        [("cifar10_all", {"all"}), ("cifar10_double", {"double"}), ("cifar10_ranges", 7), ("digits_ranges", 7)],
    )
    def test_ranges_that_are_proposed(self, name, ranges):
        proposed = {setting["reg_range"] for setting, _ in proposals(load_space(name), 200)}
        assert proposed == ranges or len(proposed) == ranges

    def test_the_embedded_attack_is_called_custom(self):
        assert "custom" in load_space("digits_double").objective.attack.title
        assert load_space("digits_double").budget.final_attack.title == "AutoAttack standard Linf"

    def test_what_an_override_leaves_of_the_published_setting_is_told(self):
        space = load_space("cifar10_double")
        assert space.departures() == {"valid_portion": 0.1} and load_space("digits_double").departures() == {}
        changed = space.override({"epoch_num": 1, "archi": "ResNet50", "seed": 3, "reg_image_num": 900})
        own = {"epoch_num": 1, "archi": "ResNet50", "reg_image_num": 900}
        assert changed.departures() == {"valid_portion": 0.1, **own}
        as_published = {name: field.default for name, field in Hyperparameters.model_fields.items()}
        assert {*changed.departures()} == {
            name for name, value in changed.setting(PUBLISHED).items()
            if name not in ("task", "reg_data", "seed", *changed.published) and value != as_published[name]
        }  # fmt: skip


class TestProposals:
    def test_values_stay_within_their_distributions(self, space):
        for setting, _ in proposals(space, 300):
            assert 0.1 <= setting["reg_alpha"] <= 10 and 0.3 <= setting["reg_thresh"] <= 0.9
            assert 0.1 <= setting["reg_thresh_2"] / setting["reg_thresh"] <= 0.9
            assert setting["reg_image_num"] in range(100, 1001, 100) and setting["reg_batch_size"] in (4, 8)
            assert setting["reg_range"] == "double" and setting["epoch_num"] == 2

    def test_th_2_exists_in_the_range_double_only(self, write):
        content = changed("search.reg_range", {"choices": ["low", "double"]})
        content["fixed"].pop("reg_range")
        seen = set()
        for setting, trial in proposals(load_space(write(content)), 50):
            seen.add(setting["reg_range"])
            assert (
                ("reg_thresh_2" in setting)
                == (setting["reg_range"] == "double")
                == ("reg_thresh_2/reg_thresh" in trial.params)
            )
            Hyperparameters(**setting)
        assert seen == {"low", "double"}

    def test_a_fixed_th_2_is_left_out_of_other_ranges(self, write):
        content = changed("search.reg_range", {"choices": ["low", "double"]})
        del content["fixed"]["reg_range"], content["search"]["reg_thresh_2"]
        content["fixed"]["reg_thresh_2"] = 0.2
        for setting, _ in proposals(load_space(write(content)), 20):
            assert setting.get("reg_thresh_2") == (0.2 if setting["reg_range"] == "double" else None)

    def test_a_space_survives_pickling(self, space):
        assert pickle.loads(pickle.dumps(space)) == space


class TestGivenSettings:
    def test_unregularized_has_nothing_of_the_regularizer(self, space):
        assert space.setting(UNREGULARIZED) == {"task": "digits", "epoch_num": 2, "reg_alpha": 0.0}
        assert space.parameters(UNREGULARIZED) == {}

    def test_a_published_setting_inside_the_space_is_told_to_optuna(self, write):
        content = changed("published", {"reg_alpha": 1, "reg_thresh": 0.8, "reg_thresh_2": 0.2, "reg_image_num": 500})
        content["published"]["reg_batch_size"] = 8
        space = load_space(write(content))
        parameters = space.parameters(PUBLISHED)
        assert parameters == {
            "reg_alpha": 1, "reg_thresh": 0.8, "reg_thresh_2/reg_thresh": pytest.approx(0.25),
            "reg_image_num": 500, "reg_batch_size": 8,
        }  # fmt: skip
        study = optuna.create_study()
        study.enqueue_trial(parameters, user_attrs={"setting": PUBLISHED})
        trial = study.ask()
        assert Hyperparameters(**space(trial)) == Hyperparameters(**space.setting(PUBLISHED))
        assert trial.params == parameters

    def test_a_published_setting_outside_is_run_without_parameters(self, write):
        published = {"reg_alpha": 1, "reg_thresh": 0.8, "reg_range": "all", "reg_image_num": 500, "reg_batch_size": 8}
        space = load_space(write(changed("published", published)))
        assert space.parameters(PUBLISHED) == {}
        study = optuna.create_study()
        study.enqueue_trial({}, user_attrs={"setting": PUBLISHED})
        trial = study.ask()
        assert space(trial) == space.setting(PUBLISHED) and trial.params == {}
        assert "reg_thresh_2" not in space.setting(PUBLISHED)


class TestOverrides:
    def test_a_fixed_value_is_no_longer_searched(self, space):
        narrow = space.override({"reg_thresh": 0.5, "epoch_num": 1})
        assert "reg_thresh" not in narrow.search and narrow.fixed["reg_thresh"] == 0.5
        for setting, _ in proposals(narrow, 20):
            assert setting["reg_thresh"] == 0.5 and setting["reg_thresh_2"] <= 0.45 and setting["epoch_num"] == 1

    def test_another_range_needs_no_second_threshold(self, space):
        assert "reg_thresh_2" not in space.override({"reg_range": "high"}).search

    def test_what_differs_from_the_published_setting_is_not_called_published(self):
        space = load_space("cifar10_double")
        smaller = space.override({"reg_image_num": 1000, "epoch_num": 1, "reg_alpha": 10, "reg_data": "CIFAR10"})
        assert (
            smaller.given == (PUBLISHED, UNREGULARIZED, EARLY_STOPPED)
            and smaller.setting(PUBLISHED)["reg_image_num"] == 1000
        )
        for other in ({"reg_alpha": 3}, {"task": "MNIST"}, {"reg_data": "MNIST"}, {"reg_range": "double"}):
            assert space.override(other).given == (UNREGULARIZED, EARLY_STOPPED)

    def test_the_second_threshold_can_be_fixed_though_the_published_setting_has_none(self):
        space = load_space("cifar10_double").override({"reg_thresh_2": 0.05})
        assert space.given[0] == PUBLISHED and "reg_thresh_2" not in space.setting(PUBLISHED)
        assert {setting["reg_thresh_2"] for setting, trial in proposals(space, 5)} == {0.05}

    def test_an_impossible_override_is_named(self, space):
        with pytest.raises(InputError, match="only the range double uses it"):
            space.override({"reg_range": "high", "reg_thresh_2": 0.1})

    def test_objective_and_budget(self, space):
        changed = space.override({}, {"weight": 0.2, "attack_image_num": 7}, {"final_attack_seconds": 3})
        assert (changed.objective.weight, changed.objective.attack_image_num) == (0.2, 7)
        assert changed.objective.eps == space.objective.eps and changed.objective.attack == space.objective.attack
        assert changed.budget.final_attack_seconds == 3 and changed.budget.num_samples == 5
        assert space.override({}) == space


class TestExtending:
    def test_own_keys_replace_and_null_removes(self, write):
        write(CONTENT, "base")
        content = {
            "description": "another",
            "extends": str(write(CONTENT, "base")),
            "fixed": {"reg_range": None, "lr": 0.05},
            "search": {"reg_range": {"choices": ["low", "double"]}, "reg_thresh": {"choices": [0.4, 0.6]}},
        }
        space = load_space(write(content))
        assert space.name == "mine" and space.description == "another" and space.task == "digits"
        assert space.fixed == {"epoch_num": 2, "lr": 0.05}
        assert space.search["reg_thresh"].choices == (0.4, 0.6) and space.search["reg_thresh"].low is None
        assert list(space.search)[0] == "reg_alpha" and "reg_range" in space.search

    def test_a_circle_is_named(self, write, tmp_path):
        write({"extends": str(tmp_path / "b.yaml")}, "a")
        with pytest.raises(InputError, match="extends itself"):
            load_space(write({"extends": str(tmp_path / "a.yaml")}, "b"))

    def test_several_bases_are_merged_in_their_order(self, write):
        first, second = write(CONTENT, "first"), write({"fixed": {"lr": 0.5, "epoch_num": 7}}, "second")
        space = load_space(write({"extends": [str(first), str(second)], "fixed": {"lr": 0.25}}))
        assert space.fixed == {**CONTENT["fixed"], "epoch_num": 7, "lr": 0.25}

    @pytest.mark.parametrize("extends", [3, {"a": 1}, [1]])
    def test_only_names_can_be_extended(self, write, extends):
        with pytest.raises(InputError, match=r"extends=.*: must be the name of a space, or a list of names"):
            load_space(write({"extends": extends}))


class TestPublishedRows:
    @pytest.mark.parametrize("row", PUBLISHED_SETTINGS)
    def test_every_row_has_a_space_whose_first_trial_it_is(self, row):
        task, reg_data = (name.lower().replace("-", "") for name in row.split(" - "))
        space = load_space(f"{task}_{reg_data}")
        first = Hyperparameters(**space.setting(space.given[0]))
        published = Hyperparameters(**PUBLISHED_SETTINGS[row], valid_portion=0.1)
        assert first == published
        assert space.parameters(PUBLISHED)  # Optuna learns from it

    @pytest.mark.parametrize("variant", sorted({*variant_names()} - {*BASELINES}))
    @pytest.mark.parametrize("name", ["cifar100_imagenet", "mnist_fashionmnist"])
    def test_every_row_has_every_variant(self, name, variant):
        space, plain = load_space(f"{name}_{variant}"), load_space(name)
        assert (space.name, space.task, space.reg_data) == (f"{name}_{variant}", plain.task, plain.reg_data)
        assert space.setting(PUBLISHED) == {**plain.setting(PUBLISHED), "reg_range": "all"}
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        drawn = [Hyperparameters(**space(study.ask())) for _ in range(60)]
        assert {settings.reg_range for settings in drawn} == (set(RANGES) if variant == "ranges" else {variant})
        assert all((settings.reg_thresh_2 is None) == (settings.reg_range != "double") for settings in drawn)

    def test_variants_are_the_ranges_all_of_them_and_the_baselines(self):
        assert set(variant_names()) == {*RANGES, "ranges", *BASELINES}

    @pytest.mark.parametrize("name", ["digits_double", "digits_ranges", "cifar10_cifar100", "narrow/mnist_mnist"])
    @pytest.mark.parametrize(("variant", "searched"), BASELINES.items())
    def test_a_baseline_searches_its_strength_and_nothing_else(self, name, variant, searched):
        space, plain = load_space(f"{name}_{variant}"), load_space(name)
        assert [*space.search] == [searched] and space.objective == plain.objective and space.budget == plain.budget
        assert space.setting(PUBLISHED) == plain.setting(PUBLISHED) if plain.published else space.published is None
        assert space.setting(UNREGULARIZED) == plain.setting(UNREGULARIZED)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        drawn = [Hyperparameters(**space(study.ask())) for _ in range(5)]
        assert not any(settings.regularized for settings in drawn)
        assert len({getattr(settings, searched) for settings in drawn}) == 5
        # The found setting without its regularizer would be the found setting again.
        assert LIKE_FOUND not in space.controls and space.other_hyperparameters == ()

    def test_an_unknown_row(self, write):
        with pytest.raises(InputError, match="published=MNIST - SVHN: no such row of the published table"):
            load_space(write(changed("published", "MNIST - SVHN")))

    def test_a_row_of_other_data(self, write):
        with pytest.raises(InputError, match="published=MNIST - MNIST: its task is MNIST, not digits"):
            load_space(write(changed("published", "MNIST - MNIST")))


class TestBadFiles:
    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("serch", {}, "serch: no such key; did you mean search?"),
            ("task", "digit", "task=digit: no such data set, and no folder of images or .npz file there; did"),
            ("task", None, "task: missing"),
            ("objective", None, "objective: missing"),
            ("fixed.epochs", 3, "fixed.epochs: no such hyperparameter; did you mean epoch_num"),
            ("fixed.epoch_num", 0, "fixed.epoch_num=0: must be at least 1"),
            ("fixed.lr", "fast", "fixed.lr=fast: must be a number"),
            ("fixed.archi", "ResNet19", "fixed.archi=ResNet19: no such architecture; did you mean ResNet18"),
            ("fixed.reg_alpha", 1, "search.reg_alpha: given twice; reg_alpha is fixed"),
            ("search.reg_alhpa", {"choices": [1]}, "search.reg_alhpa: no such hyperparameter; did you mean reg_alpha"),
            ("search.reg_alpha.low", -1, "search.reg_alpha.low=-1: must be above 0 on a logarithmic scale"),
            ("search.reg_alpha.low", "x", "search.reg_alpha.low=x: must be a number"),
            ("search.reg_alpha.high", 0.05, "search.reg_alpha.low=0.1: must be below high=0.05"),
            ("search.reg_alpha.high", None, "search.reg_alpha.high: missing; give choices, or low and high"),
            ("search.reg_alpha.hihg", 3, "search.reg_alpha.hihg: no such key; did you mean high?"),
            ("search.reg_alpha.step", 1, "search.reg_alpha.step=1: does not go with log"),
            ("search.reg_alpha.choices", [1], "search.reg_alpha.low=0.1: does not go with choices"),
            ("search.reg_thresh.high", 1.5, "search.reg_thresh=1.5: must be less than 1"),
            ("search.reg_batch_size.choices", [4, 0], "search.reg_batch_size=0: must be at least 1"),
            ("search.seed", {"choices": [1, 2]}, "search.seed: a search gives its runs their seeds itself"),
            ("search.image_size", {"choices": [16, 32]}, "search.image_size: all trials of a search classify the same"),
            ("search.rgb", {"choices": [True, False]}, "search.rgb: all trials of a search classify the same images"),
            ("search.archi", {"low": 1, "high": 2}, "search.archi: archi is not a number; give choices"),
            ("search.reg_alpha.times", "lr", "search.reg_alpha.times=lr: only reg_thresh_2 can be times reg_thresh"),
            ("search.reg_thresh_2", None, "search.reg_thresh_2: missing; the range double needs a second threshold"),
            ("search.reg_thresh_2.high", 1, "search.reg_thresh_2=1.0: must be less than 1"),
            (
                "search.reg_thresh_2",
                {"low": 0.1, "high": 0.5},
                "reg_thresh_2=0.5: must be below reg_thresh, which can be 0.3; search it `times: reg_thresh`",
            ),
            (
                "search.reg_thresh_2",
                {"choices": [None, 0.1]},
                "search.reg_thresh_2: can be none; the range double needs a second threshold below reg_thresh",
            ),
            ("search.reg_thresh", {"choices": [0.0, 0.5]}, "reg_thresh=0: must be above 0, as reg_thresh_2 is a part"),
            ("fixed.reg_range", "high", "search.reg_thresh_2: only the range double uses it, and reg_range is high"),
            ("objective.eps", 0, "objective.eps=0: must be greater than 0"),
            ("objective.weigth", 1, "objective.weigth: no such key; did you mean weight?"),
            ("objective.attack.version", "standart", "objective.attack.version=standart: no such choice; did you mean"),
            ("objective.attack.version", "custom", "objective.attack.attacks: missing; a custom version names them"),
            ("budget.num_samples", 0, "budget.num_samples=0: must be at least 1"),
            ("fixed.task", "MNIST", "fixed.task: task is a key of the space itself"),
            ("search.reg_image_num.step", 0.5, "search.reg_image_num.step=0.5: reg_image_num is a whole number"),
            ("extends", ["digit_double"], "extends=digit_double: no such space, and no such file; did you mean"),
            ("published", {"reg_alpha": -1}, "published.reg_alpha=-1: must be at least 0"),
        ],
    )  # fmt: skip
    def test_one_line_that_names_the_file_the_key_the_value_and_the_rule(self, write, path, value, message):
        file = write(changed(path, value))
        with pytest.raises(InputError) as caught:
            load_space(file)
        assert str(caught.value).startswith(f"{file}: {message}") and "\n" not in str(caught.value)

    def test_all_that_is_wrong_is_named_at_once(self, write):
        content = changed("fixed.epochs", 3)
        content["fixed"]["lr"] = 0
        content["serch"] = {}
        content["search"]["reg_alpha"]["low"] = "x"
        content["search"]["reg_batch_size"]["choices"] = [0]
        content["objective"] |= {"eps": -1, "weight": 2}
        content["budget"]["num_samples"] = 0
        file = write(content)
        with pytest.raises(InputError) as caught:
            load_space(file)
        line = str(caught.value)
        assert line.count(str(file)) == 1 and "\n" not in line
        for fault in (
            "fixed.epochs: no such hyperparameter", "fixed.lr=0: must be greater than 0", "serch: no such key",
            "search.reg_alpha.low=x: must be a number", "objective.eps=-1: must be greater than 0",
            "objective.weight=2: must be at most 1", "budget.num_samples=0: must be at least 1",
        ):  # fmt: skip
            assert fault in line
        content["search"]["reg_alpha"]["low"] = 0.1  # a distribution that can be read is checked, too
        with pytest.raises(InputError, match=r"search\.reg_batch_size=0: must be at least 1"):
            load_space(write(content))

    def test_what_need_not_be_said(self, write):
        """Of the objective only the strength, which has to be measured; of the budget nothing."""
        content = changed("budget", None)
        content["objective"] = {"eps": 0.1}
        space = load_space(write(content))
        assert space.budget.num_samples == 40 and space.objective.attacked_of(1000) == 200
        assert space.objective.attacked_of(60) == 30 and space.objective.attacked_of(1) == 1

    def test_a_misspelt_key_is_named_and_not_the_one_that_is_missing_for_it(self, write):
        content = changed("budget", None)
        content["budgett"] = {"num_samples": 2}
        with pytest.raises(InputError, match=r"budgett: no such key; did you mean budget\?") as caught:
            load_space(write(content))
        assert "missing" not in str(caught.value)
        content = changed("objective.eps", None)
        content["objective"]["epss"] = 0.1
        with pytest.raises(InputError, match=r"objective.epss: no such key; did you mean eps\?"):
            load_space(write(content))

    def test_fixed_thresholds_in_the_wrong_order(self, write):
        content = changed("fixed.reg_thresh", 0.3)
        del content["search"]["reg_thresh"], content["search"]["reg_thresh_2"]
        content["fixed"]["reg_thresh_2"] = 0.3
        with pytest.raises(InputError, match=r"reg_thresh_2=0.3: must be below reg_thresh, which can be 0.3"):
            load_space(write(content))

    @pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text"])
    def test_not_a_mapping(self, write, text):
        with pytest.raises(InputError, match="must be a mapping with the keys name, description, task"):
            load_space(write(text))

    def test_numbers_are_taken_as_numbers_however_they_are_written(self, write):
        """YAML 1.1 reads 1e-1 as a text."""
        text = yaml.safe_dump(changed("search.reg_thresh", {"choices": ["5e-1", "9e-1"]}))
        space = load_space(write(text.replace("epoch_num: 2", "lr: 1e-2").replace("'", "")))
        assert space.fixed["lr"] == 0.01 and space.search["reg_thresh"].choices == (0.5, 0.9)

    def test_a_key_that_comes_twice(self, write):
        with pytest.raises(InputError, match=r"not readable as YAML \(the key task comes twice"):
            load_space(write(yaml.safe_dump(CONTENT) + "task: MNIST\n"))

    def test_keys_that_are_no_text(self, write):
        with pytest.raises(InputError, match="must be a mapping with the keys"):
            load_space(write("1: 2\n"))

    @pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\x00"])
    def test_not_yaml(self, write, text):
        with pytest.raises(InputError, match="not readable as YAML") as caught:
            load_space(write(text))
        assert "\n" not in str(caught.value)

    def test_unknown_space(self):
        with pytest.raises(
            InputError, match=r"space=digit_double: no such space, and no such file; did you mean digits_double"
        ):
            load_space("digit_double")


def test_corners_ask_for_the_most_images_and_pairs(space):
    corners = space.corners()
    assert {corner["reg_thresh"] for corner in corners} == {0.3, 0.9}
    for corner in corners:
        settings = Hyperparameters(**corner)
        assert settings.reg_image_num == 1000 and settings.reg_batch_size == 8
        assert settings.reg_thresh_2 == pytest.approx(0.9 * settings.reg_thresh)


contents = st.recursive(
    st.one_of(st.integers(), st.text(max_size=2), st.none()),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


@given(contents, contents)
def test_a_space_that_extends_another_replaces_it_key_by_key(base, own):
    merged = _merge(base, own)
    assert _merge(base, {}) == base and _merge(merged, own) == merged
    known = _without_nulls(merged)
    for key, value in own.items():
        if value is None:
            assert key not in known
        elif not isinstance(value, dict):
            assert known[key] == value
    assert all(merged[key] == value for key, value in base.items() if key not in own)


def test_a_null_removes_a_key_that_an_extended_space_has_on_every_level(tmp_path):
    (tmp_path / "part.yaml").write_text("reg_data: null\nfixed: {lr: null}\n")
    extended = "task: digits\nreg_data: MNIST\nfixed: {lr: 0.05, momentum: 0.5}\n"
    (tmp_path / "whole.yaml").write_text(f"extends: [digits_double, {tmp_path}/other.yaml, {tmp_path}/part.yaml]\n")
    (tmp_path / "other.yaml").write_text(extended)
    space = load_space(tmp_path / "whole.yaml")
    assert space.reg_data is None and "lr" not in space.fixed and space.fixed["momentum"] == 0.5
