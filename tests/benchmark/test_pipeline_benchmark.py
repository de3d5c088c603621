import base64
import json

import pandas as pd
import pytest

from noah.benchmark import pipeline
from noah.config import load_study


@pytest.fixture
def records(project):
    """Notes of study tiny as Snakemake writes them: two cores, trainings of 10 s, the first output noted later."""
    folder = project / ".snakemake/metadata"
    study = load_study("tiny")
    for number, run in enumerate(study.runs):
        start = 100.0 + 10 * (number // 2)
        for name, noted in (("model.safetensors", 0), ("run.yaml", 1e-4)):
            note(folder, f"{study.results}/runs/{run.key}/{name}", "train", f"{run.key}.log", start + noted, start + 10)
    note(folder, f"{study.results}/comparison.parquet", "compare", "compare.log", 120.0, 121.0)
    note(folder, f"{study.results}/tracked.json", "track", "track.log", 122.0, 124.0)
    note(folder, f"{study.results}/runs/of/an/older/study/model.safetensors", "train", "old.log", 1.0, 2.0)
    return folder


def note(folder, output, rule, log, start, end):
    name = base64.urlsafe_b64encode(str(output).encode()).decode()
    cut = [f"@{name[:40]}", name[40:]]  # as on a disk that takes short names only
    path = folder.joinpath(*cut)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rule": rule, "log": [log], "starttime": start, "endtime": end}))


def test_wall_time_is_set_against_what_the_cores_could_do(records):
    study = load_study("tiny")
    jobs = pipeline.read_jobs(records, study)
    assert jobs.rule.value_counts().to_dict() == {"train": len(study.runs), "compare": 1, "track": 1}
    used = pipeline.use_of_cores(jobs, cores=2)
    assert (used["wall_s"], used["trainings_s"]) == (24, pytest.approx(40, abs=0.01))
    assert used["wall_over_trainings"] == pytest.approx(1.2, abs=0.01)
    assert used["wall_over_jobs"] == pytest.approx(24 / 21.5, abs=0.01)


def test_a_study_that_is_not_there_or_was_made_in_several_goes_is_refused(records):
    with pytest.raises(ValueError, match="has 0 trainings of study digits, expected 35"):
        pipeline.read_jobs(records, load_study("digits"))
    twice = pd.DataFrame({"rule": ["train"] * 2, "start": [0.0, 1000.0], "end": [10.0, 1010.0]})
    with pytest.raises(ValueError, match="nothing ran for 990 s between two jobs"):
        pipeline.use_of_cores(twice, cores=2)


def test_jobs_are_counted_as_the_dag_has_them(project):
    counted = pipeline.count_jobs(load_study("tiny"))
    assert (counted["index"], counted["shard"], counted["manifest"]) == (3, 4, 3)
    assert (counted["train"], counted["score"], counted["cost"], counted["track"]) == (4, 4, 1, 1)
    assert counted["compare"] == 1
    assert set(counted) == set(pipeline.VERBS)


def test_the_benchmark_runs_and_reports_every_rule(records, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "VERBS", dict.fromkeys(pipeline.VERBS, "noah.config"))
    monkeypatch.setattr(pipeline, "FLOORS", {"python": "os"})
    table = pipeline.run(tmp_path, "tiny", "full", rounds=1, cores=2, records=records)
    written = json.loads((tmp_path / "pipeline.json").read_text())
    assert set(written["imports"]) == {"python", *pipeline.VERBS}
    assert written["first_step_s"][0] > 0
    assert written["use_of_cores"]["wall_s"] == 24
    assert table in (tmp_path / "pipeline.md").read_text()
