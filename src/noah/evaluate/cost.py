"""What a head costs: parameters, multiply-accumulates, time and memory, all arms of a backbone side by side.

Machines drift: clocks, caches and neighbours change within minutes. So the arms take turns, round by round, in one
process, each round starting with another arm, and medians over the rounds are kept.
"""

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from noah.machine import cpu_name

MIB = 2**20
LATENCIES_PER_ROUND = 20
"""Batches of one image that are timed each round, so that a p95 means something."""
COLD_CALLS = 3
"""Before them, in every round: the first follow a training step of another model, and find caches as that left them."""
MOST_WARM_UP = 20
"""Rounds, where times never settle."""


def measure_cost(
    builders: dict[str, Callable[[], nn.Module]],
    *,
    image_size: int,
    num_classes: int,
    batch: int = 64,
    rounds: int = 20,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    in_chans: int = 3,
    channels_last: bool = False,
) -> dict:
    """Measure models of timm's interface against each other.

    Args:
        builders: Per arm, what builds its model.
        image_size: Side of the images, in pixels.
        num_classes: M, for the labels of a training step.
        batch: Images of a training step, and of inference for images/s.
        rounds: Times that every arm has its turn.
        device: Where to measure.
        dtype: float32, or what autocast shall use.
        in_chans: Channels of the images.
        channels_last: Memory layout of models and images.

    Returns:
        The machine (device, dtype, threads, torch), the setting (image_size, batch, rounds, channels_last),
        `warm_up_rounds` (until times settled) and `arms`, per arm:
            parameters, head_parameters: All, and the head's.
            macs, head_macs: Of one image; see `count_macs`.
            kernel: What computes the head where it has several ways (NOAH), else None.
            latency_ms_p50, latency_ms_p95: Inference of one image, again and again.
            latency_ms_cold: The same just after something else, median.
            images_per_s: Inference of `batch` images, median.
            train_images_per_s: Forward, cross-entropy and backward of `batch` images, median; no optimizer.
            peak_memory_mib: Of such a training step; see `peak_memory`.

    Raises:
        ValueError: No arm, or a number below 1.
    """
    for field, value in (("builders", len(builders)), ("batch", batch), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"{field}: {value}, expected at least 1")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    models = {arm: build().to(device, memory_format=layout) for arm, build in builders.items()}
    images = torch.randn(batch, in_chans, image_size, image_size, device=device).contiguous(memory_format=layout)
    labels = torch.randint(num_classes, (batch,), device=device)

    arms = {
        arm: {
            "parameters": sum(p.numel() for p in model.parameters()),
            "head_parameters": sum(p.numel() for p in model.get_classifier().parameters()),
            **count_macs(model, images[:1]),
            "kernel": _kernel(model.get_classifier(), images.device.type),
        }
        for arm, model in models.items()
    }
    times = {arm: {"cold": [], "latency": [], "inference": [], "training": []} for arm in models}
    names = list(models)
    warm_up = _warm_up(lambda: [_one_turn(model, images, labels, dtype) for model in models.values()])
    for turn in range(rounds):
        for arm in names[turn % len(names) :] + names[: turn % len(names)]:
            for kind, seconds in _one_turn(models[arm], images, labels, dtype).items():
                times[arm][kind] += seconds
    for arm, model in models.items():
        latency_ms = 1000 * np.array(times[arm]["latency"])
        arms[arm] |= {
            "latency_ms_p50": float(np.percentile(latency_ms, 50)),
            "latency_ms_p95": float(np.percentile(latency_ms, 95)),
            "latency_ms_cold": 1000 * statistics.median(times[arm]["cold"]),
            "images_per_s": batch / statistics.median(times[arm]["inference"]),
            "train_images_per_s": batch / statistics.median(times[arm]["training"]),
            "peak_memory_mib": peak_memory(model, images, labels, dtype) / MIB,
        }
    return {
        "device": torch.cuda.get_device_name(images.device) if images.is_cuda else cpu_name(),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "image_size": image_size,
        "batch": batch,
        "rounds": rounds,
        "warm_up_rounds": warm_up,
        "channels_last": channels_last,
        "arms": arms,
    }


