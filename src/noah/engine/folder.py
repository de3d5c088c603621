"""The folder of a run's checkpoints, for those who train and for those who only clear it away: this loads no torch.

The folder is keyed by the run and its data, so a changed run never resumes another's state. It lies outside the
outputs, because Snakemake deletes those when a job fails.
"""

import hashlib
from pathlib import Path

from noah.config import Run, load_run
from noah.files import read_mapping, reading


def state_folder(root: Path, run: Run, train_manifest_sha256: str) -> Path:
    return root / hashlib.sha256(f"{run.to_yaml()}{train_manifest_sha256}".encode()).hexdigest()


def checkpoints(folder: Path) -> tuple[Path, Path]:
    """The newest, and the one before it."""
    return folder / "checkpoint.pt", folder / "checkpoint.previous.pt"


def remove_checkpoints(folder: Path) -> None:
    """After the outputs are written: a run that is asked for again is trained again."""
    for path in checkpoints(folder):
        path.unlink(missing_ok=True)


def forget(state_root: Path, out: Path) -> None:
    """The results in `out` have been taken over: asked for again, the run is trained again (`Machine.keep_state`)."""
    provenance = out / "provenance.json"
    with reading(provenance):
        trained_on = read_mapping(provenance, "manifests")["manifests"]["train"]
    remove_checkpoints(state_folder(state_root, load_run(out / "run.yaml"), trained_on))


def remove_leftovers(folder: Path) -> None:
    """What killed writers left half-written; only for the holder of the folder's lock."""
    for path in folder.glob(".checkpoint*.tmp"):
        path.unlink(missing_ok=True)
