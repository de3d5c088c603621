"""Each model is foretold from the others alone."""

import numpy as np
import pytest

from noah.benchmark import estimate


def test_a_machine_that_follows_the_formula_is_foretold_exactly_and_an_outlier_does_not_foretell_itself():
    works = np.array([[6.0, 1.0], [2.0, 3.0], [1.0, 8.0], [4.0, 4.0]])
    seconds = works @ [0.5, 0.25]
    assert estimate.foretold(works, seconds) == pytest.approx(seconds)
    slow = seconds * [1, 1, 1, 2]
    assert estimate.foretold(works, slow)[3] == pytest.approx(seconds[3])


def test_a_model_is_measured_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "MODELS", {"mobilenetv2": 32, "shufflenetv2": 32, "mobilenetv3_small": 32})
    assert "| shufflenetv2 | 32 |" in estimate.run(tmp_path, batch=2, rounds=1)
    assert (tmp_path / "estimate.json").exists()
