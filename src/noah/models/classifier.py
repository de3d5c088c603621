"""A timm backbone and a head, together a model that timm's own tools can handle."""

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from noah.heads import HEADS, build_head
from noah.models.delegated import Delegated
from noah.models.features import Features, without_weights
from noah.models.registry import INPUT_KEYS

POOLS_FIRST = ("gap", "gap_hidden")
"""Heads that begin with the mean: layers that timm has behind its pooling stay there. The others get them in front."""


# Heads look at shapes before they compute, which FX cannot follow: they are leaves of timm's FX graphs.
for _kind in HEADS.values():
    register_notrace_module(_kind)


class Classifier(Delegated, nn.Module):
    """Images (B, in_chans, H, W) to class scores (B, M), with the interface of a timm model.

    The two parts stay whole: state-dict names are `backbone.` + timm's own name and `head.` + the head's own, so either
    part can be loaded, frozen or given another learning rate by its prefix, whatever the family of the backbone.

    Args:
        backbone: A timm model without classifier and pooling (`num_classes=0, global_pool=""`).
        features: What it hands on, as `noah.models.features.probe` found.
        head: A name of `noah.heads.HEADS`.
        num_classes: M; 0 gives pooled features instead of scores.
        img_size: Side of the images that the model is meant for, in pixels.
        in_chans: Their channels.
        architecture: The name under which timm knows the whole model, if it does.
        global_pool: `""` with M = 0: features as they are, unpooled.
        head_kwargs: Arguments of the head, which `reset_classifier` uses again.

    Attributes:
        num_features: Channels of `forward_features`.
        head_hidden_size: Channels that reach the head. They differ where the backbone has layers behind its pooling
            and the head begins with that pooling (`POOLS_FIRST`), as in timm's MobileNetV3.

    Raises:
        ValueError: What the head refuses, such as channels that N and r do not divide.
    """

    def __init__(
        self,
        backbone: nn.Module,
        features: Features,
        head: str,
        num_classes: int,
        *,
        img_size: int,
        in_chans: int,
        architecture: str | None = None,
        global_pool: str | None = None,
        **head_kwargs,
    ):
        super().__init__()
        self.backbone = backbone
        self.positions, self.prefix_tokens, self.layout = features.positions, features.prefix_tokens, features.layout
        self.keeps_layers = features.between and head in POOLS_FIRST
        self.moves_layers = features.between and not self.keeps_layers
        self.moved_layers = [] if self.keeps_layers else list(features.moved)
        self.left_out_layers = list(features.left_out)
        self.head_hidden_size = features.out_channels
        self.num_features = features.channels if self.keeps_layers else features.out_channels
        self.in_chans, self.img_size = in_chans, img_size
        self.head_name, self.head_kwargs, self.architecture = head, head_kwargs, architecture
        if self.keeps_layers:
            backbone.reset_classifier(0, "avg")
        self.reset_classifier(num_classes, global_pool)

    __jit_unused_properties__ = ("num_prefix_tokens", "feature_info", "set_input_size")

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens in front of the positions that `forward_features` gives."""
        return self.prefix_tokens if self.takes_class_token or self.keeps_layers else 0

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """What the head sees: (B, C, H, W), (B, L, C), or (B, 1 + L, C) for a head that takes the class token.

        Before a head of `POOLS_FIRST` and the backbone's own last layers: in the backbone's own layout.
        """
        return self._handed_on(self.backbone.forward_features(x))

    def _handed_on(self, x: Tensor) -> Tensor:
        """What `forward_features` makes of the backbone's features."""
        if self.keeps_layers:
            return x
        if self.moves_layers:
            x = self.backbone.forward_head(x, pre_logits=True)
        if self.layout == "NHWC":
            return x.permute(0, 3, 1, 2)
        return x if self.takes_class_token or self.prefix_tokens == 0 else x[:, self.prefix_tokens :]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Class scores (B, M); with `pre_logits` or M = 0 the pooled features (B, C), or x itself if `unpooled`.

        Pooled is the class token for a head that takes it, else the mean over positions.
        """
        if self.unpooled and not pre_logits:
            return x
        if self.keeps_layers:
            x = self.backbone.forward_head(x, pre_logits=True)
            return x if pre_logits or self.num_classes == 0 else self.head(x[:, :, None, None])
        if not pre_logits and self.num_classes > 0:
            return self.head(x)
        if self.takes_class_token:
            return x[:, 0]
        return x.mean(1) if self.layout == "NLC" else x.mean((2, 3))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head for other classes, its other arguments (N, r, dropout, init) kept; 0: pooled features.

        Args:
            num_classes: M.
            global_pool: With M = 0 `""`: features as they are, or the name of the pooling that is there anyway.

        Raises:
            ValueError: Another `global_pool`: here the head pools.
        """
        kind = HEADS.get(self.head_name)
        self.takes_class_token = getattr(kind, "takes_class_token", False)
        valid = () if num_classes else ("", "token" if self.takes_class_token else "avg")
        if global_pool is not None and global_pool not in valid:
            expected = " or ".join(map(repr, valid)) or f"none: the head '{self.head_name}' pools"
            raise ValueError(f"global_pool is '{global_pool}', expected {expected}")
        derived = {"positions": self.positions} if getattr(kind, "takes_positions", False) else {}
        head = build_head(self.head_name, self.head_hidden_size, num_classes or 1, **{**derived, **self.head_kwargs})
        example = next(self.backbone.parameters())
        self.head = head.to(example.device, example.dtype).train(self.training) if num_classes else nn.Identity()
        self.num_classes, self.unpooled = num_classes, global_pool == ""
        self.pretrained_cfg = self.default_cfg = self._cfg()

    def on_meta(self) -> tuple["Classifier", Tensor]:
        """A copy that computes shapes only, and one image for it (1, in_chans, img_size, img_size)."""
        image = torch.empty(1, self.in_chans, self.img_size, self.img_size, device="meta")
        return without_weights(self).eval(), image

    def _cfg(self) -> dict:
        """timm's description of a model: input, names of the first convolutions and of the classifier's layers."""
        source = self.backbone.default_cfg
        first, side = source.get("first_conv"), round(self.positions**0.5)
        architecture = {"architecture": self.architecture} if self.architecture else {}
        return (
            {key: value for key, value in source.items() if key in INPUT_KEYS}
            | architecture
            | {
                "num_classes": self.num_classes,
                "input_size": (self.in_chans, self.img_size, self.img_size),
                "pool_size": (side, side) if self.layout != "NLC" else None,
                "first_conv": prefixed(first),
                "classifier": tuple(
                    f"head.{name}"
                    for name, layer in self.head.named_modules()
                    if isinstance(layer, nn.Linear | nn.Conv2d)
                ),
            }
        )


def prefixed(first_conv: str | list[str] | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """timm's name of a backbone's first convolution, or of several, as a name in a `Classifier`."""
    if not first_conv:
        return None
    return f"backbone.{first_conv}" if isinstance(first_conv, str) else tuple(f"backbone.{n}" for n in first_conv)
