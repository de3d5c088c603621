"""A run that failed by itself is refused in seconds; one that was stopped, or can do better now, is tried again."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from noah.engine import failure
from noah.engine.failure import attempt
from noah.engine.state import TrainState
from noah.engine.train import Machine, train
from noah.signals import Interrupted

STATE = Path("state")


@pytest.fixture
def state(project) -> TrainState:
    STATE.mkdir()
    model = nn.Linear(1, 1)
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))


def fail(state: TrainState, error: Exception, saved_at: int | None = None) -> None:
    with contextlib.suppress(type(error)), attempt(STATE, "tiny/s0", state):
        state.step += 5
        state.saved_step = state.saved_step if saved_at is None else saved_at
        raise error
    state.step = state.saved_step


@pytest.mark.parametrize("error", [FloatingPointError("loss is nan"), ValueError("a\nb"), KeyError("x")])
def test_a_failure_without_progress_is_repeated_instead_of_the_work(state, error):
    fail(state, error)
    expected = rf"tiny/s0: not tried again, .* failed at step 5 without progress: {type(error).__name__}: "
    with pytest.raises(ValueError, match=expected), attempt(STATE, "tiny/s0", state):
        pytest.fail("the work was done again")


LOST_WORKER = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")


@pytest.mark.parametrize("error", [Interrupted(signal.SIGTERM), OSError(28, "No space left on device"), LOST_WORKER])
def test_a_signal_and_trouble_of_a_disk_are_no_reason_to_refuse(state, error):
    fail(state, error)
    with attempt(STATE, "tiny/s0", state):
        pass


def test_a_card_that_failed_is_no_reason_to_refuse_and_says_where_the_next_start_resumes(state):
    broken = RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")
    state.saved_step = 3
    said = "unspecified launch failure; the next start resumes at step 3"
    with pytest.raises(OSError, match=said) as raised, attempt(STATE, "tiny/s0", state):
        raise broken
    assert raised.value.filename == "tiny/s0: the GPU is gone"
    assert not (STATE / "failure.json").exists()


def test_a_card_without_enough_memory_is_one_line_and_not_held_against_the_run(state):
    small = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
    said = r"out of GPU memory at step 0, expected a smaller micro_batch, .* 2\.00 GiB\.$"
    with pytest.raises(ValueError, match=said), attempt(STATE, "tiny/s0", state):
        raise small
    assert not (STATE / "failure.json").exists()


def test_after_progress_it_is_tried_once_more(state):
    fail(state, FloatingPointError("loss is nan"), saved_at=3)
    fail(state, FloatingPointError("loss is nan"))
    with pytest.raises(ValueError, match="not tried again"), attempt(STATE, "tiny/s0", state):
        pass


def test_edited_code_is_tried_again(state, monkeypatch):
    fail(state, ValueError("no"))
    monkeypatch.setattr(failure, "_code_sha256", lambda: "other")
    with attempt(STATE, "tiny/s0", state):
        pass


def test_the_named_file_clears_it_and_success_too(state):
    fail(state, ValueError("no"))
    (STATE / "failure.json").unlink()
    fail(state, ValueError("no"), saved_at=7)
    with attempt(STATE, "tiny/s0", state):
        pass
    assert not (STATE / "failure.json").exists()


def test_the_command_refuses_a_run_that_diverged_and_names_error_and_remedy(tiny_shards, make_run):
    run = make_run(lr=1e30, schedule="constant", optimizer="sgd")
    with pytest.raises(FloatingPointError):
        train(run, tiny_shards, Path("out"), Machine())
    (noted,) = Path("state").glob("*/failure.json")
    assert json.loads(noted.read_text())["kind"] == "FloatingPointError"
    Path("run.yaml").write_text(run.to_yaml())
    command = [sys.executable, "-m", "noah.cli", "train", "run.yaml", "--out", "out", "--shards", str(tiny_shards)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: tiny/tiny/gmlp_tiny-d1-p8-w0.5/noah/s0: not tried again, because the attempt of ")
    assert "FloatingPointError: tiny/tiny" in line
    assert "learning rate 1e+30" in line
    assert line.endswith(f"(to try all the same: rm {noted})")
    assert not Path("out").exists()


def test_a_killed_run_is_tried_again(tiny_shards, make_run):
    Path("run.yaml").write_text(make_run(epochs=2000, eval_every_epochs=2000).to_yaml())
    command = [sys.executable, "-m", "noah.cli", "train", "run.yaml", "--out", "out", "--shards", str(tiny_shards)]
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert "from step 0 of" in process.stdout.readline()
        process.kill()
        process.communicate()
