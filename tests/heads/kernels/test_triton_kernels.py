"""The Triton kernels, run by Triton's interpreter on the CPU, are the reference."""

import importlib.util
import os
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from torch import nn
from noah.heads import NOAH
from noah.heads.kernels import triton_kernels

def gradients(call, head, x):
    head.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    out = call(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in head.parameters())]

def check(B, C, L, M, N, r, dtype, tolerance, layout=torch.contiguous_format):
    torch.manual_seed(0)
    head = NOAH(C, M, N, r)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    head = head.to(dtype)
    x = torch.randn(B, C, L, 1).to(dtype).contiguous(memory_format=layout)
    settings = {"num_heads": N, "drop_rate": 0.0}
    given = gradients(lambda x: triton_kernels.forward(x, head.query, head.value, **settings), head, x)
    exact = NOAH(C, M, N, r, impl="reference").double()
    exact.load_state_dict(head.state_dict())
    from noah.heads.kernels import reference
    expected = gradients(lambda x: reference.forward(x, exact.query, exact.value, **settings), exact, x.double())
    assert given[0].dtype == given[1].dtype == dtype
    for a, b in zip(given, expected):
        if b.numel():
            largest = max(b.abs().max().item(), 1e-3)
            assert (a.double() - b).abs().max() <= tolerance * largest, (B, C, L, M, N, r, dtype)

from noah.heads.kernels import triton_gradients, triton_launch
for most in (192, 0):  # on the chip, and with the products left to others
    triton_gradients.MOST_CHANNELS = most
    check(2, 24, 9, 5, 2, 0.5, torch.float32, 1e-5)
    check(2, 21, 70, 67, 3, 0.3, torch.float32, 1e-5, torch.channels_last)   # several blocks of positions and classes
    check(1, 160, 17, 20, 2, 0.25, torch.float32, 1e-5)                       # several blocks of channels
    check(0, 24, 9, 5, 2, 0.5, torch.float32, 1e-5)
    check(2, 24, 9, 5, 2, 0.5, torch.float16, 1e-2)  # the interpreter multiplies bfloat16 as if it were integers
triton_gradients.PROGRAMS = 2  # fewer than there are images
triton_gradients.MOST_CHANNELS = 192
check(5, 24, 9, 5, 1, 0.5, torch.float32, 1e-5)

# Dropout: with uniform attention and values of 1 the scores count what is kept, and the gradient knows the same mask.
head = NOAH(4, 50, 2, drop_rate=0.3)
for parameter in head.parameters():
    nn.init.zeros_(parameter)
nn.init.ones_(head.value.bias)
def drop(seed):
    torch.manual_seed(seed)
    return triton_kernels.forward(torch.randn(64, 4, 16, 1), head.query, head.value, num_heads=2, drop_rate=0.3)
first, again, other = drop(1), drop(1), drop(2)
assert torch.equal(first, again) and not torch.equal(first, other)
kept = first * 16 * 0.7
assert torch.allclose(kept, kept.round(), atol=1e-3)
assert abs(kept.mean() / 16 - 0.7) < 5 * (0.3 * 0.7 / (16 * kept.numel())) ** 0.5
assert abs(kept.var() / (16 * 0.3 * 0.7) - 1) < 0.1
first.sum().backward()
assert torch.allclose(head.value.bias.grad.view(2, 50), first.sum(0), rtol=1e-4)

# The gradient of the keys knows the mask, and what nobody wants is not computed.
head = NOAH(24, 5, 2, drop_rate=0.4)
for parameter in head.parameters():
    nn.init.normal_(parameter, std=0.5)
x = torch.randn(3, 24, 9, 1)
def loss(weight):
    torch.manual_seed(5)
    query = torch.nn.Conv2d(12, 10, 1, groups=2)
    query.weight, query.bias = nn.Parameter(weight), head.query.bias
    torch.manual_seed(5)
    out = triton_kernels.forward(x, query, head.value, num_heads=2, drop_rate=0.4)
    return (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), query.weight
for most in (192, 0):
    triton_gradients.MOST_CHANNELS = most
    value, weight = loss(head.query.weight.detach())
    value.backward()
    step = 1e-2 * weight.grad / weight.grad.norm()
    with torch.no_grad():
        slope = (loss(weight + step)[0] - loss(weight - step)[0]) / 2
    assert abs(slope / (weight.grad * step).sum() - 1) < 0.02
triton_gradients.MOST_CHANNELS = 0
multiplied, mm = [], torch.mm
torch.mm = lambda *a, **k: multiplied.append(1) or mm(*a, **k)
for frozen, products in ((head.query, 6), (head.value, 4)):
    frozen.requires_grad_(False)
    multiplied.clear()
    triton_kernels.forward(x.requires_grad_(), head.query, head.value, num_heads=2, drop_rate=0.0).sum().backward()
    assert len(multiplied) == products
torch.mm = mm
triton_gradients.MOST_CHANNELS = 192

# A fused head takes the kernel where it is the best there is.
from noah.heads.kernels import BEST
head = NOAH(21, 11, 3, 0.3).eval()
x = torch.randn(2, 21, 3, 2)
expected = head(x)
BEST["cpu"] = "triton"
with torch.no_grad():
    assert torch.allclose(head.fuse()(x), expected, atol=1e-5)
    assert torch.allclose(head.fuse().double()(x.double()).float(), expected, atol=1e-5)

# By name and by itself, under autocast, and what it refuses.
from noah.heads.kernels import DEVICES
DEVICES["triton"] = "cpu"
x.requires_grad_()
for impl in ("triton", "auto"):
    lean = NOAH(21, 11, 3, 0.3, impl=impl).eval()
    lean.load_state_dict(head.state_dict())
    assert torch.allclose(lean(x), expected, atol=1e-5)
    with torch.autocast("cpu", torch.float16):
        half = lean(x)
    assert half.dtype == torch.float16 and torch.allclose(half.float(), expected, atol=2e-2)
    half.float().sum().backward()
    assert lean.query.weight.grad.dtype == torch.float32
    for refused, settings in (("second derivatives", {"create_graph": True}), ("vectorized", {"vectorize": True})):
        try:
            torch.autograd.functional.jacobian(lambda x: lean(x).sum(0), x.detach(), **settings)
        except RuntimeError as error:
            assert refused in str(error)
        else:
            raise AssertionError(refused)

# float32 is multiplied as cuDNN's switch says, the old one or the new.
assert triton_launch.tf32()
torch.backends.cudnn.allow_tf32 = False
assert not triton_launch.tf32()
torch.backends.cudnn.conv.fp32_precision = "tf32"
assert triton_launch.tf32()
torch.backends.cudnn.conv.fp32_precision = "ieee"
assert not triton_launch.tf32() and torch.allclose(lean(x), expected, atol=1e-5)
print("agree")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_forward_backward_and_dropout_agree_with_the_reference():
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "agree" in done.stdout
