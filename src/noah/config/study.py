"""config/studies/*.yaml: a grid of runs, and how its arms are compared."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from noah.backbones import BACKBONES, Family, is_timm_name, paper_head
from noah.config.dataset import Dataset, Name, load_dataset
from noah.config.files import Strict, one_of, parse, read_yaml
from noah.config.head import HEADS, Head
from noah.config.recipe import Recipe, load_recipe
from noah.config.run import RESULTS_VERSION, BackboneSpec, Run

SCALES = ("full", "small")
PAPER = "paper"
"""An arm's `drop_rate: paper` is the dropout that the published NOAH model of the backbone has in its head."""


class StudyBackbone(BackboneSpec):
    """A backbone of the grid, with the recipe that trains it where the study has one per backbone."""

    recipe: Name | None = None
    """Default: every recipe of the study."""
    datasets: tuple[Name, ...] | None = None
    """Default: every dataset of the study."""


class Arm(Strict, extra="allow"):
    """One side of a comparison. All other keys are arguments of the head (noah.config.head); what is left out follows
    the paper: N, r and init of the backbone's NOAH model."""

    head: str
    """`baseline` is the head of the paper's baseline: class token for vision transformers, else mean over positions."""
    families: tuple[Family, ...] | None = None
    """The arm exists for these families only; default: all."""
    backbones: tuple[str, ...] | None = None
    """The arm exists for these backbones only, by name; default: all."""
    recipe: dict[str, Any] = {}
    """Recipe fields that differ in this arm."""

    def takes(self, backbone: BackboneSpec) -> bool:
        """Whether the arm exists for a backbone."""
        of_family = self.families is None or backbone.family in self.families
        return of_family and (self.backbones is None or backbone.name in self.backbones)

    @model_validator(mode="after")
    def _known(self):
        if self.head not in ("baseline", *HEADS):
            raise ValueError(f"unknown head '{self.head}'{one_of(self.head, ('baseline', *HEADS))}")
        valid = {*type(self).model_fields, *Head.model_fields} - {"name"}
        for key in self.model_extra:
            if key not in valid:
                raise ValueError(f"unknown key '{key}'{one_of(key, valid)}")
        return self


class Resources(Strict):
    """What one training job asks of the cluster, until `noah plan --save` knows better."""

    nodes: int = Field(1, ge=1)
    gpus: int = Field(0, ge=0)
    """Of each node: one process runs on each, or one on the CPUs of a node without any."""
    cpus: int = Field(1, ge=1)
    """Of each node."""
    mem_mb: int = Field(4000, ge=100)
    """Of each node."""
    runtime_min: int = Field(15, ge=1)

    @property
    def ranks_per_node(self) -> int:
        return max(self.gpus, 1)

    @property
    def ranks(self) -> int:
        """Processes that train one run together."""
        return self.nodes * self.ranks_per_node


