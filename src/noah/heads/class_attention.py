"""Class attention of CaiT (Touvron et al., ICCV 2021, arXiv 2103.17239), from timm's blocks."""

from functools import partial

import torch
from torch import Tensor, nn

from noah.backbones import check_divides
from noah.heads.baselines import INITS, PooledLinear
from noah.heads.checks import check_above_zero
from noah.heads.positions import as_tokens, attention_weights


class ClassAttention(PooledLinear):
    """(B, C, H, W) or (B, L, C) to (B, M): a class token gathers from the positions in a few blocks, norm, linear.

    The token enters behind the backbone, and only it changes: each block is attention from the token to the positions
    and itself, then an MLP, both behind a norm and scaled per channel. Needs timm.

    Parameters: per block (4 + 2*R)*C^2 + (11 + R)*C; 3*C for token and last norm; C*M + M.

    Args:
        in_features: C, a multiple of `num_heads`.
        num_classes: M.
        drop_rate: Dropout before the last layer.
        init: How the last layer starts, as GlobalAveragePool; the others have std .02 and zero biases, as in CaiT.
        num_heads: Heads of the attention. CaiT has 48 channels per head.
        num_blocks: 2 in CaiT.
        mlp_ratio: R; the MLPs have R*C hidden units.
        layer_scale: Where the scales of the blocks start. Small for deep models (CaiT: 1e-5, timm: 1e-4); a short
            training may ask for more.
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
        num_blocks: int = 2,
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-4,
        device=None,
        dtype=None,
    ):
        from timm.models.cait import LayerScaleBlockClassAttn  # heads load without timm

        check_divides(in_features, num_heads)
        check_above_zero(num_blocks=num_blocks, mlp_ratio=mlp_ratio, layer_scale=layer_scale)
        dd = {"device": device, "dtype": dtype}
        super().__init__(in_features, num_classes, drop_rate, init=init, **dd)
        norm = partial(nn.LayerNorm, eps=1e-6)
        options = {"mlp_ratio": mlp_ratio, "init_values": layer_scale, "qkv_bias": True, "norm_layer": norm, **dd}
        self.token = nn.Parameter(torch.empty(1, 1, in_features, **dd))
        self.blocks = nn.ModuleList(
            LayerScaleBlockClassAttn(in_features, num_heads, **options) for _ in range(num_blocks)
        )
        self.norm = norm(in_features, **dd)
        nn.init.trunc_normal_(self.token, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                INITS["trunc_normal"](module)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are never decayed, as in CaiT."""
        return {"token"}

    def pool(self, x: Tensor) -> Tensor:
        x = as_tokens(x, self.in_features)
        token = self.token.expand(x.shape[0], -1, -1)
        for block in self.blocks:
            token = block(x, token)
        return self.norm(token[:, 0])

    def position_weights(self, x: Tensor) -> Tensor:
        """(B, 1, L): the token's attention, the mean over heads and blocks, the same for all classes. What the token
        gives itself is left out, so the sum over positions is below 1.
        """
        x = as_tokens(x, self.in_features)
        token, weights = self.token.expand(x.shape[0], -1, -1), []
        for block in self.blocks:
            seen = block.norm1(torch.cat([token, x], 1))
            queries, keys = block.attn.q(seen[:, :1]), block.attn.k(seen)
            weights.append(attention_weights(queries, keys, block.attn.num_heads)[..., 1:])
            token = block(x, token)
        return torch.stack(weights).mean(0)
