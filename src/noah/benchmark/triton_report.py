"""`noah benchmark kernels`: all that `triton_compile` finds, and the time that the programs should take on an H100.

The time is calculated, not measured: each program does the arithmetic of whole tiles and moves its tensors once to or
from the card's memory, at the peaks of the card, whichever takes longer; what it reads again is taken to come from the
card's cache for nothing. The floor is the same without padding, for five products of the size of the logits: forward,
twice again in the backward pass, which keeps none of them, and the gradients of features and weights.
"""

from pathlib import Path

import triton

from noah.benchmark.head import SHAPES
from noah.benchmark.interleaved import markdown, write
from noah.benchmark.official import Shape
from noah.benchmark.triton_compile import DTYPES, PROGRAMS, compiled, programs_of, widths_of
from noah.heads.kernels.triton_gradients import blocks_of
from noah.heads.kernels.triton_programs import usable

FLOPS_PER_S = {"bf16": 989e12, "fp32": 494e12}
"""Of an H100 SXM, without sparsity; float32 as TF32."""
BYTES_PER_S = 3.35e12
BATCH = 256
BYTES = {"bf16": 2, "fp32": 4}


def run(shapes: list[str], sms: list[int], out: Path) -> str:
    """Compile, write `kernels.json` and `kernels.md` into `out` and return the table.

    Raises:
        ValueError: An unknown shape.
    """
    for name in shapes:
        if name not in SHAPES:
            raise ValueError(f"shape is '{name}', expected one of {', '.join(SHAPES)}")
    results = [
        {"sm": sm, "shape": name, "dtype": dtype, "program": program, "tiles": tiles, "dropout": dropout, **found}
        for sm in sms
        for name in shapes
        for dtype in DTYPES
        for program in programs_of(SHAPES[name])
        for dropout in (False, True)
        for tiles, found in _configurations(program, SHAPES[name], dtype, dropout, sm)
    ]
    times = {
        f"{name} {dtype}": {"expected_ms": expected_ms(SHAPES[name], dtype), "floor_ms": floor_ms(SHAPES[name], dtype)}
        for name in shapes
        for dtype in DTYPES
    }
    table = _table(results)
    title = f"Triton's programs, compiled by triton {triton.__version__} for sm_{' and sm_'.join(map(str, sms))}"
    settings = {"triton": triton.__version__, "batch": BATCH, "calculated_for_h100": times, "results": results}
    _, report = write(out, "kernels", title, settings, table)
    calculated = ["", f"Calculated for an H100, {BATCH} images, forward and backward:", "", *markdown(_times(times))]
    report.write_text(report.read_text(encoding="utf-8") + "\n".join(calculated) + "\n", encoding="utf-8")
    return "\n".join([*markdown(table), *calculated])


def _configurations(program: str, shape: Shape, dtype: str, dropout: bool, sm: int):
    for config in usable(PROGRAMS[program].configs, DTYPES[dtype], dropout):
        tiles = {**config.kwargs, "warps": config.num_warps, "stages": config.num_stages}
        yield tiles, compiled(program, shape, dtype, config, dropout=dropout, sm=sm)._asdict()


def expected_ms(shape: Shape, dtype: str, batch: int = BATCH) -> float:
    """Of a forward and a backward pass without dropout, with the best configuration of every program."""
    seconds = 0.0
    for program in programs_of(shape):
        configs = usable(PROGRAMS[program].configs, DTYPES[dtype], dropout=False)
        works = [_work(program, shape, dtype, batch, config.kwargs) for config in configs]
        seconds += min(_bound(*work, dtype) for work in works)
    if "logit gradients" in programs_of(shape):  # whose products cuBLAS does
        logits = batch * shape.side**2 * shape.num_classes
        traffic = 2 * 2 * shape.num_heads * logits * BYTES[dtype]
        seconds += _bound(4 * logits * shape.channels, traffic, dtype)
    return 1000 * seconds


def floor_ms(shape: Shape, dtype: str, batch: int = BATCH) -> float:
    """What no method does without that keeps no attention map."""
    products = 5 * 2 * batch * shape.side**2 * shape.num_classes * shape.channels
    return 1000 * _bound(products, 3 * batch * shape.side**2 * shape.channels * BYTES[dtype], dtype)


def _work(program: str, shape: Shape, dtype: str, batch: int, tiles: dict) -> tuple[float, float]:
    """FLOPs of whole tiles, and bytes of every tensor once."""
    positions, size = shape.side**2, BYTES[dtype]
    widths = widths_of(shape)
    if "BLOCK_C" in tiles:
        channels, products = sum(_up(width, tiles["BLOCK_C"]) for width in widths), 2
    else:
        channels, products = sum(blocks_of(*widths).values()), 4
    padded = _up(positions, tiles["BLOCK_L"]) * _up(shape.num_classes, tiles["BLOCK_M"])
    flops = products * batch * padded * shape.num_heads * channels
    # Forward: a copy channels last, and read; the gradient of the features is as large as they are.
    passes = {"forward": 3, "feature gradient": 2}.get(program, 1)
    moved = passes * batch * positions * shape.channels * size + shape.num_classes * shape.channels * size
    if program == "logit gradients":
        moved += 2 * shape.num_heads * batch * positions * shape.num_classes * size
    return flops, moved + 3 * batch * shape.num_heads * shape.num_classes * 4


def _bound(flops: float, moved: float, dtype: str) -> float:
    return max(flops / FLOPS_PER_S[dtype], moved / BYTES_PER_S)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _table(results: list[dict]) -> list[list[str]]:
    header = (
        "sm, shape, dtype, program, tiles, registers, stack B, shared KiB, occupancy, loads by bits, cp.async, products"
    )
    rows = [
        [
            str(found["sm"]),
            found["shape"],
            found["dtype"],
            found["program"] + (", dropout" if found["dropout"] else ""),
            " x ".join(str(size) for name, size in found["tiles"].items() if name.startswith("BLOCK"))
            + f", {found['tiles']['warps']} warps",
            str(found["registers"]),
            str(found["stack_bytes"]),
            str(found["shared_bytes"] // 1024),
            f"{found['occupancy']:.2f}",
            ", ".join(f"{number} of {bits}" for bits, number in found["loads"].items()),
            str(found["copies"]),
            ", ".join(f"{number} {name}" for name, number in found["products"].items()),
        ]
        for found in results
    ]
    return [header.split(", "), *rows]


def _times(times: dict[str, dict[str, float]]) -> list[list[str]]:
    rows = [
        [name, f"{t['expected_ms']:.3f}", f"{t['floor_ms']:.3f}", f"{t['expected_ms'] / t['floor_ms']:.2f}"]
        for name, t in times.items()
    ]
    return [["head", "expected ms", "floor ms", "ratio"], *rows]
