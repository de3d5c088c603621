"""The pipeline as a user meets it: a dry run before the data, a run to the tables, what each kind of edit reruns."""

import json
import os
import shutil
import signal
import subprocess
import time

import pandas as pd
import pytest
import yaml

from noah.config import RESULTS_VERSION

RUN = "results/tiny/runs/tiny/tiny/gmlp_tiny-d1-p8-w0.5/noah/s0"


@pytest.fixture(scope="module")
def finished(clone):
    """The clone after one `snakemake --cores 2`."""
    clone.snakemake()
    return clone


@pytest.fixture
def edited(finished):
    """The finished clone, whose sources are put back after the test."""
    kept = {path: path.read_bytes() for top in ("src", "config") for path in (finished.folder / top).rglob("*.[py]*")}
    kept = {path: data for path, data in kept.items() if path.suffix in (".py", ".yaml")}
    yield finished
    for path, data in kept.items():
        if path.read_bytes() != data:
            path.write_bytes(data)


def test_a_dry_run_needs_neither_data_nor_shards(clone, tmp_path):
    shutil.move(clone.folder / "data", tmp_path / "data")
    try:
        for arguments in ((), ("--profile", "slurm"), ("--config", "study=digits"), ("--config", "scale=small")):
            assert clone.planned(*arguments)["train"] >= 2
    finally:
        shutil.move(tmp_path / "data", clone.folder / "data")


def test_the_default_study_plans_every_run_once(clone):
    planned = clone.planned("--config", "study=digits")
    assert planned["train"] == planned["score"] == 35
    assert planned["cost"] == planned["manifest"] == planned["index"] == 3
    assert planned["collect"] == planned["compare"] == planned["tables"] == planned["figures"] == planned["track"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("study=digit",), "config/studies/digit.yaml: no such file"),
        (("scale=tiny",), "scale is 'tiny', expected one of full, small"),
        (
            ("studdy=digits",),
            "config/config.yaml or --config: keys are ['scale', 'studdy', 'study'], expected ['scale', 'study']",
        ),
    ],
)
def test_a_mistake_in_the_config_ends_with_one_line_and_code_2_before_the_dag(clone, arguments, message):
    done = clone.run("snakemake", "--cores", "1", "-n", "--config", *arguments, check=False)
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_command_makes_tables_figures_and_tracked_runs(finished):
    folder = finished.folder / "results/tiny"
    for kind in ("md", "tex", "html", "csv"):
        assert (folder / f"tables/comparison.{kind}").stat().st_size > 100
    for name in ("differences", "training_curves"):
        assert (folder / f"figures/{name}.svg").read_text().startswith("<?xml")
    assert (folder / "figures/attention/tiny/other/gmlp_tiny-d1-p8-w0.5.png").read_bytes().startswith(b"\x89PNG")
    assert "missing" not in (folder / "tables/comparison.md").read_text()
    tracked = json.loads((folder / "tracked.json").read_text())
    assert (tracked["status"], len(tracked["runs"])) == ("ok", 4)
    metrics = json.loads((finished.folder / RUN / "metrics.json").read_text())
    long = pd.read_parquet(folder / "long.parquet")
    assert len(pd.read_parquet(folder / "comparison.parquet")) == 2
    row = long[(long.metric == "top1") & (long.arm == "noah") & (long.recipe == "tiny")]
    assert row.value.tolist() == [metrics["top1"]]
    assert metrics["images"] == 30


def test_a_second_call_does_nothing(finished):
    assert finished.planned() == {}


def test_touching_every_source_file_reruns_nothing(edited):
    for path in (edited.folder / "src").rglob("*.py"):
        path.touch()
    assert edited.planned() == {}


def test_an_edit_of_one_recipe_reruns_its_runs_only(edited):
    edited.edit_yaml("config/recipes/other.yaml", lr=0.002)
    planned = edited.planned()
    downstream = {"collect", "compare", "tables", "figures", "track", "all"}
    assert planned == {"train": 2, "score": 2, "attention": 1, **dict.fromkeys(downstream, 1)}


