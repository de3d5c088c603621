import pytest
import torch

from noah.heads import CSRA


def test_with_lambda_zero_it_is_the_mean_of_the_class_maps():
    head, x = CSRA(6, 4, num_heads=2, lam=0.0), torch.randn(2, 6, 3, 5)
    directions = (head.fc.weight / head.fc.weight.norm(dim=1, keepdim=True)).view(2, 4, 6)
    torch.testing.assert_close(head(x), torch.einsum("bchw,nmc->bnmhw", x, directions).mean((3, 4)).sum(1))


@pytest.mark.parametrize(("num_heads", "temperatures"), [(1, [1]), (2, [1, None]), (6, [1, 2, 3, 4, 5, None])])
def test_output_is_the_formula(num_heads, temperatures):
    head, x = CSRA(6, 4, num_heads=num_heads, lam=0.3), torch.randn(2, 10, 6)
    expected = torch.zeros(2, 4)
    for b in range(2):
        for m in range(4):
            for h, temperature in enumerate(temperatures):
                vector = head.fc.weight[h * 4 + m]
                scores = x[b] @ vector / vector.square().sum().sqrt()
                weights = None if temperature is None else (temperature * scores).exp()
                peak = scores.max() if weights is None else (weights * scores).sum() / weights.sum()
                expected[b, m] += scores.mean() + 0.3 * peak
    torch.testing.assert_close(head(x), expected)


def test_its_weights_are_those_of_the_second_mean():
    head, x = CSRA(6, 4), torch.randn(2, 10, 6)
    scores = x @ torch.nn.functional.normalize(head.fc.weight, dim=1).T
    torch.testing.assert_close(head.position_weights(x), scores.softmax(1).transpose(1, 2))
    peaks = CSRA(6, 4, num_heads=2)
    weights = peaks.position_weights(x)
    assert (weights.amax(2) > 0.5).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 4))


def test_parameters_are_a_vector_per_head_and_class():
    assert sum(p.numel() for p in CSRA(6, 4, num_heads=8).parameters()) == 8 * 6 * 4


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_heads": 3}, "num_heads is '3', expected one of 1, 2, 4, 6, 8"),
        ({"lam": -1.0}, "lam is -1.0, expected at least 0"),
        ({"init": "zero"}, "init is 'zero', expected one of default"),
    ],
)
def test_an_impossible_argument_says_what_was_expected(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CSRA(6, 4, **kwargs)
