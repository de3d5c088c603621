import pytest
import torch

from noah.heads import ClassToken, GlobalAveragePool


def test_gap_is_a_linear_layer_on_the_mean_of_either_layout():
    head, x = GlobalAveragePool(6, 4), torch.randn(2, 6, 3, 5)
    torch.testing.assert_close(head(x), head.fc(x.mean((2, 3))))
    torch.testing.assert_close(head(x), head(x.flatten(2).transpose(1, 2)))


def test_token_is_a_linear_layer_on_the_first_token():
    head, x = ClassToken(6, 4), torch.randn(2, 10, 6)
    torch.testing.assert_close(head(x), head.fc(x[:, 0]))


@pytest.mark.parametrize("head", [GlobalAveragePool, ClassToken])
def test_dropout_acts_in_training_only(head):
    module, x = head(6, 4, drop_rate=0.5), torch.randn(2, 10, 6)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_inits_are_what_they_say():
    torch.manual_seed(0)
    zero, trunc, default, normal = (
        GlobalAveragePool(400, 100, init=init).fc for init in ("zero", "trunc_normal", "default", "normal")
    )
    assert not zero.weight.any()
    assert not zero.bias.any()
    assert trunc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not trunc.bias.any()
    assert default.weight.std().item() == pytest.approx(1 / (3 * 400) ** 0.5, rel=0.05)
    assert default.bias.any()
    assert normal.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not normal.bias.any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"init": "official"}, "expected one of default, zero, trunc_normal, normal"),
        ({"drop_rate": -0.1}, "drop_rate -0.1"),
    ],
)
def test_an_impossible_argument_says_what_was_expected(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GlobalAveragePool(6, 4, **kwargs)


@pytest.mark.parametrize(("head", "shape"), [(GlobalAveragePool, (2, 7, 3, 3)), (ClassToken, (2, 6, 3, 3))])
def test_features_of_another_shape_are_refused(head, shape):
    with pytest.raises(ValueError, match="C = 6"):
        head(6, 4)(torch.zeros(shape))
