import subprocess
import sys

import pytest
import torch

from noah.config.run import HEADS as NAMES
from noah.heads import HEADS, build_head


def test_the_config_knows_exactly_the_heads_there_are():
    assert sorted(HEADS) == sorted(NAMES)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_a_score_per_class(name):
    assert build_head(name, 8, 3, drop_rate=0.1)(torch.randn(2, 5, 8)).shape == (2, 3)


def test_an_unknown_head_lists_the_valid_ones():
    with pytest.raises(ValueError, match="head is 'fc', expected one of gap, token, noah"):
        build_head("fc", 8, 3)


def test_heads_load_torch_alone():
    heavy = ("timm", "torchvision", "pydantic", "pandas", "scipy", "yaml")
    code = f"import sys, noah.heads; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
