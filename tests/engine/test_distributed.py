"""Several processes: the same records as one, and a run that ends with the same files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from noah.engine.state import read_checkpoint

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


SHARE = """
import torch
from noah.engine.distributed import world

with world("cpu") as ranks:
    norm = torch.nn.BatchNorm1d(2)
    norm(torch.full((4, 2), float(ranks.rank)))
    first = ranks.share(norm).running_mean.clone()
    everyone = ranks.gather({"mean": first, "rank": ranks.rank})
    assert [own["rank"] for own in everyone] == [0, 1, 2]
    assert all(torch.equal(own["mean"], torch.zeros(2)) for own in everyone)
    assert ranks.any(ranks.rank == 2, False) == [True, False]
"""

TRAIN = """
import os, signal, sys
from pathlib import Path
from noah.config import load_run
from noah.engine import train as module

shards, out, event, at_step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
real_stepper = module.stepper

def stepper(run, model, state, ranks, losses):
    step_once = real_stepper(run, model, state, ranks, losses)

    def step(group, lr):
        loss = step_once(group, lr)
        if state.step == at_step and ranks.rank == ranks.size - 1:
            Path("happened").touch()
            if event == "error":
                raise ValueError("the disk of this rank is on fire")
            os.kill(os.getpid(), getattr(signal, event))
        return loss

    return step

module.stepper = stepper
module.train(load_run(Path("run.yaml")), shards, out, module.Machine(checkpoint_minutes=0))
"""
"""Something happens to the last rank after a step; -1 is no step."""

EXCHANGES = """
import sys
from pathlib import Path
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from noah.config import load_run
from noah.data.loader import train_loader
from noah.data.reader import Shards
from noah.engine.distributed import world
from noah.engine.step import Losses, stepper
from noah.engine.train import build_state

run = load_run(Path("run.yaml"))
with world("cpu") as ranks:
    state, exchanged = build_state(run, ranks), []
    model = ranks.wrap(state.model)

    def counted(group, bucket):
        exchanged.append(bucket)
        return allreduce_hook(group, bucket)

    model.register_comm_hook(None, counted)
    step_once = stepper(run, model, state, ranks, Losses(run, state, lag=0))
    shards = Shards(Path(sys.argv[1]) / "tiny" / "train")
    batches = list(train_loader(shards, run, 0, rank=ranks.rank, world_size=ranks.size))
    of_step = []
    for group in (batches[:2], batches[2:3]):
        exchanged.clear()
        step_once(group, 0.1)
        of_step.append(len(exchanged))
    assert of_step[0] == of_step[1] > 0, of_step
"""
"""A step of two passes exchanges as much as a step of one."""

OTHER_DEVICES = """
from noah.engine import distributed

distributed.describe_device = lambda device: f"cuda: card of rank {__import__('os').environ['RANK']}"
with distributed.world("cpu") as ranks:
    distributed.World(ranks.rank, ranks.size, distributed.torch.device("cuda")).check_alike()
