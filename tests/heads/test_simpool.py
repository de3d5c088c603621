import pytest
import torch

from noah.heads import SimPool

B, L, C, M = 2, 5, 6, 3


@pytest.mark.parametrize("gamma", [1.25, 2.0])
def test_output_is_the_formula(gamma):
    torch.manual_seed(0)
    head, x = SimPool(C, M, gamma=gamma), torch.randn(B, L, C)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    pooled = torch.zeros(B, C)
    for b in range(B):
        patches = head.norm(x[b])
        values = patches - patches.min() + 1e-6
        query = head.query.weight @ x[b].mean(0)
        attention = torch.stack([query @ (head.key.weight @ patch) / C**0.5 for patch in patches]).softmax(0)
        for c in range(C):
            pooled[b, c] = sum(attention[i] * values[i, c] ** gamma for i in range(L)) ** (1 / gamma)
        torch.testing.assert_close(head.position_weights(x)[b, 0], attention)
    torch.testing.assert_close(head(x), head.fc(pooled))


def test_without_attention_and_power_it_is_the_mean_of_the_shifted_patches():
    head, x = SimPool(C, M, gamma=1.0), torch.randn(B, L, C)
    torch.nn.init.zeros_(head.query.weight)
    patches = head.norm(x)
    expected = patches.mean(1) - patches.amin((1, 2)).unsqueeze(1) + 1e-6
    torch.testing.assert_close(head.pool(x), expected)


def test_parameters_follow_the_formula_of_the_docs():
    assert sum(p.numel() for p in SimPool(C, M).parameters()) == 2 * C**2 + 2 * C + C * M + M


def test_an_impossible_exponent_says_what_was_expected():
    with pytest.raises(ValueError, match=r"gamma is 0\.0, expected above 0"):
        SimPool(C, M, gamma=0.0)
