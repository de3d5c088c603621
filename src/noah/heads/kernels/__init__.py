"""Ways to compute the NOAH head. All take the arguments of `reference.forward` and agree with it.

| name | what it is | where |
|---|---|---|
| `reference` | the formula, for every switch, device and transform | everywhere |
| `cpu` | tiles in plain torch, computed again in the backward pass | CPU |
| `compile` | the same tiles; Inductor fuses what is element by element (a C++ compiler, some 20 s a shape) | CPU |
| `triton` | one fused kernel forward, one backward | CUDA |
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from noah.heads.checks import check_choice
from noah.heads.kernels import compiled, opaque, reference, tiles
from noah.heads.kernels.refusals import check_dtypes


def _triton(*arguments, **settings) -> Tensor:
    from noah.heads.kernels import triton_kernels

    return triton_kernels.forward(*arguments, **settings)


IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "reference": reference.forward,
    "cpu": partial(tiles.forward, tiles.PLAIN),
    "compile": compiled.forward,
    "triton": _triton,
}
DEVICES = {"cpu": "cpu", "compile": "cpu", "triton": "cuda"}
"""Where each lean implementation runs."""
BEST = {"cpu": "cpu", "cuda": "triton"}
"""What `best` takes on each device."""
FEW_CATEGORIES = 64
"""With fewer, tiles on a CPU are too small to pay: with 10 they take two to three times as long as the reference, with
80 about as long (docs/benchmarks, ten-classes)."""


def choose(impl: str, *, paper: bool) -> Callable[..., Tensor]:
    """The implementation of that name; `auto` takes what is best for the features it is given.

    Args:
        impl: `auto` or a name of `IMPLEMENTATIONS`.
        paper: Whether the head's attention is the paper's: softmax over positions, channels split into keys and values
            and into N groups, 1x1 convolutions. Else only the reference can compute it.

    Raises:
        ValueError: An unknown name, or a lean implementation by name of what it cannot compute.
    """
    check_choice("impl", impl, ("auto", *IMPLEMENTATIONS))
    if paper:
        return reference.forward if impl == "reference" else partial(_forward, impl)
    if impl in DEVICES:
        raise ValueError(
            f"impl is '{impl}', which computes score softmax, split groups, split keys and values and kernel_size 1 "
            "alone, expected auto or reference"
        )
    return reference.forward


def _forward(impl: str, x: Tensor, query: nn.Conv2d, value: nn.Conv2d, **settings) -> Tensor:
    if wants_plain_operations(x) or not (is_plain(query) and is_plain(value)):
        return reference.forward(x, query, value, **settings)
    device = x.device.type
    if impl == "auto":
        impl = best(device, query.out_channels // settings["num_heads"])
    elif device != DEVICES[impl]:
        raise ValueError(f"impl is '{impl}' and the features are on {device}, expected {DEVICES[impl]}")
    if impl != "reference":
        check_dtypes(x, query.weight, value.weight)
        if torch.compiler.is_compiling():
            return opaque.forward("cpu" if impl == "compile" else impl, x, query, value, **settings)
    return IMPLEMENTATIONS[impl](x, query, value, **settings)


def best(device: str, num_classes: int) -> str:
    """What `auto` takes on a device; where nothing serves, and without triton, the reference."""
    impl = BEST.get(device, "reference")
    if impl == "cpu" and num_classes < FEW_CATEGORIES:
        return "reference"
    return "reference" if impl == "triton" and find_spec("triton") is None else impl


def is_plain(conv: nn.Module) -> bool:
    """Whether it does what its `weight` and `bias` say and nothing else.

    Pruning, `spectral_norm`, adapters, Grad-CAM's hooks and FSDP all hang on calling the module, or replace it.
    """
    hooks = (conv._forward_hooks, conv._forward_pre_hooks, conv._backward_hooks, conv._backward_pre_hooks)
    return type(conv) is nn.Conv2d and not any(hooks) and not _has_any_global_hook()


def wants_plain_operations(x: Tensor) -> bool:
    """Whether someone looks on who cannot see through a kernel: exporters, torch.func, forward mode.

    `torch.compile` can: it calls the kernel as one operator (`opaque`).
    """
    return (
        torch.compiler._is_exporting_flag  # `is_exporting()` is always true for Dynamo of torch 2.9 and 2.10
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or type(x) not in (Tensor, nn.Parameter)
        or x.is_meta
    )
