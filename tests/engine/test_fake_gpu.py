"""A training step on a GPU that is not there: no tensor is on the wrong device, and nothing waits for the device."""

import pytest
import torch
from fake_gpu import CUDA, as_fake, backward_gives, fake_gpu
from small_runs import BACKBONES
from tests_support import REPOSITORY

from noah.config import Head
from noah.data import transforms
from noah.engine import setup, step
from noah.engine.distributed import World
from noah.engine.optim import build_scheduler, set_lr
from noah.engine.step import Losses, stepper
from noah.models import build_model

RECIPES = sorted(path.stem for path in (REPOSITORY / "config/recipes").glob("*.yaml"))
ON_A_GPU = World(0, 1, CUDA)
pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14) or torch.cuda.is_available(),
    reason="torch before 2.14 asks CUDA's driver all the same; with a GPU there is tests/engine/test_gpu.py",
)
STEPS = 3
FAMILIES = {"vit": "vit", "deit": "vit", "pvt": "vit", "mlp": "mlp"}
EVERYTHING = {
    "random_erasing": 1.0,
    "mixup": 0.8,
    "cutmix": 1.0,
    "clip_grad": 1.0,
    "ema_decay": 0.9,
    "precision": "bf16",
    "channels_last": True,
}


@pytest.fixture(autouse=True)
def constants_of_their_own():
    transforms._constant.cache_clear()
    yield
    transforms._constant.cache_clear()


def waits_of_a_step(run, monkeypatch) -> dict[str, int]:
    """How often each of the later steps waited for the device."""
    recipe = run.recipe
    model = build_model(**run.model_arguments)
    with fake_gpu(monkeypatch) as counted:
        monkeypatch.setattr(setup, "build_model", lambda **_: as_fake(model, channels_last=recipe.channels_last))
        state = setup.build_state(run, ON_A_GPU)
        monkeypatch.setattr(torch.Tensor, "backward", backward_gives(state.model))
        losses = Losses(run, state, lag=1)
        step_once = stepper(run, state.model, state, ON_A_GPU, losses)
        scheduler = build_scheduler(state.optimizer, recipe, 10)
        size = run.dataset.image_size
        labels = (recipe.forward_batch, run.dataset.num_classes) if run.dataset.multi_label else recipe.forward_batch
        for number in range(STEPS):
            if number == 1:
                counted.clear()
            images = torch.zeros(recipe.forward_batch, 3, size, size, dtype=torch.uint8)
            batch = (images, torch.zeros(labels, dtype=torch.float32 if run.dataset.multi_label else torch.int64), None)
            step_once([batch] * recipe.passes(1), set_lr(state.optimizer, scheduler, number, 10))
        assert all(p.device == CUDA for p in state.model.parameters())
    return {kind: number / (STEPS - 1) for kind, number in counted.items() if number}


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("arm", ["baseline", "noah"])
def test_a_step_with_everything_on_never_waits_for_the_gpu(make_small, monkeypatch, family, arm):
    run = make_small("digits-cnn", family, **EVERYTHING)
    if arm == "baseline":
        run = run.model_copy(update={"head": Head(name="gap")})
    assert waits_of_a_step(run, monkeypatch) == {}


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_of_no_recipe_waits_for_the_gpu(make_small, monkeypatch, name):
    family = next((family for word, family in FAMILIES.items() if word in name), "cnn")
    assert waits_of_a_step(make_small(name, family), monkeypatch) == {}


def test_fp16_waits_once_a_step_to_see_whether_a_gradient_overflowed(make_small, monkeypatch):
    half = {**EVERYTHING, "precision": "fp16"}
    assert waits_of_a_step(make_small("digits-cnn", "cnn", **half), monkeypatch) == {"read": 1}


def test_whoever_waits_is_counted(make_small, monkeypatch):
    def waiting(images, recipe, dataset):
        float(images.float().mean())
        return images.cpu().float().to(CUDA)

    monkeypatch.setattr(step, "normalize", waiting)
    run = make_small("digits-cnn", "cnn")
    passes = run.recipe.passes(1)
    assert waits_of_a_step(run, monkeypatch) == dict.fromkeys(("read", "copied to cpu", "copied to cuda"), passes)


def test_a_tensor_that_stayed_on_the_cpu_is_an_error(make_small, monkeypatch):
    monkeypatch.setattr(step, "normalize", lambda images, recipe, dataset: images.float() * torch.ones(3, 1, 1))
    with pytest.raises(RuntimeError, match="device"):
        waits_of_a_step(make_small("digits-cnn", "cnn"), monkeypatch)
