"""What the pipeline costs beside its trainings: how long each job takes to start, and how a study used its cores."""

import base64
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pandas as pd

from noah.benchmark.interleaved import markdown, measure, write
from noah.benchmark.photos import make_photos, photo_dataset
from noah.benchmark.trainer import benchmark_run, make_shards
from noah.config import Study, load_study

LONGEST_GAP_S = 600
"""Without any job: a study that was made in several goes has no wall time."""
VERBS = {
    "index": "noah.data.shards",
    "shard": "noah.data.shards",
    "manifest": "noah.data.shards",
    "train": "noah.engine.train",
    "score": "noah.evaluate.metrics, noah.data.access, noah.engine.folder",
    "cost": "noah.evaluate.study_cost",
    "attention": "noah.evaluate.attention",
    "collect": "noah.report.collect",
    "compare": "noah.report.comparison",
    "tables": "noah.report.tables",
    "figures": "noah.report.figures",
    "track": "noah.tracking",
}
"""Rule to the modules that its verb imports beside noah.cli."""
FLOORS = {"python": "os", "torch": "torch", "torch and timm": "torch, timm"}


def count_jobs(study: Study) -> dict[str, int]:
    """Rule to its number of jobs in the study."""
    rows = {(run.dataset.name, run.recipe_name, run.backbone.slug) for run in study.runs}
    splits = [(dataset, split) for dataset in study.datasets.values() for split in dataset.splits]
    once = dict.fromkeys(("collect", "compare", "tables", "figures", "track"), 1)
    return {
        "index": len(splits),
        "shard": sum(dataset.num_jobs(split) for dataset, split in splits),
        "manifest": len(splits),
        "train": len(study.runs),
        "score": len(study.runs),
        "cost": len({(dataset, backbone) for dataset, _, backbone in rows}),
        "attention": len(rows),
        **once,
    }


def measure_imports(rounds: int) -> dict[str, dict]:
    """Rule, or a floor, to the times of `measure` of a Python that imports what it needs and ends."""

    def importing(modules: str):
        return lambda: subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)

    modules = {**FLOORS, **{rule: f"noah.cli, {needed}" for rule, needed in VERBS.items()}}
    times = measure({needed: importing(needed) for needed in modules.values()}, rounds)
    return {name: times[needed] for name, needed in modules.items()}


