import copy

import pytest
import torch

from noah.heads import NOAH

B, C, H, W, M = 2, 16, 3, 2, 5


def features():
    return torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(0))


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def explicit(head, x, attend):
    """The formula, one number at a time; `attend` turns the logits (N, M, L) of one image into attention."""
    keys = int(head.key_ratio * C)
    x = x.flatten(2)
    N, L = head.num_heads, x.shape[-1]
    ck, cv = keys // N, (C - keys) // N
    out = torch.zeros(B, N, M)
    for b in range(B):
        logits, scores = torch.zeros(N, M, L), torch.zeros(N, M, L)
        for n in range(N):
            for m in range(M):
                row = n * M + m
                for position in range(L):
                    key = x[b, n * ck : (n + 1) * ck, position]
                    val = x[b, keys + n * cv : keys + (n + 1) * cv, position]
                    logits[n, m, position] = head.query.weight[row, :, 0, 0] @ key + head.query.bias[row]
                    scores[n, m, position] = head.value.weight[row, :, 0, 0] @ val + head.value.bias[row]
        out[b] = (attend(logits) * scores).sum(-1)
    return out


def randomised(**kwargs):
    torch.manual_seed(1)
    head = NOAH(C, M, **kwargs)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


@pytest.mark.parametrize(("num_heads", "key_ratio"), [(4, 0.5), (4, 0.25), (1, 0.6)])
def test_output_is_the_formula_whatever_heads_and_ratio_divide(num_heads, key_ratio):
    """Keys are the first int(r * C) channels, also where r * C is no whole number; groups divide each part."""
    head, x = randomised(num_heads=num_heads, key_ratio=key_ratio), features()
    torch.testing.assert_close(head(x), explicit(head, x, lambda logits: logits.softmax(-1)).sum(1))


@pytest.mark.parametrize(
    ("score", "attend"),
    [
        ("softmax_categories", lambda logits: logits.softmax(1)),
        ("sigmoid", lambda logits: logits.sigmoid()),
        ("none", lambda logits: logits),
    ],
)
def test_other_scores_are_what_they_say(score, attend):
    head, x = randomised(score=score), features()
    torch.testing.assert_close(head(x), explicit(head, x, attend).sum(1))


@pytest.mark.parametrize(("merge", "join"), [("mean", lambda o: o.mean(1)), ("max", lambda o: o.amax(1))])
def test_other_merges_are_what_they_say(merge, join):
    head, x = randomised(merge=merge), features()
    torch.testing.assert_close(head(x), join(explicit(head, x, lambda logits: logits.softmax(-1))))


def test_concat_linear_starts_as_the_sum_and_is_a_linear_layer_over_all_heads():
    torch.manual_seed(0)
    head, x = NOAH(C, M, merge="concat+linear"), features()
    heads = explicit(head, x, lambda logits: logits.softmax(-1))
    torch.testing.assert_close(head(x), heads.sum(1))
    torch.nn.init.normal_(head.project.weight)
    torch.testing.assert_close(head(x), heads.flatten(1) @ head.project.weight.T)


def test_maps_and_tokens_are_the_same_positions():
    head, x = randomised(), features()
    torch.testing.assert_close(head(x), head(tokens(x)))
    torch.testing.assert_close(head.attention_maps(x).flatten(3), head.attention_maps(tokens(x)))


def test_attention_maps_sum_to_one_over_the_positions():
    maps = randomised().attention_maps(features())
    assert maps.shape == (B, 4, M, H, W)
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(B, 4, M))


@pytest.mark.parametrize("score", ["softmax", "softmax_categories", "sigmoid", "none"])
def test_attention_maps_are_those_of_the_heads_own_score(score):
    head, x = randomised(score=score), features()
    logits = head.query(x[:, : head.key_channels]).unflatten(1, (4, M))
    expected = {
        "softmax": logits.flatten(3).softmax(3).unflatten(3, (H, W)),
        "softmax_categories": logits.softmax(2),
        "sigmoid": logits.sigmoid(),
        "none": logits,
    }[score]
    torch.testing.assert_close(head.attention_maps(x), expected)


