"""NOAH on CUDA as two Triton kernels: a fused forward pass, and the tiles of the backward pass.

A program serves one image and a block of classes. It walks over heads and positions with an online softmax (the running
maximum, sum of exponentials, and sum of exponentials times values), so keys and values never leave the chip. The
backward pass computes them again, head by head, and leaves the products with features and weights to cuBLAS.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd

from noah.heads.kernels import reference
from noah.heads.kernels.refusals import check_backward, dtype_of

CONFIGS = [
    triton.Config({"BLOCK_L": rows, "BLOCK_M": classes, "BLOCK_C": channels}, num_warps=warps, num_stages=stages)
    for rows, classes, channels, warps, stages in (
        (64, 64, 32, 4, 3),
        (64, 128, 32, 8, 3),
        (32, 128, 32, 4, 3),
        (64, 64, 64, 4, 2),
        (128, 64, 32, 8, 2),
    )
]
if triton.knobs.runtime.interpret:  # on a CPU there is nothing to tune, nor a clock to tune by
    CONFIGS = CONFIGS[:1]
_autotune = triton.autotune(CONFIGS, key=["L", "M", "KEY_WIDTH", "VALUE_WIDTH"])
_jit = triton.jit(do_not_specialize=["seed", "n"])  # else some of their values compile anew


@triton.jit
def _project(
    x, weight, at, m, L, M, step_l, step_c, step_wm, step_wc,
    WIDTH: tl.constexpr, BLOCK_C: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    """(positions `at`, classes m) of x @ weight.T for x (L, WIDTH) and weight (M, WIDTH)."""
    product = tl.zeros((at.shape[0], m.shape[0]), tl.float32)
    for start in range(0, WIDTH, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        rows = tl.load(
            x + at[:, None] * step_l + c[None, :] * step_c, mask=(at < L)[:, None] & (c < WIDTH)[None, :], other=0.0
        )
        columns = tl.load(
            weight + m[None, :] * step_wm + c[:, None] * step_wc,
            mask=(m < M)[None, :] & (c < WIDTH)[:, None],
            other=0.0,
        )
        product += tl.dot(rows, columns, input_precision="tf32" if TF32 else "ieee")
    return product


@triton.jit
def _keys_and_values(
    image, key_weight, value_weight, n, at, m, L, M, step_l, step_c,
    step_kn, step_km, step_kc, step_vn, step_vm, step_vc,
    N: tl.constexpr, KEY_WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, BLOCK_C: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    """What head n says of an image, at (positions `at`, classes m), without biases."""
    keys = image + n * KEY_WIDTH * step_c
    values = image + (N * KEY_WIDTH + n * VALUE_WIDTH) * step_c
    k = _project(
        keys, key_weight + n * step_kn, at, m, L, M, step_l, step_c, step_km, step_kc, KEY_WIDTH, BLOCK_C, TF32
    )
    v = _project(
        values, value_weight + n * step_vn, at, m, L, M, step_l, step_c, step_vm, step_vc, VALUE_WIDTH, BLOCK_C, TF32
    )
    return k, v


@triton.jit
def _keep(seed, stream, at, m, M, drop_rate):
    """Philox dropout mask of (positions `at`, classes m), scaled to keep the mean; a pure function of its arguments."""
    drawn = tl.rand(seed + stream, at[:, None] * M + m[None, :])
    return tl.where(drawn >= drop_rate, 1.0 / (1.0 - drop_rate), 0.0)


@_autotune
@_jit
def _forward_kernel(
    x, key_weight, value_weight, bias, pooled, lse, seed, drop_rate, L, M, step_b, step_l, step_c,
    step_kn, step_km, step_kc, step_vn, step_vm, step_vc,
    N: tl.constexpr, KEY_WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, DROP: tl.constexpr, TF32: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    image = x + b * step_b
    for n in range(N):
        top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        weighted = tl.zeros((BLOCK_M,), tl.float32)
        for start in range(0, L, BLOCK_L):
            at = start + tl.arange(0, BLOCK_L)
            k, v = _keys_and_values(
                image, key_weight, value_weight, n, at, m, L, M, step_l, step_c,
                step_kn, step_km, step_kc, step_vn, step_vm, step_vc, N, KEY_WIDTH, VALUE_WIDTH, BLOCK_C, TF32,
            )  # fmt: skip
            if DROP:
                v += tl.load(bias + n * M + m, mask=m < M, other=0.0).to(tl.float32)[None, :]
                v *= _keep(seed, b * N + n, at, m, M, drop_rate)
            k = tl.where((at < L)[:, None], k, float("-inf"))
            new_top = tl.maximum(top, tl.max(k, 0))
            e = tl.exp(k - new_top[None, :])
            shrink = tl.exp(top - new_top)
            total = total * shrink + tl.sum(e, 0)
            weighted = weighted * shrink + tl.sum(e * v, 0)
            top = new_top
        out = (b * N + n) * M + m
        tl.store(pooled + out, weighted / total, mask=m < M)
        tl.store(lse + out, top + tl.log(total), mask=m < M)


@_autotune
@_jit
def _backward_kernel(
    x, key_weight, value_weight, bias, pooled, lse, grad, dk, dv, seed, drop_rate, n, L, M,
    step_b, step_l, step_c, step_kn, step_km, step_kc, step_vn, step_vm, step_vc,
    N: tl.constexpr, KEY_WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, DROP: tl.constexpr, TF32: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    image = x + b * step_b
    head = (b * N + n) * M + m
    o = tl.load(pooled + head, mask=m < M, other=0.0)
    normaliser = tl.load(lse + head, mask=m < M, other=0.0)
    g = tl.load(grad + head, mask=m < M, other=0.0)
    for start in range(0, L, BLOCK_L):
        at = start + tl.arange(0, BLOCK_L)
        k, v = _keys_and_values(
            image, key_weight, value_weight, n, at, m, L, M, step_l, step_c,
            step_kn, step_km, step_kc, step_vn, step_vm, step_vc, N, KEY_WIDTH, VALUE_WIDTH, BLOCK_C, TF32,
        )  # fmt: skip
        d_value = tl.exp(k - normaliser[None, :]) * g[None, :]
        if DROP:
            keep = _keep(seed, b * N + n, at, m, M, drop_rate)
            v = (v + tl.load(bias + n * M + m, mask=m < M, other=0.0).to(tl.float32)[None, :]) * keep
            d_key = d_value * (v - o[None, :])
            d_value *= keep
        else:
            d_key = d_value * (v - o[None, :])
        tile = (b * L + at)[:, None] * M + m[None, :]
        inside = (at < L)[:, None] & (m < M)[None, :]
        tl.store(dk + tile, d_key.to(dk.dtype.element_ty), mask=inside)
        tl.store(dv + tile, d_value.to(dv.dtype.element_ty), mask=inside)


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


def _launch(kernel, x, key_weight, value_weight, bias, *tensors, seed, drop_rate, **arguments) -> None:
    B, L, _ = x.shape
    N, M, key_width = key_weight.shape
    if not B:
        return
    of_key, of_value = (dict(zip(names, w.stride(), strict=True)) for names, w in (
        (("step_kn", "step_km", "step_kc"), key_weight), (("step_vn", "step_vm", "step_vc"), value_weight)
    ))  # fmt: skip
    launch = kernel[lambda config: (B, triton.cdiv(M, config["BLOCK_M"]))]
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():  # else a kernel starts on the current device
        launch(
            x, key_weight, value_weight, bias, *tensors, seed, drop_rate, **arguments, L=L, M=M,
            step_b=x.stride(0), step_l=x.stride(1), step_c=x.stride(2), **of_key, **of_value, N=N,
            KEY_WIDTH=key_width, VALUE_WIDTH=value_weight.shape[2], DROP=drop_rate > 0,
            TF32=_tf32(),
        )  # fmt: skip


def pool_all(x, key_weight, value_weight, bias, seed: int, drop_rate: float) -> tuple[Tensor, Tensor]:
    """What the heads say, before the value bias where nothing is dropped, and the logarithms of their softmax's sums.

    Args:
        x: (B, L, C), not float64.
        key_weight, value_weight: (N, M, channels of one head).
        bias: (N, M), contiguous; read only where values are dropped.

    Returns:
        Both (B, N, M), float32.
    """
    pooled = x.new_empty(len(x), *key_weight.shape[:2], dtype=torch.float32)
    lse = torch.empty_like(pooled)
    _launch(_forward_kernel, x, key_weight, value_weight, bias, pooled, lse, seed=seed, drop_rate=drop_rate)
    return pooled, lse


def _tf32() -> bool:
    """This head computes convolutions, so that cuDNN's switch says whether float32 may be multiplied as TF32."""
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:  # somebody set the newer switches, after which torch refuses to read the older
        return torch.backends.cudnn.conv.fp32_precision != "ieee"


