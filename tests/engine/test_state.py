"""Checkpoints: checked, kept twice, and never mistaken for what they are not."""

import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from noah.engine.distributed import World
from noah.engine.folder import forget, remove_leftovers, state_folder
from noah.engine.lock import lock
from noah.engine.state import TrainState, read_checkpoint, serialized, write_checkpoint
from noah.engine.train import Machine, train

ALONE = World(0, 1, torch.device("cpu"))
STATE = Path("state")


@pytest.fixture
def held(project):
    with lock(STATE) as held:
        yield held


def small_state(step: int = 0) -> TrainState:
    torch.manual_seed(step)
    model = nn.Linear(4, 3)
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1), step=step)


@pytest.fixture
def saved(held) -> list[TrainState]:
    """Two checkpoints, of steps 1 and 2."""
    states = [small_state(1), small_state(2)]
    for state in states:
        state.save(STATE, ALONE, held)
    return states


def test_the_newest_checkpoint_is_restored(saved):
    again = small_state()
    assert again.load(STATE, ALONE)
    assert (again.step, again.saved_step) == (2, 2)
    assert torch.equal(again.model.weight, saved[1].model.weight)


def damage(path: Path, how: str) -> None:
    data, drawn = bytearray(path.read_bytes()), random.Random(how)
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "replaced":
        path.write_bytes(b"PK\x03\x04 half a checkpoint")
    else:
        data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "emptied", "replaced", *(f"bit {i}" for i in range(20))])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(saved, capsys, how):
    damage(STATE / "checkpoint.pt", how)
    again = small_state()
    assert again.load(STATE, ALONE)
    assert again.step == 1
    assert torch.equal(again.model.weight, saved[0].model.weight)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: state/checkpoint.pt is damaged (")
    assert line.endswith("resuming from state/checkpoint.previous.pt, step 1")
    assert line in (STATE / "train.log").read_text()


def test_with_both_damaged_the_run_starts_anew_and_says_so(saved, capsys):
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        damage(STATE / name, "truncated")
    again = small_state()
    assert not again.load(STATE, ALONE)
    assert again.step == 0
    assert "no checkpoint is sound, the run starts anew" in capsys.readouterr().err


def test_a_kill_between_the_two_renames_leaves_the_previous_one(saved):
    (STATE / "checkpoint.pt").rename(STATE / "checkpoint.previous.pt")
    again = small_state()
    assert again.load(STATE, ALONE)
    assert again.step == 2


def test_weights_that_are_no_numbers_never_replace_a_good_checkpoint(saved, held):
    broken = small_state(3)
    nn.init.constant_(broken.model.weight, float("nan"))
    with pytest.raises(FloatingPointError, match="weight holds numbers that are not finite after step 3"):
        broken.save(STATE, ALONE, held)
    again = small_state()
    again.load(STATE, ALONE)
    assert again.step == 2


def test_what_a_killed_writer_left_is_removed_and_nothing_else(saved):
    leftover = STATE / ".checkpoint.pt.some-node.123.tmp"
    leftover.write_bytes(b"half")
    remove_leftovers(STATE)
    assert not leftover.exists()
    assert {path.name for path in STATE.glob("checkpoint*")} == {"checkpoint.pt", "checkpoint.previous.pt"}


def test_a_checkpoint_holds_data_and_no_code(held):
    class Code:
        def __reduce__(self):
            return print, ("code of a checkpoint ran",)

    write_checkpoint(STATE / "checkpoint.pt", serialized({"model": Code()}))
    with pytest.raises(Exception, match="holds more than data"):
        read_checkpoint(STATE / "checkpoint.pt")


def test_another_run_or_other_data_has_another_state(make_run):
    folders = {state_folder(Path("state"), run, data) for run in (make_run(), make_run(lr=0.5)) for data in "ab"}
    assert len(folders) == 4


def test_saving_every_ten_minutes_costs_less_than_two_percent(held):
    """Of the processor's time, for a model with Adam's moments like DeiT-Base: 87 M parameters, about 1 GB."""
    model = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(8)))
    state = TrainState(model, torch.optim.AdamW(model.parameters()))
    model(torch.zeros(1, 1024)).sum().backward()
    state.optimizer.step()
    state.save(STATE, ALONE, held)
    started = time.process_time()
    state.save(STATE, ALONE, held)
    seconds = time.process_time() - started
    deit_base = seconds * 87e6 / sum(parameter.numel() for parameter in model.parameters())
    assert deit_base < 0.02 * 600


def test_a_result_that_was_lost_is_written_again_without_training_until_it_was_taken_over(tiny_shards, make_run):
    run, machine = make_run(), Machine(keep_state=True)
    train(run, tiny_shards, Path("out"), machine)
    kept = (Path("out") / "predictions.parquet").read_bytes()
    shutil.rmtree("out")
    train(run, tiny_shards, Path("out"), machine)
    assert (Path("out") / "predictions.parquet").read_bytes() == kept
    (log,) = Path("state").glob("*/train.log")
    assert log.read_text().count("epoch 1 step 3/6") == 1
    assert "resuming at step 6 of 6" in log.read_text()

    forget(Path("state"), Path("out"))
    train(run, tiny_shards, Path("out"), machine)
    assert log.read_text().count("epoch 1 step 3/6") == 2
