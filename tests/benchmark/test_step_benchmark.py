import json

import pytest
import torch
from typer.testing import CliRunner

from noah.benchmark import step, switches
from noah.benchmark.step import benchmark_step, published, step_arms
from noah.benchmark.switches import switch_arms
from noah.cli import app

TINY = {"batch": 8, "image_size": 64, "num_classes": 10}


def test_all_26_published_rows_are_there():
    assert len(published()) == 26
    assert {*step.GOALS, *switches.SMALL} <= set(published())


@pytest.mark.parametrize("backbone", ["mobilenetv2-w0.35", "deit_tiny-w0.5", "gmlp_tiny-w0.5"])
def test_ours_and_the_official_formulation_take_the_same_steps(backbone):
    result = benchmark_step(backbone, ["cpu"], 1, **TINY)
    assert set(result["times"]) == {"gap", "official", "cpu"}
    assert result["difference"]["cpu"] < 1e-4
    arms, _ = step_arms(backbone, ["cpu"], **TINY)
    arms["official"](), arms["cpu"](), arms["gap"]()
    assert arms["cpu"]() == pytest.approx(arms["official"](), rel=1e-3)
    assert arms["gap"]() != pytest.approx(arms["official"](), rel=1e-3)


def test_large_backbones_without_a_goal_see_fewer_images():
    batches = {
        name: step_arms(name, [], num_classes=10)[1] for name in ("mobilenetv2-w0.35", "resnet18-w1", "resnet50-w1")
    }
    assert batches == {"mobilenetv2-w0.35": 16, "resnet18-w1": 16, "resnet50-w1": 2}
    assert step.default_batch("resnet50-w1", None, "cuda") == 256


def test_goals_stand_only_where_they_were_set():
    def goals(device="cpu", batch=16, **settings):
        times = {"gap": {}, "cpu": {}, "compile": {}}
        for clock in ("cpu", "wall"):
            times["gap"][f"{clock}_s"] = [0.01] * 3
            times["cpu"][f"{clock}_ratio"] = times["compile"][f"{clock}_ratio"] = [0.96, 0.98, 1.0]
        found = [{"backbone": b, "batch": batch, "times": times} for b in ("resnet18-w1", "resnet50-w1")]
        header, *rows = step.step_table(found, device, **settings)
        assert rows[0][:4] == ["resnet18-w1", str(batch), "10", "1.02 (1.00-1.04)"]
        return header[-1], [row[-1] for row in rows]

    assert goals() == ("goal, compile", ["1.05", ""])
    assert goals(batch=8) == goals(plain=False) == ("goal, compile", ["", ""])
    assert goals("cuda", batch=256, plain=False) == ("goal, triton", ["1.03", "1.03"])


def test_a_step_takes_the_switches_of_a_recipe():
    torch.manual_seed(0)
    plain, _ = step_arms("mobilenetv2-w0.35", [], **TINY)
    torch.manual_seed(0)
    half, _ = step_arms("mobilenetv2-w0.35", [], **TINY, precision="bf16", channels_last=True)
    assert half["gap"]() != plain["gap"]()
    assert half["official"]() == pytest.approx(plain["official"](), rel=0.1)


def test_switches_change_the_speed_and_hardly_the_loss():
    names = ["plain", "two passes", "fused", "channels_last", "bf16"]
    first = {name: arm() for name, arm in switch_arms("deit_tiny-w0.5", names, **TINY).items()}
    assert first["fused"] == first["plain"]
    assert first["two passes"] == pytest.approx(first["plain"], rel=1e-5)
    assert first["channels_last"] == pytest.approx(first["plain"], rel=1e-4)
    assert first["bf16"] == pytest.approx(first["plain"], rel=0.1)


def test_no_switch_is_left_out_but_what_cannot_be_had(monkeypatch):
    graphs = [name for name, fields in switches.SWITCHES.items() if "cuda_graphs" in fields]
    compiling = [name for name, fields in switches.SWITCHES.items() if "compile" in fields]
    monkeypatch.setattr(switches, "has_compiler", lambda: True)
    assert switches.switches_for("cuda") == list(switches.SWITCHES)
    assert set(switches.SWITCHES) - set(switches.switches_for("cpu")) == set(graphs)
    monkeypatch.setattr(switches, "has_compiler", lambda: False)
    assert set(switches.SWITCHES) - set(switches.switches_for("cuda")) == set(compiling)


def test_the_verbs_write_json_and_markdown(tmp_path):
    for verb, extra in {"step": ["--impl", "cpu"], "switches": ["--switch", "plain", "--switch", "fused"]}.items():
        arguments = ["--backbone", "mobilenetv2-w0.35", "--batch", "2", "--rounds", "1", "--out", str(tmp_path)]
        done = CliRunner().invoke(app, ["benchmark", verb, *arguments, *extra], catch_exceptions=False)
        assert done.exit_code == 0
        (result,) = json.loads((tmp_path / f"{verb}.json").read_text())["results"]
        assert result["backbone"] == "mobilenetv2-w0.35"
        assert "| mobilenetv2-w0.35 |" in (tmp_path / f"{verb}.md").read_text()


def test_an_unknown_backbone_switch_or_device_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="backbone is 'vgg-w1', expected one of resnet18-w1"):
        step_arms("vgg-w1", [])
    settings = {"rounds": 1, "threads": 1, "batch": 2, "device": "tpu"}
    with pytest.raises(ValueError, match="device is 'tpu', expected cpu, or cuda where torch sees a GPU"):
        step.run_steps(tmp_path, ["resnet18-w1"], None, **settings)
    with pytest.raises(ValueError, match="device is 'tpu', expected cpu, or cuda where torch sees a GPU"):
        switches.run_switches(tmp_path, ["resnet18-w1"], None, **settings)
    with pytest.raises(ValueError, match="switch is 'turbo', expected one of: plain; two passes"):
        switches.run_switches(tmp_path, ["resnet18-w1"], ["turbo"], **settings | {"device": "cpu"})
