import pytest
import torch

from noah.benchmark.head import product, work
from noah.benchmark.official import Shape
from noah.benchmark.roof import Roof, Work, measure_roof

SHAPE = Shape(channels=16, num_heads=2, key_ratio=0.5, side=3, num_classes=7)


def test_the_stricter_limit_counts():
    roof = Roof(flops_per_s=100.0, bytes_per_s=10.0)
    assert roof.share(Work(flops=50, bytes=1), 1.0) == pytest.approx(0.5)
    assert roof.share(Work(flops=50, bytes=8), 1.0) == pytest.approx(0.8)
    assert roof.share(Work(flops=50, bytes=8), 2.0) == pytest.approx(0.4)


def test_inference_needs_one_product_and_every_number_once_and_training_three():
    x = torch.zeros(2, 16, 3, 3)
    flops, features, weights, scores = 2 * 2 * 9 * 16 * 7, 2 * 16 * 9, 16 * 7, 2 * 7
    assert work(SHAPE, x, False) == (flops, 4 * (features + weights + scores))
    assert work(SHAPE, x, True) == (3 * flops, 4 * (3 * features + 3 * weights + 2 * scores))
    assert work(SHAPE, x.bfloat16(), False).bytes == 2 * (features + weights + scores)


def test_the_one_product_is_the_product_of_the_work():
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros(2, 16, 3, 3)
    with FlopCounterMode(display=False) as counter:
        product(SHAPE, x)()
    assert counter.get_total_flops() == work(SHAPE, x, False).flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_roof_of_this_machine_is_measured(dtype):
    assert all(limit > 1e6 for limit in measure_roof(torch.device("cpu"), dtype, rounds=1))
