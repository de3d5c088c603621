"""One job per run. Its resume state lies in state/, which Snakemake does not know: it would delete it with a failed job.

A run of several processes is started by torchrun, on several nodes by srun and torchrun; all of them save and stop
together when one is told to stop. How they are started is no param: a run that asks for other resources is the same run.

A stop signal goes to all processes of a job. `exec` leaves no shell that could die of it: Snakemake would see its job end,
end too, and Slurm would kill the training while it saves.
"""

LAUNCH, THREADS = launcher(), train_threads()


rule train:
    input:
        manifests,
    output:
        [f"{RUN}/{name}" for name in RUN_FILES],
        f"{RUN}/model.safetensors",
    params:
        run=run_hash,
        study=STUDY.name,
        scale=STUDY.scale,
        out=subpath(output[0], parent=True),
    log:
        f"logs/train/{STUDY.slug}/{{dataset}}/{{recipe}}/{{backbone}}/{{arm}}/s{{seed}}.log",
    benchmark:
        f"logs/train/{STUDY.slug}/{{dataset}}/{{recipe}}/{{backbone}}/{{arm}}/s{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: STUDY.spec.resources.cpus
    resources:
        mem_mb=train_memory,
        runtime=train_runtime,
        **placement(),
    shell:
        f"exec {LAUNCH} train"
        " {wildcards.dataset}/{wildcards.recipe}/{wildcards.backbone}/{wildcards.arm}/s{wildcards.seed}"
        " --study {params.study} --scale {params.scale} --out {params.out} --keep-state"
        f" {THREADS}"
        " > {log} 2>&1"
