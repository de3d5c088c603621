"""What a comparison rests on: how its arms differ besides the head, and if code, data and machines were the same."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from noah.config import Study

ARM_FACTS = (
    "class_token",
    "positions",
    "in_features",
    "head_dropout",
    "init",
    "parameters",
    "head_parameters",
    "weight_decay_groups",
    "moved_layers",
)
"""Fields of arm.json that may differ between the arms of a backbone."""

COST_FACTS = (
    "dataset",
    "backbone",
    "device",
    "dtype",
    "threads",
    "torch",
    "image_size",
    "batch",
    "rounds",
    "channels_last",
)


def fairness(study: Study, records: Sequence, costs: Sequence[dict]) -> dict:
    """The content of fairness.json.

    Args:
        study: The study.
        records: One `noah.report.collect.RunRecord` per run of the study.
        costs: The cost files that exist.
    """
    found = [record for record in records if record.missing is None]
    provenances = [record.provenance for record in found]
    arms, warnings = _arms(found)
    report = {
        "study": study.slug,
        "runs": len(records),
        "missing": {record.run.key: record.missing for record in records if record.missing},
        "seeds": sorted({record.run.seed for record in records}),
        "evaluated_weights": _distinct(p["evaluated_weights"] for p in provenances),
        "test_images": {
            d: _distinct(r.metrics.get("images") for r in found if r.run.dataset.name == d) for d in study.datasets
        },
        "manifests": _per_split(study, found, "manifests"),
        "quarantine_share": _per_split(study, found, "quarantine_share"),
        "commits": [
            {"commit": commit, "dirty": dirty, "runs": runs}
            for (commit, dirty), runs in Counter((p.get("commit"), bool(p.get("dirty"))) for p in provenances).items()
        ],
        **{
            name: _distinct(p.get(field) for p in provenances)
            for name, field in (
                ("devices", "device"),
                ("threads", "threads"),
                ("world_sizes", "world_size"),
                ("versions", "versions"),
                ("evaluated_in", "evaluated_in"),
            )
        },
        "resumed_at_commits": _distinct(c for p in provenances for c in p.get("resumed_at_commits", ())),
        "finished": sorted(p["finished"] for p in provenances if p.get("finished")),
        "backbone_changes": {r.backbone.slug: r.backbone.changes for r in study.runs if r.backbone.changes},
        "arms": arms,
        "comparisons": _comparisons(study, arms),
        "cost": [{fact: cost.get(fact) for fact in COST_FACTS} for cost in costs],
    }
    report["finished"] = [report["finished"][0], report["finished"][-1]] if report["finished"] else []
    report["warnings"] = warnings + _warnings(report)
    return report


def _per_split(study: Study, found: Sequence, fact: str) -> dict[str, dict[str, list]]:
    """Dataset -> split -> what the runs' provenance says there."""
    return {
        dataset: {
            split: _distinct(r.provenance.get(fact, {}).get(split) for r in found if r.run.dataset.name == dataset)
            for split in spec.splits
        }
        for dataset, spec in study.datasets.items()
    }


def _arms(found: Sequence) -> tuple[list[dict], list[str]]:
    """One entry per dataset x recipe x backbone x arm, and a warning where the seeds of an arm are not alike."""
    arms: dict[tuple, dict] = {}
    warnings = []
    for record in found:
        run = record.run
        name = {"dataset": run.dataset.name, "recipe": run.recipe_name, "backbone": run.backbone.slug, "arm": run.arm}
        facts = {"head": record.arm.get("head"), **{fact: record.arm.get(fact) for fact in ARM_FACTS}}
        entry = arms.setdefault(tuple(name.values()), {**name, **facts})
        if entry != {**name, **facts}:
            warnings.append(f"{run.key} was built otherwise than the other seeds of its arm (arm.json differs)")
    return list(arms.values()), warnings


def _comparisons(study: Study, arms: list[dict]) -> list[dict]:
    """Per dataset x recipe x backbone x compare pair: facts and recipe fields in which the arms differ, [from, to]."""
    facts = {(a["dataset"], a["recipe"], a["backbone"], a["arm"]): a for a in arms}
    runs = {(r.dataset.name, r.recipe_name, r.backbone.slug, r.arm): r for r in study.runs}
    comparisons = []
    for row in dict.fromkeys(name[:3] for name in runs):
        for pair in study.spec.compare:
            names = [(*row, arm) for arm in pair]
            if not all(name in runs for name in names):
                continue
            known = all(name in facts for name in names)
            recipes = [dict(runs[name].recipe) for name in names]  # with defaults, which a dump may leave out
            differences = _differing(*(facts[name] for name in names), ARM_FACTS) if known else {}
            differences |= {f"recipe.{k}": v for k, v in _differing(*recipes, recipes[0]).items()}
            comparisons.append(
                dict(zip(("dataset", "recipe", "backbone"), row, strict=True))
                | {"from": pair[0], "to": pair[1], "known": known, "differences": differences}
            )
    return comparisons


def _differing(one: dict, other: dict, fields: Iterable[str]) -> dict[str, list]:
    return {field: [one[field], other[field]] for field in fields if one[field] != other[field]}


def _warnings(report: dict) -> list[str]:
    warnings = []
    if len({c["commit"] for c in report["commits"]}) > 1:
        warnings.append("the runs come from different commits")
    if report["resumed_at_commits"]:
        warnings.append("some runs were resumed at another commit than they began with")
    if any(c["dirty"] for c in report["commits"]):
        warnings.append("some runs come from a working tree with uncommitted changes")
    for dataset, splits in report["manifests"].items():
        warnings += [
            f"the runs saw different {split} data of {dataset}" for split, shas in splits.items() if len(shas) > 1
        ]
    for field, what in (
        ("devices", "on different devices"),
        ("threads", "with different thread counts"),
        ("world_sizes", "with different numbers of processes"),
        ("versions", "with different software versions"),
        ("evaluated_weights", "and different kinds of weights were evaluated"),
        ("evaluated_in", "and evaluated in different precisions"),
    ):
        if len(report[field]) > 1:
            warnings.append(f"the runs were trained {what}")
    machines = _distinct(
        {k: cost[k] for k in ("device", "dtype", "threads", "torch", "batch")} for cost in report["cost"]
    )
    if len(machines) > 1:
        warnings.append("costs were measured under different conditions: compare them within a backbone only")
    return warnings


def _distinct(values: Iterable[Any]) -> list:
    """In order of appearance, None left out; works for dicts too."""
    distinct = []
    for value in values:
        if value is not None and value not in distinct:
            distinct.append(value)
    return distinct
