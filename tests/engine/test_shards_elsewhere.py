"""Shards on the node's own disk or behind a URL: the same run, and one clear line where it cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from noah.engine.train import Machine, train


@pytest.mark.parametrize("how", ["staged", "url"])
def test_shards_read_elsewhere_train_the_same_bits(tiny_shards, make_run, tmp_path, how):
    run, node = make_run(), tmp_path / "node"
    train(run, tiny_shards, Path("here"))
    if how == "staged":
        train(run, tiny_shards, Path("there"), Machine(stage_to=node, state=Path("other")))
        assert not [path for path in node.rglob("*") if path.is_file()]
    else:
        train(run, tiny_shards.as_uri(), Path("there"), Machine(cache=node, state=Path("other")))
        assert len(list(node.rglob("*.tar"))) == 6
    for name in ("model.safetensors", "predictions.parquet", "run.yaml"):
        assert Path("here", name).read_bytes() == Path("there", name).read_bytes()


def noah(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "noah.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_the_command_takes_a_staging_folder_from_the_environment_and_a_url(tiny_shards, make_run, tmp_path):
    Path("run.yaml").write_text(make_run().to_yaml())
    command = ("train", "run.yaml", "--out", "out", "--shards")
    unset = noah(*command, str(tiny_shards), NOAH_STAGE_TO="$NOT_SET/noah")
    assert (unset.returncode, unset.stdout) == (2, "")
    assert unset.stderr.startswith("error: --stage-to is '$NOT_SET/noah', expected its environment variables to be set")
    both = noah(*command, tiny_shards.as_uri(), "--stage-to", str(tmp_path))
    assert both.returncode == 2
    assert "expected none with a URL: --cache says what keeps it" in both.stderr
    done = noah(*command, tiny_shards.as_uri(), NOAH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    scored = noah("score", "out", "--shards", tiny_shards.as_uri(), "--cache", str(tmp_path / "cache"))
    assert "top-1" in scored.stdout, scored.stderr
