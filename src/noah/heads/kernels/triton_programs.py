"""The two Triton programs behind `triton_kernels`: the fused forward pass, and the tiles of the backward pass.

A program serves one image and a block of classes. It walks over heads and positions with an online softmax (the running
maximum, sum of exponentials, and sum of exponentials times values), so keys and values never leave the chip.
"""

from collections.abc import Callable

import torch
import triton
import triton.language as tl


def config(rows: int, classes: int, warps: int, stages: int, channels: int | None = None, lean: bool = False):
    """Tiles of positions, classes and (where the program walks over them) channels.

    Args:
        lean: For numbers of two bytes and without dropout alone: with more it would spill registers on an H100
            (`noah benchmark kernels`).
    """
    tiles = {"BLOCK_L": rows, "BLOCK_M": classes} | ({"BLOCK_C": channels} if channels else {})
    made = triton.Config(tiles, num_warps=warps, num_stages=stages)
    made.lean = lean
    return made


def tune(configs: list[triton.Config]) -> Callable:
    """Compile a program, and keep the configuration that is fastest for what it is given, its dtypes included."""
    if triton.knobs.runtime.interpret:  # on a CPU there is nothing to tune, nor a clock to tune by
        configs = configs[:1]
    key = ["L", "M", "KEY_WIDTH", "VALUE_WIDTH", "DROP", "TF32"]
    compile_ = triton.jit(do_not_specialize=["seed", "n", "B", "SPLITS"])  # else some of their values compile anew
    prune = {"early_config_prune": lambda configs, tensors, **given: usable(configs, tensors["x"].dtype, given["DROP"])}
    return lambda program: triton.autotune(configs, key=key, prune_configs_by=prune)(compile_(program))


def usable(configs: list[triton.Config], dtype: torch.dtype, dropout: bool) -> list[triton.Config]:
    """Those that do not spill."""
    return [made for made in configs if not made.lean or (dtype.itemsize == 2 and not dropout)]


CONFIGS = [config(64, 64, 8, 3, channels=32), config(64, 64, 8, 2, channels=64)]


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
def keep_mask(seed, stream, at, m, M, drop_rate):
    """Philox dropout mask of (positions `at`, classes m), scaled to keep the mean; a pure function of its arguments."""
    drawn = tl.rand(seed + stream, at[:, None] * M + m[None, :])
    return tl.where(drawn >= drop_rate, 1.0 / (1.0 - drop_rate), 0.0)


@tune(CONFIGS)
def forward_kernel(
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
                v *= keep_mask(seed, b * N + n, at, m, M, drop_rate)
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


@triton.jit
def logit_gradients(
    k, v, o, normaliser, g, bias, seed, drop_rate, b, n, at, m, L, M, N: tl.constexpr, DROP: tl.constexpr
):  # fmt: skip
    """Of keys and values at (positions `at`, classes m); 0 outside of both.

    o, normaliser and g: what head n said of image b, the logarithm of its softmax's sum, and the gradient, each (m,).
    """
    d_value = tl.where((at < L)[:, None], tl.exp(k - normaliser[None, :]) * g[None, :], 0.0)
    if DROP:
        keep = keep_mask(seed, b * N + n, at, m, M, drop_rate)
        v = (v + tl.load(bias + n * M + m, mask=m < M, other=0.0).to(tl.float32)[None, :]) * keep
        d_key = d_value * (v - o[None, :])
        d_value *= keep
    else:
        d_key = d_value * (v - o[None, :])
    return d_key, d_value


@tune(CONFIGS)
def backward_kernel(
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
        d_key, d_value = logit_gradients(k, v, o, normaliser, g, bias, seed, drop_rate, b, n, at, m, L, M, N, DROP)
        tile = (b * L + at)[:, None] * M + m[None, :]
        inside = (at < L)[:, None] & (m < M)[None, :]
        tl.store(dk + tile, d_key.to(dk.dtype.element_ty), mask=inside)
        tl.store(dv + tile, d_value.to(dv.dtype.element_ty), mask=inside)
