"""YAML of users: datasets, studies, recipes, and the run.yaml that a result rests on."""

from pathlib import Path

import yaml
from robustness.damage import of_bytes, of_yaml
from robustness.targets import RUN, Target

from noah.config import load_dataset, load_run, load_study
from noah.config.recipe import load_recipe

WORDS = (
    b"!!python/object/apply:os.system [touch ../outside/x]",
    b"!!python/name:os.system",
    b"&a [*a]",
    b"<<: *a",
    b"? ",
)
WORDS += (
    b"- " * 400,
    b"[" * 2000,
    b"{a: " * 2000,
    b"!!binary x",
    b"!!timestamp x",
    b"2026-13-45",
    b"\t",
    b"%YAML 9.9\n---\n",
)
WORDS += (
    b"9" * 5000,
    b"0x",
    b"1_0",
    b"-.inf",
    b".nan",
    b"!!set {a}",
    b"&a [1,*b,&b [2]]",
    b"---\n",
    b"null",
    b"\xc2\x85",
)


def _damages(good: bytes):
    return [of_bytes(good, *WORDS), of_yaml(yaml.safe_load(good))]


def _study() -> None:
    for scale in ("full", "small"):
        for run in load_study("tiny", scale).runs:
            _stays_inside(run)


def _run() -> None:
    _stays_inside(load_run(RUN / "run.yaml"))


def _stays_inside(run) -> None:
    """The key of a run is the folder of its results."""
    assert ".." not in Path(run.key).parts
    assert not Path(run.key).is_absolute()
    assert load_again(run) == run.hash


def load_again(run) -> str:
    """The hash that a file of the run has."""
    return type(run).model_validate({**run.model_dump()}).hash


def _classes() -> None:
    Path("config/datasets/tiny.yaml").read_text()
    load_dataset("named")


TARGETS = {
    "dataset.yaml": Target("config/datasets/tiny.yaml", _damages, lambda: load_dataset("tiny")),
    "study.yaml": Target("config/studies/tiny.yaml", _damages, _study, 0.5),
    "recipe.yaml": Target("config/recipes/tiny.yaml", _damages, lambda: load_recipe("tiny")),
    "run.yaml": Target(str(RUN / "run.yaml"), _damages, _run),
    "classes.txt": Target(
        "config/datasets/names.txt", lambda good: [of_bytes(good, b"\n\n", b"\x85")], lambda: load_dataset("named")
    ),
}
