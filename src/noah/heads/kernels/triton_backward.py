"""The two Triton programs of NOAH's backward pass, for heads whose channels fit on the chip.

Both compute keys and values again and the gradients of their logits, tile by tile, and multiply these at once: with the
weights, summed over classes, for the features; with the features, summed over images and positions, for the weights.
"""

import triton
import triton.language as tl

from noah.heads.kernels.triton_programs import config, logit_gradients, tune


@triton.jit
def _features(
    image, n, at, L, step_l, step_c,
    N: tl.constexpr, KEY_WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr,
):  # fmt: skip
    """(positions `at`, channels) of head n: those of its keys, and those of its values."""
    of_key, of_value = tl.arange(0, KEY_BLOCK), tl.arange(0, VALUE_BLOCK)
    inside = (at < L)[:, None]
    rows = image + at[:, None] * step_l
    first = N * KEY_WIDTH + n * VALUE_WIDTH
    keys = tl.load(
        rows + (n * KEY_WIDTH + of_key)[None, :] * step_c, mask=inside & (of_key < KEY_WIDTH)[None, :], other=0.0
    )
    values = tl.load(
        rows + (first + of_value)[None, :] * step_c, mask=inside & (of_value < VALUE_WIDTH)[None, :], other=0.0
    )
    return keys, values


