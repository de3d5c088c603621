"""SIGKILL at random moments: a run that dies again and again ends with the same bits."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from noah.engine.state import read_checkpoint
from noah.engine.train import train

EVERYTHING = {
    "mixup": 0.8,
    "cutmix": 1.0,
    "ema_decay": 0.9,
    "evaluate": "ema",
    "precision": "bf16",
    "micro_batch": 8,
    "drop_path_rate": 0.1,
    "proj_drop_rate": 0.1,
    "random_erasing": 0.5,
    "rand_augment": "rand-m9-mstd0.5-inc1",
    "color_jitter": 0.3,
}
CODE = """
import sys
from pathlib import Path
from noah.config import load_run
from noah.engine.train import Machine, train
machine = Machine(checkpoint_minutes=0, workers=int(sys.argv[2]))
train(load_run(Path("run.yaml")), Path(sys.argv[1]), Path("killed"), machine)
"""


@pytest.mark.parametrize(
    "kills", [pytest.param(10, marks=pytest.mark.system), pytest.param(100, marks=pytest.mark.long)]
)
def test_killed_at_random_moments_and_resumed_is_the_same_bits(tiny_shards, make_run, kills):
    """A checkpoint after every step, so that many of the kills fall into the writing of one; workers by turns."""
    run = make_run(epochs=4 * kills, eval_every_epochs=10, **EVERYTHING)
    train(run, tiny_shards, Path("quiet"))
    Path("run.yaml").write_text(run.to_yaml())
    drawn = random.Random(0)
    killed, attempts = 0, 0
    while not Path("killed/provenance.json").exists():
        workers, attempts = str(2 * (attempts % 2)), attempts + 1
        before = newest_step()
        process = subprocess.Popen([sys.executable, "-c", CODE, str(tiny_shards), workers], stdout=subprocess.DEVNULL)
        if killed < kills:
            while newest_step() == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(drawn.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
        code = process.wait()
        assert code in (0, -signal.SIGKILL), f"attempt {attempts} ended with {code}"
        killed += code == -signal.SIGKILL
    assert attempts <= kills + 1
    assert killed >= kills / 2
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
        return read_checkpoint(next(Path("state").glob("*/checkpoint.pt")))["step"]
    except (StopIteration, OSError, ValueError):
        return -1
