"""What a table rests on: estimator, recipes, inits, data, code, machines, and how costs were measured."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from noah.config import Study
from noah.report.published import PUBLISHED_ON
from noah.report.rows import reference_arm


def folded_notes(study: Study, comparison: pd.DataFrame, fairness: dict) -> tuple[str, ...]:
    """What the numbers rest on, for those who ask."""
    sentences = [*_estimator(comparison), *_arms(study, fairness), *_origin(fairness), *_cost(study, fairness)]
    if comparison["published_delta"].notna().any():
        sentences.append(
            f"paper: the published difference for that backbone and width on {PUBLISHED_ON} "
            f"(config/published/{study.spec.published}.csv), not measured here."
        )
    if fairness["backbone_changes"]:
        changed = "; ".join(f"{slug}: {_mapping(c)}" for slug, c in fairness["backbone_changes"].items())
        sentences.append(f"Architectures that differ from the published ones: {changed}.")
    return tuple(sentences)


def _estimator(comparison: pd.DataFrame) -> list[str]:
    """How Δ and its interval come about."""
    pairs = comparison[(comparison["kind"] == "pair") & comparison["low"].notna()]
    if pairs.empty:
        return []
    return [
        "Interval, p and verdict are one Student's t: variance of seeds + of images - what both hold, Satterthwaite's "
        "degrees of freedom (docs/statistics.md). Each arm's Δ is to the reference; McNemar's p, which "
        "take trainings as given, are in the CSV."
    ]


def _arms(study: Study, fairness: dict) -> list[str]:
    """How arms are trained and initialised; backbones that read alike share a clause."""
    recipes = _grouped(dict.fromkeys((run.backbone.slug, run.recipe_name) for run in study.runs))
    sentences = [f"Recipe (config/recipes): {recipes}."]
    started = _grouped((run.backbone.slug, run.backbone.weights) for run in study.runs if run.backbone.weights)
    if started:
        sentences.append(f"Backbones start from trained weights, the same for all arms: {started}.")
    for arm in study.spec.arms:
        clauses = _grouped((a["backbone"], a["init"]) for a in fairness["arms"] if a["arm"] == arm)
        if clauses:
            sentences.append(f"Init of the head, {arm}: {clauses}.")
    for pair in study.spec.compare:
        known = [c for c in fairness["comparisons"] if (c["from"], c["to"]) == pair and c["known"]]
        clauses = _grouped((c["backbone"], _decay(c["differences"]) or "the same tensors") for c in known)
        if clauses not in ("", "the same tensors"):
            sentences.append(f"Weight decay, {pair[0]} → {pair[1]}: {clauses}.")
    return sentences


def _decay(differences: dict[str, list]) -> str:
    """How many tensors decay, where that differs."""
    groups = differences.get("weight_decay_groups", [{}, {}])
    parts = []
    for group, label in (("decayed", "with"), ("not_decayed", "without")):
        one, other = (of.get(group, {}).get("tensors") for of in groups)
        parts += [f"tensors {label} it {one} → {other}"] if one != other else []
    return ", ".join(parts)


def _origin(fairness: dict) -> list[str]:
    """Weights, data, code and machine of the runs."""
    if len(fairness["missing"]) == fairness["runs"]:
        return []
    weights = " or ".join(
        {"last": "those of the last epoch", "ema": "the moving average (EMA)"}[w] for w in fairness["evaluated_weights"]
    )
    precision = f", in {' or '.join(fairness['evaluated_in'])}" if fairness["evaluated_in"] else ""
    data = "; ".join(
        f"{dataset} "
        + ", ".join(f"{split} {'/'.join(sha[:12] for sha in shas)}" for split, shas in splits.items() if shas)
        for dataset, splits in fairness["manifests"].items()
    )
    left_out = "; ".join(
        f"{dataset} {split} {' or '.join(f'{share:.3%}' for share in shares)}"
        for dataset, splits in fairness["quarantine_share"].items()
        for split, shares in splits.items()
        if any(shares)
    )
    commits = ", ".join(
        f"{(c['commit'] or 'unknown')[:10]}{' (uncommitted changes)' if c['dirty'] else ''}: {c['runs']} runs"
        for c in fairness["commits"]
    )
    machines = " or ".join(map(str, fairness["devices"]))
    threads = " or ".join(map(str, fairness["threads"]))
    versions = " or ".join(_mapping(v) for v in fairness["versions"])
    days = " to ".join(dict.fromkeys(time[:10] for time in fairness["finished"]))
    return [
        f"Evaluated weights: {weights}{precision}, a rule fixed before training; the test split selected nothing.",
        f"Data (sha256 of the manifests): {data}.",
        *([f"Left out as bad images (quarantine.csv), share of the split: {left_out}."] if left_out else []),
        f"Commits of the runs: {commits}.",
        f"Trained on {machines}, {threads} threads, {versions}{f'; finished {days}' if days else ''}.",
    ]


def _cost(study: Study, fairness: dict) -> list[str]:
    conditions = _grouped(
        (
            c["backbone"],
            f"{c['device']}, {c['dtype']}, {c['threads']} threads, torch {c['torch']}, batch {c['batch']}, "
            f"{c['image_size']} px, {c['rounds']} rounds{', channels last' if c['channels_last'] else ''}",
        )
        for c in fairness["cost"]
    )
    if not conditions:
        return []
    return [
        "speed: inference, all arms of a backbone interleaved in one process, as a ratio to arm "
        f"{reference_arm(study)}. Measured with {conditions}. MACs: convolutions and matrix products of one image, "
        "without NOAH's elementwise product of attention and values (N·M·L). Training speed, latency and memory are in "
        "the CSV."
    ]


def _grouped(pairs: Iterable[tuple[str, str]]) -> str:
    """(backbone, text) pairs as `text (backbone, backbone); text (backbone)`; just `text` where all agree."""
    groups: dict[str, list[str]] = {}
    for backbone, text in pairs:
        groups.setdefault(str(text), [])
        if backbone not in groups[str(text)]:
            groups[str(text)].append(backbone)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{text} ({', '.join(backbones)})" for text, backbones in groups.items())


def _mapping(values: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items())
