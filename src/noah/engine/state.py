"""What a run needs to go on as if it had never stopped, and the folder that holds it.

The folder is keyed by the run and its data, so a changed run never resumes another's state. It lies outside the
outputs, because Snakemake deletes those when a job fails.
"""

import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from timm.utils import ModelEmaV3
from torch import nn

from noah.config import Run
from noah.files import write_atomic
from noah.machine import git_state


def state_folder(root: Path, run: Run, train_manifest_sha256: str) -> Path:
    return root / hashlib.sha256(f"{run.to_yaml()}{train_manifest_sha256}".encode()).hexdigest()


@dataclass
class TrainState:
    """The moving parts of a run. `step` counts finished optimizer steps."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: ModelEmaV3 | None = None
    step: int = 0
    epoch_loss_sum: float = 0.0
    epoch_images: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    starts: list[dict] = field(default_factory=list)
    """Time, commit and dirty flag of every start: a run that was resumed may have seen more than one commit."""

    _COUNTERS = ("step", "epoch_loss_sum", "epoch_images", "epoch_seconds", "seconds", "history", "starts")

    def note_start(self) -> None:
        """Before the first step, for the sources may be edited while a run goes on."""
        commit, dirty = git_state()
        self.starts.append({"time": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit, "dirty": dirty})

    def save(self, folder: Path) -> None:
        """Write the newest checkpoint and keep the one before it."""
        newest, previous = _checkpoints(folder)
        with write_atomic(newest) as temporary:
            torch.save(self._as_dict(), temporary)
            if newest.exists():
                os.replace(newest, previous)

    def load(self, folder: Path) -> bool:
        """Restore the newest readable checkpoint; False where there is none. A damaged one is reported and skipped."""
        for path in _checkpoints(folder):
            if not path.exists():
                continue
            try:
                saved = torch.load(path, map_location="cpu", weights_only=True)
            except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
                print(f"warning: {path} is damaged, trying the one before it: {error}", file=sys.stderr)
                continue
            self._restore(saved)
            return True
        return False

    def _as_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            **{name: getattr(self, name) for name in self._COUNTERS},
        }

    def _restore(self, saved: dict) -> None:
        self.model.load_state_dict(saved["model"])
        if self.ema:
            self.ema.module.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(saved["cuda_rng"])
        for name in self._COUNTERS:
            setattr(self, name, saved[name])


def _checkpoints(folder: Path) -> tuple[Path, Path]:
    return folder / "checkpoint.pt", folder / "checkpoint.previous.pt"


def remove_checkpoints(folder: Path) -> None:
    """After the outputs are written: a run that is asked for again is trained again."""
    for path in _checkpoints(folder):
        path.unlink(missing_ok=True)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the folder against a second writer; the system lets go of it when the process ends, however it ends.

    Raises:
        ValueError: Another live process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(f"{folder}: another process trains this run: {file.read().strip()}") from None
        file.truncate(0)
        print(f"host {os.uname().nodename}, process {os.getpid()}", file=file, flush=True)
        yield
