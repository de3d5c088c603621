"""One job per run. Its resume state lies in state/, which Snakemake does not know: it would delete it with a failed job."""


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
        gpu=STUDY.spec.resources.gpus,
        mem_mb=STUDY.spec.resources.mem_mb,
        runtime=STUDY.spec.resources.runtime_min,
    shell:
        "noah train {wildcards.dataset}/{wildcards.recipe}/{wildcards.backbone}/{wildcards.arm}/s{wildcards.seed}"
        " --study {params.study} --scale {params.scale} --out {params.out} --threads {threads} > {log} 2>&1"
