"""Logits of a whole split, and the prediction records that every metric is computed from."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from noah.config import Dataset, Recipe
from noah.data.loader import eval_loader
from noah.data.reader import Shards
from noah.data.transforms import normalize
from noah.engine.distributed import World, autocast
from noah.files import write_atomic

EVAL_BATCH = 250
"""Fixed: an image's logits must not depend on how many processes share the work."""


@torch.inference_mode()
def predict(
    model: nn.Module, shards: Shards, dataset: Dataset, recipe: Recipe, world: World, workers: int = 0
) -> torch.Tensor:
    """Logits (S, M), float32 on the CPU, one row per image of the split, in index order; the same on every rank.

    Whole fixed batches are dealt to the ranks round-robin, and there is no collective until every rank is done.
    """
    training = model.training
    model.eval()
    logits = torch.full((len(shards), dataset.num_classes), torch.nan)
    loader = eval_loader(
        shards, recipe, dataset, batch=EVAL_BATCH, rank=world.rank, world_size=world.size, workers=workers
    )
    for images, _, indices in loader:
        images = normalize(images.to(world.device, non_blocking=True), dataset)
        with autocast(world.device, recipe.precision):
            logits[indices] = model(images).float().cpu()
    model.train(training)
    logits = world.merge(logits)
    missing = int(logits.isnan().any(1).sum())
    if missing:
        raise FloatingPointError(f"{missing} of {len(shards)} images have logits that are not finite numbers")
    return logits


def loss_and_top1(logits: torch.Tensor, labels: np.ndarray) -> tuple[float, float]:
    """Mean cross-entropy and top-1 in percent."""
    target = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    loss = nn.functional.cross_entropy(logits.double(), target)
    return loss.item(), 100 * int((logits.argmax(1) == target).sum()) / len(target)


def write_predictions(path: Path, keys, labels: np.ndarray, logits: torch.Tensor) -> None:
    """One record per image: key, label, the five best classes, their probabilities, log-probability of the label.

    With fewer than five classes the list is filled up with class -1 of probability 0.
    """
    log_probabilities = logits.double().log_softmax(1)
    top = log_probabilities.topk(min(5, logits.shape[1]), dim=1)
    fill = 5 - top.indices.shape[1]
    classes = nn.functional.pad(top.indices, (0, fill), value=-1).to(torch.int32).numpy()
    probabilities = nn.functional.pad(top.values.exp(), (0, fill)).float().numpy()
    target = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    table = pa.table(
        {
            "key": pa.array([str(key) for key in keys]),
            "label": pa.array(np.asarray(labels), pa.int32()),
            "top5": pa.FixedSizeListArray.from_arrays(pa.array(classes.reshape(-1), pa.int32()), 5),
            "top5_prob": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.reshape(-1), pa.float32()), 5),
            "label_logprob": pa.array(log_probabilities.gather(1, target[:, None])[:, 0].float().numpy()),
        }
    )
    with write_atomic(path) as temporary:
        pq.write_table(table, temporary)
