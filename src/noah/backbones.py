"""The paper's backbones as data: which timm model each one is, how wide, and how NOAH splits its channels.

Torch-free, so that a study is checked in milliseconds, before any job starts. Source of names, widths, N and r: the
result tables in the READMEs of OSVAI/NOAH (commit 2449201); see config/published/imagenet.csv.
"""

import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Family = Literal["cnn", "vit", "mlp"]

BASELINE_HEAD: dict[Family, str] = {"cnn": "gap", "vit": "token", "mlp": "gap"}
"""The head of the paper's baseline: mean over positions, or class token, then linear."""

BASELINE_INIT: dict[Family, str] = {"cnn": "default", "vit": "trunc_normal", "mlp": "zero"}
NOAH_INIT: dict[Family, str] = {"cnn": "official", "vit": "official", "mlp": "official_mlp"}
"""How the official code initialises each head."""


@dataclass(frozen=True)
class Backbone:
    """A published backbone.

    Args:
        name: Our name; published widths share it.
        family: Decides the head of the paper's baseline, and the inits.
        timm: timm's model name per width.
        channels: C, the channels that reach the head, per width.
        num_heads: N of the published NOAH model.
        key_ratio: r of the published NOAH model.
        overrides: Per width, the arguments that narrow timm's model where timm has no name for it.
    """

    name: str
    family: Family
    timm: dict[float, str]
    channels: dict[float, int]
    num_heads: int = 4
    key_ratio: float = 0.5
    overrides: dict[float, dict] = field(default_factory=dict)

    @property
    def widths(self) -> tuple[float, ...]:
        return tuple(self.timm)


def _one_width(name: str, family: Family, timm: str, channels: int, **kwargs) -> Backbone:
    return Backbone(name, family, {1.0: timm}, {1.0: channels}, **kwargs)


def _narrowed(name: str, family: Family, timm: str, dims: dict[float, int], **overrides) -> Backbone:
    """A timm model whose narrower widths change `embed_dim`, and what `overrides` says for all of them."""
    narrow = {width: {"embed_dim": dim, **overrides} for width, dim in dims.items() if width != 1.0}
    return Backbone(name, family, dict.fromkeys(dims, timm), dims, overrides=narrow)


_MOBILENETV2 = {1.0: "mobilenetv2_100", 0.75: "mobilenetv2_075", 0.5: "mobilenetv2_050", 0.35: "mobilenetv2_035"}

# In the order of the paper's tables.
BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        _one_width("resnet18", "cnn", "resnet18", 512),
        _one_width("resnet50", "cnn", "resnet50", 2048, key_ratio=0.125),
        _one_width("resnet101", "cnn", "resnet101", 2048, key_ratio=0.125),
        _one_width("resnet152", "cnn", "resnet152", 2048, key_ratio=0.125),
        Backbone("mobilenetv2", "cnn", _MOBILENETV2, dict.fromkeys(_MOBILENETV2, 1280), num_heads=8, key_ratio=0.25),
        _one_width("deit_base", "vit", "deit_base_patch16_224", 768),
        _one_width("deit_small", "vit", "deit_small_patch16_224", 384),
        _narrowed("deit_tiny", "vit", "deit_tiny_patch16_224", {1.0: 192, 0.75: 144, 0.5: 96}),
        _one_width("mixer_base", "mlp", "mixer_b16_224", 768),
        _narrowed("mixer_small", "mlp", "mixer_s16_224", {1.0: 512, 0.75: 384, 0.5: 256}),
        _one_width("gmlp_small", "mlp", "gmlp_s16_224", 256),
        _narrowed("gmlp_tiny", "mlp", "gmlp_ti16_224", {1.0: 128, 0.75: 96, 0.5: 64}),
    )
}


def split_channels(in_features: int, num_heads: int, key_ratio: float) -> tuple[int, int]:
    """How NOAH splits C channels: the first `int(r * C)` are keys, the rest values, each divided among N heads.

    Returns:
        (key channels, value channels).

    Raises:
        ValueError: r outside (0, 1), or a part that N does not divide; the message names the nearest r and N that fit.
    """
    if num_heads < 1:
        raise ValueError(f"num_heads is {num_heads}, expected at least 1")
    if not 0 < key_ratio < 1:
        raise ValueError(f"key_ratio is {key_ratio}, expected between 0 and 1, both excluded")
    keys = int(key_ratio * in_features)
    values = in_features - keys
    if keys == 0 or keys % num_heads or values % num_heads:
        fitting = [n for n in range(1, in_features + 1) if keys and keys % n == 0 and values % n == 0]
        raise ValueError(
            f"{in_features} channels with key_ratio {key_ratio} are {keys} keys and {values} values, which num_heads "
            f"{num_heads} does not divide; expected num_heads in {fitting} or another key_ratio"
        )
    return keys, values


def is_timm_name(name: str) -> bool:
    """Whether timm registers a model of this name, read from its sources: importing timm would load torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not re.fullmatch(r"[a-z0-9_]+", name):
        return False
    entrypoint = re.compile(rf"^@register_model\s*\ndef {name}\(", re.MULTILINE)
    models = Path(spec.origin).parent / "models"
    return any(entrypoint.search(path.read_text(encoding="utf-8")) for path in models.glob("*.py"))
