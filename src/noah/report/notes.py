"""The sentences under a table, computed from fairness.json: what the numbers are, and what they rest on."""

from collections.abc import Iterable
from typing import Any

from noah.config import Study
from noah.report.comparison import PUBLISHED_ON, SCORES, reference_arm
from noah.report.stats import RESAMPLES

_NAMES = {
    "top1": "Top-1 in percent",
    "map": "mAP in percent (mean over classes of average precision, without classes that have no image)",
}
_LABELS = {
    "class_token": "class token",
    "positions": "positions L",
    "in_features": "channels C",
    "head_dropout": "dropout in the head",
    "init": "init of the head",
    "moved_layers": "moved layers",
}


def notes(study: Study, fairness: dict, *, published: bool) -> tuple[str, ...]:
    """All notes of a study's table.

    Args:
        study: The study.
        fairness: The content of fairness.json.
        published: Whether the table shows published differences.
    """
    sentences = [*_numbers(study, fairness), *_arms(study, fairness), *_origin(fairness), *_cost(study, fairness)]
    if published:
        sentences.append(
            f"published, {PUBLISHED_ON}: the paper's difference for that backbone and width on {PUBLISHED_ON} "
            f"(config/published/{study.spec.published}.csv), not measured here."
        )
    if fairness["backbone_changes"]:
        changed = "; ".join(f"{slug}: {_mapping(c)}" for slug, c in fairness["backbone_changes"].items())
        beside = f", unlike the {PUBLISHED_ON} numbers beside them" if published else ""
        sentences.append(f"Architectures that differ from the published ones{beside}: {changed}.")
    if fairness["missing"]:
        listed = _some(f"{key} ({reason})" for key, reason in fairness["missing"].items())
        sentences.append(f"Missing: {len(fairness['missing'])} of {fairness['runs']} runs: {listed}.")
    sentences += study.spec.notes
    return (*sentences, *(f"Warning: {warning}." for warning in fairness["warnings"]))


def _numbers(study: Study, fairness: dict) -> list[str]:
    seeds = fairness["seeds"]
    spread = "mean ± standard deviation over seeds" if len(seeds) > 1 else "of seed"
    scores = list(dict.fromkeys(dataset.score for dataset in study.datasets.values()))
    sentences = []
    for score in scores:
        images = ", ".join(
            f"{d}: {' or '.join(f'{n:,}' for n in counts)} images"
            for d, counts in fairness["test_images"].items()
            if counts and study.datasets[d].score == score
        )
        sentences.append(
            f"{_NAMES[score]} on the test split ({images or 'not predicted yet'}), {spread} "
            f"{', '.join(map(str, seeds))}; minival scores are in the CSV."
        )
    if study.spec.compare:
        sentences += _intervals(scores, len(seeds) > 1)
    return sentences


def _intervals(scores: list[str], several_seeds: bool) -> list[str]:
    resamples = " or ".join(
        f"{RESAMPLES[score]:,}{f' ({SCORES[score]})' if len(scores) > 1 else ''}" for score in scores
    )
    test = []
    if "top1" in scores:
        test.append(f"p: exact McNemar test{', median over seeds' if several_seeds else ''}.")
    if "map" in scores:
        test.append("The McNemar test does not apply to mAP: —.")
    if several_seeds:
        return [
            "Δ: percentage points, ± half-width of the 95% interval sqrt(h_seed² + h_image²), with h_seed from "
            f"Student's t over the seeds' differences and h_image from {resamples} paired bootstraps of the test "
            "images. Where only one seed has both arms the interval is the images' alone and seeds are not covered. "
            + " ".join(test)
        ]
    return [
        f"Δ: percentage points, ± half-width of the 95% interval from {resamples} paired bootstraps of the test "
        f"images: seeds not covered. {' '.join(test)}"
    ]


def _arms(study: Study, fairness: dict) -> list[str]:
    """How arms are initialised and how pairs differ; backbones that read alike share a clause."""
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
        clauses = _grouped((c["backbone"], _difference(c["differences"])) for c in known)
        if clauses:
            sentences.append(f"Besides the head's form, {pair[0]} → {pair[1]} changes: {clauses}.")
    return sentences


def _difference(differences: dict[str, list]) -> str:
    """Parameters aside, which have their own columns."""
    parts = []
    for fact, (one, other) in differences.items():
        if fact == "weight_decay_groups":
            for group, label in (("decayed", "with"), ("not_decayed", "without")):
                counts = [groups.get(group, {}).get("tensors") for groups in (one, other)]
                if counts[0] != counts[1]:
                    parts.append(f"tensors {label} weight decay {counts[0]} → {counts[1]}")
        elif fact not in ("parameters", "head_parameters"):
            label = _LABELS.get(fact, fact.replace("recipe.", "recipe field "))
            parts.append(f"{label} {_value(one)} → {_value(other)}")
    return ", ".join(parts) or "nothing"


def _origin(fairness: dict) -> list[str]:
    """Weights, data, code and machine of the runs."""
    if len(fairness["missing"]) == fairness["runs"]:
        return []
    weights = " or ".join(
        {"last": "those of the last epoch", "ema": "the moving average (EMA)"}[w] for w in fairness["evaluated_weights"]
    )
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
        f"Evaluated weights: {weights}, a rule fixed before training; the test split selected nothing.",
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
        "images/s: inference, all arms of a backbone interleaved in one process; in brackets the ratio to arm "
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


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " + ".join(map(str, value)) or "none"
    return str(value)


def _some(items: Iterable[str], limit: int = 5) -> str:
    items = list(items)
    more = f" and {len(items) - limit} more (fairness.json)" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
