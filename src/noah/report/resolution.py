"""What difference a study could find, said before anything is trained: from how an earlier run of the same backbone
and recipe spread, else from a stated default. The formulas are those of noah.report.power.
"""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from noah.config import Dataset, Run, Study
from noah.config.files import read_yaml
from noah.files import read_mapping, read_parquet, reading
from noah.report.comparison_table import FILE
from noah.report.power import POWER, Spread, floor, resolvable
from noah.report.rows import Row, rows_of
from noah.report.stats import CONFIDENCE, SEEDS_FOR_A_VERDICT

SPREAD = 1.0
"""Default: standard deviation of an arm's score over seeds, in points."""
DISAGREEMENT = 0.1
"""Default: share of the test images on which two arms disagree, one right and the other wrong."""
DEFAULT = "default"
COLUMNS = ("dataset", "recipe", "backbone", "from", "to", "seeds", "resolvable_points", "floor_points", "basis")
"""Of `foresee`, all in percentage points. resolvable_points: the true difference that 80% of studies find; empty with
too few seeds for a verdict, and where the number of test images is not known. floor_points: half the 90% interval that
infinitely many seeds would leave. basis: `results/STUDY`, the earlier run, or `default`."""
_NEEDED = ["kind", "dataset", "recipe", "backbone", "from", "to", "seeds_from", "seeds_to"]
_NEEDED += ["seed_variance", "image_variance", "residual_variance", "images", "clusters"]


def default_spread(images: int) -> Spread:
    """What is assumed where no earlier run says better.

    Args:
        images: Independent test images: those that share a source count as one.
    """
    return Spread(SPREAD**2, 100**2 * DISAGREEMENT / images, 0.0, images)


def measured_spread(entry: dict[str, Any], images: int | None) -> Spread | None:
    """What a row of comparison.parquet says; None where it has too few seeds to say how arms spread over them.

    Args:
        entry: The row.
        images: Test images of the planned study, which take the place of the row's; None: as many as there.
    """
    counts = [len(str(entry[f"seeds_{side}"]).split(";")) for side in ("from", "to")]
    seed, image, residual = (float(entry[f"{name}_variance"]) for name in ("seed", "image", "residual"))
    # The spread of two seeds may well come out a tenth of what it is.
    if min(counts) < SEEDS_FOR_A_VERDICT or not (0 <= seed + image + residual < math.inf and entry["images"] > 0):
        return None
    arms = 1 / counts[0] + 1 / counts[1]
    more = (images or entry["images"]) / entry["images"]
    return Spread(seed / arms, max(image - residual, 0) / more, residual / arms / more, entry["clusters"] * more)


def foresee(study: Study) -> pd.DataFrame:
    """`COLUMNS` for every pair that the study declares, on every backbone, dataset and recipe.

    An earlier run is a comparison.parquet of this study, else the newest of any other; one that cannot be read, as an
    older version may have written it, counts as none.

    Raises:
        ValueError: The manifest of a test split is damaged.
    """
    entries, earlier, seeds = [], _earlier(study), len(study.spec.seeds)
    images = {name: count_test_images(dataset) for name, dataset in study.datasets.items()}
    for row in rows_of(study):
        for pair in (pair for pair, declared in row.pairs(study).items() if declared):
            # More scenes of the same raw images are no more independent ones.
            composed = study.datasets[row.dataset].splits["test"].source_images is not None
            basis, spread = _find(earlier, row, pair, None if composed else images[row.dataset])
            if spread is None and images[row.dataset]:
                spread = default_spread(_independent(study.datasets[row.dataset], images[row.dataset]))
            points = (resolvable(spread, seeds), floor(spread)) if spread else (math.nan, math.nan)
            entries.append((*row.name, *pair, seeds, *points, basis))
    return pd.DataFrame(entries, columns=list(COLUMNS))


def count_test_images(dataset: Dataset) -> int | None:
    """How many there are to be, else how many the shards hold; None where neither is known."""
    if samples := dataset.splits["test"].samples:
        return samples
    path = Path("shards") / dataset.name / "test" / "manifest.json"
    if not path.is_file():
        return None
    samples = read_mapping(path, "samples")["samples"]
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"{path}: samples: got {str(samples)[:100]!r}, expected a number from 1")
    return samples


def _independent(dataset: Dataset, images: int) -> int:
    """Composed images are at most as many as the raw images behind them."""
    return min(images, dataset.splits["test"].source_images or images)


