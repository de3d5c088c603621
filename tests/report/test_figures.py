import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from finished_study import write_everything
from PIL import Image
from scipy.stats import ttest_ind
from shown import collected_and_compared

from noah.config import load_study
from noah.files import write_text
from noah.report import figures
from noah.report.comparison_table import read_comparison
from noah.report.figures import write_figures
from noah.report.plot_style import style_of
from noah.report.rows import rows_of

MOBILE, DEIT = "mobilenetv2-w0.35", "deit_tiny-d6-w0.5"


def texts(path) -> str:
    return " ".join(text for text in ET.parse(path).getroot().itertext() if text.strip())


@pytest.fixture
def drawn(monkeypatch):
    """drawn(study): the two figures as matplotlib has them, by name."""

    def draw(study):
        rows, comparison = rows_of(study), read_comparison(study)
        return {
            "curves": figures.training_curves(study, rows, comparison),
            "differences": figures.differences(study, rows, comparison),
        }

    return draw


def bars(figure) -> dict[str, list[tuple[float, float | None]]]:
    """Label of the legend -> Δ and half of its interval, from the top of the figure."""
    (ax,) = figure.axes
    found = {}
    for container in ax.containers:
        middle, _, spread = container.lines
        segment = spread[0].get_segments()[0] if spread else None
        half = (segment[1][0] - segment[0][0]) / 2 if spread else None
        found.setdefault(container.get_label(), []).append((float(middle.get_xdata()[0]), half))
    return found


def test_figures_are_the_same_bytes_every_time(finished):
    collected_and_compared(finished.study)
    paths = write_figures(finished.study)
    assert [path.name for path in paths] == [
        "training_curves.svg",
        "training_curves.png",
        "differences.svg",
        "differences.png",
    ]
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_figures(finished.study)] == before


def test_figures_name_arms_backbones_and_the_published_numbers(finished):
    collected_and_compared(finished.study)
    curves, _, differences, picture = write_figures(finished.study)
    for name in ("baseline", "patch-gap", "noah", MOBILE, DEIT, "minival top-1 (%)", "training loss"):
        assert name in texts(curves)
    for name in ("baseline → noah: published, ImageNet", "patch-gap → noah: measured, 95% interval", MOBILE, DEIT):
        assert name in texts(differences)
    assert "Two backbones & <one> table" in texts(differences)
    assert "missing" not in texts(curves) + texts(differences)
    assert Image.open(picture).size[0] > 800


def test_differences_are_those_of_the_comparison(finished, drawn):
    pairs = collected_and_compared(finished.study)
    pairs = pairs[pairs.kind == "pair"]
    shown = bars(drawn(finished.study)["differences"])
    for (one, other), of in pairs.groupby(["from", "to"], sort=False):
        expected = list(zip(of.delta, of.half_width, strict=True))
        assert shown[f"{one} → {other}: measured, 95% interval"] == [pytest.approx(pair) for pair in expected]


def test_the_published_difference_stands_in_the_lane_of_its_pair(finished, drawn):
    collected_and_compared(finished.study)
    (ax,) = drawn(finished.study)["differences"].axes
    diamonds = [line for line in ax.lines if line.get_label() == "baseline → noah: published, ImageNet"]
    measured = [c for c in ax.containers if c.get_label().startswith("baseline → noah: measured")]
    assert [line.get_xdata()[0] for line in diamonds] == [3.78, 5.3]
    assert [line.get_ydata()[0] for line in diamonds] == [c.lines[0].get_ydata()[0] for c in measured]


def test_a_difference_of_one_seed_is_drawn_without_interval_and_says_so(finished, drawn):
    for seed in (0, 1):
        shutil.rmtree(finished.folder(MOBILE, "noah", seed))
    collected_and_compared(finished.study)
    shown = bars(drawn(finished.study)["differences"])
    gain = finished.values(MOBILE, "noah", (2,)).mean() - finished.values(MOBILE, "baseline").mean()
    assert shown["baseline → noah: measured, no interval"] == [(pytest.approx(gain), None)]
    assert len(shown["baseline → noah: measured, 95% interval"]) == 1


def panel(figure, label: str):
    """The first panel of that y label, which is MobileNetV2's."""
    return next(ax for ax in figure.axes if ax.get_ylabel() == label)


def band(ax, epoch: float) -> tuple[float, float]:
    """Lower and upper edge of the first band at an epoch."""
    vertices = ax.collections[0].get_paths()[0].vertices
    heights = vertices[vertices[:, 0] == epoch, 1]
    return heights.min(), heights.max()