"""

EVERYTHING = {
    "epochs": 3,
    "mixup": 0.8,
    "ema_decay": 0.9,
    "evaluate": "ema",
    "precision": "bf16",
    "drop_path_rate": 0.3,
    "proj_drop_rate": 0.1,
    "random_erasing": 0.5,
}


def start_torchrun(processes: int, *arguments: str) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*launcher, *arguments], text=True, env=environment, **pipes)


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess:
    process = start_torchrun(processes, *arguments)
    out, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def train(processes: int, shards: Path, out: str, event: str = "none", at_step: int = -1):
    Path("train.py").write_text(TRAIN)
    return torchrun(processes, "train.py", str(shards), out, event, str(at_step))


def results(out: str) -> dict[str, bytes]:
    """What must be equal, bit for bit; the history without its clock."""
    history = pd.read_csv(Path(out) / "history.csv").drop(columns=["time", "images_per_s"])
    files = {name: (Path(out) / name).read_bytes() for name in ("model.safetensors", "predictions.parquet")}
    return {**files, "history.csv": history.to_csv(index=False).encode()}


def test_predictions_are_the_same_bits_at_any_number_of_processes(tiny_shards, make_run):
    Path("run.yaml").write_text(make_run().to_yaml())
    Path("predict.py").write_text(PREDICT)
    for count in (1, 2, 3):
        done = torchrun(count, "predict.py", str(tiny_shards), f"{count}.pt")
        assert done.returncode == 0, done.stderr[-2000:]
    one, two, three = (torch.load(f"{count}.pt") for count in (1, 2, 3))
    assert one.shape == (30, 11)
    assert torch.equal(one, two)
    assert torch.equal(one, three)


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
    assert "batch is 16, expected a multiple of micro_batch x world size = 16 x 2 = 32" in done.stderr


@pytest.mark.parametrize(("processes", "batch"), [(2, 16), pytest.param(3, 12, marks=pytest.mark.system)])
def test_ranks_stopped_and_resumed_end_with_the_bits_of_undisturbed_ones(tiny_shards, make_run, processes, batch):
    run = make_run(**EVERYTHING, batch=batch, micro_batch=batch // processes // 2)
    Path("run.yaml").write_text(run.to_yaml())
    assert train(processes, tiny_shards, "quiet").returncode == 0
    stopped = train(processes, tiny_shards, "stopped", "SIGTERM", 4)
    assert "stopped by SIGTERM; the state is saved" in stopped.stderr
    assert not Path("stopped").exists()
    done = train(processes, tiny_shards, "stopped")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resuming at step 4" in done.stdout
    assert results("stopped") == results("quiet")


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(tiny_shards, make_run, before, after):
    exact = {"precision": "fp32", "optimizer": "sgd", "lr": 0.05}
    Path("run.yaml").write_text(make_run(**{**EVERYTHING, **exact}, batch=16, micro_batch=4).to_yaml())
    assert train(1, tiny_shards, "quiet").returncode == 0
    assert "stopped by SIGTERM" in train(before, tiny_shards, "moved", "SIGTERM", 4).stderr
    done = train(after, tiny_shards, "moved")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resuming at step 4" in done.stdout
    origin = json.loads(Path("moved/provenance.json").read_text())
    assert (origin["world_size"], origin["world_sizes"]) == (after, [before, after])
    quiet, moved = (load_file(f"{name}/model.safetensors") for name in ("quiet", "moved"))
    for key, tensor in quiet.items():
        torch.testing.assert_close(moved[key], tensor, atol=1e-5, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")
    quiet, moved = (pd.read_csv(f"{name}/history.csv").train_loss for name in ("quiet", "moved"))
    np.testing.assert_allclose(moved, quiet, rtol=1e-5)


def test_sigterm_to_torchrun_saves_the_state(tiny_shards, make_run):
    run = make_run(epochs=3000, eval_every_epochs=3000, micro_batch=8)
    Path("run.yaml").write_text(run.to_yaml())
    process = start_torchrun(2, "-m", "noah.cli", "train", "run.yaml", "--out", "out", "--shards", str(tiny_shards))
    assert any("from step 0 of 9000" in line for line in process.stdout)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    step = read_checkpoint(next(Path().glob("state/*/checkpoint.pt")))["step"]
    assert 0 < step < 9000


@pytest.mark.parametrize(("processes", "event"), [(2, "error"), pytest.param(3, "SIGKILL", marks=pytest.mark.system)])
def test_a_rank_that_dies_takes_the_others_down_and_the_retry_resumes(tiny_shards, make_run, processes, event):
    run = make_run(batch=12, micro_batch=12 // processes)
    Path("run.yaml").write_text(run.to_yaml())
    died = train(processes, tiny_shards, "out", event, 3)
    assert time.time() - Path("happened").stat().st_mtime < 60
    assert died.returncode != 0
    assert not Path("out").exists()
    if event == "error":
        raised = [line for line in died.stderr.splitlines() if "Error: " in line]
        assert "ValueError: the disk of this rank is on fire" in raised[0]
    else:
        assert "Signal 9 (SIGKILL)" in died.stderr
    done = train(processes, tiny_shards, "out")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resuming at step 2 of 8" in done.stdout


def test_ranks_end_with_the_statistics_of_the_first(project):
    Path("share.py").write_text(SHARE)
    done = torchrun(3, "share.py")
    assert done.returncode == 0, done.stderr[-2000:]


def test_gradients_of_several_passes_are_exchanged_once_a_step_and_lie_as_they_are_exchanged(tiny_shards, make_small):
    run = make_small("digits-cnn", "cnn", batch=8, micro_batch=2, channels_last=True)
    Path("run.yaml").write_text(run.to_yaml())
    Path("exchanges.py").write_text(EXCHANGES)
    done = torchrun(2, "exchanges.py", str(tiny_shards))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "stride" not in done.stderr


def test_ranks_on_different_cards_are_an_error_that_names_them(project):
    Path("other.py").write_text(OTHER_DEVICES)
    done = torchrun(2, "other.py")
    assert "different cards, expected the same for all: rank 0: cuda: card of rank 0, rank 1: cuda: card" in done.stderr
