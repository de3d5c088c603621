"""What timm asks of a model behind its features, for the families that timm lacks."""

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F


class PooledMap:
    """Mixed into a model whose `forward_features` gives a map (B, C, H, W): pooling, classifier `fc`, and their reset.

    `set_classifier` is called once, at the end of `__init__`. With `global_pool=""` and no classes the map itself
    comes out, which is how a backbone is asked for.

    Attributes:
        steps: Names of the modules that `forward_features` runs one after the other; the model gives them.
    """

    def set_classifier(self, in_features: int, num_classes: int, global_pool: str, drop_rate: float) -> None:
        """`in_features`: channels that reach the classifier."""
        self.head_hidden_size, self.drop_rate = in_features, drop_rate
        self.reset_classifier(num_classes, global_pool)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for other classes; 0: none. `global_pool`: `avg`, `""` (none), or None: as before, but
        `avg` where classes need it.

        Raises:
            ValueError: Another pooling, or classes without pooling.
        """
        if global_pool is None:
            global_pool = "avg" if num_classes else self.global_pool
        if global_pool not in ("avg", "") or (num_classes and not global_pool):
            raise ValueError(f"global_pool is '{global_pool}', expected avg" + ("" if num_classes else " or ''"))
        self.num_classes, self.global_pool = num_classes, global_pool
        like = next(self.parameters())
        fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        self.fc = fc.to(like.device, like.dtype).train(self.training)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) to (B, M); with `pre_logits` what the classifier gets, (B, C)."""
        if self.global_pool == "avg":
            x = x.mean((2, 3))
        return x if pre_logits else self.fc(self.drop(x))

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
        """The maps of `feature_info`, all or those of `indices`, behind what `forward_features` gives, as timm's.

        Args:
            norm: Without effect: the last map is normalised as it is.
            stop_early: Compute nothing behind the last map that is wanted.
            intermediates_only: The maps alone.
        """
        assert output_fmt == "NCHW", f"output_fmt is {output_fmt}, expected NCHW"
        taken, last = feature_take_indices(len(self.feature_info), indices)
        number, maps = {info["module"]: i for i, info in enumerate(self.feature_info)}, []
        for name in self.steps:
            x = self.get_submodule(name)(x)
            maps += [x] if number.get(name) in taken else []
            if (stop_early or intermediates_only) and number.get(name) == last:
                break
        return maps if intermediates_only else (x, maps)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Leave out what stands behind the last map of `indices`; these as numbers from the front."""
        taken, last = feature_take_indices(len(self.feature_info), indices)
        behind = self.steps[self.steps.index(self.feature_info[last]["module"]) + 1 :]
        for name in behind:
            self.set_submodule(name, nn.Identity())
        if prune_head or behind:
            self.prune_head()
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            self.reset_classifier(0, "")
        return taken

    @torch.jit.ignore
    def prune_head(self) -> None:
        """Leave out what `forward_head` has in front of the classifier."""

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop_rate, training=self.training)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return set()
