"""ShuffleNetV2 (arXiv 1807.11164), which torchvision has and timm has not."""

from functools import partial

import torch
import torchvision
from timm.models import build_model_with_cfg, checkpoint_seq
from torch import Tensor, nn

from noah.models.interface import PooledMap
from noah.models.registry import register


class ShuffleNetV2(PooledMap, torchvision.models.ShuffleNetV2):
    """torchvision's model with timm's interface: images (B, in_chans, H, W) to (B, M).

    State-dict names are torchvision's, which the official NOAH code shares but for the classifier.

    Args:
        repeats: Blocks of the three stages.
        channels: Of the stem, the three stages and the last convolution.
        num_classes: M; 0: no classifier.
        in_chans: Channels of the images.
        global_pool: `avg`, or `""` for the map itself.
        drop_rate: Dropout in front of the classifier.
    """

    def __init__(
        self,
        repeats: tuple[int, ...] = (4, 8, 4),
        channels: tuple[int, ...] = (24, 116, 232, 464, 1024),
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__(list(repeats), list(channels))
        self.conv1[0] = nn.Conv2d(in_chans, channels[0], 3, stride=2, padding=1, bias=False)
        self.in_chans, self.num_features = in_chans, channels[-1]
        self.grad_checkpointing = False
        self.steps = ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5")
        stem, stage2, stage3, _, last = channels
        self.feature_info = [
            {"num_chs": stem, "reduction": 2, "module": "conv1"},
            {"num_chs": stem, "reduction": 4, "module": "maxpool"},
            {"num_chs": stage2, "reduction": 8, "module": "stage2"},
            {"num_chs": stage3, "reduction": 16, "module": "stage3"},
            {"num_chs": last, "reduction": 32, "module": "conv5"},
        ]
        self.set_classifier(channels[-1], num_classes, global_pool, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) to (B, C, H/32, W/32)."""
        x = self.maxpool(self.conv1(x))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq([*self.stage2, *self.stage3, *self.stage4], x)
        else:
            x = self.stage4(self.stage3(self.stage2(x)))
        return self.conv5(x)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """timm's patterns of layers, for layer-wise learning rates."""
        block = r"^stage(\d+)" if coarse else r"^stage(\d+)\.(\d+)"
        return {"stem": r"^conv1", "blocks": [(block, None), (r"^conv5", (99999,))]}


def create_shufflenetv2(variant: str, **kwargs) -> ShuffleNetV2:
    """ShuffleNetV2 with timm's description of `variant`; arguments as the class."""
    return build_model_with_cfg(
        ShuffleNetV2, variant, pretrained=False, feature_cfg={"feature_cls": "getter"}, **kwargs
    )


register(
    "shufflenetv2_100",
    partial(create_shufflenetv2, "shufflenetv2_100"),
    first_conv="conv1.0",
    classifier="fc",
    interpolation="bilinear",
    pool_size=(7, 7),
)
