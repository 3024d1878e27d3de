"""The dependencies are declared in pyproject.toml; environment.yml and the Makefile follow it."""

import re
import tomllib
from importlib.metadata import requires

import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def described(requirements: list[str]) -> dict[str, tuple]:
    parsed = [Requirement(requirement) for requirement in requirements]
    return {requirement.name: (frozenset(requirement.extras), requirement.specifier) for requirement in parsed}


def with_extras(requirements: list[str]) -> list[str]:
    """Replace this project's own extras by what they hold."""
    whole = []
    for requirement in map(Requirement, requirements):
        extras = sorted(requirement.extras) if requirement.name == PROJECT["name"] else []
        held = [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
        whole += with_extras(held) if extras else [str(requirement)]
    return whole


def test_conda_gives_the_same_set():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    from_pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    from_conda = [entry for entry in listed if isinstance(entry, str) and entry != "pip"]
    conda = described([*from_conda, *from_pip])
    python = conda.pop("python")
    assert python == described([f"python{PROJECT['requires-python']}"])["python"]
    assert conda == described(with_extras([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]))


def test_constraints_pin_a_declared_version_of_every_direct_requirement():
    pins: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, version = re.match(r"([\w.-]+)==([^\s;]+)", line).groups()
        pins.setdefault(canonicalize_name(name), []).append(version)
    extras = PROJECT["optional-dependencies"].values()
    for requirement in map(
        Requirement, with_extras([*PROJECT["dependencies"], *(line for one in extras for line in one)])
    ):
        versions = pins[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in versions), (requirement, versions)


def test_the_makefile_checks_the_same_python_versions():
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert f"(3, {low}) <= sys.version_info < (3, {high})" in (ROOT / "Makefile").read_text()


def test_torch_and_torchvision_are_a_pair():
    """torchvision names the one torch that it fits; what is installed must be that."""
    import torch
    import torchvision

    (pinned,) = [Requirement(line) for line in requires("torchvision") if Requirement(line).name == "torch"]
    assert torch.__version__.split("+")[0] in pinned.specifier, (torchvision.__version__, torch.__version__)
