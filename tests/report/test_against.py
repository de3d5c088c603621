"""An earlier copy of a table beside the one of here: verdicts should be the same where bits are not."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from finished_study import Finished
from shown import collected_and_compared, read_csv
from typer.testing import CliRunner

from noah.commands.studies import app
from noah.config import load_study
from noah.report.against import agreement

MOBILE, DEIT = "mobilenetv2-w0.35", "deit_tiny-d6-w0.5"
PAIRS = [
    f"{MOBILE} baseline → noah",
    f"{DEIT} baseline → noah",
    f"{DEIT} patch-gap → noah",
    f"{DEIT} baseline → patch-gap",
]


@pytest.fixture
def compared(finished) -> Finished:
    collected_and_compared(finished.study)
    return finished


def copy(study, name: str, change=None) -> Path:
    """The CSV of here as a dated copy, some of it changed."""
    table = read_csv(study)
    path = Path("docs/results") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (change(table) if change else table).to_csv(path, index=False)
    return path


def shifted(by: float, of: str = MOBILE, to: str = "noah"):
    """A change of the copy: Δ and interval of one pair moved."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        rows = (table["kind"] == "pair") & (table["backbone"] == of) & (table["to"] == to)
        table.loc[rows, ["delta", "low", "high"]] += by
        return table

    return change


def test_the_same_table_agrees_in_every_pair(compared):
    path = copy(compared.study, "2026-01-02-two.csv")
    first, *rest = agreement(compared.study, path)
    assert first == f"Beside {path}: 4 of 4 differences agree."
    assert [line.split(":")[0].strip() for line in rest] == PAIRS
    assert all(line.endswith(": the same") for line in rest)
    copy(compared.study, "2026-01-02-two.csv", shifted(1e-12))
    assert all(line.endswith(": the same") for line in agreement(compared.study, path)[1:]), "summed in another order"


def test_a_difference_within_both_intervals_agrees_and_both_are_shown(compared):
    path = copy(compared.study, "2026-01-02-two.csv", shifted(0.5))
    here = pd.read_csv(path).query(f"kind == 'pair' and backbone == '{MOBILE}'").iloc[0]
    first, line, *_ = agreement(compared.study, path)
    assert "4 of 4 differences agree" in first
    delta, low, high = (here[name] - 0.5 for name in ("delta", "low", "high"))
    assert line == (
        f"  {PAIRS[0]}: {delta:+.2f} [{low:+.2f}, {high:+.2f}] here, "
        f"{here.delta:+.2f} [{here.low:+.2f}, {here.high:+.2f}] there: each inside the other's interval"
    )


@pytest.mark.parametrize("by", [30.0, -30.0])
def test_a_difference_outside_the_others_interval_is_said(compared, by):
    first, line, *rest = agreement(compared.study, copy(compared.study, "2026-01-02-two.csv", shifted(by)))
    assert "3 of 4 differences agree" in first
    assert line.endswith("OUTSIDE the other's interval")
    assert all(other.endswith("the same") for other in rest)


def test_inside_one_interval_is_not_enough(compared):
    def narrowed(table):
        table = shifted(1.0)(table)
        rows = (table["kind"] == "pair") & (table["backbone"] == MOBILE)
        table.loc[rows, "low"] = table["delta"] - 0.1
        return table

    first, line, *_ = agreement(compared.study, copy(compared.study, "2026-01-02-two.csv", narrowed))
    assert "3 of 4 differences agree" in first
    assert "OUTSIDE" in line


def test_the_newest_copy_of_this_study_is_taken_from_a_folder(compared):
    for name in ("2026-01-02-two.csv", "2026-03-01-two.csv", "2026-04-01-two-small.csv", "2026-05-01-before-two.csv"):
        copy(compared.study, name)
    first, *_ = agreement(compared.study, Path("docs/results"))
    assert first.startswith("Beside docs/results/2026-03-01-two.csv:")


