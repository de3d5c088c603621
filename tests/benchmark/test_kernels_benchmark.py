"""Triton's programs, compiled for GPUs that are not here, spill nothing, load wide, and use the tensor cores."""

import importlib.util

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton", allow_module_level=True)

from noah.benchmark.head import SHAPES
from noah.benchmark.triton_compile import DTYPES, PROGRAMS, TOOLS, compiled, programs_of
from noah.benchmark.triton_report import expected_ms, floor_ms, run
from noah.heads.kernels.triton_programs import usable

pytestmark = pytest.mark.skipif(not (TOOLS / "cuobjdump").exists(), reason="triton's wheel has no cuobjdump here")
THREE = ("mobilenetv2", "resnet50", "deit_tiny")


def check(name: str, dtype: str, sm: int) -> None:
    """On an H100 no configuration spills; on an A100 the autotuner finds one that hardly does."""
    shape = SHAPES[name]
    for program in programs_of(shape):
        for dropout in (False, True):
            configs = usable(PROGRAMS[program].configs, DTYPES[dtype], dropout)
            made = [compiled(program, shape, dtype, config, dropout=dropout, sm=sm) for config in configs]
            about = (name, dtype, program, dropout, made)
            spilled = [found.stack_bytes for found in made]
            assert (max(spilled) == 0) if sm == 90 else (min(spilled) <= 24), about
            for found in made:
                assert found.copies > 0, about
                assert sum(found.products.values()) > 0, about
                wide = found.loads.get("128", 0) + found.loads.get("64", 0)
                # The gradients load a few numbers for each class of a tile, too, which are narrow.
                assert dtype == "fp32" or wide >= (found.copies if program == "forward" else 1), about


@pytest.mark.parametrize("name", THREE)
def test_what_runs_on_an_h100_in_bf16_spills_nothing_and_loads_many_bytes_at_a_time(name):
    check(name, "bf16", 90)


@pytest.mark.long
@pytest.mark.parametrize("sm", [80, 90])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_every_configuration_of_every_shape_on_an_a100_and_an_h100(name, dtype, sm):
    check(name, dtype, sm)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_the_time_to_expect_is_at_most_twice_the_floor(name, dtype):
    assert floor_ms(SHAPES[name], dtype) < expected_ms(SHAPES[name], dtype) < 2 * floor_ms(SHAPES[name], dtype)


def test_the_floor_is_five_products_of_the_size_of_the_logits():
    by_hand = 5 * 2 * 256 * 49 * 1000 * 1280 / 989e12 * 1000
    assert floor_ms(SHAPES["mobilenetv2"], "bf16") == pytest.approx(by_hand)


def test_wide_heads_leave_their_products_to_cublas():
    assert programs_of(SHAPES["resnet50"]) == ["forward", "logit gradients"]
    assert programs_of(SHAPES["mobilenetv2"]) == ["forward", "feature gradient", "weight gradient"]


def test_an_unknown_shape_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="shape is 'vgg', expected one of mobilenetv2, resnet50, resnet18, deit_tiny"):
        run(["vgg"], [90], tmp_path)
