"""Raw datasets, one module each. A source has three functions:

- `fetch(dataset) -> list[Path]`: put the raw files under `dataset.root`, or say how the user gets them.
- `index(dataset, split) -> pyarrow.Table`: the samples of a split in the order in which they are sharded; columns key
  (zero-padded number), container (file below root), offset and size (of the raw image there), and label (class number,
  null where there is none) or, in a multi-label dataset, labels. Where images share something (a digit, a patient, a
  video), the column cluster has its names: a list of string, at least one in every row. Sources of image files build
  the index with `noah.data.order.source_index`, which adds the columns name and deflated.
- `open_source(dataset, split) -> read`: `read(row)` turns a row of that index, as a dict, into (extension, bytes).

A source with `in_place = True` lists WebDataset tars as they are: shards become links to them.
"""

from types import ModuleType

from noah.data.sources import (
    cifar,
    coco,
    digits_numbers,
    digits_scenes,
    fashion_mnist,
    fashion_scenes,
    folder,
    imagenet,
    inaturalist,
    table,
    webdataset,
)

SOURCES: dict[str, ModuleType] = {
    "digits_scenes": digits_scenes,
    "digits_numbers": digits_numbers,
    "fashion_mnist": fashion_mnist,
    "fashion_scenes": fashion_scenes,
    "cifar": cifar,
    "imagenet": imagenet,
    "inaturalist": inaturalist,
    "coco": coco,
    "folder": folder,
    "table": table,
    "webdataset": webdataset,
}
