"""The tiles of `tiles.py` with their pointwise part fused by Inductor.

It needs a C++ compiler, and its first use takes a while.
"""

from functools import cache

import torch
from torch import Tensor, nn

from noah.heads.kernels import pointwise, tiles

MOST_VERSIONS = 64
"""Beyond its own limit torch would go on uncompiled."""


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
    # One version for each shape: which one runs, and how it rounds, does not depend on the shapes seen before.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_VERSIONS)
    functions = (torch.compile(f, dynamic=False) for f in (pointwise.pool, pointwise.pool_backward))
    return tiles.Pointwise(*functions)
