"""TorchScript of heads: they check shapes and choose kernels in plain Python, which it can trace but not compile."""

import torch
from torch import Tensor, nn


class Scriptable:
    """Mixed into heads: `torch.jit.script` of a head, or of a model that has one, takes the head's trace.

    The trace is that of inference, of whichever layouts (B, C, H, W) and (B, L, C) the head takes.
    """

    def __prepare_scriptable__(self) -> nn.Module:
        layouts = {"of_map": (2, self.in_features, 2, 2), "of_tokens": (2, 4, self.in_features)}
        like, traces = next(iter(self.state_dict().values())), {}
        modes = {module: module.training for module in self.modules()}
        self.eval()
        for name, shape in layouts.items():
            try:
                traces[name] = torch.jit.trace(self, like.new_zeros(shape), check_trace=False)
            except ValueError:  # a layout that this head refuses
                continue
        for module, training in modes.items():
            module.training = training
        if not traces:
            raise ValueError(f"{type(self).__name__} takes neither {layouts['of_map']} nor {layouts['of_tokens']}")
        return Traced(**traces) if len(traces) == 2 else nn.Sequential(*traces.values())


class Traced(nn.Module):
    """The traces of a head that takes both layouts."""

    def __init__(self, of_map: nn.Module, of_tokens: nn.Module):
        super().__init__()
        self.of_map, self.of_tokens = of_map, of_tokens

    def forward(self, x: Tensor) -> Tensor:
        return self.of_map(x) if x.ndim == 4 else self.of_tokens(x)
