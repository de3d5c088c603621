"""The paper's own numbers, config/published/*.csv."""

from noah.config import Study
from noah.files import read_csv

_NAMES = ("backbone", "published_name")
_NUMBERS = (
    "width",
    "num_heads",
    "key_ratio",
    "top1_baseline",
    "top1_noah",
    "params_m_baseline",
    "params_m_noah",
)


def read_published(study: Study) -> dict[tuple[str, float], dict]:
    """config/published/*.csv by backbone and width; empty where the study names none.

    Raises:
        ValueError: The file is missing or broken.
    """
    if study.spec.published is None:
        return {}
    path = study.path.parent.parent / "published" / f"{study.spec.published}.csv"
    what = f"the published numbers that {study.path} names"
    table = read_csv(path, what, texts=_NAMES, numbers=_NUMBERS)
    return {(row["backbone"], row["width"]): row for row in table.to_dict("records")}
