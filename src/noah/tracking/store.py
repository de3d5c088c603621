"""Where MLflow's runs are kept: a server named by MLFLOW_TRACKING_URI, else a SQLite file of this repository."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from noah.files import write_atomic
from noah.redact import without_secrets

FOLDER = Path("mlruns")
SCHEMES = ("http", "https", "sqlite")
LOOPBACK = ("127.0.0.1", "localhost", "::1")

# MLflow's own defaults wait minutes for a dead server, and print each run's address, password included. Whoever sets
# these variables knows better and is left alone.
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else the address of the local store (which `init_local_store` makes).

    Raises:
        ValueError: A scheme other than http, https or sqlite. MLflow 3 refuses plain folders, and waits minutes for a
            database server that does not answer.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return _local_uri(Path("."))
    if urlsplit(uri).scheme not in SCHEMES:
        raise ValueError(f"MLFLOW_TRACKING_URI is '{without_secrets(uri)}', expected http://, https:// or sqlite://")
    return uri


def init_local_store(root: Path = Path(".")) -> str:
    """Make mlruns/mlflow.db below `root` unless it is there, and return its address.

    MLflow creates its tables on first use, and processes that do so at once corrupt the file for good. So it is made
    once, under a lock, and appears under its name only when complete.

    Raises:
        ValueError: `mlflow db upgrade` failed; the message has its last line.
    """
    database = _database(root)
    with locked(root):
        if not database.exists():
            with write_atomic(database) as temporary:
                command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{temporary}"]
                done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **CLIENT_ENVIRONMENT})
                if done.returncode:
                    reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                    raise ValueError(f"{database}: cannot be initialised: {reason}")
    return _local_uri(root)


@contextmanager
def locked(root: Path = Path(".")) -> Iterator[None]:
    """Hold the local store's lock: one process at a time initialises or publishes."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def serve(host: str = "127.0.0.1", port: int = 5000) -> None:
    """Replace this process with an MLflow server over the local store; it ends with Ctrl-C.

    Raises:
        ValueError: MLFLOW_TRACKING_URI is a server already.
    """
    uri = tracking_uri()
    if not uri.startswith("sqlite:"):
        raise ValueError(f"MLFLOW_TRACKING_URI is '{without_secrets(uri)}', a server already: open it in a browser")
    if is_local(uri):
        init_local_store()
    if host not in LOOPBACK:
        print(f"noah: anyone who reaches {host}:{port} can read, change and delete runs", file=sys.stderr)
    print(f"noah: open http://{host}:{port} and choose 'Model training', top left", flush=True)
    os.environ.update({k: v for k, v in _server_environment().items() if k not in os.environ})
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *_server_arguments(uri, host, port)])


def is_local(uri: str) -> bool:
    """Whether this is the repository's own store."""
    return uri == _local_uri(Path("."))


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where a new experiment keeps its files: below mlruns/artifacts, or wherever a server decides (None)."""
    if not uri.startswith("sqlite:"):
        return None
    return (FOLDER.resolve() / "artifacts" / experiment).as_uri()


def _server_arguments(uri: str, host: str, port: int) -> list[str]:
    artifacts = (FOLDER.resolve() / "artifacts").as_uri()
    options = {"--backend-store-uri": uri, "--artifacts-destination": artifacts, "--host": host, "--port": str(port)}
    return ["server", "--workers", "1", *(part for option in options.items() for part in option)]


def _server_environment() -> dict[str, str]:
    """The job runner serves language-model evaluations, which a study has none of."""
    return {**CLIENT_ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _database(root: Path) -> Path:
    return root.resolve() / FOLDER / "mlflow.db"


def _local_uri(root: Path) -> str:
    return f"sqlite:///{_database(root)}"
