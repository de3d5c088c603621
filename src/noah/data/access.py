"""Where a run reads its shards: in their folder, in a copy on the node's disk, or in a cache of a URL."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from noah.config import Dataset
from noah.data.reader import Shards
from noah.data.remote import below, is_url, remote_manifest, remote_shards
from noah.data.staging import staged


@contextmanager
def open_splits(
    root: Path | str, dataset: Dataset, *, cache: Path, stage_to: Path | None, checked: Path
) -> Iterator[dict[str, Shards]]:
    """Split -> its shards, compared with their manifest. The same samples and bytes, wherever they are read.

    Args:
        root: Holds {dataset}/{split}/manifest.json; a folder, or a URL as a string.
        cache: Keeps what lies behind a URL.
        stage_to: A folder on this node's disk that shards are copied to; None leaves them where they are.
        checked: JSON file that remembers which tars were compared.

    Raises:
        ValueError: A file is missing or is not what its manifest says, or a URL is to be staged.
    """
    with ExitStack() as copies:
        splits = {}
        for split in dataset.splits:
            if is_url(root):
                if stage_to:
                    raise ValueError(
                        f"--stage-to is '{stage_to}', expected none with a URL: --cache says what keeps it"
                    )
                splits[split] = remote_shards(below(str(root), dataset.name, split), cache)
                continue
            folder = Path(root) / dataset.name / split
            splits[split] = Shards(copies.enter_context(staged(folder, stage_to)) if stage_to else folder)
        for shards in splits.values():
            shards.check_tars(checked)
        yield splits


def manifest_of_test(root: Path | str, dataset: Dataset, cache: Path) -> Path:
    """manifest.json of the test split, fetched first where `root` is a URL."""
    if is_url(root):
        return remote_manifest(below(str(root), dataset.name, "test"), cache)
    return Path(root) / dataset.name / "test" / "manifest.json"
