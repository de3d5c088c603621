"""What others hang on `query` and `value` (pruning, norms, adapters, hooks) has its effect, whatever the kernel."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from noah.heads import NOAH

B, L, C, M = 3, 6, 16, 5


def head(**arguments):
    torch.manual_seed(0)
    made = NOAH(C, M, 4, **arguments)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def features():
    return torch.randn(B, L, C, generator=torch.Generator().manual_seed(1))


class Adapter(nn.Module):
    """As LoRA wraps a layer: the frozen one, plus a small one of its own."""

    def __init__(self, base):
        super().__init__()
        self.base, self.extra = base.requires_grad_(False), nn.Conv2d(base.in_channels, base.out_channels, 1)
        self.in_channels = base.in_channels

    def forward(self, x):
        return self.base(x) + self.extra(x)


def spectral(module):
    module.query = torch.nn.utils.spectral_norm(module.query)


def weight_norm(module):
    module.value = parametrizations.weight_norm(module.value)


def pruned(module):
    prune.l1_unstructured(module.query, "weight", 0.5)


def adapted(module):
    module.value = Adapter(module.value)


def hooked(module):
    module.query.register_forward_hook(lambda layer, inputs, out: out * 2)


CHANGES = [spectral, weight_norm, pruned, adapted, hooked]


@pytest.mark.parametrize("impl", ["cpu", "auto"])
@pytest.mark.parametrize("change", CHANGES)
def test_scores_and_gradients_are_those_of_the_changed_layers(change, impl):
    plain, found = head(impl=impl), []
    for kernel in (impl, "reference"):
        module = head(impl=kernel).eval()
        change(module)
        for _ in range(2):  # a second step, after which pruning by a stale graph fails
            module.zero_grad()
            out = module(features())
            out.square().sum().backward()
        found.append([out, *(p.grad for p in module.parameters() if p.requires_grad)])
    for one, other in zip(*found, strict=True):
        assert other is not None
        torch.testing.assert_close(one, other)
    assert change in (spectral, weight_norm) or not torch.allclose(found[0][0], plain(features()), atol=1e-3)


def test_hooks_see_what_the_layers_give():
    module, seen = head(impl="cpu"), []
    module.query.register_forward_hook(lambda layer, inputs, out: seen.append(out))
    module.value.register_full_backward_hook(lambda layer, into, outof: seen.append(outof[0]))
    module(features()).sum().backward()
    assert [tuple(tensor.shape) for tensor in seen] == [(B, 4 * M, L, 1)] * 2


def test_a_hook_on_all_modules_sees_them_too():
    module, seen = head(impl="cpu"), []
    handle = nn.modules.module.register_module_forward_hook(lambda layer, *_: seen.append(layer))
    try:
        module(features())
    finally:
        handle.remove()
    assert module.query in seen
    assert module.value in seen


@pytest.mark.parametrize("change", CHANGES)
def test_such_a_head_is_fused_only_after_they_are_gone(change):
    module = head().eval()
    change(module)
    with pytest.raises(ValueError, match=r"fuse\(\) of a head whose (query|value) is a .* expected a plain Conv2d"):
        module.fuse()


def test_another_kernel_computes_from_the_moment_it_is_set(monkeypatch):
    module, x = head(), features()
    module.impl = "reference"
    assert "impl=reference" in repr(module)
    seen = []
    monkeypatch.setattr(
        type(module.query),
        "forward",
        lambda *a: seen.append(1) or nn.functional.conv2d(a[1], a[0].weight, a[0].bias, groups=a[0].groups),
    )
    module(x)
    assert len(seen) == 2, "the reference calls its convolutions"
    module.impl = "cpu"
    module(x)
    assert len(seen) == 2
    with pytest.raises(ValueError, match="impl is 'gpu', expected one of auto"):
        module.impl = "gpu"
    with pytest.raises(ValueError, match="expected auto or reference"):
        NOAH(C, M, score="sigmoid").impl = "cpu"


@pytest.mark.parametrize("frozen", ["features", "weights", "query", "value", "all but the key bias"])
@pytest.mark.parametrize("drop_rate", [0.0, 0.3])
def test_gradients_that_nobody_wants_are_not_computed(frozen, drop_rate, monkeypatch):
    from noah.heads.kernels import tiles

    module, x = head(impl="cpu", drop_rate=drop_rate), features().requires_grad_(frozen == "weights")
    whole = copy.deepcopy(module)
    if frozen == "weights":
        module.requires_grad_(False)
    elif frozen in ("query", "value"):
        getattr(module, frozen).requires_grad_(False)
    elif frozen == "all but the key bias":
        module.requires_grad_(False)
        module.query.bias.requires_grad_(True)
    products = []
    monkeypatch.setattr(tiles, "matmul", lambda a, b: products.append(1) or a @ b)
    torch.manual_seed(0)
    module(x).square().sum().backward()
    heads = 4
    wanted = {"features": 2, "weights": 2, "query": 1, "value": 1, "all but the key bias": 0}
    assert len(products) == heads * wanted[frozen]
    y = features().requires_grad_()
    torch.manual_seed(0)
    whole(y).square().sum().backward()
    if x.requires_grad:
        torch.testing.assert_close(x.grad, y.grad)
    for (name, one), other in zip(module.named_parameters(), whole.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, msg=lambda m, name=name: f"{name}: {m}")
        else:
            assert one.grad is None
