"""noah: train and compare heads of image classifiers. `from noah import NOAH` is all a model needs."""

import importlib

__version__ = "0.2.0"

_LAZY = {
    "NOAH": "noah.heads",
    "build_head": "noah.heads",
    "build_model": "noah.models",
    "load_official_weights": "noah.models.weights",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str):
    """Load torch and timm only when something of theirs is asked for (PEP 562)."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'noah' has no attribute '{name}'")


def __dir__():
    return [*globals(), *__all__]
