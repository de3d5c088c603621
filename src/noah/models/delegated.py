"""What timm's tools ask of a model beside scores, and its backbone answers."""

import re
from collections.abc import Callable

import torch
from timm.layers import to_2tuple
from torch import Tensor

from noah.heads import HEADS
from noah.models.features import without_weights


class Delegated:
    """Mixed into `Classifier`: weight decay, layers, maps at several depths, sizes of images, under its own names."""

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are never decayed."""
        parts = {"backbone": self.backbone, "head": self.head}
        named = {part: module.no_weight_decay() for part, module in parts.items() if hasattr(module, "no_weight_decay")}
        return {f"{part}.{name}" for part, names in named.items() for name in names}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict | Callable[[str], float]:
        """timm's patterns of the backbone's layers, under this model's names; the unmatched head comes last."""
        found = self.backbone.group_matcher(coarse=coarse)
        if callable(found):  # CaiT and Inception number their layers themselves
            return lambda name: found(name.removeprefix("backbone.")) if name.startswith("backbone.") else float("inf")

        def below_backbone(pattern: str) -> str:
            return r"^backbone\.(?:" + re.sub(r"(?<!\[)\^", "", pattern) + ")"

        groups = {name: spec for name, spec in found.items() if spec is not None}
        return {
            name: below_backbone(spec)
            if isinstance(spec, str)
            else [(below_backbone(pattern), order) for pattern, order in spec]
            for name, spec in groups.items()
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.backbone.set_grad_checkpointing(enable)

    @property
    def feature_info(self) -> list[dict]:
        """What timm says of the maps of `forward_intermediates`, under this model's names."""
        return [{**info, "module": f"backbone.{info['module']}"} for info in self.backbone.feature_info]

    @torch.jit.ignore
    def forward_intermediates(
        self, x: Tensor, indices: int | list[int] | None = None, *, intermediates_only: bool = False, **options
    ):
        """As timm's: the backbone's maps at several depths (`feature_info`), behind what `forward_features` gives.

        Args:
            indices: Numbers of the maps, or how many of the last ones; all by default.
            **options: timm's `norm`, `stop_early`, `output_fmt`, …
        """
        found = self.backbone.forward_intermediates(x, indices, intermediates_only=intermediates_only, **options)
        return found if intermediates_only else (self._handed_on(found[0]), *found[1:])

    @torch.jit.ignore
    def get_intermediate_layers(self, x: Tensor, n: int | list[int] = 1, **options):
        """As timm's and DINO's: tokens behind the last n blocks of a vision transformer, or those of these numbers."""
        return self.backbone.get_intermediate_layers(x, n, **options)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """As timm's: leave out what stands behind the last of these maps; their numbers from the front."""
        channels = [info["num_chs"] for info in self.feature_info]
        taken = self.backbone.prune_intermediate_layers(indices, prune_norm=prune_norm, prune_head=prune_head)
        last = max(taken)
        if prune_head or last < len(channels) - 1:
            self.reset_classifier(0)
            self.keeps_layers = self.moves_layers = False
            self.num_features = self.head_hidden_size = channels[last]
        return taken

    @property
    def set_input_size(self) -> Callable[..., None]:
        """As timm's, where the backbone has it: images of another size, in place."""
        if not hasattr(self.backbone, "set_input_size"):
            raise AttributeError("set_input_size: this backbone takes images of any size, or of one")
        return self._set_input_size

    def _set_input_size(self, img_size: int | tuple[int, int] | None = None, **options) -> None:
        height, width = to_2tuple(img_size or self.img_size)
        if height != width:
            raise ValueError(f"img_size is {(height, width)}, expected a square")
        if getattr(HEADS[self.head_name], "takes_positions", False):
            raise ValueError(
                f"img_size is {height}, expected {self.img_size}: head '{self.head_name}' was made for its positions"
            )
        self.backbone.set_input_size(img_size=(height, width), **options)
        self.img_size = height
        image = torch.empty(1, self.in_chans, height, width, device="meta")
        features = without_weights(self.backbone).eval().forward_features(image)
        self.positions = features.numel() // self.backbone.num_features - self.prefix_tokens
        self.pretrained_cfg = self.default_cfg = self._cfg()
        # What timm saves beside the weights, to make the model again.
        self._model_args = {**getattr(self, "_model_args", {}), "img_size": height}
