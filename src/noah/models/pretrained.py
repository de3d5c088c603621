"""Starting a backbone from trained weights, as fine-tuning does; the head starts anew."""

import math
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from noah.files import sha256_file
from noah.models.classifier import Classifier

_POSITIONS = "pos_embed"
TOKENS = ("cls_token", "dist_token", "reg_token", "register_tokens", "mask_token")
"""What vision transformers have in front of their positions, or for masked ones while they are pretrained."""
CLASSIFIERS = ("fc", "head", "head_dist", "classifier", "head.fc", "last_linear")
"""Where timm's models have theirs, besides the place that a model's own description names."""


def load_backbone(model: Classifier, path: Path, sha256: str | None = None) -> None:
    """Copy weights into the backbone of a model; every one of its tensors has to be in the file.

    The file is a .safetensors of one of our models (`backbone.` + timm's names; from a run, or from `noah
    import-weights`) or of timm's model with timm's own names. Its classifier is left out, and so are tokens that this
    model lacks (`TOKENS`); any other tensor that has no place says that the file is of another backbone. Learned
    position embeddings of a vision transformer are resized to the image size of the model, as timm does.

    Args:
        model: A model of `build_model`.
        path: The file.
        sha256: What it must be, where that is known.

    Raises:
        ValueError: No such file, another sha256, no safetensors; a tensor that is missing, has no place, or another
            shape, by name.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected weights of the backbone")
    if sha256 and sha256_file(path) != sha256:
        raise ValueError(f"{path}: sha256 is {sha256_file(path)}, expected {sha256}")
    try:
        given = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
    ours = {name.removeprefix("backbone."): tensor for name, tensor in given.items() if name.startswith("backbone.")}
    given = ours or given
    expected = model.backbone.state_dict()
    if "norm.weight" in expected and "norm.weight" not in given:  # timm's name for it behind its pooling
        given = {re.sub(r"^fc_norm\.", "norm.", name): tensor for name, tensor in given.items()}
    if _POSITIONS in expected and _POSITIONS in given:
        given[_POSITIONS] = _fit_positions(model.backbone, given)
    missing = [name for name in expected if name not in given]
    if missing:
        raise ValueError(f"{path}: {len(missing)} tensors of the backbone are not there, first '{missing[0]}'")
    surplus = sorted(name for name in given if name not in expected and not _may_be_left_out(model, name))
    if surplus:
        raise ValueError(
            f"{path}: {len(surplus)} tensors have no place in the backbone, first '{surplus[0]}', expected its own, a "
            "classifier's and tokens'"
        )
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            raise ValueError(
                f"{path}: '{name}' has shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)} of the backbone"
            )
    model.backbone.load_state_dict({name: given[name] for name in expected})


def _may_be_left_out(model: Classifier, name: str) -> bool:
    named = model.backbone.default_cfg.get("classifier") or ()
    classifiers = {*CLASSIFIERS, *((named,) if isinstance(named, str) else named), *model.left_out_layers}
    return name in TOKENS or name.rpartition(".")[0] in classifiers


def _fit_positions(backbone: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """The file's (1, L', C), of tokens first where they have positions, for this backbone's (1, L, C)."""
    positions, expected = given[_POSITIONS], getattr(backbone, _POSITIONS)
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    if positions.ndim != 3 or grid is None or positions.shape[1:] == expected.shape[1:]:
        return positions  # as it is, or of a kind that timm does not resize: the shapes decide
    own_prefix = expected.shape[1] - grid[0] * grid[1]
    before = [name for name in TOKENS if name != "mask_token" and name in given and given[name].ndim == 3]
    tokens = [given[name].shape[1] for name in before]
    # Tokens may have positions or not: their number is the one that leaves this grid, else a square.
    prefixes = {*tokens, sum(tokens), 0}
    fits = [n for n in prefixes if positions.shape[1] - n == grid[0] * grid[1]]
    fits = fits or sorted((n for n in prefixes if _is_square(positions.shape[1] - n)), reverse=True)
    if not fits or own_prefix not in (0, fits[0]):
        return positions
    prefix, patches = positions[:, : fits[0]], positions[:, fits[0] :]
    if patches.shape[1] != grid[0] * grid[1]:
        patches = resample_abs_pos_embed(patches, list(grid), num_prefix_tokens=0)
    return torch.cat([prefix, patches], dim=1) if own_prefix else patches


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number
