"""The hidden layer is as wide as a NOAH head is large, or dear."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from noah.heads import NOAH, GapHidden, HiddenGap

SWITCHES = [
    {},
    {"num_heads": 2, "key_ratio": 0.25},
    {"split_groups": False},
    {"split_key_value": False},
    {"kernel_size": 3},
    {"merge": "concat+linear"},
]


def size(head):
    return sum(parameter.numel() for parameter in head.parameters())


def macs(head, x):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        head(x)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("switches", SWITCHES)
def test_parameters_are_the_nearest_to_those_of_the_noah_head_with_the_same_switches(switches):
    for kind in (GapHidden, HiddenGap):
        assert abs(size(kind(64, 10, **switches)) - size(NOAH(64, 10, **switches))) <= (64 + 10 + 1) / 2


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("kind", [GapHidden, HiddenGap])
def test_macs_are_the_nearest_to_those_of_the_noah_head_with_the_same_switches(switches, kind):
    x = torch.randn(1, 64, 4, 3)
    control = kind(64, 10, match="macs", positions=12, **switches)
    per_unit = 64 * (12 if kind is HiddenGap else 1) + 10
    assert abs(macs(control, x) - macs(NOAH(64, 10, **switches), x)) <= per_unit / 2


def test_parameters_follow_the_formula_of_the_docs():
    head = GapHidden(2048, 1000, key_ratio=0.125)
    assert head.hidden.out_features == 674
    assert size(head) == 674 * (2048 + 1000 + 1) + 1000 == 2_056_026
    assert size(NOAH(2048, 1000, key_ratio=0.125)) == 2_056_000


def test_the_hidden_layer_stands_behind_the_mean_or_at_every_position():
    x = torch.randn(2, 5, 16)
    behind, before = GapHidden(16, 3), HiddenGap(16, 3)
    torch.testing.assert_close(behind(x), behind.fc(behind.hidden(x.mean(1)).relu()))
    torch.testing.assert_close(before(x), before.fc(before.hidden(x).relu().mean(1)))


def test_init_is_that_of_the_last_layer():
    assert not GapHidden(16, 3, init="zero").fc.weight.any()
    assert GapHidden(16, 3, init="zero").hidden.weight.any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"match": "flops"}, "match is 'flops', expected one of parameters, macs"),
        ({"match": "macs"}, "positions is None, expected L"),
        ({"num_heads": 3}, "num_heads 3 does not divide"),
    ],
)
def test_an_impossible_match_says_what_was_expected(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GapHidden(16, 3, **kwargs)
