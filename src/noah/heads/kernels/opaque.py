"""The lean kernels as operators of torch, for `torch.compile`: it calls them, and does not look inside.

What it would make of the plain formula holds every (B, N, M, L) tensor. Dropout has a mask of its own, for compiled
code draws other random numbers than eager code anyway.
"""

import torch
from torch import Tensor, nn

from noah.heads.kernels import tiles
from noah.heads.kernels.refusals import dtype_of


def forward(impl: str, x: Tensor, query: nn.Conv2d, value: nn.Conv2d, *, num_heads: int, drop_rate: float) -> Tensor:
    """As `reference.forward`, for the paper's switches, by the tiles (`cpu`) or by `triton`."""
    dtype = dtype_of(x)
    x = x.flatten(2).transpose(1, 2).to(dtype)
    weights = [conv.weight.unflatten(0, (num_heads, -1)).flatten(2).to(dtype) for conv in (query, value)]
    key_bias, value_bias = (conv.bias.unflatten(0, (num_heads, -1)) for conv in (query, value))
    if not drop_rate:
        heads, _ = pool(impl, key_bias, x, *weights, None, None, 0.0)
        return (heads + value_bias).to(dtype)
    seed = torch.randint(2**62, (), device="cpu")
    heads, _ = pool(impl, key_bias, x, *weights, value_bias.to(dtype), seed, drop_rate)
    return heads.to(dtype)


@torch.library.custom_op("noah::pool", mutates_args=())
def pool(
    impl: str,
    key_bias: Tensor | None,
    x: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    drop_rate: float,
) -> tuple[Tensor, Tensor]:
    """What the heads say, (B, N, M), and what the backward pass needs of it, both at least float32.

    Args:
        impl: `cpu` or `triton`.
        key_bias: (N, M), or None. Softmax does not see it; it is here for its gradient, zeros.
        x: (B, L, C).
        key_weight, value_weight: (N, M, channels of one head).
        bias: Of the values, (N, M); None without dropout, where it is added later.
        seed: One int64 on the CPU; None without dropout.
        drop_rate: In training; 0 without dropout.
    """
    with torch.autocast(x.device.type, enabled=False):
        if impl == "triton":
            from noah.heads.kernels import triton_kernels

            unread = key_weight if bias is None else bias.contiguous()
            return triton_kernels.pool_all(x, key_weight, value_weight, unread, _number(seed), drop_rate)
        shift = tiles.must_shift(x, key_weight)
        seeds = _seeds(seed, x, key_weight)
        pooled = tiles.pool_all(x, key_weight, value_weight, bias, seeds, drop_rate, shift, tiles.PLAIN)
        return pooled / (1 - drop_rate), pooled


@pool.register_fake
def _(impl, key_bias, x, key_weight, value_weight, bias, seed, drop_rate):
    shape = (x.shape[0], *key_weight.shape[:2])
    dtype = torch.float32 if impl == "triton" else torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


@torch.library.custom_op("noah::pool_backward", mutates_args=())
def pool_backward(
    impl: str,
    grad: Tensor,
    x: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    pooled: Tensor,
    kept: Tensor,
    drop_rate: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, both weights and the bias; empty where nobody wants one.

    Args:
        pooled, kept: What `pool` returned.
        wanted: Whether each of the four is.
    """
    with torch.autocast(x.device.type, enabled=False):
        if impl == "triton":
            from noah.heads.kernels import triton_kernels

            unread = key_weight if bias is None else bias.contiguous()
            saved = (x, key_weight, value_weight, unread, pooled, kept)
            gradients = triton_kernels.pool_all_backward(grad, *saved, _number(seed), drop_rate, wanted)
        else:
            grad = (grad / (1 - drop_rate)).to(kept.dtype)
            shift = tiles.must_shift(x, key_weight)
            seeds = _seeds(seed, x, key_weight)
            saved = (x, key_weight, value_weight, bias, seeds, kept)
            gradients = tiles.pool_all_backward(grad, *saved, drop_rate, shift, tiles.PLAIN, wanted)
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in gradients)


@pool_backward.register_fake
def _(impl, grad, x, key_weight, value_weight, bias, seed, pooled, kept, drop_rate, wanted):
    inputs = (x, key_weight, value_weight, bias)
    return tuple(torch.empty_like(t) if want else x.new_empty(0) for t, want in zip(inputs, wanted, strict=True))


def _setup(ctx, inputs, output) -> None:
    ctx.impl, _, *tensors, ctx.drop_rate = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad, _):
    of_key_bias, *wanted = ctx.needs_input_grad[1:6]
    gradients = pool_backward(ctx.impl, grad, *ctx.saved_tensors, ctx.drop_rate, wanted)
    found = [gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)]
    return None, grad.new_zeros(grad.shape[1:]) if of_key_bias else None, *found, None, None


pool.register_autograd(_backward, setup_context=_setup)


def _number(seed: Tensor | None) -> int:
    return 0 if seed is None else int(seed)


def _seeds(seed: Tensor | None, x: Tensor, weight: Tensor) -> Tensor | None:
    return None if seed is None else tiles.draw_seeds(x, weight, torch.Generator().manual_seed(int(seed)))
