"""What a study is going to train and what that will take, found out by building every model on the meta device."""

import math
from pathlib import Path

import pandas as pd
import torch

from noah.backbones import BASELINE_HEAD
from noah.config import Run, Study
from noah.data.transforms import eval_transform, train_transform
from noah.evaluate.cost import count_macs
from noah.evaluate.estimate import find_throughput
from noah.files import write_atomic
from noah.models import build_model, describe
from noah.models.features import probe
from noah.models.memory import checkpoint_gradients, kept_for_backward
from noah.published import read_published

RUNTIME_MARGIN = 2
"""Wall time that is asked for, over the estimate of training: +-40%, start-up, evaluation."""
BASE_MB = 2000
"""Memory of a process on the CPU before it has a model: Python, torch, shards in the cache of the system."""


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
        key = repr((run.dataset.image_size, run.model_arguments, run.recipe.grad_checkpointing))
        if key not in built:
            built[key] = _describe(study, run)
        _check_augmentation(study, run)
        rows.append(_row(study, run, built[key]))
    return pd.DataFrame(rows)


def run_of(study: Study, row) -> Run:
    """The first run that a row of the plan stands for."""
    wanted = (row.dataset, row.recipe, row.backbone, row.arm)
    return next(run for run in study.runs if (run.dataset.name, run.recipe_name, run.backbone.slug, run.arm) == wanted)


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
        if run.recipe.grad_checkpointing:
            checkpoint_gradients(model, run.backbone.name)
    except ValueError as error:
        raise _about(study, run, error) from None
    macs = count_macs(model, torch.zeros(1, 3, size, size, device="meta"))["macs"]
    return {**described, "macs": macs, **kept_for_backward(model, size)}


def _check_augmentation(study: Study, run: Run) -> None:
    try:
        run.recipe.passes(study.spec.resources.ranks)
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
    needed_mb = BASE_MB + 1.5 * run.recipe.step_bytes(model["parameters"], model["kept"]) / 1e6
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
    """The columns of noah.plan.warnings.SIGNATURES; the first two matter to NOAH alone."""
    heads = run.head.num_heads if run.head.name == "noah" else None
    samples, recipe = run.dataset.training_images(), run.recipe
    kept_by_head = recipe.forward_batch * recipe.number_bytes * model["head_kept"]
    return {
        "channels_per_head": model["in_features"] / heads if heads else None,
        "images_per_class_and_head": samples / run.dataset.num_classes / heads if heads and samples else None,
        "steps_per_epoch": samples // recipe.batch if samples else None,
        "head_memory_share": kept_by_head / recipe.step_bytes(model["parameters"], model["kept"]),
    }


def _published_parameters(study: Study, run: Run) -> float | None:
    """In millions; None where the paper has no such row: 1,000 classes, unchanged architectures, its own N, r or FC."""
    if run.dataset.num_classes != 1000 or run.backbone.changes or not _is_published(run):
        return None
    row = read_published(study).get((run.backbone.name, run.backbone.width))
    if row is None:
        return None
    if run.head.name != "noah":
        return row["params_m_baseline"]
    same = (run.head.num_heads, run.head.key_ratio) == (row["num_heads"], row["key_ratio"])
    return row["params_m_noah"] if same else None


def _is_published(run: Run) -> bool:
    """Whether the head is the paper's baseline of this backbone, or its NOAH with no switch turned."""
    if run.head.name == "noah":
        return not set(run.head.kwargs) - {"num_heads", "key_ratio", "init", "drop_rate"}
    return run.head.name == BASELINE_HEAD.get(run.backbone.family)


def add_resolution(plan: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """The plan with `resolvable_points` and `resolvable_basis` for every arm that a declared pair ends in.

    Args:
        plan: Of `make_plan`.
        differences: What can be found, of noah.report.resolution. Of several pairs that end in an arm, the arm gets the
            one that needs the largest difference.
    """
    names = ["dataset", "recipe", "backbone", "to"]
    worst = differences.sort_values("resolvable_points", ascending=False, kind="stable").drop_duplicates(names)
    found = plan[["dataset", "recipe", "backbone", "arm"]].merge(
        worst, how="left", left_on=["dataset", "recipe", "backbone", "arm"], right_on=names
    )
    joined, place = plan.copy(), plan.columns.get_loc("published_parameters_m")
    joined.insert(place, "resolvable_points", found["resolvable_points"].to_numpy())
    joined.insert(place + 1, "resolvable_basis", found["basis"].to_numpy())
    return joined


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
