"""requirements.lock, environment.yml and pyproject.toml describe one environment: the one that is installed."""

import itertools
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_conda_environment_has_the_same_pins():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    conda = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert dict(line.split("==") for line in conda) == pins()


def test_every_requirement_of_the_package_is_pinned_within_its_range():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    locked = {canonical(name): pin for name, pin in pins().items()}
    requirements = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    for requirement in map(Requirement, requirements):
        assert requirement.specifier.contains(locked[canonical(requirement.name)]), requirement


def test_what_is_installed_is_what_is_pinned():
    for name in ("torch", "timm", "snakemake", "mlflow", "dvc", "webdataset", "pytest"):
        assert version(name) == pins()[name]
