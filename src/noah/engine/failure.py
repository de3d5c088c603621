"""Retries are for what a retry can mend. A run that failed by itself and without progress is refused in seconds.

On a cluster a run is started again many times: jobs are preempted, run into time limits, lose their node. An attempt
that ended by a signal (SIGKILL for too much memory included), by trouble of a disk, a network or another rank, or that
saved a newer checkpoint than it began with, may be repeated. Any other error would come back after the same work, so
that `failure.json` in the state folder keeps it and the next start repeats the message, not the work.
"""

import contextlib
import errno
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch

import noah
from noah.data.workers import lost_worker
from noah.devices import first_line, is_gone
from noah.engine.lock import LockLost
from noah.engine.state import TrainState
from noah.files import read_mapping, write_json
from noah.machine import git_state
from noah.redact import without_secrets
from noah.signals import Interrupted

TRY_AGAIN = (Interrupted, LockLost, OSError)
"""What says nothing about the run itself. The loss of another rank is an OSError (noah.engine.distributed)."""


@contextlib.contextmanager
def attempt(folder: Path, run_key: str, state: TrainState) -> Iterator[None]:
    """Around a training that begins where `state` is.

    Raises:
        ValueError: The attempt before this one failed by itself, without progress, from the same checkpoint and with
            the same code.
    """
    path, first_step = folder / "failure.json", state.step
    _refuse_what_failed(path, run_key, first_step)
    try:
        yield
    except TRY_AGAIN:
        raise
    except Exception as error:
        if lost_worker(error):
            raise
        if is_gone(error):
            said = f"{first_line(error)}; the next start resumes at step {state.saved_step}"
            raise OSError(errno.EIO, said, f"{run_key}: the GPU is gone") from None
        if isinstance(error, torch.OutOfMemoryError):  # which another run on the same card may have caused
            raise ValueError(
                f"{run_key}: out of GPU memory at step {state.step}, expected a smaller micro_batch, "
                f"grad_checkpointing, a larger card or one that nobody else uses: {first_line(error)}"
            ) from None
        failed = {
            "error": without_secrets(str(error)),
            "kind": type(error).__name__,
            "step": state.step,
            "resumed_at_step": first_step,
            "saved_at_step": state.saved_step,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": git_state()[0],
            "code_sha256": _code_sha256(),
        }
        write_json(path, failed)
        raise
    path.unlink(missing_ok=True)


def _refuse_what_failed(path: Path, run_key: str, step: int) -> None:
    if not path.exists():
        return
    failed = read_mapping(path, "resumed_at_step", "saved_at_step", "step", "time", "kind", "error", "code_sha256")
    no_progress = failed["resumed_at_step"] == failed["saved_at_step"] == step
    if no_progress and failed["code_sha256"] == _code_sha256():
        raise ValueError(
            f"{run_key}: not tried again, because the attempt of {failed['time']} failed at step {failed['step']} "
            f"without progress: {failed['kind']}: {failed['error']} (to try all the same: rm {path})"
        )


def _code_sha256() -> str:
    """Of the package's sources: edited code may not fail, whether it is committed or not."""
    root = Path(noah.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
