"""Matrix products of CPU tensors, by the faster of the two libraries that torch brings.

`torch.mm` hands float32 to MKL, which keeps to AVX2 on processors that are not Intel's. oneDNN uses AVX-512 wherever it
is; torch reaches it for float32 through the operator that Inductor calls for linear layers. On a Zen 5 it is twice as
fast.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

_ONEDNN = (
    torch.ops.mkldnn._linear_pointwise
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    else None
)

if _ONEDNN is not None:

    @register_flop_formula(_ONEDNN)
    def _flops(x_shape, weight_shape, *_, **__) -> int:
        """Torch's counter knows linear layers under other names only."""
        return 2 * x_shape[0] * x_shape[1] * weight_shape[0]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias.

    Args:
        x: (R, K). Copied unless it is contiguous, which is little against the product.
        weight: (M, K), of the same dtype.
        bias: (M,).

    Returns:
        (R, M), contiguous.
    """
    if _ONEDNN is not None and x.dtype == torch.float32 and x.numel() and weight.numel():
        return _ONEDNN(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of (R, K) and (K, M)."""
    return linear(a, b.t())
