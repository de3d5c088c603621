"""Compiled steps: the same training, the same bits when resumed, heads with their own kernels."""

import os
import signal
from pathlib import Path

import pytest
import torch
from test_train import results

from noah.benchmark.step import run_of, step_of
from noah.config import Recipe
from noah.engine import compiled as module
from noah.engine import train as training
from noah.engine.compiled import Parts, compiled
from noah.engine.train import Machine, train
from noah.heads.kernels import tiles
from noah.heads.kernels.compiled import has_compiler
from noah.models import build_model
from noah.signals import Interrupted

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
STEPS = {"compile": True, "drop_path_rate": 0.1, "proj_drop_rate": 0.1, "mixup": 0.8, "ema_decay": 0.9}


@needs_compiler
def test_a_compiled_run_is_the_same_bits_when_it_was_stopped_and_resumed(tiny_shards, make_run, monkeypatch):
    run = make_run(**STEPS)
    train(run, tiny_shards, Path("quiet"))
    real = training.stepper

    def stopping(*arguments):
        step_once, left = real(*arguments), 2

        def step(group, lr):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return step_once(group, lr)

        return step

    monkeypatch.setattr(training, "stepper", stopping)
    with pytest.raises(Interrupted):
        train(run, tiny_shards, Path("stopped"))
    torch._dynamo.reset()  # as in a new process
    monkeypatch.setattr(training, "stepper", real)
    train(run, tiny_shards, Path("stopped"))
    assert results(Path("stopped")) == results(Path("quiet"))


def test_cuda_graphs_are_torch_s_mode_of_that_use(monkeypatch):
    modes, marks = [], []
    monkeypatch.setattr(torch, "compile", lambda model, mode, **_: modes.append(mode) or model)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.long)
    for switches in ({}, {"cuda_graphs": True}):
        run = run_of("mobilenetv2", 0.35, 2, 8, 4, compile=True, **switches)
        step_of(run, build_model("mobilenetv2", "gap", width=0.35, num_classes=4, img_size=32), images)()
    assert (modes, marks) == ([None, "reduce-overhead"], [1])


@needs_compiler
def test_cuda_graphs_change_nothing_on_a_cpu(tiny_shards, make_run):
    outs = {"without": False, "with": True}
    for out, switch in outs.items():
        train(make_run(compile=True, cuda_graphs=switch), tiny_shards, Path(out))
        torch._dynamo.reset()
    found = [{name: results(Path(out))[name] for name in ("history.csv", "predictions.parquet")} for out in outs]
    assert found[0] == found[1]


@needs_compiler
def test_a_compiled_step_gives_the_plain_gradients_and_the_head_its_own_kernel(monkeypatch):
    torch.manual_seed(0)
    backbone = {"backbone": "gmlp_tiny", "width": 0.5, "depth": 1, "patch_size": 8}
    model = build_model(**backbone, head="noah", num_classes=70, img_size=32).train()
    heads = []
    monkeypatch.setattr(tiles, "pool_all", lambda *args, real=tiles.pool_all: heads.append(1) or real(*args))
    images, gradients = torch.randn(2, 3, 32, 32), []
    for step in (model, compiled(Parts(model), Recipe(epochs=1, batch=2, lr=0.1))):
        model.zero_grad()
        step(images).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert len(heads) == 2
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_without_a_compiler_the_run_is_refused_before_it_trains(tiny_shards, make_run, monkeypatch):
    monkeypatch.setattr(module, "has_compiler", lambda: False)
    with pytest.raises(ValueError, match=r"compile is true, which needs a C\+\+ compiler, expected false"):
        train(make_run(compile=True), tiny_shards, Path("out"), Machine())
    assert not list(Path("state").rglob("*.pt"))
