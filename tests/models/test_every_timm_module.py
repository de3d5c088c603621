"""The small models of every module of timm: `gap` computes what timm's own model computes, or says why it cannot."""

import re

import pytest
import timm
import torch
from torch import nn

from noah.models import build_model
from noah.models.classifier import Classifier

MODELS_PER_MODULE, LARGEST_PARAMETERS = 4, 100_000_000
IMAGES = 2  # a batch of one hides what mixes images
NAMES = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")]
MODULES = sorted({timm.model_entrypoint(name).__module__.rpartition(".")[2] for name in NAMES})

CANNOT = "gives features|do not keep the positions|class token alone|no classifier|timm fixes it"
"""What a model may be refused for."""


def parameters_of(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name).parameters())


def smallest(module: str) -> list[str]:
    names = [name for name in NAMES if timm.model_entrypoint(name).__module__ == f"timm.models.{module}"]
    counts = {name: parameters_of(name) for name in names}
    names = [name for name in sorted(names, key=counts.get) if counts[name] <= LARGEST_PARAMETERS]
    return names[:MODELS_PER_MODULE]


def timms_own(name: str) -> nn.Module | None:
    """timm's model of the mean over positions, each of them normalised; None where it has none."""
    with torch.device("meta"):
        pool = getattr(timm.create_model(name), "global_pool", "avg")
    if pool == "map":
        return None
    pooling = {"global_pool": "avg", "fc_norm": False} if pool == "token" else {}
    for options in ({"class_token": False, **pooling}, pooling):
        try:
            return timm.create_model(name, num_classes=3, **options).eval()
        except (TypeError, AssertionError):
            continue
    return None


@torch.no_grad()
def assert_equal(model: Classifier, timms: nn.Module) -> None:
    for parameter in timms.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))  # a norm of ones and zeros hides where it stands
    classifier, state = timms.default_cfg["classifier"], timms.state_dict()
    ours = model.head.fc.state_dict()
    model.head.fc.load_state_dict({key: state.pop(f"{classifier}.{key}").reshape_as(ours[key]) for key in ours})
    model.backbone.load_state_dict(state)
    side = timms.default_cfg["input_size"][-1]
    images = torch.randn(IMAGES, 3, side, side)
    torch.testing.assert_close(model(images), timms(images))


def outcome(name: str) -> str:
    try:
        model = build_model(name, "gap", num_classes=3).eval()
    except ValueError as error:
        return str(error)
    timms = timms_own(name)
    if timms is None:
        return "timm pools by a token or by attention"
    if model.moved_layers:
        return f"moved: {model.moved_layers}"
    if model.left_out_layers:
        return f"left out: {model.left_out_layers}"
    assert_equal(model, timms)
    return "equal"


@pytest.mark.long
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gap_is_timms_model_or_names_the_layer_that_moved_or_the_model_is_refused(module):
    for name in smallest(module):
        said = outcome(name)
        print(f"{name}: {said}")
        refused = f"backbone '{name}' .*({CANNOT}).*"
        assert re.fullmatch(f"equal|moved: .*|left out: .*|timm pools by.*|{refused}", said), said
