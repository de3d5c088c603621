"""Verbs that make shards from raw data and check them."""

from pathlib import Path
from typing import Annotated

import typer

from noah.commands.options import DatasetName, ShardsRoot, SplitArgument
from noah.config import load_dataset

app = typer.Typer()


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
