"""The NOAH head as the paper's code computes it, against the lean implementations of this package."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from noah.benchmark.interleaved import markdown, measure, write
from noah.benchmark.memory import memory as memory_policy
from noah.evaluate.cost import MIB, running_maximum
from noah.heads import NOAH
from noah.heads.kernels.gemm import linear


class Shape(NamedTuple):
    """A head of the paper: its features are (B, C, side, side)."""

    channels: int
    num_heads: int
    key_ratio: float
    side: int
    num_classes: int = 1000


SHAPES = {
    "mobilenetv2": Shape(1280, 8, 0.25, 7),
    "resnet50": Shape(2048, 4, 0.125, 7),
    "resnet18": Shape(512, 4, 0.5, 7),
    "deit_tiny": Shape(192, 4, 0.5, 14),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TASKS = {"inference": (False, 0.0), "training": (True, 0.0), "training, dropout": (True, 0.1)}
"""Name to (whether gradients are computed, rate of value dropout)."""
PRODUCT = "one product"
"""What inference cannot do without: the name of `product` in results."""


class Official(nn.Module):
    """The formulation of the official code (OSVAI/NOAH, commit 2449201), whose (B, N, M, L) tensors are all there.

    Args:
        shape: Of the head.
        drop_rate: Of the values.
    """

    def __init__(self, shape: Shape, drop_rate: float = 0.0):
        super().__init__()
        self.num_heads, self.key_channels = shape.num_heads, int(shape.channels * shape.key_ratio)
        outputs = shape.num_heads * shape.num_classes
        self.query = nn.Conv2d(self.key_channels, outputs, 1, groups=shape.num_heads)
        self.value = nn.Conv2d(shape.channels - self.key_channels, outputs, 1, groups=shape.num_heads)
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        keys, values = x[:, : self.key_channels], x[:, self.key_channels :]
        attention = self.query(keys).flatten(2).unflatten(1, (self.num_heads, -1)).softmax(-1)
        scores = self.dropout(self.value(values).flatten(2).unflatten(1, (self.num_heads, -1)))
        return (attention * scores).sum(-1).sum(1)


def benchmark_head(
    shapes: dict[str, Shape],
    impls: list[str],
    *,
    batches: list[int],
    dtypes: list[str],
    rounds: int,
    channels_last: bool = False,
    before: Callable[[], object] = lambda: None,
) -> list[dict]:
    """Measure `impls` against `Official`, which has the same weights and features.

    Args:
        shapes: As `SHAPES`.
        impls: Names of `noah.heads.kernels.IMPLEMENTATIONS`.
        batches: Images of a call. Training is measured with the largest.
        dtypes: Names of `DTYPES`, of weights and features.
        rounds, before: See `measure`.
        channels_last: Memory layout of the features.

    Returns:
        For each shape, dtype, batch and task: these four; `times`, of `measure`; `peak_mib` per implementation, without
        weights and features; `difference` per implementation: the largest of the outputs of inference, as a share of
        the largest output of the official code.
    """
    found = []
    for shape_name, shape in shapes.items():
        for dtype in dtypes:
            for batch in batches:
                x = torch.randn(batch, shape.channels, shape.side, shape.side)
                layout = torch.channels_last if channels_last else torch.contiguous_format
                x = x.to(DTYPES[dtype]).contiguous(memory_format=layout)
                for task, (trains, drop_rate) in TASKS.items():
                    if trains and batch < max(batches):
                        continue
                    heads = build(shape, impls, drop_rate, DTYPES[dtype])
                    calls = {name: caller(head, x, trains) for name, head in heads.items()}
                    if not trains:
                        calls[PRODUCT] = product(shape, x)
                    found.append(
                        {
                            "shape": shape_name,
                            "dtype": dtype,
                            "batch": batch,
                            "task": task,
                            "times": measure(calls, rounds, before),
                            "peak_mib": {name: peak_mib(call) for name, call in calls.items()},
                            "difference": differences(heads, x),
                        }
                    )
    return found


def build(shape: Shape, impls: list[str], drop_rate: float, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The official head and ours with its weights."""
    official = Official(shape, drop_rate)
    heads = {"official": official}
    for impl in impls:
        heads[impl] = NOAH(
            shape.channels, shape.num_classes, shape.num_heads, shape.key_ratio, drop_rate=drop_rate, impl=impl
        )
        heads[impl].load_state_dict(official.state_dict())
    return {name: head.to(dtype) for name, head in heads.items()}