@triton.jit
def _weights(weight, n, m, M, step_n, step_m, step_c, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(classes m, channels) of head n."""
    c = tl.arange(0, BLOCK)
    return tl.load(
        weight + n * step_n + m[:, None] * step_m + c[None, :] * step_c,
        mask=(m < M)[:, None] & (c < WIDTH)[None, :],
        other=0.0,
    )


@triton.jit
def _of_logits(
    keys, values, key_weight, value_weight, bias, pooled, lse, grad, seed, drop_rate, b, n, at, m, L, M,
    N: tl.constexpr, DROP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the key and of the value logits, at (positions `at`, classes m); 0 outside of both."""
    k = tl.dot(keys, tl.trans(key_weight), input_precision=PRECISION)
    v = tl.dot(values, tl.trans(value_weight), input_precision=PRECISION)
    head = (b * N + n) * M + m
    o = tl.load(pooled + head, mask=m < M, other=0.0)
    normaliser = tl.load(lse + head, mask=m < M, other=0.0)
    g = tl.load(grad + head, mask=m < M, other=0.0)
    return logit_gradients(k, v, o, normaliser, g, bias, seed, drop_rate, b, n, at, m, L, M, N, DROP)


FEATURE_CONFIGS = [config(64, 32, 8, 2), config(32, 32, 8, 2), config(64, 64, 8, 2, lean=True)]
WEIGHT_CONFIGS = [config(32, 64, 8, 2), config(32, 32, 4, 2), config(64, 64, 8, 2, lean=True)]


@tune(FEATURE_CONFIGS)
def feature_gradient_kernel(
    x, key_weight, value_weight, bias, pooled, lse, grad, dx, seed, drop_rate, L, M, step_b, step_l, step_c,
    step_kn, step_km, step_kc, step_vn, step_vm, step_vc,
    N: tl.constexpr, KEY_WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, DROP: tl.constexpr, TF32: tl.constexpr,
    KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """A program serves some positions of one image, in one head. dx lies as x does."""
    PRECISION: tl.constexpr = "tf32" if TF32 else "ieee"
    b, n = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.program_id(2) * BLOCK_L + tl.arange(0, BLOCK_L)
    keys, values = _features(
        x + b * step_b, n, at, L, step_l, step_c, N, KEY_WIDTH, VALUE_WIDTH, KEY_BLOCK, VALUE_BLOCK
    )
    of_keys = tl.zeros((BLOCK_L, KEY_BLOCK), tl.float32)
    of_values = tl.zeros((BLOCK_L, VALUE_BLOCK), tl.float32)
    for start in range(0, M, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        wk = _weights(key_weight, n, m, M, step_kn, step_km, step_kc, KEY_WIDTH, KEY_BLOCK)
        wv = _weights(value_weight, n, m, M, step_vn, step_vm, step_vc, VALUE_WIDTH, VALUE_BLOCK)
        d_key, d_value = _of_logits(
            keys, values, wk, wv, bias, pooled, lse, grad, seed, drop_rate, b, n, at, m, L, M, N, DROP, PRECISION
        )
        of_keys = tl.dot(d_key.to(wk.dtype), wk, of_keys, input_precision=PRECISION)
        of_values = tl.dot(d_value.to(wv.dtype), wv, of_values, input_precision=PRECISION)
    of_key, of_value = tl.arange(0, KEY_BLOCK), tl.arange(0, VALUE_BLOCK)
    rows, inside = dx + b * step_b + at[:, None] * step_l, (at < L)[:, None]
    first = N * KEY_WIDTH + n * VALUE_WIDTH
    tl.store(
        rows + (n * KEY_WIDTH + of_key)[None, :] * step_c,
        of_keys.to(dx.dtype.element_ty),
        mask=inside & (of_key < KEY_WIDTH)[None, :],
    )
    tl.store(
        rows + (first + of_value)[None, :] * step_c,
        of_values.to(dx.dtype.element_ty),
        mask=inside & (of_value < VALUE_WIDTH)[None, :],
    )


@tune(WEIGHT_CONFIGS)
def weight_gradient_kernel(
    x, key_weight, value_weight, bias, pooled, lse, grad, d_key_weight, d_value_weight, d_bias, seed, drop_rate,
    B, SPLITS, L, M, step_b, step_l, step_c, step_kn, step_km, step_kc, step_vn, step_vm, step_vc,
    N: tl.constexpr, KEY_WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, DROP: tl.constexpr, TF32: tl.constexpr,
    KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """A program serves some classes in one head, and one of SPLITS shares of the images.

    The gradients are (SPLITS, N, M, width) and (SPLITS, N, M), contiguous, float32: their sums over the shares are for
    the caller, so that they are the same bits every time.
    """
    PRECISION: tl.constexpr = "tf32" if TF32 else "ieee"
    n, split = tl.program_id(0), tl.program_id(2)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    wk = _weights(key_weight, n, m, M, step_kn, step_km, step_kc, KEY_WIDTH, KEY_BLOCK)
    wv = _weights(value_weight, n, m, M, step_vn, step_vm, step_vc, VALUE_WIDTH, VALUE_BLOCK)
    of_keys = tl.zeros((BLOCK_M, KEY_BLOCK), tl.float32)
    of_values = tl.zeros((BLOCK_M, VALUE_BLOCK), tl.float32)
    of_bias = tl.zeros((BLOCK_M,), tl.float32)
    blocks = tl.cdiv(L, BLOCK_L)
    for step in range(0, tl.cdiv(B - split, SPLITS) * blocks):
        b = (split + step // blocks * SPLITS).to(tl.int64)
        at = step % blocks * BLOCK_L + tl.arange(0, BLOCK_L)
        keys, values = _features(
            x + b * step_b, n, at, L, step_l, step_c, N, KEY_WIDTH, VALUE_WIDTH, KEY_BLOCK, VALUE_BLOCK
        )
        d_key, d_value = _of_logits(
            keys, values, wk, wv, bias, pooled, lse, grad, seed, drop_rate, b, n, at, m, L, M, N, DROP, PRECISION
        )
        of_keys = tl.dot(tl.trans(d_key.to(keys.dtype)), keys, of_keys, input_precision=PRECISION)
        of_values = tl.dot(tl.trans(d_value.to(values.dtype)), values, of_values, input_precision=PRECISION)
        if DROP:
            of_bias += tl.sum(d_value, 0)
    rows = (split * N + n).to(tl.int64) * M + m
    of_key, of_value = tl.arange(0, KEY_BLOCK), tl.arange(0, VALUE_BLOCK)
    inside = (m < M)[:, None]
    tl.store(
        d_key_weight + rows[:, None] * KEY_WIDTH + of_key[None, :],
        of_keys,
        mask=inside & (of_key < KEY_WIDTH)[None, :],
    )
    tl.store(
        d_value_weight + rows[:, None] * VALUE_WIDTH + of_value[None, :],
        of_values,
        mask=inside & (of_value < VALUE_WIDTH)[None, :],
    )
    if DROP:
        tl.store(d_bias + rows, of_bias, mask=m < M)
