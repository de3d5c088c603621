"""What a data set of ImageNet's size costs, without its images: prints a Markdown report. Run by hand, from anywhere:

python benchmarks/simulate_imagenet.py                              1,281,167 images; most of an hour, 4 GB of disk
python benchmarks/simulate_imagenet.py --samples 50000 --study digits
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import yaml

from noah.config import load_dataset
from noah.config.dataset import Dataset
from noah.machine import cpu_name

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
DATASET, SPLIT = "numbers", "train"
LOADER = (
    "import sys, time; from pathlib import Path; from noah.data.reader import Shards; start = time.perf_counter(); "
    "shards = Shards(Path(sys.argv[1])); print(time.perf_counter() - start)"
)


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float
    peak_mib: float
    output: str


def measured(folder: Path, *command: str | Path) -> Cost:
    """Run a command to its end; ValueError shows what it said when it fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - start
        out.seek(0)
        output = out.read()
    if process.returncode:
        raise ValueError(f"{' '.join(map(str, command))}: exit code {process.returncode}: {output[-2000:]}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output)


def at_once(folder: Path, processes: int, commands: list[tuple]) -> Cost:
    """Several commands, `processes` at a time; the peak is that of the largest process."""
    start = time.perf_counter()
    with ThreadPoolExecutor(processes) as pool:
        costs = list(pool.map(lambda command: measured(folder, *command), commands))
    wall_s = time.perf_counter() - start
    return Cost(wall_s, sum(cost.cpu_s for cost in costs), max(cost.peak_mib for cost in costs), "")


def prepare(folder: Path, samples: int) -> Dataset:
    """A copy of the project that shares code and raw digits, with `samples` training images in shards of equal size."""
    for name in ("src", "data", "workflow", "Snakefile", "environment.yml"):
        (folder / name).symlink_to(REPOSITORY / name)
    subprocess.run(["cp", "-r", REPOSITORY / "config", folder / "config"], check=True)
    path = folder / "config" / "datasets" / f"{DATASET}.yaml"
    spec = yaml.safe_load(path.read_text())
    share = samples / spec["splits"][SPLIT]["samples"]
    for split in spec["splits"].values():
        split |= {key: max(1, round(split[key] * share)) for key in ("samples", "num_shards")}
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return load_dataset(DATASET, folder / "config")


def simulate(folder: Path, samples: int, processes: int) -> list[str]:
    """Rows of the table: step, wall, CPU, peak memory, what it wrote."""
    dataset, noah = prepare(folder, samples), BIN / "noah"
    out = folder / "shards" / DATASET / SPLIT
    for split in dataset.splits:
        index = measured(folder, noah, "index", DATASET, split)
        jobs = [(noah, "shard", DATASET, split, "--job", str(job)) for job in range(dataset.num_jobs(split))]
        shard = at_once(folder, processes, jobs)
        manifest = measured(folder, noah, "manifest", DATASET, split)
        if split == SPLIT:
            tars = sum(path.stat().st_size for path in out.glob("*.tar"))
            tables = f"{mib(out / 'index.parquet')} index, {mib(out / 'manifest.json')} manifest"
            shards = dataset.splits[SPLIT].num_shards
            rows = [
                row("`noah index`", index, f"{mib(out / 'source.parquet')} source index"),
                row(
                    f"`noah shard`, {len(jobs)} jobs, {processes} at once", shard, f"{shards} tars, {tars >> 20:,} MiB"
                ),
                row("`noah manifest`", manifest, tables),
            ]
    rows.append(row("`noah verify`, all splits", measured(folder, noah, "verify", DATASET), ""))
    loader = measured(folder, sys.executable, "-c", LOADER, out)
    return [*rows, row("start of the loader (with imports)", loader, f"`Shards()` itself {float(loader.output):.2f} s")]


def dry_run(folder: Path, study: str) -> str:
    command = (BIN / "snakemake", "-n", "--quiet", "--cores", "1", "--config", f"study={study}", "scale=full")
    return row(f"`snakemake -n`, study {study}", measured(folder, *command), "")


def mib(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"


def row(step: str, cost: Cost, wrote: str) -> str:
    return f"| {step} | {cost.wall_s:.1f} | {cost.cpu_s:.1f} | {cost.peak_mib:,.0f} | {wrote} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167, help="training images")
    parser.add_argument("--study", default="imagenet", help="whose DAG is built; none: leave it out")
    parser.add_argument("--processes", type=int, default=2, help="shard jobs at once")
    parser.add_argument("--folder", type=Path, help="an empty folder for all files; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = simulate(folder, arguments.samples, arguments.processes)
        if arguments.study != "none":
            rows.append(dry_run(folder, arguments.study))
    print(f"{arguments.samples:,} training images, 1,000 classes. {cpu_name()}, {os.cpu_count()} CPUs, ", end="")
    print(f"{datetime.date.today()}. Peak memory is that of the largest process.\n")
    print("| step | wall s | CPU s | peak MiB | wrote |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
