import pytest
import torch

from noah.heads import ClassAttention

C, M, N = 8, 3, 2


def test_output_is_the_formula():
    torch.manual_seed(0)
    head, x = ClassAttention(C, M, num_heads=N, num_blocks=2), torch.randn(2, 5, C)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    token, d, looked = head.token.expand(2, 1, C), C // N, []
    for block in head.blocks:
        seen = block.norm1(torch.cat([token, x], dim=1))
        query, keys, values = block.attn.q(seen[:, :1]), block.attn.k(seen), block.attn.v(seen)
        parts = []
        for n in range(N):
            part = slice(n * d, (n + 1) * d)
            attention = (query[..., part] @ keys[..., part].transpose(1, 2) / d**0.5).softmax(-1)
            looked.append(attention[..., 1:])
            parts.append(attention @ values[..., part])
        token = token + block.gamma_1 * block.attn.proj(torch.cat(parts, -1))
        token = token + block.gamma_2 * block.mlp(block.norm2(token))
    torch.testing.assert_close(head(x), head.fc(head.norm(token[:, 0])))
    torch.testing.assert_close(head.position_weights(x), torch.stack(looked).mean(0))


@pytest.mark.parametrize(("num_blocks", "ratio"), [(1, 2.0), (2, 4.0)])
def test_parameters_follow_the_formula_of_the_docs(num_blocks, ratio):
    head = ClassAttention(C, M, num_heads=N, num_blocks=num_blocks, mlp_ratio=ratio)
    blocks = num_blocks * ((4 + 2 * ratio) * C**2 + (11 + ratio) * C)
    assert sum(p.numel() for p in head.parameters()) == blocks + 3 * C + C * M + M


def test_it_starts_as_cait_does():
    torch.manual_seed(0)
    head = ClassAttention(256, M, layer_scale=0.01)
    assert head.blocks[0].attn.q.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert torch.equal(head.blocks[1].gamma_1, torch.full((256,), 0.01))
    assert head.no_weight_decay() <= dict(head.named_parameters()).keys()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_heads": 3}, r"8 channels, expected a multiple of num_heads \(3\)"),
        ({"num_blocks": 0}, "num_blocks is 0, expected above 0"),
    ],
)
def test_an_impossible_argument_says_what_was_expected(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ClassAttention(C, M, **kwargs)
