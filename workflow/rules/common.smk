"""The study, checked before the DAG is built, and the functions that turn it into file names."""

import hashlib
import sys
from pathlib import Path

from noah.config import load_study

ENVIRONMENT = "../../environment.yml"


def checked_study():
    """The study that config/config.yaml or --config names; a mistake in any file it uses is one line and exit code 2."""
    try:
        if set(config) != {"study", "scale"}:
            raise ValueError(f"config/config.yaml or --config: keys are {sorted(config)}, expected ['scale', 'study']")
        return load_study(config["study"], config["scale"])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


STUDY = checked_study()
RESULTS = STUDY.results.as_posix()
RUNS = {run.key: run for run in STUDY.runs}
RUN = f"{RESULTS}/runs/{{dataset}}/{{recipe}}/{{backbone}}/{{arm}}/s{{seed}}"
RUN_FILES = ["run.yaml", "history.csv", "predictions.parquet", "arm.json", "provenance.json"]
COSTS = sorted({f"{RESULTS}/cost/{run.dataset.name}-{run.backbone.slug}.json" for run in STUDY.runs})
PUBLISHED = [f"config/published/{STUDY.spec.published}.csv"] if STUDY.spec.published else []
TABLES = [f"{RESULTS}/tables/comparison.{kind}" for kind in ("md", "tex", "html", "csv")]
DIFFERENCES = [f"{RESULTS}/figures/differences.{kind}" for kind in ("svg", "png")]
CURVES = [f"{RESULTS}/figures/training_curves.{kind}" for kind in ("svg", "png")]
FIGURES = [*DIFFERENCES, *CURVES]
ATTENTION = sorted(
    {f"{RESULTS}/figures/attention/{run.dataset.name}/{run.recipe_name}/{run.backbone.slug}.png" for run in STUDY.runs}
)


wildcard_constraints:
    dataset="|".join(STUDY.datasets),
    split="train|minival|test",
    recipe="[^/]+",
    backbone="|".join(sorted({run.backbone.slug for run in STUDY.runs})),
    arm="[^/]+",
    seed="[0-9]+",


def run_of(wildcards):
    return RUNS["{w.dataset}/{w.recipe}/{w.backbone}/{w.arm}/s{w.seed}".format(w=wildcards)]


def run_hash(wildcards):
    """Changes with anything that decides the run's result, and with nothing else."""
    return run_of(wildcards).hash


def cost_hash(wildcards):
    return STUDY.cost_hash(wildcards.dataset, wildcards.backbone)


def dataset_hash(name):
    """Changes with what decides the shards of a dataset."""
    return hashlib.sha256(STUDY.datasets[name].model_dump_json(exclude={"root"}).encode()).hexdigest()


def dataset_hash_of(wildcards):
    return dataset_hash(wildcards.dataset)


def manifests(wildcards):
    splits = STUDY.datasets[wildcards.dataset].splits
    return [f"shards/{wildcards.dataset}/{split}/manifest.json" for split in splits]


def job_files(wildcards, kind):
    jobs = range(STUDY.datasets[wildcards.dataset].num_jobs(wildcards.split))
    return [f"shards/{wildcards.dataset}/{wildcards.split}/jobs/{job:05d}.{kind}" for job in jobs]


def job_notes(wildcards):
    return job_files(wildcards, "json")


def job_rows(wildcards):
    return job_files(wildcards, "parquet")


def run_files(name):
    """That file of every run of the study."""
    return [f"{RESULTS}/runs/{key}/{name}" for key in RUNS]


def modules(pattern):
    """Source files whose edit reruns a cheap rule."""
    return sorted(path.as_posix() for path in Path("src/noah").glob(pattern))


def shown_runs(wildcards):
    """Folders of all arms of a backbone, at the first seed."""
    row = (wildcards.dataset, wildcards.recipe, wildcards.backbone)
    return [
        f"{RESULTS}/runs/{run.key}"
        for run in STUDY.runs
        if run.seed == STUDY.spec.seeds[0] and (run.dataset.name, run.recipe_name, run.backbone.slug) == row
    ]


def shown_files(name):
    """An input function: that file of every shown run."""

    def files(wildcards):
        return [f"{run}/{name}" for run in shown_runs(wildcards)]

    return files
