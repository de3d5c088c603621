"""A trained run, read back from its folder."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from noah.config import Run, load_run
from noah.files import reading, sha256_file
from noah.models import Classifier, build_model


def load_trained(folder: Path) -> tuple[Run, Classifier]:
    """The run and its model in eval mode on the CPU, from run.yaml and model.safetensors.

    Raises:
        ValueError: A file is missing or broken, or the weights are not this run's.
    """
    run = load_run(folder / "run.yaml")
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `noah train` writes it beside run.yaml")
    # Plain torch operations, which exporters see through, whatever kernels this machine has.
    arguments = {**run.model_arguments, **({"impl": "reference"} if run.head.name == "noah" else {})}
    model = build_model(**arguments).eval()
    try:
        with safe_open(path, framework="pt") as file:
            trained_as = (file.metadata() or {}).get("run_sha256")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
    expected = sha256_file(folder / "run.yaml")
    if trained_as != expected:
        raise ValueError(f"{path}: run_sha256 is {trained_as}, expected {expected}, that of the run.yaml beside it")
    with reading(path):
        model.load_state_dict(weights)
    return run, model
