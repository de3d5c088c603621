"""Triton's programs compiled for a GPU that is not there: registers, spills, widths of loads, tensor-core products.

A program is compiled as its launcher would: strides of 1 are constants, and what is a multiple of 16 is known to be
one. `cuobjdump` of Triton's wheel then says what became of it.
"""

import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_program

from noah.benchmark.head import Shape
from noah.heads.kernels.triton_backward import feature_gradient_kernel, weight_gradient_kernel
from noah.heads.kernels.triton_gradients import MOST_CHANNELS, blocks_of
from noah.heads.kernels.triton_launch import aligned, arguments_of
from noah.heads.kernels.triton_programs import backward_kernel, forward_kernel

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
PROGRAMS = {
    "forward": forward_kernel,
    "feature gradient": feature_gradient_kernel,
    "weight gradient": weight_gradient_kernel,
    "logit gradients": backward_kernel,
}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
AS_FEATURES = {"x", "key_weight", "value_weight", "bias", "dx", "dk", "dv"}
IN_FLOAT32 = {"pooled", "lse", "grad", "d_key_weight", "d_value_weight", "d_bias"}
REGISTERS, SHARED_BYTES, WARPS = 65536, {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}, 64
"""Of one multiprocessor."""


class Compiled(NamedTuple):
    """What a program became."""

    registers: int
    stack_bytes: int
    """Local memory of a thread: more than 0 is spilled."""
    shared_bytes: int
    occupancy: float
    """Warps that fit on a multiprocessor at once, of those it has places for."""
    loads: dict[str, int]
    """Bits -> instructions that load so many for a thread, from global memory."""
    copies: int
    """Of those, copies to shared memory that go on beside the arithmetic (cp.async)."""
    products: dict[str, int]
    """Tensor-core instructions by name: HGMMA for whole warp groups, HMMA for warps."""


def compiled(
    program: str, shape: Shape, dtype: str, config: triton.Config, *, dropout: bool, sm: int, tf32: bool = True
) -> Compiled:
    """A program at one of its `CONFIGS`, for the tensors that a head of this shape has.

    Args:
        sm: The GPU's compute capability: 80 is A100, 90 is H100, 100 is B200.
        tf32: Whether float32 is multiplied as TF32; else tensor cores have no part in it.
    """
    function = PROGRAMS[program].fn
    source = ASTSource(function, *_signature(function, shape, dtype, config, dropout, tf32))
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    made = compile_program(source, target=GPUTarget("cuda", sm, 32), options=options)
    usage, code = (_dumped(made.asm["cubin"], option) for option in ("-res-usage", "-sass"))
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    shared = made.metadata.shared
    loads = Counter(_bits(instruction) for instruction in re.findall(r"\bLDG(?:STS)?(?:\.\w+)+", code))
    return Compiled(
        registers,
        stack,
        shared,
        _occupancy(registers, shared, config.num_warps, sm),
        {str(bits): loads[bits] for bits in sorted(loads)},
        len(re.findall(r"\bLDGSTS\b", code)),
        dict(Counter(re.findall(r"\b(HGMMA|HMMA|QGMMA|UTCHMMA)\b", code))),
    )


def _bits(instruction: str) -> int:
    """That an instruction such as `LDGSTS.E.BYPASS.128` or `LDG.E.U16` loads for a thread."""
    found = re.search(r"\.[US]?(8|16|64|128)$", instruction)
    return int(found.group(1)) if found else 32


def _signature(
    function, shape: Shape, dtype: str, config: triton.Config, dropout: bool, tf32: bool
) -> tuple[dict, dict, dict]:
    """Types of the arguments, those that are constants, and what is known of the others."""
    known = {**_arguments(shape, dtype, dropout), "TF32": tf32, **config.kwargs}
    signature, constants, attributes = {}, {}, {}
    for number, parameter in enumerate(function.params):
        name, value = parameter.name, known.get(parameter.name)
        if parameter.is_constexpr or (value == 1 and not parameter.do_not_specialize):
            constants[(number,)], signature[name] = value, "constexpr"
        elif name in AS_FEATURES | IN_FLOAT32:
            signature[name] = "*fp32" if name in IN_FLOAT32 else f"*{dtype}"
            attributes[(number,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = {"drop_rate": "fp32", "seed": "i64"}.get(name, "i32")
            if value is not None and value % 16 == 0:
                attributes[(number,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _arguments(shape: Shape, dtype: str, dropout: bool) -> dict:
    """As a launch of this shape has them; the number of images decides nothing."""
    widths = widths_of(shape)
    x = torch.empty(2, shape.side**2, shape.channels, dtype=DTYPES[dtype], device="meta")
    weights = [aligned(x.new_empty(shape.num_heads, shape.num_classes, width)) for width in widths]
    return {**arguments_of(x, *weights, float(dropout)), **blocks_of(*widths)}


def widths_of(shape: Shape) -> tuple[int, int]:
    keys = int(shape.key_ratio * shape.channels)
    return keys // shape.num_heads, (shape.channels - keys) // shape.num_heads


def programs_of(shape: Shape) -> list[str]:
    """Those that a head of this shape is trained with."""
    on_chip = sum(blocks_of(*widths_of(shape)).values()) <= MOST_CHANNELS
    return ["forward", *(["feature gradient", "weight gradient"] if on_chip else ["logit gradients"])]


def _dumped(cubin: bytes, option: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        path = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"}  # cuobjdump calls nvdisasm
        done = subprocess.run([TOOLS / "cuobjdump", option, file.name], capture_output=True, text=True, env=path)
    return done.stdout


def _occupancy(registers: int, shared: int, warps: int, sm: int) -> float:
    """Registers are given out to warps in units of 256, shared memory with 1 KiB for the system."""
    of_warp = -(-registers * 32 // 256) * 256
    programs = min(REGISTERS // (of_warp * warps), SHARED_BYTES[sm] // (shared + 1024), WARPS // warps)
    return programs * warps / WARPS
