"""Studies that are small, broken, large or oddly named: every table is right all the same and says what is missing."""

import contextlib
import html
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from finished_study import write_config, write_manifest, write_run
from PIL import Image
from shown import collected_and_compared, lines, notes, pair_of

from noah.config import Study, load_study
from noah.files import read_json, write_json, write_text
from noah.report.comparison_table import read_comparison
from noah.report.figures import write_figures
from noah.report.tables import build_table, table_for_terminal, write_tables

MOBILE = "mobilenetv2-w0.35"
TITLE = "50% of <b>heads</b> & one_more: $x^2$ {a} #1 ~ \\n |col| `code`"


def fail(study: Study, arm: str, seed: int) -> None:
    """A run that left its state, but no model and no scores."""
    folder = study.results / f"runs/digits/short/{MOBILE}/{arm}/s{seed}"
    for name in ("metrics.json", "predictions.parquet"):
        (folder / name).unlink()


def drop(study: Study, arm: str) -> None:
    shutil.rmtree(study.results / f"runs/digits/short/{MOBILE}/{arm}")


def of_another_config(study: Study, arm: str, seed: int) -> None:
    path = study.results / f"runs/digits/short/{MOBILE}/{arm}/s{seed}/provenance.json"
    write_json(path, {**read_json(path), "run_sha256": "0" * 64})


