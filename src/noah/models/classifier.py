"""A timm backbone and a head, together a model that timm's own tools can handle."""

import copy
import re

import torch
from torch import Tensor, nn

from noah.heads import build_head
from noah.heads.positions import mean_over_positions

CFG_KEYS = ("crop_pct", "crop_mode", "interpolation", "mean", "std", "min_input_size", "fixed_input_size", "first_conv")
"""What timm says of a backbone that still holds under another head and other weights."""


class Classifier(nn.Module):
    """Images (B, in_chans, H, W) to class scores (B, M), with the interface of a timm model.

    The two parts stay whole: state-dict names are `backbone.` + timm's own name and `head.` + the head's own, so either
    part can be loaded, frozen or given another learning rate by its prefix, whatever the family of the backbone.

    Args:
        backbone: A timm model without classifier and pooling (`num_classes=0, global_pool=""`).
        head: A name of `noah.heads.HEADS`.
        num_classes: M; 0 gives pooled features instead of scores.
        img_size: Side of the images that the model is meant for, in pixels.
        in_chans: Their channels.
        head_kwargs: Arguments of the head, which `reset_classifier` uses again.

    Raises:
        ValueError: What the head refuses, such as channels that N and r do not divide.
    """

    def __init__(
        self, backbone: nn.Module, head: str, num_classes: int, *, img_size: int, in_chans: int, **head_kwargs
    ):
        super().__init__()
        self.backbone = backbone
        self.num_features = self.head_hidden_size = backbone.num_features
        self.in_chans, self.img_size = in_chans, img_size
        self.head_name, self.head_kwargs = head, head_kwargs
        self.reset_classifier(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """What the head sees: (B, C, H, W), (B, L, C), or (B, 1 + L, C) for a head that takes the class token."""
        x = self.backbone.forward_features(x)
        if x.ndim == 3 and not self.takes_class_token:
            return x[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
        if x.ndim == 4 and getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
            return x.permute(0, 3, 1, 2)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Class scores (B, M); with `pre_logits` or M = 0 the pooled features (B, C).

        Pooled is the class token for a head that takes it, else the mean over positions.
        """
        if pre_logits or self.num_classes == 0:
            return x[:, 0] if self.takes_class_token else mean_over_positions(x)
        return self.head(x)

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head for other classes, its other arguments (N, r, dropout, init) kept; 0: pooled features.

        Raises:
            ValueError: `global_pool` is given: here the head pools.
        """
        if global_pool:
            raise ValueError(f"global_pool is '{global_pool}', expected none: the head '{self.head_name}' pools")
        head = build_head(self.head_name, self.num_features, num_classes or 1, **self.head_kwargs)
        self.takes_class_token = getattr(head, "takes_class_token", False)
        example = next(self.backbone.parameters())
        self.head = head.to(example.device, example.dtype).train(self.training) if num_classes else nn.Identity()
        self.num_classes = num_classes
        self.pretrained_cfg = self.default_cfg = self._cfg()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are never decayed."""
        names = self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay") else ()
        return {f"backbone.{name}" for name in names}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """timm's patterns of the backbone's layers, under this model's names; the unmatched head comes last."""

        def prefixed(pattern: str) -> str:
            return r"^backbone\.(?:" + re.sub(r"(?<!\[)\^", "", pattern) + ")"

        groups = {name: spec for name, spec in self.backbone.group_matcher(coarse=coarse).items() if spec is not None}
        return {
            name: prefixed(spec) if isinstance(spec, str) else [(prefixed(pattern), order) for pattern, order in spec]
            for name, spec in groups.items()
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.backbone.set_grad_checkpointing(enable)

    def on_meta(self) -> tuple["Classifier", Tensor]:
        """A copy that computes shapes only, and one image for it (1, in_chans, img_size, img_size)."""
        image = torch.empty(1, self.in_chans, self.img_size, self.img_size, device="meta")
        return copy.deepcopy(self).to("meta").eval(), image

    def _cfg(self) -> dict:
        """timm's description of a model: input, names of the first convolution and of the classifier's layers."""
        cfg = {key: value for key, value in self.backbone.default_cfg.items() if key in CFG_KEYS}
        first = cfg.get("first_conv")
        return cfg | {
            "num_classes": self.num_classes,
            "input_size": (self.in_chans, self.img_size, self.img_size),
            "pool_size": None,
            "first_conv": f"backbone.{first}" if first else None,
            "classifier": tuple(
                f"head.{name}" for name, layer in self.head.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
            ),
        }
