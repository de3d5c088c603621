"""Every head on a backbone, through the one function that studies use."""

import pytest
import torch

from noah.heads import HEADS
from noah.models import build_model

SMALL = {"ml_decoder": {"embed_dim": 16, "hidden_dim": 16}}
TINY = {"width": 0.5, "num_classes": 3, "img_size": 32, "depth": 1, "patch_size": 8}


@pytest.mark.parametrize("head", [name for name in HEADS if name != "token"])
def test_every_head_scores_the_images_of_an_mlp(head):
    model = build_model("gmlp_tiny", head, **TINY, **SMALL.get(head, {}))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    model.reset_classifier(5)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_a_control_matched_to_macs_knows_the_positions_of_its_backbone():
    control = build_model("gmlp_tiny", "hidden_gap", match="macs", **TINY).head
    assert control.hidden.out_features == round(64 * 3 * 16 / (64 * 16 + 3))
    coarse = build_model("gmlp_tiny", "gap_hidden", match="macs", **{**TINY, "patch_size": 16}).head
    assert coarse.hidden.out_features == round(64 * 3 * 4 / (64 + 3))


def test_what_a_head_never_decays_is_said_by_the_model():
    assert "head.token" in build_model("gmlp_tiny", "class_attention", **TINY).no_weight_decay()
