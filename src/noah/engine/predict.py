"""The prediction records of a whole split, which every metric is computed from."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.utils.data import DataLoader

from noah.average_precision import mean_average_precision
from noah.config import Dataset, Recipe
from noah.data.loader import eval_loader
from noah.data.reader import Shards
from noah.data.transforms import normalize
from noah.devices import autocast
from noah.engine.distributed import World
from noah.files import write_atomic
from noah.precision import float32_products

THRESHOLDS = "noah.thresholds"
EVAL_BATCH = 250
"""Fixed: an image's logits must not depend on how many processes share the work."""
TOP = 5


@torch.inference_mode()
def predict(
    model: nn.Module,
    shards: Shards,
    dataset: Dataset,
    recipe: Recipe,
    world: World,
    workers: int = 0,
    loader: DataLoader | None = None,
) -> torch.Tensor:
    """What is recorded of every image of a split, in index order; the same on every rank.

    Whole fixed batches are dealt to the ranks round-robin, and there is no collective until every rank is done. Logits
    of single-label data are ranked batch by batch and not kept: a million images with 21,000 classes are 80 GiB.

    Args:
        loader: Of `records_loader`, for a split that is looked at again and again.

    Returns:
        Of single-label data what `ranking` gives, else the logits, float32 (S, M); on the CPU.

    Raises:
        FloatingPointError: Logits of an image are no finite numbers.
    """
    training = model.training
    model.eval()
    columns, dtype = (dataset.num_classes, torch.float32) if dataset.multi_label else (2 * TOP + 1, torch.float64)
    rows = torch.full((len(shards), columns), torch.nan, dtype=dtype)
    if loader is None:
        loader = records_loader(shards, dataset, recipe, world, workers)
    with float32_products(recipe.eval_precision):
        for images, labels, indices in loader:
            images = normalize(images.to(world.device, non_blocking=True), recipe, dataset)
            with autocast(world.device, recipe.eval_precision):
                logits = model(images).float()
            rows[indices] = (logits if dataset.multi_label else ranking(logits, labels.to(world.device))).cpu()
    model.train(training)
    rows = world.merge(rows)
    missing = int(rows.isnan().any(1).sum())
    if missing:
        raise FloatingPointError(f"{missing} of {len(shards)} images have logits that are not finite numbers")
    return rows


def records_loader(
    shards: Shards, dataset: Dataset, recipe: Recipe, world: World, workers: int = 0, persist: bool = False
) -> DataLoader:
    """What `predict` reads; with `persist` its workers stay from one look at the split to the next."""
    return eval_loader(
        shards,
        recipe,
        dataset,
        batch=EVAL_BATCH,
        rank=world.rank,
        world_size=world.size,
        workers=workers,
        pin_memory=world.device.type == "cuda",
        persist=persist,
    )


