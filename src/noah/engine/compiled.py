"""torch.compile of training steps. Evaluation runs the plain model, whose scores are those of every later use."""

from importlib.util import find_spec

import torch
from torch import Tensor, nn

from noah.config import Recipe
from noah.heads.kernels.compiled import has_compiler
from noah.models import Classifier

MOST_VERSIONS = 64
"""Image sizes of a recipe with a `first_size`, and some. Beyond its own limit torch would go on uncompiled."""


class Parts(nn.Module):
    """A classifier whose backbone compilers see, and whose head they leave to its own kernels.

    Those of NOAH never hold what the formula holds, which is what a compiler would make of it.
    """

    def __init__(self, model: Classifier):
        super().__init__()
        self.model = model
        self._head = torch.compiler.disable(model.forward_head)

    def forward(self, images: Tensor) -> Tensor:
        return self._head(self.model.forward_features(images))


def compiled(model: nn.Module, recipe: Recipe) -> nn.Module:
    """One version for each size of the images: which one runs does not depend on what a resumed run saw before.

    With `cuda_graphs` a GPU gets the kernels of a pass as one graph (torch's mode `reduce-overhead`).
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_VERSIONS)
    return torch.compile(model, dynamic=False, mode="reduce-overhead" if recipe.cuda_graphs else None)


def check_compiler(device: torch.device) -> None:
    """ValueError where torch.compile would fail at the first step: it needs a C++ compiler, and on a GPU triton."""
    missing = [] if has_compiler() else ["a C++ compiler"]
    if device.type == "cuda" and find_spec("triton") is None:
        missing.append("triton")
    if missing:
        raise ValueError(f"recipe: compile is true, which needs {' and '.join(missing)}, expected false here")