def test_curves_are_mean_and_range_over_seeds_at_the_epochs_that_were_measured(finished, drawn):
    collected_and_compared(finished.study)
    ax = panel(drawn(finished.study)["curves"], "minival top-1 (%)")
    curves = {line.get_label(): line for line in ax.lines}
    assert curves["baseline"].get_xdata().tolist() == [1, 3]
    assert curves["baseline"].get_ydata().tolist() == [30, 61]
    assert curves["noah"].get_ydata().tolist() == [30, 66]
    assert band(ax, 3) == (60, 62)
    losses = panel(drawn(finished.study)["curves"], "training loss")
    assert losses.lines[0].get_ydata().tolist() == pytest.approx([2.0, 1.51, 1.0])


def test_the_difference_by_epoch_is_to_the_reference_with_welchs_interval(finished, drawn):
    collected_and_compared(finished.study)
    ax = panel(drawn(finished.study)["curves"], "Δ top-1 to baseline")
    curves = [line for line in ax.lines if list(line.get_xdata()) == [1, 3]]
    assert [line.get_ydata().tolist() for line in curves] == [[0, 5]], "noah alone: patch-gap is not of this backbone"
    expected = ttest_ind([65, 66, 67], [60, 61, 62], equal_var=False).confidence_interval(0.95)
    assert band(ax, 3) == pytest.approx(tuple(expected))
    assert band(ax, 1) == pytest.approx((0, 0)), "seeds that agree have an interval of nothing"


def test_the_difference_by_epoch_of_one_seed_has_no_band(workdir, drawn):
    study = load_study("two", "small")
    write_everything(study)
    collected_and_compared(study)
    ax = panel(drawn(study)["curves"], "Δ top-1 to baseline")
    assert not ax.collections
    assert [line.get_ydata()[-1] for line in ax.lines if list(line.get_xdata()) == [1, 3]] == [5.0]


def test_a_seed_that_does_not_count_is_in_no_curve(finished, drawn):
    folder = finished.folder(MOBILE, "noah", 2)
    (folder / "metrics.json").unlink()
    collected_and_compared(finished.study)
    assert (folder / "history.csv").exists()
    curves = {line.get_label(): line for line in panel(drawn(finished.study)["curves"], "minival top-1 (%)").lines}
    assert curves["noah"].get_ydata()[-1] == 65.5
    assert curves["baseline"].get_ydata()[-1] == 61


def test_missing_runs_are_said_to_be_missing(finished):
    shutil.rmtree(finished.folder(MOBILE, "noah", 0).parent)
    collected_and_compared(finished.study)
    assert texts(write_figures(finished.study)[2]).count("missing") == 1


def test_a_study_without_any_run_is_drawn_as_missing(workdir):
    study = load_study("two")
    collected_and_compared(study)
    curves, _, differences, _ = write_figures(study)
    assert texts(curves).count("missing") == 4
    assert texts(differences).count("missing") == 4


def test_more_backbones_than_fit_side_by_side_go_on_below(workdir, drawn):
    path = workdir / "config/studies/two.yaml"
    more = "".join(f"  - {{name: mobilenetv2, width: {width}}}\n" for width in (0.5, 0.75, 1.0))
    write_text(path, path.read_text().replace("backbones:\n", f"backbones:\n{more}"))
    study = load_study("two")
    collected_and_compared(study)
    axes = drawn(study)["curves"].axes
    titles = [ax.get_title() for ax in axes if ax.get_title()]
    assert len(titles) == len(set(titles)) == 5
    assert sum(not ax.axison for ax in axes) == 3 * 3


def test_no_two_of_28_arms_look_alike():
    looks = [tuple(style_of(place).values()) for place in range(28)]
    assert len(set(looks)) == 28


def test_a_history_without_a_column_is_named(finished):
    path = finished.folder(MOBILE, "noah", 0) / "history.csv"
    collected_and_compared(finished.study)
    path.write_text("epoch,train_loss\n1,2.0\n")
    with pytest.raises(ValueError, match=r"noah/s0/history\.csv: missing column 'minival_top1'"):
        write_figures(finished.study)


def test_figures_need_a_compared_study(workdir):
    study = load_study("two")
    with pytest.raises(ValueError, match=r"results/two/comparison\.parquet: no such file"):
        write_figures(study)
    assert not Path("results/two/figures").exists()
