"""A against B: in turns, so that a machine that drifts drifts for both; medians and quartiles; JSON and Markdown.

Wall time says how long somebody waits, CPU time what the work takes: where neighbours share the cores only ratios of
CPU time can be trusted.
"""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from noah.files import write_json, write_text
from noah.machine import cpu_name, git_state


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Time every call once in each round; the rounds start with another call in turn.

    Args:
        calls: Name to what is timed. The first is the one that others are compared with.
        rounds: Turns of each, after one that warms up.

    Returns:
        Per name, in seconds: `cpu_s` and `wall_s`, each [lower quartile, median, upper quartile]; for all but the first
        `cpu_ratio` and `wall_ratio`: the first's time over this one's, the quartiles over the rounds.

    Raises:
        ValueError: Fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}, expected at least 1")
    names, times = list(calls), {name: {"cpu": [], "wall": []} for name in calls}
    for turn in range(-1, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wall, cpu = time.perf_counter(), _cpu_s()
            calls[name]()
            cpu, wall = _cpu_s() - cpu, time.perf_counter() - wall
            if turn >= 0:
                times[name]["cpu"].append(cpu)
                times[name]["wall"].append(wall)
    found = {}
    for name in names:
        found[name] = {f"{clock}_s": quartiles(times[name][clock]) for clock in ("cpu", "wall")}
        if name != names[0]:
            for clock in ("cpu", "wall"):
                ratios = [a / b for a, b in zip(times[names[0]][clock], times[name][clock], strict=True)]
                found[name][f"{clock}_ratio"] = quartiles(ratios)
    return found


def _cpu_s() -> float:
    """Of this process, and of its children that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def quartiles(numbers: list[float]) -> list[float]:
    """[lower quartile, median, upper quartile]."""
    return [float(np.percentile(numbers, q)) for q in (25, 50, 75)]


def machine() -> dict:
    """What a result was measured on."""
    commit, dirty = git_state()
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "commit": commit,
        "uncommitted_changes": dirty,
        "date": time.strftime("%Y-%m-%d"),
    }


def write(out: Path, name: str, title: str, results: dict, table: list[list[str]]) -> list[Path]:
    """`<out>/<name>.json` with the machine and the results, and `<name>.md` with the machine and the table.

    Args:
        table: Rows of cells; the first is the header.
    """
    found = machine()
    write_json(out / f"{name}.json", {"machine": found, **results})
    changed = ", uncommitted changes" if found["uncommitted_changes"] else ""
    lines = [
        f"# {title}",
        "",
        f"{found['cpu']}, {found['threads']} of {found['cores']} cores, torch {found['torch']}, {found['date']}, "
        f"commit {found['commit'][:10]}{changed}.",
        "",
        *markdown(table),
    ]
    write_text(out / f"{name}.md", "\n".join(lines) + "\n")
    return [out / f"{name}.json", out / f"{name}.md"]


def markdown(table: list[list[str]]) -> list[str]:
    """Lines of a Markdown table; the first row is the header."""
    header, *rows = table
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
