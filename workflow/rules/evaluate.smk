"""Metrics from prediction records; costs measured with the machine to itself."""


rule score:
    input:
        f"{RUN}/run.yaml",
        f"{RUN}/history.csv",
        f"{RUN}/provenance.json",
        "shards/{dataset}/test/manifest.json",
        predictions=ancient(f"{RUN}/predictions.parquet"),
        code=modules("evaluate/m*.py") + modules("average_precision.py"),
    output:
        f"{RUN}/metrics.json",
    params:
        run=subpath(output[0], parent=True),
    log:
        f"logs/score/{STUDY.slug}/{{dataset}}/{{recipe}}/{{backbone}}/{{arm}}/s{{seed}}.log",
    retries: 0
    conda:
        ENVIRONMENT
    threads: 1
    shell:
        "noah score {params.run} --forget-state > {log} 2>&1"


rule cost:
    output:
        f"{RESULTS}/cost/{{dataset}}-{{backbone}}.json",
    params:
        arms=cost_hash,
        study=STUDY.name,
        scale=STUDY.scale,
    log:
        f"logs/cost/{STUDY.slug}/{{dataset}}-{{backbone}}.log",
    conda:
        ENVIRONMENT
    retries: 3
    # All cores are reserved, so that nothing else runs meanwhile; how many threads are measured stands in the result.
    threads: workflow.resource_settings.cores or 1
    resources:
        gpu=STUDY.spec.resources.gpus,
        mem_mb=STUDY.spec.resources.mem_mb,
        runtime=30,
    shell:
        "noah cost {params.study} --scale {params.scale} --dataset {wildcards.dataset} --backbone {wildcards.backbone}"
        " > {log} 2>&1"


rule attention:
    input:
        shown_files("run.yaml"),
        shown_files("provenance.json"),
        "shards/{dataset}/test/manifest.json",
        weights=ancient(shown_files("model.safetensors")),
        code=modules("evaluate/attention.py") + modules("evaluate/trained.py"),
    output:
        report(
            f"{RESULTS}/figures/attention/{{dataset}}/{{recipe}}/{{backbone}}.png",
            caption="../report/attention.rst",
            category="Figures",
        ),
    params:
        runs=shown_runs,
    log:
        f"logs/attention/{STUDY.slug}/{{dataset}}/{{recipe}}/{{backbone}}.log",
    retries: 3
    conda:
        ENVIRONMENT
    threads: 1
    shell:
        "noah attention {params.runs} --images 8 --out {output} > {log} 2>&1"
