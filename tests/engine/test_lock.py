"""Two processes never write one state: real processes, alive, dead, asleep, and on what looks like another machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from noah.engine import lock as module
from noah.engine.lock import LockLost, lock

FOLDER = Path("state")
HOLD = """
import sys, time
from pathlib import Path
from noah.engine import lock as module
module.HEARTBEAT_S, module.STALE_S, module.SETTLE_S = 0.2, 2, 0.2
if sys.argv[1] != "here":
    module.os.uname = lambda: type("Name", (), {"nodename": sys.argv[1]})
with module.lock(Path("state")) as held:
    print("held", flush=True)
    for line in sys.stdin:
        held.check()
        print("wrote", flush=True)
"""


@pytest.fixture(autouse=True)
def quick(project, monkeypatch):
    for name, seconds in {"HEARTBEAT_S": 0.2, "STALE_S": 2, "SETTLE_S": 0.2}.items():
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def hold():
    """hold(host="here"): a process that holds the lock, and writes (or notices that it may not) for every line."""
    started = []

    def start(host: str = "here") -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", HOLD, host], text=True, **pipes)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def write(process: subprocess.Popen) -> str:
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_a_live_holder_is_named_and_the_lock_refused_at_once(hold):
    process = hold()
    started = time.monotonic()
    expected = f"state: another process trains this run: host {os.uname().nodename}, process {process.pid}$"
    with pytest.raises(ValueError, match=expected), lock(FOLDER):
        pass
    assert time.monotonic() - started < 1
    assert write(process) == "wrote\n"


def test_a_process_does_not_take_its_own_lock_twice():
    with lock(FOLDER), pytest.raises(ValueError, match=f"process {os.getpid()}"), lock(FOLDER):
        pass


def test_the_lock_of_a_killed_process_is_taken_over_at_once(hold):
    process = hold()
    process.kill()
    process.wait()
    started = time.monotonic()
    with lock(FOLDER) as held:
        held.check()
    assert time.monotonic() - started < 1


def test_a_process_id_that_is_used_again_is_another_process(hold):
    process = hold()
    process.kill()
    process.wait()
    record = json.loads((FOLDER / "lock").read_text())
    (FOLDER / "lock").write_text(json.dumps({**record, "pid": os.getpid()}))
    with lock(FOLDER) as held:
        held.check()


def test_a_machine_that_was_started_again_has_no_old_processes():
    with lock(FOLDER):
        record = json.loads((FOLDER / "lock").read_text())
    (FOLDER / "lock").write_text(json.dumps({**record, "boot": "an earlier one"}))
    with lock(FOLDER) as held:
        held.check()


def test_a_holder_elsewhere_that_still_beats_is_refused(hold):
    process = hold("node7")
    with pytest.raises(ValueError, match=f"host node7, process {process.pid}"), lock(FOLDER):
        pass
    assert write(process) == "wrote\n"


def test_a_holder_elsewhere_without_heartbeat_is_taken_over_after_the_documented_time(hold):
    process = hold("node7")
    process.kill()
    process.wait()
    started = time.monotonic()
    with lock(FOLDER) as held:
        held.check()
    assert 1 < time.monotonic() - started < 6


def test_a_node_thought_dead_wakes_up_and_notices_before_it_writes(hold):
    asleep = hold("node7")
    asleep.send_signal(signal.SIGSTOP)
    with lock(FOLDER) as held:
        asleep.send_signal(signal.SIGCONT)
        assert write(asleep) == ""
        errors = asleep.stderr.read()
        assert "LockLost" in errors
        assert f"host node7, process {asleep.pid}) was taken for dead" in errors
        assert f"now trained by host {os.uname().nodename}, process {os.getpid()}" in errors
        held.check()
    assert not (FOLDER / "lock").exists()


def test_a_removed_lock_is_a_lost_one():
    with lock(FOLDER) as held:
        (FOLDER / "lock").unlink()
        with pytest.raises(LockLost, match="nobody: the lock was removed"):
            held.check()


def test_of_many_that_want_a_dead_holder_s_lock_one_gets_it(hold):
    dead = hold()
    dead.kill()
    dead.wait()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([sys.executable, "-c", HOLD, "here"], text=True, **pipes) for _ in range(6)]
    answers = [process.stdout.readline() for process in processes]
    for process in processes:
        process.kill()
        process.communicate()
    assert sorted(answers) == ["", "", "", "", "", "held\n"]


def test_a_file_that_names_nobody_is_judged_by_its_time():
    FOLDER.mkdir()
    (FOLDER / "lock").write_text("host x, process 1")
    os.utime(FOLDER / "lock", (0, 0))
    with lock(FOLDER) as held:
        held.check()
