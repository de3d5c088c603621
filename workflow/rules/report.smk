"""All runs -> one long table -> comparison -> tables, figures, MLflow. Rules of seconds: an edit of their code reruns them."""

COMPARISON_CODE = [
    *("clusters", "collect", "comparison", "comparison_table", "moderation", "power", "pseudo_values", "published", "records"),
    *("rows", "sharing", "stats", "verdicts"),
]


rule collect:
    input:
        STUDY.path.as_posix(),
        COSTS,
        run_files("metrics.json"),
        run_files("arm.json"),
        run_files("provenance.json"),
        code=modules("report/collect.py") + modules("report/fairness.py"),
    output:
        f"{RESULTS}/long.parquet",
        f"{RESULTS}/fairness.json",
    params:
        study=STUDY.name,
        scale=STUDY.scale,
    log:
        f"logs/collect/{STUDY.slug}.log",
    retries: 0
    conda:
        ENVIRONMENT
    threads: 1
    shell:
        "noah collect {params.study} --scale {params.scale} > {log} 2>&1"


rule compare:
    input:
        STUDY.path.as_posix(),
        PUBLISHED,
        run_files("metrics.json"),
        run_files("provenance.json"),
        long=ancient(f"{RESULTS}/long.parquet"),
        predictions=ancient(run_files("predictions.parquet")),
        code=[file for name in COMPARISON_CODE for file in modules(f"report/{name}.py")],
    output:
        f"{RESULTS}/comparison.parquet",
    params:
        study=STUDY.name,
        scale=STUDY.scale,
    log:
        f"logs/compare/{STUDY.slug}.log",
    retries: 0
    conda:
        ENVIRONMENT
    threads: 1
    shell:
        "noah compare {params.study} --scale {params.scale} > {log} 2>&1"


rule tables:
    input:
        STUDY.path.as_posix(),
        f"{RESULTS}/fairness.json",
        f"{RESULTS}/comparison.parquet",
        COSTS,
        run_files("metrics.json"),
        run_files("provenance.json"),
        long=ancient(f"{RESULTS}/long.parquet"),
        code=modules("report/*.py"),
    output:
        report(TABLES, caption="../report/table.rst", category="Tables"),
    params:
        study=STUDY.name,
        scale=STUDY.scale,
    log:
        f"logs/tables/{STUDY.slug}.log",
    retries: 0
    conda:
        ENVIRONMENT
    threads: 1
    shell:
        "noah table {params.study} --scale {params.scale} > {log} 2>&1"


rule figures:
    input:
        STUDY.path.as_posix(),
        f"{RESULTS}/comparison.parquet",
        run_files("history.csv"),
        code=modules("report/*.py"),
    output:
        report(DIFFERENCES, caption="../report/differences.rst", category="Figures"),
        report(CURVES, caption="../report/training_curves.rst", category="Figures"),
    params:
        study=STUDY.name,
        scale=STUDY.scale,
    log:
        f"logs/figures/{STUDY.slug}.log",
    retries: 0
    conda:
        ENVIRONMENT
    threads: 1
    shell:
        "noah figures {params.study} --scale {params.scale} > {log} 2>&1"


rule track:
    input:
        f"{RESULTS}/comparison.parquet",
        TABLES,
        FIGURES,
        COSTS,
        run_files("metrics.json"),
        run_files("history.csv"),
    output:
        f"{RESULTS}/tracked.json",
    params:
        study=STUDY.name,
        scale=STUDY.scale,
    log:
        f"logs/track/{STUDY.slug}.log",
    retries: 0
    conda:
        ENVIRONMENT
    threads: 1
    shell:
        "noah track {params.study} --scale {params.scale} > {log} 2>&1"