@dataclass(frozen=True)
class Odd:
    """A study of MobileNetV2 on digits, what happened to it, and what a table must say of arm `noah`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    arms: dict[str, dict] = field(
        default_factory=lambda: {"baseline": {"head": "baseline"}, "noah": {"head": "noah", "init": "small_m"}}
    )
    images: int = 100
    shares: dict[str, float] = field(default_factory=dict)
    title: str = "Odd"
    fields: dict = field(default_factory=dict)
    happened: Callable[[Study], None] = lambda study: None
    verdict: str | None = None
    difference: str | None = None
    score: str | None = None
    said: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ("Missing",)


def gap_arms(names: list[str]) -> dict[str, dict]:
    return {name: {"head": "gap", "drop_rate": 0.01 * place} for place, name in enumerate(names)}


NAMES = ["a_b", "a-b", "a_-_b", "0", "null", "nan", "x__y__", "1e5", "--".join("ab"), "noah"]
FORTY = [f"arm-{number:02d}" for number in range(39)] + ["noah"]
ODD = {
    "one seed": Odd(seeds=(7,), verdict="1 seed", said=("without intervals", "seed 7")),
    "two seeds": Odd(seeds=(0, 1), verdict="2 seeds", said=("Fewer than 3 seeds: no verdict",)),
    "one test image": Odd(images=1, verdict="1 image", said=("digits: 1 images",)),
    "two test images": Odd(images=2, verdict="2 images", said=("digits: 2 images",)),
    "a missing arm": Odd(
        happened=lambda study: drop(study, "noah"),
        verdict="missing",
        difference="missing",
        score="missing",
        said=("Missing: 3 of 6 runs",),
        unsaid=(),
    ),
    "a missing reference": Odd(
        happened=lambda study: drop(study, "baseline"),
        verdict="missing",
        difference="missing",
        said=("Missing: 3 of 6 runs",),
        unsaid=(),
    ),
    "no run at all": Odd(
        happened=lambda study: [drop(study, arm) for arm in ("noah", "baseline")],
        verdict="missing",
        difference="missing",
        score="missing",
        said=("Missing: 6 of 6 runs", "not predicted yet"),
        unsaid=("interval",),
    ),
    "failed seeds": Odd(
        seeds=(0, 1, 2, 3, 4),
        happened=lambda study: [fail(study, "noah", 1), fail(study, "baseline", 4)],
        said=("Missing: 2 of 10 runs", "noah/s1 (no metrics.json)", "(k/S): k of S seeds finished."),
        unsaid=(),
    ),
    "a seed of another config": Odd(
        seeds=(0, 1, 2, 3),
        happened=lambda study: of_another_config(study, "noah", 2),
        said=("noah/s2 (trained from another config)",),
        unsaid=(),
    ),
    "a score that never changes": Odd(
        shares={"baseline": 1.0, "noah": 1.0},
        difference="+0.00 [+0.00, +0.00]",
        score="100.00 ± 0.00",
        verdict="? images",
    ),
    "a score that never changes, with a margin": Odd(
        shares={"baseline": 1.0, "noah": 1.0},
        fields={"margin": 0.5},
        verdict="equal",
        said=("±0.5",),
    ),
    "nothing against everything": Odd(
        shares={"baseline": 0.0, "noah": 1.0}, difference="+100.00 [+100.00, +100.00]", verdict="ahead"
    ),
    "nothing right": Odd(shares={"baseline": 0.0, "noah": 0.0}, score="0.00 ± 0.00†", said=("no better than a guess",)),
    "one arm": Odd(arms={"noah": {"head": "noah", "init": "small_m"}}, fields={"compare": []}, difference="reference"),
    "40 arms": Odd(arms=gap_arms(FORTY), fields={"compare": [["arm-00", "noah"], ["arm-01", "arm-02"]]}),
    "odd names": Odd(arms=gap_arms(NAMES), fields={"compare": [["a_b", "a-b"], ["x__y__", "nan"], ["0", "null"]]}),
    "an odd title": Odd(title=TITLE, fields={"notes": ["100% of <i>it</i> & a_b: $5 # ~ ^ {x} \\ | `y`", "- [ ] x"]}),
}


def write(odd: Odd) -> Study:
    study = {
        "title": odd.title,
        "datasets": ["digits"],
        "recipes": ["short"],
        "backbones": [{"name": "mobilenetv2", "width": 0.35}],
        "seeds": list(odd.seeds),
        "arms": odd.arms,
        "compare": [["baseline", "noah"]],
        "published": "imagenet",
        **odd.fields,
    }
    write_text("config/studies/odd.yaml", yaml.safe_dump(study, sort_keys=False))
    write_manifest(odd.images)
    study = load_study("odd")
    for run in study.runs:
        write_run(study, run, odd.images, odd.shares.get(run.arm))
    odd.happened(study)
    return study


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Callable[[str], Path]:
    """compared(name): the folder in which that study was written and compared, once."""

    @cache
    def make(name: str) -> Path:
        root = tmp_path_factory.mktemp("odd")
        write_config(root)
        with contextlib.chdir(root):
            collected_and_compared(write(ODD[name]))
        return root

    return make


@pytest.fixture
def study(request, compared, monkeypatch) -> Study:
    """The odd study of that name, compared, in the working directory."""
    monkeypatch.chdir(compared(request.param))
    return load_study("odd")


every_odd_study = pytest.mark.parametrize(("study", "odd"), [(name, ODD[name]) for name in ODD], indirect=["study"])


class Text(HTMLParser):
    """The text of a page; fails where tags do not close."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "col", "hr", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def shown_scores(study: Study) -> dict[str, list[float]]:
    """Arm -> scores of the runs that count, from the records themselves."""
    found = {}
    for run in study.runs:
        folder = study.results / "runs" / run.key
        path = folder / "predictions.parquet"
        if path.exists() and read_json(folder / "provenance.json")["run_sha256"] == run.hash:
            records = pd.read_parquet(path)
            right = [top5[0] == label for top5, label in zip(records["top5"], records["label"], strict=True)]
            found.setdefault(run.arm, []).append(100 * float(np.mean(right)))
    return found


@every_odd_study
def test_every_number_is_that_of_the_records_and_every_gap_is_said(study, odd):
    scores = shown_scores(study)
    rows = lines(study)[MOBILE]
    assert list(rows) == list(odd.arms)
    reference = (odd.fields.get("compare") or [[next(iter(odd.arms))]])[0][0]
    for arm, row in rows.items():
        own, base = scores.get(arm, []), scores.get(reference, [])
        assert row["top-1"].startswith(f"{np.mean(own):.2f}" if own else "missing")
        assert ("±" in row["top-1"]) == (len(own) > 1)
        assert ("/" in row["top-1"]) == (0 < len(own) < len(odd.seeds))
        if arm != reference:
            known = bool(own and base)
            assert row["Δ to " + reference] == "missing" or known
            assert row["verdict"] == "missing" or known
            if known:
                shown = float(row["Δ to " + reference].split(" [")[0])
                assert shown == pytest.approx(np.mean(own) - np.mean(base), abs=0.051)
                assert ("[" in row["Δ to " + reference]) == (min(len(own), len(base)) > 1 and odd.images > 2)
    row = rows["noah"]
    for expected, column in ((odd.verdict, "verdict"), (odd.difference, f"Δ to {reference}"), (odd.score, "top-1")):
        assert expected in (None, row[column]), column
    for part in odd.said:
        assert part in notes(study)
    for part in odd.unsaid:
        assert part not in notes(study)


