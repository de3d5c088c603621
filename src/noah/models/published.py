"""The paper's NOAH models as models of timm, `noah_` + the backbone's name in timm; imported for that effect."""

from functools import partial

import timm
from torch import nn

from noah.backbones import BACKBONES
from noah.models.build import build_model
from noah.models.classifier import prefixed
from noah.models.registry import images_of, register


def _create(name: str, backbone: str, width: float, *, features_only: bool = False, **kwargs) -> nn.Module:
    """The NOAH model as published, or, with timm's `features_only`, the bare backbone's maps at several depths."""
    if features_only:
        return timm.create_model(BACKBONES[backbone].timm[width], features_only=True, **kwargs)
    return build_model(backbone, "noah", width=width, architecture=name, **kwargs)


for _published in BACKBONES.values():
    for _width, _timm_name in _published.timm.items():
        register(
            f"noah_{_timm_name}",
            partial(_create, f"noah_{_timm_name}", _published.name, _width),
            **images_of(_timm_name),
            first_conv=prefixed(timm.get_pretrained_cfg(_timm_name).first_conv),
            classifier=("head.query", "head.value"),
        )
