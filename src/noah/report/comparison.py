"""The comparison of a study, computed once: comparison.parquet, which tables, figures and tracking read.

One row per pair of arms on a backbone (`kind` pair), and one per pair over all backbones of a dataset (`kind` overall).
All differences are in percentage points. docs/statistics.md has the formulas.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from noah.config import Study
from noah.files import write_atomic
from noah.report.collect import run_folder
from noah.report.comparison_table import COLUMNS, FILE, read_long
from noah.report.published import published_deltas
from noah.report.records import Predicted, read_predicted
from noah.report.rows import Pair, Row, rows_of, section
from noah.report.sharing import sharing
from noah.report.stats import Difference, Parts, conclude, mcnemar_p, measure
from noah.report.verdicts import holm, overall, seeds_needed, verdict


def compare(study: Study) -> Path:
    """Compute the comparison from long.parquet and the prediction records, and write it.

    Raises:
        ValueError: long.parquet or the published numbers are missing or broken, or the arms of a backbone were not
            predicted on the same images.
    """
    scores, published = _finished(study), published_deltas(study)
    entries: list[dict] = []
    measured: dict[tuple, tuple[Row, Parts]] = {}
    for row in rows_of(study):
        finished = {arm: _of_study(row, arm, scores).get(row.score, {}) for arm in row.arms}
        predicted = _predicted(study, row, finished)
        shared = sharing(predicted.clusters) if predicted else None
        for pair, declared in row.pairs(study).items():
            entry = _identity(row, pair, declared, finished)
            runs = [next(iter(row.arms[arm].values())) for arm in pair]
            entry["published_delta"], entry["published_name"] = published(*runs)
            if all(finished[arm] for arm in pair):
                arms, seeds = [predicted.values[arm] for arm in pair], [predicted.seeds[arm] for arm in pair]
                measured[*row.name, *pair] = row, measure(*arms, shared, seeds)
                entry |= {"clustered": shared is not None, "chance": predicted.chance}
                entry |= _mcnemar(row, predicted, pair)
                minival = [_of_study(row, arm, scores).get(f"minival_{row.score}", {}) for arm in pair]
                entry["minival_delta"] = _delta(minival)
            entries.append(entry)
    _conclude(study, entries, measured)
    frame = pd.DataFrame(entries, columns=list(COLUMNS)).astype(COLUMNS)
    path = study.results / FILE
    with write_atomic(path) as temporary:
        frame.to_parquet(temporary, index=False)
    return path


def _finished(study: Study) -> dict[tuple, dict[str, dict[int, float]]]:
    """(dataset, recipe, backbone, arm) -> metric -> seed -> value."""
    found: dict[tuple, dict[str, dict[int, float]]] = {}
    long = read_long(study)
    for entry in long[long["seed"].notna()].itertuples():
        name = (entry.dataset, entry.recipe, entry.backbone, entry.arm)
        found.setdefault(name, {}).setdefault(entry.metric, {})[int(entry.seed)] = entry.value
    return found


def _of_study(row: Row, arm: str, scores: dict[tuple, dict[str, dict[int, float]]]) -> dict[str, dict[int, float]]:
    """Metric -> seed -> value, of the seeds that the study has now: it may have lost some since it was collected."""
    metrics = scores.get((*row.name, arm), {})
    return {metric: {s: v for s, v in of.items() if s in row.arms[arm]} for metric, of in metrics.items()}


def _predicted(study: Study, row: Row, finished: dict[str, dict[int, float]]) -> Predicted | None:
    files = {
        arm: {seed: run_folder(study, row.arms[arm][seed]) / "predictions.parquet" for seed in sorted(seeds)}
        for arm, seeds in finished.items()
    }
    return read_predicted(row.score, files) if any(files.values()) else None


def _identity(row: Row, pair: Pair, declared: bool, finished: dict[str, dict[int, float]]) -> dict:
    seeds = [sorted(finished[arm]) for arm in pair]
    expected = [seed for seed in row.arms[pair[0]] if seed in row.arms[pair[1]]]
    whole = all(set(expected) <= set(found) for found in seeds)
    return {
        "kind": "pair",
        **dict(zip(("dataset", "recipe", "backbone"), row.name, strict=True)),
        "score": row.score,
        "width": row.backbone.width,
        "from": pair[0],
        "to": pair[1],
        "declared": declared,
        "status": "ok" if whole else "partial" if all(seeds) else "missing",
        "seeds_from": listed(seeds[0]),
        "seeds_to": listed(seeds[1]),
        "seeds_expected": listed(expected),
    }


def _mcnemar(row: Row, predicted: Predicted, pair: Pair) -> dict:
    """One p per seed that both arms finished; mAP has none, for there no image is right or wrong as a whole."""
    if row.score != "top1":
        return {}
    arms = [dict(zip(predicted.seeds[arm], predicted.values[arm] > 0, strict=True)) for arm in pair]
    values = [mcnemar_p(right, arms[1][seed]) for seed, right in arms[0].items() if seed in arms[1]]
    return {"mcnemar_p_median": median(values), "mcnemar_p_per_seed": listed(values)} if values else {}


def _delta(arms: list[dict[int, float]]) -> float | None:
    """Of the means of two arms, each over its seeds."""
    if not all(arms):
        return None
    return float(np.mean([*arms[1].values()]) - np.mean([*arms[0].values()]))


def _conclude(study: Study, entries: list[dict], measured: dict[tuple, tuple[Row, Parts]]) -> None:
    """Fill in intervals and verdicts, and append what holds over all backbones of a section."""
    differences: dict[tuple, list] = {}
    for entry in entries:
        pair = entry["from"], entry["to"]
        name = (entry["dataset"], entry["recipe"], entry["backbone"], *pair)
        if name not in measured:
            continue
        row, parts = measured[name]
        difference = conclude(parts)
        entry |= _concluded(study, parts, difference)
        differences.setdefault((section(study, row), pair), []).append((entry, difference))
    # All that the study declares: what is missing yet, or has no p, may still come out as nothing.
    declared = [entry for entry in entries if entry["declared"]]
    p = [entry.get("p", np.nan) for entry in declared]
    for entry, own, adjusted in zip(declared, p, holm(np.nan_to_num(p, nan=1.0)), strict=True):
        entry["p_holm"] = np.nan if np.isnan(own) else adjusted
    for (_, pair), found in differences.items():
        entries += _over_backbones(pair, found)


def _concluded(study: Study, parts: Parts, difference: Difference) -> dict:
    margin = study.spec.margin
    found = verdict(difference, parts.seeds, margin)
    low, high = difference.interval()
    return {
        "delta": difference.delta,
        "low": low,
        "high": high,
        "half_width": difference.half_width(),
        **{name: getattr(difference, name) for name in ("se", "df", "p", "seed_variance")},
        **{name: getattr(parts, name) for name in ("image_variance", "residual_variance", "images", "clusters")},
        "verdict": found,
        "seeds_needed": seeds_needed(parts, margin) if found == "undecided" else None,
        "margin": margin,
    }


def _over_backbones(pair: Pair, found: list[tuple[dict, object]]) -> Iterable[dict]:
    """What a pair does on all backbones of a section that have an interval; nothing where there are not two."""
    found = [(entry, difference) for entry, difference in found if difference.se > 0]
    mean = overall([difference for _, difference in found])
    if mean is None:
        return
    first, _ = found[0]
    deltas = [difference.delta for _, difference in found]
    yield {
        "kind": "overall",
        "dataset": first["dataset"],
        "score": first["score"],
        "recipe": first["recipe"] if len({entry["recipe"] for entry, _ in found}) == 1 else None,
        "from": pair[0],
        "to": pair[1],
        "declared": first["declared"],
        "delta": mean.delta,
        "low": mean.low,
        "high": mean.high,
        "half_width": (mean.high - mean.low) / 2,
        "p": mean.p,
        "backbones": len(found),
        "wins": sum(delta > 0 for delta in deltas),
        "tau": mean.tau,
    }


def listed(values: Iterable) -> str | None:
    """Several numbers in one field."""
    return ";".join(str(value) for value in values) or None
