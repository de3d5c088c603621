"""NOAH, the non-global attentive head of arXiv 2402.02377: each class looks at the positions that matter to it.

Names, shapes and the order of the channel split are those of the official code (OSVAI/NOAH, commit 2449201), so that
its released weights fit.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from noah.backbones import split_channels
from noah.heads.checks import check_choice, check_scores
from noah.heads.kernels import best, choose
from noah.heads.kernels.inference import FusedNOAH
from noah.heads.kernels.reference import SCORES, attention
from noah.heads.positions import as_map
from noah.heads.scripted import Scriptable


def _init_official(query: nn.Conv2d, value: nn.Conv2d, num_heads: int) -> None:
    for conv in (query, value):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")


def _init_official_mlp(query: nn.Conv2d, value: nn.Conv2d, num_heads: int) -> None:
    """LeCun normal: cut at two standard deviations, which are widened to make up for the cut (as JAX and timm do)."""
    for conv in (query, value):
        std = 1 / math.sqrt(_fan_in(conv)) / 0.87962566103423978
        nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)


def _init_small_m(query: nn.Conv2d, value: nn.Conv2d, num_heads: int) -> None:
    """Almost uniform attention whatever M, and class scores as large as those of `nn.Linear` on the mean."""
    nn.init.normal_(query.weight, std=0.1 / math.sqrt(_fan_in(query)))
    nn.init.normal_(value.weight, std=1 / math.sqrt(3 * num_heads * _fan_in(value)))


def _fan_in(conv: nn.Conv2d) -> int:
    return conv.weight[0].numel()


INITS: dict[str, Callable[[nn.Conv2d, nn.Conv2d, int], None]] = {
    "official": _init_official,
    "official_mlp": _init_official_mlp,
    "small_m": _init_small_m,
}
"""Fill the weights of (query, value) for N heads; biases start at zero in all of them."""

MERGES: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda heads: heads.sum(dim=1),
    "mean": lambda heads: heads.mean(dim=1),
    "max": lambda heads: heads.amax(dim=1),
    "concat+linear": lambda heads: heads.flatten(1),
}
"""From (B, N, M) to (B, M); `concat+linear` gives (B, N*M), which a linear layer takes to (B, M)."""


class NOAH(Scriptable, nn.Module):
    """(B, C, H, W) or (B, L, C) features to (B, M) class scores.

    The first `int(r * C)` channels give keys, the rest values; N heads divide each part evenly. For head n and class m
    a grouped 1x1 convolution `query` scores every position, a softmax over the positions turns that into attention,
    and the attention averages what a second grouped convolution, `value`, says of the class. The heads are summed:

        out[b, m] = sum_n sum_l softmax_l(query(keys))[b, n, m, l] * dropout(value(values))[b, n, m, l]

    Parameters: C*M + 2*N*M. See docs/heads.md for costs, inits and where this departs from the paper.

    Args:
        in_features: C.
        num_classes: M.
        num_heads: N.
        key_ratio: r, share of the channels that are keys. Without meaning when `split_key_value` is False.
        drop_rate: Dropout on the values (B, N, M, L) while training.
        score: `softmax` over positions; `softmax_categories`: over the M classes at each position; `sigmoid` of each
            logit; `none`: the logits themselves.
        split_groups: False: `query` and `value` have one group, so each of their N*M outputs sees all channels of its
            part.
        split_key_value: False: keys and values are both all C channels.
        kernel_size: 1 or 3; 3 pads by one position and takes maps only.
        merge: Over heads: `sum`, `mean`, `max`, or `concat+linear`: a linear layer from N*M to M, named `project`,
            that starts as the sum.
        init: `official` (Kaiming normal, fan out), `official_mlp` (LeCun normal), `small_m` (right for few classes).
        impl: `auto` or a name of `noah.heads.kernels.IMPLEMENTATIONS`. All give the same scores; `auto` takes the
            leanest one for the features at hand, and never compiles. May be set later.
        device, dtype: Where and as what the weights are made, as in torch's own layers.

    Raises:
        ValueError: An unknown or impossible argument, channels that N and r do not divide; in use: features of another
            shape.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_heads: int = 4,
        key_ratio: float = 0.5,
        drop_rate: float = 0.0,
        *,
        score: str = "softmax",
        split_groups: bool = True,
        split_key_value: bool = True,
        kernel_size: int = 1,
        merge: str = "sum",
        init: str = "official",
        impl: str = "auto",
        device=None,
        dtype=None,
    ):
        super().__init__()
        check_choice("score", score, SCORES)
        check_choice("merge", merge, MERGES)
        check_choice("init", init, INITS)
        check_choice("kernel_size", kernel_size, (1, 3))
        check_scores(num_classes, drop_rate)
        self.in_features, self.num_classes, self.num_heads = in_features, num_classes, num_heads
        self.key_ratio, self.drop_rate = key_ratio, drop_rate
        self.score, self.merge, self.kernel_size, self.init = score, merge, kernel_size, init
        self.split_key_value = split_key_value
        self.paper = score == "softmax" and split_groups and split_key_value and kernel_size == 1
        self.impl = impl

        self.key_channels, self.value_channels = split_channels(
            in_features, num_heads, key_ratio, split_groups=split_groups, split_key_value=split_key_value
        )
        groups = num_heads if split_groups else 1
        outputs, dd = num_heads * num_classes, {"device": device, "dtype": dtype}
        shape = {"groups": groups, "kernel_size": kernel_size, "padding": kernel_size // 2}
        self.query = nn.Conv2d(self.key_channels, outputs, **shape, **dd)
        self.value = nn.Conv2d(self.value_channels, outputs, **shape, **dd)
        self.project = nn.Linear(outputs, num_classes, **dd) if merge == "concat+linear" else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew by `init`."""
        INITS[self.init](self.query, self.value, self.num_heads)
        nn.init.zeros_(self.query.bias)
        nn.init.zeros_(self.value.bias)
        if self.merge == "concat+linear":
            with torch.no_grad():
                self.project.weight.copy_(torch.eye(self.num_classes).repeat(1, self.num_heads))
            nn.init.zeros_(self.project.bias)

    @property
    def impl(self) -> str:
        """`auto`, or the name of the kernel that computes."""
        return self._impl

    @impl.setter
    def impl(self, name: str) -> None:
        compute = choose(name, paper=self.paper)
        self._impl, self._compute = name, compute if self.paper else partial(compute, score=self.score)

    def kernel(self, device: str) -> str:
        """The name of `noah.heads.kernels.IMPLEMENTATIONS` that computes on a device, `cpu` or `cuda`."""
        if self.impl != "auto":
            return self.impl
        return best(device, self.num_classes) if self.paper else "reference"

    def forward(self, x: Tensor) -> Tensor:
        x, drop_rate = self._as_map(x), self.drop_rate if self.training else 0.0
        heads = self._compute(x, self.query, self.value, num_heads=self.num_heads, drop_rate=drop_rate)
        return self.project(MERGES[self.merge](heads))

    def attention_maps(self, x: Tensor) -> Tensor:
        """Where each head looks for each class: (B, N, M, H, W) of a map, (B, N, M, L) of tokens.

        With score `softmax` every map sums to 1 over its positions.
        """
        maps = attention(self._as_map(x), self.query, num_heads=self.num_heads, score=self.score)
        return maps.unflatten(-1, x.shape[2:]) if x.ndim == 4 else maps

    def fuse(self) -> FusedNOAH:
        """A copy for inference alone; see `FusedNOAH`. This head stays as it is.

        Raises:
            ValueError: The head trains, or is not the paper's.
        """
        return FusedNOAH(self)

    def _as_map(self, x: Tensor) -> Tensor:
        if self.kernel_size > 1 and x.ndim == 3:
            raise ValueError(f"kernel_size {self.kernel_size} needs a map (B, C, H, W), got tokens {tuple(x.shape)}")
        return as_map(x, self.in_features)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.num_classes}, num_heads={self.num_heads}, key_ratio={self.key_ratio}, "
            f"drop_rate={self.drop_rate}, score={self.score}, merge={self.merge}, init={self.init}, impl={self.impl}"
        )