def test_an_edit_of_the_report_reruns_tables_and_figures_only(edited):
    edited.append("src/noah/report/tables.py", "\n# another remark\n")
    assert edited.planned() == dict.fromkeys(("tables", "figures", "track", "all"), 1)


def test_an_edit_of_the_estimator_compares_again_and_collects_nothing(edited):
    edited.append("src/noah/report/stats.py", "\n# another remark\n")
    assert edited.planned() == dict.fromkeys(("compare", "tables", "figures", "track", "all"), 1)


def test_an_edit_of_a_docstring_in_the_engine_reruns_nothing(edited):
    for name in ("engine/train.py", "models/build.py", "heads/noah.py", "data/loader.py", "cli.py"):
        edited.append(f"src/noah/{name}", '\n"""One more docstring."""\n')
    assert edited.planned() == {}


def test_an_edit_of_the_metrics_scores_again_without_training(edited):
    edited.append("src/noah/evaluate/metrics.py", "\n# another remark\n")
    planned = edited.planned()
    assert planned["score"] == 4
    assert not {"train", "cost", "index"} & set(planned)


def test_an_edit_of_the_scenes_makes_new_shards_and_trains_everything_again(edited):
    edited.edit_yaml("config/datasets/tiny.yaml", seed=7)
    planned = edited.planned()
    assert (planned["index"], planned["manifest"], planned["train"]) == (3, 3, 4)


def test_raising_the_results_version_trains_everything_again(edited):
    path = edited.folder / "src/noah/config/run.py"
    raised = f"RESULTS_VERSION = {RESULTS_VERSION + 1}"
    path.write_text(path.read_text().replace(f"RESULTS_VERSION = {RESULTS_VERSION}", raised))
    planned = edited.planned()
    assert (planned["train"], planned["cost"]) == (4, 1)
    assert "index" not in planned


def test_adding_a_seed_trains_only_the_new_runs(edited):
    edited.edit_yaml("config/studies/tiny.yaml", seeds=[0, 1])
    planned = edited.planned()
    assert (planned["train"], planned["score"]) == (4, 4)
    assert "cost" not in planned


def test_an_edit_of_one_arm_trains_and_measures_it_in_one_call(edited):
    study = yaml.safe_load((edited.folder / "config/studies/tiny.yaml").read_text())
    study["arms"]["noah"]["num_heads"] = 2
    edited.edit_yaml("config/studies/tiny.yaml", arms=study["arms"])
    planned = edited.planned()
    assert (planned["train"], planned["score"], planned["cost"]) == (2, 2, 1)


def test_a_model_that_cannot_be_built_stops_everything_before_the_first_job(edited):
    study = yaml.safe_load((edited.folder / "config/studies/tiny.yaml").read_text())
    study["arms"]["noah"]["num_heads"] = 7
    edited.edit_yaml("config/studies/tiny.yaml", arms=study["arms"], backbones=[{"name": "resnet10t"}])
    done = edited.run("snakemake", "--cores", "2", check=False)
    assert done.returncode != 0
    assert "error: config/studies/tiny.yaml: arm 'noah' on backbone 'resnet10t-w1': 512 channels" in done.stderr
    assert not (edited.folder / "results/tiny/runs/tiny/tiny/resnet10t-w1").exists()


def test_an_edited_recipe_really_trains_its_runs_and_leaves_the_others(edited):
    before = {path: path.stat().st_mtime_ns for path in edited.folder.glob("results/tiny/runs/**/model.safetensors")}
    edited.edit_yaml("config/recipes/other.yaml", lr=0.002)
    edited.snakemake()
    changed = {str(path) for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns}
    assert len(changed) == 2
    assert all("/other/" in path for path in changed)
    edited.edit_yaml("config/recipes/other.yaml", lr=0.001)
    edited.snakemake()
    assert edited.planned() == {}


