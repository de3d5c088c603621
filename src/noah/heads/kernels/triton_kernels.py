"""NOAH on CUDA: two Triton kernels (`triton_programs`), launched and differentiated.

The backward pass computes keys and values again, head by head; the products with features and weights are cuBLAS's.
"""

from contextlib import nullcontext

import torch
import triton
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd

from noah.heads.kernels import reference
from noah.heads.kernels.refusals import check_backward, dtype_of
from noah.heads.kernels.triton_programs import backward_kernel, forward_kernel


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
    _launch(forward_kernel, x, key_weight, value_weight, bias, pooled, lse, seed=seed, drop_rate=drop_rate)
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
            backward_kernel, x, key_weight, value_weight, bias, pooled, lse, grad, dk, dv,
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
