"""ML-Decoder (Ridnik et al., WACV 2023, arXiv 2111.12933; official code Alibaba-MIIL/ML_Decoder).

timm ships the official code, which current torch cannot run: its decoder layer has no `self_attn`, which
`nn.TransformerDecoder` asks for (timm 1.0.31, torch 2.14). So it is written anew here.
"""

import torch
from torch import Tensor, nn

from noah.backbones import check_divides
from noah.heads.checks import check_above_zero, check_choice, check_scores
from noah.heads.positions import as_tokens
from noah.heads.scripted import Scriptable


class MLDecoder(Scriptable, nn.Module):
    """(B, C, H, W) or (B, L, C) to (B, M): fixed queries, each for a group of classes, attend to the positions.

    One layer of a transformer decoder without self-attention, of width D: norm, attention from K queries to the
    positions, norm, MLP, norm. Then every query gives the scores of its ceil(M/K) classes by a matrix of its own.

    Parameters: C*D + D (embedding), 4*D^2 + 4*D (attention), 2*D*F + F + D (MLP), 6*D (norms), K*D*ceil(M/K) + M. The
    K*D numbers of the queries stay as they are drawn, and are no parameters.

    Args:
        in_features: C.
        num_classes: M.
        drop_rate: Dropout inside of the layer; 0.1 in the paper.
        init: `default`: Xavier normal for the matrices of the groups, else torch's own.
        num_heads: Heads of the attention.
        num_groups: K, at most M: with M groups every class has a query of its own.
        embed_dim: D, a multiple of `num_heads`.
        hidden_dim: F.
        device, dtype: Where and as what the weights are made, as in torch's own layers.

    Raises:
        ValueError: An unknown or impossible argument, heads that do not divide D; in use: features of another shape.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        drop_rate: float = 0.0,
        *,
        init: str = "default",
        num_heads: int = 8,
        num_groups: int = 100,
        embed_dim: int = 768,
        hidden_dim: int = 2048,
        device=None,
        dtype=None,
    ):
        super().__init__()
        check_scores(num_classes, drop_rate)
        check_choice("init", init, ("default",))
        check_above_zero(num_groups=num_groups, hidden_dim=hidden_dim)
        check_divides(embed_dim, num_heads)
        groups, dd = min(num_groups, num_classes), {"device": device, "dtype": dtype}
        self.in_features, self.num_classes = in_features, num_classes
        self.register_buffer("queries", torch.randn(groups, embed_dim, **dd))
        self.embed = nn.Linear(in_features, embed_dim, **dd)
        self.attention = nn.MultiheadAttention(embed_dim, num_heads, dropout=drop_rate, batch_first=True, **dd)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim, **dd),
            nn.ReLU(),
            nn.Dropout(drop_rate),
            nn.Linear(hidden_dim, embed_dim, **dd),
        )
        self.query_norm, self.attention_norm, self.mlp_norm = (nn.LayerNorm(embed_dim, **dd) for _ in range(3))
        self.drop = nn.Dropout(drop_rate)
        self.group_weight = nn.Parameter(torch.empty(groups, embed_dim, -(-num_classes // groups), **dd))
        self.bias = nn.Parameter(torch.zeros(num_classes, **dd))
        nn.init.xavier_normal_(self.group_weight)

    def forward(self, x: Tensor) -> Tensor:
        queries, positions = self._queries_and_positions(x)
        attended, _ = self.attention(queries, positions, positions, need_weights=False)
        groups = self.attention_norm(queries + self.drop(attended))
        groups = self.mlp_norm(groups + self.drop(self.mlp(groups)))
        scores = torch.einsum("bkd,kdg->bkg", groups, self.group_weight).flatten(1)
        return scores[:, : self.num_classes] + self.bias

    def position_weights(self, x: Tensor) -> Tensor:
        """(B, M, L): the attention of each class's query, the mean over heads; classes of a group share theirs."""
        queries, positions = self._queries_and_positions(x)
        _, weights = self.attention(queries, positions, positions)
        return weights.repeat_interleave(self.group_weight.shape[2], dim=1)[:, : self.num_classes]

    def _queries_and_positions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, D) and (B, L, D)."""
        positions = self.embed(as_tokens(x, self.in_features)).relu()
        queries = self.queries.expand(x.shape[0], -1, -1)
        # Where a decoder has self-attention the official code adds the queries to themselves: noise while training.
        return self.query_norm(queries + self.drop(queries)), positions
