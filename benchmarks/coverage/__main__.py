"""Which interval covers what it says: simulated studies whose truth is known, every estimator on the same data.

    python benchmarks/coverage                               all cells; fills docs/statistics.md and statistics.json
    python benchmarks/coverage --only "300 digits"           cells of that name, in place of their earlier numbers
    python benchmarks/coverage --repeats 100 --only "3 seeds" --out /dev/null                   a look, printed alone

Seeds are fixed: the same command gives the same table.
"""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from cells import cells
from counted import passes, simulate
from estimators import CHOSEN

from noah.report.stats import SEEDS_FOR_A_VERDICT

MARKS = ("<!-- coverage -->", "<!-- /coverage -->")


def markdown(results: list[dict]) -> str:
    """Coverage of every estimator; half-widths relative to `before`."""
    names = ["before", "Welch beside images", "MRMC, Hillis", "Satterthwaite", CHOSEN]
    names += [f"{name}, moderated" for name in names]
    lines = []
    for title, wanted in (
        ("One row", lambda cell: cell["rows"] == 1 and not cell["sources"] and cell["score"] == "top1"),
        ("Studies of several rows", lambda cell: cell["rows"] > 1),
        ("Clusters and mAP", lambda cell: cell["sources"] or cell["score"] == "map"),
    ):
        chosen = [result for result in results if wanted(result["cell"])]
        if not chosen:
            continue
        shown = [name for name in [*names, "pigeonhole"] if any(name in r["estimators"] for r in chosen)]
        lines += [f"**{title}**", "", "| study | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
        for result in chosen:
            found, reference = result["estimators"], result["estimators"]["before"]["half_width"]
            cells = [shown_cell(found.get(name), reference, result["cell"]["seeds"]) for name in shown]
            lines.append(f"| {result['cell']['name']} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def shown_cell(found: dict | None, reference: float, seeds: int) -> str:
    if found is None:
        return ""
    text = f"{found['coverage']:.1f} ({found['half_width'] / reference:.2f})"
    return f"**{text}**" if seeds >= SEEDS_FOR_A_VERDICT and not passes(found) else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/statistics.md"))
    arguments = parser.parse_args()
    wanted = [cell for cell in cells() if arguments.only in cell.name]
    wanted.sort(key=lambda cell: -cell.rows * cell.seeds * cell.images)  # the long ones first
    with ProcessPoolExecutor(arguments.workers) as pool:
        results = list(pool.map(simulate, wanted, [arguments.repeats] * len(wanted)))
    print(markdown(results))
    if arguments.out.suffix == ".md":
        write(arguments.out, results)


def write(page: Path, results: list[dict]) -> None:
    """The table between its marks, and all numbers beside it; cells that were not run keep theirs."""
    numbers = page.with_suffix(".json")
    earlier = json.loads(numbers.read_text(encoding="utf-8")) if numbers.exists() else []
    by_name = {result["cell"]["name"]: result for result in (*earlier, *results)}
    kept = [by_name[cell.name] for cell in cells() if cell.name in by_name]
    head, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    page.write_text(f"{head}{MARKS[0]}\n{markdown(kept)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8")
    numbers.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
