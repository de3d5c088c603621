"""Models as files for elsewhere: safetensors, torch's pt2, ONNX; and official checkpoints as safetensors of ours.

What is exported takes normalised images, float32 (B, 3, S, S), and gives class scores (B, M). How to normalise, the
names of the classes and the arguments of `noah.build_model` stand inside each file, as JSON under the name `noah`.
"""

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from noah.config import Run
from noah.data.transforms import mean_and_std
from noah.evaluate.trained import load_trained
from noah.files import write_atomic
from noah.models import build_model
from noah.models.weights import load_official_weights

TOLERANCE = 1e-4
"""Of logits: an absolute difference of this size, or this share of the largest."""


def export(folder: Path, to: str, out: Path) -> str:
    """Write the model of a trained run and compare the file's logits with the model's, before the file gets its name.

    Args:
        folder: A run's folder: run.yaml, model.safetensors.
        to: A name of `FORMATS`.

    Returns:
        What the comparison found, in words.

    Raises:
        ValueError: An unknown format, a missing package or file, logits that differ.
    """
    if to not in FORMATS:
        raise ValueError(f"to is '{to}', expected one of {', '.join(FORMATS)}")
    run, model = load_trained(folder)
    size = run.dataset.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), write_atomic(out) as temporary:
        FORMATS[to](model, images, _describe(run), temporary)
        given = READERS[to](temporary, images)
        if given is None:
            return "not compared: onnxruntime is not installed"
        expected = model(images)
        difference = float((given - expected).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise ValueError(
                f"{folder}: logits of the {to} file differ by up to {difference:g}, expected {TOLERANCE:g}"
            )
    return f"logits differ by at most {difference:.1e}"


def import_weights(checkpoint: Path, out: Path, **arguments) -> None:
    """Write an official checkpoint as safetensors of our model.

    Args:
        checkpoint: See `noah.load_official_weights`.
        **arguments: Of `noah.build_model`; they stand in the file, with the mean and std of the model's family.

    Raises:
        ValueError: What `build_model` and `load_official_weights` refuse.
    """
    model = build_model(**arguments)
    load_official_weights(model, checkpoint)
    description = {"model": arguments, **{name: model.default_cfg[name] for name in ("mean", "std")}}
    with write_atomic(out) as temporary:
        temporary.write_bytes(save(model.state_dict(), {"noah": json.dumps(description)}))


def _describe(run: Run) -> str:
    dataset, (mean, std) = run.dataset, mean_and_std(run.recipe, run.dataset)
    return json.dumps(
        {
            "run": run.key,
            "run_sha256": run.hash,
            "model": run.model_arguments,
            "classes": dataset.classes,
            "image_size": dataset.image_size,
            "mean": mean,
            "std": std,
        }
    )


def _write_safetensors(model: nn.Module, images: Tensor, description: str, path: Path) -> None:
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    path.write_bytes(save(weights, {"noah": description}))


def _read_safetensors(path: Path, images: Tensor) -> Tensor:
    with safe_open(path, framework="pt") as file:
        arguments = json.loads(file.metadata()["noah"])["model"]
    model = build_model(**arguments).eval()
    model.load_state_dict(load_file(path))
    return model(images)


def _exported(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """The graph of the model for any number of images."""
    try:
        return torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    except torch._dynamo.exc.UserError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the model cannot be exported for any batch size, maybe for a len(x): {reason}") from error


def _write_pt2(model: nn.Module, images: Tensor, description: str, path: Path) -> None:
    file = io.BytesIO()
    torch.export.save(_exported(model, images), file, extra_files={"noah": description})
    path.write_bytes(file.getvalue())


def _read_pt2(path: Path, images: Tensor) -> Tensor:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()(images)


def _write_onnx(model: nn.Module, images: Tensor, description: str, path: Path) -> None:
    absent = [package for package in ("onnx", "onnxscript") if importlib.util.find_spec(package) is None]
    if absent:
        raise ValueError(f"to is 'onnx', which needs {' and '.join(absent)}: pip install onnx onnxscript onnxruntime")
    program = torch.onnx.export(
        _exported(model, images), input_names=["images"], output_names=["scores"], verbose=False
    )
    program.model.metadata_props["noah"] = description
    path.write_bytes(program.model_proto.SerializeToString())


def _read_onnx(path: Path, images: Tensor) -> Tensor | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


FORMATS: dict[str, Callable[[nn.Module, Tensor, str, Path], None]] = {
    "safetensors": _write_safetensors,
    "onnx": _write_onnx,
    "pt2": _write_pt2,
}
"""Name to what writes it."""

READERS: dict[str, Callable[[Path, Tensor], Tensor | None]] = {
    "safetensors": _read_safetensors,
    "onnx": _read_onnx,
    "pt2": _read_pt2,
}
"""Name to what computes logits with the file, or None where this machine cannot."""
