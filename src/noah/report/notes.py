"""What stands under a table: what the numbers are and, as a grid of its own, how the arms differ besides the head."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from noah.config import Study
from noah.report.published import PUBLISHED_ON
from noah.report.render_structure import Grid, Group
from noah.report.stats import SEEDS_FOR_A_VERDICT

_NAMES = {
    "top1": "Top-1 in percent",
    "map": "mAP in percent",
}
NAMED = 2
"""Backbones that a line of the grid names before it only counts them."""
_COUNTED = ("parameters", "head_parameters", "weight_decay_groups")
"""Parameters have columns of their own; tensors are counted in the folded notes."""
_LABELS = {
    "class_token": "class token",
    "positions": "positions L",
    "in_features": "channels C",
    "head_dropout": "dropout in the head",
    "init": "init of the head",
    "moved_layers": "moved layers",
}


def notes(study: Study, comparison: pd.DataFrame, arms: pd.DataFrame, fairness: dict) -> tuple[str, ...]:
    """What everybody has to know to read the table.

    Args:
        study: The study.
        comparison: Of `read_comparison`.
        arms: Of `arms_of`.
        fairness: The content of fairness.json.
    """
    pairs = comparison[comparison["kind"] == "pair"]
    sentences = [_scores(study, fairness)]
    if pairs["delta"].notna().any():
        sentences += [_intervals(pairs), _verdicts(study, pairs) if pairs["low"].notna().any() else ""]
    sentences += [_marks(arms, pairs), *study.spec.notes]
    if fairness["missing"]:
        listed = _some(f"{key} ({reason})" for key, reason in fairness["missing"].items())
        sentences.append(f"Missing: {len(fairness['missing'])} of {fairness['runs']} runs: {listed}.")
    return (*filter(None, sentences), *(f"Warning: {warning}." for warning in fairness["warnings"]))


def differences_grid(fairness: dict) -> list[Grid]:
    """One line per fact in which the arms of a declared pair differ besides the head's form."""
    groups = []
    for pair in dict.fromkeys((c["from"], c["to"]) for c in fairness["comparisons"]):
        known = [c for c in fairness["comparisons"] if (c["from"], c["to"]) == pair and c["known"]]
        where: dict[tuple, list[str]] = {}
        for comparison in known:
            for fact, (one, other) in comparison["differences"].items():
                if fact not in _COUNTED:
                    label = _LABELS.get(fact, fact.replace("recipe.", "recipe: "))
                    where.setdefault((label, _value(one), _value(other)), []).append(comparison["backbone"])
        lines = tuple((*fact, _where(backbones, known)) for fact, backbones in where.items())
        if lines:
            groups.append(Group(" → ".join(pair), lines))
    header = ("what differs besides the head", "from", "to", "on")
    return [Grid("What else differs", header, tuple(groups), "llll")] if groups else []


def _where(backbones: list[str], known: list[dict]) -> str:
    if len(backbones) == len(known):
        return "all"
    return ", ".join(dict.fromkeys(backbones)) if len(backbones) <= NAMED else f"{len(backbones)} of {len(known)}"


def _scores(study: Study, fairness: dict) -> str:
    seeds = fairness["seeds"]
    spread = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    names = []
    for score in dict.fromkeys(dataset.score for dataset in study.datasets.values()):
        images = ", ".join(
            f"{d}: {' or '.join(f'{n:,}' for n in counts)} images"
            for d, counts in fairness["test_images"].items()
            if counts and study.datasets[d].score == score
        )
        names.append(f"{_NAMES[score]} on the test split ({images or 'not predicted yet'})")
    return f"{' and '.join(names)}, {spread}. params and MACs in millions; speed: images/s at inference."


def _intervals(pairs: pd.DataFrame) -> str:
    known = pairs[pairs["low"].notna()]
    if known.empty:
        return "Δ in points, without intervals: these take two seeds, and test images from three sources."
    images = "test images"
    clustered = known[known["clustered"].fillna(False).astype(bool)]
    if len(clustered):
        sources = " or ".join(dict.fromkeys(f"{n:,.0f}" for n in clustered["clusters"]))
        images += f", those that share a source counted together (at least as good as {sources} independent ones)"
    return f"Δ in points [95% interval over trainings and {images}]."


def _verdicts(study: Study, pairs: pd.DataFrame) -> str:
    family = int(pairs["declared"].sum())
    margin = study.spec.margin
    equal = f"equal: the 90% interval lies within ±{margin:g}. " if margin else ""
    undeclared = " In brackets: not declared by the study." if (~pairs["declared"].astype(bool)).any() else ""
    return (
        f"ahead, behind: the interval excludes 0 (*: not by Holm's p over the {family} declared differences). {equal}"
        "? N seeds: undecided; N seeds would decide a difference of the measured size (80% power); ? images: only more "
        "test images would."
        f"{undeclared} Fewer than {SEEDS_FOR_A_VERDICT} seeds: no verdict."
    )


def _marks(arms: pd.DataFrame, pairs: pd.DataFrame) -> str:
    sentences = []
    if pairs["published_delta"].notna().any():
        sentences.append(f"paper: Δ published for {PUBLISHED_ON}, not measured here.")
    if arms["collapsed"].any():
        sentences.append("IQM: interquartile mean, where a run lies more than 10 points under its arm's median.")
    sentences.append("†: no better than a guess." if arms["at_chance"].any() else "")
    sentences.append("(k/S): k of S seeds finished." if (arms["status"] == "partial").any() else "")
    return " ".join(filter(None, sentences))


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
