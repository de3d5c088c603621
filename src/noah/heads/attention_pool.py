"""Multi-head attention pooling with one learned query: timm's AttentionPoolLatent, the "MAP head" of ViT (Zhai et al.,
"Scaling Vision Transformers", CVPR 2022, arXiv 2106.04560), after the Set Transformer (arXiv 1810.00825)."""

from functools import partial

from torch import Tensor, nn

from noah.backbones import check_divides
from noah.heads.baselines import INITS, PooledLinear
from noah.heads.checks import check_above_zero
from noah.heads.positions import as_tokens, attention_weights


class AttentionPool(PooledLinear):
    """(B, C, H, W) or (B, L, C) to (B, M): one learned query attends to all positions, MLP, dropout, linear.

    One attention for all classes, where NOAH has one for each. Needs timm.

    Parameters: (4 + 2*R)*C^2 + (8 + R)*C, and C*M + M of the last layer.

    Args:
        in_features: C, a multiple of `num_heads`.
        num_classes: M.
        drop_rate: Dropout before the last layer.
        init: How the last layer starts, as GlobalAveragePool; the others have std .02 and zero biases, as in timm's
            vision transformers.
        num_heads: Heads of the attention.
        mlp_ratio: R; the MLP behind the attention has R*C hidden units.
        device, dtype: Where and as what the weights are made, as in torch's own layers.

    Raises:
        ValueError: An unknown or impossible argument, heads that do not divide C; in use: features of another shape.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        drop_rate: float = 0.0,
        *,
        init: str = "default",
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        device=None,
        dtype=None,
    ):
        from timm.layers import AttentionPoolLatent  # heads load without timm

        check_divides(in_features, num_heads)
        check_above_zero(mlp_ratio=mlp_ratio)
        dd = {"device": device, "dtype": dtype}
        super().__init__(in_features, num_classes, drop_rate, init=init, **dd)
        self.attention = AttentionPoolLatent(
            in_features, num_heads=num_heads, mlp_ratio=mlp_ratio, norm_layer=partial(nn.LayerNorm, eps=1e-6), **dd
        )
        for module in self.attention.modules():
            if isinstance(module, nn.Linear):
                INITS["trunc_normal"](module)

    def pool(self, x: Tensor) -> Tensor:
        return self.attention(as_tokens(x, self.in_features))

    def position_weights(self, x: Tensor) -> Tensor:
        """(B, 1, L): its attention, the mean over heads, the same for all classes."""
        x = as_tokens(x, self.in_features)
        queries = self.attention.q(self.attention.latent).expand(x.shape[0], -1, -1)
        keys, _ = self.attention.kv(x).chunk(2, dim=-1)
        return attention_weights(queries, keys, self.attention.num_heads)
