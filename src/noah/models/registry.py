"""The paper's NOAH models under timm's `create_model`, `list_models` and `is_model`; imported for that effect."""

import re

import timm
from timm.models import register_model

from noah.backbones import BACKBONES
from noah.models.build import build_model
from noah.models.classifier import CFG_KEYS, Classifier

__all__: list[str] = []
"""timm adds each name that is registered here."""

default_cfgs: dict[str, dict] = {}
"""timm looks here for the description of a registered name."""


def _name(timm_name: str, width: float, narrowed: bool) -> str:
    """`noah_` + timm's name; the width stands before the patch or image size where timm has no name for it."""
    suffix = f"_{round(width * 100):03d}" if narrowed else ""
    return "noah_" + re.sub(r"((?:_patch\d+)?_224)?$", rf"{suffix}\1", timm_name, count=1)


def _register(backbone: str, width: float) -> None:
    published = BACKBONES[backbone]
    timm_name = published.timm[width]
    name = _name(timm_name, width, narrowed=width in published.overrides)
    if timm.is_model(name):
        return

    def create(
        pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs
    ) -> Classifier:
        if pretrained:
            raise ValueError(f"{name}: pretrained is True, expected False: no weights come with this package")
        return build_model(backbone, "noah", width=width, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{backbone} at width {width:g} with NOAH as published; arguments as `noah.models.build_model`."
    cfg = timm.get_pretrained_cfg(timm_name).to_dict()
    default_cfgs[name] = {key: value for key, value in cfg.items() if key in (*CFG_KEYS, "input_size", "num_classes")}
    register_model(create)


for _published in BACKBONES.values():
    for _width in _published.widths:
        _register(_published.name, _width)
