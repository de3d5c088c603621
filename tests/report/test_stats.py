import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, ttest_1samp

from noah.average_precision import mean_average_precision
from noah.report.stats import map_difference, mcnemar_p, paired_correct, paired_scores, top1_difference


def correct(shares: list[float], images: int = 500, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.random(images) < share for share in shares])


ONE, OTHER = correct([0.6, 0.62, 0.58]), correct([0.66, 0.71, 0.64], seed=1)


def test_delta_is_the_mean_difference_in_points():
    difference = top1_difference(ONE, OTHER)
    assert difference.delta == pytest.approx(100 * (OTHER.mean() - ONE.mean()))
    assert difference.per_seed == pytest.approx(tuple(100 * (OTHER.mean(axis=1) - ONE.mean(axis=1))))


def test_the_seed_interval_is_students():
    interval = ttest_1samp(100 * (OTHER.mean(axis=1) - ONE.mean(axis=1)), 0).confidence_interval(0.95)
    difference = top1_difference(ONE, OTHER)
    assert difference.half_width_seeds == pytest.approx((interval.high - interval.low) / 2)


def test_two_seeds_by_hand():
    one = np.array([[1, 0, 0, 0], [1, 0, 0, 0]], bool)
    other = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    difference = top1_difference(one, other)
    assert difference.per_seed == (25.0, 75.0)
    assert difference.half_width_seeds == pytest.approx(12.7062047 * 25, rel=1e-6)


def test_the_image_interval_is_that_of_a_bootstrap_over_images():
    per_image = 100 * (OTHER.astype(float) - ONE).mean(axis=0)
    interval = bootstrap((per_image,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    difference = top1_difference(ONE, OTHER)
    assert difference.half_width_images == pytest.approx((interval.high - interval.low) / 2, rel=0.04)


def test_both_sources_of_doubt_add_in_squares():
    difference = top1_difference(ONE, OTHER)
    assert difference.half_width**2 == pytest.approx(difference.half_width_seeds**2 + difference.half_width_images**2)
    assert difference.seeds_covered


def test_one_seed_covers_images_only():
    difference = top1_difference(ONE[:1], OTHER[:1])
    assert difference.half_width_seeds is None
    assert not difference.seeds_covered
    assert difference.half_width == difference.half_width_images > 0


def test_the_same_records_give_the_same_interval():
    assert top1_difference(ONE, OTHER) == top1_difference(ONE, OTHER)


def test_equal_arms_differ_by_nothing():
    difference = top1_difference(ONE, ONE)
    assert (difference.delta, difference.half_width, difference.mcnemar_p) == (0, 0, (1.0, 1.0, 1.0))


def test_swapping_arms_flips_the_sign_alone():
    there, back = top1_difference(ONE, OTHER), top1_difference(OTHER, ONE)
    assert back.delta == pytest.approx(-there.delta)
    assert back.half_width_seeds == pytest.approx(there.half_width_seeds)
    assert back.mcnemar_p == there.mcnemar_p


def test_mcnemar_counts_only_images_on_which_the_arms_disagree():
    one = np.array([True] * 50 + [True] * 2 + [False] * 8)
    other = np.array([True] * 50 + [False] * 2 + [True] * 8)
    tail = sum([1, 10, 45]) / 2**10  # two or fewer of ten coins
    assert mcnemar_p(one, other) == pytest.approx(2 * tail)


def test_the_median_p_is_shown():
    difference = top1_difference(ONE, OTHER)
    assert difference.mcnemar_p_median == sorted(difference.mcnemar_p)[1]


def records(keys: list[str], labels: list[int], first: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"key": keys, "label": labels, "top5": [[f, 7, 8, 9, 10] for f in first]})


def test_records_are_joined_by_key_not_by_place():
    one, other = paired_correct(
        [records(["a", "b", "c"], [0, 1, 2], [0, 1, 0])], [records(["c", "a", "b"], [2, 0, 1], [2, 0, 0])]
    )
    assert one.tolist() == [[True, True, False]]
    assert other.tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (records(["a", "b", "d"], [0, 1, 2], [0, 1, 2]), "keys differ .* 'c' is in one only"),
        (records(["a", "b"], [0, 1], [0, 1]), "keys differ .*3 and 2 records"),
        (records(["a", "b", "c"], [0, 2, 2], [0, 1, 2]), "labels differ .* 'b'"),
    ],
)
def test_records_of_other_images_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        paired_correct([records(["a", "b", "c"], [0, 1, 2], [0, 1, 2])], [other])


TARGETS = np.random.default_rng(2).random((150, 4)) < [0.5, 0.3, 0.1, 0.0]


def scored(skill: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=TARGETS.shape) + skill * TARGETS


WORSE, BETTER = [scored(0.5, s) for s in range(3)], [scored(1.5, s) for s in range(3, 6)]


def test_the_map_difference_is_that_of_the_seeds_means():
    difference = map_difference(TARGETS, WORSE, BETTER, resamples=50)
    one, other = ([mean_average_precision(scores, TARGETS) for scores in arm] for arm in (WORSE, BETTER))
    assert difference.per_seed == pytest.approx(tuple(np.subtract(other, one)))
    assert difference.delta == pytest.approx(np.mean(other) - np.mean(one))
    interval = ttest_1samp(np.subtract(other, one), 0).confidence_interval(0.95)
    assert difference.half_width_seeds == pytest.approx((interval.high - interval.low) / 2)
    assert (difference.mcnemar_p, difference.mcnemar_p_median, difference.images) == (None, None, 150)


def test_the_map_interval_is_that_of_a_bootstrap_over_images_with_all_seeds_on_the_same_images():
    def gain(images):
        of = [[mean_average_precision(s[images], TARGETS[images]) for s in arm] for arm in (WORSE, BETTER)]
        return np.mean(of[1]) - np.mean(of[0])

    rng = np.random.default_rng(7)
    low, high = np.percentile([gain(rng.integers(0, 150, 150)) for _ in range(600)], [2.5, 97.5])
    difference = map_difference(TARGETS, WORSE, BETTER)
    assert difference.half_width_images == pytest.approx((high - low) / 2, rel=0.12)


def test_a_rare_class_that_a_resample_misses_is_left_out_of_both_arms():
    targets = TARGETS.copy()
    targets[1:, 2] = False
    targets[0, 2] = True
    difference = map_difference(targets, WORSE[:1], BETTER[:1], resamples=60)
    assert np.isfinite(difference.half_width_images)
    assert difference.half_width_seeds is None


def test_multi_label_records_are_joined_by_key():
    def frame(keys, labels, scores):
        return pd.DataFrame({"key": keys, "labels": labels, "scores": [np.array(row, np.float32) for row in scores]})

    one = frame(["a", "b"], [[0], [0, 1]], [[1, 2], [3, 4]])
    other = frame(["b", "a"], [[0, 1], [0]], [[5, 6], [7, 8]])
    targets, scores_from, scores_to = paired_scores([one], [other])
    assert targets.tolist() == [[True, False], [True, True]]
    assert (scores_from[0].tolist(), scores_to[0].tolist()) == ([[1, 2], [3, 4]], [[7, 8], [5, 6]])
    with pytest.raises(ValueError, match=r"labels differ .* 'b'"):
        paired_scores([one], [frame(["b", "a"], [[1], [0]], [[5, 6], [7, 8]])])
