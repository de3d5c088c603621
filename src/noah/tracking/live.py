"""Curves that grow in MLflow while a run trains.

Training hands its history over after every epoch: lines appended to a file without a name. A process of its own, this
module, sends them to the server. So a server that is dead, slow or silent costs a training nothing, and neither does
MLflow's import. What does not arrive in time, `noah track` brings: it finds the same run by its tags, and the same
points add nothing.
"""

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from noah.config import Run, Study
from noah.redact import without_secrets
from noah.tracking.publish import experiment_name
from noah.tracking.records import Point, epoch_points, run_name, run_params, run_tags
from noah.tracking.runs import add_params, add_points, connect, experiment_id, is_live, known_runs, shows, supersede
from noah.tracking.store import tracking_uri

SEND_EVERY_S = 1.0
LONGEST_PAUSE_S = 30.0
"""Between two attempts at a server that fails; the pause doubles until then."""
LAST_WORDS_S = 5.0
"""How long the end of a training waits for what is on its way, and how long the sender outlives a killed training."""
LOOK_EVERY_S = 0.2

OnEpoch = Callable[[list[dict]], None]


@contextlib.contextmanager
def live_log(study: Study | None, run: Run) -> Iterator[OnEpoch | None]:
    """What `noah.engine.train` is to call after each epoch; None unless MLFLOW_TRACKING_URI is a server.

    Args:
        study: Names the experiment; a run without one is not tracked.
    """
    server = os.environ.get("MLFLOW_TRACKING_URI", "").strip().startswith(("http://", "https://"))
    if study is None or not server:
        yield None
        return
    log = LiveLog(study, run)
    try:
        yield log.add
    finally:
        log.close()


class LiveLog:
    """The training's side. No call raises, and none waits for the server; `close` waits LAST_WORDS_S at most."""

    def __init__(self, study: Study, run: Run):
        self._header = header_of(study, run)
        self._handed_over = 0
        self._file: Any = None
        self._sender: subprocess.Popen | None = None

    def add(self, history: list[dict]) -> None:
        """Hand over the epochs that are new.

        Args:
            history: The lines of history.csv so far; of a resumed run also those of earlier attempts.
        """
        try:
            if self._sender is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                self._write(self._header)
                command = [sys.executable, "-m", "noah.tracking.live", str(os.getpid())]
                # A session of its own: Ctrl-C is for the training, and its end is the sender's.
                self._sender = subprocess.Popen(
                    command, stdin=self._file, stdout=subprocess.DEVNULL, start_new_session=True
                )
            for row in history[self._handed_over :]:
                self._write(row)
            self._handed_over = len(history)
        except OSError as error:
            print(f"noah: no live curves of this epoch: {error.strerror}", file=sys.stderr)

    def close(self) -> None:
        if self._sender is None:
            return
        try:
            self._write(None)
            self._sender.wait(LAST_WORDS_S)
        except (OSError, subprocess.TimeoutExpired):
            self._sender.kill()
            self._sender.wait()
        self._file.close()

    def _write(self, line: dict | None) -> None:
        os.pwrite(self._file.fileno(), f"{json.dumps(line)}\n".encode(), os.fstat(self._file.fileno()).st_size)


def header_of(study: Study, run: Run) -> dict:
    """What the sender has to know of a run."""
    return {
        "experiment": experiment_name(study),
        "study": study.slug,
        "key": run.key,
        "name": run_name(run),
        "tags": {"noah.study": study.slug, "noah.run_key": run.key, "noah.kind": "arm", **run_tags(run)},
        "params": run_params(yaml.safe_load(run.to_yaml())),
        "started_ms": round(time.time() * 1000),
    }


def main(training: int) -> None:
    """The sender's side, until the training with that process id is over."""
    logging.disable()
    warnings.simplefilter("ignore")
    lines: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(training, lines), daemon=True).start()
    try:
        _send(lines)
    except Exception as error:
        _say(f"no live curves: {type(error).__name__}: {error}")


def _listen(training: int, lines: queue.SimpleQueue) -> None:
    """Pass on what the training writes; when it is over, pass on None, and end this process if it does not end."""
    with contextlib.suppress(ValueError):  # a full disk can cut a line
        for line in _follow(training):
            lines.put(line)
    lines.put(None)
    time.sleep(LAST_WORDS_S)
    os._exit(1)


def _follow(training: int) -> Iterator[dict]:
    start, rest, over = 0, b"", False
    while not over:
        over = os.getppid() != training
        while data := os.pread(sys.stdin.fileno(), 1 << 16, start):
            start += len(data)
            *whole, rest = (rest + data).split(b"\n")
            for line in map(json.loads, whole):
                if line is None:
                    return
                yield line
        time.sleep(0 if over else LOOK_EVERY_S)


def _send(lines: queue.SimpleQueue) -> None:
    header, points = lines.get(), []
    if header is None:
        return
    uri = tracking_uri()
    client, errors = connect(uri)
    run_id, sent, pause_s, ended = None, 0, 0.0, False
    while not ended:
        rows, ended = _collect(lines, time.monotonic() + (pause_s or SEND_EVERY_S))
        points += [point for row in rows for point in epoch_points(row)]
        if sent == len(points):
            continue
        try:
            run_id = run_id or live_run(client, uri, header, points)
            add_points(client, run_id, points[sent:])
        except errors as error:
            if not pause_s:
                _say(f"live curves are late, training goes on: {without_secrets(f'{uri}: {error}')[:400]}")
            # The server may come back without this run, or with it and not all of its points.
            run_id, sent = None, 0
            pause_s = min(2 * pause_s or SEND_EVERY_S, LONGEST_PAUSE_S)
        else:
            sent, pause_s = len(points), 0.0


def _collect(lines: queue.SimpleQueue, until: float) -> tuple[list[dict], bool]:
    """What arrives until then, and whether that was the last."""
    rows = []
    while True:
        try:
            row = lines.get(timeout=max(until - time.monotonic(), 0))
        except queue.Empty:
            return rows, False
        if row is None:
            return rows, True
        rows.append(row)


def live_run(client, uri: str, header: dict, points: list[Point]) -> str:
    """Id of the live run that shows the beginning of this training; of a new one, if there is none."""
    experiment = experiment_id(client, uri, header["experiment"])
    runs = known_runs(client, experiment, header["study"], header["key"]).get(header["key"], [])
    live = [run for run in runs if is_live(run)]
    for run in live:
        if shows(client, run, header["tags"]["config_sha256"], points):
            return run.info.run_id
    started_ms = min(header["started_ms"], points[0].time_ms)
    run_id = client.create_run(experiment, started_ms, header["tags"], header["name"]).info.run_id
    add_params(client, run_id, header["params"])
    for old in live:
        supersede(client, old, run_id)
    return run_id


def _say(message: str) -> None:
    print(f"noah: {without_secrets(message)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
