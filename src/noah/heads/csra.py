"""Class-specific residual attention, CSRA (Zhu and Wu, ICCV 2021, arXiv 2108.02456; official code Kevinz-code/CSRA)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noah.heads.checks import check_choice, check_scores
from noah.heads.positions import as_tokens
from noah.heads.scripted import Scriptable

TEMPERATURES: dict[int, tuple[float, ...]] = {
    1: (1,),
    2: (1, torch.inf),
    4: (1, 2, 4, torch.inf),
    6: (1, 2, 3, 4, 5, torch.inf),
    8: (1, 2, 3, 4, 5, 6, 7, torch.inf),
}
"""The T of each head by number of heads, as in the paper; at infinity the softmax becomes the maximum."""


class CSRA(Scriptable, nn.Module):
    """(B, C, H, W) or (B, L, C) to (B, M): the mean of each class's score map, plus lambda times its peaks.

    Every head scores all positions with class vectors of length 1 and adds to the mean a second mean, weighted by the
    softmax over the positions of those scores times T; the heads, which differ in T, are summed:

        out[b, m] = sum_h mean_l(s) + lambda * sum_l softmax_l(T_h * s) * s,   s = s[b, h, m, l] = x[b, l] . w[h, m]/|w|

    Parameters: H*C*M, no biases.

    Args:
        in_features: C.
        num_classes: M.
        drop_rate: Dropout on the features; the paper has none.
        init: `default` (of torch); only the directions of the vectors count.
        num_heads: H: 1, 2, 4, 6 or 8. The paper: 1 for VOC, 4 or 6 for COCO, 8 for its vision transformers.
        lam: Lambda >= 0; 0 leaves the mean alone. The official commands: 0.1 for VOC, 0.5 for COCO.
        device, dtype: Where and as what the weights are made, as in torch's own layers.

    Raises:
        ValueError: An unknown or impossible argument; in use: features of another shape.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        drop_rate: float = 0.0,
        *,
        init: str = "default",
        num_heads: int = 1,
        lam: float = 0.1,
        device=None,
        dtype=None,
    ):
        super().__init__()
        check_scores(num_classes, drop_rate)
        check_choice("init", init, ("default",))
        check_choice("num_heads", num_heads, TEMPERATURES)
        if lam < 0:
            raise ValueError(f"lam is {lam}, expected at least 0")
        self.in_features, self.num_classes, self.num_heads, self.lam = in_features, num_classes, num_heads, lam
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(in_features, num_heads * num_classes, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        scores = self._scores(self.drop(as_tokens(x, self.in_features)))
        out = scores.mean(1).sum(1)
        for head, temperature in enumerate(TEMPERATURES[self.num_heads]):
            out = out + self.lam * _peak(scores[:, :, head], temperature)
        return out

    def position_weights(self, x: Tensor) -> Tensor:
        """(B, M, L): the weights of its second mean, averaged over heads; at infinity the best position has all."""
        scores, weights = self._scores(as_tokens(x, self.in_features)), []
        for head, temperature in enumerate(TEMPERATURES[self.num_heads]):
            own = scores[:, :, head]
            best = F.one_hot(own.argmax(1), own.shape[1]).transpose(1, 2).to(own.dtype)
            weights.append(best if temperature == torch.inf else (temperature * own).softmax(1))
        return torch.stack(weights).mean(0).transpose(1, 2)

    def _scores(self, x: Tensor) -> Tensor:
        """(B, L, H, M)."""
        return F.linear(x, F.normalize(self.fc.weight, dim=1)).unflatten(2, (self.num_heads, self.num_classes))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.num_classes}, num_heads={self.num_heads}, lam={self.lam}"


def _peak(scores: Tensor, temperature: float) -> Tensor:
    """(B, L, M) to (B, M)."""
    if temperature == torch.inf:
        return scores.amax(1)
    return ((temperature * scores).softmax(1) * scores).sum(1)
