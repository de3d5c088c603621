"""How the models of this package become known to timm's `create_model`, `list_models` and `is_model`."""

from collections.abc import Callable
from contextlib import nullcontext

import timm
import torch
from timm.models import register_model
from torch import nn

__all__: list[str] = []
"""timm adds each name that is registered here."""

default_cfgs: dict[str, dict] = {}
"""timm looks here for the description of a registered name."""

INPUT_KEYS = ("crop_pct", "crop_mode", "interpolation", "mean", "std", "min_input_size", "fixed_input_size")
"""What timm says of a model's images, which holds under any head, width and weights."""


def register(name: str, build: Callable[..., nn.Module], **cfg) -> None:
    """`build(**kwargs)` becomes `timm.create_model(name, **kwargs)`, unless timm has a model of that name.

    Args:
        name: The name in timm.
        build: Builds the model, without weights.
        **cfg: Fields of timm's `PretrainedCfg`, such as `first_conv`; the rest is ImageNet at 224 pixels.
    """
    if timm.is_model(name):
        return

    def create(
        pretrained=False,
        pretrained_cfg=None,
        pretrained_cfg_overlay=None,
        pretrained_model_args=None,
        cache_dir=None,
        device=None,
        dtype=None,
        **kwargs,
    ):
        if pretrained:
            raise ValueError(
                f"{name}: pretrained is True, expected False: no weights come with this package; docs/weights.md says "
                "where the official ones are and how they are loaded"
            )
        with torch.device(device) if device is not None else nullcontext():
            return build(**kwargs).to(dtype=dtype)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{name} of the paper's tables (arXiv 2402.02377)."
    default_cfgs[name] = cfg
    register_model(create)


def images_of(timm_name: str) -> dict:
    """The fields of `register` for a model that takes the same images as one of timm."""
    cfg = timm.get_pretrained_cfg(timm_name).to_dict()
    return {key: value for key, value in cfg.items() if key in (*INPUT_KEYS, "input_size")}
