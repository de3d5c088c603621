"""DeiT-Tiny at the paper's smaller widths: timm's model with 144 and 96 channels, still 12 blocks and 3 heads."""

from functools import partial

from timm.models import VisionTransformer, build_model_with_cfg

from noah.models.registry import images_of, register

DIMS = {"deit_tiny_075_patch16_224": 144, "deit_tiny_050_patch16_224": 96}
"""Channels, by the name in timm."""


def create_deit(variant: str, **kwargs) -> VisionTransformer:
    """A model of `DIMS`; arguments as `timm.models.VisionTransformer`."""
    arguments = {"patch_size": 16, "embed_dim": DIMS[variant], "depth": 12, "num_heads": 3, **kwargs}
    maps = {"out_indices": 3, "feature_cls": "getter"}
    return build_model_with_cfg(VisionTransformer, variant, pretrained=False, feature_cfg=maps, **arguments)


for _variant in DIMS:
    register(
        _variant,
        partial(create_deit, _variant),
        **images_of("deit_tiny_patch16_224"),
        first_conv="patch_embed.proj",
        classifier="head",
    )
