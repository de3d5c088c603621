"""What a study is going to train, found out by building every model on the meta device: nothing is spent yet."""

from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from noah.config import Run, Study
from noah.data.transforms import eval_transform, train_transform
from noah.evaluate.cost import count_macs
from noah.files import write_atomic
from noah.models import build_model, describe


def make_plan(study: Study) -> pd.DataFrame:
    """One row per dataset x recipe x backbone x arm.

    Raises:
        ValueError: A model or an augmentation that cannot be built, with the arm and backbone it belongs to.
    """
    rows, built = [], {}
    for run in study.runs:
        key = (run.dataset.name, run.backbone.slug, run.arm)
        if key not in built:
            built[key] = _describe(study, run)
        if run.seed == study.spec.seeds[0]:
            rows.append({"dataset": run.dataset.name, "recipe": run.recipe_name, **built[key]})
    return pd.DataFrame(rows)


def _describe(study: Study, run: Run) -> dict:
    try:
        train_transform(run.recipe, run.dataset)
        eval_transform(run.recipe, run.dataset)
        with torch.device("meta"):
            model = build_model(**run.model_arguments).eval()
        described = describe(model)
        size = run.dataset.image_size
        macs = count_macs(model, torch.zeros(1, 3, size, size, device="meta"))["macs"]
    except ValueError as error:
        raise ValueError(f"{study.path}: arm '{run.arm}' on backbone '{run.backbone.slug}': {error}") from None
    return {
        "backbone": run.backbone.slug,
        "width": run.backbone.width,
        "arm": run.arm,
        "head": run.head.name,
        "num_heads": run.head.num_heads,
        "key_ratio": run.head.key_ratio,
        "in_features": described["in_features"],
        "positions": described["positions"],
        "parameters": described["parameters"],
        "macs": macs,
        "published_parameters_m": _published_parameters(study, run),
    }


def _published_parameters(study: Study, run: Run) -> float | None:
    """In millions; None where the paper has no such row: it has 1,000 classes and unchanged architectures."""
    if study.spec.published is None or run.dataset.num_classes != 1000 or run.backbone.changes:
        return None
    published = pd.read_csv(study.path.parents[1] / "published" / f"{study.spec.published}.csv")
    row = published[(published.backbone == run.backbone.name) & (published.width == run.backbone.width)]
    column = "params_m_noah" if run.head.name == "noah" else "params_m_baseline"
    return float(row[column].iloc[0]) if len(row) else None


def show_plan(study: Study, plan: pd.DataFrame) -> None:
    table = Table(title=f"{study.spec.title}: {len(study.runs)} runs, seeds {', '.join(map(str, study.spec.seeds))}")
    for column in plan.columns:
        table.add_column(column)
    for row in plan.itertuples(index=False):
        table.add_row(*("" if value is None or value != value else f"{value}" for value in row))
    Console(width=200, soft_wrap=True).print(table)


def save_plan(study: Study, plan: pd.DataFrame) -> Path:
    path = study.results / "plan.csv"
    with write_atomic(path) as temporary:
        plan.to_csv(temporary, index=False)
    return path
