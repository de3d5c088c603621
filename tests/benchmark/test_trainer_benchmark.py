import json

import pytest

from noah.benchmark.trainer import run


def test_all_loops_run_and_the_trainer_ends_with_the_weights_of_the_bare_one(tmp_path):
    table = run(tmp_path, images=64, epochs=2, rounds=1, threads=1)
    written = json.loads((tmp_path / "trainer.json").read_text())
    assert written["same_weights"]
    assert set(written["epoch"]) == {"bare loop", "noah", "timm's train.py"}
    assert written["checkpoint_cpu_s"] > 0
    assert table in (tmp_path / "trainer.md").read_text()


def test_one_epoch_is_refused_for_it_only_warms_up(tmp_path):
    with pytest.raises(ValueError, match="epochs is 1 and images is 64, expected at least 2 and 32"):
        run(tmp_path, images=64, epochs=1, rounds=1, threads=1)
