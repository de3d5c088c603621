"""What a finished run leaves behind: weights, predictions, history, and where they came from."""

import csv
from pathlib import Path

from safetensors.torch import save
from torch import nn

from noah.config import Run
from noah.data.reader import Shards
from noah.engine.distributed import World
from noah.engine.lock import Lock
from noah.engine.predict import best_thresholds, predict, write_records
from noah.engine.provenance import describe_arm, describe_origin
from noah.engine.state import TrainState
from noah.files import write_atomic, write_json, write_text


def finish(
    run: Run,
    splits: dict[str, Shards],
    out: Path,
    state: TrainState,
    ranks: World,
    held: Lock | None,
    workers: int = 0,
) -> None:
    """Evaluate the weights that a run has and write its folder. Every rank calls this; the first one writes.

    The weights that the recipe names are model.safetensors and predictions.parquet; the others, of a run that averages,
    are evaluated too: model_ema.safetensors and predictions_ema.parquet, or `_last`.

    Args:
        held: The lock of the run's state, on the first rank.

    Raises:
        FloatingPointError: Logits of an image are no finite numbers.
        LockLost: Another process trains this run by now.
    """
    for kind, model in state.weights.items():
        model = ranks.share(model)
        rows = predict(model, splits["test"], run.dataset, run.recipe, ranks, workers)
        thresholds = None
        if run.dataset.multi_label and "minival" in splits:
            minival = predict(model, splits["minival"], run.dataset, run.recipe, ranks, workers)
            thresholds = best_thresholds(minival, splits["minival"].labels)
        if ranks.is_main:
            held.check()
            suffix = "" if kind == run.recipe.evaluate else f"_{kind}"
            write_records(out / f"predictions{suffix}.parquet", splits["test"], rows, thresholds)
            _write_weights(out / f"model{suffix}.safetensors", run, model)
    if ranks.is_main:
        write_text(out / "run.yaml", run.to_yaml())
        _write_history(out / "history.csv", state.history)
        write_json(out / "arm.json", describe_arm(run, state.model, state.optimizer))
        write_json(out / "provenance.json", describe_origin(run, splits, ranks, state))


def _write_weights(path: Path, run: Run, model: nn.Module) -> None:
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with write_atomic(path) as temporary:
        # One entry only: safetensors writes several in an order of its own, and the file would differ from run to run.
        temporary.write_bytes(save(weights, metadata={"run_sha256": run.hash}))


def _write_history(path: Path, history: list[dict]) -> None:
    with write_atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
