"""What a study is going to train and what that will take, found out by building every model on the meta device."""

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from noah.backbones import BASELINE_HEAD
from noah.config import Run, Study
from noah.data.shards import shards_hint
from noah.data.transforms import eval_transform, train_transform
from noah.evaluate.cost import count_macs
from noah.evaluate.estimate import BASES, find_throughput, kept_for_backward, number_size, planned_device, step_bytes
from noah.files import write_atomic
from noah.models import build_model, describe
from noah.models.features import probe

RUNTIME_MARGIN = 2
"""Wall time that is asked for, over the estimate of training: +-40%, start-up, evaluation."""
BASE_MB = 2000
"""Memory of a process on the CPU before it has a model: Python, torch, shards in the cache of the system."""

SIGNATURES: dict[str, tuple[Callable[[float], bool], str]] = {
    "channels_per_head": (lambda value: value < 16, "fewer than 16 channels for each head of NOAH (C/N)"),
    "images_per_class_and_head": (
        lambda value: value < 50,
        "fewer than 50 training images per class for each head of NOAH",
    ),
    "head_memory_share": (lambda value: value > 0.25, "the head keeps more than a quarter of a training step's memory"),
}
"""Columns of the plan, when their value is a failure signature, and what the warning says. 50 images are our rule of
thumb, which study failure-signatures puts to the test."""


def make_plan(study: Study) -> pd.DataFrame:
    """One row per dataset x recipe x backbone x arm: the model, its cost, and what its runs (one per seed) will take.

    Raises:
        ValueError: A model or an augmentation that cannot be built, or a batch that data or processes do not make
            up, with the arm and backbone it belongs to.
    """
    rows, built = [], {}
    for run in study.runs:
        if run.seed != study.spec.seeds[0]:
            continue
        key = repr((run.dataset.image_size, run.model_arguments))
        if key not in built:
            built[key] = _describe(study, run)
        _check_augmentation(study, run)
        rows.append(_row(study, run, built[key]))
    return pd.DataFrame(rows)


def missing_weights(study: Study) -> list[str]:
    """What is wrong with the weights that backbones start from, one sentence each."""
    problems = {}
    for run in study.runs:
        try:
            path = run.backbone.weights_path
            if path and not path.is_file():
                problems[run.backbone.slug] = f"backbone '{run.backbone.slug}': weights: {path}: no such file"
        except ValueError as error:
            problems[run.backbone.slug] = str(error)
    return list(problems.values())


def _describe(study: Study, run: Run) -> dict:
    size = run.dataset.image_size
    try:
        with torch.device("meta"):
            model = build_model(**run.model_arguments).eval()
        described = describe(model)
        first = run.recipe.train_size(0, size)
        if first != size:  # growing images
            probe(model.backbone, run.backbone.name, 3, first)
    except ValueError as error:
        raise _about(study, run, error) from None
    macs = count_macs(model, torch.zeros(1, 3, size, size, device="meta"))["macs"]
    return {**described, "macs": macs, **kept_for_backward(model, size)}


def _check_augmentation(study: Study, run: Run) -> None:
    try:
        run.recipe.check_world_size(study.spec.resources.ranks)
        train_transform(run.recipe, run.dataset)
        eval_transform(run.recipe, run.dataset)
    except ValueError as error:
        raise _about(study, run, error) from None


def _about(study: Study, run: Run, error: ValueError | str) -> ValueError:
    return ValueError(f"{study.path}: arm '{run.arm}' on backbone '{run.backbone.slug}': {error}")