def caller(head: nn.Module, x: Tensor, trains: bool) -> Callable[[], None]:
    """What is timed: a call without gradients, or one with a backward pass to weights and features."""

    def inference():
        head.eval()
        with torch.no_grad():
            head(x)

    def training():
        head.train()
        head.zero_grad(set_to_none=True)
        features = x.detach().requires_grad_()
        head(features).sum().backward()
        head.zero_grad(set_to_none=True)

    return training if trains else inference


def differences(heads: dict[str, nn.Module], x: Tensor) -> dict[str, float]:
    """Largest difference to the official outputs, as a share of the largest of those."""
    with torch.no_grad():
        outputs = {name: head.eval()(x).float() for name, head in heads.items()}
    official = outputs.pop("official")
    return {name: float((out - official).abs().max() / official.abs().max()) for name, out in outputs.items()}


def product(shape: Shape, x: Tensor) -> Callable[[], Tensor]:
    """One matrix product with as many multiplications as the head's, and nothing else."""
    rows = x.flatten(2).transpose(1, 2).reshape(-1, shape.channels).contiguous()
    weight = torch.randn(shape.num_classes, shape.channels, dtype=x.dtype)
    return lambda: linear(rows, weight)


def peak_mib(call: Callable[[], None]) -> float:
    """Largest memory that a call holds, as torch's profiler sees it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    return running_maximum(profiler) / MIB


def table_of(results: list[dict]) -> list[list[str]]:
    """One row per implementation and setting: milliseconds of CPU time, how many times faster, memory."""
    rows = [
        ["head", "dtype", "B", "task", "impl", "CPU ms", "official / this", "quartiles", "wall", "peak MiB", "less by"]
    ]
    for result in results:
        official = result["peak_mib"]["official"]
        for impl, times in result["times"].items():
            low, ratio, high = times.get("cpu_ratio", [1.0] * 3)
            peak = result["peak_mib"][impl]
            rows.append(
                [
                    *(str(result[key]) for key in ("shape", "dtype", "batch", "task")),
                    impl,
                    f"{1000 * times['cpu_s'][1]:.1f}",
                    f"{ratio:.2f}x",
                    f"{low:.2f}-{high:.2f}",
                    f"{times.get('wall_ratio', [1.0] * 3)[1]:.2f}x",
                    f"{peak:.1f}",
                    f"{official / peak:.1f}x",
                ]
            )
    return rows


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
) -> str:
    """Measure, write `head.json` and `head.md` into `out` and return the table.

    Raises:
        ValueError: An unknown shape, or what `memory` raises.
    """
    for name in shapes:
        if name not in SHAPES:
            raise ValueError(f"shape is '{name}', expected one of {', '.join(SHAPES)}")
    before = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, before)
        clear = stack.enter_context(memory_policy(memory))
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        results = benchmark_head(
            {name: SHAPES[name] for name in shapes},
            impls,
            batches=batches,
            dtypes=dtypes,
            rounds=rounds,
            channels_last=channels_last,
            before=clear,
        )
        table = table_of(results)
        layout = "channels-last" if channels_last else "contiguous"
        title = f"The NOAH head against its official formulation, {layout} features, {memory} memory"
        settings = {"channels_last": channels_last, "memory": memory, "rounds": rounds}
        write(out, "head", title, {**settings, "results": results}, table)
    return "\n".join(markdown(table))