def _earlier(study: Study) -> dict[tuple, list[tuple[Path, dict]]]:
    """(dataset, recipe, backbone, from, to) -> where it was compared, and how it came out; the best first."""
    found: dict[tuple, list[tuple[Path, dict]]] = {}
    files = study.results.parent.glob(f"*/{FILE}")
    for path in sorted(files, key=lambda path: (path.parent != study.results, -path.stat().st_mtime, path)):
        try:
            with reading(path):
                pairs = read_parquet(path, _NEEDED).to_pandas().query("kind == 'pair'")
        except (pa.ArrowException, ValueError, OSError):
            continue
        for entry in pairs.dropna().to_dict("records"):
            name = tuple(entry[column] for column in COLUMNS[:5])
            found.setdefault(name, []).append((path.parent, entry))
    return found


def _find(earlier: dict, row: Row, pair: tuple[str, str], images: int | None) -> tuple[str, Spread | None]:
    runs = [next(iter(row.arms[arm].values())) for arm in pair]
    for folder, entry in earlier.get((*row.name, *pair), []):
        spread = measured_spread(entry, images)
        if spread and all(_is_alike(folder, run) for run in runs):
            return folder.as_posix(), spread
    return DEFAULT, None


def _is_alike(folder: Path, run: Run) -> bool:
    """Whether that study trained the arm alike, and not another of the same name: its recipe may have been overridden
    (by `small`, say). Where it left no run.yaml, the names have to do."""
    planned = run.model_dump(mode="json", exclude_none=True, include={"recipe", "head"})
    for path in sorted((folder / "runs" / run.key).parent.glob("s*/run.yaml"))[:1]:
        try:
            was = read_yaml(path)
        except ValueError:
            return False
        return {name: was.get(name) for name in planned} == planned
    return True


def remarks(study: Study, differences: pd.DataFrame) -> list[str]:
    """What the study cannot see, one warning each with the rows it concerns, then what `foresee` rests on.

    Args:
        study: The study.
        differences: Of `foresee`.
    """
    if differences.empty:
        return []
    seeds, margin, lines = len(study.spec.seeds), study.spec.margin, []
    if seeds < SEEDS_FOR_A_VERDICT:
        count = f"{seeds} seed" + "s" * (seeds > 1)
        lines.append(f"warning: no verdict with {count}, expected at least {SEEDS_FOR_A_VERDICT}: every row")
    unknown = differences[differences["floor_points"].isna()]
    if len(unknown):
        text = "what can be found is not known, as the number of test images is not (no samples in the YAML, no shards)"
        lines.append(f"warning: {text}: {_named(differences, unknown)}")
    if margin:
        blind = differences["floor_points"] > margin
        text = f"too few test images for a margin of {margin} points, whatever the seeds (half the 90% interval)"
        lines += _warning(text, differences, differences[blind], "floor_points")
        coarse = (differences["resolvable_points"] > margin) & ~blind
        text = f"only a difference larger than the margin of {margin} points can be found"
        lines += _warning(text, differences, differences[coarse], "resolvable_points")
    if differences["resolvable_points"].notna().any():
        lines += _basis(seeds, differences[differences["resolvable_points"].notna()])
    return lines


def _warning(text: str, every: pd.DataFrame, rows: pd.DataFrame, column: str) -> list[str]:
    return [f"warning: {text}: {_named(every, rows, column)}"] if len(rows) else []


def _named(every: pd.DataFrame, rows: pd.DataFrame, column: str | None = None) -> str:
    """dataset/recipe/backbone of the rows, with the largest value of their pairs; or that it is all of them."""
    name = ["dataset", "recipe", "backbone"]
    groups = rows.groupby(name, sort=False)
    if len(groups) > 1 and len(rows) == len(every):
        return "every row" + (f" (up to {rows[column].max():.2f})" if column else "")
    return ", ".join("/".join(key) + (f" {group[column].max():.2f}" if column else "") for key, group in groups)


def _basis(seeds: int, known: pd.DataFrame) -> list[str]:
    lines = [
        f"resolves x points: a true difference of x is found in {100 * POWER:.0f}% of studies with {seeds} seeds "
        f"(two-sided {100 * (1 - CONFIDENCE):.0f}%)"
    ]
    if (known["basis"] == DEFAULT).any():
        lines.append(
            f"default: no earlier run; assumed are a spread over seeds of {SPREAD} points for each arm, and "
            f"{100 * DISAGREEMENT:.0f}% of the independent test images on which two arms disagree"
        )
    if (known["basis"] != DEFAULT).any():
        lines.append("results/…: as an earlier run of the same backbone and recipe spread over seeds and images")
    return lines
