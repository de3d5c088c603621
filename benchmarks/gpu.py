"""The parts of benchmarks/gpu.sh, the most valuable first; each has a limit, and its result is written at once."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LEAST_S = 20
"""A part that has less time left is not begun."""
SIDE_BY_SIDE = max(1, min(4, (os.cpu_count() or 1) // 4))
"""Runs of the study on one card, each with the cores of three processes that decode."""


@dataclass
class Session:
    """One use of a machine."""

    repository: Path
    out: Path
    work: Path
    device: str
    scale: str
    ends: float

    def left(self) -> float:
        return self.ends - time.monotonic()

    def command(self, *words: str, limit: float) -> tuple[str, str]:
        """How it ended, and what it said; it is killed where its time is over."""
        done = subprocess.Popen(
            [sys.executable, *words], cwd=self.work, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            said, _ = done.communicate(timeout=max(1.0, min(limit, self.left())))
            return ("done" if done.returncode == 0 else f"failed ({done.returncode})"), said
        except subprocess.TimeoutExpired:
            done.kill()
            return "stopped, its time was over", done.communicate()[0]

    def noah(self, *words: str, limit: float) -> tuple[str, str]:
        return self.command("-m", "noah.cli", *words, limit=limit)


def tests(session: Session, limit: float) -> tuple[str, str]:
    mark = ["-m", "gpu"] if session.device == "cuda" else ["-k", "two_steps and few"]
    folder = session.repository / "tests" / "engine"
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(session.repository), *mark]
    path = folder / ("test_gpu.py" if session.device == "cuda" else "test_golden_step.py")
    state, said = session.command("-m", "pytest", str(path), *options, limit=limit)
    (session.out / "tests.log").write_text(said)
    return state, "\n".join(said.strip().splitlines()[-15:])


def study(session: Session, limit: float) -> tuple[str, str]:
    """Shards, then the runs side by side, then the table of those that ended."""
    ends = time.monotonic() + min(limit, session.left())
    shutil.copytree(session.repository / "config", session.work / "config", dirs_exist_ok=True)
    for name in ("data", "downloads"):
        if (session.repository / name).exists() and not (session.work / name).exists():
            (session.work / name).symlink_to(session.repository / name)
    sys.path.insert(0, str(session.repository / "src"))
    from noah.config import load_study

    os.chdir(session.work)
    loaded = load_study("gpu", session.scale)
    for dataset in loaded.datasets.values():
        for split in dataset.splits:
            for verb in ("index", "shard", "manifest"):
                state, said = session.noah(verb, dataset.name, split, limit=ends - time.monotonic())
                if state != "done":
                    return state, said
    waiting, running, ended = [run.key for run in loaded.runs], {}, []
    while (waiting or running) and time.monotonic() < ends - LEAST_S:
        while waiting and len(running) < SIDE_BY_SIDE:
            key = waiting.pop(0)
            words = [
                "train",
                key,
                "--study",
                "gpu",
                "--scale",
                session.scale,
                "--workers",
                "3",
                "--device",
                session.device,
            ]
            words += ["--out", str(loaded.results / "runs" / key)]
            log = open(session.work / f"{key.replace('/', '_')}.log", "w")  # noqa: SIM115
            running[key] = subprocess.Popen([sys.executable, "-m", "noah.cli", *words], stdout=log, stderr=log)
        for key in [key for key, process in running.items() if process.poll() is not None]:
            ended += [key] if running.pop(key).returncode == 0 else []
        time.sleep(0.2)
    for process in running.values():
        process.kill()
    for key in ended:
        session.noah("score", str(loaded.results / "runs" / key), limit=60)
    for verb in ("collect", "compare", "table"):
        session.noah(verb, "gpu", "--scale", session.scale, limit=60)
    _, shown = session.noah("table", "gpu", "--scale", session.scale, "--show", "--notes", limit=60)
    for name in ("comparison.parquet", "long.parquet"):
        if (loaded.results / name).exists():
            shutil.copy(loaded.results / name, session.out / f"study-{name}")
    said = f"{len(ended)} of {len(loaded.runs)} runs ended, {SIDE_BY_SIDE} side by side.\n{shown}"
    return ("done" if len(ended) == len(loaded.runs) else "incomplete"), said


def benchmark(verb: str, *options: str) -> Callable[[Session, float], tuple[str, str]]:
    def measure(session: Session, limit: float) -> tuple[str, str]:
        words = [verb, *options, "--device", session.device, "--out", str(session.work / verb)]
        state, said = session.noah("benchmark", *words, limit=limit)
        written = session.work / verb / f"{verb}.json"
        if written.exists():
            shutil.copy(written, session.out)
        return state, said

    return measure


def parts(small: bool) -> dict[str, tuple[Callable[[Session, float], tuple[str, str]], float]]:
    """Name -> what to do, and for how long at most, in seconds."""
    few = ["--rounds", "1"] if small else ["--rounds", "5"]
    heads = ["--shape", "deit_tiny", "--batch", "2", "--impl", "cpu"] if small else ["--batch", "256"]
    models = ["mobilenetv2-w0.5"] if small else ["resnet50-w1", "mobilenetv2-w1", "deit_tiny-w1", "resnet18-w1"]
    steps = [word for model in models for word in ("--backbone", model)] + (["--batch", "4"] if small else [])
    images = ["--images", "64", "--workers", "1"] if small else ["--images", "2048", "--workers", "14"]
    return {
        "tests": (tests, 110),
        "head": (benchmark("head", *heads, *few), 90),
        "study": (study, 170),
        "step": (benchmark("step", *steps, *few, "--bf16", "--channels-last"), 70),
        "loader": (benchmark("loader", *images, *few), 60),
        "switches": (benchmark("switches", *steps, *few, *(["--switch", "plain"] if small else [])), 60),
    }


def machine(device: str) -> str:
    import timm
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU"
    driver = f", CUDA {torch.version.cuda}" if device == "cuda" else ""
    versions = f"torch {torch.__version__}{driver}, timm {timm.__version__}"
    return f"{time.strftime('%F')}: {name}, {versions}, {os.cpu_count()} cores"


def main(repository: Path, out: Path, work: Path) -> None:
    device, scale = os.environ.get("DEVICE", "cuda"), os.environ.get("SCALE", "full")
    started = time.monotonic()
    session = Session(repository, out, work, device, scale, started + float(os.environ.get("SECONDS_LEFT", 540)))
    report = ["# What a GPU said", "", machine(device) + ".", ""]
    for name, (part, limit) in parts(scale == "small").items():
        began = time.monotonic()
        if session.left() < LEAST_S:
            state, said = "not begun, its time was over", ""
        else:
            try:
                state, said = part(session, limit)
            except Exception as error:  # one part must not cost the others
                state, said = f"failed ({type(error).__name__})", str(error)
        report += [f"## {name}: {state}, {time.monotonic() - began:.0f} s", "", "```", said.strip()[-6000:], "```", ""]
        (out / "report.md").write_text("\n".join(report))
        print(f"{name}: {state}, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{out / 'report.md'}: {time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
