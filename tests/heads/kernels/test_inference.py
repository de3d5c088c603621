"""`NOAH.fuse()`: the same scores with less."""

import copy

import pytest
import torch
from torch import nn

from noah.heads import NOAH, kernels


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = NOAH(21, 11, 3, 0.3, drop_rate=0.2)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    return head.eval()


@pytest.mark.parametrize("shape", [(3, 21, 4, 2), (1, 21, 1, 5), (0, 21, 2, 2), (3, 8, 21)])
def test_scores_and_attention_are_those_of_the_head(head, shape):
    fused, x = head.fuse(), torch.randn(shape)
    for features in (x, x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x):
        torch.testing.assert_close(fused(features), head(features), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(fused.attention_maps(features), head.attention_maps(features), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_fused_head_computes_in_the_dtype_of_autocast(head, dtype):
    fused, x = head.fuse(), torch.randn(3, 21, 4, 2)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        assert fused(x).dtype == head(x).dtype == dtype
        torch.testing.assert_close(fused(x), head(x), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("few", [0, 64])
def test_a_fused_head_of_few_and_of_many_categories_gives_the_dtype_of_autocast(head, monkeypatch, few):
    monkeypatch.setattr(kernels, "FEW_CATEGORIES", few)
    fused, x = head.fuse(), torch.randn(3, 21, 4, 2)
    assert fused(x).dtype == torch.float32
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert fused(x).dtype == torch.bfloat16


def test_only_what_inference_needs_is_left_and_the_head_is_as_it_was(head):
    before = copy.deepcopy(head.state_dict())
    fused = head.fuse()
    assert not list(fused.parameters())
    assert sum(b.numel() for b in fused.buffers()) == 21 * 11 + 11
    head.load_state_dict(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


def test_compilers_exporters_autocast_copies_and_gradients_of_the_features_work(head):
    fused, x = copy.deepcopy(head.fuse()), torch.randn(3, 21, 4, 2)
    expected = head(x)
    for call in (torch.export.export(fused, (x,)).module(), torch.compile(fused, backend="aot_eager", fullgraph=True)):
        torch.testing.assert_close(call(x), expected, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fused(x).float(), expected, atol=0.3, rtol=0.05)
    grads = []
    for module in (head, fused):
        features = x.clone().requires_grad_()
        module(features).sum().backward()
        grads.append(features.grad)
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)


def test_a_model_with_a_fused_head_trains_as_a_whole_or_not_at_all(head):
    model = nn.Sequential(nn.Dropout(0.5), head.fuse())
    with pytest.warns(UserWarning, match="a fused NOAH head does not train"):
        model.train()
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    model.eval()
    assert not model[0].training


def test_a_training_head_and_other_heads_are_refused_in_words(head):
    with pytest.raises(ValueError, match="training mode, expected eval"):
        head.train().fuse()
    for switch in ({"score": "sigmoid"}, {"merge": "max"}, {"kernel_size": 3}, {"split_groups": False}):
        with pytest.raises(ValueError, match="expected score softmax, merge sum"):
            NOAH(16, 5, **switch).eval().fuse()
