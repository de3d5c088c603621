"""Starting a backbone from trained weights, as fine-tuning does; the head starts anew."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from noah.files import sha256_file
from noah.models.classifier import Classifier

_POSITIONS = "pos_embed"


def load_backbone(model: Classifier, path: Path, sha256: str | None = None) -> None:
    """Copy weights into the backbone of a model; every one of its tensors has to be in the file.

    The file is a .safetensors of one of our models (`backbone.` + timm's names; from a run, or from `noah
    import-weights`) or of timm's model with timm's own names. What the file has beyond the backbone, such as a
    classifier or a class token that this model lacks, is left out. Learned position embeddings of a vision transformer
    are resized to the image size of the model, as timm does.

    Args:
        model: A model of `build_model`.
        path: The file.
        sha256: What it must be, where that is known.

    Raises:
        ValueError: No such file, another sha256, no safetensors; a tensor that is missing or of another shape, by name.
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
    if _POSITIONS in expected and _POSITIONS in given:
        given[_POSITIONS] = _fit_positions(model.backbone, given[_POSITIONS], "cls_token" in given)
    missing = [name for name in expected if name not in given]
    if missing:
        raise ValueError(f"{path}: {len(missing)} tensors of the backbone are not there, first '{missing[0]}'")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            raise ValueError(
                f"{path}: '{name}' has shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)} of the backbone"
            )
    model.backbone.load_state_dict({name: given[name] for name in expected})


def _fit_positions(backbone: nn.Module, positions: Tensor, had_token: bool) -> Tensor:
    """(1, L', C), first a class token's where there was one, to this backbone's (1, L, C)."""
    expected, own_prefix = getattr(backbone, _POSITIONS), getattr(backbone, "num_prefix_tokens", 0)
    side = (positions.shape[1] - had_token) ** 0.5
    if not hasattr(backbone, "patch_embed") or side != int(side):
        return positions  # of a kind that timm does not resize: the shapes decide
    prefix = positions[:, :had_token]
    grid = resample_abs_pos_embed(
        positions[:, int(had_token) :], list(backbone.patch_embed.grid_size), num_prefix_tokens=0
    )
    if own_prefix and expected.shape[1] == grid.shape[1] + own_prefix and prefix.shape[1] == own_prefix:
        return torch.cat([prefix, grid], dim=1)
    return grid
