"""The dtype that lean kernels compute in, and what they refuse in words."""

import torch
from torch import Tensor


def dtype_of(x: Tensor) -> torch.dtype:
    """That of autocast where it is on, which leaves float64 alone, else that of the features."""
    device = x.device.type
    autocast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if autocast else x.dtype


def check_dtypes(x: Tensor, *weights: Tensor) -> None:
    """ValueError for features and weights of different dtypes, as a convolution would refuse them; autocast makes them
    one, but for float64."""
    dtypes = {t.dtype for t in (x, *weights)}
    if len(dtypes) > 1 and (torch.float64 in dtypes or not torch.is_autocast_enabled(x.device.type)):
        found = f"{x.dtype} and weights of {', '.join(sorted({str(w.dtype) for w in weights}))}"
        raise ValueError(f"features of {found}, expected one dtype for both, or autocast")


def check_backward(grad: Tensor) -> None:
    """RuntimeError for second derivatives, and for many backward passes at once (`is_grads_batched`, `vectorize`)."""
    if torch.is_grad_enabled():
        raise RuntimeError("this NOAH kernel has no second derivatives: build the head with impl='reference'")
    if torch._C._functorch.is_legacy_batchedtensor(grad):
        raise RuntimeError("this NOAH kernel has no vectorized gradients: build the head with impl='reference'")