def first_step_seconds(rounds: int) -> list[float]:
    """Wall time from the start of `noah train` to the end of its first step, on 32 images."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_photos(folder, 32)
        dataset = photo_dataset(folder, "small", short_side=64).model_copy(update={"image_size": 64})
        make_shards(dataset, folder / "shards")
        (folder / "run.yaml").write_text(benchmark_run(dataset, epochs=1).to_yaml())
        command = [sys.executable, "-m", "noah.cli", "train", "run.yaml", "--out", "out", "--device", "cpu"]
        seconds = []
        for _ in range(rounds):
            started = time.time()
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            seconds.append(float(pd.read_csv(folder / "out/history.csv").time[0]) - started)
    return seconds


def read_jobs(records: Path, study: Study) -> pd.DataFrame:
    """The jobs of a finished study as Snakemake noted them: columns rule, start, end (seconds of the epoch).

    Args:
        records: `.snakemake/metadata` of the folder in which the study was made.

    Raises:
        ValueError: There are none of this study, or a training is missing.
    """
    results, jobs = study.results.as_posix(), set()
    of_study = ("cost/", "figures/", "tables/", "long.", "fairness.", "comparison.", "tracked.")
    shared = [f"{results}/{name}" for name in of_study]
    runs = [f"{results}/runs/{run.key}/" for run in study.runs]
    prefixes = (*shared, *runs, *(f"shards/{name}/" for name in study.datasets))
    for path in records.rglob("*"):
        if path.is_file() and _output(path.relative_to(records)).startswith(prefixes):
            noted = json.loads(path.read_text(encoding="utf-8"))
            jobs.add((noted["rule"], noted["log"][0], noted["starttime"], noted["endtime"]))
    found = pd.DataFrame(sorted(jobs), columns=["rule", "log", "start", "end"])
    # Outputs of one job are noted one after the other, microseconds apart.
    found = found.groupby(["rule", "log"], as_index=False).agg(start=("start", "min"), end=("end", "max"))
    trained = int((found.rule == "train").sum())
    if trained != len(study.runs):
        raise ValueError(f"{records}: has {trained} trainings of study {study.slug}, expected {len(study.runs)}")
    return found


def use_of_cores(jobs: pd.DataFrame, cores: int) -> dict[str, float]:
    """Wall time of the whole DAG against what its jobs, and its trainings alone, would take on so many cores.

    Returns:
        wall_s; jobs_s and trainings_s, the sums; wall_over_jobs and wall_over_trainings: wall time over the sum by the
        number of cores.

    Raises:
        ValueError: Nothing ran for longer than `LONGEST_GAP_S`.
    """
    ordered = jobs.sort_values("start")
    idle = (ordered.start.iloc[1:].to_numpy() - ordered.end.cummax().iloc[:-1].to_numpy()).max(initial=0)
    if idle > LONGEST_GAP_S:
        raise ValueError(f"nothing ran for {idle:.0f} s between two jobs, expected a study that was made in one go")
    wall = ordered.end.max() - ordered.start.min()
    seconds = ordered.end - ordered.start
    total, trainings = seconds.sum(), seconds[ordered.rule == "train"].sum()
    return {
        "wall_s": float(wall),
        "jobs_s": float(total),
        "trainings_s": float(trainings),
        "wall_over_jobs": float(wall / (total / cores)),
        "wall_over_trainings": float(wall / (trainings / cores)),
    }


def run(out: Path, study_name: str, scale: str, *, rounds: int, cores: int, records: Path) -> str:
    """Measure, write `pipeline.json` and `pipeline.md` into `out`, and return the tables.

    Args:
        cores: On which the study was made.
        records: See `read_jobs`; without that folder the study's wall time is left out.
    """
    study = load_study(study_name, scale)
    used = use_of_cores(read_jobs(records, study), cores) if records.is_dir() else None
    jobs, imports, first_step = count_jobs(study), measure_imports(rounds), first_step_seconds(rounds)
    starts = [imports[rule]["wall_s"][1] for rule, number in jobs.items() for _ in range(number)]
    rows = [["job", "number", "import, CPU s", "import, wall s"]]
    for name, times in imports.items():
        rows.append([name, str(jobs.get(name, "")), *(f"{times[clock][1]:.2f}" for clock in ("cpu_s", "wall_s"))])
    rows.append(["median over jobs", str(len(starts)), "", f"{median(starts):.2f}"])
    rows.append(["train, to the end of its first step", "", "", f"{median(first_step):.2f}"])
    if used:
        rows.append([f"whole study on {cores} cores", "", "", f"{used['wall_s']:.0f}"])
        for name in ("jobs", "trainings"):
            text = f"{used[f'wall_over_{name}']:.2f} of the sum of its {name} / {cores}"
            rows.append([f"that over its {name}", "", "", text])
    results = {"study": study.slug, "rounds": rounds, "cores": cores, "jobs": jobs, "imports": imports}
    results |= {"median_start_s": median(starts), "first_step_s": first_step, "use_of_cores": used}
    title = f"The pipeline beside its trainings: study {study.slug}"
    write(out, "pipeline", title, results, rows)
    return "\n".join(markdown(rows))


def _output(record: Path) -> str:
    """The output that a record of Snakemake is about: its name in base64, cut by @ where it is long."""
    name = "".join(part.removeprefix("@") for part in record.parts)
    try:
        return base64.urlsafe_b64decode(name).decode()
    except ValueError:
        return ""
