"""NOAH's switches, each and together, against the formula written as loops."""

import itertools

import pytest
import torch

from noah.heads import NOAH
from noah.heads.kernels.reference import SCORES
from noah.heads.noah import MERGES

C, N, M, H, W = 8, 2, 3, 2, 3


def loops(head, x, *, split_groups, split_key_value, kernel_size, score, merge):
    """(C, H, W) to (M,), a number at a time."""
    first = C // 4
    keys, values = (x[:first], x[first:]) if split_key_value else (x, x)

    def convolve(conv, part):
        part = torch.nn.functional.pad(part, [kernel_size // 2] * 4)
        per_head = len(part) // N
        out = torch.zeros(N, M, H, W)
        for n, m, i, j in itertools.product(range(N), range(M), range(H), range(W)):
            seen = part[n * per_head : (n + 1) * per_head] if split_groups else part
            row = n * M + m
            out[n, m, i, j] = (conv.weight[row] * seen[:, i : i + kernel_size, j : j + kernel_size]).sum() + conv.bias[
                row
            ]
        return out

    logits, scores = convolve(head.query, keys), convolve(head.value, values)
    heads = torch.zeros(N, M)
    for n, m, i, j in itertools.product(range(N), range(M), range(H), range(W)):
        logit = logits[n, m, i, j]
        attention = {
            "softmax": logit.exp() / logits[n, m].exp().sum(),
            "softmax_categories": logit.exp() / logits[n, :, i, j].exp().sum(),
            "sigmoid": 1 / (1 + (-logit).exp()),
            "none": logit,
        }[score]
        heads[n, m] += attention * scores[n, m, i, j]
    if merge == "concat+linear":
        return head.project.weight @ torch.cat([*heads]) + head.project.bias
    columns = [heads[:, m] for m in range(M)]
    return torch.stack([{"sum": sum(c), "mean": sum(c) / N, "max": max(c)}[merge] for c in columns])


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("merge", MERGES)
@torch.no_grad()
def test_every_combination_of_switches_is_the_formula(score, merge):
    for split_groups, split_key_value, kernel_size in itertools.product((True, False), (True, False), (1, 3)):
        switches = {"split_groups": split_groups, "split_key_value": split_key_value, "kernel_size": kernel_size}
        torch.manual_seed(0)
        head = NOAH(C, M, N, 0.25, score=score, merge=merge, **switches)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        x = torch.randn(C, H, W)
        expected = loops(head, x, score=score, merge=merge, **switches)
        torch.testing.assert_close(head(x[None])[0], expected, msg=str(switches))


def test_every_n_and_r_that_divide_fit_and_no_others():
    for num_heads, keys in itertools.product(range(1, 13), range(1, 12)):
        if keys % num_heads or (12 - keys) % num_heads:
            with pytest.raises(ValueError, match=f"num_heads {num_heads} does not divide"):
                NOAH(12, M, num_heads, keys / 12)
        else:
            head = NOAH(12, M, num_heads, keys / 12)
            assert (head.key_channels, head.value_channels) == (keys, 12 - keys)
            assert head(torch.zeros(1, 4, 12)).shape == (1, M)


def test_without_groups_any_number_of_heads_fits():
    assert NOAH(12, M, 5, 0.5, split_groups=False)(torch.zeros(1, 4, 12)).shape == (1, M)


@pytest.mark.parametrize(
    "switches",
    [
        {"split_groups": False, "kernel_size": 3},
        {"split_groups": False, "split_key_value": False},
        {"split_key_value": False, "kernel_size": 3, "merge": "concat+linear"},
    ],
)
def test_the_factors_of_the_switches_multiply(switches):
    weights = C * M
    weights *= 1 if switches.get("split_groups", True) else N
    weights *= 1 if switches.get("split_key_value", True) else 2
    weights *= switches.get("kernel_size", 1) ** 2
    last = N * M * M + M if "merge" in switches else 0
    assert sum(p.numel() for p in NOAH(C, M, N, **switches).parameters()) == weights + 2 * N * M + last
