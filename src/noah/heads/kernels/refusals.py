"""What the lean kernels refuse in words, where torch would fail in its own or compute something else."""

import torch
from torch import Tensor


def check_dtypes(x: Tensor, *weights: Tensor) -> None:
    """ValueError for features and weights of different dtypes without autocast, as a convolution would refuse them."""
    dtypes = {t.dtype for t in (x, *weights)}
    if len(dtypes) > 1 and not torch.is_autocast_enabled(x.device.type):
        found = f"{x.dtype} and weights of {', '.join(sorted({str(w.dtype) for w in weights}))}"
        raise ValueError(f"features of {found}, expected one dtype for both, or autocast")


def check_backward(grad: Tensor) -> None:
    """RuntimeError for second derivatives, and for many backward passes at once (`is_grads_batched`, `vectorize`)."""
    if torch.is_grad_enabled():
        raise RuntimeError("this NOAH kernel has no second derivatives: build the head with impl='reference'")
    if torch._C._functorch.is_legacy_batchedtensor(grad):
        raise RuntimeError("this NOAH kernel has no vectorized gradients: build the head with impl='reference'")
