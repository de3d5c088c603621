"""A run with secrets in every address it is given leaves none behind: in no file, no message, no tag."""

import base64
import functools
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from noah.config import load_study
from noah.data.shards import index_split, write_job, write_manifest

SECRETS = ("geheim-uri", "geheim-query", "geheim-password", "geheim-token", "geheim-shards")


@pytest.fixture
def shards_url(project):
    """The tiny shards behind an HTTP server that is given a password."""
    dataset = load_study("tiny").datasets["tiny"]
    for split in dataset.splits:
        out = Path("served/tiny") / split
        index_split(dataset, split, out)
        for job in range(dataset.num_jobs(split)):
            write_job(dataset, split, job, out)
        write_manifest(dataset, split, out)
    handler = functools.partial(QuietHandler, directory="served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:geheim-shards@127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def noah(*arguments: str, check: bool = True) -> str:
    """What the command says; its tracking server does not answer."""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": "http://me:geheim-uri@127.0.0.1:9/mlflow?token=geheim-query",
        "MLFLOW_TRACKING_PASSWORD": "geheim-password",
        "MLFLOW_TRACKING_TOKEN": "geheim-token",
    }
    done = subprocess.run(
        [sys.executable, "-m", "noah.cli", *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout + done.stderr


def told(text: bytes) -> list[str]:
    """Secrets in a text, plain or as a header of HTTP has them."""
    forms = {secret: (secret, base64.b64encode(f"me:{secret}".encode()).decode()) for secret in SECRETS}
    return [secret for secret, written in forms.items() if any(form.encode() in text for form in written)]


def test_training_scoring_and_tracking_leave_no_secret_behind(shards_url):
    run = load_study("tiny").runs[0]
    out = f"results/tiny/runs/{run.key}"
    said = noah("train", run.key, "--study", "tiny", "--out", out, "--shards", shards_url, "--device", "cpu")
    said += noah("score", out, "--shards", shards_url)
    said += noah("track", "tiny")
    assert "live curves" in said
    assert "not published to http://127.0.0.1:9/mlflow" in said
    said += noah("train", run.key, "--study", "tiny", "--out", "x", "--shards", f"{shards_url}/nowhere", check=False)
    assert "no such file" in said

    assert not told(said.encode())
    written = [path for path in Path(".").rglob("*") if path.is_file() and "data" not in path.parts]
    assert {"run.yaml", "provenance.json", "tracked.json", "train.log"} <= {path.name for path in written}
    assert not [path for path in written if told(path.read_bytes())]
