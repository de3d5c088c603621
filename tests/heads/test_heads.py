"""What every head promises, whichever it is."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from noah.config.head import HEADS as NAMES
from noah.heads import HEADS, build_head

B, C, M = 2, 8, 5
SMALL = {
    "attention_pool": {"num_heads": 2},
    "class_attention": {"num_heads": 2, "num_blocks": 1},
    "csra": {"num_heads": 4},
    "ml_decoder": {"num_heads": 2, "num_groups": 2, "embed_dim": 12, "hidden_dim": 16},
}
WITHOUT_EFFECT = {"noah": {"query.bias"}, "class_attention": {"blocks.0.attn.k.bias"}}
"""A number added to all keys alike changes no softmax over the positions."""
MAPS = [name for name in HEADS if name != "token"]
WEIGHING = [name for name in HEADS if hasattr(HEADS[name], "position_weights")]


def build(name, **kwargs):
    torch.manual_seed(0)
    return build_head(name, C, M, **SMALL.get(name, {}), **kwargs)


def randomised(name):
    head = build(name)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def features(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_the_config_knows_exactly_the_heads_there_are():
    assert sorted(HEADS) == sorted(NAMES)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_a_score_per_class(name):
    assert build(name, drop_rate=0.1)(features(B, 6, C)).shape == (B, M)


@pytest.mark.parametrize("name", MAPS)
def test_maps_and_tokens_are_the_same_positions_to_every_head(name):
    head, x = randomised(name).eval(), features(B, C, 3, 2)
    torch.testing.assert_close(head(x), head(x.flatten(2).transpose(1, 2)))


@pytest.mark.parametrize("name", MAPS)
def test_the_order_of_the_positions_does_not_matter(name):
    head, x = randomised(name).eval(), features(B, 6, C)
    torch.testing.assert_close(head(x), head(x.flip(1)))


@pytest.mark.parametrize("name", MAPS)
def test_an_image_gets_the_same_scores_whatever_stands_beside_it(name):
    head, x = randomised(name).eval(), features(B, C, 3, 2)
    torch.testing.assert_close(head(x)[:1], head(x[:1]))


@pytest.mark.parametrize("name", WEIGHING)
def test_weights_of_positions_are_shares_and_follow_the_positions(name):
    head, x = randomised(name).eval(), features(B, C, 3, 2)
    weights = head.position_weights(x)
    assert weights.shape in ((B, 1, 6), (B, M, 6))
    assert (weights >= 0).all()
    total = weights.sum(-1)
    assert (total < 1).all() if name == "class_attention" else torch.allclose(total, torch.ones(1))
    torch.testing.assert_close(head.position_weights(x.flatten(2).transpose(1, 2).flip(1)), weights.flip(-1))


@pytest.mark.parametrize("name", HEADS)
def test_gradients_flow_to_features_and_to_every_parameter_that_has_an_effect(name):
    head, x = randomised(name).double(), features(B, 6, C).double().requires_grad_()
    (head(x) * torch.arange(1, B * M + 1).view(B, M)).sum().backward()
    assert x.grad.abs().max() > 1e-4
    silent = {key for key, parameter in head.named_parameters() if parameter.grad.abs().max() < 1e-10}
    assert silent == WITHOUT_EFFECT.get(name, set())


@pytest.mark.parametrize("name", HEADS)
def test_scores_and_gradients_are_finite_in_bf16(name):
    head = build(name).bfloat16()
    x = features(B, 6, C).bfloat16().requires_grad_()
    out = head(x)
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("positions", [1, 6])
@pytest.mark.parametrize("name", MAPS)
def test_scores_and_gradients_are_finite_in_fp16(name, positions):
    head = build(name).half()
    x = features(B, positions, C).half().requires_grad_()
    out = head(x)
    out.float().square().sum().backward()
    assert out.dtype == torch.float16
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_weights_are_made_where_and_as_what_the_caller_says(name):
    settings = SMALL.get(name, {})
    on_meta = build_head(name, C, M, device="meta", dtype=torch.float64, **settings)
    tensors = [*on_meta.parameters(), *on_meta.buffers()]
    assert {(tensor.device.type, tensor.dtype) for tensor in tensors} == {("meta", torch.float64)}
    empty = torch.nn.utils.skip_init(HEADS[name], C, M, **settings)
    assert {name: tensor.shape for name, tensor in empty.state_dict().items()} == {
        name: tensor.shape for name, tensor in build(name).state_dict().items()
    }


@pytest.mark.parametrize("name", HEADS)
def test_dropout_acts_in_training_only(name):
    torch.manual_seed(0)
    head, x = build_head(name, 64, M, drop_rate=0.5, **SMALL.get(name, {})), features(B, 6, 64)
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("shape", [(B, C), (B, C + 1, 3, 2), (B, 6, C - 1)])
def test_every_head_refuses_features_of_another_shape(name, shape):
    with pytest.raises(ValueError, match=r"expected \(B, C, H, W\) or \(B, L, C\) with C = 8"):
        build(name)(torch.zeros(shape))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"drop_rate": 1.0}, "drop_rate 1.0, expected at least 1 and 0 <= drop_rate < 1"),
        ({"init": "xavier"}, "init is 'xavier', expected one of"),
        ({"heads": 2}, "unknown argument 'heads', expected one of "),
    ],
)
def test_an_argument_that_no_head_takes_is_one_line_that_says_what_was_expected(name, kwargs, message):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        build(name, **kwargs)
    assert message in str(error.value)


def test_an_unknown_head_lists_the_valid_ones():
    with pytest.raises(ValueError, match="head is 'fc', expected one of gap, token, noah"):
        build_head("fc", 8, 3)


def test_the_head_that_the_docs_write_is_one():
    docs = (Path(__file__).parents[2] / "docs" / "heads.md").read_text()
    scope = {}
    exec(textwrap.dedent(re.search(r"```python\n(.*?)```", docs, re.DOTALL)[1]), scope)
    head, x = scope["GlobalMaxPool"](C, M, 0.1, init="zero").eval(), features(B, C, 3, 2)
    assert head(x).shape == (B, M)
    torch.testing.assert_close(head.pool(x), x.amax((2, 3)))


def test_heads_load_torch_alone():
    heavy = ("timm", "torchvision", "pydantic", "pandas", "scipy", "yaml")
    code = (
        "import sys, noah.heads as heads\n"
        "for name in set(heads.HEADS) - {'attention_pool', 'class_attention'}: heads.build_head(name, 8, 3)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
