"""One process or many: who am I, where do my tensors live, and the few things ranks say to each other."""

import errno
import os
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from noah.devices import choose_device, describe_device

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others, who may still decode, evaluate or write, before it says that one is gone."""


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
        # (`static_graph` groups them anew, too.) On a GPU gradients live where they are exchanged.
        on_cpu = self.device.type == "cpu"
        return DistributedDataParallel(model, find_unused_parameters=on_cpu, gradient_as_bucket_view=not on_cpu)

    def own_gradients(self, model: nn.Module) -> AbstractContextManager:
        """Around a pass that is not the step's last: its gradients are added up here, and exchanged with the last."""
        return model.no_sync() if self.size > 1 else nullcontext()

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

    def check_alike(self) -> None:
        """ValueError where the ranks compute on different cards: one would wait for another, and bits be nobody's."""
        if self.device.type == "cpu":
            return
        kinds = [own["device"] for own in self.gather({"device": describe_device(self.device)})]
        if len(set(kinds)) > 1:
            listed = ", ".join(f"rank {rank}: {kind}" for rank, kind in enumerate(kinds))
            raise ValueError(f"the ranks have different cards, expected the same for all: {listed}")

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
    place = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    on_gpu = place.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(place)
    if size > 1:
        backend, bound_to = ("nccl", place) if on_gpu else ("gloo", None)
        dist.init_process_group(backend, device_id=bound_to, timeout=PATIENCE)
    ranks = World(rank, size, place)
    try:
        ranks.check_alike()
        yield ranks
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