@every_odd_study
def test_the_csv_is_read_back_as_it_was_computed(study, odd):
    path = next(path for path in write_tables(study) if path.suffix == ".csv")
    table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"arm": str, "from": str, "to": str})
    arms = table[table["kind"] == "arm"]
    assert arms["arm"].tolist() == list(odd.arms)
    scores = shown_scores(study)
    for arm in arms.itertuples():
        own = scores.get(arm.arm, [])
        assert arm.status == ("missing" if not own else "ok" if len(own) == len(odd.seeds) else "partial")
        assert arm.top1_mean == pytest.approx(np.mean(own) if own else np.nan, nan_ok=True)
    pairs = table[table["kind"] == "pair"]
    for pair in pairs.to_dict("records"):
        one, other = (scores.get(pair[side], []) for side in ("from", "to"))
        assert pair["delta"] == pytest.approx(np.mean(other) - np.mean(one) if one and other else np.nan, nan_ok=True)
        assert (pair["p"] < 0.05) == (pair["low"] > 0 or pair["high"] < 0)
        assert pair["low"] <= pair["delta"] <= pair["high"] or np.isnan(pair["low"])


@every_odd_study
@pytest.mark.filterwarnings("error")
def test_every_format_and_figure_is_written_without_a_warning(study, odd):
    files = {path.suffix[1:]: path.read_text() for path in write_tables(study)}
    page = Text()
    page.feed(files["html"])
    assert page.open == []
    for arm in odd.arms:
        assert arm in page.text
        assert arm in files["md"].replace("\\", "")
    for words in odd.title.split():
        assert words in page.text
        assert words in files["md"].replace("\\", "").replace("&lt;", "<") or "\\" in words
    assert "<b>" not in files["html"].split("</head>")[-1]
    assert html.escape(odd.title) in files["html"]
    assert files["tex"].count("{") - files["tex"].count("\\{") == files["tex"].count("}") - files["tex"].count("\\}")
    for path in write_figures(study):
        assert path.stat().st_size > 1000
        if path.suffix == ".svg":
            assert odd.title in " ".join(ET.parse(path).getroot().itertext())
        else:
            with Image.open(path) as picture:
                assert 400 < max(picture.size) < 2**14


@every_odd_study
@pytest.mark.parametrize("width", [60, 100])
def test_the_terminal_shows_every_arm_with_its_number(study, odd, width):
    text = table_for_terminal(study, width)
    squeezed = "".join(text.split())
    for arm, row in lines(study)[MOBILE].items():
        if len(arm) < 8:
            assert arm in text
        assert "".join(row["top-1"].split())[:6] in squeezed


@every_odd_study
def test_no_note_is_empty(study, odd):
    table = build_table(study)
    assert all(note.strip() for note in (*table.notes, *table.folded))


@pytest.mark.parametrize("study", ["40 arms"], indirect=True)
def test_forty_arms_are_all_compared_with_the_reference_and_two_pairs_are_a_family(study):
    pairs = read_comparison(study)
    assert len(pairs) == 39 + 1
    assert pairs["p_holm"].notna().sum() == pairs["declared"].sum() == 2
    declared = [pair_of(pairs, MOBILE, *pair) for pair in (("arm-00", "noah"), ("arm-01", "arm-02"))]
    least = min(pair.p for pair in declared)
    assert min(pair.p_holm for pair in declared) == pytest.approx(min(1, 2 * least))
