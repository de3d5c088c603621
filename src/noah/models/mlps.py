"""Mixer and gMLP at any width, depth and patch size, which timm's own entry points fix."""

from functools import partial

from timm.layers import GatedMlp
from timm.models import build_model_with_cfg
from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock

from noah.models.registry import images_of, register

_MIXER = {"patch_size": 16, "num_blocks": 8}
_GMLP = {"patch_size": 16, "num_blocks": 30, "mlp_ratio": 6, "block_layer": SpatialGatingBlock, "mlp_layer": GatedMlp}

MLPS: dict[str, dict] = {
    "mixer_b16_224": {**_MIXER, "embed_dim": 768, "num_blocks": 12},
    "mixer_s16_224": {**_MIXER, "embed_dim": 512},
    "mixer_s16_075_224": {**_MIXER, "embed_dim": 384},
    "mixer_s16_050_224": {**_MIXER, "embed_dim": 256},
    "gmlp_s16_224": {**_GMLP, "embed_dim": 256},
    "gmlp_ti16_224": {**_GMLP, "embed_dim": 128},
    "gmlp_ti16_075_224": {**_GMLP, "embed_dim": 96},
    "gmlp_ti16_050_224": {**_GMLP, "embed_dim": 64},
}
"""Name in timm to the arguments of timm's class; a test compares the models that timm has."""


def create_mlp(variant: str, **changes) -> MlpMixer:
    """A model of `MLPS` with some of its arguments replaced."""
    maps = {"out_indices": 3, "feature_cls": "getter"}
    return build_model_with_cfg(MlpMixer, variant, pretrained=False, feature_cfg=maps, **{**MLPS[variant], **changes})


for _variant in MLPS:
    _images = images_of("mixer_s16_224" if _variant.startswith("mixer") else "gmlp_ti16_224")
    register(_variant, partial(create_mlp, _variant), **_images, first_conv="stem.proj", classifier="head")
