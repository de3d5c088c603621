"""Mixer and gMLP at any width, depth and patch size, which timm's own entry points fix."""

from timm.layers import GatedMlp
from timm.models import build_model_with_cfg
from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock

_GMLP = {"patch_size": 16, "num_blocks": 30, "mlp_ratio": 6, "block_layer": SpatialGatingBlock, "mlp_layer": GatedMlp}

MLPS: dict[str, dict] = {
    "mixer_b16_224": {"patch_size": 16, "num_blocks": 12, "embed_dim": 768},
    "mixer_s16_224": {"patch_size": 16, "num_blocks": 8, "embed_dim": 512},
    "gmlp_s16_224": {"embed_dim": 256, **_GMLP},
    "gmlp_ti16_224": {"embed_dim": 128, **_GMLP},
}
"""timm's name to the arguments that timm gives it; a test compares the models."""


def create_mlp(timm_name: str, **changes) -> MlpMixer:
    """A model of `MLPS` with some of its arguments replaced."""
    return build_model_with_cfg(MlpMixer, timm_name, pretrained=False, **{**MLPS[timm_name], **changes})
