"""The heads that NOAH is compared with: one vector per image, dropout, one linear layer."""

from collections.abc import Callable

from torch import Tensor, nn

from noah.heads.positions import as_map, mean_over_positions


def _init_zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


def _init_trunc_normal(linear: nn.Linear) -> None:
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)


INITS: dict[str, Callable[[nn.Linear], None]] = {
    "default": nn.Linear.reset_parameters,
    "zero": _init_zero,
    "trunc_normal": _init_trunc_normal,
}
"""torch's own (the paper's CNNs), all zero (its MLPs), normal of std .02 with zero bias (its vision transformers)."""


class _Linear(nn.Module):
    """What the baselines share: `dropout(pool(x))`, then `fc`, with C*M + M parameters."""

    def __init__(self, in_features: int, num_classes: int, drop_rate: float = 0.0, *, init: str = "default"):
        super().__init__()
        if init not in INITS:
            raise ValueError(f"init is '{init}', expected one of {', '.join(INITS)}")
        if num_classes < 1 or not 0 <= drop_rate < 1:
            raise ValueError(
                f"num_classes is {num_classes} and drop_rate {drop_rate}, expected at least 1 and 0 <= drop_rate < 1"
            )
        self.in_features, self.num_classes, self.drop_rate, self.init = in_features, num_classes, drop_rate, init
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(in_features, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew by `init`."""
        INITS[self.init](self.fc)

    def pool(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.pool(x)))


class GlobalAveragePool(_Linear):
    """(B, C, H, W) or (B, L, C) to (B, M): mean over positions, dropout, linear.

    Args:
        in_features: C.
        num_classes: M.
        drop_rate: Dropout on the mean.
        init: `default` (of torch), `zero`, `trunc_normal` (std .02, zero bias).
    """

    def pool(self, x: Tensor) -> Tensor:
        return mean_over_positions(as_map(x, self.in_features))


class ClassToken(_Linear):
    """(B, 1 + L, C) to (B, M): the class token, which comes first, dropout, linear. Arguments as GlobalAveragePool."""

    takes_class_token = True

    def pool(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"features of shape {tuple(x.shape)}, expected (B, 1 + L, C) with a class token and C = "
                f"{self.in_features} channels"
            )
        return x[:, 0]
