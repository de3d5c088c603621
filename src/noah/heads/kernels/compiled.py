"""The tiles of `tiles.py` with their pointwise part fused by Inductor.

It needs a C++ compiler, and its first use takes a while.
"""

from functools import cache

import torch
from torch import Tensor, nn

from noah.heads.kernels import pointwise, tiles


def forward(x: Tensor, query: nn.Conv2d, value: nn.Conv2d, **settings) -> Tensor:
    """As `reference.forward`, for the paper's switches.

    Raises:
        ValueError: There is no C++ compiler.
    """
    return tiles.forward(_compiled(), x, query, value, **settings)


def has_compiler() -> bool:
    """Whether Inductor finds a C++ compiler."""
    from torch._inductor import cpp_builder, exc

    try:
        return bool(cpp_builder.get_cpp_compiler())
    except (exc.InvalidCxxCompiler, RuntimeError):
        return False


@cache
def _compiled() -> tiles.Pointwise:
    if not has_compiler():
        raise ValueError("impl is 'compile', which needs a C++ compiler and found none, expected cpu")
    return tiles.Pointwise(torch.compile(pointwise.pool), torch.compile(pointwise.pool_backward))
