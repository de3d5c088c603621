"""config/datasets/*.yaml: where raw images come from and how they become shards."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from noah.config.files import Strict, later, parse, read_yaml

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
SplitName = Literal["train", "minival", "test"]
Source = Literal[
    "digits_scenes",
    "digits_numbers",
    "fashion_mnist",
    "fashion_scenes",
    "cifar",
    "imagenet",
    "inaturalist",
    "coco",
    "folder",
    "table",
    "webdataset",
]
COMPOSED = ("digits_scenes", "fashion_scenes", "digits_numbers")
"""Sources that make as many images as a split asks for."""
SCENES = ("digits_scenes", "fashion_scenes")
MULTI_LABEL: dict[str, tuple[bool, ...]] = {
    "coco": (True,),
    "digits_scenes": (False, True),
    "fashion_scenes": (False, True),
    "table": (False, True),
    "webdataset": (False, True),
}
"""What `multi_label` may be, where it may be anything but false."""
NAMED_BY_PATTERN = ("folder",)
"""Sources whose images have their `cluster` in their names; others have it in their data, or none."""


class RawFile(Strict):
    """What is known of a raw file beforehand; at least its size or a hash."""

    bytes: int | None = Field(None, ge=1)
    sha256: Sha256 | None = None
    md5: Md5 | None = None
    """Where the publisher gives no sha256."""

    @model_validator(mode="after")
    def _says_something(self):
        if not (self.bytes or self.sha256 or self.md5):
            raise ValueError("got nothing, expected at least one of bytes, sha256, md5")
        return self


class Split(Strict):
    num_shards: int = Field(ge=1, le=999_999)
    """Static, so that the DAG is known before the data is read."""
    samples: int | None = Field(None, ge=1)
    """Composed images: how many are made. Other sources: how many there have to be, before a minival is cut from them;
    default: as many as there are."""
    source_images: int | None = Field(None, ge=1)
    """Composed images only: how many raw images stand behind this split; no two splits share one."""
    raw: dict[str, str] = later({})
    """Role -> file or folder below `root`, or another word that the source asks for; each source's module and
    docs/data.md list its roles. A minival that is cut from train has none."""


class Scenes(Strict):
    """Scenes in the manner of cluttered MNIST: objects at random places and scales, pieces of others as clutter."""

    canvas: int = Field(ge=8)
    """Side of the square scene, in pixels."""
    digit_px: tuple[int, int]
    """Smallest and largest side of a pasted object, in pixels."""
    digits: tuple[int, int] = later((1, 1))
    """Fewest and most objects in a scene; with more than one the dataset is multi-label."""
    grid: int = later(1, ge=1)
    """Cells per side of the canvas, of which each object gets one for itself; in its cell its place is random."""
    clutter: int = Field(ge=0)
    """Pieces of other objects per scene."""
    clutter_px: int = Field(4, ge=1)
    """Side of a piece, in pixels of the scene."""
    clutter_strength: float = Field(1.0, ge=0, le=1)
    """Brightness of a piece relative to the object's."""

    @model_validator(mode="after")
    def _fits(self):
        low, high = self.digit_px
        if not 1 <= low <= high <= self.canvas:
            raise ValueError(f"digit_px is {list(self.digit_px)}, expected 1 <= low <= high <= canvas ({self.canvas})")
        fewest, most = self.digits
        if not 1 <= fewest <= most:
            raise ValueError(f"digits is {list(self.digits)}, expected 1 <= fewest <= most")
        if self.grid > 1 and (high > self.canvas // self.grid or most > self.grid**2):
            raise ValueError(
                f"grid is {self.grid}, expected 1, or cells ({self.canvas // self.grid} px) as large as digit_px "
                f"{list(self.digit_px)} and as many as digits {list(self.digits)}"
            )
        return self


class Reencode(Strict):
    """Images stored smaller than they came: JPEG, shrunk (never enlarged) to a short side."""

    short_side: int = Field(ge=8)
    """Pixels."""
    quality: int = Field(90, ge=1, le=100)
    """Of JPEG."""


class Dataset(Strict):
    name: Name
    source: Source
    """Which file of noah/data/sources reads the raw data."""
    root: str
    """Folder of the raw data: absolute, relative to the repository, or with environment variables ($DATA/imagenet)."""
    files: dict[str, Sha256 | RawFile] = {}
    """Raw files below `root` and what they must be: their sha256, or any of bytes, sha256, md5."""
    classes: tuple[str, ...] = Field(min_length=2)
    """Names; a number stands for that many classes, named by theirs from 0; `x.txt` for the lines of a file beside
    the YAML."""
    multi_label: bool = later(False)
    """Whether an image has any number of classes."""
    cluster: str | None = later(None)
    """Regular expression, searched in the name of each image below the root of its split: its first group, or the whole
    match without a group, names what the image shares with others (a patient, a video). Default: nothing."""
    image_size: int = Field(ge=1)
    """Side of what the network sees, in pixels."""
    mean: tuple[float, float, float]
    """Per channel, of pixel values in 0..1."""
    std: tuple[float, float, float]
    seed: int = 0
    """Of the shuffled order, the split and the composed scenes."""
    splits: dict[SplitName, Split]
    minival_share: float = later(0.0, ge=0, lt=1)
    """Share of the training images that become the minival, chosen by a hash of each image's name."""
    shards_per_job: int = Field(8, ge=1)
    reencode: Reencode | None = None
    """Default: the bytes as they come."""
    allow_bad: float = later(0.0, ge=0, lt=1)
    """Largest share of a split that may be left out because it does not decode, has no label, …"""
    scenes: Scenes | None = None
    """For composed scenes."""

    @field_validator("classes", mode="before")
    @classmethod
    def _named(cls, classes):
        return tuple(map(str, range(classes))) if type(classes) is int else classes

    @field_validator("cluster")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern == "":
            raise ValueError("expected a regular expression, got an empty text")
        try:
            re.compile(pattern or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"expected a regular expression: {error}") from None
        return pattern

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
            doubled = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ValueError(f"classes: '{doubled}' is given twice")
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}, expected values above 0")
        allowed = MULTI_LABEL.get(self.source, (False,))
        if self.multi_label not in allowed:
            raise ValueError(f"multi_label is {self.multi_label}, expected {allowed[0]} for source {self.source}")
        if self.cluster is not None and self.source not in NAMED_BY_PATTERN:
            raise ValueError(
                f"cluster is '{self.cluster}', expected none for source {self.source}: only source "
                f"{' or '.join(NAMED_BY_PATTERN)} takes a pattern"
            )
        return self

    @model_validator(mode="after")
    def _composed(self):
        if (self.source in SCENES) != (self.scenes is not None):
            said = "missing key 'scenes', which" if self.scenes is None else "unknown key 'scenes', which only"
            raise ValueError(f"{said} source {' or '.join(SCENES) if self.scenes else self.source} needs")
        if self.scenes and self.scenes.digits[1] > 1 and not self.multi_label:
            raise ValueError(f"multi_label is False, expected True with scenes.digits {list(self.scenes.digits)}")
        for name, split in self.splits.items():
            for key in ("samples", "source_images"):
                if self.source in COMPOSED and getattr(split, key) is None:
                    raise ValueError(f"splits.{name}: missing key '{key}', which source {self.source} needs")
        return self

    @model_validator(mode="after")
    def _minival(self):
        if self.minival_share == 0:
            return self
        if self.source in COMPOSED:
            raise ValueError(f"minival_share is {self.minival_share}, expected 0 for source {self.source}")
        if "minival" not in self.splits:
            raise ValueError(f"minival_share is {self.minival_share}, expected a split minival with it")
        if self.splits["minival"].raw:
            raise ValueError("splits.minival: got raw files, expected none: minival_share cuts it from train")
        return self

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def score(self) -> Literal["top1", "map"]:
        """What says how good a model is, in percent: top-1, or for multi-label data mean average precision."""
        return "map" if self.multi_label else "top1"

    @property
    def root_path(self) -> Path:
        """`root` with its environment variables filled in; ValueError names one that is not set."""
        path = os.path.expanduser(os.path.expandvars(self.root))
        if "$" in path:
            raise ValueError(
                f"dataset {self.name}: root is '{self.root}', expected its environment variables to be set"
            )
        return Path(path)

    def check_split(self, split: str) -> None:
        """ValueError that lists the splits, unless it is one of them."""
        if split not in self.splits:
            raise ValueError(f"dataset {self.name}: unknown split '{split}'; expected one of {', '.join(self.splits)}")

    def raw_split(self, split: SplitName) -> SplitName:
        """The split whose raw files hold this one's images."""
        return "train" if split == "minival" and self.minival_share else split

    def training_images(self) -> int | None:
        """How many there are to be, without those that become the minival; None where `samples` does not say."""
        samples = self.splits["train"].samples
        return None if samples is None else round(samples * (1 - self.minival_share))

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
    data = read_yaml(path)
    if isinstance(data.get("classes"), str):
        data["classes"] = _read_classes(path, data["classes"])
    dataset = parse(Dataset, data, path)
    if dataset.name != path.stem:
        raise ValueError(f"{path}: name: got '{dataset.name}', expected the file's own name, '{path.stem}'")
    return dataset


def _read_classes(path: Path, name: str) -> list[str]:
    lines = path.parent / name
    if lines.suffix != ".txt" or not lines.is_file():
        raise ValueError(f"{path}: classes: got '{name}', expected names, a number, or a .txt file in {path.parent}")
    return lines.read_text(encoding="utf-8").splitlines()
