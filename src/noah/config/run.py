"""A run: everything that decides a trained model, and nothing else. Its YAML is what is cached, resumed and tracked."""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from noah.backbones import BACKBONES, Family
from noah.config.dataset import Dataset, Name, Sha256
from noah.config.files import Strict, parse, read_yaml
from noah.config.head import Head
from noah.config.recipe import Recipe

RESULTS_VERSION = 5
"""Raised by hand when the code changes what the same config trains: dear rules depend on it, not on the code."""

_WHERE_DATA_LIES = {
    "root": True,
    "files": True,
    "shards_per_job": True,
    "allow_bad": True,
    "splits": {"__all__": {"raw"}},
}
"""Of a dataset, how jobs are cut, and when too many images are bad: the manifest says what the images are."""
_SLUG_PREFIX = {"depth": "d", "patch_size": "p", "stem_stride": "s", "output_stride": "os", "dilation": "dil"}


class BackboneSpec(Strict):
    """One row of a table. Optional fields change the published architecture, and stand in the row's name."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
    """A published backbone (noah.backbones) or any timm model."""
    width: float = Field(1.0, gt=0)
    depth: int | None = Field(None, ge=1)
    """Blocks (vision transformers and MLPs)."""
    patch_size: int | None = Field(None, ge=1)
    """Pixels (vision transformers and MLPs)."""
    stem_stride: Literal[1, 2] | None = None
    """MobileNetV2: stride of the first convolution."""
    output_stride: Literal[8, 16, 32] | None = None
    """MobileNetV2: input pixels per position of the last map; later strides become dilations."""
    dilation: Literal[1] | None = None
    """1: with `output_stride`, later strides are left out and nothing is dilated in their place."""
    weights: str | None = None
    """A .safetensors file that the backbone starts from (noah.models.pretrained), with environment variables."""
    weights_sha256: Sha256 | None = None
    """What that file must be."""

    @model_validator(mode="after")
    def _known_width(self):
        published = BACKBONES.get(self.name)
        widths = published.widths if published else (1.0,)
        if self.width not in widths:
            raise ValueError(f"backbone '{self.name}': width is {self.width}, expected one of {list(widths)}")
        return self

    @property
    def family(self) -> Family | None:
        """None for a timm model outside the paper."""
        return BACKBONES[self.name].family if self.name in BACKBONES else None

    @property
    def changes(self) -> dict[str, int]:
        """The fields that differ from the published architecture."""
        return self.model_dump(include=set(_SLUG_PREFIX), exclude_none=True)

    @property
    def weights_path(self) -> Path | None:
        """`weights` with its environment variables filled in; ValueError names one that is not set."""
        if self.weights is None:
            return None
        path = os.path.expanduser(os.path.expandvars(self.weights))
        if "$" in path:
            raise ValueError(f"backbone '{self.slug}': weights is '{self.weights}', expected its variables to be set")
        return Path(path)

    @property
    def slug(self) -> str:
        """`mobilenetv2-w0.35`, `deit_tiny-d6-p8-w0.5`: name, changes (depth, patch, stem, strides), width."""
        changes = (f"{_SLUG_PREFIX[field]}{value}" for field, value in self.changes.items())
        return "-".join([self.name, *changes, f"w{self.width:g}"])


class Run(Strict):
    """One model to train. Built by `expand`, stored as run.yaml next to what came out of it."""

    results_version: int = RESULTS_VERSION
    dataset: Dataset
    recipe_name: Name
    recipe: Recipe
    backbone: BackboneSpec
    arm: Name
    head: Head
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _patches_divide(self):
        published = BACKBONES.get(self.backbone.name)
        patch = self.backbone.patch_size or (published.patch if published else 1)
        if self.dataset.image_size % patch:
            raise ValueError(
                f"backbone '{self.backbone.slug}': patch_size is {patch}, expected a divisor of the "
                f"{self.dataset.image_size} pixels of dataset '{self.dataset.name}'"
            )
        return self

    @model_validator(mode="after")
    def _first_size_fits(self):
        first, full = self.recipe.first_size, self.dataset.image_size
        if first and (self.backbone.family in ("vit", "mlp") or first > full):
            raise ValueError(
                f"recipe '{self.recipe_name}' on backbone '{self.backbone.slug}': first_size is {first}, expected none "
                f"for vision transformers and MLPs, else at most the {full} pixels of dataset '{self.dataset.name}'"
            )
        return self

    @model_validator(mode="after")
    def _targets_are_mixed_only_of_single_labels(self):
        for field in ("mixup", "cutmix", "label_smoothing") if self.dataset.multi_label else ():
            value = getattr(self.recipe, field)
            if value:
                raise ValueError(
                    f"recipe '{self.recipe_name}': {field} is {value}, expected 0 for multi-label dataset "
                    f"'{self.dataset.name}'"
                )
        return self

    @model_validator(mode="after")
    def _channels_divide(self):
        published = BACKBONES.get(self.backbone.name)
        if published:
            try:
                self.head.check_channels(published.channels[self.backbone.width])
            except ValueError as error:
                raise ValueError(f"arm '{self.arm}' on backbone '{self.backbone.slug}': {error}") from None
        return self

    @property
    def model_arguments(self) -> dict:
        """The arguments of `noah.build_model`."""
        return {
            "backbone": self.backbone.name,
            "head": self.head.name,
            "width": self.backbone.width,
            "num_classes": self.dataset.num_classes,
            "img_size": self.dataset.image_size,
            "proj_drop_rate": self.recipe.proj_drop_rate,
            "drop_path_rate": self.recipe.drop_path_rate,
            **self.backbone.changes,
            **self.head.kwargs,
        }

    @property
    def key(self) -> str:
        """`digits/digits-mlp/mobilenetv2-w0.35/noah/s0`: also the run's folder."""
        return "/".join([self.dataset.name, self.recipe_name, self.backbone.slug, self.arm, f"s{self.seed}"])

    def to_yaml(self) -> str:
        """What decides the result: no paths, no device, no number of shard jobs."""
        data = self.model_dump(mode="json", exclude_none=True, exclude={"dataset": _WHERE_DATA_LIES})
        return yaml.safe_dump(data, sort_keys=False)

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.to_yaml().encode()).hexdigest()


def load_run(path: Path) -> Run:
    """Read a run.yaml back."""
    data = read_yaml(path)
    if isinstance(data.get("dataset"), dict):
        data["dataset"].setdefault("root", "")
    return parse(Run, data, path)
