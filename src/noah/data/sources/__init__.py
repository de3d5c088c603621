"""Raw datasets, one module each. A source has three functions:

- `fetch(dataset) -> list[Path]`: put the raw files under `dataset.root`, or say how the user gets them.
- `index(dataset, split) -> pyarrow.Table`: the samples of a split in the seeded order in which they are sharded;
  columns key (zero-padded number), container (file below root), offset and size (of the raw image there), label.
- `open_source(dataset, split) -> read`: `read(row)` turns a row of that index, as a dict, into (extension, bytes).
"""

from types import ModuleType

from noah.data.sources import digits_scenes

SOURCES: dict[str, ModuleType] = {"digits_scenes": digits_scenes}
