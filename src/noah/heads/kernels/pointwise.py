"""What NOAH does element by element on one tile of keys and values, forward and backward.

A tile is (b, L, M): some images, all their positions, all classes of one head. Half precision is computed in float32.
`pool` and its backward are plain functions of tensors, so that Inductor can fuse them (`compiled.py`).
"""

import torch
from torch import Tensor

GOLDEN = -1640531527
"""2**32 over the golden ratio, as int32: its multiples spread evenly over the 32-bit numbers."""


def keep_mask(seed: Tensor, shape: torch.Size, drop_rate: float, dtype: torch.dtype) -> Tensor:
    """Dropout mask of 0 and 1 / (1 - drop_rate), a pure function of the seed: the backward pass draws it again.

    A counter goes through two rounds of multiply and xor-shift (the lowbias32 constants of C. Wellons' hash
    prospector) and is compared with the rate, exact to 2**-32. This is several times as fast as `Tensor.bernoulli_`.

    Args:
        seed: (2,) int32, random. Adding one word before and one between the rounds keeps tiles independent.
        shape: Of the mask; below 2**32 elements.
    """
    hashed = torch.arange(shape.numel(), dtype=torch.int32).mul_(GOLDEN).add_(seed[0])
    shifted = torch.bitwise_right_shift(hashed, 16)
    hashed.bitwise_xor_(shifted.bitwise_and_(0xFFFF)).mul_(0x7FEB352D).add_(seed[1])
    torch.bitwise_right_shift(hashed, 15, out=shifted)
    hashed.bitwise_xor_(shifted.bitwise_and_(0x1FFFF)).mul_(-2073254261)
    keep = torch.empty(shape, dtype=dtype)
    torch.ge(hashed.view(shape), round(drop_rate * 2**32) - 2**31, out=keep)
    return keep.mul_(1 / (1 - drop_rate))


def pool(k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """sum_l softmax_l(k) * v * keep.

    Args:
        k: Key logits, (b, L, M).
        v: Values, (b, L, M).
        keep: Dropout mask, (b, L, M), or None.

    Returns:
        (b, M), float32 for half precision.
    """
    weighted = torch.softmax(k, 1, dtype=torch.promote_types(k.dtype, torch.float32)).mul_(v)
    return (weighted if keep is None else weighted.mul_(keep)).sum(1)


def pool_backward(k: Tensor, v: Tensor, keep: Tensor | None, pooled: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `pool` with respect to k and v, both (b, L, M) and of their dtype. v may be overwritten.

    Args:
        k, v, keep: As in `pool`.
        pooled: What `pool` returned, (b, M).
        grad: Its gradient, (b, M).
    """
    dv = torch.softmax(k, 1, dtype=pooled.dtype).mul_(grad.unsqueeze(1))
    dk = v.to(pooled.dtype)
    if keep is not None:
        dk.mul_(keep)
    dk.sub_(pooled.unsqueeze(1)).mul_(dv)
    if keep is not None:
        dv.mul_(keep)
    return dk.to(k.dtype), dv.to(v.dtype)
