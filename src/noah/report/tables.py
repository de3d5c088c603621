"""The comparison table of a study: arms and comparison become cells; `render` writes them in every format."""

from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import pandas as pd

from noah.config import Study
from noah.files import read_mapping, reading, write_atomic, write_text
from noah.report.arms import arms_of, run_metrics
from noah.report.collect import COST_METRICS
from noah.report.comparison_table import read_comparison, read_long
from noah.report.notes import differences_grid, notes
from noah.report.power import MOST_SEEDS
from noah.report.render import RENDERERS
from noah.report.render_structure import Grid, Group, Table
from noah.report.render_terminal import terminal
from noah.report.rests_on import folded_notes
from noah.report.rows import SCORES, Row, reference_arm, rows_of, section
from noah.report.stats import CONFIDENCE, SEEDS_FOR_A_VERDICT

MISSING = "missing"
NONE = "—"
CHANCE = "†"
"""Marks an arm that is no better than a guess."""

PUBLISHED = {
    "tables/comparison.md": ".md",
    "tables/comparison.csv": ".csv",
    "figures/differences.png": "-differences.png",
    "figures/training_curves.png": "-over-epochs.png",
}
"""What a study shows in git, and how its dated copy ends."""

_COUNTS = ("parameters", "head_parameters", "macs", "head_macs")


def write_tables(study: Study) -> list[Path]:
    """Write `{study.results}/tables/comparison.*` in every format.

    Raises:
        ValueError: The study was not collected and compared.
    """
    table = build_table(study)
    paths = [study.results / "tables" / f"comparison.{suffix}" for suffix in RENDERERS]
    for path in paths:
        write_text(path, RENDERERS[path.suffix[1:]](table))
    return paths


def table_for_terminal(study: Study, width: int, *, with_notes: bool = False) -> str:
    """The same table, as wide as a terminal."""
    return terminal(build_table(study), width, with_notes)


