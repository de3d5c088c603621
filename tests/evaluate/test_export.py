import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from noah.evaluate import export as exports
from noah.evaluate.export import export
from noah.evaluate.trained import load_trained
from noah.models import build_model

NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
BACKBONES = {
    "cnn": {"name": "resnet18"},
    "vit": {"name": "deit_tiny", "width": 0.5, "depth": 1, "patch_size": 8},
    "mlp": {"name": "gmlp_tiny", "width": 0.5, "depth": 1, "patch_size": 8},
}


def skip_without(to: str) -> None:
    for package in NEEDED.get(to, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.fixture
def images():
    """Another batch size than the exporters see."""
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("to", ["safetensors", "pt2", "onnx"])
@pytest.mark.parametrize("family", BACKBONES)
def test_an_exported_file_gives_the_logits_of_the_run_at_any_batch_size(trained, images, family, to):
    skip_without(to)
    folder = trained("noah", backbone=BACKBONES[family])
    assert export(folder, to, Path("model")).startswith("logits differ by at most")
    with torch.no_grad():
        expected = load_trained(folder)[1](images)
        for size in (1, 3):
            given = exports.READERS[to](Path("model"), images[:size])
            torch.testing.assert_close(given, expected[:size], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("to", ["pt2", "onnx"])
def test_baselines_are_exported_too(trained, to):
    skip_without(to)
    assert export(trained("baseline"), to, Path("model")).startswith("logits differ by at most")


def test_a_safetensors_file_describes_itself(trained):
    folder = trained()
    export(folder, "safetensors", Path("model.safetensors"))
    with safe_open("model.safetensors", framework="pt") as file:
        description = json.loads(file.metadata()["noah"])
    run, model = load_trained(folder)
    assert description["run"] == run.key
    assert description["classes"] == list(run.dataset.classes)
    assert (description["mean"], description["std"]) == (list(run.dataset.mean), list(run.dataset.std))
    rebuilt = build_model(**description["model"])
    rebuilt.load_state_dict(load_file("model.safetensors"))
    assert all(tensor.equal(model.state_dict()[name]) for name, tensor in rebuilt.state_dict().items())


def test_a_file_whose_logits_differ_never_gets_its_name(trained, monkeypatch):
    folder = trained()
    monkeypatch.setitem(exports.READERS, "pt2", lambda path, images: torch.zeros(2, 10))
    with pytest.raises(ValueError, match="logits of the pt2 file differ by up to"):
        export(folder, "pt2", Path("out/model.pt2"))
    assert list(Path("out").iterdir()) == []


def test_an_unknown_format_lists_the_known_ones(trained):
    with pytest.raises(ValueError, match="to is 'tflite', expected one of safetensors, onnx, pt2"):
        export(trained(), "tflite", Path("model"))


def test_onnx_without_its_packages_says_what_to_install(trained, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    with pytest.raises(ValueError, match="pip install onnx onnxscript"):
        export(trained(), "onnx", Path("model.onnx"))
    assert not Path("model.onnx").exists()


def test_a_model_that_fixes_its_batch_size_is_refused_in_one_line(images):
    class Fixed(torch.nn.Module):
        def forward(self, x):
            return x.reshape(len(x), -1)

    with pytest.raises(ValueError, match=r"^the model cannot be exported for any batch size, .*\Z"):
        exports._exported(Fixed(), images)
