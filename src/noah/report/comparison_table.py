"""comparison.parquet, which `noah compare` writes, and long.parquet, which it is made of: columns and readers."""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from noah.config import Study
from noah.files import read_parquet, reading
from noah.report.collect import COLUMNS as LONG_COLUMNS
from noah.report.rows import rows_of

FILE = "comparison.parquet"
NAME = ["dataset", "recipe", "backbone", "from", "to"]
COLUMNS = {
    "kind": "string",
    "dataset": "string",
    "score": "string",
    "recipe": "string",
    "backbone": "string",
    "width": "float64",
    "from": "string",
    "to": "string",
    "declared": "boolean",
    "status": "string",
    "seeds_from": "string",
    "seeds_to": "string",
    "seeds_expected": "string",
    "delta": "float64",
    "low": "float64",
    "high": "float64",
    "half_width": "float64",
    "se": "float64",
    "df": "float64",
    "p": "float64",
    "p_holm": "float64",
    "verdict": "string",
    "seeds_needed": "Int64",
    "margin": "float64",
    "seed_variance": "float64",
    "image_variance": "float64",
    "residual_variance": "float64",
    "images": "Int64",
    "clusters": "float64",
    "clustered": "boolean",
    "chance": "float64",
    "minival_delta": "float64",
    "published_delta": "float64",
    "published_name": "string",
    "mcnemar_p_median": "float64",
    "mcnemar_p_per_seed": "string",
    "backbones": "Int64",
    "wins": "Int64",
    "tau": "float64",
}
"""low, high, half_width: of the 95% interval; empty with fewer than two seeds. wins: backbones where Δ is above 0."""


def read_comparison(study: Study) -> pd.DataFrame:
    """What `compare` wrote; ValueError where it did not, where it is another table, or of another form of the study."""
    path = study.results / FILE
    comparison = _read_table(path, COLUMNS, "noah compare")
    pairs = comparison[comparison["kind"] == "pair"]
    found = {(*pair[NAME],): (pair["declared"], pair["seeds_expected"]) for _, pair in pairs.iterrows()}
    expected = {
        (*row.name, *pair): (declared, ";".join(str(s) for s in row.arms[pair[0]] if s in row.arms[pair[1]]))
        for row in rows_of(study)
        for pair, declared in row.pairs(study).items()
    }
    margins = set(pairs["margin"].dropna()) - {study.spec.margin}
    if found != expected or margins:
        raise ValueError(f"{path}: of another form of {study.path}, expected its arms, seeds and margin: compare again")
    return comparison


def read_long(study: Study) -> pd.DataFrame:
    """The rows of long.parquet that have a value; ValueError names the file where it is another table."""
    long = _read_table(study.results / "long.parquet", LONG_COLUMNS, "noah collect")
    return long[(long["status"] == "ok") & long["value"].notna()]


def _read_table(path: Path, columns: dict[str, str], command: str) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected the output of `{command}`")
    try:
        with reading(path):
            return read_parquet(path).to_pandas()[list(columns)].astype(columns)
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"{path}: not the output of `{command}`: {' '.join(str(error).split())[:300]}") from None
