"""What a training job asks of the cluster: the saved plan, within a floor and the partition's limit."""

import csv

import pytest

from noah.config import load_study, train_resources


@pytest.fixture
def study(project, monkeypatch):
    monkeypatch.delenv("NOAH_MAX_RUNTIME_MIN", raising=False)
    return load_study("tiny")


def save_plan(study, **columns) -> None:
    run = study.runs[0]
    row = {"dataset": run.dataset.name, "recipe": run.recipe_name, "backbone": run.backbone.slug, "arm": run.arm}
    study.results.mkdir(parents=True, exist_ok=True)
    with open(study.results / "plan.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*row, *columns])
        writer.writeheader()
        writer.writerow({**row, **columns})


def test_without_a_plan_the_study_s_own_words_count(study):
    assert train_resources(study, study.runs[0]) == {"mem_mb": 4000, "runtime": 15}


def test_the_plan_counts_for_its_runs_alone(study):
    save_plan(study, runtime_min=90, mem_mb=7000)
    assert train_resources(study, study.runs[0]) == {"mem_mb": 7000, "runtime": 90}
    assert train_resources(study, study.runs[-1]) == {"mem_mb": 4000, "runtime": 15}


def test_no_job_is_shorter_than_its_own_start(study):
    save_plan(study, runtime_min=1, mem_mb=7000)
    assert train_resources(study, study.runs[0])["runtime"] == 15


def test_no_job_is_longer_than_the_partition_allows(study, monkeypatch):
    save_plan(study, runtime_min=5000, mem_mb=7000)
    monkeypatch.setenv("NOAH_MAX_RUNTIME_MIN", "1440")
    assert train_resources(study, study.runs[0])["runtime"] == 1440


def test_a_plan_without_an_estimate_leaves_the_time_to_the_study(study):
    save_plan(study, runtime_min="", mem_mb=7000)
    assert train_resources(study, study.runs[0]) == {"mem_mb": 7000, "runtime": 15}


@pytest.mark.parametrize("value", ["a day", "5", "-1"])
def test_a_limit_that_is_none_is_named(study, monkeypatch, value):
    monkeypatch.setenv("NOAH_MAX_RUNTIME_MIN", value)
    with pytest.raises(ValueError, match=f"NOAH_MAX_RUNTIME_MIN is '{value}', expected a number of minutes from 15"):
        train_resources(study, study.runs[0])
