"""Several processes: the same records as one, and a run that ends with the same files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PREDICT = """
import sys
from pathlib import Path
import torch
from noah.config import load_run
from noah.data.reader import Shards
from noah.engine import predict as module
from noah.engine.distributed import world
from noah.engine.train import build_state

module.EVAL_BATCH = 7
run = load_run(Path("run.yaml"))
torch.set_num_threads(1)
with world("cpu") as ranks:
    shards = Shards(Path(sys.argv[1]) / "tiny" / "test")
    logits = module.predict(build_state(run, ranks).model, shards, run.dataset, run.recipe, ranks)
    if ranks.is_main:
        torch.save(logits, sys.argv[2])
"""


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launcher, *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("processes", [2, 3])
def test_predictions_are_the_same_bits_at_any_number_of_processes(tiny_shards, make_run, processes):
    Path("run.yaml").write_text(make_run().to_yaml())
    Path("predict.py").write_text(PREDICT)
    for count in (1, processes):
        done = torchrun(count, "predict.py", str(tiny_shards), f"{count}.pt")
        assert done.returncode == 0, done.stderr[-2000:]
    one, many = torch.load("1.pt"), torch.load(f"{processes}.pt")
    assert one.shape == (30, 10)
    assert torch.equal(one, many)


def test_a_run_of_two_processes_ends_with_its_files(tiny_shards, make_run):
    Path("run.yaml").write_text(make_run(micro_batch=8).to_yaml())
    done = torchrun(2, "-m", "noah.cli", "train", "run.yaml", "--out", "out", "--shards", str(tiny_shards))
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in Path("out").iterdir()} >= {"model.safetensors", "predictions.parquet", "arm.json"}
    assert '"world_size": 2' in Path("out/provenance.json").read_text()


def test_a_batch_that_the_processes_do_not_make_up_is_refused(tiny_shards, make_run):
    Path("run.yaml").write_text(make_run().to_yaml())
    done = torchrun(2, "-m", "noah.cli", "train", "run.yaml", "--out", "out", "--shards", str(tiny_shards))
    assert done.returncode != 0
    assert "batch is 16, expected micro_batch x accumulate x world size = 16 x 1 x 2 = 32" in done.stderr
