"""The pipeline: shards -> train -> score, cost -> comparison -> tables, figures, MLflow. Rules are thin; the `noah` command does the work.

    snakemake --cores 2                                          the study that config/config.yaml names
    snakemake --profile slurm                                    the same, every job on the cluster
    snakemake --cores 2 --config study=digits scale=small        another study, or its reduced form
"""

from snakemake.utils import min_version

min_version("9.0")

configfile: "config/config.yaml"

report: "workflow/report/workflow.rst"

include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"

onstart:
    if workflow.non_local_exec:
        make_cancelled_jobs_end()
        end_orphans(workflow.dag.needrun_jobs())
    # No job starts before every model of the study could be built. (Not a rule: as an ancestor of the trainings it would
    # have to be ancient, and Snakemake overlooks what is out of date behind an ancient job that runs.)
    shell(f"noah plan {STUDY.name} --scale {STUDY.scale} --save >&2")

localrules: all, score, collect, compare, tables, figures, track

rule all:
    input:
        run_files("model.safetensors"),
        run_files("metrics.json"),
        TABLES,
        FIGURES,
        ATTENTION,
        f"{RESULTS}/tracked.json",
    default_target: True
