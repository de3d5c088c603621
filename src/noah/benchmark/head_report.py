"""The head's benchmark setting by setting, each in a process of its own, and its table."""

from pathlib import Path

import torch

from noah.benchmark.alone import alone
from noah.benchmark.head import DTYPES, SHAPES, benchmark_head
from noah.benchmark.interleaved import markdown, write
from noah.benchmark.memory import POLICIES
from noah.benchmark.roof import check_device


def run(
    shapes: list[str],
    *,
    impls: list[str],
    batches: list[int],
    dtypes: list[str],
    rounds: int,
    threads: int,
    channels_last: bool,
    memory: str,
    out: Path,
    classes: int = 1000,
    device: str = "cpu",
) -> str:
    """Measure, write `head.json` and `head.md` into `out` and return the table.

    Args:
        memory: A name of `POLICIES`.

    Raises:
        ValueError: An unknown shape, dtype, policy or device, or a device that is not here.
    """
    check_device(device)
    for name in shapes:
        if name not in SHAPES:
            raise ValueError(f"shape is '{name}', expected one of {', '.join(SHAPES)}")
    for name in dtypes:
        if name not in DTYPES:
            raise ValueError(f"dtype is '{name}', expected {' or '.join(DTYPES)}")
    if memory not in POLICIES:
        raise ValueError(f"memory is '{memory}', expected {' or '.join(POLICIES)}")
    settings = {"rounds": rounds, "channels_last": channels_last, "device": device}
    own = {"threads": threads, "memory": memory if device == "cpu" else None}
    results = []
    for name in shapes:
        for dtype in dtypes:
            arguments = {name: SHAPES[name]._replace(num_classes=classes)}, impls
            results += alone(benchmark_head, *arguments, batches=batches, dtypes=[dtype], **settings, **own)
    table = table_of(results, "cpu" if device == "cpu" else "wall")
    layout = "channels-last" if channels_last else "contiguous"
    title = f"The NOAH head against its official formulation, {layout} features, {classes:,} classes"
    title += f", {memory} memory" if device == "cpu" else f", {torch.cuda.get_device_name()}, TF32"
    settings |= {"classes": classes}
    settings |= {"memory": memory} if device == "cpu" else {}
    torch.set_num_threads(threads)  # which the report names
    write(out, "head", title, {**settings, "results": results}, table)
    return "\n".join(markdown(table))


def table_of(results: list[dict], clock: str = "cpu") -> list[list[str]]:
    """One row per implementation and setting: milliseconds, how many times faster, memory, share of the roof.

    Args:
        clock: `cpu` or `wall`: whose time counts. That of a GPU is `wall`.
    """
    rows = [
        [
            *("head", "dtype", "B", "task", "impl", f"{clock} ms", "official / this", "quartiles", "wall"),
            *("of the roof", "peak MiB", "less by"),
        ]
    ]
    for result in results:
        official = result["peak_mib"]["official"]
        for impl, times in result["times"].items():
            low, ratio, high = times.get(f"{clock}_ratio", [1.0] * 3)
            peak = result["peak_mib"][impl]
            rows.append(
                [
                    *(str(result[key]) for key in ("shape", "dtype", "batch", "task")),
                    impl,
                    f"{1000 * times[f'{clock}_s'][1]:.1f}",
                    f"{ratio:.2f}x",
                    f"{low:.2f}-{high:.2f}",
                    f"{times.get('wall_ratio', [1.0] * 3)[1]:.2f}x",
                    f"{result['roof_share'][impl]:.0%}",
                    f"{peak:.1f}",
                    f"{official / peak:.1f}x",
                ]
            )
    return rows