def publish(study: Study, docs_dir: Path = Path("docs/results")) -> list[Path]:
    """Copy the tables and figures to `{docs_dir}/{today}-{study}…`, for git.

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
    """One grid per section (`noah.report.rows.section`), then other pairs, what holds over all backbones, and notes."""
    rows = rows_of(study)
    comparison = read_comparison(study)
    arms = arms_of(study, rows, read_long(study), comparison)
    path = study.results / "fairness.json"
    fairness = read_mapping(path)
    pairs = {
        (*pair[["dataset", "recipe", "backbone", "from", "to"]],): pair
        for _, pair in comparison[comparison["kind"] == "pair"].iterrows()
    }
    sections = [(name, list(group)) for name, group in groupby(rows, key=lambda row: section(study, row))]
    grids = []
    for name, group in sections:
        of = f" on {' with recipe '.join(name)}" if len(sections) > 1 else ""
        title = {"top1": "Accuracy", "map": "Mean average precision"}[group[0].score]
        grids.append(_main_grid(study, group, arms, pairs, f"{title} and cost{of}"))
        grids += _other_pairs(study, group, pairs, f"Other pairs{of}")
    grids += _overall_grid(comparison)
    with reading(path):
        grids += differences_grid(fairness)
        return Table(
            study.spec.title,
            tuple(grids),
            notes(study, comparison, arms, fairness),
            folded_notes(study, comparison, fairness),
            tuple(_records(study, arms, comparison)),
        )


def _main_grid(study: Study, rows: list[Row], arms: pd.DataFrame, pairs: dict[tuple, pd.Series], caption: str) -> Grid:
    """One line per arm: what it reached, how it differs from the reference, what it costs."""
    reference = reference_arm(study)
    of_arm = {(*arm[["dataset", "recipe", "backbone", "arm"]],): arm for _, arm in arms.iterrows()}
    published = any(
        row.name == name[:3] and not pd.isna(pair["published_delta"]) for row in rows for name, pair in pairs.items()
    )
    header = ["arm", SCORES[rows[0].score], f"Δ to {reference}", "verdict", "params", "MACs", "speed"]
    header += ["paper"] if published else []
    groups = []
    for row in rows:
        lines = []
        for name in row.arms:
            arm, pair = of_arm[*row.name, name], pairs.get((*row.name, reference, name))
            line = [name, _score(arm)]
            line += ["reference" if name == reference else delta(pair), NONE if pair is None else verdict_cell(pair)]
            line += [_millions(arm["parameters"]), _millions(arm["macs"]), _speed(arm, name == reference)]
            lines.append((*line, *([_published(pair)] if published else [])))
        groups.append(Group(row.backbone.slug, tuple(lines)))
    return Grid(caption, tuple(header), tuple(groups), "lr" + "r" * (len(header) - 2))


def _other_pairs(study: Study, rows: list[Row], pairs: dict[tuple, pd.Series], caption: str) -> list[Grid]:
    """The declared pairs that do not start at the reference."""
    groups = []
    for row in rows:
        lines = [
            (f"{one} → {other}", delta(pairs[*row.name, one, other]), verdict_cell(pairs[*row.name, one, other]))
            for one, other in row.pairs(study)
            if one != reference_arm(study)
        ]
        if lines:
            groups.append(Group(row.backbone.slug, tuple(lines)))
    return [Grid(caption, ("pair", "Δ", "verdict"), tuple(groups), "lrr")] if groups else []


def _overall_grid(comparison: pd.DataFrame) -> list[Grid]:
    overall = comparison[comparison["kind"] == "overall"]
    if overall.empty:
        return []
    groups = []
    for dataset, entries in overall.groupby("dataset", sort=False):
        lines = [
            (f"{e['from']} → {e['to']}", delta(e), f"{e['wins']} of {e['backbones']}") for _, e in entries.iterrows()
        ]
        groups.append(Group(dataset, tuple(lines)))
    return [Grid("Over all backbones", ("pair", "mean Δ", "Δ above 0"), tuple(groups), "lrr")]


def _score(arm: pd.Series) -> str:
    mean, sd, iqm = (arm[f"{arm['score']}_{name}"] for name in ("mean", "sd", "iqm"))
    if pd.isna(mean):
        return MISSING
    text = f"{mean:.2f}" + ("" if pd.isna(sd) else f" ± {sd:.2f}")
    if arm["status"] == "partial":
        text += f" ({len(arm['seeds'].split(';'))}/{len(arm['seeds_expected'].split(';'))})"
    if arm["collapsed"]:
        text += f", IQM {iqm:.2f}"
    return text + (CHANCE if arm["at_chance"] else "")


def delta(pair: pd.Series | None) -> str:
    """`+2.0 [+1.2, +2.8]`; one seed has no interval."""
    if pair is None:
        return NONE
    if pd.isna(pair["delta"]):
        return MISSING
    edges = [pair["low"], pair["high"]]
    coarse = pd.isna(pair["half_width"]) or (pair["half_width"] >= 0.5 and min(map(abs, edges)) >= 0.05)
    digits = 1 if coarse else 2
    text = f"{pair['delta']:+.{digits}f}"
    return text if pd.isna(pair["low"]) else f"{text} [{pair['low']:+.{digits}f}, {pair['high']:+.{digits}f}]"


def verdict_cell(pair: pd.Series) -> str:
    """A word; `*` where Holm's p does not carry it; `? 12 seeds` where it is undecided; in brackets if undeclared."""
    if pd.isna(pair["delta"]):
        return MISSING
    if pd.isna(pair["verdict"]):
        seeds = min(len(pair[name].split(";")) for name in ("seeds_from", "seeds_to"))
        if seeds >= SEEDS_FOR_A_VERDICT:
            number, name = (pair["clusters"], "source") if pair["clustered"] else (pair["images"], "image")
            return f"{number:.0f} {name}{'s' if number >= 1.5 else ''}"
        return f"{seeds} seed{'s' if seeds > 1 else ''}"
    text = pair["verdict"]
    if text == "undecided":
        needed = pair["seeds_needed"]
        most = f">{MOST_SEEDS}" if not pd.isna(needed) and needed > MOST_SEEDS else needed
        text = "? images" if pd.isna(needed) else f"? {most} seeds"
    elif text != "equal" and pair["declared"] and pair["p_holm"] >= 1 - CONFIDENCE:
        text += "*"
    return text if pair["declared"] else f"({text})"


def _published(pair: pd.Series | None) -> str:
    return "" if pair is None or pd.isna(pair["published_delta"]) else f"{pair['published_delta']:+.1f}"


def _millions(value: float) -> str:
    """Three digits after the point of less than one million, none from a hundred on."""
    if pd.isna(value):
        return MISSING
    digits = 3 - len(f"{value / 1e6:.0f}") if value >= 1e6 else 3
    return f"{value / 1e6:,.{max(digits, 0)}f}"


def _speed(arm: pd.Series, is_reference: bool) -> str:
    if is_reference and not pd.isna(arm["images_per_s"]):
        return f"{arm['images_per_s']:,.0f}/s"
    return MISSING if pd.isna(arm["images_per_s_ratio"]) else f"{arm['images_per_s_ratio']:.2f}x"


def _records(study: Study, arms: pd.DataFrame, comparison: pd.DataFrame) -> list[dict]:
    """Unrounded, for the CSV: a row per arm, then one per pair; each kind leaves the other's columns empty."""
    metrics = [f"{m}_{s}" for m in run_metrics(study) for s in ("mean", "sd", "iqm", "per_seed")]
    names = ["dataset", "recipe", "backbone", "width", "arm", "status", "seeds", "seeds_expected"]
    arms = arms.assign(kind="arm")[["kind", *names, *metrics, *COST_METRICS, "images_per_s_ratio"]]
    arms = arms.astype(dict.fromkeys(_COUNTS, "Int64"))
    frame = pd.concat([arms.astype(object), comparison.astype(object)], ignore_index=True)
    return frame.where(frame.notna(), None).to_dict("records")
