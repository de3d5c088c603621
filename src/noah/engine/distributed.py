"""One process or many: who am I, where do my tensors live, and the few things ranks say to each other."""

import errno
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
        if self.size == 1:
            return model
        # On the CPU, where bits are promised: otherwise gradients are grouped anew after the first step, and a resumed
        # run of three or more ranks would add them up in another order.
        return DistributedDataParallel(model, find_unused_parameters=self.device.type == "cpu")

    def any(self, *flags: bool) -> list[bool]:
        """Which of the flags are set on any rank; the same answer on every rank."""
        if self.size == 1:
            return list(flags)
        tensor = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return [value > 0 for value in tensor.tolist()]

    def gather(self, own: dict) -> list[dict]:
        """What every rank has, in the order of ranks, on every rank: small dicts of numbers and tensors."""
        if self.size == 1:
            return [own]
        all_of_them: list = [None] * self.size
        dist.all_gather_object(all_of_them, own)
        return all_of_them

    def share(self, module: nn.Module) -> nn.Module:
        """Give every rank the weights and buffers of the first, and return the module.

        Training keeps the weights equal, but every rank sees other images, and so has other statistics in BatchNorm.
        """
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)
        return module

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

    Raises:
        ConnectionResetError: Another rank is gone. That one's error stands in the log before this one.
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
    except RuntimeError as error:
        if size > 1 and _is_about_another_rank(error):
            gone = "another rank of this run is gone, and its own error stands above"
            raise ConnectionResetError(errno.ECONNRESET, gone, f"rank {rank} of {size}") from None
        raise
    # Not after an error: the others would notice at once, and their complaints would stand above the cause.
    if size > 1:
        dist.destroy_process_group()


def _is_about_another_rank(error: RuntimeError) -> bool:
    """NCCL has a class for it; gloo only its name, which stands in the path of the source that complains."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error) or "closed by peer" in str(error)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast, or none."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def describe_device(device: torch.device) -> str:
    """`cuda: NVIDIA H100` or `cpu: AMD EPYC`."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {cpu_name()}"
