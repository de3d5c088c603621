"""How Triton's programs are started: strides, alignment, and the device they start on."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

ALIGNED = 16
"""Numbers: Triton's launcher tells a program of a stride that it is a multiple of this, or nothing."""


def aligned(weight: Tensor) -> Tensor:
    """(N, M, c) whose rows begin at multiples of `ALIGNED` numbers, so that programs load 16 bytes at a time."""
    if weight.stride(2) == 1 and weight.stride(1) % ALIGNED == 0:
        return weight
    width = weight.shape[2]
    return nn.functional.pad(weight, (0, -width % ALIGNED)).contiguous()[..., :width]


def arguments_of(x: Tensor, key_weight: Tensor, value_weight: Tensor, drop_rate: float) -> dict:
    """What all programs are told of the tensors, but for the tensors themselves and the tiles.

    Args:
        x: (B, L, C).
        key_weight, value_weight: (N, M, channels of one head).
    """
    of_key, of_value = (dict(zip(names, w.stride(), strict=True)) for names, w in (
        (("step_kn", "step_km", "step_kc"), key_weight), (("step_vn", "step_vm", "step_vc"), value_weight)
    ))  # fmt: skip
    return {
        "L": x.shape[1], "M": key_weight.shape[1], "step_b": x.stride(0), "step_l": x.stride(1), "step_c": x.stride(2),
        **of_key, **of_value, "N": len(key_weight), "KEY_WIDTH": key_weight.shape[2],
        "VALUE_WIDTH": value_weight.shape[2], "DROP": drop_rate > 0, "TF32": tf32(),
    }  # fmt: skip


def launch(program, grid, x, key_weight, value_weight, *tensors, drop_rate: float, **arguments) -> None:
    """Start a program; nothing where there is no image.

    Args:
        grid: The programs along three axes, as a function of the configuration.
    """
    if not len(x):
        return
    arguments |= arguments_of(x, key_weight, value_weight, drop_rate)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():  # else it starts on the current device
        program[grid](x, key_weight, value_weight, *tensors, drop_rate=drop_rate, **arguments)


def tf32() -> bool:
    """This head computes convolutions, so that cuDNN's switch says whether float32 may be multiplied as TF32."""
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:  # somebody set the newer switches, after which torch refuses to read the older
        return torch.backends.cudnn.conv.fp32_precision != "ieee"
