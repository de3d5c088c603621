"""Comparing everything in a split's folder with its manifest."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.checks import CLUSTER, expect, expect_file, expect_rows, read_table
from noah.data.layout import (
    INDEX,
    MANIFEST,
    QUARANTINE,
    SOURCE,
    class_counts,
    is_in_place,
    label_values,
    read_source,
    shard_bounds,
)
from noah.data.manifest import read_manifest
from noah.data.quarantine import read_bad
from noah.data.tars import check_tar


def verify(dataset: Dataset, split: SplitName, out_dir: Path) -> dict:
    """Compare names, counts, sizes, sha256, keys, labels and offsets of everything in a split's folder.

    Returns:
        {"dataset", "split", "samples", "shards", "bytes"}.

    Raises:
        ValueError: Names the first thing that is wrong.
    """
    dataset.check_split(split)
    out_dir = Path(out_dir)
    path, manifest = out_dir / MANIFEST, read_manifest(out_dir / MANIFEST)
    entries = manifest["shards"]
    names = [dataset.shard_name(split, shard) for shard in range(dataset.splits[split].num_shards)]
    expect(path, "dataset", manifest["dataset"], dataset.name)
    expect(path, "split", manifest["split"], split)
    expect(path, "classes", list(manifest["classes"]), list(dataset.classes))
    expect(path, "shards", [entry["name"] for entry in entries], names)
    for tar in sorted(out_dir.glob("*.tar")):
        if tar.name not in names:
            raise ValueError(f"{tar}: not a shard of {MANIFEST}, expected {names[0]} to {names[-1]} only")
    expect_file(out_dir / SOURCE, sha256=manifest["source_sha256"])
    expect_file(out_dir / INDEX, sha256=manifest["index_sha256"])

    source, index = read_source(dataset, out_dir / SOURCE), read_table(out_dir / INDEX)
    expect(out_dir / SOURCE, "distinct keys", len(pc.unique(source["key"])), source.num_rows)
    bad = {image.key for image in read_bad(out_dir / QUARANTINE)}
    expect(path, "quarantine_share", manifest["quarantine_share"], len(bad) / source.num_rows)
    is_good = pc.invert(pc.is_in(source["key"], pa.array(sorted(bad), pa.string())))
    good = source.filter(is_good)
    label = "labels" if dataset.multi_label else "label"
    copied = ["key", label, *([CLUSTER] if CLUSTER in source.column_names else [])]
    expect(path, "samples", manifest["samples"], good.num_rows)
    expect_rows(out_dir / INDEX, index, good.select(copied))
    values = label_values(index)
    wrong = values[(values < 0) | (values >= dataset.num_classes)].tolist()
    expect(out_dir / INDEX, f"labels outside 0 to {dataset.num_classes - 1}", wrong, [])
    expect(path, "images per class", list(manifest["classes"].values()), class_counts(dataset, index))

    goods_before = np.concatenate([[0], np.cumsum(is_good.to_numpy())])
    firsts = goods_before[shard_bounds(dataset, split, source)].tolist()
    for shard, entry in enumerate(entries):
        tar, samples = out_dir / entry["name"], firsts[shard + 1] - firsts[shard]
        rows = index.slice(firsts[shard], samples)
        expect(path, f"samples of {tar.name}", entry["samples"], samples)
        expect_rows(
            out_dir / INDEX, rows.select(["shard"]), pa.table({"shard": pa.array([shard] * samples, pa.int32())})
        )
        expect_file(tar, size=entry["bytes"], sha256=entry["sha256"])
        if is_in_place(dataset):
            expect_rows(out_dir / INDEX, rows, good.slice(firsts[shard], samples).select(["offset", "size"]))
        else:
            check_tar(tar, rows.to_pylist())
    return {
        "dataset": dataset.name,
        "split": split,
        "samples": manifest["samples"],
        "shards": len(entries),
        "bytes": sum(entry["bytes"] for entry in entries),
    }
