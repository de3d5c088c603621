"""The parts of benchmarks/gpu.sh, the most valuable first; each has a limit, and its result is written at once."""

import json
import os
import shutil
import signal
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
        """How it ended, and what it said; where its time is over it is killed with all that it started."""
        log = self.work / "command.log"
        with open(log, "w") as file:
            done = self.start(*words, log=file)
            try:
                done.wait(max(1.0, min(limit, self.left())))
                state = "done" if done.returncode == 0 else f"failed ({done.returncode})"
            except subprocess.TimeoutExpired:
                self.kill(done)
                state = "stopped, its time was over"
        return state, log.read_text(errors="replace")

    def start(self, *words: str, log) -> subprocess.Popen:
        pipes = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
        return subprocess.Popen([sys.executable, *words], cwd=self.work, **pipes)

    def kill(self, process: subprocess.Popen) -> None:
        """With the processes that it started, which would hold the card."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def noah(self, *words: str, limit: float) -> tuple[str, str]:
        return self.command("-m", "noah.cli", *words, limit=limit)


Part = Callable[[Session, float], tuple[str, str]]


def tests(session: Session, limit: float) -> tuple[str, str]:
    mark = ["-m", "gpu"] if session.device == "cuda" else ["-k", "two_steps and few"]
    folder = session.repository / "tests" / "engine"
    options = ["-v", "--tb=short", "-p", "no:cacheprovider", "--rootdir", str(session.repository), *mark]
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
            running[key] = session.start("-m", "noah.cli", *words, log=log)
        for key in [key for key, process in running.items() if process.poll() is not None]:
            ended += [key] if running.pop(key).returncode == 0 else []
        time.sleep(0.2)
    for process in running.values():
        session.kill(process)
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


def benchmark(verb: str, *options: str, each: tuple[str, list[str]] = ("", [""])) -> Part:
    """`each`: an option and its values, each a command of its own, so that what was measured is written early."""
    option, values = each

    def measure(session: Session, limit: float) -> tuple[str, str]:
        ends, states, told, found = time.monotonic() + limit, [], [], {}
        for value in values:
            if time.monotonic() > ends - LEAST_S and states:
                states.append("not begun")
                continue
            folder = session.work / verb / (value or "all")
            chosen = [option, value] if value else []
            words = [verb, *options, *chosen, "--device", session.device, "--out", str(folder)]
            state, said = session.noah("benchmark", *words, limit=ends - time.monotonic())
            states.append(state)
            told.append(said.strip())
            if (folder / f"{verb}.json").exists():
                found[value or "all"] = json.loads((folder / f"{verb}.json").read_text())
                (session.out / f"{verb}.json").write_text(json.dumps(found, indent=1))
        return ("done" if set(states) == {"done"} else ", ".join(states)), "\n".join(told)

    return measure


def parts(small: bool) -> dict[str, tuple[Part, float]]:
    """Name -> what to do, and for how long at most, in seconds."""
    few = ["--rounds", "1"] if small else ["--rounds", "3"]
    shapes = ["deit_tiny"] if small else ["mobilenetv2", "resnet18", "deit_tiny", "resnet50"]
    heads = ["--batch", "2", "--impl", "cpu"] if small else ["--batch", "256", "--dtype", "bf16", "--impl", "triton"]
    models = ["mobilenetv2-w0.5"] if small else ["resnet50-w1", "mobilenetv2-w1", "deit_tiny-w1", "resnet18-w1"]
    batch = ["--batch", "4"] if small else []
    images = ["--images", "64", "--workers", "1"] if small else ["--images", "2048", "--workers", "14"]
    plain = ["--switch", "plain"] if small else []
    return {
        "study": (study, 170),
        "head": (benchmark("head", *heads, *few, each=("--shape", shapes)), 110),
        "tests": (tests, 130),
        "step": (benchmark("step", *batch, *few, "--bf16", "--channels-last", each=("--backbone", models)), 80),
        "loader": (benchmark("loader", *images, *few), 60),
        "switches": (benchmark("switches", *batch, *few, *plain, each=("--backbone", models[:1])), 60),
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
