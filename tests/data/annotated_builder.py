"""Small replicas of datasets with COCO's annotations: real digits as JPEGs, in the official layouts."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

DIGITS = load_digits()


def jpeg(number: int) -> bytes:
    """One of scikit-learn's 1,797 digits, 32x32, RGB."""
    digit = Image.fromarray((DIGITS.images[number] * 15.9375).astype(np.uint8)).resize((32, 32))
    buffer = io.BytesIO()
    digit.convert("RGB").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def annotation_json(year: int, images: dict[int, str], categories: list[dict], pairs: list[tuple[int, int]]) -> bytes:
    """A file of annotations.

    Args:
        year: Of the release.
        images: Id -> file name.
        categories: Each with id and name.
        pairs: Image id and category id of each annotation.
    """
    polygon, mask = [[1.0, 2.0, 9.0, 2.0, 9.0, 10.0]], {"counts": [3, 4], "size": [32, 32]}
    data = {
        "info": {"description": "a replica", "version": "1.0", "year": year},
        "licenses": [{"id": 1, "name": "CC BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}],
        "images": [
            {"id": number, "file_name": name, "height": 32, "width": 32, "license": 1}
            for number, name in images.items()
        ],
        "categories": categories,
        "annotations": [
            {
                "id": 900 + number,
                "image_id": image,
                "category_id": category,
                "area": 64.0,
                "bbox": [1.0, 2.0, 8.0, 8.0],
                "iscrowd": number % 2,
                "segmentation": mask if number % 2 else polygon,
            }
            for number, (image, category) in enumerate(pairs)
        ],
    }
    return json.dumps(data).encode()


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """A .tar or .tar.gz, with its folders as members of their own, as tar makes it."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for folder in sorted({str(parent) for name in members for parent in Path(name).parents} - {"."}):
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_folder(path: Path, members: dict[str, bytes]) -> None:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
