import os
import signal
import subprocess
import sys

import pytest
from torch.utils.data._utils import signal_handling

from noah.data.loader import eval_loader
from noah.data.reader import Shards
from noah.data.workers import lost_worker

ONE_OF_TWO_IS_KILLED = """
import os, signal, sys, time
from pathlib import Path
from noah.config import load_run
from noah.data.loader import train_loader
from noah.data.reader import Shards

batches = iter(train_loader(Shards(sys.argv[1]), load_run(Path("run.yaml")), 0, workers=2))
next(batches)
first, _ = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
try:
    os.kill(int(first), signal.SIGKILL)
    time.sleep(60)
except RuntimeError as error:
    assert f"worker (pid {first}) is killed" in str(error)
    sys.exit(3)
"""


@pytest.fixture
def shards(train_folder):
    return Shards(train_folder)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_meets_a_worker_before_its_first_line_does_not_end_it(shards, run, signum, monkeypatch):
    start = signal_handling._set_worker_signal_handlers

    def signalled():
        start()
        os.kill(os.getpid(), signum)

    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", signalled)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    expected = [labels.tolist() for _, labels, _ in eval_loader(shards, run.recipe, run.dataset)]
    read = [labels.tolist() for _, labels, _ in eval_loader(shards, run.recipe, run.dataset, workers=2)]
    assert read == expected
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_worker_that_waits_does_not_keep_the_trainer_from_ending(train_folder, run, tmp_path):
    (tmp_path / "run.yaml").write_text(run.to_yaml())
    command = [sys.executable, "-c", ONE_OF_TWO_IS_KILLED, str(train_folder)]
    assert subprocess.run(command, cwd=tmp_path, timeout=60).returncode == 3


@pytest.mark.parametrize(
    "program",
    [
        "batches = iter(train_loader(Shards(sys.argv[1]), load_run(Path('run.yaml')), 0, workers=3)); next(batches)",
        "import multiprocessing; pool = multiprocessing.Pool(2); pool.map(abs, [1])",
    ],
    ids=["batches that nobody asked for", "a pool of somebody else"],
)
def test_what_still_waits_when_a_program_ends_does_not_keep_it_and_says_nothing(train_folder, run, tmp_path, program):
    (tmp_path / "run.yaml").write_text(run.to_yaml())
    imports = ONE_OF_TWO_IS_KILLED.split("\n\n")[0]
    command = [sys.executable, "-W", "ignore", "-c", f"{imports}\n{program}", str(train_folder)]
    done = subprocess.run(command, cwd=tmp_path, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_of_the_code_in_a_worker_is_no_lost_worker(shards, run, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Shards, "read", fail)
    with pytest.raises(RuntimeError, match="in DataLoader worker process 0") as error:
        list(eval_loader(shards, run.recipe, run.dataset, workers=1))
    assert lost_worker(error.value) is None
    assert "fewer workers" in lost_worker(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
