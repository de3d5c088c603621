"""On a real GPU (`make test-gpu`): the kernel is the reference, a step waits for nothing, a run resumes."""

import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_runs import BACKBONES
from test_train import stop_after

from noah.data.loader import train_loader
from noah.data.reader import Shards
from noah.devices import check_memory, choose_device, describe_device
from noah.engine.distributed import World
from noah.engine.setup import build_state, least_memory
from noah.engine.step import Losses, stepper
from noah.engine.train import Machine, train
from noah.evaluate.cost import measure_cost
from noah.heads import NOAH
from noah.models import build_model
from noah.signals import Interrupted

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]
CUDA = torch.device("cuda", 0)
ON_A_GPU = World(0, 1, CUDA)
EVERYTHING = {
    "random_erasing": 0.5,
    "mixup": 0.8,
    "cutmix": 1.0,
    "clip_grad": 1.0,
    "ema_decay": 0.9,
    "channels_last": True,
}
SHAPES = {
    "mobilenetv2": (1280, 8, 0.25, (7, 7)),
    "resnet50": (2048, 4, 0.125, (7, 7)),
    "resnet18": (512, 4, 0.5, (7, 7)),
    "deit_tiny": (192, 4, 0.5, (14, 14)),
    "odd": (21, 3, 0.3, (5, 3)),
}
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def gradients(head, x):
    x = x.clone().requires_grad_()
    head.zero_grad()
    out = head(x)
    (out.float() * torch.linspace(-1, 1, out.numel(), device=x.device).view_as(out)).sum().backward()
    return {"out": out.detach(), "x": x.grad, **{name: p.grad for name, p in head.named_parameters()}}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_the_kernel_is_the_reference_gradients_too(name, dtype, layout):
    channels, heads, ratio, size = SHAPES[name]
    torch.manual_seed(0)
    reference = NOAH(channels, 37, heads, ratio, impl="reference", init="small_m", device=CUDA).double()
    lean = NOAH(channels, 37, heads, ratio, impl="triton", device=CUDA)
    lean.load_state_dict(reference.state_dict())
    x = torch.randn(6, channels, *size, device=CUDA).contiguous(memory_format=layout)
    torch.backends.cudnn.allow_tf32 = False
    expected, given = gradients(reference, x.double()), gradients(lean.to(dtype), x.to(dtype))
    for part, tensor in expected.items():
        largest = max(tensor.abs().max().item(), 1e-3)
        assert (given[part].double() - tensor).abs().max() <= TOLERANCES[dtype] * largest, part


def test_dropped_values_keep_their_mean_and_the_gradient_knows_the_mask():
    head = NOAH(64, 50, 2, drop_rate=0.3, impl="triton", device=CUDA)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(head.value.bias)
    out = head(torch.randn(64, 64, 4, 4, device=CUDA))
    assert out.mean().item() == pytest.approx(2.0, rel=0.02)
    out.sum().backward()
    torch.testing.assert_close(head.value.bias.grad.view(2, 50).sum(0), out.sum(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_step_with_everything_on_never_waits_for_the_gpu(tiny_shards, make_small, family, precision):
    run = make_small("digits-cnn", family, precision=precision, **EVERYTHING)
    state = build_state(run, ON_A_GPU)
    losses = Losses(run, state, lag=1)
    step_once = stepper(run, state.model, state, ON_A_GPU, losses)
    batches = list(train_loader(Shards(tiny_shards / "tiny" / "train"), run, 0, pin_memory=True))
    passes = run.recipe.passes(1)
    for number in range(3):
        if number == 2 and precision != "fp16":  # which asks whether a gradient overflowed
            torch.cuda.set_sync_debug_mode("error")
        try:
            step_once(batches[number * passes : (number + 1) * passes], 1e-3)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    losses.settle()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_learns_is_stopped_and_goes_on(tiny_shards, make_run, monkeypatch, precision):
    run = make_run(precision=precision, epochs=6, batch=48, lr=3e-3)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            train(run, tiny_shards, Path("out"), Machine(device="cuda", workers=2))
    train(run, tiny_shards, Path("out"), Machine(device="cuda", workers=2))
    losses = pd.read_csv("out/history.csv").train_loss
    assert losses.iloc[-1] < losses.iloc[0]
    assert json.loads(Path("out/provenance.json").read_text())["device"] == describe_device(CUDA)


def test_a_run_on_the_gpu_begins_as_on_the_cpu(tiny_shards, make_run):
    for device in ("cpu", "cuda"):
        train(make_run(epochs=1, warmup_epochs=0), tiny_shards, Path(device), Machine(device=device))
    cpu, cuda = (pd.read_csv(f"{device}/history.csv").train_loss[0] for device in ("cpu", "cuda"))
    assert cuda == pytest.approx(cpu, rel=1e-2)


@pytest.mark.parametrize("fields", [{}, {"batch": 2}], ids=["two passes", "one"])
@pytest.mark.parametrize("family", BACKBONES)
def test_what_a_step_needs_at_least_is_no_more_than_it_takes(tiny_shards, make_small, family, fields):
    run = make_small("digits-cnn", family, **fields)
    before = torch.cuda.memory_allocated()
    state = build_state(run, ON_A_GPU)
    step_once = stepper(run, state.model, state, ON_A_GPU, Losses(run, state, lag=0))
    batches = list(train_loader(Shards(tiny_shards / "tiny" / "train"), run, 0))
    step_once(batches[: run.recipe.passes(1)], 1e-3)  # after which the optimizer has its moments
    torch.cuda.reset_peak_memory_stats()
    step_once(batches[: run.recipe.passes(1)], 1e-3)
    assert least_memory(run) <= torch.cuda.max_memory_allocated() - before
    check_memory("a step", least_memory(run), CUDA)


def test_costs_are_measured_with_the_kernel_of_the_gpu():
    arms = {name: partial(build_model, "resnet18", name, num_classes=100, img_size=64) for name in ("gap", "noah")}
    found = measure_cost(arms, image_size=64, num_classes=100, batch=8, rounds=2, device="cuda")
    assert found["device"] == torch.cuda.get_device_name()
    assert found["arms"]["noah"]["kernel"] == "triton"


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(ValueError, match="LOCAL_RANK is"):
        choose_device("cuda", torch.cuda.device_count())