def pool_all_backward(grad, x, key_weight, value_weight, bias, pooled, lse, seed: int, drop_rate: float, wanted):
    """Gradients of what `pool_all` returned first, with respect to x, both weights and the bias; None for those that
    nobody wants.

    Args:
        grad: (B, N, M).
        wanted: Whether each of the four is.
    """
    of_x, of_key, of_value, of_bias = wanted
    B, L, C = x.shape
    N, M, ck = key_weight.shape
    cv = value_weight.shape[2]
    rows, grad = x.reshape(-1, C), grad.contiguous()
    dk, dv = (x.new_empty(B * L, M) for _ in range(2))
    dx = torch.empty_like(rows) if of_x else None
    d_key, d_value, d_bias = (
        torch.empty_like(t, memory_format=torch.contiguous_format) if want else None
        for t, want in ((key_weight, of_key), (value_weight, of_value), (bias, of_bias))
    )
    for n in range(N):
        _launch(
            _backward_kernel, x, key_weight, value_weight, bias, pooled, lse, grad, dk, dv,
            seed=seed, drop_rate=drop_rate, n=n,
        )  # fmt: skip
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


class _Fused(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cuda")
    def forward(ctx, key_bias, x, key_weight, value_weight, bias, seed, drop_rate):
        bias = bias.contiguous()
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
