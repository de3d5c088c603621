"""Simulated studies are what they are said to be, and an interval that is too short is seen."""

from dataclasses import replace

import numpy as np
import pytest
from cells import Cell, cells
from counted import passes, simulate, summary
from estimators import CHOSEN
from simulated import effects, row, truth


def test_every_cell_has_a_name_of_its_own():
    names = [cell.name for cell in cells()]
    assert len(set(names)) == len(names) > 100, "the name is also the cell's random seed"


@pytest.mark.parametrize("points", [(1.0, 1.0), (3.0, 0.5)])
def test_trainings_spread_by_as_many_points_as_the_cell_says(points):
    cell, rng = Cell("", 400, images=4000, spread=points), np.random.default_rng(0)
    scores = [values.mean(1) for values in row(cell, rng, effects(cell, rng, 1)[0], None)]
    # The noise of single predictions comes on top.
    assert [of_arm.std(ddof=1) for of_arm in scores] == pytest.approx(points, rel=0.1, abs=0.15)


def test_the_truth_is_what_many_trainings_and_images_say():
    cell, rng = Cell("", 300, images=20_000, skill=(1.4, 1.57), spread=(2.0, 0.5)), np.random.default_rng(0)
    one, other = (values.mean() for values in row(cell, rng, effects(cell, rng, 1)[0], None))
    assert truth(cell, rng) == pytest.approx(other - one, abs=0.4)


def test_the_chosen_interval_covers_and_a_shorter_one_is_marked():
    cell = Cell("a look", 3, images=300)
    found = simulate(cell, 300)["estimators"][CHOSEN]
    assert passes(found)
    assert 90 < found["coverage"] < 100
    always = [(1.0, 2.0, 0.0)] * 900
    assert passes(summary(cell, [*always, *[(0.0, 2.0, 1.0)] * 60]))
    assert not passes(summary(cell, [*always, *[(0.0, 2.0, 1.0)] * 150])), "86%"
    assert not passes(summary(cell, always)), "100%: wider than it says"


def test_images_of_few_objects_widen_the_interval_that_knows_of_them_alone():
    cell = Cell("objects", 5, images=600, sources=60)
    found = simulate(cell, 60)["estimators"]
    apart = simulate(replace(cell, sources=None), 60)["estimators"]
    assert found[CHOSEN]["half_width"] > 1.15 * apart[CHOSEN]["half_width"]
