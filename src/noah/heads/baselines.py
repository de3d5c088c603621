"""The heads that NOAH is compared with: one vector per image, dropout, one linear layer."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from noah.heads.checks import check_choice, check_scores
from noah.heads.positions import as_map, mean_over_positions
from noah.heads.scripted import Scriptable


def _init_zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


def _init_normal(linear: nn.Linear) -> None:
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)


def _init_trunc_normal(linear: nn.Linear) -> None:
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)


INITS: dict[str, Callable[[nn.Linear], None]] = {
    "default": nn.Linear.reset_parameters,
    "zero": _init_zero,
    "trunc_normal": _init_trunc_normal,
    "normal": _init_normal,
}
"""torch's own (the paper's ShuffleNetV2), all zero (its MLPs), truncated normal of std .02 with zero bias (its vision
transformers), normal of std .01 with zero bias (its other CNNs)."""


class PooledLinear(Scriptable, nn.Module, ABC):
    """What heads with one vector per image share: `dropout(pool(x))`, then `fc` with C*M + M parameters.

    Args:
        in_features: C.
        num_classes: M.
        drop_rate: Dropout on the vector.
        init: How `fc` starts, a name of `INITS`.
        device, dtype: Where and as what the weights are made, as in torch's own layers.

    Raises:
        ValueError: An unknown init, no class, a dropout outside [0, 1).
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        drop_rate: float = 0.0,
        *,
        init: str = "default",
        device=None,
        dtype=None,
    ):
        super().__init__()
        check_choice("init", init, INITS)
        check_scores(num_classes, drop_rate)
        self.in_features, self.num_classes, self.drop_rate, self.init = in_features, num_classes, drop_rate, init
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(in_features, num_classes, device=device, dtype=dtype)
        INITS[init](self.fc)

    @abstractmethod
    def pool(self, x: Tensor) -> Tensor:
        """(B, C, H, W) or (B, L, C) to the vectors, (B, C) unless the class has its own `fc`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.pool(x)))


class GlobalAveragePool(PooledLinear):
    """(B, C, H, W) or (B, L, C) to (B, M): mean over positions, dropout, linear. Parameters: C*M + M.

    Args:
        in_features: C.
        num_classes: M.
        drop_rate: Dropout on the mean.
        init: `default` (of torch), `zero`, `trunc_normal` (std .02, zero bias), `normal` (std .01, zero bias).
        device, dtype: Where and as what the weights are made, as in torch's own layers.
    """

    def pool(self, x: Tensor) -> Tensor:
        return mean_over_positions(as_map(x, self.in_features))


class MovedGap(GlobalAveragePool):
    """As GlobalAveragePool, but layers that the backbone has behind its own pooling stand in front of it, at every
    position, where NOAH has them: the control for MobileNetV3's moved convolution. Elsewhere the same as `gap`.
    """


class ClassToken(PooledLinear):
    """(B, 1 + L, C) to (B, M): the class token, which comes first, dropout, linear. Arguments as GlobalAveragePool."""

    takes_class_token = True

    def pool(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"features of shape {tuple(x.shape)}, expected (B, 1 + L, C) with a class token and C = "
                f"{self.in_features} channels"
            )
        return x[:, 0]
