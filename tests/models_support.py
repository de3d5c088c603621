"""One small model per family of the paper, for images of 32 pixels and 3 classes."""

import copy
from functools import cache

import torch

from noah.models import Classifier, build_model

SMALL = {
    "resnet18": {},
    "mobilenetv2": {"width": 0.35},
    "mobilenetv3_small": {},
    "shufflenetv2": {},
    "deit_tiny": {"width": 0.5, "depth": 2, "patch_size": 8},
    "pvt_tiny": {"width": 0.5},
    "mixer_small": {"width": 0.5, "depth": 1, "patch_size": 8},
    "gmlp_tiny": {"width": 0.5, "depth": 2, "patch_size": 8},
}


def small(backbone: str, head: str = "noah", **kwargs) -> Classifier:
    """A copy of its own, always with the same weights."""
    return copy.deepcopy(_built(backbone, head, **kwargs))


@cache
def _built(backbone: str, head: str, **kwargs) -> Classifier:
    torch.manual_seed(0)
    return build_model(backbone, head, **{"num_classes": 3, "img_size": 32, **SMALL[backbone], **kwargs})
