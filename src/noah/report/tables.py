"""The comparison table of a study: rows of `comparison` become cells; `render` writes them in every format."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev

from noah.config import Study
from noah.files import read_mapping, reading, write_atomic, write_text
from noah.report.collect import COST_METRICS, RUN_METRICS
from noah.report.comparison import PUBLISHED_ON, SCORES, ArmResult, PairResult, Row, compare, reference_arm, section
from noah.report.notes import notes
from noah.report.render import RENDERERS, Grid, Table, markdown

MISSING = "missing"
ABSENT = "—"
"""The arm does not exist for this family, the paper has no such number, or the test does not apply to the score."""

PUBLISHED = {
    "tables/comparison.md": ".md",
    "tables/comparison.csv": ".csv",
    "figures/differences.png": "-differences.png",
}
"""What a study shows in git, and how its dated copy ends."""

_COUNTS = ("parameters", "head_parameters", "macs", "head_macs")


def write_tables(study: Study) -> list[Path]:
    """Write `{study.results}/tables/comparison.*` in every format.

    Raises:
        ValueError: The study was not collected, or its published numbers are missing.
    """
    table = build_table(study)
    paths = [study.results / "tables" / f"comparison.{suffix}" for suffix in RENDERERS]
    for path in paths:
        write_text(path, RENDERERS[path.suffix[1:]](table))
    return paths


def table_for_terminal(study: Study) -> str:
    """The same table as Markdown."""
    return markdown(build_table(study))


def publish(study: Study, docs_dir: Path = Path("docs/results")) -> list[Path]:
    """Copy the tables and the figure of differences to `{docs_dir}/{today}-{study}…`, for git.

    Raises:
        ValueError: They are not written yet.
    """
    day = datetime.now(UTC).date().isoformat()
    paths = []
    for name, suffix in PUBLISHED.items():
        source = study.results / name
        if not source.is_file():
            raise ValueError(f"{source}: no such file, expected the output of `noah table` and `noah figures`")
        paths.append(docs_dir / f"{day}-{study.slug}{suffix}")
        with write_atomic(paths[-1]) as temporary:
            temporary.write_bytes(source.read_bytes())
    return paths


def build_table(study: Study) -> Table:
    """Score and cost of every row, one pair of grids per section (`noah.report.comparison.section`)."""
    rows, path = compare(study), study.results / "fairness.json"
    fairness = read_mapping(path)
    has_published = any(pair and pair.published_delta is not None for row in rows for pair in row.pairs.values())
    sections = [(name, list(group)) for name, group in groupby(rows, key=lambda row: section(study, row))]
    grids = []
    for name, group in sections:
        suffix = f", {' with recipe '.join(name)}" if len(sections) > 1 else ""
        title = {"top1": "Accuracy", "map": "Mean average precision"}[group[0].score]
        grids += [_score_grid(study, group, f"{title}{suffix}"), _cost_grid(study, group, f"Cost{suffix}")]
    records = [record for row in rows for record in (*_arm_records(study, row), *_pair_records(row))]
    with reading(path):
        sentences = notes(study, fairness, published=has_published)
    return Table(study.spec.title, tuple(grids), sentences, tuple(records))


def _score_grid(study: Study, rows: list[Row], caption: str) -> Grid:
    header = ["backbone", "width", *(f"{arm} {SCORES[rows[0].score]}" for arm in study.spec.arms)]
    columns: list[Callable[[Row], str]] = [lambda row: row.label, lambda row: f"{row.backbone.width:g}"]
    columns += [lambda row, arm=arm: _score(row.arms[arm]) for arm in study.spec.arms]
    for pair in study.spec.compare:
        header += [f"Δ {pair[0]} → {pair[1]}", "p"]
        columns += [lambda row, pair=pair: _delta(row.pairs[pair]), lambda row, pair=pair: _p(row.pairs[pair])]
        if any(row.pairs[pair] and row.pairs[pair].published_delta is not None for row in rows):
            header.append(f"Δ published, {PUBLISHED_ON}")
            columns.append(lambda row, pair=pair: _published(row.pairs[pair]))
    return Grid(caption, tuple(header), tuple(tuple(column(row) for column in columns) for row in rows))


def _cost_grid(study: Study, rows: list[Row], caption: str) -> Grid:
    header = ["backbone", "width"]
    columns: list[Callable[[Row], str]] = [lambda row: row.label, lambda row: f"{row.backbone.width:g}"]
    for label, metric, show in (
        ("params (M)", "parameters", lambda value: f"{value / 1e6:.3f}"),
        ("MACs (M)", "macs", lambda value: f"{value / 1e6:,.2f}"),
    ):
        header += [f"{arm} {label}" for arm in study.spec.arms]
        columns += [
            lambda row, arm=arm, metric=metric, show=show: _cost_cell(row.arms[arm], metric, show)
            for arm in study.spec.arms
        ]
    header += [f"{arm} images/s" for arm in study.spec.arms]
    columns += [lambda row, arm=arm: _speed(row, arm, reference_arm(study)) for arm in study.spec.arms]
    return Grid(caption, tuple(header), tuple(tuple(column(row) for column in columns) for row in rows))


def _score(arm: ArmResult | None) -> str:
    if arm is None:
        return ABSENT
    values = list(arm.metrics.get(arm.score, {}).values())
    if not values:
        return MISSING
    text = f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
    return text + _partial(len(values), len(arm.expected_seeds))


def _delta(pair: PairResult | None) -> str:
    if pair is None:
        return ABSENT
    if pair.difference is None:
        return MISSING
    difference = pair.difference
    uncovered = "" if difference.seeds_covered or len(pair.expected_seeds) == 1 else ", seeds not covered"
    text = f"{difference.delta:+.2f} ± {difference.half_width:.2f}"
    return text + _partial(len(pair.seeds), len(pair.expected_seeds), uncovered)


def _partial(found: int, expected: int, more: str = "") -> str:
    return "" if found == expected else f" ({found} of {expected} seeds{more})"


def _p(pair: PairResult | None) -> str:
    if pair is None:
        return ABSENT
    if pair.difference is None:
        return MISSING
    p = pair.difference.mcnemar_p_median
    if p is None:
        return ABSENT
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _published(pair: PairResult | None) -> str:
    return ABSENT if pair is None or pair.published_delta is None else f"{pair.published_delta:+.2f}"


def _cost_cell(arm: ArmResult | None, metric: str, show: Callable[[float], str]) -> str:
    if arm is None:
        return ABSENT
    return show(arm.cost[metric]) if metric in arm.cost else MISSING


def _speed(row: Row, arm: str, reference: str) -> str:
    text = _cost_cell(row.arms[arm], "images_per_s", lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
    ratio = _speed_ratio(row, arm, reference)
    return text if ratio is None else f"{text} ({ratio:.2f}x)"


def _speed_ratio(row: Row, arm: str, reference: str) -> float | None:
    speeds = [result.cost.get("images_per_s") if result else None for result in (row.arms[arm], row.arms[reference])]
    return speeds[0] / speeds[1] if None not in speeds else None


def _arm_records(study: Study, row: Row) -> list[dict]:
    """One CSV row per arm; the fields of pairs stay empty."""
    records = []
    for name, arm in row.arms.items():
        record = {**_row_name("arm", row), "arm": name}
        record |= _seeds(arm and arm.seeds, arm and arm.expected_seeds)
        for metric in _run_metrics(study):
            values = arm.metrics.get(metric, {}) if arm else {}
            record |= {
                f"{metric}_mean": mean(values.values()) if values else None,
                f"{metric}_sd": stdev(values.values()) if len(values) > 1 else None,
                f"{metric}_per_seed": _listed(values[seed] for seed in sorted(values)),
            }
        for metric in COST_METRICS:
            value = arm.cost.get(metric) if arm else None
            record[metric] = int(value) if value is not None and metric in _COUNTS else value
        record["images_per_s_ratio"] = _speed_ratio(row, name, reference_arm(study))
        records.append(record)
    return records


def _run_metrics(study: Study) -> tuple[str, ...]:
    """Of all datasets of the study, so that its CSV has one set of columns."""
    scores = dict.fromkeys(dataset.score for dataset in study.datasets.values())
    return tuple(dict.fromkeys(metric for score in scores for metric in RUN_METRICS[score]))


def _pair_records(row: Row) -> list[dict]:
    """One CSV row per compare pair; the fields of arms stay empty."""
    records = []
    for (one, other), pair in row.pairs.items():
        difference = pair and pair.difference
        record = {**_row_name("pair", row), "from": one, "to": other}
        record |= _seeds(pair and pair.seeds, pair and pair.expected_seeds)
        for field in ("delta", "half_width", "half_width_seeds", "half_width_images", "seeds_covered", "images"):
            record[field] = getattr(difference, field, None)
        record |= {
            "delta_per_seed": difference and _listed(difference.per_seed),
            "mcnemar_p_median": difference and difference.mcnemar_p_median,
            "mcnemar_p_per_seed": difference and _listed(difference.mcnemar_p or ()),
            "minival_delta": pair and pair.minival_delta,
            "published_imagenet_delta": pair and pair.published_delta,
            "published_imagenet_name": pair and pair.published_name,
        }
        records.append(record)
    return records


def _row_name(kind: str, row: Row) -> dict:
    return {
        "kind": kind,
        "dataset": row.dataset,
        "recipe": row.recipe,
        "backbone": row.backbone.slug,
        "width": row.backbone.width,
        "arm": None,
        "from": None,
        "to": None,
    }


def _seeds(found: Sequence[int] | None, expected: Sequence[int] | None) -> dict:
    if expected is None:
        return {"status": "absent", "seeds": None, "seeds_expected": None}
    status = "ok" if len(found) == len(expected) else "partial" if found else "missing"
    return {"status": status, "seeds": _listed(found), "seeds_expected": _listed(expected)}


def _listed(values: Iterable[float]) -> str | None:
    """Several numbers in one CSV field."""
    return ";".join(str(value) for value in values) or None
