"""Float32 products are computed by one rule, whatever the process was set to."""

import pytest
import torch

from noah.heads import NOAH
from noah.precision import float32_products


@pytest.fixture
def careless():
    """A process that rounds whatever it can."""
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.conv.fp32_precision = "none"


def switches() -> tuple:
    cpu = torch.backends.mkldnn
    of_cpu = cpu.conv.fp32_precision, cpu.matmul.fp32_precision
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, *of_cpu


@pytest.mark.parametrize(
    ("precision", "matrices", "convolutions"),
    [("fp32", "highest", False), ("bf16", "highest", False), ("tf32", "high", True)],
)
def test_convolutions_and_matrices_are_switched_together_and_back(careless, precision, matrices, convolutions):
    before = switches()
    with float32_products(precision):
        assert switches() == (matrices, convolutions, "ieee", "ieee")
    assert switches() == before
    with pytest.raises(ZeroDivisionError), float32_products(precision):
        raise ZeroDivisionError
    assert switches() == before


def test_all_kernels_of_the_head_agree_whatever_the_process_was_set_to(careless):
    torch.manual_seed(0)
    x, heads = torch.randn(8, 256, 7, 7), {}
    for impl in ("reference", "cpu"):
        heads[impl] = NOAH(256, 100, impl=impl)
    heads["cpu"].load_state_dict(heads["reference"].state_dict())
    with float32_products("fp32"):
        one, other = (head(x) for head in heads.values())
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