def _warm_up(one_round: Callable[[], object]) -> int:
    """Rounds until one is at most 5% faster than the fastest before it: caches, clocks, and kernels that are chosen."""
    rounds: list[float] = []
    while len(rounds) < 2 or (len(rounds) < MOST_WARM_UP and rounds[-1] < 0.95 * min(rounds[:-1])):
        start = time.perf_counter()
        one_round()
        rounds.append(time.perf_counter() - start)
    return len(rounds)


def _kernel(head: nn.Module, device: str) -> str | None:
    return head.kernel(device) if hasattr(head, "kernel") else None


def count_macs(model: nn.Module, image: Tensor) -> dict[str, int]:
    """Multiply-accumulates for one image, {"macs", "head_macs"}: half of what torch's FLOP counter finds, and of that
    what `get_classifier()` computes: layers between features and classifier belong to no head.

    It counts convolutions and matrix products, those inside of attention included. It leaves out what goes element by
    element: norms, activations, softmax, pooling, and NOAH's product of attention and values (N*M*L on top of the C*M*L
    of its convolutions).

    Args:
        model: A model of timm's interface.
        image: (1, in_chans, H, W).
    """
    model.eval()
    head, in_head = model.get_classifier(), []
    # Torch knows no count for the fused attention of CPUs; the plain one consists of matrix products.
    # Its counter follows gradients, and fails without them where a parameter is the input of a layer.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        hooks = (
            head.register_forward_pre_hook(lambda *_: in_head.append(-counter.get_total_flops())),
            head.register_forward_hook(lambda *_: in_head.append(counter.get_total_flops())),
        )
        model(image)
        for hook in hooks:
            hook.remove()
    return {"macs": counter.get_total_flops() // 2, "head_macs": sum(in_head) // 2}


def peak_memory(model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32) -> int:
    """Largest memory of a training step without optimizer, in bytes: weights, and what the step holds at once.

    The latter are activations, gradients and scratch space as torch's allocator sees them: on CUDA its own peak
    counter, on a CPU the running sum of the profiler's allocations and frees. Images and labels are left out, and so is
    what libraries allocate behind torch's back.

    Args:
        model: On the device of `images`.
        images: (B, in_chans, H, W).
        labels: (B,).
        dtype: float32, or what autocast shall use.
    """
    model.zero_grad(set_to_none=True)
    weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if images.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _train_step(model, images, labels, dtype)
        torch.cuda.synchronize()
        step = torch.cuda.max_memory_allocated() - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            _train_step(model, images, labels, dtype)
        step = running_maximum(profiler)
    model.zero_grad(set_to_none=True)
    return weights + step


def running_maximum(profiler: profile) -> int:
    """Largest sum of the allocations minus the frees of a profile, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    assert changes, "the profile has no memory events"
    return int(max(np.cumsum([size for _, size in changes])))


def _one_turn(model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype) -> dict[str, list[float]]:
    """Seconds of each timed call."""
    model.eval()
    with torch.no_grad(), _precision(images, dtype):
        calls = [_seconds(lambda: model(images[:1]), images) for _ in range(COLD_CALLS + LATENCIES_PER_ROUND)]
        inference = [_seconds(lambda: model(images), images)]
    training = [_seconds(lambda: _train_step(model, images, labels, dtype), images)]
    return {"cold": calls[:1], "latency": calls[COLD_CALLS:], "inference": inference, "training": training}


def _train_step(model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    with _precision(images, dtype):
        loss = F.cross_entropy(model(images), labels)
    loss.backward()


def _seconds(call: Callable[[], object], images: Tensor) -> float:
    """CUDA runs behind the program: wait for it on both sides."""
    wait = torch.cuda.synchronize if images.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def _precision(images: Tensor, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(images.device.type, dtype)