def ranking(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Per image the five best classes, best first, their probabilities, and the log-probability of its label.

    Of equal logits the lower class comes first. Where there are less than five classes the list is filled up with class
    -1 of probability 0.

    Args:
        logits: (B, M).
        labels: int64 (B,).

    Returns:
        float64 (B, 11); NaN in the last column where a logit is no finite number.
    """
    log_probabilities = logits.double().log_softmax(1)
    # torch.topk promises no order of equals.
    ranked = log_probabilities.sort(dim=1, descending=True, stable=True)
    best, probabilities = ranked.indices[:, :TOP], ranked.values[:, :TOP].exp()
    fill = (0, TOP - best.shape[1])
    best, probabilities = nn.functional.pad(best, fill, value=-1), nn.functional.pad(probabilities, fill)
    return torch.cat([best.double(), probabilities, log_probabilities.gather(1, labels[:, None])], 1)


def loss_and_score(rows: torch.Tensor, labels: np.ndarray) -> tuple[float, float]:
    """Mean cross-entropy and top-1; of multi-label data mean binary cross-entropy and mAP. Scores in percent.

    Args:
        rows: As `predict` returns them.
        labels: As of `Shards`.
    """
    target = torch.from_numpy(labels)
    if target.ndim == 2:
        loss = nn.functional.binary_cross_entropy_with_logits(rows.double(), target.double())
        return loss.item(), mean_average_precision(rows.numpy(), labels)
    return -rows[:, -1].mean().item(), 100 * int((rows[:, 0] == target).sum()) / len(target)


def best_thresholds(logits: torch.Tensor, labels: np.ndarray) -> list[float]:
    """Per class the probability from which on it is predicted: where F1 is largest; 0.5 without a positive image.

    Args:
        logits: (S, M) of images that no result is computed from.
        labels: uint8 (S, M).
    """
    probabilities = logits.double().sigmoid().numpy()
    thresholds = []
    for scores, positive in zip(probabilities.T, labels.T, strict=True):
        ranked = np.argsort(-scores, kind="stable")
        predicted = np.arange(1, len(ranked) + 1)
        f1 = 2 * positive[ranked].cumsum() / (predicted + positive.sum())
        # Images with equal scores are predicted together.
        f1[np.append(scores[ranked[1:]] == scores[ranked[:-1]], False)] = -1
        thresholds.append(float(scores[ranked[f1.argmax()]]) if positive.any() else 0.5)
    return thresholds


def write_records(path: Path, shards: Shards, rows: torch.Tensor, thresholds: list[float] | None = None) -> None:
    """predictions.parquet of either kind, of what `predict` returned."""
    if shards.labels.ndim == 2:
        write_multi_label_predictions(path, shards.keys, shards.labels, rows, thresholds, clusters=shards.clusters)
    else:
        write_predictions(path, shards.keys, shards.labels, rows, clusters=shards.clusters)


def write_predictions(
    path: Path, keys: np.ndarray, labels: np.ndarray, rows: torch.Tensor, *, clusters: pa.Array | None = None
) -> None:
    """One record per image: key, label, the five best classes, their probabilities, log-probability of the label.

    Args:
        rows: (S, 11), as `ranking` returns them.
        clusters: As of `Shards`, for a column cluster; None: there is none.
    """
    classes, probabilities = rows[:, :TOP].to(torch.int32).numpy(), rows[:, TOP:-1].float().numpy()
    table = pa.table(
        {
            "key": pa.array(keys.tolist()),
            "label": pa.array(labels, pa.int32()),
            "top5": pa.FixedSizeListArray.from_arrays(pa.array(classes.reshape(-1), pa.int32()), TOP),
            "top5_prob": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.reshape(-1), pa.float32()), TOP),
            "label_logprob": pa.array(rows[:, -1].float().numpy()),
        }
    )
    _write(path, table, clusters)


def write_multi_label_predictions(
    path: Path,
    keys: np.ndarray,
    labels: np.ndarray,
    logits: torch.Tensor,
    thresholds: list[float] | None,
    *,
    clusters: pa.Array | None = None,
) -> None:
    """One record per image: key, labels (class numbers), scores (the M logits).

    Args:
        thresholds: Per class, of probabilities; as JSON in the schema's metadata under `THRESHOLDS`. None: there was no
            minival to choose them on, and 0.5 stands for every class.
        clusters: As of `Shards`, for a column cluster; None: there is none.
    """
    images, classes = logits.shape
    offsets = np.append(0, labels.sum(axis=1, dtype=np.int64).cumsum())
    table = pa.table(
        {
            "key": pa.array(keys.tolist()),
            "labels": pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), pa.array(labels.nonzero()[1], pa.int32())
            ),
            "scores": pa.FixedSizeListArray.from_arrays(pa.array(logits.numpy().reshape(-1), pa.float32()), classes),
        }
    )
    assert table.num_rows == images
    _write(path, table.replace_schema_metadata({THRESHOLDS: json.dumps(thresholds or [0.5] * classes)}), clusters)


def _write(path: Path, table: pa.Table, clusters: pa.Array | None) -> None:
    if clusters is not None:
        table = table.append_column("cluster", clusters)
    with write_atomic(path) as temporary:
        pq.write_table(table, temporary)