def test_the_attention_is_the_one_that_weighs_the_values():
    """A value of 1 at one position and 0 elsewhere brings that position's attention to light."""
    head, x = randomised(num_heads=1), features()
    with torch.no_grad():
        head.value.weight.zero_()
        head.value.weight[:, 0] = 1
        head.value.bias.zero_()
    x[:, C // 2] = 0
    x[:, C // 2, 1, 0] = 1
    torch.testing.assert_close(head(x), head.attention_maps(x)[:, 0, :, 1, 0])


@pytest.mark.parametrize(
    ("kwargs", "weights"),
    [
        ({}, C * M),
        ({"num_heads": 2, "key_ratio": 0.25}, C * M),
        ({"split_groups": False}, 4 * C * M),
        ({"split_key_value": False}, 2 * C * M),
        ({"kernel_size": 3}, 9 * C * M),
    ],
)
def test_parameters_are_those_of_the_docs(kwargs, weights):
    head = NOAH(C, M, **kwargs)
    assert sum(p.numel() for p in head.parameters()) == weights + 2 * head.num_heads * M


@pytest.mark.parametrize(
    ("in_features", "num_heads", "key_ratio", "query", "value"),
    [
        (2048, 4, 0.125, (4000, 64, 1, 1), (4000, 448, 1, 1)),  # ResNet50
        (1280, 8, 0.25, (8000, 40, 1, 1), (8000, 120, 1, 1)),  # MobileNetV2
        (192, 4, 0.5, (4000, 24, 1, 1), (4000, 24, 1, 1)),  # DeiT-Tiny
        (64, 4, 0.5, (4000, 8, 1, 1), (4000, 8, 1, 1)),  # gMLP-Tiny 0.5
    ],
)
def test_names_and_shapes_are_those_of_the_official_checkpoints(in_features, num_heads, key_ratio, query, value):
    shapes = {k: tuple(v.shape) for k, v in NOAH(in_features, 1000, num_heads, key_ratio).state_dict().items()}
    outputs = (1000 * num_heads,)
    assert shapes == {"query.weight": query, "query.bias": outputs, "value.weight": value, "value.bias": outputs}


def test_gradients_flow_everywhere_but_to_the_key_bias():
    head, x = randomised().double(), features().double().requires_grad_()
    head(x).square().sum().backward()
    assert all(g.abs().max() > 1e-3 for g in (x.grad, head.query.weight.grad, head.value.weight.grad))
    torch.testing.assert_close(head.query.bias.grad, torch.zeros_like(head.query.bias), atol=1e-12, rtol=0)
    torch.testing.assert_close(
        head.value.bias.grad.view(4, M), head.value.bias.grad.view(4, M)[:1].expand(4, M), atol=1e-9, rtol=1e-9
    )


def test_dropout_acts_in_training_only_and_keeps_the_mean():
    head, x = randomised(drop_rate=0.5), features()
    head.eval()
    plain = randomised()(x)
    torch.testing.assert_close(head(x), plain)
    head.train()
    with torch.no_grad():
        draws = torch.stack([head(x) for _ in range(3000)])
    assert not torch.equal(draws[0], draws[1])
    error = draws.std(0) / 3000**0.5
    assert ((draws.mean(0) - plain).abs() < 5 * error).all()


def logit_std(**kwargs):
    torch.manual_seed(0)
    head = NOAH(512, 10, **kwargs)
    return head.query(torch.randn(64, head.key_channels, 4, 4)).std().item()


def test_small_m_starts_with_almost_uniform_attention_where_the_official_init_does_not():
    assert logit_std(init="small_m") == pytest.approx(0.1, rel=0.1)
    assert logit_std(init="official") == pytest.approx((2 * 64 / 40) ** 0.5, rel=0.1)


@pytest.mark.parametrize("num_heads", [1, 8])
def test_small_m_starts_with_the_values_of_a_linear_layer_on_the_mean(num_heads):
    torch.manual_seed(0)
    x = torch.randn(512, 1, 512)
    std = NOAH(512, 10, num_heads, init="small_m")(x).std().item()
    assert std == pytest.approx(torch.nn.Linear(512, 10)(x).std().item(), rel=0.1)


@pytest.mark.parametrize(
    ("init", "query_std", "value_std"),
    [("official", (2 / 400) ** 0.5, (2 / 400) ** 0.5), ("official_mlp", 32**-0.5, 96**-0.5)],
)
def test_official_inits_have_their_scales_and_zero_biases(init, query_std, value_std):
    torch.manual_seed(0)
    head = NOAH(512, 100, key_ratio=0.25, init=init)
    assert head.query.weight.std().item() == pytest.approx(query_std, rel=0.02)
    assert head.value.weight.std().item() == pytest.approx(value_std, rel=0.02)
    assert not head.query.bias.any()
    assert not head.value.bias.any()


def test_a_3x3_kernel_sees_the_neighbours_and_takes_maps_only():
    head, x = NOAH(C, M, kernel_size=3), features()
    assert head(x).shape == (B, M)
    assert head.attention_maps(x).shape == (B, 4, M, H, W)
    with pytest.raises(ValueError, match="kernel_size 3 needs a map"):
        head(tokens(x))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_heads": 3}, "num_heads 3 does not divide"),
        ({"key_ratio": 1.0}, "key_ratio is 1.0"),
        ({"num_heads": 3, "split_key_value": False}, "multiple of num_heads"),
        ({"score": "hard"}, "expected one of softmax, softmax_categories, sigmoid, none"),
        ({"merge": "min"}, "expected one of sum, mean, max, concat"),
        ({"init": "default"}, "expected one of official, official_mlp, small_m"),
        ({"kernel_size": 5}, "expected one of 1, 3"),
        ({"impl": "cuda"}, "expected one of auto, reference, cpu, compile, triton"),
        ({"drop_rate": 1.0}, "drop_rate 1.0"),
    ],
)
def test_an_impossible_argument_is_one_line_that_says_what_was_expected(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        NOAH(C, M, **kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(B, C), (B, C + 1, H, W), (B, 6, C - 1), (B, C, 1, H, W)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="expected \\(B, C, H, W\\) or \\(B, L, C\\) with C = 16"):
        NOAH(C, M)(torch.zeros(shape))


def test_a_deep_copy_is_a_head_of_its_own():
    head, x = randomised(), features()
    other = copy.deepcopy(head)
    torch.testing.assert_close(other(x), head(x))
    torch.nn.init.zeros_(other.value.weight)
    assert not torch.allclose(other(x), head(x))
