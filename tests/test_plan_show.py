"""The plan fits the terminal at hand, and cuts nothing off."""

import itertools

import pandas as pd
import pytest

from noah.config import load_study
from noah.plan import make_plan, show_plan
from noah.plan.show import LEFT_OUT_FIRST, plan_lines

ARMS = ("gap", "gap-parameters", "class-attention")
PAIRS = [("gap", "class-attention"), ("gap-parameters", "class-attention")]


@pytest.fixture
def study(project):
    return load_study("tiny")


@pytest.fixture
def plan(study) -> pd.DataFrame:
    """Two long backbones with three arms each, of which one has all that a row may have."""
    row = make_plan(study).iloc[1]
    rows = [
        {**row, "backbone": backbone, "arm": arm, "parameters": 39_770_000, "macs": 11_513.6e6, "in_features": 2048}
        for backbone, arm in itertools.product(("mobilenetv2-s1-os8-dil1-w0.35", "deit_tiny-d6-p8-w0.5"), ARMS)
    ]
    plan = pd.DataFrame(rows)
    plan.loc[1:, ["num_heads", "key_ratio"]] = None
    plan.loc[0, "published_parameters_m"] = 60.2
    return plan


def differences(plan: pd.DataFrame, points: tuple[float, float], basis: str = "default") -> pd.DataFrame:
    rows = plan[["dataset", "recipe", "backbone"]].drop_duplicates().to_dict("records")
    return pd.DataFrame(
        [
            {**row, "from": pair[0], "to": pair[1], "resolvable_points": value, "basis": basis}
            for row in rows
            for pair, value in zip(PAIRS, points, strict=True)
        ]
    )


def lines(study, plan, width, points=(3.0, 3.0), remarks=()) -> list[str]:
    return plan_lines(study, plan, differences(plan, points), list(remarks), width)


@pytest.mark.parametrize("width", [60, 70, 80, 100, 140])
def test_no_line_is_longer_than_the_terminal_and_nothing_is_cut_off(study, plan, width):
    text = lines(study, plan, width, (2.0, 3.0), ["warning: " + "much is wrong, " * 20])
    assert max(map(len, text)) <= width
    whole = " ".join(" ".join(text).split())
    assert "…" not in whole
    assert all(word in whole for word in (*ARMS, *plan.backbone, "39.77", "much is wrong"))


def test_backbones_are_headings_over_their_arms(study, plan):
    text = lines(study, plan, 100)
    where = [i for i, line in enumerate(text) if line.startswith(("mobilenetv2", "deit_tiny"))]
    assert [text[i].split(":")[0] for i in where] == list(dict.fromkeys(plan.backbone))
    assert [line.split()[0] for line in text[where[0] + 1 : where[0] + 4]] == list(ARMS)


def test_a_wide_terminal_has_every_column_that_says_anything(study, plan):
    text = lines(study, plan, 120)
    header = next(line for line in text if "params M" in line)
    assert all(name in header for name in (*LEFT_OUT_FIRST, "images/s", "core-hours"))
    assert "Left out" not in "\n".join(text)
    empty = plan.assign(published_parameters_m=None)
    assert "paper M" not in "\n".join(lines(study, empty, 120))


def test_a_narrow_terminal_leaves_out_the_least_important_columns_and_says_which(study, plan):
    text = "\n".join(lines(study, plan, 80))
    assert "Left out for want of width, to be found in plan.csv (--save): runs\n" in text
    assert " r " in text
    for width in range(60, 110):
        narrow = lines(study, plan, width)
        header = next(line for line in narrow if "params M" in line).replace(" M ", "_M ").split()
        said = " ".join(narrow).replace("\n", " ").partition("(--save): ")[2]
        left_out = [name for name in LEFT_OUT_FIRST if name.replace(" ", "_") not in header]
        assert left_out == list(LEFT_OUT_FIRST[: len(left_out)])
        assert all(name in said for name in left_out)


def test_a_heading_says_what_its_backbone_resolves_by_pair_where_pairs_differ(study, plan):
    name = plan.backbone[3]
    assert f"{name}: resolves 3.00 points (default)" in lines(study, plan, 100)
    joined = " ".join(" ".join(lines(study, plan, 100, (2.0, 3.0))).split())
    assert (
        f"{name}: resolves gap → class-attention 2.00 points (default), gap-parameters → class-attention 3.00" in joined
    )
    assert name in lines(study, plan, 100, (float("nan"), float("nan")))


def test_the_width_is_the_terminals_and_at_least_60(study, plan, capsys, monkeypatch):
    for columns, width in (("80", 80), ("20", 60), ("140", 140)):
        monkeypatch.setenv("COLUMNS", columns)
        show_plan(study, plan, differences(plan, (3.0, 3.0)), [])
        assert capsys.readouterr().out.splitlines() == lines(study, plan, width)


def test_what_the_estimate_rests_on_is_named(study, plan):
    assert "images/s marked e (estimated): +-40%" in "\n".join(lines(study, plan, 100))


def test_a_study_without_pairs_has_a_plan_too(study, plan):
    none = differences(plan, (3.0, 3.0)).iloc[:0]
    assert plan.backbone[0] in plan_lines(study, plan, none, [], 100)
