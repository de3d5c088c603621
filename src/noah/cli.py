"""The `noah` command: each verb parses, calls one function and prints. What it writes is described in docs/."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from noah.benchmark.cli import app as benchmark_app
from noah.config import load_dataset, load_run, load_study
from noah.redact import without_secrets
from noah.signals import Interrupted

app = typer.Typer(
    help="Train and compare heads of image classifiers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(benchmark_app, name="benchmark")

DatasetName = Annotated[str, typer.Argument(help="A file of config/datasets, without .yaml.", metavar="DATASET")]
SplitArgument = Annotated[str, typer.Argument(help="train, minival or test.", metavar="SPLIT")]
StudyName = Annotated[str, typer.Argument(help="A file of config/studies, without .yaml.", metavar="STUDY")]
Scale = Annotated[str, typer.Option(help="full, or small: the study's own reduced form.")]
ShardsRoot = Annotated[Path, typer.Option(help="Folder of all shards.")]
ShardsOrUrl = Annotated[str, typer.Option(help="Folder of all shards, or a URL that fsspec opens (https, s3, …).")]
Cache = Annotated[Path, typer.Option(envvar="NOAH_CACHE", help="Folder that keeps the shards behind a URL.")]
CACHE = Path("state/cache")
StateRoot = Annotated[Path, typer.Option(help="Folder of resume checkpoints.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch on the CPU.")]


@app.command()
def fetch(dataset: DatasetName) -> None:
    """Put a dataset's raw files in place and check them.

    \b
    Example: noah fetch digits
    """
    from noah.data.sources import SOURCES

    spec = load_dataset(dataset)
    for path in SOURCES[spec.source].fetch(spec):
        print(path)


@app.command()
def index(dataset: DatasetName, split: SplitArgument, shards: ShardsRoot = Path("shards")) -> None:
    """List a split's raw images in their seeded order: source.parquet.

    \b
    Example: noah index digits train
    """
    from noah.data.shards import index_split, shards_hint

    spec = load_dataset(dataset)
    print(index_split(spec, split, shards / dataset / split))
    if hint := shards_hint(spec, split, shards / dataset / split):
        print(f"hint: {hint}")


@app.command()
def shard(
    dataset: DatasetName,
    split: SplitArgument,
    job: Annotated[list[int] | None, typer.Option(help="Which job; repeatable. Default: all of them.")] = None,
    shards: ShardsRoot = Path("shards"),
) -> None:
    """Write a split's WebDataset tars, from its index; each job writes `shards_per_job` of them.

    \b
    Example: noah shard digits train --job 0
    """
    from noah.data.shards import write_job

    spec = load_dataset(dataset)
    for number in job or range(spec.num_jobs(split)):
        for path in write_job(spec, split, number, shards / dataset / split):
            print(path)


@app.command()
def manifest(dataset: DatasetName, split: SplitArgument, shards: ShardsRoot = Path("shards")) -> None:
    """Merge what the shard jobs noted into index.parquet and manifest.json.

    \b
    Example: noah manifest digits train
    """
    from noah.data.shards import write_manifest

    spec = load_dataset(dataset)
    print(write_manifest(spec, split, shards / dataset / split))


@app.command()
def verify(dataset: DatasetName, shards: ShardsRoot = Path("shards")) -> None:
    """Compare every shard with its manifest: names, counts, sizes, sha256, keys, labels.

    \b
    Example: noah verify digits
    """
    from noah.data.verify import verify as verify_split

    spec = load_dataset(dataset)
    for split in spec.splits:
        found = verify_split(spec, split, shards / dataset / split)
        print(f"{dataset} {split}: {found['samples']} samples in {found['shards']} shards, all as the manifest says")


@app.command("verify-cache")
def verify_cache(
    store: Annotated[Path, typer.Argument(help="DVC's cache, or a remote that is a folder.")] = Path(".dvc/cache"),
) -> None:
    """Read every file of a DVC store again: DVC itself puts a damaged one into place without a word.

    \b
    Example: noah verify-cache .dvc/cache
    """
    from noah.dvc_cache import damaged_files

    damaged, count = damaged_files(store)
    for path, outputs in damaged.items():
        print(f"{store / path}: damaged, of {', '.join(outputs) or 'no output known here'}")
    if damaged:
        raise ValueError(f"{store}: {len(damaged)} of {count} files are damaged, expected the MD5 of their names")
    print(f"{store}: {count} files, all as their names say")


@app.command()
def plan(
    study: StudyName,
    scale: Scale = "full",
    save: Annotated[bool, typer.Option(help="Also write results/STUDY/plan.csv.")] = False,
) -> None:
    """Build every model of a study without training it: size beside the published one, images/s, hours, warnings.

    Exits with 2 when a run cannot work. Example: noah plan digits
    """
    from noah.plan import make_plan, save_plan, show_plan

    loaded = load_study(study, scale)
    table = make_plan(loaded)
    show_plan(loaded, table)
    if save:
        print(save_plan(loaded, table))


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
    Example: noah train digits/digits-mlp/gmlp_tiny-d10-p8-w0.5/noah/s0 --study digits --out /tmp/run
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
    Example: noah score results/digits/runs/digits/digits-mlp/gmlp_tiny-d10-p8-w0.5/noah/s0
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
    Example: noah cost digits --dataset digits --backbone gmlp_tiny-d10-p8-w0.5
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
    Example: noah attention results/digits/runs/digits/digits-mlp/gmlp_tiny-d10-p8-w0.5/noah/s0 --images 8
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
    Example: noah export results/digits/runs/digits/digits-mlp/gmlp_tiny-d10-p8-w0.5/noah/s0 --to pt2 --out noah.pt2
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


@app.command()
def collect(study: StudyName, scale: Scale = "full") -> None:
    """Gather metrics and costs of all runs in long.parquet, and what differs between arms in fairness.json.

    \b
    Example: noah collect digits
    """
    from noah.report.collect import collect as collect_study

    loaded = load_study(study, scale)
    collect_study(loaded)
    print(loaded.results / "long.parquet")


@app.command()
def table(
    study: StudyName,
    scale: Scale = "full",
    show: Annotated[bool, typer.Option("--show", help="Print the table that is there; write nothing.")] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Copy tables and figure, dated, to docs/results.")] = False,
) -> None:
    """Write the comparison tables: Markdown, LaTeX, HTML, CSV. A missing cell shows as missing.

    \b
    Example: noah table digits
    """
    from noah.report.tables import publish as publish_tables
    from noah.report.tables import table_for_terminal, write_tables

    loaded = load_study(study, scale)
    if show:
        print(table_for_terminal(loaded))
        return
    for path in publish_tables(loaded) if publish else write_tables(loaded):
        print(path)


@app.command()
def figures(study: StudyName, scale: Scale = "full") -> None:
    """Draw training curves, and the differences with their intervals.

    \b
    Example: noah figures digits
    """
    from noah.report.figures import write_figures

    for path in write_figures(load_study(study, scale)):
        print(path)


@app.command()
def track(
    study: Annotated[str | None, typer.Argument(help="A file of config/studies, without .yaml.")] = None,
    scale: Scale = "full",
    init: Annotated[bool, typer.Option("--init", help="Only make the local store, if there is none.")] = False,
) -> None:
    """Publish a study's files to MLflow; again is the same as once. Address: MLFLOW_TRACKING_URI, else a local file.

    \b
    Example: noah track digits
    """
    from noah.tracking import init_local_store, publish

    if init:
        print(init_local_store())
        return
    if study is None:
        raise ValueError("STUDY is missing, expected a file of config/studies, or --init")
    tracked = publish(load_study(study, scale))
    print(f"{tracked['status']}: {len(tracked['runs'])} runs at {tracked['uri']}")


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 5000,
) -> None:
    """Serve the MLflow pages of the tracked studies.

    \b
    Example: noah ui --port 5000
    """
    from noah.tracking import serve

    serve(host, port)


def main() -> None:
    """Run the command line; an error that a user can mend is one line and exit code 2."""
    try:
        app()
    except ValueError as error:
        sys.exit(_fail(error, 2))
    except FloatingPointError as error:
        sys.exit(_fail(error, 1))
    except OSError as error:
        sys.exit(_fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 1))
    except MemoryError:
        sys.exit(_fail("no memory left", 1))
    except KeyboardInterrupt:
        sys.exit(130)
    except Interrupted as error:
        sys.exit(_fail(error, 128 + error.signum))


def _fail(message, code: int) -> int:
    print(f"error: {without_secrets(str(message))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
