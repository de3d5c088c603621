"""The study, checked before the DAG is built, and the functions that turn it into file names."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from noah.config import load_study, train_resources

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


def make_cancelled_jobs_end():
    """See the script that this puts in front of sacct, on clusters that have one."""
    if shutil.which("sacct"):
        os.environ.update(PATH=f"{Path('workflow/profiles/slurm/bin').resolve()}:{os.getenv('PATH')}")


def end_orphans(needed, patience_s=180):
    """Wait until no job of this folder is left that outlived its Snakemake (a login node that went down): two of them
    would be in each other's way.

    Those that are `needed` are cancelled: training saves its state, and the job that is submitted in their place goes on
    from there. All that the others make is there, so that Snakemake goes on to what follows; they are in their last
    seconds, and cancelled they would remove it.
    """
    if shutil.which("squeue") is None:
        return
    needed = {_comment(job) for job in needed}
    deadline = time.monotonic() + patience_s
    while orphans := _jobs_here():
        cancelled = [job for job, comment in orphans.items() if comment in needed]
        if cancelled:
            print(f"cancelling {len(cancelled)} jobs of an earlier Snakemake: {' '.join(cancelled)}", file=sys.stderr)
            subprocess.run(["scancel", *cancelled], check=False)
        if time.monotonic() > deadline:
            raise WorkflowError(f"jobs of an earlier Snakemake do not end: {' '.join(orphans)}; see scontrol show job")
        time.sleep(3)


def _comment(job):
    """What the plugin has Slurm note of a job."""
    wildcards = [part for value in job.wildcards for part in value.split(os.sep)]
    return "_".join([f"rule_{job.name}", *(["wildcards", *wildcards] if wildcards else [])])


def _jobs_here():
    """Ids of the jobs that a Snakemake started in this folder to their comments."""
    listed = subprocess.run(["squeue", "--me", "-h", "-o", "%i\t%Z\t%k"], capture_output=True, text=True, timeout=60)
    if listed.returncode:
        raise WorkflowError(f"squeue cannot say whether jobs of an earlier Snakemake run: {listed.stderr.strip()}")
    jobs = [line.split("\t") for line in listed.stdout.splitlines()]
    return {job: comment for job, folder, comment in jobs if Path(folder) == Path.cwd() and comment.startswith("rule_")}


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


def train_runtime(wildcards):
    """Minutes. Asked for when a job is submitted, so that the plan, which is saved before the first job, is there."""
    return train_resources(STUDY, run_of(wildcards))["runtime"]


def train_memory(wildcards):
    """Megabytes."""
    return train_resources(STUDY, run_of(wildcards))["mem_mb"]


def placement():
    """What Slurm has to know of the processes of one run: nothing but its GPUs, unless it spans several nodes."""
    asked = STUDY.spec.resources
    if asked.nodes == 1:
        return {"gpu": asked.gpus}
    # tasks_per_gpu=0 keeps the plugin from starting a task per GPU: torchrun starts the processes of a node.
    several = {"mpi": "srun", "nodes": asked.nodes, "tasks": asked.nodes, "tasks_per_gpu": 0}
    return several | ({"gres": f"gpu:{asked.gpus}"} if asked.gpus else {})


def launcher():
    """The command in front of `train`: noah itself, torchrun, or torchrun on every node."""
    asked = STUDY.spec.resources
    if asked.ranks == 1:
        return "noah"
    ranks = f"--nproc-per-node {asked.ranks_per_node}"
    if asked.nodes == 1:
        return f"torchrun --standalone {ranks} -m noah.cli"
    # The batch script runs on the first node. Jobs that share a node must not share a port.
    meet = '--master-addr "$(hostname)" --master-port $((20000 + SLURM_JOB_ID % 20000))'
    return (
        f"srun --nodes={asked.nodes} --ntasks={asked.nodes} --ntasks-per-node=1 --cpus-per-task={asked.cpus}"
        f" --kill-on-bad-exit=1 bash -c 'exec torchrun --nnodes {asked.nodes} --node-rank $SLURM_NODEID {ranks} \"$@\"'"
        f" torchrun {meet} -m noah.cli"
    )


def train_threads():
    """`--threads` and `--workers` of each process: GPUs want decoders beside them, the CPU wants its cores for itself."""
    asked = STUDY.spec.resources
    share = max(asked.cpus // asked.ranks_per_node, 1)
    return f"--threads 1 --workers {share}" if asked.gpus else f"--threads {share}"


def cost_hash(wildcards):
    return STUDY.cost_hash(wildcards.dataset, wildcards.backbone)


def dataset_hash(name):
    """Changes with what decides the shards of a dataset."""
    spec = STUDY.datasets[name].model_dump_json(exclude={"root", "allow_bad"})
    return hashlib.sha256(spec.encode()).hexdigest()


def dataset_hash_of(wildcards):
    return dataset_hash(wildcards.dataset)


def allow_bad_of(wildcards):
    return STUDY.datasets[wildcards.dataset].allow_bad


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


def job_bad_images(wildcards):
    return job_files(wildcards, "bad.csv")


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
