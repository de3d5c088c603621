"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

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