def test_a_run_that_is_deleted_is_the_only_one_trained_again(finished):
    kept = (finished.folder / RUN / "predictions.parquet").read_bytes()
    shutil.rmtree(finished.folder / RUN)
    planned = finished.planned()
    assert (planned["train"], planned["score"]) == (1, 1)
    finished.snakemake()
    assert (finished.folder / RUN / "predictions.parquet").read_bytes() == kept


def hear_interrupts():
    """In a child before its program starts: background shells make theirs deaf to SIGINT, and Python keeps to that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start_training(clone, epochs: int) -> subprocess.Popen:
    """A Snakemake in a process group of its own, two trainings of recipe `other` being at work."""
    clone.edit_yaml("config/recipes/other.yaml", epochs=epochs, eval_every_epochs=epochs)
    known = set(clone.folder.glob("state/*/train.log"))
    process = subprocess.Popen(
        ["snakemake", "--cores", "2"],
        cwd=clone.folder,
        env=clone.environment,
        start_new_session=True,
        preexec_fn=hear_interrupts,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(set(clone.folder.glob("state/*/train.log")) - known) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(2)
    return process


def test_an_interrupt_loses_no_finished_run_and_leaves_no_half_file(edited):
    process = start_training(edited, 3000)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) != 0
    assert (edited.folder / RUN / "model.safetensors").exists()
    assert not list((edited.folder / "results").rglob("*.tmp"))
    assert not any((edited.folder / "results/tiny/runs/tiny/other").rglob("model.safetensors"))
    edited.edit_yaml("config/recipes/other.yaml", epochs=2)
    assert edited.planned("--rerun-incomplete")["train"] == 2
    edited.snakemake("--rerun-incomplete")
    assert edited.planned() == {}


def test_a_job_that_is_stopped_ends_after_its_state_is_saved_however_long_that_takes(edited):
    code = (edited.folder / "src/noah/engine/state.py").read_text()
    saving = "        of_ranks = ranks.gather("
    assert code.count(saving) == 1
    slow = code.replace(saving, f"        __import__('time').sleep(6)\n{saving}")
    (edited.folder / "src/noah/engine/state.py").write_text(slow)
    known = set(edited.folder.glob("state/*/checkpoint.pt"))
    process = start_training(edited, 4000)
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=120)
    # Slurm kills whatever a job leaves behind.
    assert len(set(edited.folder.glob("state/*/checkpoint.pt")) - known) == 2


def test_a_run_that_diverges_is_a_missing_cell_in_the_printed_table(edited):
    edited.edit_yaml("config/recipes/other.yaml", optimizer="sgd", lr=1.0e30)
    done = edited.run("make", "-o", "setup", "tables", "STUDY=tiny", check=False)
    assert done.returncode != 0
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("baseline ", "noah "))]
    scores = [cells[1] for cells in rows if cells[1] != "→"]
    assert len(scores) == 4
    assert sum(score == "missing" for score in scores) == 2
    assert "Missing: 2 of 4 runs" in done.stdout
    log = (edited.folder / "logs/train/tiny/tiny/other/gmlp_tiny-d1-p8-w0.5/noah/s0.log").read_text()
    assert "error: tiny/other/gmlp_tiny-d1-p8-w0.5/noah/s0: loss is" in log
    edited.edit_yaml("config/recipes/other.yaml", optimizer="adamw", lr=1.0e-3)
    edited.snakemake("--rerun-incomplete")
    assert edited.planned() == {}


def test_the_slurm_profile_parses_without_a_number_of_cores(clone):
    done = clone.run("snakemake", "--profile", "slurm", "--list-rules")
    assert "train" in done.stdout.split()


def test_the_report_holds_tables_and_figures(finished):
    finished.snakemake("--report", "report.zip")
    done = finished.run("python", "-m", "zipfile", "-l", "report.zip")
    assert "comparison.html" in done.stdout
    assert "training_curves.svg" in done.stdout
