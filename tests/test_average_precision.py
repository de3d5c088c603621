import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import multilabel_average_precision

from noah.average_precision import average_precision, class_average_precisions, mean_average_precision

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(300, 7)).astype(np.float32)
TARGETS = RNG.random((300, 7)) < np.linspace(0.02, 0.6, 7)


def test_average_precision_is_scikit_learns_and_torchmetrics():
    ours = class_average_precisions(SCORES, TARGETS)
    sklearns = [100 * average_precision_score(TARGETS[:, c], SCORES[:, c]) for c in range(7)]
    assert ours == pytest.approx(sklearns)
    theirs = multilabel_average_precision(
        torch.from_numpy(SCORES), torch.from_numpy(TARGETS).long(), num_labels=7, average="macro"
    )
    assert mean_average_precision(SCORES, TARGETS) == pytest.approx(100 * theirs.item(), rel=1e-5)


def test_equal_scores_share_one_rank():
    scores = SCORES.round(1)[:, 3]
    expected = 100 * average_precision_score(TARGETS[:, 3], scores)
    assert average_precision(scores, TARGETS[:, 3])[0] == pytest.approx(expected)
    assert average_precision(np.zeros(300), TARGETS[:, 3])[0] == pytest.approx(100 * TARGETS[:, 3].mean())


def test_a_weight_of_two_is_an_image_that_occurs_twice_and_of_zero_one_that_does_not():
    counts = RNG.integers(0, 4, (300, 5))
    ours = average_precision(SCORES[:, 2], TARGETS[:, 2], counts.astype(np.float32))
    drawn = [np.repeat(np.arange(300), column) for column in counts.T]
    expected = [100 * average_precision_score(TARGETS[rows, 2], SCORES[rows, 2]) for rows in drawn]
    assert ours == pytest.approx(expected, rel=1e-5)


def test_a_class_without_positive_images_is_left_out_of_the_mean():
    targets = TARGETS.copy()
    targets[:, 0] = False
    assert np.isnan(class_average_precisions(SCORES, targets)).tolist() == [True] + [False] * 6
    assert mean_average_precision(SCORES, targets) == pytest.approx(
        mean_average_precision(SCORES[:, 1:], targets[:, 1:])
    )
    assert np.isnan(mean_average_precision(SCORES, np.zeros((300, 7))))
