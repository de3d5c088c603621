"""What NOAH does element by element on one tile of keys and values, forward and backward.

A tile is (b, L, M): some images, all their positions, all classes of one head. Half precision is computed in float32.
`pool` and its backward are plain functions of tensors, so that Inductor can fuse them (`compiled.py`).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

GOLDEN = -1640531527
"""2**32 over the golden ratio, as int32: its multiples spread evenly over the 32-bit numbers."""

LOG2_E = 1 / math.log(2)


def keep_mask(seed: Tensor, shape: torch.Size, drop_rate: float, dtype: torch.dtype) -> Tensor:
    """Dropout mask of zeros and ones, a pure function of the seed: the backward pass draws it again.

    A counter goes through two rounds of multiply and xor-shift (the lowbias32 constants of C. Wellons' hash
    prospector) and is compared with the rate, exact to 2**-32. This is several times as fast as `Tensor.bernoulli_`.
    Not for Inductor: that of torch 2.14 makes another mask of it for some shapes.

    Args:
        seed: (2,) int32, random. Adding one word before and one between the rounds keeps tiles independent.
        shape: Of the mask; below 2**32 elements.
    """
    hashed = _counter(shape.numel(), seed.device) + seed[0]
    shifted = torch.bitwise_right_shift(hashed, 16)
    hashed.bitwise_xor_(shifted.bitwise_and_(0xFFFF)).mul_(0x7FEB352D).add_(seed[1])
    torch.bitwise_right_shift(hashed, 15, out=shifted)
    hashed.bitwise_xor_(shifted.bitwise_and_(0x1FFFF)).mul_(-2073254261)
    keep = torch.empty(shape, dtype=dtype, device=seed.device)
    return torch.ge(hashed.view(shape), round(drop_rate * 2**32) - 2**31, out=keep)


@lru_cache(maxsize=2)  # of whole tiles, and of the last one
def _counter(numbers: int, device: torch.device) -> Tensor:
    return torch.arange(numbers, dtype=torch.int32, device=device).mul_(GOLDEN)


def pool(k: Tensor, v: Tensor, keep: Tensor | None, shift: bool) -> Tensor:
    """sum_l softmax_l(k) * v * keep.

    Args:
        k: Key logits, (b, L, M), times `LOG2_E` unless in half precision. May be overwritten.
        v: Values, (b, L, M).
        keep: Dropout mask, (b, L, M), or None.
        shift: Whether some 2**k, or their sum, may be too large or too small for a number.

    Returns:
        (b, M), float32 for half precision.
    """
    weighted = _powers(k, shift)
    total = weighted.sum(1)
    weighted.mul_(v.to(weighted.dtype))
    return (weighted if keep is None else weighted.mul_(keep)).sum(1).div_(total)


def pool_backward(
    k: Tensor, v: Tensor, keep: Tensor | None, shift: bool, pooled: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `pool` with respect to the key logits and v, both (b, L, M) and of the dtype of k and v.

    Args:
        k, v, keep, shift: As in `pool`. k and v may be overwritten.
        pooled: What `pool` returned, (b, M).
        grad: Its gradient, (b, M).
    """
    dv = _powers(k, shift)
    dv.mul_((grad / dv.sum(1)).unsqueeze(1))
    dk = v.to(dv.dtype)
    if keep is not None:
        dk.mul_(keep)
    dk.sub_(pooled.unsqueeze(1)).mul_(dv)
    if keep is not None:
        dv.mul_(keep)
    return dk.to(k.dtype), dv.to(v.dtype)


def _powers(k: Tensor, shift: bool) -> Tensor:
    """Softmax before it is divided by its sum, which (b, M) numbers do as well: 2**k, or 2**(k - max_l k).

    Powers of two, because eager torch has MKL compute e**x, which takes four times as long on processors that are not
    Intel's.
    """
    if k.itemsize < 4:
        k = k.to(torch.float32).mul_(LOG2_E)
    return (k.sub_(k.amax(1, keepdim=True)) if shift else k).exp2_()
