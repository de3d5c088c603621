"""The NOAH head as the paper's code computes it, against the lean implementations of this package."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from noah.benchmark.interleaved import measure
from noah.benchmark.official import Official, Shape
from noah.benchmark.roof import Work, measure_roof, wait_for
from noah.evaluate.cost import MIB, running_maximum
from noah.heads import NOAH
from noah.heads.kernels.gemm import linear

SHAPES = {
    "mobilenetv2": Shape(1280, 8, 0.25, 7),
    "resnet50": Shape(2048, 4, 0.125, 7),
    "resnet18": Shape(512, 4, 0.5, 7),
    "deit_tiny": Shape(192, 4, 0.5, 14),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TASKS = {"inference": (False, 0.0), "training": (True, 0.0), "training, dropout": (True, 0.1)}
"""Name to (whether gradients are computed, rate of value dropout)."""
INDUCTOR = "inductor"
"""The official formulation as torch.compile has it."""
FUSED = "fused"
"""What `NOAH.fuse()` makes of a head."""
PRODUCT = "one product"
"""What inference cannot do without: the name of `product` in results."""


def benchmark_head(
    shapes: dict[str, Shape],
    impls: list[str],
    *,
    batches: list[int],
    dtypes: list[str],
    rounds: int,
    channels_last: bool = False,
    device: str = "cpu",
) -> list[dict]:
    """Measure `impls` against `Official`, which has the same weights and features.

    Args:
        shapes: As `SHAPES`.
        impls: Names of `noah.heads.kernels.IMPLEMENTATIONS`, INDUCTOR or FUSED, of which the last only infers.
        batches: Images of a call. Training is measured with the largest.
        dtypes: Names of `DTYPES`, of weights and features.
        rounds: See `measure`.
        channels_last: Memory layout of the features.

    Returns:
        For each shape, dtype, batch and task: these four; `times`, of `measure`; `peak_mib` per implementation, without
        weights and features; `roof_share` per implementation, see `Roof`; `difference` per implementation: the largest
        of the outputs of inference, as a share of the largest output of the official code.
    """
    torch.manual_seed(0)
    if device == "cuda":
        # It multiplies convolutions as TF32, and the official head is one: what it is compared with does so, too.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    found = []
    for shape_name, shape in shapes.items():
        for dtype in dtypes:
            roof = measure_roof(torch.device(device), DTYPES[dtype])
            for batch in batches:
                x = torch.randn(batch, shape.channels, shape.side, shape.side, device=device)
                layout = torch.channels_last if channels_last else torch.contiguous_format
                x = x.to(DTYPES[dtype]).contiguous(memory_format=layout)
                for task, (trains, drop_rate) in TASKS.items():
                    if trains and batch < max(batches):
                        continue
                    torch._dynamo.reset()  # else what is compiled for many shapes becomes one for any, and then none
                    wanted = [impl for impl in impls if not (trains and impl == FUSED)]
                    heads = {name: h.to(device) for name, h in build(shape, wanted, drop_rate, DTYPES[dtype]).items()}
                    calls = {name: caller(head, x, trains) for name, head in heads.items()}
                    if not trains:
                        calls[PRODUCT] = product(shape, x)
                    times, needed = measure(calls, rounds), work(shape, x, trains)
                    found.append(
                        {
                            "shape": shape_name,
                            "dtype": dtype,
                            "batch": batch,
                            "task": task,
                            "times": times,
                            "peak_mib": {name: peak_mib(call, x.device) for name, call in calls.items()},
                            "roof_share": {name: roof.share(needed, t["wall_s"][1]) for name, t in times.items()},
                            "difference": differences(heads, x),
                        }
                    )
    return found


def build(shape: Shape, impls: list[str], drop_rate: float, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The official head and ours with its weights."""
    official = Official(shape, drop_rate)
    heads = {"official": official}
    for impl in impls:
        if impl == INDUCTOR:
            heads[impl] = torch.compile(copy.deepcopy(official))
            continue
        arguments = shape.channels, shape.num_classes, shape.num_heads, shape.key_ratio, drop_rate
        head = NOAH(*arguments, impl="auto" if impl == FUSED else impl)
        head.load_state_dict(official.state_dict())
        heads[impl] = head.eval().fuse() if impl == FUSED else head
    return {name: head.to(dtype) for name, head in heads.items()}


def caller(head: nn.Module, x: Tensor, trains: bool) -> Callable[[], None]:
    """What is timed: a call without gradients, or one with a backward pass to weights and features."""

    def inference():
        head.eval()
        with torch.no_grad():
            head(x)
        wait_for(x.device)

    def training():
        head.train()
        head.zero_grad(set_to_none=True)
        features = x.detach().requires_grad_()
        head(features).sum().backward()
        head.zero_grad(set_to_none=True)
        wait_for(x.device)

    return training if trains else inference


def differences(heads: dict[str, nn.Module], x: Tensor) -> dict[str, float]:
    """Largest difference to the official outputs, as a share of the largest of those."""
    with torch.no_grad():
        outputs = {name: head.eval()(x).float() for name, head in heads.items()}
    official = outputs.pop("official")
    return {name: float((out - official).abs().max() / official.abs().max()) for name, out in outputs.items()}


def product(shape: Shape, x: Tensor) -> Callable[[], None]:
    """One matrix product with as many multiplications as the head's, and nothing else."""
    rows = x.flatten(2).transpose(1, 2).reshape(-1, shape.channels).contiguous()
    weight = torch.randn(shape.num_classes, shape.channels, dtype=x.dtype, device=x.device)

    def call():
        torch.mm(rows, weight.t()) if x.is_cuda else linear(rows, weight)
        wait_for(x.device)

    return call


def work(shape: Shape, x: Tensor, trains: bool) -> Work:
    """What the head cannot do without: features, weights and scores once, and one product, three to train."""
    flops = 2 * x.numel() * shape.num_classes
    weights, scores = shape.channels * shape.num_classes, len(x) * shape.num_classes
    numbers = x.numel() + weights + scores
    return (
        Work(3 * flops, (2 * numbers + x.numel() + weights) * x.itemsize)
        if trains
        else Work(flops, numbers * x.itemsize)
    )


def peak_mib(call: Callable[[], None], device: torch.device) -> float:
    """Largest memory that a call holds: as torch's profiler sees it, or CUDA's allocator."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - held) / MIB
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    return running_maximum(profiler) / MIB
