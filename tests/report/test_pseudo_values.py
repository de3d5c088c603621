"""Values of images against what they stand for: mAP, its derivative, and its spread over samples of images."""

import numpy as np
import pytest

from noah.average_precision import average_precision, mean_average_precision
from noah.report.pseudo_values import map_values

TARGETS = np.random.default_rng(2).random((200, 4)) < [0.5, 0.3, 0.1, 0.0]
"""The last class has no image."""


def scored(skill: float, seed: int = 0, steps: int | None = None) -> np.ndarray:
    """Scores of the images of TARGETS; with `steps` only so many different ones."""
    scores = np.random.default_rng(seed).normal(size=TARGETS.shape) + skill * TARGETS
    return scores if steps is None else np.round(scores * steps / 6) / steps


@pytest.mark.parametrize("steps", [None, 3, 12])
@pytest.mark.parametrize("skill", [0.0, 1.5])
def test_their_mean_is_the_mean_average_precision(skill, steps):
    scores = scored(skill, steps=steps)
    assert map_values(scores, TARGETS).mean() == pytest.approx(mean_average_precision(scores, TARGETS))


@pytest.mark.parametrize("steps", [None, 4])
def test_each_is_what_a_little_more_weight_of_its_image_changes(steps):
    scores, little = scored(1.0, steps=steps), 1e-5
    images = len(scores)

    def shifted(by: float) -> np.ndarray:
        weights = np.ones((images, images)) + by * np.eye(images)
        return np.mean([average_precision(scores[:, m], TARGETS[:, m], weights) for m in range(3)], axis=0)

    slopes = (shifted(little) - shifted(-little)) / (2 * little)
    expected = mean_average_precision(scores, TARGETS) + images * slopes
    assert map_values(scores, TARGETS) == pytest.approx(expected, abs=1e-3)
    assert slopes.std() * images > 5, "images differ in what they do to the score"


def test_their_spread_is_that_of_the_score_over_samples_of_images():
    rng = np.random.default_rng(7)
    scores = scored(1.0)
    counts = rng.multinomial(200, np.full(200, 1 / 200), size=4000).T
    resampled = np.mean([average_precision(scores[:, m], TARGETS[:, m], counts) for m in range(3)], axis=0)
    values = map_values(scores, TARGETS)
    assert values.std(ddof=1) / np.sqrt(200) == pytest.approx(resampled.std(), rel=0.1)


def test_equal_scores_share_a_rank_whatever_their_order():
    scores = np.zeros((6, 1))
    targets = np.array([1, 0, 0, 1, 0, 0], bool)[:, None]
    values = map_values(scores, targets)
    # AP is the share of positives: more weight of a positive raises it by (1 - 1/3)/6, of another lowers it by 1/3/6.
    assert values == pytest.approx(np.where(targets[:, 0], 100.0, 0.0))


def test_a_class_without_a_positive_image_is_left_out():
    scores = scored(1.0)
    assert map_values(scores, TARGETS) == pytest.approx(map_values(scores[:, :3], TARGETS[:, :3]))


def test_a_class_of_one_image_counts_by_hand():
    values = map_values(np.array([[3.0], [2.0], [1.0]]), np.array([[False], [True], [False]]))
    # AP = w2 / (w1 + w2): the first lowers it by 1/4 per weight, the second raises it as much, the third does nothing.
    assert values == pytest.approx([50 - 75, 50 + 75, 50])


def test_only_the_order_of_scores_counts():
    scores = scored(1.0)
    assert map_values(np.exp(3 * scores), TARGETS) == pytest.approx(map_values(scores, TARGETS))
