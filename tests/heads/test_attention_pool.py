import pytest
import torch

from noah.heads import AttentionPool

C, M, N = 8, 3, 2


def test_output_is_the_formula():
    torch.manual_seed(0)
    head, x = AttentionPool(C, M, num_heads=N), torch.randn(2, 5, C)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    pool, d = head.attention, C // N
    query = pool.latent[0, 0] @ pool.q.weight.T + pool.q.bias
    keys, values = (x @ pool.kv.weight.T + pool.kv.bias).chunk(2, dim=-1)
    seen, looked = [], []
    for n in range(N):
        part = slice(n * d, (n + 1) * d)
        attention = (keys[..., part] @ query[part] / d**0.5).softmax(-1)
        looked.append(attention)
        seen.append(torch.einsum("bl,bld->bd", attention, values[..., part]))
    pooled = torch.cat(seen, -1) @ pool.proj.weight.T + pool.proj.bias
    pooled = pooled + pool.mlp(pool.norm(pooled))
    torch.testing.assert_close(head(x), head.fc(pooled))
    torch.testing.assert_close(head.position_weights(x)[:, 0], torch.stack(looked).mean(0))


@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_parameters_follow_the_formula_of_the_docs(ratio):
    head = AttentionPool(C, M, num_heads=N, mlp_ratio=ratio)
    assert sum(p.numel() for p in head.parameters()) == (4 + 2 * ratio) * C**2 + (8 + ratio) * C + C * M + M


def test_it_starts_as_in_timms_vision_transformers():
    torch.manual_seed(0)
    head = AttentionPool(256, M)
    assert head.attention.kv.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not head.attention.kv.bias.any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_heads": 3}, r"8 channels, expected a multiple of num_heads \(3\)"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0, expected above 0"),
    ],
)
def test_an_impossible_argument_says_what_was_expected(kwargs, message):
    with pytest.raises(ValueError, match=message):
        AttentionPool(C, M, **kwargs)
