"""The controls of equal size: a hidden layer as large, or as dear, as a given NOAH head, and no attention at all."""

import torch
from torch import Tensor, nn

from noah.heads.baselines import INITS, PooledLinear
from noah.heads.checks import check_choice
from noah.heads.noah import NOAH
from noah.heads.positions import as_tokens

MATCHES = ("parameters", "macs")


class GapHidden(PooledLinear):
    """(B, C, H, W) or (B, L, C) to (B, M): mean over positions, hidden layer with ReLU, dropout, linear.

    The hidden layer has the width that brings this head nearest to the parameters or MACs of a NOAH head with the
    arguments given here: does NOAH gain by its attention, or by its size? MACs are counted as `noah cost` does: matrix
    products and convolutions.

    Parameters: W*(C + M + 1) + M with W hidden units. MACs: W*(C + M).

    Args:
        in_features: C.
        num_classes: M.
        drop_rate: Dropout on the hidden layer.
        init: How the last layer starts, as GlobalAveragePool; the hidden one as torch's own.
        match: `parameters` or `macs`.
        positions: L, which `macs` needs; `build_model` gives that of its backbone.
        num_heads: N of the NOAH head that is matched.
        key_ratio: Its r, and so on.
        split_groups: See NOAH.
        split_key_value: See NOAH.
        kernel_size: See NOAH.
        merge: See NOAH.
        device, dtype: Where and as what the weights are made, as in torch's own layers.

    Raises:
        ValueError: An unknown or impossible argument, `macs` without positions, a NOAH head that cannot be.
    """

    takes_positions = True
    per_position = False

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        drop_rate: float = 0.0,
        *,
        init: str = "default",
        match: str = "parameters",
        positions: int | None = None,
        num_heads: int = 4,
        key_ratio: float = 0.5,
        split_groups: bool = True,
        split_key_value: bool = True,
        kernel_size: int = 1,
        merge: str = "sum",
        device=None,
        dtype=None,
    ):
        check_choice("match", match, MATCHES)
        if match == "macs" and not positions:
            raise ValueError(
                f"positions is {positions}, expected L, the positions of the map, which match 'macs' needs"
            )
        with torch.device("meta"):
            noah = NOAH(
                in_features,
                num_classes,
                num_heads,
                key_ratio,
                split_groups=split_groups,
                split_key_value=split_key_value,
                kernel_size=kernel_size,
                merge=merge,
            )
        if match == "parameters":
            budget = sum(parameter.numel() for parameter in noah.parameters()) - num_classes
            per_unit = in_features + num_classes + 1
        else:
            budget = _macs(noah, positions)
            per_unit = in_features * (positions if self.per_position else 1) + num_classes
        width = max(1, round(budget / per_unit))
        dd = {"device": device, "dtype": dtype}
        super().__init__(in_features, num_classes, drop_rate, init=init, **dd)
        self.hidden, self.fc = nn.Linear(in_features, width, **dd), nn.Linear(width, num_classes, **dd)
        INITS[init](self.fc)

    def pool(self, x: Tensor) -> Tensor:
        x = as_tokens(x, self.in_features)
        return self.hidden(x).relu().mean(1) if self.per_position else self.hidden(x.mean(1)).relu()


class HiddenGap(GapHidden):
    """As GapHidden, but the hidden layer works at every position and the mean comes behind it.

    MACs: W*(L*C + M). Matched to NOAH's MACs it has at most about M hidden units, where GapHidden has up to L times as
    many.
    """

    per_position = True


def _macs(noah: NOAH, positions: int) -> int:
    """Of one image: every weight of the convolutions at every position, every weight of a last linear layer once."""
    last = noah.project.weight.numel() if isinstance(noah.project, nn.Linear) else 0
    return positions * (noah.query.weight.numel() + noah.value.weight.numel()) + last
