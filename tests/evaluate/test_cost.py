import pytest
import torch

from noah.evaluate import cost as measuring
from noah.evaluate.cost import count_macs, measure_cost, peak_memory
from noah.heads import build_head
from noah.models import build_model

C, M, SIZE, PATCH = 8, 5, 8, 4
POSITIONS = (SIZE // PATCH) ** 2
BODY_MACS = 3 * PATCH * PATCH * C * POSITIONS


class Tiny(torch.nn.Module):
    """One convolution into patches, and a head."""

    def __init__(self, head):
        super().__init__()
        self.body = torch.nn.Conv2d(3, C, PATCH, PATCH)
        self.head = build_head(head, C, M)

    def forward_features(self, x):
        return self.body(x)

    def forward_head(self, x):
        return self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))

    def get_classifier(self):
        return self.head


@pytest.fixture(scope="module")
def cost():
    builders = {"baseline": lambda: Tiny("gap"), "noah": lambda: Tiny("noah")}
    return measure_cost(builders, image_size=SIZE, num_classes=M, batch=4, rounds=2)


def test_every_arm_has_every_number_and_the_machine_is_named(cost):
    assert (cost["dtype"], cost["image_size"], cost["batch"], cost["rounds"]) == ("float32", SIZE, 4, 2)
    assert cost["threads"] == torch.get_num_threads()
    assert cost["torch"] == torch.__version__
    assert cost["device"]
    assert list(cost["arms"]) == ["baseline", "noah"]
    measured = {
        "latency_ms_p50",
        "latency_ms_p95",
        "latency_ms_cold",
        "images_per_s",
        "train_images_per_s",
        "peak_memory_mib",
    }
    for arm in cost["arms"].values():
        assert set(arm) == measured | {"parameters", "head_parameters", "macs", "head_macs", "kernel"}
        assert all(arm[name] > 0 for name in measured)
        assert arm["latency_ms_p50"] <= arm["latency_ms_p95"]


def test_parameters_and_macs_are_the_formulas(cost):
    body = 3 * PATCH * PATCH * C + C
    counted = {
        arm: tuple(numbers[k] for k in ("parameters", "head_parameters", "macs", "head_macs"))
        for arm, numbers in cost["arms"].items()
    }
    gap, noah = C * M + M, C * M + 2 * 4 * M
    assert counted["baseline"] == (body + gap, gap, BODY_MACS + C * M, C * M)
    assert counted["noah"] == (body + noah, noah, BODY_MACS + C * M * POSITIONS, C * M * POSITIONS)


def test_macs_include_the_products_inside_of_attention():
    model = build_model("deit_tiny", "token", width=0.5, depth=2, patch_size=8, num_classes=M, img_size=32)
    D, patches = 96, 16
    tokens = patches + 1
    blocks = 2 * (12 * D * D * tokens + 2 * tokens * tokens * D)
    assert count_macs(model, torch.zeros(1, 3, 32, 32)) == {
        "macs": blocks + 3 * 8 * 8 * D * patches + D * M,
        "head_macs": D * M,
    }


def test_a_layer_that_noah_has_in_front_and_the_baseline_behind_its_mean_belongs_to_neither_head():
    counts = {}
    for head in ("baseline", "noah"):
        model = build_model("mobilenetv3_small", head, num_classes=M, img_size=64)
        counts[head] = count_macs(model, torch.randn(1, 3, 64, 64))
    positions, between = 2 * 2, 576 * 1280
    assert counts["baseline"]["head_macs"] == 1280 * M
    assert counts["noah"]["head_macs"] == positions * 1280 * M
    moved = (positions - 1) * between
    assert counts["noah"]["macs"] - counts["baseline"]["macs"] == moved + (positions - 1) * 1280 * M


