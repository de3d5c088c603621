"""The gradients of Triton's forward pass: all on the chip, or for wide heads with the products left to cuBLAS."""

import torch
import triton
from torch import Tensor

from noah.heads.kernels.triton_backward import feature_gradient_kernel, weight_gradient_kernel
from noah.heads.kernels.triton_launch import launch
from noah.heads.kernels.triton_programs import backward_kernel

MOST_CHANNELS = 192
"""Of a head's keys and values, each rounded up to a power of two: beyond, sums over them do not fit in registers."""
PROGRAMS = 512
"""About as many as keep a GPU busy: of few heads and classes, several share the images."""


def gradients(grad, x, key_weight, value_weight, bias, pooled, lse, seed: int, drop_rate: float, wanted) -> tuple:
    """Of x, both weights and the bias; None for those that nobody wants.

    Args:
        grad: (B, N, M), of what `pool_all` returned first.
        x: (B, L, C), contiguous.
        key_weight, value_weight: (N, M, channels of one head), `aligned`.
        bias: (N, M).
        pooled, lse: (B, N, M), of `pool_all`.
        wanted: Whether each of the four is.
    """
    blocks = blocks_of(key_weight.shape[2], value_weight.shape[2])
    tensors = x, key_weight, value_weight, bias, pooled, lse, grad.contiguous()
    if sum(blocks.values()) > MOST_CHANNELS:
        return _by_products(tensors, seed, drop_rate, wanted)
    shared = {"seed": seed, "drop_rate": drop_rate, **blocks}
    dx = _of_features(tensors, shared) if wanted[0] else None
    return dx, *_of_weights(tensors, shared, wanted[1:])


def blocks_of(key_width: int, value_width: int) -> dict[str, int]:
    """Channels of a head as the programs hold them: tensor cores want powers of two from 16 on."""
    widths = {"KEY_BLOCK": key_width, "VALUE_BLOCK": value_width}
    return {name: max(16, triton.next_power_of_2(width)) for name, width in widths.items()}


def _of_features(tensors: tuple[Tensor, ...], shared: dict) -> Tensor:
    x, key_weight = tensors[:2]
    dx = torch.empty_like(x)
    grid = lambda config: (len(x), len(key_weight), triton.cdiv(x.shape[1], config["BLOCK_L"]))  # noqa: E731
    launch(feature_gradient_kernel, grid, *tensors, dx, **shared)
    return dx


def _of_weights(tensors: tuple[Tensor, ...], shared: dict, wanted: list[bool]) -> list[Tensor | None]:
    """Sums over shares of the images, in an order that does not change."""
    if not any(wanted):
        return [None] * 3
    x, key_weight, value_weight, bias = tensors[:4]
    N, M, _ = key_weight.shape
    splits = max(1, min(len(x), PROGRAMS // (N * triton.cdiv(M, 64))))
    parts = [x.new_zeros(splits, *t.shape, dtype=torch.float32) for t in (key_weight, value_weight, bias)]
    grid = lambda config: (N, triton.cdiv(M, config["BLOCK_M"]), splits)  # noqa: E731
    launch(weight_gradient_kernel, grid, *tensors, *parts, B=len(x), SPLITS=splits, **shared)
    return [
        part.sum(0).to(t.dtype) if want else None
        for part, t, want in zip(parts, (key_weight, value_weight, bias), wanted, strict=True)
    ]


def _by_products(tensors: tuple[Tensor, ...], seed: int, drop_rate: float, wanted) -> tuple:
    """Head by head: the gradients of its logits go through memory, and cuBLAS multiplies them."""
    x, key_weight, value_weight, bias = tensors[:4]
    of_x, of_key, of_value, of_bias = wanted
    B, L, C = x.shape
    N, M, ck = key_weight.shape
    cv = value_weight.shape[2]
    rows = x.view(-1, C)
    dk, dv = (x.new_empty(B * L, M) for _ in range(2))
    dx = torch.empty_like(rows) if of_x else None
    d_key, d_value, d_bias = (
        torch.empty_like(t, memory_format=torch.contiguous_format) if want else None
        for t, want in ((key_weight, of_key), (value_weight, of_value), (bias, of_bias))
    )
    grid = lambda config: (B, triton.cdiv(M, config["BLOCK_M"]))  # noqa: E731
    for n in range(N):
        launch(backward_kernel, grid, *tensors, dk, dv, seed=seed, drop_rate=drop_rate, n=n)
        for gradient, weight, d_weight, start in (
            (dk, key_weight, d_key, n * ck),
            (dv, value_weight, d_value, N * ck + n * cv),
        ):
            part = slice(start, start + weight.shape[2])
            if of_x:
                torch.mm(gradient, weight[n], out=dx[:, part])
            if d_weight is not None:
                torch.mm(gradient.t(), rows[:, part], out=d_weight[n])
        if of_bias:
            d_bias[n] = dv.sum(0)
    return dx.view(B, L, C) if of_x else None, d_key, d_value, d_bias
