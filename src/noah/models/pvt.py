"""Pyramid Vision Transformer, version 1 (arXiv 2102.12122), of which timm has only the second version.

Structure: vit/pvt/classification of OSVAI/NOAH (commit 2449201). Official state-dict names carry the stage's number at
their end (`block1.0.…`, `pos_embed1`); here they are grouped by stage (`stage1.blocks.0.…`, `stage1.pos_embed`).
"""

from functools import partial
from itertools import pairwise

import torch
from timm.layers import calculate_drop_path_rates, to_2tuple
from timm.models import build_model_with_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F

from noah.models.pvt_stage import Block, LeftOut, Stage, as_map
from noah.models.registry import register

_PATCHES, _HEADS, _DEPTHS, _MLP_RATIOS, _REDUCTIONS = (
    (4, 2, 2, 2),
    (1, 2, 5, 8),
    (2, 2, 2, 2),
    (8, 8, 4, 4),
    (8, 4, 2, 1),
)
_SIDE = 32
"""Pixels of an image that one position of the last stage stands for."""

DIMS: dict[str, tuple[int, ...]] = {
    "pvt_tiny": (64, 128, 320, 512),
    "pvt_tiny_075": (48, 96, 240, 384),
    "pvt_tiny_050": (32, 64, 160, 256),
}
"""Channels of the four stages, by the name in timm."""


class PyramidVisionTransformer(nn.Module):
    """Images (B, in_chans, H, W) to (B, M), with timm's interface.

    Args:
        dims: Channels of the four stages.
        img_size: Side of the images, or (height, width), in pixels.
        num_classes: M; 0: no classifier.
        in_chans: Channels of the images.
        global_pool: `token`, `avg` (over positions), or `""`: all tokens.
        class_token: Whether the last stage has one, as the paper's baseline and not its NOAH variant.
        drop_rate: Dropout in front of the classifier.
        proj_drop_rate: Dropout inside the blocks and on the position embeddings.
        drop_path_rate: Share of the last block's branches that is skipped while training; rises linearly from 0.

    Raises:
        ValueError: An image side that 32 does not divide, a pooling that is not there.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        img_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "token",
        class_token: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        height, width = to_2tuple(img_size)
        if height % _SIDE or width % _SIDE:
            raise ValueError(f"img_size is {img_size}, expected a multiple of {_SIDE}")
        self.in_chans, self.drop_rate, self.has_class_token = in_chans, drop_rate, class_token
        self.num_prefix_tokens = int(class_token)
        self.num_features = self.head_hidden_size = dims[-1]
        rates = calculate_drop_path_rates(drop_path_rate, _DEPTHS, stagewise=True)
        self.feature_info, reduction = [], 1
        for i, (inp, dim) in enumerate(pairwise((in_chans, *dims))):
            reduction *= _PATCHES[i]
            token = class_token and i == 3
            blocks = [Block(dim, _HEADS[i], _MLP_RATIOS[i], _REDUCTIONS[i], proj_drop_rate, rate) for rate in rates[i]]
            positions = (height // reduction) * (width // reduction)
            stage = Stage(inp, dim, _PATCHES[i], positions, token, proj_drop_rate, blocks)
            setattr(self, f"stage{i + 1}", stage)
            self.feature_info.append({"num_chs": dim, "reduction": reduction, "module": f"stage{i + 1}"})
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.apply(_init)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) to (B, L, C), or (B, 1 + L, C) with the class token in front; L = H/32 * W/32."""
        x, size = self.stage1(x)
        x, size = self.stage2(as_map(x, size))
        x, size = self.stage3(as_map(x, size))
        x, size = self.stage4(as_map(x, size))
        return self.norm(x)

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of the stages, all or those of `indices`, behind what `forward_features` gives, as timm's.

        Args:
            norm: Whether the last map is normalised.
            stop_early: Compute nothing behind the last map that is wanted.
            intermediates_only: The maps alone.
        """
        assert output_fmt == "NCHW", f"output_fmt is {output_fmt}, expected NCHW"
        taken, last = feature_take_indices(4, indices)
        maps, size = [], []
        for number in range(4 if not (stop_early or intermediates_only) else last + 1):
            x, size = getattr(self, f"stage{number + 1}")(x if number == 0 else as_map(x, size))
            if number in taken:
                tokens = self.norm(x) if norm and number == 3 else x
                maps.append(as_map(tokens[:, self.num_prefix_tokens if number == 3 else 0 :], size))
        return maps if intermediates_only else (self.norm(x) if number == 3 else x, maps)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Leave out what stands behind the last map of `indices`; these as numbers from the front."""
        taken, last = feature_take_indices(4, indices)
        for number in range(last + 1, 4):
            setattr(self, f"stage{number + 1}", LeftOut())
        if last < 3:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            self.num_prefix_tokens, self.has_class_token = 0, False
        if prune_norm or last < 3:
            self.norm = nn.Identity()
        if prune_head or last < 3:
            self.reset_classifier(0, "")
        return taken

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, [1 +] L, C) to (B, M); with `pre_logits` what the classifier gets, (B, C)."""
        if self.global_pool == "token":
            x = x[:, 0]
        elif self.global_pool == "avg":
            x = x[:, self.num_prefix_tokens :].mean(1)
        return x if pre_logits else self.head(F.dropout(x, self.drop_rate, training=self.training))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for other classes; 0: none. `global_pool` as in the class, None: as before."""
        global_pool = self.global_pool if global_pool is None else global_pool
        valid = (*(["token"] if self.has_class_token else []), "avg", *([] if num_classes else [""]))
        if global_pool not in valid:
            raise ValueError(f"global_pool is '{global_pool}', expected one of {', '.join(map(repr, valid))}")
        self.num_classes, self.global_pool = num_classes, global_pool
        head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        head.apply(_init)
        like = self.stage1.pos_embed
        self.head = head.to(like.device, like.dtype).train(self.training)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The class token, as in the official code, which decays the position embeddings."""
        return {"stage4.cls_token"} if self.has_class_token else set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """timm's patterns of layers, for layer-wise learning rates."""
        fine = [(r"^stage(\d+)\.(?:patch_embed|pos_embed|cls_token)", None), (r"^stage(\d+)\.blocks\.(\d+)", None)]
        layers = [(r"^stage(\d+)", None)] if coarse else fine
        return {"stem": r"^stage1\.(?:patch_embed|pos_embed)", "blocks": [*layers, (r"^norm", (99999,))]}


def _init(module: nn.Module) -> None:
    """Linear layers, position embeddings and class token from a normal distribution of std .02, cut at 2."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Stage):
        for token in (module.pos_embed, module.cls_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)


def create_pvt(variant: str, **kwargs) -> PyramidVisionTransformer:
    """A model of `DIMS` with timm's description of it; arguments as `PyramidVisionTransformer`."""
    return build_model_with_cfg(
        PyramidVisionTransformer,
        variant,
        pretrained=False,
        feature_cfg={"out_indices": 4, "feature_cls": "getter"},
        **{"dims": DIMS[variant], **kwargs},
    )


for _variant in DIMS:
    register(
        _variant,
        partial(create_pvt, _variant),
        first_conv="stage1.patch_embed.proj",
        classifier="head",
        fixed_input_size=True,
    )
