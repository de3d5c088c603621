"""What a run needs to go on as if it had never stopped, and how it lies in a checkpoint."""

import hashlib
import io
import os
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from noah.engine.beside import Beside
from noah.engine.distributed import World
from noah.engine.folder import checkpoints
from noah.engine.lock import Lock
from noah.files import reading, write_atomic
from noah.machine import git_state
from noah.models.weights import UNREADABLE

HEADER = b"noah checkpoint, sha256 of what follows: %b\n"


@dataclass
class TrainState:
    """The moving parts of a run. `step` counts finished optimizer steps."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: ModelEmaV3 | None = None
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    """Of the loss, for fp16; otherwise it does nothing."""
    step: int = 0
    epoch_loss_sum: float = 0.0
    epoch_images: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    starts: list[dict] = field(default_factory=list)
    """Time, commit, dirty flag and number of processes of every start: a run that was resumed may have seen several."""
    saved_step: int = 0
    """Of the newest checkpoint; 0 where there is none."""
    writing: Beside = field(default_factory=Beside)

    _COUNTERS = ("step", "epoch_seconds", "seconds", "history", "starts")
    _COUNTERS_OF_A_RANK = ("epoch_loss_sum", "epoch_images")

    @property
    def weights(self) -> dict[str, nn.Module]:
        """What can be evaluated, by the name that a recipe's `evaluate` has for it."""
        return {"last": self.model, **({"ema": self.ema.module} if self.ema else {})}

    def note_start(self, world_size: int) -> None:
        """Before the first step, for the sources may be edited while a run goes on."""
        commit, dirty = git_state()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.starts.append({"time": now, "commit": commit, "dirty": dirty, "world_size": world_size})

    def save(self, folder: Path, ranks: World, lock: Lock | None, *, wait: bool = True) -> None:
        """Write the newest checkpoint and keep the one before it. Every rank calls this; the first one writes.

        Args:
            lock: Of the folder; the ranks that do not write have none.
            wait: Else what is saved is copied, and written while training goes on; `writing` then has the errors.

        Raises:
            FloatingPointError: Weights are no finite numbers; both checkpoints stay as they are.
            LockLost: Another process trains this run by now; nothing was written.
        """
        of_ranks = ranks.gather({name: getattr(self, name) for name in self._COUNTERS_OF_A_RANK})
        if ranks.is_main:
            for name, tensor in self.model.state_dict().items():
                if not tensor.isfinite().all():
                    raise FloatingPointError(f"{name} holds numbers that are not finite after step {self.step}")
            content = serialized({**self._as_dict(), "ranks": of_ranks})
            self.writing.start(partial(self._write, folder, content, lock, self.step))
            if wait:
                self.writing.wait()
        else:
            self.saved_step = self.step

    def _write(self, folder: Path, content: memoryview, lock: Lock, step: int) -> None:
        newest, previous = checkpoints(folder)
        with write_atomic(newest) as temporary:
            write_checkpoint(temporary, content)
            lock.check()
            if newest.exists():
                os.replace(newest, previous)
        self.saved_step = step

    def load(self, folder: Path, ranks: World) -> bool:
        """Restore the newest sound checkpoint; False where there is none.

        A damaged one is skipped and reported, on stderr and in the run's log.
        """
        damaged = []
        for path in checkpoints(folder):
            if not path.exists():
                continue
            try:
                saved = read_checkpoint(path)
            except (ValueError, OSError) as error:
                damaged.append(f"{path} is damaged ({error})")
                continue
            with reading(path):
                self._restore(saved, ranks)
            self.saved_step = self.step
            _report(folder, ranks, damaged, f"resuming from {path}, step {self.step}")
            return True
        _report(folder, ranks, damaged, "no checkpoint is sound, the run starts anew")
        return False

    def _as_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **{name: getattr(self, name) for name in self._COUNTERS},
        }

    def _restore(self, saved: dict, ranks: World) -> None:
        self.model.load_state_dict(saved["model"])
        if self.ema:
            self.ema.module.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved.get("scaler"):  # older checkpoints have none
            self.scaler.load_state_dict(saved["scaler"])
        for name in self._COUNTERS:
            setattr(self, name, saved[name])
        # With another number of processes the first one goes on with all that was counted.
        mine = [saved["ranks"][ranks.rank]] if len(saved["ranks"]) == ranks.size else saved["ranks"] * ranks.is_main
        for name in self._COUNTERS_OF_A_RANK:
            setattr(self, name, sum(counted[name] for counted in mine))


def serialized(data: dict[str, Any]) -> memoryview:
    """As torch saves it: a copy, which later steps do not change."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getbuffer()


def write_checkpoint(path: Path, content: memoryview) -> None:
    """A line with the sha256 of the rest, then the rest, of `serialized`."""
    with open(path, "wb") as file:
        file.write(HEADER % hashlib.sha256(content).hexdigest().encode())
        file.write(content)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote.

    Raises:
        ValueError: A bit of the file is not what was written.
    """
    with open(path, "rb") as file:
        header, rest = file.readline(len(HEADER) + 64), file.read()
    if header != HEADER % hashlib.sha256(rest).hexdigest().encode():
        raise ValueError(f"its {len(rest)} bytes do not have the sha256 of its first line")
    try:
        return torch.load(io.BytesIO(rest), map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"it is damaged, or holds more than data: {type(error).__name__}: {said}") from None


def _report(folder: Path, ranks: World, damaged: list[str], what_now: str) -> None:
    if damaged and ranks.is_main:
        line = f"warning: {'; '.join(damaged)}: {what_now}"
        print(line, file=sys.stderr, flush=True)
        with open(folder / "train.log", "a", encoding="utf-8") as log:
            print(time.strftime("%Y-%m-%dT%H:%M:%S"), line, file=log)
