"""The cost file of one backbone of a study: all its arms, measured against each other."""

from functools import partial
from pathlib import Path

import torch

from noah.config import Study
from noah.devices import HALF, choose_device
from noah.evaluate.cost import measure_cost
from noah.files import write_json
from noah.models import build_model
from noah.precision import float32_products

BATCH = 64
ROUNDS = 20


def write_cost(study: Study, dataset: str, backbone: str, *, device: str = "auto", threads: int = 1) -> Path:
    """Measure the arms of a backbone and write results/{study}/cost/{dataset}-{backbone}.json.

    Args:
        device: `auto` takes a GPU where there is one.
        threads: Of torch on the CPU. One by default: shared cores make the times of several unsteady.

    Raises:
        ValueError: The study has no such dataset or backbone.
    """
    torch.set_num_threads(threads)
    device = choose_device(device).type
    arms = study.arms_of(dataset, backbone)
    first = arms[0]
    with float32_products(first.recipe.precision):
        cost = measure_cost(
            {run.arm: partial(build_model, **run.model_arguments) for run in arms},
            image_size=first.dataset.image_size,
            num_classes=first.dataset.num_classes,
            batch=BATCH,
            rounds=ROUNDS,
            device=device,
            dtype=HALF.get(first.recipe.precision, torch.float32),
            channels_last=first.recipe.channels_last,
        )
    path = study.results / "cost" / f"{dataset}-{backbone}.json"
    config = study.cost_hash(dataset, backbone)
    write_json(path, {"dataset": dataset, "backbone": backbone, "config_sha256": config, **cost})
    return path
