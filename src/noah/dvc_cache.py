"""Whether DVC's cache, or a folder that is a remote, still holds what was put there.

DVC names a file by the MD5 of its content, but trusts a file that is write-protected, and copies a damaged one into
place without a word. So every file is read again here.
"""

import hashlib
import json
from pathlib import Path

import yaml


def damaged_files(store: Path, repository: Path = Path(".")) -> tuple[dict[str, list[str]], int]:
    """Read every file of a DVC store and compare it with its name.

    Args:
        store: `.dvc/cache`, or a remote that is a folder.
        repository: Its dvc.lock and *.dvc say which output a file belongs to.

    Returns:
        Damaged files (relative to `store`), each with the outputs that hold it, such as `results/long.parquet`; and
        how many files there are.

    Raises:
        ValueError: No DVC store, or an empty one.
    """
    root = store / "files" / "md5"
    files = {path.parent.name + path.name: path for path in sorted(root.glob("??/*")) if path.is_file()}
    if not files:
        raise ValueError(f"{store}: no DVC store, expected files in {root}")
    found = {name: path for name, path in files.items() if _md5(path) != name.removesuffix(".dir")}
    outputs = _outputs(repository)
    for name in files.keys() - found.keys():
        if name.endswith(".dir"):
            for entry in json.loads(files[name].read_text(encoding="utf-8")):
                for folder in outputs.get(name, ["(an earlier version)"]):
                    outputs.setdefault(entry["md5"], []).append(f"{folder}/{entry['relpath']}")
    return {path.relative_to(store).as_posix(): outputs.get(name, []) for name, path in found.items()}, len(files)


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _outputs(repository: Path) -> dict[str, list[str]]:
    """Paths by MD5, as dvc.lock and the .dvc files have them."""
    found: dict[str, list[str]] = {}
    for path in (repository / "dvc.lock", *sorted(repository.glob("*.dvc"))):
        if path.is_file():
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
            holders = [data, *data.get("stages", {}).values()]
            for out in [out for holder in holders for out in holder.get("outs", [])]:
                found.setdefault(out["md5"], []).append(out["path"])
    return found
