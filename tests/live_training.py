"""A training that only logs: epochs with made-up numbers through the live log, and the files that a run leaves.

    python live_training.py STUDY KEY SECONDS DIE_AFTER

Run in the folder of the study. An epoch lasts SECONDS, and the last one is over when a file `finish` appears. It keeps
a checkpoint of its history every few epochs; killed by itself after epoch DIE_AFTER (0: not at all) and started again,
it resumes there as `noah train` does. Prints the longest wait in seconds of an epoch, and of the end.
"""

import os
import signal
import sys
import time
from pathlib import Path

from tracking_study import fake_run

from noah.config import load_study
from noah.files import read_json, write_json
from noah.tracking.live import live_log

CHECKPOINT_EVERY = 4


def main(study_name: str, key: str, seconds: float, die_after: int) -> None:
    study = load_study(study_name, config_dir=Path("config"))
    run = study.run(key)
    checkpoint = Path("state") / key / "history.json"
    history = read_json(checkpoint) if checkpoint.exists() else []
    longest_s = 0.0
    with live_log(study, run) as on_epoch:
        test = os.getppid()
        while not Path("finish").exists() and os.getppid() == test:
            time.sleep(seconds)
            epoch = len(history) + 1
            history.append(epoch_row(run.seed, epoch))
            start = time.monotonic()
            on_epoch(history)
            longest_s = max(longest_s, time.monotonic() - start)
            if epoch % CHECKPOINT_EVERY == 0:
                write_json(checkpoint, history)
            if epoch == die_after:
                os.kill(os.getpid(), signal.SIGKILL)
        start = time.monotonic()
    end_s = time.monotonic() - start
    fake_run(study, run, history[0]["time"] - 1, history=history)
    print(longest_s, end_s)


def epoch_row(seed: int, epoch: int) -> dict:
    minival = epoch % 5 == 0
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "time": time.time(),
        "lr": 0.1 / epoch,
        "train_loss": (2.0 + seed) / epoch,
        "images_per_s": 1000 / 7 + time.time() % 1,
        "minival_loss": 1.0 / epoch if minival else None,
        "minival_top1": 50.0 + epoch if minival else None,
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
