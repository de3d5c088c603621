"""One stage of the Pyramid Vision Transformer (arXiv 2102.12122): patches, positions, blocks."""

from collections.abc import Iterable

import torch
from timm.layers import DropPath, Mlp
from timm.models import checkpoint
from timm.models.pvt_v2 import Attention
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """(B, C, H, W) to (B, C', H/p, W/p), normalised over its channels."""

    def __init__(self, inp: int, out: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(inp, out, patch, stride=patch)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Attention to a spatially reduced map, then a hidden layer, each with norm in front and shortcut around it."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int, reduction: int, proj_drop: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, sr_ratio=reduction, qkv_bias=True, proj_drop=proj_drop)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, dim * mlp_ratio, drop=proj_drop)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, size: list[int]) -> Tensor:
        """x: (B, L, C), L = size[0] * size[1], and 1 + L where nothing is reduced."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """(B, C, H, W) to tokens (B, L, C'), or (B, 1 + L, C') with a class token in front; L = H/p * W/p."""

    def __init__(
        self,
        inp: int,
        dim: int,
        patch: int,
        positions: int,
        class_token: bool,
        proj_drop: float,
        blocks: Iterable[Block],
    ):
        super().__init__()
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(inp, dim, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, positions + class_token, dim))
        self.pos_drop = nn.Dropout(proj_drop)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """Also returns (H/p, W/p)."""
        x = self.patch_embed(x)
        size = [x.shape[2], x.shape[3]]
        x = x.flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.pos_drop(x + self.pos_embed)
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x, size)
            else:
                x = block(x, size)
        return x, size


class LeftOut(nn.Module):
    """In place of a stage that was pruned: the map (B, C, H, W) of the stage before it, as tokens (B, H*W, C)."""

    def forward(self, x: Tensor) -> tuple[Tensor, list[int]]:
        return x.flatten(2).transpose(1, 2), [x.shape[2], x.shape[3]]


def as_map(x: Tensor, size: list[int]) -> Tensor:
    """(B, L, C) to (B, C, H, W), contiguous."""
    return x.transpose(1, 2).reshape(x.shape[0], -1, size[0], size[1])
