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
"""As in the official code; `Backbone.baseline_init` has the CNNs that differ from `default`."""


@dataclass(frozen=True)
class Backbone:
    """A published backbone.

    Args:
        name: Our name; published widths share it.
        family: Decides the head of the paper's baseline, and the inits.
        timm: Name in timm per width; names that timm lacks are registered by `noah.models`.
        channels: C, the channels that reach the head, per width.
        num_heads: N of the published NOAH model.
        key_ratio: r of the published NOAH model.
        patch: Pixels that must divide the side of an image.
        drop_rate: Dropout in the head of the published NOAH model.
        baseline_init: How the linear layer of the paper's baseline starts; None: as `BASELINE_INIT` of the family.
        body: Arguments of the timm model, where its default differs from the official code.
    """

    name: str
    family: Family
    timm: dict[float, str]
    channels: dict[float, int]
    num_heads: int = 4
    key_ratio: float = 0.5
    patch: int = 1
    drop_rate: float = 0.1
    baseline_init: str | None = None
    body: dict[str, bool] = field(default_factory=dict)

    @property
    def widths(self) -> tuple[float, ...]:
        return tuple(self.timm)


def _one_width(name: str, family: Family, timm: str, channels: int, **kwargs) -> Backbone:
    return Backbone(name, family, {1.0: timm}, {1.0: channels}, **kwargs)


def _widths(name: str, family: Family, timm: str, channels: tuple[int, int, int], **kwargs) -> Backbone:
    """Widths 1, .75 and .5; `timm` has `{}` where a narrow model's name holds its width."""
    names = {1.0: timm.format(""), 0.75: timm.format("_075"), 0.5: timm.format("_050")}
    return Backbone(name, family, names, dict(zip(names, channels, strict=True)), **kwargs)


_MOBILENETV2 = {1.0: "mobilenetv2_100", 0.75: "mobilenetv2_075", 0.5: "mobilenetv2_050", 0.35: "mobilenetv2_035"}
_MOBILE = {"num_heads": 8, "key_ratio": 0.25, "drop_rate": 0.2}
_NORMAL = {"baseline_init": "normal"}
_RESNET = {**_NORMAL, "body": {"zero_init_last": False}}

# In the order of the paper's tables.
BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        _one_width("resnet18", "cnn", "resnet18", 512, **_RESNET),
        _one_width("resnet50", "cnn", "resnet50", 2048, key_ratio=0.125, **_RESNET),
        _one_width("resnet101", "cnn", "resnet101", 2048, key_ratio=0.125, **_RESNET),
        _one_width("resnet152", "cnn", "resnet152", 2048, key_ratio=0.125, **_RESNET),
        Backbone("mobilenetv2", "cnn", _MOBILENETV2, dict.fromkeys(_MOBILENETV2, 1280), **_MOBILE, **_NORMAL),
        _one_width("mobilenetv3_small", "cnn", "mobilenetv3_small", 1280, **_MOBILE, **_NORMAL),
        _one_width("shufflenetv2", "cnn", "shufflenetv2_100", 1024, **{**_MOBILE, "drop_rate": 0.0}),
        _one_width("deit_base", "vit", "deit_base_patch16_224", 768, patch=16),
        _one_width("deit_small", "vit", "deit_small_patch16_224", 384, patch=16),
        _widths("deit_tiny", "vit", "deit_tiny{}_patch16_224", (192, 144, 96), patch=16),
        _widths("pvt_tiny", "vit", "pvt_tiny{}", (512, 384, 256), patch=32),
        _one_width("mixer_base", "mlp", "mixer_b16_224", 768, patch=16),
        _widths("mixer_small", "mlp", "mixer_s16{}_224", (512, 384, 256), patch=16),
        _one_width("gmlp_small", "mlp", "gmlp_s16_224", 256, patch=16),
        _widths("gmlp_tiny", "mlp", "gmlp_ti16{}_224", (128, 96, 64), patch=16),
    )
}


def paper_head(head: str, published: Backbone | None) -> tuple[str, dict]:
    """A head's name (`baseline` resolved) and the arguments in which it follows the paper unless told otherwise.

    These are the init; and N and r where the head is NOAH, or a control that is matched to NOAH. A backbone outside the
    paper gets the inits of its CNNs, N = 4 and r = 1/2. Rivals start as their own papers have it, and controls as torch
    does: behind a hidden layer the zeros and small numbers of `BASELINE_INIT` are a handicap.
    """
    family = published.family if published else None
    if head == "baseline":
        head = BASELINE_HEAD.get(family, "gap")
    if head in (*BASELINE_HEAD.values(), "moved_gap"):
        own = published.baseline_init if published else None
        return head, {"init": own or BASELINE_INIT.get(family, "default")}
    init = NOAH_INIT.get(family, "official") if head == "noah" else "default"
    if head not in ("noah", "gap_hidden", "hidden_gap"):
        return head, {"init": init}
    num_heads, key_ratio = (published.num_heads, published.key_ratio) if published else (4, 0.5)
    return head, {"num_heads": num_heads, "key_ratio": key_ratio, "init": init}


def split_channels(
    in_features: int, num_heads: int, key_ratio: float, *, split_groups: bool = True, split_key_value: bool = True
) -> tuple[int, int]:
    """How NOAH splits C channels: the first `int(r * C)` are keys, the rest values, each divided among N heads.

    Args:
        in_features: C.
        num_heads: N.
        key_ratio: r.
        split_groups: False: heads share all channels of a part, so N need not divide it.
        split_key_value: False: keys and values are both all C channels.

    Returns:
        (key channels, value channels).

    Raises:
        ValueError: r outside (0, 1), or a part that N does not divide; the message names the N that fit.
    """
    if num_heads < 1:
        raise ValueError(f"num_heads is {num_heads}, expected at least 1")
    groups = num_heads if split_groups else 1
    if not split_key_value:
        check_divides(in_features, groups)
        return in_features, in_features
    if not 0 < key_ratio < 1:
        raise ValueError(f"key_ratio is {key_ratio}, expected between 0 and 1, both excluded")
    keys = int(key_ratio * in_features)
    values = in_features - keys
    if keys == 0:
        raise ValueError(
            f"key_ratio is {key_ratio}, expected at least {1 / in_features:g}: 1 of {in_features} channels"
        )
    if keys % groups or values % groups:
        fitting = [n for n in range(1, in_features + 1) if keys % n == 0 and values % n == 0]
        raise ValueError(
            f"{in_features} channels with key_ratio {key_ratio} are {keys} keys and {values} values, which num_heads "
            f"{num_heads} does not divide; expected num_heads in {fitting} or another key_ratio"
        )
    return keys, values


def check_divides(channels: int, num_heads: int) -> None:
    """ValueError unless the channels can be dealt evenly to the heads."""
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f"{channels} channels, expected a multiple of num_heads ({num_heads})")


def is_timm_name(name: str) -> bool:
    """Whether timm registers a model of this name, read from its sources: importing timm would load torch."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not re.fullmatch(r"[a-z0-9_]+", name):
        return False
    entrypoint = re.compile(rf"^@register_model\s*\ndef {name}\(", re.MULTILINE)
    models = Path(spec.origin).parent / "models"
    return any(entrypoint.search(path.read_text(encoding="utf-8")) for path in models.glob("*.py"))
