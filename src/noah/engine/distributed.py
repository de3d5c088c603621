"""One process or many: who am I, where do my tensors live, and the few things ranks say to each other."""

import os
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from noah.machine import cpu_name


@dataclass(frozen=True)
class World:
    """The processes of a run, as torchrun describes them in the environment."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose gradients are averaged over the ranks."""
        return DistributedDataParallel(model) if self.size > 1 else model

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        if self.size == 1:
            return flag
        tensor = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return bool(tensor.item())

    def sum(self, *values: float) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def merge(self, rows: torch.Tensor) -> torch.Tensor:
        """Fill each rank's NaN rows with those of the rank that has them. Every row stands on one rank only."""
        if self.size == 1:
            return rows
        filled = ~rows.isnan().all(1)
        owners = filled.to(torch.int64)
        values = torch.where(filled[:, None], rows, torch.zeros(()))
        values, owners = values.to(self.device), owners.to(self.device)
        dist.all_reduce(values)
        dist.all_reduce(owners)
        values[owners == 0] = torch.nan
        return values.cpu()

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


@contextmanager
def world(device: str = "auto"):
    """The World of this process; joins the process group when torchrun started more than one.

    Args:
        device: `auto` takes a GPU where there is one; else `cpu` or `cuda`.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is '{device}', expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch sees no GPU here")
    use_gpu = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(place)
    if size > 1:
        dist.init_process_group("nccl" if use_gpu else "gloo")
    try:
        yield World(rank, size, place)
    finally:
        if size > 1:
            dist.destroy_process_group()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast, or none."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def describe_device(device: torch.device) -> str:
    """`cuda: NVIDIA H100` or `cpu: AMD EPYC`."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {cpu_name()}"
