"""Weights and states: checkpoints of a run, released .pth files, safetensors."""

import functools
import hashlib
import io
import os
from pathlib import Path

import torch
from robustness.damage import Damage, of_bytes, of_safetensors, of_torch
from robustness.targets import OUT, RUN, Target, copied
from robustness.targets_data import json_damages
from torch import nn

from noah.engine.distributed import World
from noah.engine.failure import attempt
from noah.engine.folder import forget
from noah.engine.lock import lock
from noah.engine.state import HEADER, TrainState
from noah.evaluate.trained import load_trained
from noah.models import build_model
from noah.models.pretrained import load_backbone
from noah.models.weights import load_official_weights

ALONE = World(0, 1, torch.device("cpu"))
STATE = Path("kept-state")


def small_state() -> TrainState:
    model = nn.Linear(4, 3)
    return TrainState(model, torch.optim.AdamW(model.parameters()))


@functools.cache
def official_model() -> nn.Module:
    """The smallest with parts of every kind."""
    return build_model("deit_tiny", "noah", width=0.5, depth=1, patch_size=8, img_size=16, num_classes=3, num_heads=4)


def official_names(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict as the official code names it."""
    state = model.state_dict()
    return {name.removeprefix("backbone."): tensor for name, tensor in state.items()}


def legacy(data: object) -> bytes:
    """torch's format before its zip files."""
    buffer = io.BytesIO()
    torch.save(data, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _resume() -> bool:
    """From the newest checkpoint, or else the one before."""
    (copy,) = copied(STATE)
    state = small_state()
    assert state.load(copy, ALONE), "the sound one before it is taken"
    assert state.step in (1, 2)
    return True


def _resume_signed() -> None:
    (copy,) = copied(STATE)
    newest = copy / "checkpoint.pt"
    rest = newest.read_bytes()
    rest = rest.split(b"\n", 1)[1] if rest.startswith(HEADER[:16]) else rest
    newest.write_bytes(HEADER % hashlib.sha256(rest).hexdigest().encode() + rest)
    small_state().load(copy, ALONE)


def _signed_damages(good: bytes) -> list[Damage]:
    """Of what follows the line with the sha256, which is written anew."""
    return [of_torch(good.split(b"\n", 1)[1])]


def _lock() -> None:
    (copy,) = copied(STATE)
    os.utime(copy / "lock", (0, 0))
    with lock(copy):
        pass


def _attempt() -> None:
    (copy,) = copied(STATE)
    with attempt(copy, "some/run", small_state()):
        pass


def _torch_damages(good: bytes) -> list[Damage]:
    return [of_bytes(good), of_torch(good)]


TARGETS = {
    "checkpoint.pt": Target(f"{STATE}/checkpoint.pt", lambda good: [of_bytes(good)], _resume),
    "checkpoint.pt, signed": Target(f"{STATE}/checkpoint.pt", _signed_damages, _resume_signed),
    "lock": Target(f"{STATE}/lock", json_damages, _lock),
    "failure.json": Target(f"{STATE}/failure.json", json_damages, _attempt),
    "provenance.json, forgotten with": Target(
        f"{RUN}/provenance.json", json_damages, lambda: forget(OUT / "state", RUN)
    ),
    "official.pth": Target(
        "weights/official.pth",
        _torch_damages,
        lambda: load_official_weights(official_model(), Path("weights/official.pth")),
    ),
    "official legacy.pth": Target(
        "weights/legacy.pth",
        lambda good: [of_bytes(good, b"cos\nsystem\n", b"R", b"\x93", b"c__builtin__\neval\n")],
        lambda: load_official_weights(official_model(), Path("weights/legacy.pth")),
    ),
    "model.safetensors": Target(
        f"{RUN}/model.safetensors",
        lambda good: [of_bytes(good[:4000], b"F64", b"BF16", b"[0,0]"), of_safetensors(good)],
        lambda: load_trained(RUN),
        0.5,
    ),
    "backbone.safetensors": Target(
        "weights/backbone.safetensors",
        lambda good: [of_bytes(good[:4000], b"F64"), of_safetensors(good)],
        lambda: load_backbone(official_model(), Path("weights/backbone.safetensors")),
    ),
}