def _row(study: Study, run: Run, model: dict) -> dict:
    speed, basis = find_throughput(study, run, model)
    samples, seeds = run.dataset.training_images(), len(study.spec.seeds)
    batch = run.recipe.batch
    if samples is not None and samples < batch:
        raise _about(study, run, f"batch is {batch}, expected at most the {samples} images of split train")
    images = run.recipe.epochs * (samples // batch) * batch if samples else None
    resources = study.spec.resources
    devices = resources.nodes * (resources.gpus or resources.cpus)
    # Measured speeds are those of all processes together.
    hours = images / (speed if basis == "measured" else speed * resources.ranks) / 3600 if images and speed else None
    needed_mb = BASE_MB + 1.5 * step_bytes(run.recipe, model["parameters"], model["kept"]) / 1e6
    return {
        "dataset": run.dataset.name,
        "recipe": run.recipe_name,
        "backbone": run.backbone.slug,
        "width": run.backbone.width,
        "arm": run.arm,
        "head": run.head.name,
        "num_heads": run.head.num_heads,
        "key_ratio": run.head.key_ratio,
        "in_features": model["in_features"],
        "positions": model["positions"],
        "parameters": model["parameters"],
        "macs": model["macs"],
        "kept_for_backward": model["kept"],
        "head_kept_for_backward": model["head_kept"],
        "images_per_s": speed,
        "basis": basis,
        "runs": seeds,
        "device_hours": hours * devices * seeds if hours is not None else None,
        "nodes": resources.nodes,
        "gpus": resources.gpus,
        "cpus": resources.cpus,
        "mem_mb": resources.mem_mb if resources.gpus else max(resources.mem_mb, round(needed_mb)),
        "runtime_min": math.ceil(60 * hours * RUNTIME_MARGIN) if hours is not None else None,
        **_signatures(run, model),
        "published_parameters_m": _published_parameters(study, run),
    }


def _signatures(run: Run, model: dict) -> dict[str, float | None]:
    """The columns of SIGNATURES; the first two matter to NOAH alone."""
    heads = run.head.num_heads if run.head.name == "noah" else None
    samples, recipe = run.dataset.training_images(), run.recipe
    kept_by_head = recipe.forward_batch * number_size(recipe) * model["head_kept"]
    return {
        "channels_per_head": model["in_features"] / heads if heads else None,
        "images_per_class_and_head": samples / run.dataset.num_classes / heads if heads and samples else None,
        "head_memory_share": kept_by_head / step_bytes(recipe, model["parameters"], model["kept"]),
    }


def _published_parameters(study: Study, run: Run) -> float | None:
    """In millions; None where the paper has no such row: 1,000 classes, unchanged architectures, its own N, r or FC."""
    if study.spec.published is None or run.dataset.num_classes != 1000 or run.backbone.changes:
        return None
    if not _is_published(run):
        return None
    published = pd.read_csv(study.path.parents[1] / "published" / f"{study.spec.published}.csv")
    row = published[(published.backbone == run.backbone.name) & (published.width == run.backbone.width)]
    if run.head.name == "noah":
        row = row[(row.num_heads == run.head.num_heads) & (row.key_ratio == run.head.key_ratio)]
    column = "params_m_noah" if run.head.name == "noah" else "params_m_baseline"
    return float(row[column].iloc[0]) if len(row) else None


def show_plan(study: Study, plan: pd.DataFrame) -> None:
    """Print a table of 120 columns per dataset and recipe, then warnings, the total, and what the estimates rest on."""
    console, unit = Console(width=120, highlight=False), planned_device(study).unit
    console.print(f"{study.spec.title}: {len(study.runs)} runs, seeds {', '.join(map(str, study.spec.seeds))}")
    columns = ("backbone", "arm", "N", "r", "C", "L", "params M", "paper M", "MACs M", "images/s", "runs", unit)
    for (dataset, recipe), rows in plan.groupby(["dataset", "recipe"], sort=False):
        table = Table(
            *columns, title=f"{dataset}, recipe {recipe}", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0)
        )
        for column in table.columns[2:]:
            column.justify = "right"
        above = None
        for row in rows.itertuples(index=False):
            table.add_row("" if row.backbone == above else row.backbone, *_cells(row))
            above = row.backbone
        console.print(table)
    for column, (is_bad, text) in SIGNATURES.items():
        for (dataset, recipe), rows in plan.groupby(["dataset", "recipe"], sort=False):
            bad = rows[[is_bad(value) for value in rows[column].astype(float)]]
            found = ", ".join(f"{row.backbone}/{row.arm} {getattr(row, column):.2g}" for row in bad.itertuples())
            if found:
                console.print(f"warning: {text}: {dataset}/{recipe}: {found}")
    for dataset in study.datasets.values():
        for split in dataset.splits:
            if hint := shards_hint(dataset, split, Path("shards") / dataset.name / split):
                console.print(f"hint: {hint}")
    for problem in missing_weights(study):
        console.print(f"warning: {problem}")
    unknown = int(plan.device_hours.isna().sum())
    missing = f", without {unknown} rows whose number of images is not known" if unknown else ""
    console.print(f"Total: {len(study.runs)} runs, {plan.device_hours.sum():,.2f} {unit}{missing}")
    for basis in plan.basis.unique():
        console.print(f"images/s marked {basis[0]} ({basis}): {BASES[basis].format(device=planned_device(study).name)}")


def _is_published(run: Run) -> bool:
    """Whether the head is the paper's baseline of this backbone, or its NOAH with no switch turned."""
    if run.head.name == "noah":
        return not set(run.head.kwargs) - {"num_heads", "key_ratio", "init", "drop_rate"}
    return run.head.name == BASELINE_HEAD.get(run.backbone.family)


def _cells(row) -> tuple[str, ...]:
    def number(value, form: str) -> str:
        return "" if pd.isna(value) else format(value, form)

    return (
        row.arm,
        number(row.num_heads, ".0f"),
        number(row.key_ratio, "g"),
        str(row.in_features),
        str(row.positions),
        f"{row.parameters / 1e6:.2f}",
        number(row.published_parameters_m, ".2f"),
        f"{row.macs / 1e6:,.1f}",
        f"{row.images_per_s:,.0f} {row.basis[0]}",
        str(row.runs),
        number(row.device_hours, ",.2f" if not pd.isna(row.device_hours) and row.device_hours >= 1 else ".3f"),
    )


def save_plan(study: Study, plan: pd.DataFrame) -> Path:
    """Write results/{study}/plan.csv, which the jobs that are about to start look up.

    Raises:
        ValueError: Weights that a backbone starts from are not there: training would fail, hours later.
    """
    if problems := missing_weights(study):
        raise ValueError(f"{study.path}: {'; '.join(problems)}")
    path = study.results / "plan.csv"
    with write_atomic(path) as temporary:
        plan.to_csv(temporary, index=False)
    return path
