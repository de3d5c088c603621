"""The official heads, and the two official backbones that neither torchvision nor timm has, from tensors by name."""

import torch
from torch import Tensor
from torch.nn import functional as F

HEAD_MODULES = ("head", "classifier")

State = dict[str, Tensor]


def is_head(key: str) -> bool:
    return key.split(".")[0] in HEAD_MODULES


def scores(state: State, features: Tensor, num_classes: int = 1000) -> Tensor:
    """Class scores (B, M) of features (B, C, H, W) or (B, L, C) by the head in `state`."""
    head = {".".join(key.split(".")[-2:]): tensor for key, tensor in state.items() if is_head(key)}
    tokens = features.flatten(2).mT if features.ndim == 4 else features
    if "query.weight" not in head:
        bias, weight = sorted(head.values(), key=Tensor.dim)
        return F.linear(tokens[:, 0] if "cls_token" in state else tokens.mean(1), weight, bias)
    keys, values = head["query.weight"].shape[1], head["value.weight"].shape[1]
    num_heads = tokens.shape[2] // (keys + values)
    total = torch.zeros(len(tokens), num_classes)
    for n in range(num_heads):
        rows = slice(num_classes * n, num_classes * (n + 1))
        seen = {"query": tokens[..., keys * n : keys * (n + 1)]}
        seen["value"] = tokens[..., num_heads * keys :][..., values * n : values * (n + 1)]
        query, value = (
            F.linear(seen[part], head[f"{part}.weight"][rows, :, 0, 0], head[f"{part}.bias"][rows]) for part in seen
        )
        total += (query.softmax(1) * value).sum(1)
    return total


def mobilenetv3_small(state: State, x: Tensor) -> Tensor:
    """(B, 3, H, W) to the map that NOAH sees, (B, 1280, H/32, W/32); for the baseline to (B, 1280, 1, 1), pooled."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x = F.hardswish(norm(conv(x, "features.0.0", 2), "features.0.1"))
    for number, stride in enumerate((2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1), start=1):
        block, act = f"features.{number}.conv", F.relu if number <= 3 else F.hardswish
        y = act(norm(conv(x, f"{block}.0"), f"{block}.1"))
        y = norm(conv(y, f"{block}.3", stride), f"{block}.4")
        if f"{block}.5.fc.0.weight" in state:
            gate = F.relu(F.linear(y.mean((2, 3)), state[f"{block}.5.fc.0.weight"]))
            y = y * F.hardsigmoid(F.linear(gate, state[f"{block}.5.fc.2.weight"]))[..., None, None]
        y = norm(conv(act(y), f"{block}.7"), f"{block}.8")
        x = x + y if x.shape == y.shape else y
    x = F.hardswish(norm(conv(x, "features.12.0"), "features.12.1"))
    if "features.13.weight" in state:
        return F.hardswish(conv(x, "features.13"))
    return F.hardswish(conv(x.mean((2, 3), keepdim=True), "features.14"))


def pvt_tiny(state: State, x: Tensor) -> Tensor:
    """(B, 3, 224, 224) to tokens (B, 49, C), or (B, 50, C) with the class token in front."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def patches(x: Tensor, name: str, stride: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride)

    for stage, (patch, heads, reduction) in enumerate(((4, 1, 8), (2, 2, 4), (2, 5, 2), (2, 8, 1)), start=1):
        x = patches(x, f"patch_embed{stage}.proj", patch)
        height = x.shape[2]
        x = norm(x.flatten(2).mT, f"patch_embed{stage}.norm", 1e-5)
        if stage == 4 and "cls_token" in state:
            x = torch.cat([state["cls_token"], x], 1)
        x = x + state[f"pos_embed{stage}"]
        for block in (f"block{stage}.0", f"block{stage}.1"):
            y = norm(x, f"{block}.norm1", 1e-6)
            seen = y
            if reduction > 1:
                seen = patches(y.mT.unflatten(2, (height, -1)), f"{block}.attn.sr", reduction).flatten(2).mT
                seen = norm(seen, f"{block}.attn.norm", 1e-5)
            query = linear(y, f"{block}.attn.q").unflatten(2, (heads, -1)).transpose(1, 2)
            key, value = linear(seen, f"{block}.attn.kv").unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
            weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
            x = x + linear((weights @ value).transpose(1, 2).flatten(2), f"{block}.attn.proj")
            y = F.gelu(linear(norm(x, f"{block}.norm2", 1e-6), f"{block}.mlp.fc1"))
            x = x + linear(y, f"{block}.mlp.fc2")
        if stage < 4:
            x = x.mT.unflatten(2, (height, -1))
    return norm(x, "norm", 1e-6)
