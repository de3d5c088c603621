"""config/datasets/*.yaml: where raw images come from and how they become shards."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from noah.config.files import Strict, parse, read_yaml

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SplitName = Literal["train", "minival", "test"]


class Split(Strict):
    num_shards: int = Field(ge=1, le=999_999)
    """Static, so that the DAG is known before the data is read."""
    samples: int | None = Field(None, ge=1)
    """Composed scenes only: how many are made. Other sources: every image of the split."""
    source_images: int | None = Field(None, ge=1)
    """Composed scenes only: how many raw images stand behind this split; no two splits share one."""


class Scenes(Strict):
    """Scenes in the manner of cluttered MNIST: one digit at a random place and scale, pieces of others as clutter."""

    canvas: int = Field(ge=8)
    """Side of the square scene, in pixels."""
    digit_px: tuple[int, int]
    """Smallest and largest side of the pasted digit, in pixels."""
    clutter: int = Field(ge=0)
    """Pieces of other digits per scene."""
    clutter_px: int = Field(4, ge=1)
    """Side of a piece, in pixels of the scene."""
    clutter_strength: float = Field(1.0, ge=0, le=1)
    """Brightness of a piece relative to the digit's."""

    @model_validator(mode="after")
    def _fits(self):
        low, high = self.digit_px
        if not 1 <= low <= high <= self.canvas:
            raise ValueError(f"digit_px is {list(self.digit_px)}, expected 1 <= low <= high <= canvas ({self.canvas})")
        return self


class Dataset(Strict):
    name: Name
    source: Literal["digits_scenes"]
    """Which file of noah/data/sources reads the raw data."""
    root: str
    """Folder of the raw data, relative to the repository or absolute."""
    files: dict[str, Sha256] = {}
    """Raw files below `root` and their sha256."""
    classes: tuple[str, ...] = Field(min_length=2)
    """Names; a number stands for that many classes, named by theirs from 0."""
    image_size: int = Field(ge=1)
    """Side of what the network sees, in pixels."""
    mean: tuple[float, float, float]
    """Per channel, of pixel values in 0..1."""
    std: tuple[float, float, float]
    seed: int = 0
    """Of the shuffled order, the split and the composed scenes."""
    splits: dict[SplitName, Split]
    shards_per_job: int = Field(8, ge=1)
    scenes: Scenes | None = None
    """For source `digits_scenes`."""

    @field_validator("classes", mode="before")
    @classmethod
    def _named(cls, classes):
        return tuple(map(str, range(classes))) if type(classes) is int else classes

    @field_validator("splits")
    @classmethod
    def _in_fixed_order(cls, splits: dict) -> dict:
        return {name: splits[name] for name in get_args(SplitName) if name in splits}

    @model_validator(mode="after")
    def _consistent(self):
        for split in ("train", "test"):
            if split not in self.splits:
                raise ValueError(f"splits: missing key '{split}'")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name is given twice")
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}, expected values above 0")
        if self.source == "digits_scenes":
            if self.scenes is None:
                raise ValueError("missing key 'scenes', which source digits_scenes needs")
            for name, split in self.splits.items():
                if split.samples is None or split.source_images is None:
                    raise ValueError(f"splits.{name}: source digits_scenes needs 'samples' and 'source_images'")
        return self

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def check_split(self, split: str) -> None:
        """ValueError that lists the splits, unless it is one of them."""
        if split not in self.splits:
            raise ValueError(f"dataset {self.name}: unknown split '{split}'; expected one of {', '.join(self.splits)}")

    def num_jobs(self, split: SplitName) -> int:
        """How many shard jobs the split takes."""
        self.check_split(split)
        return -(-self.splits[split].num_shards // self.shards_per_job)

    def shard_name(self, split: SplitName, shard: int) -> str:
        return f"{self.name}-{split}-{shard:06d}.tar"

    def job_shards(self, split: SplitName, job: int) -> range:
        """The shards that job number `job` writes."""
        if not 0 <= job < self.num_jobs(split):
            raise ValueError(f"{self.name} {split}: job {job} does not exist, expected 0 to {self.num_jobs(split) - 1}")
        first = job * self.shards_per_job
        return range(first, min(first + self.shards_per_job, self.splits[split].num_shards))


def load_dataset(name: str, config_dir: Path = Path("config")) -> Dataset:
    """config/datasets/{name}.yaml, checked."""
    path = config_dir / "datasets" / f"{name}.yaml"
    dataset = parse(Dataset, read_yaml(path), path)
    if dataset.name != path.stem:
        raise ValueError(f"{path}: name: got '{dataset.name}', expected the file's own name, '{path.stem}'")
    return dataset
