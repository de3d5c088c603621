"""NOAH on a CPU, tile by tile: no (B, N, M, L) tensor is ever whole, and the backward pass computes the tiles again.

A tile is what one head n says of some images: keys and values from two matrix products, softmax over the positions,
reduced, dropped. With a = softmax_l(k) and o = sum_l a v, the gradients of a tile are dv = a g and dk = a g (v - o), so
features and o are all that the backward pass needs. The key bias shifts all positions alike: its gradient is zero.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd

from noah.heads.kernels.gemm import linear, matmul
from noah.heads.kernels.pointwise import LOG2_E, keep_mask, pool, pool_backward
from noah.heads.kernels.refusals import check_backward, dtype_of

TILE_NUMBERS = 392_000
"""Keys, and as many values, of one tile at most, unless one image has more: 1.6 MB each. Of smaller ones the products
are slow; larger ones leave the caches."""

HIGHEST_POWER = 40.0
"""Up to here 2**k and 2**-k are so far from the ends of float32 that values and gradients of 1e-25 to 1e20 are safe."""

FEWEST_ROWS = 100
"""Of fewer rows (images times positions) logits are shifted without a look: the norms of weights would take longer."""

CHANNELS = 128
"""Channels of a weight whose gradient is computed at once."""


class Pointwise(NamedTuple):
    """The two functions of `pointwise.py`, as they are or compiled."""

    pool: Callable
    pool_backward: Callable


PLAIN = Pointwise(pool, pool_backward)
"""As they are."""


def forward(
    pointwise: Pointwise, x: Tensor, query: nn.Conv2d, value: nn.Conv2d, *, num_heads: int, drop_rate: float
) -> Tensor:
    """As `reference.forward`, for the paper's switches.

    Args:
        pointwise: What to do element by element.
        x: (B, C, H, W), on a CPU; contiguous or channels-last.

    Returns:
        (B, N, M).
    """
    dtype = dtype_of(x)
    x = x.flatten(2).transpose(1, 2).to(dtype)
    weights = [conv.weight.view(num_heads, -1, conv.weight.shape[1]).to(dtype) for conv in (query, value)]
    key_bias, value_bias = (conv.bias.view(num_heads, -1) for conv in (query, value))
    # Attention sums to 1, so without dropout the bias can be added at the end.
    inner_bias = value_bias.to(dtype) if drop_rate else None
    seeds = draw_seeds(x, weights[0]) if drop_rate else None
    arguments = (x, *weights, inner_bias, seeds, drop_rate, must_shift(x, weights[0]), pointwise)
    learns = any(t.requires_grad for t in (x, *query.parameters(), *value.parameters()))
    with torch.autocast("cpu", enabled=False):
        # Without gradients there is no autograd function, which costs more than it gives for one image.
        heads = _Tiles.apply(key_bias, *arguments) if torch.is_grad_enabled() and learns else pool_all(*arguments)
        return (heads / (1 - drop_rate) if drop_rate else heads + value_bias).to(dtype)


def draw_seeds(x: Tensor, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Two random words for each tile, (tiles, N, 2); default: from torch's default generator."""
    shape = (len(_slices(x, weight)), len(weight), 2)
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, device=x.device, generator=generator)