class StudySpec(Strict):
    """The file, as written."""

    title: str
    """Heads the tables."""
    datasets: tuple[Name, ...] = Field(min_length=1)
    recipes: tuple[Name, ...] = ()
    """Of the backbones that name none of their own."""
    backbones: tuple[StudyBackbone, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    arms: dict[Name, Arm] = Field(min_length=1)
    compare: tuple[tuple[Name, Name], ...] = ()
    """Each pair [from, to] is one difference column, `to` minus `from`."""
    margin: float | None = Field(None, gt=0)
    """The largest difference that is as good as none, in percentage points; without one no pair is called equal."""
    recipe: dict[str, Any] = {}
    """Recipe fields replaced in every run."""
    published: Name | None = None
    """config/published/{name}.csv, shown beside the measured differences."""
    notes: tuple[str, ...] = ()
    """Sentences for the note under the tables."""
    resources: Resources = Resources()
    small: dict[str, Any] = {}
    """Top-level keys that `scale=small` replaces."""

    @model_validator(mode="after")
    def _consistent(self):
        for pair in self.compare:
            for arm in pair:
                if arm not in self.arms:
                    raise ValueError(f"compare: unknown arm '{arm}'{one_of(arm, self.arms)}")
        names = {backbone.name for backbone in self.backbones}
        for name, arm in self.arms.items():
            for backbone in set(arm.backbones or ()) - names:
                raise ValueError(f"arms.{name}.backbones: unknown backbone '{backbone}'{one_of(backbone, names)}")
        without = [backbone.slug for backbone in self.backbones if backbone.recipe is None]
        if without and not self.recipes:
            raise ValueError(f"recipes: got none, expected at least one for backbone '{without[0]}'")
        for field in ("datasets", "recipes", "seeds"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ValueError(f"{field}: a value is given twice in {list(values)}")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds are {list(self.seeds)}, expected numbers from 0")
        rows = set()
        for backbone in self.backbones:
            for dataset in backbone.datasets or self.datasets:
                if dataset not in self.datasets:
                    known = one_of(dataset, self.datasets)
                    raise ValueError(f"backbones.{backbone.slug}.datasets: unknown dataset '{dataset}'{known}")
                row = (dataset, backbone.recipe, backbone.slug)
                if row in rows:
                    raise ValueError(f"backbones: given twice: {backbone.slug}")
                rows.add(row)
        return self


@dataclass(frozen=True)
class Study:
    """A checked study with everything its YAML refers to."""

    name: str
    scale: str
    path: Path
    spec: StudySpec
    datasets: dict[str, Dataset]
    runs: tuple[Run, ...]

    @property
    def slug(self) -> str:
        return self.name if self.scale == "full" else f"{self.name}-{self.scale}"

    @property
    def results(self) -> Path:
        """Where everything of this study lies, relative to the repository."""
        return Path("results") / self.slug

    def run(self, key: str) -> Run:
        """The run of that key; ValueError lists the closest."""
        by_key = {run.key: run for run in self.runs}
        if key not in by_key:
            raise ValueError(f"{self.path}: no run '{key}'{one_of(key, by_key)}")
        return by_key[key]

    def arms_of(self, dataset: str, backbone: str) -> list[Run]:
        """One run per arm of a backbone, of the first recipe and seed: what cost measures."""
        arms: dict[str, Run] = {}
        for run in self.runs:
            if run.dataset.name == dataset and run.backbone.slug == backbone:
                arms.setdefault(run.arm, run)
        if not arms:
            raise ValueError(f"{self.path}: no runs of backbone '{backbone}' on dataset '{dataset}'")
        return list(arms.values())

    def cost_hash(self, dataset: str, backbone: str) -> str:
        """Changes with anything that decides what the arms of a backbone cost, and with nothing else."""
        arms = self.arms_of(dataset, backbone)
        decides = [(r.arm, r.model_arguments, r.recipe.precision, r.recipe.channels_last) for r in arms]
        return hashlib.sha256(repr((RESULTS_VERSION, decides)).encode()).hexdigest()


def load_study(name: str, scale: str = "full", config_dir: Path = Path("config")) -> Study:
    """Read config/studies/{name}.yaml and all it refers to.

    Raises:
        ValueError: One line that names file, field, value and what was expected.
    """
    if scale not in SCALES:
        raise ValueError(f"scale is '{scale}', expected one of {', '.join(SCALES)}")
    path = config_dir / "studies" / f"{name}.yaml"
    data = read_yaml(path)
    if scale != "full":
        parse(StudySpec, data, path)  # a mistake in what `small` replaces is a mistake all the same
        data = {**data, **(data.get(scale) or {})}
    spec = parse(StudySpec, data, path)
    if spec.published and not (config_dir / "published" / f"{spec.published}.csv").is_file():
        names = [file.stem for file in (config_dir / "published").glob("*.csv")]
        raise ValueError(f"{path}: published: no table '{spec.published}'{one_of(spec.published, names)}")
    datasets = {dataset: load_dataset(dataset, config_dir) for dataset in spec.datasets}
    return Study(name, scale, path, spec, datasets, tuple(_expand(spec, datasets, path, config_dir)))


def _expand(spec: StudySpec, datasets: dict[str, Dataset], path: Path, config_dir: Path):
    """Every dataset x backbone x recipe x arm x seed, in the order of the file."""
    recipes: dict[tuple[str, str], Recipe] = {}
    for dataset in datasets.values():
        for backbone in spec.backbones:
            if backbone.datasets and dataset.name not in backbone.datasets:
                continue
            if backbone.family is None and not is_timm_name(backbone.name):
                raise ValueError(
                    f"{path}: backbones: unknown backbone '{backbone.name}'{one_of(backbone.name, BACKBONES)}, "
                    "or any timm model"
                )
            for recipe in (backbone.recipe,) if backbone.recipe else spec.recipes:
                for arm_name, arm in spec.arms.items():
                    if not arm.takes(backbone):
                        continue
                    if (recipe, arm_name) not in recipes:
                        origin = f"{path}: recipe and arms.{arm_name}.recipe"
                        overrides = {**spec.recipe, **arm.recipe}
                        recipes[recipe, arm_name] = load_recipe(recipe, config_dir, overrides, origin)
                    run = {
                        "dataset": dataset,
                        "recipe_name": recipe,
                        "recipe": recipes[recipe, arm_name],
                        "backbone": backbone.model_dump(exclude={"recipe", "datasets"}),
                        "arm": arm_name,
                        "head": _resolve_head(arm, backbone, path, arm_name),
                    }
                    for seed in spec.seeds:
                        yield parse(Run, {**run, "seed": seed}, path)


def _resolve_head(arm: Arm, backbone: BackboneSpec, path: Path, arm_name: str) -> Head:
    """Fill in what the arm leaves to the paper."""
    name, defaults = paper_head(arm.head, BACKBONES.get(backbone.name))
    given = {key: value for key, value in arm.model_extra.items() if value is not None}
    if given.get("drop_rate") == PAPER:
        published = BACKBONES.get(backbone.name)
        if published is None:
            raise ValueError(f"{path}: arms.{arm_name}.drop_rate is '{PAPER}', which backbone '{backbone.name}' lacks")
        given["drop_rate"] = published.drop_rate
    return parse(Head, {"name": name, **defaults, **given}, f"{path}: arms.{arm_name}")