def test_a_larger_batch_takes_more_memory_by_at_least_its_features():
    model = Tiny("noah")

    def peak(batch):
        return peak_memory(model, torch.randn(batch, 3, SIZE, SIZE), torch.zeros(batch, dtype=torch.long))

    assert peak(256) - peak(64) >= 192 * C * POSITIONS * 4
    assert peak(4) > sum(4 * p.numel() for p in model.parameters())


def test_bf16_is_measured_under_autocast():
    cost = measure_cost(
        {"gap": lambda: Tiny("gap")}, image_size=SIZE, num_classes=M, batch=2, rounds=1, dtype=torch.bfloat16
    )
    assert cost["dtype"] == "bfloat16"


@pytest.mark.parametrize(("field", "value"), [("rounds", 0), ("batch", 0)])
def test_nothing_to_measure_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}: 0, expected at least 1"):
        measure_cost({"gap": lambda: Tiny("gap")}, image_size=SIZE, num_classes=M, **{field: value})


@pytest.mark.parametrize(
    ("seconds", "rounds"), [([9, 5, 3, 2.9], 4), ([1, 1.2], 2), ([2.0**-n for n in range(30)], 20)]
)
def test_warming_up_ends_when_a_round_is_hardly_faster_than_the_fastest_before(monkeypatch, seconds, rounds):
    ticks = iter([tick for number in seconds for tick in (0, number)])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(ticks))
    done = []
    assert measuring._warm_up(lambda: done.append(1)) == len(done) == rounds


def test_arms_take_turns_each_round_starts_with_another_and_warming_up_counts_for_nothing(monkeypatch):
    turns = []

    def one_turn(model, *_):
        turns.append(model.arm)
        slow = 100.0 if len(turns) <= 3 else 1.0  # the warm-up
        return {"cold": [7.0], "latency": [slow], "inference": [slow], "training": [slow]}

    monkeypatch.setattr(measuring, "_one_turn", one_turn)
    monkeypatch.setattr(measuring, "_warm_up", lambda one_round: one_round() and 1)

    def builder(arm):
        def build():
            model = Tiny("gap")
            model.arm = arm
            return model

        return build

    arms = ("a", "b", "c")
    found = measure_cost({a: builder(a) for a in arms}, image_size=SIZE, num_classes=M, batch=4, rounds=3)["arms"]
    rounds = [turns[first : first + 3] for first in range(0, len(turns), 3)]
    assert len(rounds) == 4
    assert all(sorted(turn) == list(arms) for turn in rounds)
    assert {turn[0] for turn in rounds[1:]} == set(arms)
    for arm in arms:
        assert found[arm]["latency_ms_p95"] == found[arm]["latency_ms_p50"] == 1000
        assert found[arm]["latency_ms_cold"] == 7000
        assert found[arm]["images_per_s"] == found[arm]["train_images_per_s"] == 4


def test_the_first_calls_after_something_else_are_kept_apart_from_the_others(monkeypatch):
    seconds = iter([9.0, 5.0, 4.0, *[1.0] * 20, 2.0, 3.0])
    monkeypatch.setattr(measuring, "_seconds", lambda *_: next(seconds))
    images = torch.randn(4, 3, SIZE, SIZE)
    found = measuring._one_turn(Tiny("gap"), images, torch.zeros(4, dtype=torch.int64), torch.float32)
    assert found == {"cold": [9.0], "latency": [1.0] * 20, "inference": [2.0], "training": [3.0]}


def test_costs_say_which_kernel_computes_the_head(cost):
    assert cost["arms"]["noah"]["kernel"] == "reference"
    assert cost["arms"]["baseline"]["kernel"] is None


def test_memory_is_that_of_weights_and_of_what_a_step_holds():
    model = Tiny("gap")
    model.head.fc = torch.nn.Linear(C, 100_000)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    step = 4 * 100_000 * 4  # the scores, which are held once at least, and their gradient
    images, labels = torch.randn(4, 3, SIZE, SIZE), torch.zeros(4, dtype=torch.int64)
    measured = peak_memory(model, images, labels)
    gradients = weights
    assert weights + gradients < measured < weights + gradients + 8 * step
