"""Raw data -> source index -> tars -> manifest. Raw files are no inputs: a dry run works without them.

Snakemake compares inputs above 1 MB by their times, which a copy or a `dvc pull` changes. So every heavy file has a small
key with its sha256 (source.sha256, jobs/*.json, manifest.json): consumers depend on the key and take the file as ancient.
quarantine.csv is no output, for Snakemake would remove it when the manifest fails because of what it lists.
"""

SPLIT = "shards/{dataset}/{split}"


rule index:
    output:
        f"{SPLIT}/source.parquet",
        f"{SPLIT}/source.sha256",
    params:
        spec=dataset_hash_of,
    log:
        "logs/index/{dataset}-{split}.log",
    retries: 3
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        # The annotations of iNaturalist 2021 take 4 GB, most indices far less.
        mem_mb=lambda wildcards, attempt: 2000 * 2 ** (attempt - 1),
        runtime=120,
    shell:
        "noah index {wildcards.dataset} {wildcards.split} > {log} 2>&1"


# One rule per job, because which tars a job writes follows from its number, and a pattern cannot say that.
for dataset in STUDY.datasets.values():
    for split in dataset.splits:
        folder = f"shards/{dataset.name}/{split}"
        for job in range(dataset.num_jobs(split)):

            rule:
                name:
                    f"shard_{dataset.name}_{split}_{job}".replace("-", "_")
                input:
                    f"{folder}/source.sha256",
                    source=ancient(f"{folder}/source.parquet"),
                output:
                    tars=[f"{folder}/{dataset.shard_name(split, shard)}" for shard in dataset.job_shards(split, job)],
                    rows=f"{folder}/jobs/{job:05d}.parquet",
                    bad=f"{folder}/jobs/{job:05d}.bad.csv",
                    sums=f"{folder}/jobs/{job:05d}.json",
                params:
                    dataset=dataset.name,
                    split=split,
                    job=job,
                    spec=dataset_hash(dataset.name),
                log:
                    f"logs/shard/{dataset.name}-{split}-{job:05d}.log",
                retries: 3
                conda:
                    ENVIRONMENT
                threads: 1
                resources:
                    mem_mb=2000,
                    runtime=240,
                shell:
                    "noah shard {params.dataset} {params.split} --job {params.job} > {log} 2>&1"


rule manifest:
    input:
        f"{SPLIT}/source.sha256",
        job_notes,
        rows=ancient(job_rows),
        bad=ancient(job_bad_images),
    output:
        f"{SPLIT}/manifest.json",
        f"{SPLIT}/index.parquet",
    params:
        allow_bad=allow_bad_of,
    log:
        "logs/manifest/{dataset}-{split}.log",
    retries: 3
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "noah manifest {wildcards.dataset} {wildcards.split} > {log} 2>&1"
