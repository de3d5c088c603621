"""MobileNetV3-Small (arXiv 1905.02244) as the NOAH code has it, which is not timm's `mobilenetv3_small_100`.

It differs in the first block, which expands too, in squeeze-excite, which stands in front of the activation, has no
biases and unrounded widths, and in the layer behind the pooling, which has 1280 channels. Widths: Table 2 of the paper.
Structure and names: models/noah_mobilenetv3.py of OSVAI/NOAH (commit 2449201).
"""

import torch
from timm.models import build_model_with_cfg, checkpoint_seq
from torch import Tensor, nn

from noah.models.interface import PooledMap
from noah.models.registry import register

_SMALL = (
    # kernel, expanded channels, channels, squeeze-excite, activation, stride
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)
_STEM, _LAST, _HIDDEN = 16, 576, 1280


class SqueezeExcite(nn.Module):
    """(B, C, H, W), each channel scaled by a gate in [0, 1] that two linear layers compute from the channel means."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = channels // 4
        self.fc = nn.Sequential(
            nn.Linear(channels, squeezed, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(squeezed, channels, bias=False),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class Block(nn.Module):
    """Expand, filter depthwise, gate, project; with a shortcut where the shape stays."""

    def __init__(self, inp: int, kernel: int, expanded: int, out: int, gated: bool, act: type[nn.Module], stride: int):
        super().__init__()
        self.shortcut = stride == 1 and inp == out
        self.conv = nn.Sequential(
            nn.Conv2d(inp, expanded, 1, bias=False),
            nn.BatchNorm2d(expanded),
            act(inplace=True),
            nn.Conv2d(expanded, expanded, kernel, stride, kernel // 2, groups=expanded, bias=False),
            nn.BatchNorm2d(expanded),
            SqueezeExcite(expanded) if gated else nn.Identity(),
            act(inplace=True),
            nn.Conv2d(expanded, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV3Small(PooledMap, nn.Module):
    """Images (B, in_chans, H, W) to (B, M), with timm's interface.

    As in timm's MobileNetV3, `forward_features` gives 576 channels (`num_features`), and `forward_head` applies
    `conv_head` to 1280 (`head_hidden_size`) behind the pooling; with `global_pool=""` at every position, which is how
    the NOAH variant uses it.

    Args:
        num_classes: M; 0: no classifier.
        in_chans: Channels of the images.
        global_pool: `avg`, or `""` for no pooling.
        drop_rate: Dropout in front of the classifier.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0):
        super().__init__()
        layers, channels, reduction = [_conv_norm_act(in_chans, _STEM, 3, stride=2)], _STEM, 2
        self.feature_info = []
        for index, (kernel, expanded, out, gated, act, stride) in enumerate(_SMALL):
            if stride == 2:
                self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"features.{index}"})
            layers.append(Block(channels, kernel, expanded, out, gated, act, stride))
            channels, reduction = out, reduction * stride
        layers.append(_conv_norm_act(channels, _LAST, 1))
        self.features = nn.Sequential(*layers)
        self.steps = tuple(f"features.{index}" for index in range(len(layers)))
        self.feature_info.append({"num_chs": _LAST, "reduction": reduction, "module": f"features.{len(_SMALL) + 1}"})
        self.conv_head = nn.Conv2d(_LAST, _HIDDEN, 1)
        self.act_head = nn.Hardswish(inplace=True)
        self.in_chans, self.num_features = in_chans, _LAST
        self.grad_checkpointing = False
        self.apply(_init)
        self.set_classifier(_HIDDEN, num_classes, global_pool, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) to (B, 576, H/32, W/32)."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.features, x)
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, 576, H, W) to (B, M); with `pre_logits` (B, 1280), without pooling (B, 1280, H, W)."""
        if self.global_pool == "avg":
            x = x.mean((2, 3), keepdim=True)
        x = self.act_head(self.conv_head(x))
        if self.global_pool == "avg":
            x = x.flatten(1)
        return x if pre_logits else self.fc(self.drop(x))

    @torch.jit.ignore
    def prune_head(self) -> None:
        self.conv_head, self.act_head = nn.Identity(), nn.Identity()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """timm's patterns of layers, for layer-wise learning rates; `coarse` changes nothing: there are no stages."""
        return {"stem": r"^features\.0\.", "blocks": [(r"^features\.(\d+)", None), (r"^conv_head", (99999,))]}


def _conv_norm_act(inp: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.Hardswish(inplace=True))


def _init(module: nn.Module) -> None:
    """As in the official code: Kaiming normal, fan out, for convolutions; std .01 for linear layers."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)


def create_mobilenetv3_small(**kwargs) -> MobileNetV3Small:
    """MobileNetV3-Small with timm's description of it; arguments as the class."""
    return build_model_with_cfg(
        MobileNetV3Small, "mobilenetv3_small", pretrained=False, feature_cfg={"feature_cls": "getter"}, **kwargs
    )


register(
    "mobilenetv3_small",
    create_mobilenetv3_small,
    first_conv="features.0.0",
    classifier="fc",
    interpolation="bilinear",
    pool_size=(7, 7),
)
