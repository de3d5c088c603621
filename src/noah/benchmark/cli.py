"""`noah benchmark`: each verb measures one thing of this package against what others do."""

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure A against B in turns, and write JSON and a Markdown table.", no_args_is_help=True)

Rounds = Annotated[int, typer.Option(min=1, help="Turns of A and of B.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch on the CPU.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]


@app.callback()
def benchmark() -> None:
    """Measure A against B in turns, and write JSON and a Markdown table."""


@app.command()
def head(
    shape: Annotated[list[str] | None, typer.Option(help="mobilenetv2, resnet50, resnet18 or deit_tiny; all.")] = None,
    impl: Annotated[list[str] | None, typer.Option(help="cpu or compile; all that this machine can run.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Images of a call; 64 and 1.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="fp32 or bf16; both.")] = None,
    rounds: Rounds = 5,
    threads: Threads = 1,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Layout of the features.")] = False,
    out: Out = Path("docs/benchmarks"),
) -> None:
    """The NOAH head's implementations against the official formulation: time, memory, agreement.

    \b
    Example: noah benchmark head --shape mobilenetv2 --impl cpu --rounds 5
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from noah.benchmark.head import DTYPES, SHAPES, run
    from noah.heads.kernels.compiled import has_compiler

    impls = impl or ["cpu", *(["compile"] if has_compiler() else [])]
    settings = {"rounds": rounds, "threads": threads, "channels_last": channels_last, "out": out}
    print(run(shape or list(SHAPES), impls=impls, batches=batch or [64, 1], dtypes=dtype or list(DTYPES), **settings))


@app.command()
def shard(
    images: Annotated[int, typer.Option(min=4, help="Photos of about 100 KB.")] = 1000,
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
    out: Out = Path("docs/benchmarks"),
) -> None:
    """Loading against ImageFolder and webdataset with Pillow; parts of DeiT's recipe; how an epoch reads its shards.

    \b
    Example: noah benchmark loader --workers 2
    """
    from noah.benchmark.loader import run

    print(run(out, images, rounds, workers, threads))
