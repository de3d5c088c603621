"""Small heads for the tests of kernels."""

import pytest

from noah.heads import kernels


@pytest.fixture(autouse=True)
def tiles_for_few_categories(monkeypatch):
    """`auto` takes the tiles for the small heads of these tests too."""
    monkeypatch.setattr(kernels, "FEW_CATEGORIES", 0)