def test_a_folder_without_a_copy_of_the_study_is_no_error(compared):
    copy(compared.study, "2026-05-01-other.csv")
    assert agreement(compared.study, Path("docs/results")) == [
        "docs/results: no earlier table of study 'two' to compare with"
    ]


def test_a_pair_that_either_lacks_cannot_be_compared(compared):
    def without(table):
        table.loc[(table["kind"] == "pair") & (table["backbone"] == MOBILE), ["low", "high"]] = None
        return table[~((table["kind"] == "pair") & (table["from"] == "patch-gap"))]

    path = copy(compared.study, "2026-01-02-two.csv", without)
    first, *rest = agreement(compared.study, path)
    assert "2 of 4 differences agree" in first
    said = [line for line in rest if line.endswith("cannot be compared, for one of the two has no interval")]
    assert [line.split(":")[0].strip() for line in said] == [PAIRS[0], PAIRS[2]]

    shutil.rmtree(compared.folder(DEIT, "noah", 0).parent)
    collected_and_compared(compared.study)
    assert "1 of 4 differences agree" in agreement(compared.study, path)[0]


@pytest.mark.parametrize("column", ["kind", "backbone", "delta", "high"])
def test_a_table_without_a_column_is_named(compared, column):
    path = copy(compared.study, "2026-01-02-two.csv", lambda table: table.drop(columns=column))
    with pytest.raises(ValueError, match=rf"2026-01-02-two\.csv: missing column '{column}'"):
        agreement(compared.study, path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'"'])
def test_what_is_no_table_is_named_in_one_line(compared, content):
    path = Path("copy.csv")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"copy\.csv: ") as error:
        agreement(compared.study, path)
    assert "\n" not in str(error.value)


def test_numbers_that_are_none_are_named(compared):
    path = copy(compared.study, "2026-01-02-two.csv", lambda table: table.assign(delta="much", low="a", high="b"))
    with pytest.raises(ValueError, match=r"2026-01-02-two\.csv: "):
        agreement(compared.study, path)


def test_a_copy_that_is_not_there_is_named(compared):
    with pytest.raises(ValueError, match=r"docs/nothing\.csv: no such file"):
        agreement(compared.study, Path("docs/nothing.csv"))


def test_it_needs_a_compared_study(workdir):
    Path("copy.csv").write_text("kind,dataset,recipe,backbone,from,to,delta,low,high\n")
    with pytest.raises(ValueError, match=r"results/two/comparison\.parquet: no such file"):
        agreement(load_study("two"), Path("copy.csv"))


def test_copies_of_version_0_1_are_passed_over(compared):
    study = compared.study
    copy(study, "2026-11-22-two.csv")
    copy(study, "2026-11-23-two.csv", lambda table: table.drop(columns=["low", "high"]))
    assert "2026-11-22-two.csv: 4 of 4" in agreement(study, Path("docs/results"))[0]
    Path("docs/results/2026-11-22-two.csv").unlink()
    (line,) = agreement(study, Path("docs/results"))
    assert "no earlier table of study 'two'" in line


def test_noah_table_shows_table_and_agreement_and_writes_nothing(compared):
    copy(compared.study, "2026-01-02-two.csv")
    shutil.rmtree(compared.study.results / "tables")
    done = CliRunner().invoke(app, ["table", "two", "--show", "--against", "docs/results"])
    assert done.exit_code == 0, done.output
    assert "Two backbones & <one> table" in done.stdout
    assert "noah table two --scale full --show --notes" in done.stdout
    assert "Beside docs/results/2026-01-02-two.csv: 4 of 4 differences agree." in done.stdout
    assert not (compared.study.results / "tables").exists()
    with_notes = CliRunner().invoke(app, ["table", "two", "--show", "--notes"])
    assert "Commits of the runs" in with_notes.stdout
    assert "Beside" not in with_notes.stdout
