"""What a model keeps in memory while it trains, found out on the meta device, and how it keeps less."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F


class _FusedAttention(torch.autograd.Function):
    """What fused attention keeps: its inputs and its output, no map of L x L. For shapes only."""

    @staticmethod
    def forward(ctx, query, key, value):
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out


@contextmanager
def _attention_without_maps(on: bool) -> Iterator[None]:
    plain = F.scaled_dot_product_attention
    if on:
        F.scaled_dot_product_attention = lambda q, k, v, *_, **__: _FusedAttention.apply(q, k, v)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain


def kept_for_backward(
    model: nn.Module, image_size: int, in_chans: int = 3, *, fused_attention: bool = False
) -> dict[str, int]:
    """Numbers that autograd keeps for the backward pass of one image, weights not counted: {"kept", "head_kept"}.

    Args:
        model: Of timm's interface, on the meta device; its mode is set back.
        image_size: Side of the images, in pixels.
        fused_attention: Count torch's attention as the kernels that keep no map have it, not as the meta device does.

    Returns:
        Elements of every storage kept, and those of them that only the head keeps. A head with several kernels is
        counted in the one it takes on the meta device.
    """
    training, images = model.training, torch.empty(2, in_chans, image_size, image_size, device="meta")
    seen = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    counts = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            counts[-1] += storage.nbytes() // tensor.element_size()
        return tensor

    model.train()
    with saved_tensors_hooks(keep, lambda tensor: tensor), _attention_without_maps(fused_attention):
        counts.append(0)
        features = model.forward_features(images)
        counts.append(0)
        scores = model.forward_head(features)
    assert scores.shape[0] == len(images)
    model.train(training)
    return {"kept": sum(counts) // 2, "head_kept": counts[1] // 2}


def checkpoint_gradients(model: nn.Module, name: str) -> None:
    """Keep few activations of the backbone, and compute the others again in the backward pass.

    Raises:
        ValueError: timm has no such switch for this backbone.
    """
    try:
        model.set_grad_checkpointing()
    except (AssertionError, AttributeError):
        raise ValueError(f"grad_checkpointing is true, expected false: backbone '{name}' does not have it") from None
