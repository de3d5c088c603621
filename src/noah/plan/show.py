"""The plan as a terminal shows it: as wide as the screen, nothing cut off."""

import shutil
import textwrap

import pandas as pd

from noah.config import Study
from noah.evaluate.estimate import BASES, planned_device
from noah.plan.warnings import plan_warnings

NARROWEST = 60
"""Columns of text below which nothing more is left out."""
LEFT_OUT_FIRST = ("runs", "L", "C", "paper M", "MACs M", "r", "N")
"""Columns that a narrow screen does without, the least important first."""
INDENT = "  "


def show_plan(study: Study, plan: pd.DataFrame, differences: pd.DataFrame, remarks: list[str]) -> None:
    """Print a table per dataset and recipe, then warnings, the total, and what the estimates rest on.

    Args:
        study: The study.
        plan: Of `make_plan`.
        differences: What can be found, of noah.report.resolution.
        remarks: Lines on that, printed after the warnings.
    """
    for line in plan_lines(study, plan, differences, remarks, _screen()):
        print(line)


def _screen() -> int:
    """Columns of the terminal, or of the environment's COLUMNS; 100 where there is neither."""
    return max(NARROWEST, shutil.get_terminal_size((100, 24)).columns)


def plan_lines(
    study: Study, plan: pd.DataFrame, differences: pd.DataFrame, remarks: list[str], width: int
) -> list[str]:
    """The lines of `show_plan`, none longer than `width` unless a single word is."""
    device = planned_device(study)
    lines = _wrap(f"{study.spec.title}: {len(study.runs)} runs, seeds {', '.join(map(str, study.spec.seeds))}", width)
    columns = _columns(plan, device.unit)
    gap, widths = _layout(columns, width)
    for (dataset, recipe), rows in plan.groupby(["dataset", "recipe"], sort=False):
        lines += ["", *_wrap(f"{dataset}, recipe {recipe}", width), *_head(widths, gap)]
        for backbone, arms in rows.groupby("backbone", sort=False):
            here = differences[["dataset", "recipe", "backbone"]].eq([dataset, recipe, backbone]).all(axis=1)
            lines += _wrap(f"{backbone}{_resolved(differences[here])}", width)
            lines += [_line({name: columns[name][i] for name in widths}, widths, gap) for i in arms.index]
    lines.append("")
    if left_out := [name for name in columns if name not in widths]:
        lines += _wrap(f"Left out for want of width, to be found in plan.csv (--save): {', '.join(left_out)}", width)
    for text in [*plan_warnings(study, plan), *remarks]:
        lines += _wrap(text, width)
    unknown = int(plan.device_hours.isna().sum())
    missing = f", without {unknown} rows whose number of images is not known" if unknown else ""
    lines += _wrap(f"Total: {len(study.runs)} runs, {plan.device_hours.sum():,.2f} {device.unit}{missing}", width)
    for basis in plan.basis.unique():
        said = BASES[basis].format(device=device.name)
        lines += _wrap(f"images/s marked {basis[0]} ({basis}): {said}", width)
    return lines


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)


def _columns(plan: pd.DataFrame, unit: str) -> dict[str, list[str]]:
    """Heading -> a cell per row of the plan; a column without any is left out."""

    def cells(name: str, form: str, scale: float = 1) -> list[str]:
        return ["" if pd.isna(value) else format(value * scale, form) for value in plan[name].astype(float)]

    hours = plan.device_hours.astype(float)
    columns = {
        "arm": plan.arm.tolist(),
        "N": cells("num_heads", ".0f"),
        "r": cells("key_ratio", "g"),
        "C": cells("in_features", ".0f"),
        "L": cells("positions", ".0f"),
        "params M": cells("parameters", ".2f", 1e-6),
        "paper M": cells("published_parameters_m", ".2f"),
        "MACs M": cells("macs", ",.1f", 1e-6),
        "images/s": [f"{row.images_per_s:,.0f} {row.basis[0]}" for row in plan.itertuples()],
        "runs": cells("runs", ".0f"),
        unit: ["" if pd.isna(value) else format(value, ",.2f" if value >= 1 else ".3f") for value in hours],
    }
    return {name: column for name, column in columns.items() if any(column)}


def _layout(columns: dict[str, list[str]], width: int) -> tuple[int, dict[str, int]]:
    """The gap between columns, and the widths of those that fit; a narrower gap comes before fewer columns."""
    widths = {name: max(map(len, (name, *cells))) for name, cells in columns.items()}
    for without in range(len(LEFT_OUT_FIRST) + 1):
        kept = {name: size for name, size in widths.items() if name not in LEFT_OUT_FIRST[:without]}
        for gap in (2, 1):
            if len(INDENT) + sum(kept.values()) + gap * (len(kept) - 1) <= width:
                return gap, kept
    return 1, kept


def _head(widths: dict[str, int], gap: int) -> list[str]:
    rule = "─" * (len(INDENT) + sum(widths.values()) + gap * (len(widths) - 1))
    return [_line({name: name for name in widths}, widths, gap), rule]


def _line(cells: dict[str, str], widths: dict[str, int], gap: int) -> str:
    """The arm on the left, all else on the right of its column."""
    padded = [cell.ljust(widths[name]) if name == "arm" else cell.rjust(widths[name]) for name, cell in cells.items()]
    return (INDENT + (" " * gap).join(padded)).rstrip()


def _resolved(differences: pd.DataFrame) -> str:
    """What a backbone resolves: `: resolves 2.31 points (default)`; by pair where they differ."""
    known = differences[differences.resolvable_points.notna()]
    points = [f"{row.resolvable_points:.2f} points ({row.basis})" for row in known.itertuples()]
    if len(set(points)) > 1:
        pairs = zip(known["from"], known["to"], points, strict=True)
        points = [", ".join(f"{start} → {end} {said}" for start, end, said in pairs)]
    return f": resolves {points[0]}" if points else ""
