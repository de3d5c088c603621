"""SIGKILL at random moments, by hand (`make test-long`): a run that dies again and again ends with the same bits."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from noah.engine.train import train

KILLS = 25

pytestmark = pytest.mark.long


def test_killed_at_random_moments_and_resumed_is_the_same_bits(tiny_shards, make_run):
    run = make_run(epochs=60, mixup=0.8, ema_decay=0.9, evaluate="ema", random_erasing=0.5, eval_every_epochs=10)
    train(run, tiny_shards, Path("quiet"))
    Path("run.yaml").write_text(run.to_yaml())
    code = (
        "import sys; from pathlib import Path; from noah.config import load_run; "
        "from noah.engine.train import Machine, train; "
        "train(load_run(Path('run.yaml')), Path(sys.argv[1]), Path('killed'), Machine(checkpoint_minutes=0))"
    )
    drawn = random.Random(0)
    killed = 0
    while not Path("killed/provenance.json").exists():
        process = subprocess.Popen([sys.executable, "-c", code, str(tiny_shards)], stdout=subprocess.DEVNULL)
        if killed < KILLS:
            before = newest_step()
            deadline = time.monotonic() + 60
            while newest_step() == before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(drawn.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        else:
            assert process.wait() == 0
    assert killed >= 5
    for name in ("model.safetensors", "predictions.parquet", "run.yaml"):
        assert (Path("killed") / name).read_bytes() == (Path("quiet") / name).read_bytes()
    kept = [
        pd.read_csv(Path(name) / "history.csv").drop(columns=["time", "images_per_s"]) for name in ("killed", "quiet")
    ]
    pd.testing.assert_frame_equal(*kept)
    print(f"killed {killed} times")


def newest_step() -> int:
    """Of the newest checkpoint; -1 before the first, or while it is being replaced."""
    try:
        return torch.load(next(Path("state").glob("*/checkpoint.pt")), weights_only=True)["step"]
    except (StopIteration, OSError, EOFError, RuntimeError):
        return -1
