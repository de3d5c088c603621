"""Images that share a source count together, and what cannot be counted is refused."""

import numpy as np
import pytest

from noah.report import sharing as module
from noah.report.sharing import sharing


def test_pairs_of_one_source_each_are_counted_as_pairs_of_several_are():
    names = [(str(image % 7),) for image in range(40)]
    values = np.random.default_rng(0).normal(size=40)
    alone, several = sharing(names), sharing([(*own, f"own {image}") for image, own in enumerate(names)])
    assert alone.effective == pytest.approx(several.effective)
    assert alone.together(values) == pytest.approx(several.together(values))
    assert sharing(None) is None


def test_more_pairs_than_fit_into_memory_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 10)
    with pytest.raises(ValueError, match=r"clusters: .* pairs of images share a source, expected at most 10"):
        sharing([("a", "b")] * 5)
