"""NOAH on CUDA: Triton's forward program, and what differentiates it (`triton_gradients`)."""

import torch
import triton
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd

from noah.heads.kernels import reference
from noah.heads.kernels.refusals import check_backward, dtype_of
from noah.heads.kernels.triton_gradients import gradients
from noah.heads.kernels.triton_launch import aligned, launch
from noah.heads.kernels.triton_programs import forward_kernel


def forward(x: Tensor, query: nn.Conv2d, value: nn.Conv2d, *, num_heads: int, drop_rate: float) -> Tensor:
    """As `reference.forward`, for the paper's switches; float64 goes to the reference.

    Args:
        x: (B, C, H, W), on CUDA; on a CPU where triton interprets.

    Returns:
        (B, N, M).
    """
    if x.dtype == torch.float64:
        return reference.forward(x, query, value, num_heads=num_heads, drop_rate=drop_rate)
    device = x.device.type
    dtype = dtype_of(x)
    x = x.flatten(2).transpose(1, 2).to(dtype)
    weights = [conv.weight.view(num_heads, -1, conv.weight.shape[1]).to(dtype) for conv in (query, value)]
    key_bias, value_bias = (conv.bias.view(num_heads, -1) for conv in (query, value))
    seed = int(torch.randint(2**62, ())) if drop_rate else 0
    with torch.autocast(device, enabled=False):
        heads = _Fused.apply(key_bias, x, *weights, value_bias.to(dtype), seed, drop_rate)
        return (heads if drop_rate else heads + value_bias).to(dtype)


def pool_all(x, key_weight, value_weight, bias, seed: int, drop_rate: float) -> tuple[Tensor, Tensor]:
    """What the heads say, before the value bias where nothing is dropped, and the logarithms of their softmax's sums.

    Args:
        x: (B, L, C), not float64.
        key_weight, value_weight: (N, M, channels of one head).
        bias: (N, M), contiguous; read only where values are dropped.

    Returns:
        Both (B, N, M), float32.
    """
    x, key_weight, value_weight = x.contiguous(), aligned(key_weight), aligned(value_weight)
    pooled = x.new_empty(len(x), *key_weight.shape[:2], dtype=torch.float32)
    lse = torch.empty_like(pooled)
    grid = lambda config: (len(x), triton.cdiv(key_weight.shape[1], config["BLOCK_M"]))  # noqa: E731
    launch(forward_kernel, grid, x, key_weight, value_weight, bias, pooled, lse, seed=seed, drop_rate=drop_rate)
    return pooled, lse


def pool_all_backward(grad, x, key_weight, value_weight, bias, pooled, lse, seed: int, drop_rate: float, wanted):
    """Gradients of what `pool_all` returned first, with respect to x, both weights and the bias; None for those that
    nobody wants.

    Args:
        grad: (B, N, M).
        wanted: Whether each of the four is.
    """
    tensors = x.contiguous(), aligned(key_weight), aligned(value_weight), bias, pooled, lse
    return gradients(grad, *tensors, seed, drop_rate, wanted)


class _Fused(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cuda")
    def forward(ctx, key_bias, x, key_weight, value_weight, bias, seed, drop_rate):
        # Channels last: rows of 49 or 196 positions begin nowhere in particular, and could not be loaded 16 bytes at a
        # time. A copy moves the features twice; the programs read them once for every block of classes.
        x, bias = x.contiguous(), bias.contiguous()
        key_weight, value_weight = aligned(key_weight), aligned(value_weight)
        pooled, lse = pool_all(x, key_weight, value_weight, bias, seed, drop_rate)
        ctx.save_for_backward(x, key_weight, value_weight, bias, pooled, lse)
        ctx.seed, ctx.drop_rate = seed, drop_rate
        return pooled

    @staticmethod
    @custom_bwd(device_type="cuda")
    def backward(ctx, grad):
        check_backward(grad)
        of_key_bias, *wanted = ctx.needs_input_grad[:5]
        # Without dropout the bias is added outside of this function.
        wanted[3] = wanted[3] and ctx.drop_rate > 0
        gradients = pool_all_backward(grad, *ctx.saved_tensors, ctx.seed, ctx.drop_rate, wanted)
        return grad.new_zeros(grad.shape[1:]) if of_key_bias else None, *gradients, None, None
