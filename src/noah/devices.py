"""Where a process computes: the device that was asked for, what it must be able to do, what is said if it cannot."""

from pathlib import Path

import torch

from noah.machine import cpu_name

NVIDIA = Path("/dev/nvidiactl")
"""Is there wherever NVIDIA's driver is."""
NONE_GIVEN = "No CUDA GPUs are available"
"""What CUDA says where there is a driver, and this job was given no GPU: then `auto` is the CPU."""
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast uses, by a recipe's `precision`; the others are float32 throughout."""
GONE = (
    "unspecified launch failure",
    "uncorrectable ECC error",
    "fallen off the bus",
    "GPU is lost",
    "busy or unavailable",
    "no CUDA-capable device",
)
"""What CUDA says of a card that failed, which is not the run's fault."""


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """The device of this process.

    Args:
        device: `auto` takes a GPU where there is one; else `cpu` or `cuda`.
        local_rank: Number of this process among those of its node.

    Raises:
        ValueError: Another name, no GPU that torch can use though one is there or was asked for, or more processes than
            GPUs.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is '{device}', expected auto, cpu or cuda")
    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        reason = _reason() if device == "cuda" or (torch.version.cuda and NVIDIA.exists()) else ""
        if device == "cuda" or (reason and NONE_GIVEN not in reason):
            raise ValueError(f"device is '{device}', but torch sees no GPU here{reason}")
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ValueError(
            f"environment: LOCAL_RANK is {local_rank}, expected below {count}, the number of GPUs that torch sees: "
            "start one process per GPU"
        )
    return torch.device("cuda", local_rank)


def _reason() -> str:
    """What CUDA has to say about it, such as that the driver is too old."""
    if not torch.version.cuda:
        return f": torch {torch.__version__} was built without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f": {first_line(error)} (with device cpu it goes on without)"
    return ""


def check_precision(field: str, precision: str, device: torch.device) -> None:
    """ValueError, which names the field, where a GPU would only imitate bf16, many times slower."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"{field} is bf16, which {describe_device(device)} does not have, expected fp16 or fp32")


def check_memory(what: str, needed_bytes: int, device: torch.device) -> None:
    """ValueError where a GPU has less memory free than `what` needs at least."""
    if device.type != "cuda":
        return
    free, total = (size / 2**20 for size in torch.cuda.mem_get_info(device))
    free += (torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) / 2**20  # this process has it
    if needed_bytes / 2**20 > free:
        raise ValueError(
            f"{what} needs at least {needed_bytes / 2**20:,.0f} MiB, and {describe_device(device)} has {free:,.0f} of "
            f"its {total:,.0f} MiB free, expected a smaller micro_batch, grad_checkpointing or a larger card"
        )


def is_gone(error: Exception) -> bool:
    """Whether `error` says that the GPU failed or disappeared: on another one the same work may succeed."""
    return isinstance(error, RuntimeError) and "CUDA" in str(error) and any(words in str(error) for words in GONE)


def first_line(error: Exception) -> str:
    """Without the advice for programmers that torch puts below."""
    return str(error).strip().splitlines()[0]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Of bf16 or fp16, or none."""
    return torch.autocast(device.type, dtype=HALF.get(precision, torch.bfloat16), enabled=precision in HALF)


def describe_device(device: torch.device) -> str:
    """`cuda: NVIDIA H100` or `cpu: AMD EPYC`."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {cpu_name()}"