def _slices(x: Tensor, weight: Tensor) -> list[slice]:
    """The images of each tile."""
    step = max(1, TILE_NUMBERS // max(1, x.shape[1] * weight.shape[1]))
    return [slice(start, min(start + step, len(x))) for start in range(0, len(x), step)]


def _parts(n: int, key_weight: Tensor, value_weight: Tensor) -> tuple[slice, slice]:
    """The channels of head n: its keys and its values."""
    N, _, ck = key_weight.shape
    cv = value_weight.shape[2]
    return slice(n * ck, (n + 1) * ck), slice(N * ck + n * cv, N * ck + (n + 1) * cv)


def _keep(seeds: Tensor | None, index: int, n: int, shape: torch.Size, drop_rate: float, dtype: torch.dtype):
    return None if seeds is None else keep_mask(seeds[index, n], shape, drop_rate, dtype)


def must_shift(x: Tensor, key_weight: Tensor) -> bool:
    """Whether some key logit may be so large that softmax has to take the largest of its column from it.

    No product is larger than that of the norms (Cauchy-Schwarz), and norms are cheap but for the fewest rows.
    """
    if x[..., 0].numel() < FEWEST_ROWS:
        return True
    N, _, ck = key_weight.shape
    keys = x[..., : N * ck].detach().unflatten(2, (N, ck))
    step = max(1, TILE_NUMBERS // keys[0].numel())
    longest = _longest(keys.split(step)) * _longest(key_weight.detach())
    return not LOG2_E * longest < HIGHEST_POWER  # so that NaN is shifted


def _longest(parts: Iterable[Tensor]) -> float:
    """The largest norm of what lies along the last axis; in parts, because all their squares are large."""
    return math.sqrt(torch.stack([part.square().sum(-1).amax() for part in parts]).max())


def pool_all(x, key_weight, value_weight, bias, seeds, drop_rate, shift, pointwise) -> Tensor:
    """(B, N, M), before the value bias where `bias` is None, and before dropout makes larger what it keeps."""
    L = x.shape[1]
    N, M, _ = key_weight.shape
    pooled = x.new_empty(len(x), N, M, dtype=torch.promote_types(x.dtype, torch.float32))
    for n in range(N):
        key_part, value_part = _parts(n, key_weight, value_weight)
        for index, images in enumerate(_slices(x, key_weight)):
            k = linear(_key_rows(x, images, key_part), key_weight[n]).view(-1, L, M)
            v = linear(_rows(x, images, value_part), value_weight[n], None if bias is None else bias[n]).view(-1, L, M)
            pooled[images, n] = pointwise.pool(k, v, _keep(seeds, index, n, k.shape, drop_rate, pooled.dtype), shift)
            del k, v  # else the next tile is made while this one is still there
    return pooled


def _rows(x: Tensor, images: slice, part: slice) -> Tensor:
    """(rows, channels) of some images; a view where the layout allows."""
    return x[images, :, part].reshape(-1, part.stop - part.start)


def _key_rows(x: Tensor, images: slice, part: slice) -> Tensor:
    """`_rows`, times LOG2_E so that softmax is of powers of two; half precision has its logits multiplied instead."""
    if x.itemsize < 4:
        return _rows(x, images, part)
    keys = x[images, :, part]
    return torch.mul(keys, LOG2_E, out=keys.new_empty(keys.shape)).view(-1, keys.shape[2])


def _sums(d_weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros (channels, M) to add tiles to: transposed, so that no tile has to be copied, and never less than
    float32. They lie where the gradient (M, channels) itself will, if that is of this dtype."""
    shape = d_weight.shape[::-1]
    return d_weight.view(shape).zero_() if d_weight.dtype == dtype else d_weight.new_zeros(shape, dtype=dtype)


def _add_product(total: Tensor, rows: Tensor, grad: Tensor) -> None:
    """total += rows.T @ grad, some channels at a time: of many, the product would be larger than a tile."""
    for part, channels in zip(total.split(CHANNELS), rows.split(CHANNELS, 1), strict=True):
        part += matmul(channels.t(), grad)


def pool_all_backward(
    grad, x, key_weight, value_weight, bias, seeds, pooled, drop_rate, shift, pointwise, wanted
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of `pool_all` with respect to x, both weights and the bias; None for those that nobody wants.

    Args:
        grad: Of what `pool_all` returned, (B, N, M).
        pooled: What it returned.
        wanted: Whether each of the four is.
    """
    of_x, of_key, of_value, of_bias = wanted
    L = x.shape[1]
    N, M, _ = key_weight.shape
    dx = torch.empty_like(x) if of_x else None
    d_key_weight = key_weight.new_empty(key_weight.shape) if of_key else None
    d_value_weight = value_weight.new_empty(value_weight.shape) if of_value else None
    d_bias = torch.zeros_like(bias, dtype=pooled.dtype) if of_bias else None
    for n in range(N):
        key_part, value_part = _parts(n, key_weight, value_weight)
        inner = None if bias is None else bias[n]
        d_key = _sums(d_key_weight[n], pooled.dtype) if of_key else None
        d_value = _sums(d_value_weight[n], pooled.dtype) if of_value else None
        for index, images in enumerate(_slices(x, key_weight)):
            k = linear(_key_rows(x, images, key_part), key_weight[n]).view(-1, L, M)
            v = linear(_rows(x, images, value_part), value_weight[n], inner).view(-1, L, M)
            keep = _keep(seeds, index, n, k.shape, drop_rate, pooled.dtype)
            dk, dv = pointwise.pool_backward(k, v, keep, shift, pooled[images, n], grad[images, n])
            del k, v, keep  # as soon as may be: tiles are what a step holds most of
            dk, dv = dk.view(-1, M), dv.view(-1, M)
            if of_key:
                _add_product(d_key, _rows(x, images, key_part), dk)
            if of_x:
                dx[images, :, key_part] = matmul(dk, key_weight[n]).view(-1, L, key_weight.shape[2])
            del dk
            if of_value:
                _add_product(d_value, _rows(x, images, value_part), dv)
            if of_x:
                dx[images, :, value_part] = matmul(dv, value_weight[n]).view(-1, L, value_weight.shape[2])
            if of_bias:
                d_bias[n] += dv.sum(0)
            del dv
        for total, d_weight in ((d_key, d_key_weight), (d_value, d_value_weight)):
            if total is not None:
                d_weight[n] = total.t().clone(memory_format=torch.contiguous_format)
    return dx, d_key_weight, d_value_weight, d_bias.to(bias.dtype) if of_bias else None


class _Tiles(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(ctx, key_bias, x, key_weight, value_weight, bias, seeds, *settings):
        pooled = pool_all(x, key_weight, value_weight, bias, seeds, *settings)
        ctx.save_for_backward(x, key_weight, value_weight, bias, seeds, pooled)
        ctx.settings = settings
        return pooled

    @staticmethod
    @custom_bwd(device_type="cpu")
    def backward(ctx, grad):
        check_backward(grad)
        of_key_bias, *wanted = ctx.needs_input_grad[:5]
        gradients = pool_all_backward(grad, *ctx.saved_tensors, *ctx.settings, wanted)
        return grad.new_zeros(grad.shape[1:]) if of_key_bias else None, *gradients, *[None] * 4
