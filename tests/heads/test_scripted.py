import pytest
import torch

from noah.heads import HEADS, NOAH, build_head

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
C, M = 16, 5


@pytest.mark.parametrize("name", HEADS)
def test_a_scripted_head_gives_the_same_scores_for_other_batches_and_positions_of_each_layout(name):
    head = build_head(name, C, M, drop_rate=0.5).train()
    scripted = torch.jit.script(head)
    assert head.training
    layouts = [torch.randn(1, 7, C)] + ([] if getattr(head, "takes_class_token", False) else [torch.randn(3, C, 5, 3)])
    for x in layouts:
        torch.testing.assert_close(scripted(x), head.eval()(x))


def test_a_scripted_head_that_takes_maps_alone_and_a_fused_one_give_the_same_scores():
    x = torch.randn(3, C, 5, 3)
    for head in (NOAH(C, M, kernel_size=3).eval(), NOAH(C, M).eval().fuse()):
        torch.testing.assert_close(torch.jit.script(head)(x), head(x))
