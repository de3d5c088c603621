"""`noah benchmark`: each verb measures one thing of this package against what others do."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure A against B in turns, and write JSON and a Markdown table.", no_args_is_help=True)

Rounds = Annotated[int, typer.Option(min=1, help="Turns of A and of B.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch on the CPU.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]


@app.callback()
def benchmark() -> None:
    """Measure A against B in turns, and write JSON and a Markdown table."""


@app.command()
def head(
    shape: Annotated[list[str] | None, typer.Option(help="mobilenetv2, resnet50, resnet18 or deit_tiny; all.")] = None,
    impl: Annotated[
        list[str] | None,
        typer.Option(help="cpu, compile, triton, reference, fused, or inductor: the official one compiled."),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Images of a call; 64 (GPU: 256) and 1.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="fp32 or bf16; both.")] = None,
    classes: Annotated[int, typer.Option(min=1, help="The M of all shapes.")] = 1000,
    rounds: Rounds = 5,
    threads: Threads = 1,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Layout of the features.")] = False,
    memory: Annotated[str, typer.Option(help="usual: tensors above 32 MiB get new memory; kept: none does.")] = "usual",
    device: Device = "cpu",
    out: Out = Path("docs/benchmarks"),
) -> None:
    """The NOAH head's implementations against the official formulation: time, memory, agreement, share of a roofline.

    \b
    Example: noah benchmark head --shape mobilenetv2 --impl cpu --rounds 5
    """
    from noah.benchmark.head import DTYPES, SHAPES
    from noah.benchmark.head_report import run
    from noah.heads.kernels.compiled import has_compiler

    here = ["cpu", *(["compile"] if has_compiler() else [])] if device == "cpu" else ["triton", "inductor"]
    here.append("fused")
    settings = {"rounds": rounds, "threads": threads, "channels_last": channels_last, "memory": memory}
    settings["classes"] = classes
    batches = batch or [64 if device == "cpu" else 256, 1]
    shapes, dtypes = shape or list(SHAPES), dtype or list(DTYPES)
    print(run(shapes, impls=impl or here, batches=batches, dtypes=dtypes, **settings, device=device, out=out))


@app.command()
def kernels(
    shape: Annotated[list[str] | None, typer.Option(help="mobilenetv2, resnet50, resnet18 or deit_tiny; all.")] = None,
    sm: Annotated[list[int] | None, typer.Option(help="Compute capability: 80, 90 or 100; 80 and 90.")] = None,
    out: Out = Path("docs/benchmarks"),
) -> None:
    """Compile Triton's programs for GPUs that need not be here: registers, spills, loads, and the time to expect.

    \b
    Example: noah benchmark kernels --shape mobilenetv2 --sm 90
    """
    from noah.benchmark.head import SHAPES
    from noah.benchmark.triton_report import run

    print(run(shape or list(SHAPES), sm or [80, 90], out))


@app.command()
def estimate(
    batch: Annotated[int, typer.Option(min=2, help="Images of a step.")] = 16,
    rounds: Rounds = 5,
    out: Out = Path("docs/benchmarks"),
) -> None:
    """Whether the formula of `noah plan` foretells training steps on this CPU: each of ten models from the others.

    \b
    Example: noah benchmark estimate
    """
    from noah.benchmark.estimate import run

    print(run(out, batch, rounds))


@app.command()
def shard(
    images: Annotated[int, typer.Option(min=4, help="Photos of about 100 KB.")] = 3000,
    rounds: Rounds = 5,
    threads: Threads = 1,
    out: Out = Path("docs/benchmarks"),
) -> None:
    """Writing shards against cat, GNU tar and webdataset; against encoding alone; two processes against one.

    \b
    Example: noah benchmark shard --images 2000
    """
    from noah.benchmark.shard import run

    print(run(out, images, rounds, threads))


@app.command()
def loader(
    images: Annotated[int, typer.Option(min=64, help="Photos of about 100 KB: a multiple of 64.")] = 2048,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode.")] = 2,
    rounds: Rounds = 5,
    threads: Threads = 1,
    device: Device = "cpu",
    out: Out = Path("docs/benchmarks"),
) -> None:
    """Loading against ImageFolder and webdataset with Pillow; parts of DeiT's recipe; how an epoch reads its shards.

    \b
    Example: noah benchmark loader --workers 2
    """
    from noah.benchmark.loader import run

    print(run(out, images, rounds, workers, threads, device))


@app.command()
def step(
    backbone: Annotated[list[str] | None, typer.Option(help="Such as mobilenetv2-w0.5; all 26 of the paper.")] = None,
    impl: Annotated[list[str] | None, typer.Option(help="cpu, compile or triton; all that can be had here.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Images of a step; 16, fewer for large backbones; GPU: 256.")
    ] = None,
    rounds: Rounds = 3,
    threads: Threads = 1,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Layout of models and images.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Autocast to bfloat16.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile of the backbones.")] = False,
    dropout: Annotated[bool, typer.Option("--dropout", help="Drop NOAH's values as in the paper.")] = False,
    device: Device = "cpu",
    out: Out = Path("docs/benchmarks"),
) -> None:
    """Whole training steps: NOAH, ours and official, over the same backbone with a mean and a linear layer.

    \b
    Example: noah benchmark step --backbone mobilenetv2-w0.5 --backbone deit_tiny-w1 --rounds 5
    """
    from noah.benchmark.step import published, run_steps

    settings = {"rounds": rounds, "threads": threads, "device": device, "batch": batch, "dropout": dropout}
    switches = {"channels_last": channels_last, "precision": "bf16" if bf16 else "fp32", "compile": compile}
    print(run_steps(out, backbone or published(), impl, **settings, **switches))


@app.command()
def switches(
    backbone: Annotated[list[str] | None, typer.Option(help="Such as deit_tiny-w1; three small ones.")] = None,
    switch: Annotated[list[str] | None, typer.Option(help="The first is what others are compared with; all.")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images of a step; 16, GPU: 256.")] = None,
    rounds: Rounds = 3,
    threads: Threads = 1,
    device: Device = "cpu",
    out: Out = Path("docs/benchmarks"),
) -> None:
    """A recipe's switches (accumulate, fused, channels_last, bf16, compile) on whole training steps with NOAH's head.

    \b
    Example: noah benchmark switches --backbone deit_tiny-w1 --switch plain --switch bf16
    """
    from noah.benchmark.switches import SMALL, run_switches

    settings = {"rounds": rounds, "threads": threads, "device": device, "batch": batch}
    print(run_switches(out, backbone or SMALL, switch, **settings))


@app.command()
def trainer(
    images: Annotated[int, typer.Option(min=32, help="Photos of an epoch.")] = 640,
    epochs: Annotated[int, typer.Option(min=2, help="Of each training; the first warms up.")] = 4,
    rounds: Rounds = 5,
    threads: Threads = 1,
    out: Out = Path("docs/benchmarks"),
) -> None:
    """The trainer against a bare loop of the same steps, and against a loop in the style of timm's train.py.

    \b
    Example: noah benchmark trainer --rounds 5
    """
    from noah.benchmark.trainer import run

    print(run(out, images=images, epochs=epochs, rounds=rounds, threads=threads))


@app.command()
def pipeline(
    study: Annotated[str, typer.Option(help="A file of config/studies, without .yaml.")] = "digits",
    scale: Annotated[str, typer.Option(help="full or small.")] = "full",
    cores: Annotated[int, typer.Option(min=1, help="Cores that the study was made on.")] = 2,
    rounds: Rounds = 5,
    records: Annotated[Path, typer.Option(help="Snakemake's notes of the study's jobs.")] = Path(".snakemake/metadata"),
    out: Out = Path("docs/benchmarks"),
) -> None:
    """How long each job of a study takes to start, and the study's wall time against the sum of its trainings.

    \b
    Example: noah benchmark pipeline --study digits --cores 2
    """
    from noah.benchmark.pipeline import run

    print(run(out, study, scale, rounds=rounds, cores=cores, records=records))
