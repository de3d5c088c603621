"""A real MLflow server over SQLite, as `noah ui` starts it, that can be killed and started again at its address."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

START_S = 120


class MlflowServer:
    """Over the local store of `folder`; a context manager that leaves no process behind."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "MlflowServer":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.kill()

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
        code = f"from noah.tracking import serve; serve(port={self.port})"
        with open(self.folder / "server.log", "a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        self.kill()
        raise AssertionError(f"no answer from {self.address}:\n{(self.folder / 'server.log').read_text()[-4000:]}")

    def kill(self) -> None:
        """SIGKILL to the server and its workers, which are a session of their own."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
