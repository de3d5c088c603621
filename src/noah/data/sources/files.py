"""What the sources share whose raw images are whole image files, plain or inside archives."""

from collections.abc import Callable

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.containers import Reader
from noah.data.images import image_format


def open_files(dataset: Dataset, split: SplitName) -> Callable[[dict], tuple[str, bytes]]:
    """A function from a row of a source index to (format by content, bytes as they lie there).

    It raises BadImage for a file that is cut short or no image.
    """
    root = dataset.root_path
    reader = Reader(root)

    def read(row: dict) -> tuple[str, bytes]:
        data = reader.read(row)
        return image_format(data, f"{root / row['container']}: offset {row['offset']}, key {row['key']}"), data

    return read
