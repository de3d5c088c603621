"""A run leaves its promised files, is the same bits again, and survives being stopped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from noah.config import load_run
from noah.data.reader import Shards
from noah.engine.state import read_checkpoint, serialized, write_checkpoint
from noah.engine.train import Machine, train
from noah.models import build_model
from noah.signals import Interrupted

EVERYTHING = {
    "epochs": 3,
    "mixup": 0.8,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "ema_decay": 0.9,
    "evaluate": "ema",
    "precision": "bf16",
    "micro_batch": 8,
    "drop_path_rate": 0.1,
    "clip_grad": 1.0,
    "warmup_epochs": 1,
    "random_erasing": 0.5,
}


def results(out: Path) -> dict[str, bytes]:
    """What must be equal, bit for bit; the history without its clock."""
    history = pd.read_csv(out / "history.csv").drop(columns=["time", "images_per_s"])
    files = {name: (out / name).read_bytes() for name in ("model.safetensors", "predictions.parquet", "run.yaml")}
    return {**files, "history.csv": history.to_csv(index=False).encode()}


def test_a_run_leaves_every_promised_file(tiny_shards, make_run):
    run = make_run()
    train(run, tiny_shards, Path("out"))
    names = {path.name for path in Path("out").iterdir()}
    assert names == {
        "run.yaml",
        "model.safetensors",
        "history.csv",
        "predictions.parquet",
        "provenance.json",
        "arm.json",
    }
    assert load_run(Path("out/run.yaml")).hash == run.hash
    history = pd.read_csv("out/history.csv")
    assert history.epoch.tolist() == [1, 2]
    assert history.step.tolist() == [3, 6]
    assert history.minival_top1.between(0, 100).all()
    arm = json.loads(Path("out/arm.json").read_text())
    assert arm["init"] == "small_m"
    assert arm["positions"] == 16
    assert arm["head_parameters"] == 64 * 10 + 2 * 4 * 10
    decayed, kept = arm["weight_decay_groups"]["decayed"], arm["weight_decay_groups"]["not_decayed"]
    assert decayed["parameters"] + kept["parameters"] == arm["parameters"]
    origin = json.loads(Path("out/provenance.json").read_text())
    assert origin["run_sha256"] == run.hash
    assert origin["manifests"]["train"] == Shards(tiny_shards / "tiny" / "train").manifest_sha256


def test_predictions_are_the_saved_model_s_and_cover_the_test_split_once(tiny_shards, make_run):
    run = make_run()
    train(run, tiny_shards, Path("out"))
    records = pq.read_table("out/predictions.parquet").to_pandas()
    test = Shards(tiny_shards / "tiny" / "test")
    assert records.key.tolist() == list(test.keys)
    assert records.label.tolist() == test.labels.tolist()
    model = build_model(**run.model_arguments)
    model.load_state_dict(load_file("out/model.safetensors"))
    from noah.data.loader import eval_loader
    from noah.data.transforms import normalize

    with torch.inference_mode():
        images = torch.cat([batch[0] for batch in eval_loader(test, run.recipe, run.dataset)])
        probabilities = model.eval()(normalize(images, run.recipe, run.dataset)).softmax(1)
    assert np.stack(records.top5)[:, 0].tolist() == probabilities.argmax(1).tolist()
    np.testing.assert_allclose(np.stack(records.top5_prob)[:, 0], probabilities.amax(1), rtol=1e-5)
    np.testing.assert_allclose(
        np.exp(records.label_logprob), probabilities[range(len(test)), test.labels], rtol=1e-4, atol=1e-7
    )


def test_the_weights_that_the_recipe_names_are_evaluated_and_kept(tiny_shards, make_run):
    found = {}
    for name, fields in {
        "plain": {},
        "last": {"ema_decay": 0.5, "evaluate": "last"},
        "ema": {"ema_decay": 0.5, "evaluate": "ema"},
    }.items():
        train(make_run(**fields), tiny_shards, Path(name))
        history = pd.read_csv(Path(name) / "history.csv")
        found[name] = load_file(f"{name}/model.safetensors"), results(Path(name))["predictions.parquet"], history
    (plain, plain_predictions, plain_history), last, (ema, ema_predictions, ema_history) = found.values()
    assert all(torch.equal(tensor, last[0][key]) for key, tensor in plain.items())
    assert last[1] == plain_predictions
    assert any(not torch.equal(tensor, ema[key]) for key, tensor in plain.items())
    assert ema_predictions != plain_predictions
    assert ema_history.train_loss.tolist() == plain_history.train_loss.tolist(), "an average of the same training"
    assert ema_history.minival_loss.tolist() != plain_history.minival_loss.tolist()
    for name, other, twin in (("last", "ema", ema), ("ema", "last", plain)):
        weights = load_file(f"{name}/model_{other}.safetensors")
        assert all(torch.equal(tensor, twin[key]) for key, tensor in weights.items())
        expected = ema_predictions if other == "ema" else plain_predictions
        assert Path(f"{name}/predictions_{other}.parquet").read_bytes() == expected
    assert {path.name for path in Path("plain").glob("*_*")} == set()


@pytest.mark.parametrize(("fields", "dtype"), [({}, torch.float32), ({"eval_precision": "bf16"}, torch.bfloat16)])
def test_evaluation_is_in_fp32_whatever_trained_unless_the_recipe_says_otherwise(
    tiny_shards, make_run, monkeypatch, fields, dtype
):
    from noah.engine import predict as module

    seen, real = set(), module.autocast

    def autocast(device, precision):
        seen.add({"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
        return real(device, precision)

    monkeypatch.setattr(module, "autocast", autocast)
    train(make_run(precision="bf16", epochs=1, **fields), tiny_shards, Path("out"))
    assert seen == {dtype}
    origin = json.loads(Path("out/provenance.json").read_text())
    assert origin["evaluated_in"] == fields.get("eval_precision", "fp32")


def test_the_same_run_is_the_same_bits_and_another_seed_is_not(tiny_shards, make_run):
    for name, seed in {"first": 0, "second": 0, "other": 1}.items():
        train(make_run(seed=seed), tiny_shards, Path(name))
    assert results(Path("first")) == results(Path("second"))
    assert results(Path("first"))["model.safetensors"] != results(Path("other"))["model.safetensors"]


def test_both_arms_see_the_same_images_in_the_same_order(tiny_shards, make_run):
    from noah.data.loader import train_loader

    train_split = Shards(tiny_shards / "tiny" / "train")
    seen = [list(train_loader(train_split, make_run(arm), 1)) for arm in ("baseline", "noah")]
    for ours, theirs in zip(*seen, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)


def stop_after(monkeypatch, steps: int) -> None:
    """SIGTERM arrives after so many steps of the next training."""
    from noah.engine import train as module

    real = module.stepper

    def stopping(run, model, state, ranks, losses):
        step_once = real(run, model, state, ranks, losses)

        def step(group, lr):
            loss = step_once(group, lr)
            if state.step == steps:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss

        return step

    monkeypatch.setattr(module, "stepper", stopping)


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_resumed_is_the_same_bits_as_undisturbed(tiny_shards, make_run, monkeypatch, workers):
    run = make_run(**EVERYTHING)
    train(run, tiny_shards, Path("quiet"), Machine(workers=0))

    from noah.engine import train as module

    # Three steps an epoch: inside the first, at its last step, inside the second, and at the very last step.
    stop_after = iter([1, 2, 1, 5, 100])
    real_stepper = module.stepper

    def stopping_stepper(*arguments):
        step_once, left = real_stepper(*arguments), next(stop_after)

        def step(group, lr):
            nonlocal left
            loss = step_once(group, lr)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss

        return step

    monkeypatch.setattr(module, "stepper", stopping_stepper)
    for _ in range(4):
        with pytest.raises(Interrupted, match="SIGTERM"):
            train(run, tiny_shards, Path("stopped"), Machine(workers=workers))
        assert not Path("stopped").exists()
    train(run, tiny_shards, Path("stopped"), Machine(workers=workers))
    assert results(Path("stopped")) == results(Path("quiet"))
    assert json.loads(Path("stopped/provenance.json").read_text())["starts"] == 5


def test_sigint_to_the_command_saves_the_state_and_the_next_start_resumes(tiny_shards, make_run):
    run = make_run(epochs=150, eval_every_epochs=150)
    Path("run.yaml").write_text(run.to_yaml())
    command = [sys.executable, "-m", "noah.cli", "train", "run.yaml", "--out", "out", "--shards", str(tiny_shards)]
    process = subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(Path().glob("state/*/train.log")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.startswith("error: stopped by SIGINT; the state is saved")
    assert not Path("out").exists()
    checkpoint = next(Path().glob("state/*/checkpoint.pt"))
    step = read_checkpoint(checkpoint)["step"]
    assert 0 < step < 450
    done = subprocess.run([*command, "--threads", "1"], capture_output=True, text=True, check=True)
    assert f"resuming at step {step} of 450" in done.stdout
    assert not checkpoint.exists()


def test_a_signal_to_all_processes_of_a_job_loses_nothing_when_workers_load_the_images(tiny_shards, make_run):
    Path("run.yaml").write_text(make_run(epochs=1000, eval_every_epochs=1000).to_yaml())
    command = [sys.executable, "-m", "noah.cli", "train", "run.yaml", "--out", "out", "--shards", str(tiny_shards)]
    process = subprocess.Popen([*command, "--workers", "2"], stdout=PIPE, text=True, start_new_session=True)
    assert "from step 0" in process.stdout.readline()
    time.sleep(2)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    (folder,) = (path.parent for path in Path("state").glob("*/checkpoint.pt"))
    assert not (folder / "failure.json").exists()


def test_a_killed_worker_ends_the_training_with_one_line_and_is_not_held_against_the_run(tiny_shards, make_run):
    Path("run.yaml").write_text(make_run(epochs=1000, eval_every_epochs=1000).to_yaml())
    command = [sys.executable, "-m", "noah.cli", "train", "run.yaml", "--out", "out", "--shards", str(tiny_shards)]
    process = subprocess.Popen([*command, "--workers", "2"], stdout=PIPE, stderr=PIPE, text=True)
    assert "from step 0" in process.stdout.readline()
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            for worker in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[:1]:
                os.kill(int(worker), signal.SIGKILL)
        time.sleep(0.1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert re.search(
        r"^error: (DataLoader worker|A process)[^\n]*\. If [^\n]*fewer workers, or a larger job", errors, re.M
    )
    assert not any(Path("state").glob("*/failure.json"))


def test_another_run_or_other_data_has_another_state(make_run):
    from noah.engine.folder import state_folder

    folders = {state_folder(Path("state"), run, data) for run in (make_run(), make_run(lr=0.5)) for data in "ab"}
    assert len(folders) == 4


def test_a_loss_that_is_no_number_stops_the_run_with_step_and_rate(tiny_shards, make_run):
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) at step \d+, learning rate 1e\+30"):
        train(make_run(lr=1e30, schedule="constant", optimizer="sgd"), tiny_shards, Path("out"))
    assert not Path("out").exists()


def test_a_batch_larger_than_the_data_is_an_error_before_training(tiny_shards, make_run):
    with pytest.raises(ValueError, match="batch is 64, expected at most the 48 images"):
        train(make_run(batch=64), tiny_shards, Path("out"))


def test_missing_shards_are_named(make_run):
    with pytest.raises(ValueError, match=r"nowhere/tiny/train/manifest\.json"):
        train(make_run(), Path("nowhere"), Path("out"))


def test_an_altered_shard_is_refused_before_training(tiny_shards, make_run):
    shutil.copytree(tiny_shards, "shards")
    tar = Path("shards/tiny/minival/tiny-minival-000000.tar")
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ValueError, match=r"tiny-minival-000000\.tar: sha256: got"):
        train(make_run(), Path("shards"), Path("out"))
    assert not list(Path("state").glob("*/train.log"))


def test_a_checkpoint_saved_by_the_clock_goes_on_without_a_signal(tiny_shards, make_run):
    run = make_run()
    train(run, tiny_shards, Path("often"), Machine(checkpoint_minutes=0.0))
    train(run, tiny_shards, Path("never"), Machine(checkpoint_minutes=1e9))
    assert results(Path("often")) == results(Path("never"))


def test_training_goes_on_while_a_checkpoint_is_written_and_ends_with_the_same_bits(tiny_shards, make_run, monkeypatch):
    from noah.engine import state
    from noah.engine import train as module

    train(make_run(), tiny_shards, Path("never"), Machine(checkpoint_minutes=1e9))
    go_on, written, write, real = threading.Event(), [], state.write_checkpoint, module.stepper

    def slow(path, content):
        assert go_on.wait(60)
        write(path, content)
        written.append(path)

    def stepper(run, model, trained, ranks, losses):
        step_once = real(run, model, trained, ranks, losses)

        def step(group, lr):
            loss = step_once(group, lr)
            if trained.step == 2:
                assert not written, "the checkpoint after step 1 is on its way"
                go_on.set()
            return loss

        return step

    monkeypatch.setattr(state, "write_checkpoint", slow)
    monkeypatch.setattr(module, "stepper", stepper)
    train(make_run(), tiny_shards, Path("slow"), Machine(checkpoint_minutes=0.0))
    assert len(written) > 2
    assert results(Path("slow")) == results(Path("never"))


def test_a_checkpoint_that_cannot_be_written_stops_the_training(tiny_shards, make_run, monkeypatch):
    from noah.engine import state

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "write_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        train(make_run(), tiny_shards, Path("out"), Machine(checkpoint_minutes=0.0))
    assert not list(Path("state").glob("*/checkpoint*"))


def test_fp16_stopped_and_resumed_goes_on_with_its_scale(tiny_shards, make_run, monkeypatch):
    run = make_run(precision="fp16")
    train(run, tiny_shards, Path("quiet"), Machine(keep_state=True))
    (saved,) = Path("state").glob("*/checkpoint.pt")
    assert read_checkpoint(saved)["scaler"]["scale"] > 0
    shutil.rmtree("state")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            train(run, tiny_shards, Path("stopped"), Machine())
    (saved,) = Path("state").glob("*/checkpoint.pt")
    content = read_checkpoint(saved)
    content["scaler"]["scale"] = 2.0**7
    write_checkpoint(saved, serialized(content))
    train(run, tiny_shards, Path("stopped"), Machine(keep_state=True))
    assert read_checkpoint(saved)["scaler"]["scale"] <= 2.0**7


def test_checkpointed_activations_give_the_same_weights(tiny_shards, make_run):
    """The tiny study's backbone has no BatchNorm, whose running numbers would count each batch twice."""
    plain, checkpointed = (make_run(grad_checkpointing=on, proj_drop_rate=0.1) for on in (False, True))
    train(plain, tiny_shards, Path("plain"), Machine())
    train(checkpointed, tiny_shards, Path("checkpointed"), Machine())
    for name, tensor in load_file("plain/model.safetensors").items():
        torch.testing.assert_close(load_file("checkpointed/model.safetensors")[name], tensor)
    assert json.loads(Path("checkpointed/provenance.json").read_text())["grad_checkpointing"] is True


def test_the_model_learns_one_batch(tiny_shards, make_run):
    train(make_run(epochs=12, batch=48, lr=3e-3), tiny_shards, Path("out"))
    losses = pd.read_csv("out/history.csv").train_loss
    assert losses.iloc[-1] < losses.iloc[0] - 0.1
