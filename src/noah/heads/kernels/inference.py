"""A trained NOAH head with everything gone that inference does not need."""

import warnings

import torch
from torch import Tensor, nn

from noah.heads.kernels import best, is_plain, opaque, tiles, wants_plain_operations
from noah.heads.kernels.refusals import check_dtypes, dtype_of
from noah.heads.positions import as_map
from noah.heads.scripted import Scriptable


class FusedNOAH(Scriptable, nn.Module):
    """(B, C, H, W) or (B, L, C) features to (B, M) class scores, the same as those of the NOAH head it is made of.

    The key bias is gone, since softmax does not see it; the N value biases of a class are one, since attention sums
    to 1; weights lie channels first, (N, C/N, M), as the matrix products read them. There is nothing to train: all
    tensors are buffers, and the state dict is not the head's.

    Args:
        head: A `NOAH` in eval mode with the paper's attention and merge `sum`.

    Raises:
        ValueError: Another head, or one whose convolutions are not plain (hooks, adapters, parametrizations).
    """

    def __init__(self, head: nn.Module):
        super().__init__()
        if head.training:
            raise ValueError("fuse() of a head in training mode, expected eval() before")
        if not head.paper or head.merge != "sum":
            raise ValueError(
                f"fuse() of a head with {head.extra_repr()}, expected score softmax, merge sum, kernel_size 1, "
                "split groups, split keys and values"
            )
        for name, conv in (("query", head.query), ("value", head.value)):
            if not is_plain(conv):
                raise ValueError(
                    f"fuse() of a head whose {name} is a {type(conv).__name__} with hooks, an adapter or a "
                    "parametrization, expected a plain Conv2d: merge or remove them first"
                )
        self.in_features, self.num_heads, self.num_classes = head.in_features, head.num_heads, head.num_classes
        shape = (head.num_heads, head.num_classes, -1)
        for name, conv in (("key_weight", head.query), ("value_weight", head.value)):
            packed = conv.weight.detach().view(shape).transpose(1, 2).clone(memory_format=torch.contiguous_format)
            self.register_buffer(name, packed)
        self.register_buffer("bias", head.value.bias.detach().view(shape[:2]).sum(0))
        super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        x = as_map(x, self.in_features).flatten(2).transpose(1, 2)
        check_dtypes(x, self.key_weight, self.value_weight)
        impl = best(x.device.type, self.num_classes)
        if wants_plain_operations(x) or (torch.is_grad_enabled() and x.requires_grad):
            impl = "reference"
        if impl == "reference" or (impl == "triton" and x.dtype == torch.float64):
            keys, values = x.split([self.num_heads * w.shape[1] for w in (self.key_weight, self.value_weight)], 2)
            attention = _project(keys, self.key_weight).softmax(2)
            return ((attention * _project(values, self.value_weight)).sum((1, 2)) + self.bias).to(dtype_of(x))
        device = x.device.type
        dtype = dtype_of(x)
        weights = [w.transpose(1, 2).to(dtype) for w in (self.key_weight, self.value_weight)]
        if torch.compiler.is_compiling():
            heads, _ = opaque.pool(impl, None, x.to(dtype), *weights, None, None, 0.0)
            return (heads.sum(1) + self.bias).to(dtype)
        with torch.autocast(device, enabled=False):
            heads = (_on_gpu if impl == "triton" else _on_cpu)(x.to(dtype), *weights)
            return (heads.sum(1) + self.bias).to(dtype)

    def attention_maps(self, x: Tensor) -> Tensor:
        """As `NOAH.attention_maps`: (B, N, M, H, W) of a map, (B, N, M, L) of tokens."""
        tokens = as_map(x, self.in_features).flatten(2).transpose(1, 2)
        keys = tokens[..., : self.num_heads * self.key_weight.shape[1]]
        maps = _project(keys, self.key_weight).softmax(2).transpose(2, 3)
        return maps.unflatten(-1, x.shape[2:]) if x.ndim == 4 else maps

    def train(self, mode: bool = True) -> "FusedNOAH":
        """Stays as it is, with a warning: a model around it may train, this head does not."""
        if mode:
            warnings.warn("a fused NOAH head does not train: its weights stay as they are", stacklevel=2)
        return super().train(False)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.num_classes}, num_heads={self.num_heads}"


def _on_cpu(x: Tensor, key_weight: Tensor, value_weight: Tensor) -> Tensor:
    return tiles.pool_all(x, key_weight, value_weight, None, None, 0.0, tiles.must_shift(x, key_weight), tiles.PLAIN)


def _on_gpu(x: Tensor, key_weight: Tensor, value_weight: Tensor) -> Tensor:
    from noah.heads.kernels import triton_kernels

    # Without dropout no bias is read.
    return triton_kernels.pool_all(x, key_weight, value_weight, bias=key_weight, seed=0, drop_rate=0.0)[0]


def _project(x: Tensor, weight: Tensor) -> Tensor:
    """(B, L, N*c) and (N, c, M) to (B, N, L, M)."""
    return x.unflatten(2, weight.shape[:2]).transpose(1, 2) @ weight
