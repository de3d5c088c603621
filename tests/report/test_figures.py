import shutil
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from noah.config import load_study
from noah.report.collect import collect
from noah.report.figures import write_figures

MOBILE = "mobilenetv2-w0.35"


def texts(path) -> str:
    return " ".join(text for text in ET.parse(path).getroot().itertext() if text.strip())


def test_figures_are_the_same_bytes_every_time(finished):
    collect(finished.study)
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
    collect(finished.study)
    curves, _, differences, picture = write_figures(finished.study)
    for name in ("baseline", "patch-gap", "noah", MOBILE, "deit_tiny-d6-w0.5", "minival top-1 (%)"):
        assert name in texts(curves)
    assert "baseline → noah: published, ImageNet" in texts(differences)
    assert "missing" not in texts(curves) + texts(differences)
    assert Image.open(picture).size[0] > 800


def test_missing_runs_are_said_to_be_missing(finished):
    shutil.rmtree(finished.folder(MOBILE, "noah", 0).parent)
    collect(finished.study)
    assert "missing" in texts(write_figures(finished.study)[2])


def test_a_study_without_any_run_is_drawn_as_missing(workdir):
    study = load_study("two")
    collect(study)
    curves, _, differences, _ = write_figures(study)
    assert texts(curves).count("missing") == 4
    assert texts(differences).count("missing") == 3


def test_a_history_without_a_column_is_named(finished):
    path = finished.folder(MOBILE, "noah", 0) / "history.csv"
    collect(finished.study)
    path.write_text("epoch,train_loss\n1,2.0\n")
    with pytest.raises(ValueError, match=r"noah/s0/history\.csv: missing column 'minival_top1'"):
        write_figures(finished.study)
