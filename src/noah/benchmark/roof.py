"""What a device can do at most, measured, and which share of it something achieves: a roofline of two numbers."""

import time
from typing import NamedTuple

import torch

from noah.heads.kernels.gemm import linear

_SIZES = {"cpu": (1024, 2**26), "cuda": (8192, 2**30)}
"""Side of the square matrices that are multiplied, and bytes that are copied."""


class Work(NamedTuple):
    """What a computation cannot do without, however it is written."""

    flops: float
    bytes: float


class Roof(NamedTuple):
    """The two limits of a device for one dtype."""

    flops_per_s: float
    bytes_per_s: float

    def share(self, work: Work, seconds: float) -> float:
        """1 is as fast as the stricter limit allows."""
        return max(work.flops / self.flops_per_s, work.bytes / self.bytes_per_s) / seconds


def measure_roof(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> Roof:
    """One large matrix product and one large copy, each the best of some rounds."""
    side, size = _SIZES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    with torch.no_grad():
        product_s = _best_s(lambda: linear(a, b) if device.type == "cpu" else torch.mm(a, b), device, rounds)
        copy_s = _best_s(lambda: target.copy_(source), device, rounds)
    return Roof(2 * side**3 / product_s, 2 * size / copy_s)


def _best_s(call, device: torch.device, rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        wait_for(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_device(name: str) -> None:
    """ValueError unless it is `cpu`, or `cuda` where torch sees a GPU."""
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"device is '{name}', expected cpu, or cuda where torch sees a GPU")
