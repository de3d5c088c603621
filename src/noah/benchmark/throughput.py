"""Images per second of several ways to do the same work."""

from collections.abc import Callable
from pathlib import Path

from noah.benchmark.interleaved import markdown, measure, write

Arm = Callable[[], int]
"""Does the work once and returns the number of images."""


def compare(arms: dict[str, Arm], rounds: int) -> dict[str, dict]:
    """What `interleaved.measure` finds, with the medians as images_per_s and images_per_cpu_s."""
    counts = {}
    calls = {name: lambda name=name, arm=arm: counts.update({name: arm()}) for name, arm in arms.items()}
    found = measure(calls, rounds)
    (images,) = set(counts.values())  # times can only be compared of the same work
    for result in found.values():
        result["images_per_s"] = images / result["wall_s"][1]
        result["images_per_cpu_s"] = images / result["cpu_s"][1]
    return found


def write_report(out: Path, name: str, title: str, works: dict[str, dict[str, dict]], settings: dict) -> str:
    """{out}/{name}.json and {name}.md: work -> arm -> what `compare` gives. Returns the table."""
    table = [["work", "way", "images/s", "times the first", "images per CPU second", "times the first"]]
    for work, arms in works.items():
        for arm, result in arms.items():
            row = [work, arm]
            for clock, unit in (("wall", "images_per_s"), ("cpu", "images_per_cpu_s")):
                low, middle, high = result.get(f"{clock}_ratio", (1, 1, 1))
                spread = f" ({low:.2f} to {high:.2f})" if f"{clock}_ratio" in result else ""
                row += [f"{result[unit]:,.0f}", f"{middle:.2f}{spread}"]
            table.append(row)
    write(out, name, title, {"settings": settings, "works": works}, table)
    return "\n".join(markdown(table))
