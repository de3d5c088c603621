"""Who watches a training sees its history.csv grow, also over a resume."""

import csv
import itertools
import json
import os
import signal
from pathlib import Path

import pytest

from noah.engine.train import train
from noah.signals import Interrupted
from noah.tracking.records import epoch_points


def test_each_epoch_shows_the_lines_so_far_and_their_points_are_those_of_the_file(tiny_shards, make_run):
    run, seen = make_run(epochs=4, eval_every_epochs=2), []

    def stop_after_two(history: list[dict]) -> None:
        seen.append(json.loads(json.dumps(history)))
        if len(history) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(run, tiny_shards, Path("out"), on_epoch=stop_after_two)
    train(run, tiny_shards, Path("out"), on_epoch=lambda history: seen.append(json.loads(json.dumps(history))))
    assert [len(history) for history in seen] == [1, 2, 3, 4]
    for earlier, later in itertools.pairwise(seen):
        assert later[: len(earlier)] == earlier
    with open("out/history.csv", newline="") as file:
        assert [epoch_points(row) for row in csv.DictReader(file)] == [epoch_points(row) for row in seen[-1]]
