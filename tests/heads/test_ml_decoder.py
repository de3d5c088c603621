import pytest
import torch

from noah.heads import MLDecoder

C, D, F, N = 6, 8, 10, 2
SMALL = {"num_heads": N, "embed_dim": D, "hidden_dim": F}


def test_output_is_the_formula():
    torch.manual_seed(0)
    head, x = MLDecoder(C, 5, num_groups=3, **SMALL), torch.randn(2, 4, C)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    positions, queries = head.embed(x).relu(), head.query_norm(2 * head.queries)
    weights, biases = head.attention.in_proj_weight.chunk(3), head.attention.in_proj_bias.chunk(3)
    q, k, v = (a @ w.T + b for a, w, b in zip((queries, positions, positions), weights, biases, strict=True))
    d = D // N
    parts, looked = [], []
    for n in range(N):
        part = slice(n * d, (n + 1) * d)
        attention = torch.einsum("kd,bld->bkl", q[:, part], k[..., part] / d**0.5).softmax(-1)
        looked.append(attention)
        parts.append(attention @ v[..., part])
    groups = head.attention_norm(queries + head.attention.out_proj(torch.cat(parts, -1)))
    groups = head.mlp_norm(groups + head.mlp(groups))
    scores = [groups[:, m // 2] @ head.group_weight[m // 2, :, m % 2] + head.bias[m] for m in range(5)]
    torch.testing.assert_close(head(x), torch.stack(scores, 1))
    of_groups = torch.stack(looked).mean(0)
    torch.testing.assert_close(head.position_weights(x), of_groups[:, [0, 0, 1, 1, 2]])


@pytest.mark.parametrize(("num_classes", "groups", "each"), [(3, 3, 1), (5, 4, 2), (8, 4, 2)])
def test_parameters_follow_the_formula_of_the_docs(num_classes, groups, each):
    head = MLDecoder(C, num_classes, num_groups=4, **SMALL)
    assert head.group_weight.shape == (groups, D, each)
    expected = C * D + D + 4 * D**2 + 4 * D + 2 * D * F + F + D + 6 * D + groups * D * each + num_classes
    assert sum(p.numel() for p in head.parameters()) == expected


def test_the_queries_are_kept_but_never_trained():
    head = MLDecoder(C, 5, **SMALL)
    assert "queries" in head.state_dict()
    assert "queries" not in dict(head.named_parameters())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_heads": 3}, r"8 channels, expected a multiple of num_heads \(3\)"),
        ({"num_groups": 0}, "num_groups is 0, expected above 0"),
        ({"init": "zero"}, "init is 'zero', expected one of default"),
    ],
)
def test_an_impossible_argument_says_what_was_expected(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MLDecoder(C, 5, **{**SMALL, **kwargs})
