"""A GPU that is not there: tensors have shapes and a device, and whoever waits for the device is counted."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)


class Waits(TorchDispatchMode):
    """Counts what makes a program wait for a GPU: numbers that are read, and copies that are not asked to go beside."""

    def __init__(self):
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            self.counted["read"] += args[0].device.type == "cuda"
            return 0.5 if args[0].is_floating_point() else 1
        out = func(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            source, target = (args[0], out) if name == "_to_copy" else (args[1], args[0])
            if source.device.type != target.device.type and not kwargs.get("non_blocking"):
                self.counted[f"copied to {target.device.type}"] += 1
        return out


class Fakes(FakeTensorMode):
    """Copies of tensors belong to the mode of the original."""

    def __deepcopy__(self, memo):
        return self


class Event:
    """Of CUDA; the loss of a step is read when it has arrived, a step later."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


def backward_gives(model: nn.Module):
    """In place of `Tensor.backward`, whose engine asks CUDA's driver for the device: a gradient for every parameter."""

    def backward(loss: torch.Tensor) -> None:
        assert loss.requires_grad
        for parameter in model.parameters():
            fresh = torch.empty_like(parameter)
            parameter.grad = fresh if parameter.grad is None else parameter.grad.add_(fresh)

    return backward


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Inside, tensors live on `CUDA` and hold nothing."""
    generator = torch.Generator
    with Fakes(), Waits() as waits:  # which begins by looking for a GPU, and must not be told of one
        for name, value in (
            ("is_available", lambda: True),
            ("is_bf16_supported", lambda including_emulation=True: True),
            ("_lazy_init", lambda: None),
            ("manual_seed", lambda seed: None),
            ("Event", Event),
        ):
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch, "Generator", lambda device=None: generator())
        yield waits.counted


def as_fake(module: nn.Module, *, channels_last: bool = False) -> nn.Module:
    """The module with tensors that hold nothing, on `CUDA`, where it stays; inside of `fake_gpu`."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    layout = torch.channels_last if channels_last and tensor.ndim == 4 else torch.contiguous_format
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA, memory_format=layout)
                    tensors[name] = nn.Parameter(fake) if isinstance(tensor, nn.Parameter) else fake
    module.to = lambda *_, **__: module  # torch cannot move parameters that are fake
    return module
