"""A head that its user compiles keeps its kernel: as fast, as lean, and whole in one graph."""

import copy

import pytest
import torch
from torch import nn

from noah.evaluate.cost import running_maximum
from noah.heads import NOAH
from noah.heads.kernels import opaque, tiles


def head(drop_rate=0.0, **arguments):
    torch.manual_seed(0)
    made = NOAH(24, 7, 3, 0.25, drop_rate=drop_rate, **arguments)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def gradients(call, module, x):
    module.zero_grad()
    x = x.clone().requires_grad_()
    out = call(x)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in module.parameters())]


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("shape", [(3, 24, 4, 2), (3, 8, 24)])
def test_the_compiled_head_is_the_eager_one_gradients_too(shape, dynamic):
    module, x = head(), torch.randn(shape)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for given, expected in zip(gradients(compiled, module, x), gradients(module, module, x), strict=True):
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("drop_rate", [0.0, 0.3])
def test_it_calls_the_kernel_and_holds_no_attention_map(drop_rate, monkeypatch):
    called = []
    monkeypatch.setattr(tiles, "pool_all", lambda *a, whole=tiles.pool_all: called.append("forward") or whole(*a))
    backward = tiles.pool_all_backward
    monkeypatch.setattr(tiles, "pool_all_backward", lambda *a: called.append("backward") or backward(*a))
    module = NOAH(64, 200, 4, drop_rate=drop_rate)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(48, 64, 14, 14, requires_grad=True)
    compiled(x).sum().backward()
    assert called == ["forward", "backward"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        compiled(x).sum().backward()
    whole_map = 4 * 48 * 4 * 200 * 196
    assert running_maximum(profiler) < whole_map


@pytest.mark.parametrize("dynamic", [True, False])
def test_dropout_drops_in_training_alone_and_its_gradient_knows_the_mask(dynamic):
    module = head(0.4)
    with torch.no_grad():  # uniform attention, values of 1: scores count what is kept
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
        nn.init.ones_(module.value.bias)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    x = torch.randn(50, 24, 4, 2)
    torch.manual_seed(3)
    first = compiled(x)
    torch.manual_seed(3)
    assert torch.equal(compiled(x), first)
    assert not torch.equal(compiled(x), first)
    kept = first.detach() * 8 * 0.6
    torch.testing.assert_close(kept, kept.round(), atol=1e-4, rtol=0)
    assert kept.mean() / 24 == pytest.approx(0.6, abs=0.02)
    first.sum().backward()
    assert module.value.bias.grad.sum() == pytest.approx(first.sum().item(), rel=1e-4)
    module.eval()
    assert (compiled(x) - 3).abs().max() < 1e-5


def test_autocast_and_frozen_weights_work_inside():
    module, x = head(), torch.randn(3, 24, 4, 2)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x), module(x), atol=0.1, rtol=0.05)
    module.requires_grad_(False)
    module.value.bias.requires_grad_(True)
    compiled(x).sum().backward()
    assert module.value.bias.grad.any()
    assert module.query.weight.grad is None


def test_the_operator_is_sound_in_torchs_eyes():
    module, x = head(), torch.randn(3, 8, 24, requires_grad=True)
    weights = [conv.weight.detach().view(3, 7, -1).requires_grad_() for conv in (module.query, module.value)]
    bias = torch.zeros(3, 7, requires_grad=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    arguments = ("cpu", bias, x, *weights, None, None, 0.0)
    torch.library.opcheck(opaque.pool, arguments, test_utils=checks)
    torch.library.opcheck(opaque.pool, (*arguments[:5], bias, torch.tensor(5), 0.3), test_utils=checks)


def test_a_fused_head_is_compiled_as_well():
    module, x = head().eval(), torch.randn(3, 24, 4, 2)
    fused = module.fuse()
    compiled = torch.compile(copy.deepcopy(fused), backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), module(x), atol=1e-4, rtol=1e-4)
