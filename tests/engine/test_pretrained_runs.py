"""A run whose backbone starts from weights."""

import pytest
import torch
from safetensors.torch import save_file

from noah.config import Run
from noah.engine.distributed import World
from noah.engine.train import build_state

ALONE = World(0, 1, torch.device("cpu"))


def with_weights(run: Run, path, **fields) -> Run:
    backbone = {**run.backbone.model_dump(), "weights": str(path), **fields}
    return Run.model_validate({**run.model_dump(), "backbone": backbone})


def test_both_arms_start_from_the_same_backbone_and_a_head_of_their_own(make_run, tmp_path):
    trained = build_state(make_run(arm="baseline", seed=1), ALONE).model.state_dict()
    save_file(trained, tmp_path / "trained.safetensors")
    for arm in ("baseline", "noah"):
        plain = make_run(arm=arm)
        started = with_weights(plain, tmp_path / "trained.safetensors")
        found = build_state(started, ALONE).model.state_dict()
        own = build_state(plain, ALONE).model.state_dict()
        for name, tensor in found.items():
            assert torch.equal(tensor, (own if name.startswith("head.") else trained)[name]), name
        assert started.hash != plain.hash
        assert started.key == plain.key


def test_the_path_may_hold_environment_variables_and_the_content_may_be_pinned(make_run, tmp_path, monkeypatch):
    save_file(build_state(make_run(), ALONE).model.state_dict(), tmp_path / "w.safetensors")
    run = with_weights(make_run(), "$WEIGHTS/w.safetensors", weights_sha256="0" * 64)
    with pytest.raises(ValueError, match=r"weights is '\$WEIGHTS/w.safetensors', expected its variables to be set"):
        build_state(run, ALONE)
    monkeypatch.setenv("WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="sha256 is"):
        build_state(run, ALONE)
