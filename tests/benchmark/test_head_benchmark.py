import ctypes
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from resource import RUSAGE_SELF, getpagesize, getrusage

import pytest
import torch
from typer.testing import CliRunner

from noah.benchmark import head, head_report, interleaved
from noah.benchmark.memory import set_memory
from noah.cli import app
from noah.heads.kernels.compiled import has_compiler

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
NOTHING = {"impls": [], "batches": [1], "dtypes": [], "rounds": 1, "threads": 1, "channels_last": False}
TINY = head.Shape(channels=16, num_heads=2, key_ratio=0.5, side=3, num_classes=7)


def test_ours_and_the_official_formulation_agree_and_everything_is_measured():
    impls = ["cpu", head.FUSED]
    results = head.benchmark_head({"tiny": TINY}, impls, batches=[4, 1], dtypes=["fp32", "bf16"], rounds=2)
    assert len(results) == 2 * (3 + 1)  # training at the larger batch only
    for result in results:
        assert max(result["difference"].values()) < (1e-5 if result["dtype"] == "fp32" else 2e-2)
        measured = {"official", "cpu", *([head.FUSED, head.PRODUCT] if result["task"] == "inference" else [])}
        assert set(result["times"]) == set(result["peak_mib"]) == measured
        assert all(0 < low <= mid <= high for low, mid, high in (t["wall_s"] for t in result["times"].values()))
        assert all(peak > 0 for peak in result["peak_mib"].values())
        assert set(result["roof_share"]) == measured
    assert len(head_report.table_of(results)) == 1 + 2 * len(results) + 2 * (2 + 2)


@needs_compiler
def test_the_compiled_official_formulation_is_the_official_one():
    heads, x = head.build(TINY, [head.INDUCTOR], 0.0, torch.float32), torch.randn(3, 16, 3, 3)
    assert set(heads) == {"official", head.INDUCTOR}
    assert head.differences(heads, x)[head.INDUCTOR] < 1e-5


@pytest.mark.parametrize("impl", ["cpu", pytest.param("compile", marks=needs_compiler)])
def test_training_gradients_are_the_official_ones(impl):
    torch.manual_seed(0)
    heads, x = head.build(TINY, [impl], 0.0, torch.float32), torch.randn(3, 16, 3, 3)
    for module in heads.values():
        module(x).square().sum().backward()
    for name in ("query.weight", "value.weight", "value.bias"):
        torch.testing.assert_close(
            heads[impl].get_parameter(name).grad, heads["official"].get_parameter(name).grad, rtol=1e-4, atol=1e-5
        )


def test_every_call_has_its_turn_in_every_round_and_no_fixed_place():
    order = []
    found = interleaved.measure({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert "cpu_ratio" not in found["a"]
    assert len(found["b"]["wall_ratio"]) == 3
    with pytest.raises(ValueError, match="rounds is 0"):
        interleaved.measure({"a": lambda: None}, rounds=0)


def test_the_verb_writes_json_and_markdown_that_name_the_machine(tmp_path, monkeypatch):
    monkeypatch.setitem(head.SHAPES, "tiny", TINY)
    arguments = ["--shape", "tiny", "--impl", "cpu", "--batch", "2", "--rounds", "1", "--out", str(tmp_path)]
    arguments += ["--classes", "5"]
    done = CliRunner().invoke(app, ["benchmark", "head", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    written = json.loads((tmp_path / "head.json").read_text())
    assert written["machine"]["threads"] == 1
    assert written["classes"] == 5
    assert written["machine"]["cpu"] in (tmp_path / "head.md").read_text()
    assert "| tiny | fp32 | 2 | training, dropout | cpu |" in (tmp_path / "head.md").read_text()


def test_an_unknown_shape_dtype_device_or_policy_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="shape is 'vgg', expected one of mobilenetv2"):
        head_report.run(["vgg"], **NOTHING, memory="usual", out=tmp_path)
    with pytest.raises(ValueError, match="device is 'tpu', expected cpu, or cuda where torch sees a GPU"):
        head_report.run(["resnet18"], **NOTHING, memory="usual", device="tpu", out=tmp_path)
    with pytest.raises(ValueError, match="dtype is 'fp8', expected fp32 or bf16"):
        head_report.run(["resnet18"], **NOTHING | {"dtypes": ["fp8"]}, memory="usual", out=tmp_path)
    with pytest.raises(ValueError, match="memory is 'old', expected usual or kept"):
        head_report.run(["resnet18"], **NOTHING, memory="old", out=tmp_path)


@pytest.mark.skipif(
    HUGE_PAGES.is_file() and "[always]" in HUGE_PAGES.read_text(), reason="the system hands out huge pages"
)
@pytest.mark.parametrize(("policy", "mebibytes", "expected"), [("usual", 16, 0), ("usual", 48, 1), ("kept", 48, 0)])
def test_the_policies_of_memory_are_what_they_say(policy, mebibytes, expected):
    """Each in a process of its own: a policy holds until its process ends."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(share_that_is_new, policy, mebibytes).result() == pytest.approx(expected, abs=0.1)


def share_that_is_new(policy, mebibytes):
    """Of a block of memory, when as large a one was freed before."""
    set_memory(policy)
    library, size = ctypes.CDLL(None), mebibytes * 2**20
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    for _ in range(3):
        faults = getrusage(RUSAGE_SELF).ru_minflt
        block = library.malloc(ctypes.c_size_t(size))
        ctypes.memset(block, 1, size)
        library.free(block)
        share = (getrusage(RUSAGE_SELF).ru_minflt - faults) * getpagesize() / size
    return share
