"""What timm asks of a model behind its features, for the families that timm lacks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PooledMap:
    """Mixed into a model whose `forward_features` gives a map (B, C, H, W): pooling, classifier `fc`, and their reset.

    `set_classifier` is called once, at the end of `__init__`. With `global_pool=""` and no classes the map itself
    comes out, which is how a backbone is asked for.
    """

    def set_classifier(self, in_features: int, num_classes: int, global_pool: str, drop_rate: float) -> None:
        """`in_features`: channels that reach the classifier."""
        self.head_hidden_size, self.drop_rate = in_features, drop_rate
        self.reset_classifier(num_classes, global_pool)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for other classes; 0: none. `global_pool`: `avg`, `""` (none), or None: as before.

        Raises:
            ValueError: Another pooling, or classes without pooling.
        """
        global_pool = self.global_pool if global_pool is None else global_pool
        if global_pool not in ("avg", "") or (num_classes and not global_pool):
            raise ValueError(f"global_pool is '{global_pool}', expected avg" + ("" if num_classes else " or ''"))
        self.num_classes, self.global_pool = num_classes, global_pool
        like = next(self.parameters())
        fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        self.fc = fc.to(like.device, like.dtype)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) to (B, M); with `pre_logits` what the classifier gets, (B, C)."""
        if self.global_pool == "avg":
            x = x.mean((2, 3))
        return x if pre_logits else self.fc(self.drop(x))

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop_rate, training=self.training)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return set()
