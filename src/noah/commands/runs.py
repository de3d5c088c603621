"""Verbs of single runs and models: trained, scored, measured, looked into, taken elsewhere."""

import os
from pathlib import Path
from typing import Annotated

import typer

from noah.commands.options import CACHE, Cache, Device, Scale, ShardsOrUrl, StateRoot, StudyName, Threads
from noah.config import load_run, load_study

app = typer.Typer()


@app.command()
def train(
    run: Annotated[str, typer.Argument(help="A run.yaml, or (with --study) the key of a run.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="Folder that receives the results.")],
    study: Annotated[str | None, typer.Option(help="The study that the key belongs to.")] = None,
    scale: Scale = "full",
    shards: ShardsOrUrl = "shards",
    device: Device = "auto",
    threads: Threads = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images, per rank.")] = 0,
    state: StateRoot = Path("state"),
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Keep the last checkpoint until `noah score --forget-state`.")
    ] = False,
    stage_to: Annotated[
        str | None,
        typer.Option(envvar="NOAH_STAGE_TO", help="Folder on a disk of this node to copy shards to: '$SLURM_TMPDIR'."),
    ] = None,
    cache: Cache = CACHE,
) -> None:
    """Train one run and predict its test split. Stopped by a signal, it saves its state; started again, it resumes.

    \b
    Example: noah train digits-few/few-mlp/gmlp_tiny-d6-p8-w0.5/noah/s0 --study digits --out /tmp/run
    """
    from noah.data.staging import stage_folder
    from noah.engine.train import Machine
    from noah.engine.train import train as train_run
    from noah.tracking.live import live_log

    loaded = load_study(study, scale) if study else None
    resolved = loaded.run(run) if loaded else load_run(Path(run))
    staging = stage_folder(stage_to) if stage_to else None
    machine = Machine(device, threads, workers, state, keep_state=keep_state, stage_to=staging, cache=cache)
    with live_log(loaded, resolved) as on_epoch:
        train_run(resolved, shards, out, machine, on_epoch)


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.", metavar="RUN_FOLDER")],
    shards: ShardsOrUrl = "shards",
    cache: Cache = CACHE,
    state: StateRoot = Path("state"),
    forget_state: Annotated[
        bool, typer.Option("--forget-state", help="Then remove what `noah train --keep-state` kept.")
    ] = False,
) -> None:
    """Compute metrics.json of a run from its prediction records.

    \b
    Example: noah score results/digits/runs/digits-few/few-mlp/gmlp_tiny-d6-p8-w0.5/noah/s0
    """
    from noah.data.access import manifest_of_test
    from noah.evaluate.metrics import score as score_run

    dataset = load_run(run / "run.yaml").dataset
    metrics = score_run(run, manifest_of_test(shards, dataset, cache))
    shown = {"top1": (("top-1", "top1"), ("top-5", "top5")), "map": (("mAP", "map"), ("CF1", "cf1"), ("OF1", "of1"))}
    print(f"{metrics['run_key']}: {', '.join(f'{name} {metrics[field]:.2f}%' for name, field in shown[dataset.score])}")
    if forget_state:
        from noah.engine.folder import forget

        forget(state, run)


@app.command()
def cost(
    study: StudyName,
    dataset: Annotated[str, typer.Option(help="Which dataset of the study.")],
    backbone: Annotated[str, typer.Option(help="Which backbone, as in the run keys.")],
    scale: Scale = "full",
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Measure all arms of one backbone, interleaved: parameters, MACs, latency, images/s, memory.

    \b
    Example: noah cost digits --dataset digits-few --backbone gmlp_tiny-d6-p8-w0.5
    """
    # torch's profiler, which measures memory, else prints its own troubles; it reads this when torch is imported.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from noah.evaluate.study_cost import write_cost

    print(write_cost(load_study(study, scale), dataset, backbone, device=device, threads=threads))


@app.command()
def attention(
    runs: Annotated[list[Path], typer.Argument(help="Folders of trained runs on one dataset.", metavar="RUN_FOLDER")],
    images: Annotated[int, typer.Option(help="How many images of the test split, from its first.")] = 8,
    out: Annotated[Path | None, typer.Option(help="A .png or .svg; default: in the figures of the study.")] = None,
    shards: Annotated[Path, typer.Option(help="Folder of all shards; not a URL.")] = Path("shards"),
) -> None:
    """Draw where trained models look: NOAH's maps, or the class activation maps of another head, of the best classes.

    \b
    Example: noah attention results/digits/runs/digits-few/few-mlp/gmlp_tiny-d6-p8-w0.5/noah/s0 --images 8
    """
    from noah.evaluate.attention import draw_attention

    print(draw_attention(runs, shards, images, out))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.", metavar="RUN_FOLDER")],
    to: Annotated[str, typer.Option(help="safetensors, onnx or pt2.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
) -> None:
    """Write a trained model as a file for elsewhere, and check that its class scores are the same.

    \b
    Example: noah export results/digits/runs/digits-few/few-mlp/gmlp_tiny-d6-p8-w0.5/noah/s0 --to pt2 --out noah.pt2
    """
    from noah.evaluate.export import export as export_run

    print(f"{out}: {export_run(run, to, out)}")


@app.command("import-weights")
def import_weights(
    checkpoint: Annotated[Path, typer.Argument(help="A released .pth of the official code.", metavar="CHECKPOINT")],
    backbone: Annotated[str, typer.Option(help="A published backbone, such as mobilenetv2.")],
    out: Annotated[Path, typer.Option(help="The .safetensors to write.")],
    width: Annotated[float, typer.Option(help="A published width.")] = 1.0,
    head: Annotated[str, typer.Option(help="noah, or baseline.")] = "noah",
    classes: Annotated[int, typer.Option(min=1, help="Classes of the checkpoint.")] = 1000,
) -> None:
    """Turn an official checkpoint into safetensors of our model: every tensor has to fit.

    \b
    Example: noah import-weights noah_mobilenetv2_050.pth --backbone mobilenetv2 --width 0.5 --out model.safetensors
    """
    from noah.evaluate.export import import_weights as import_checkpoint

    import_checkpoint(checkpoint, out, backbone=backbone, head=head, width=width, num_classes=classes)
    print(out)
