"""Δ, its interval and its p against other programs, brute force and simulation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_ind

from noah.report.sharing import sharing
from noah.report.stats import Parts, conclude, mcnemar_p, measure


def right(shares: list[float], images: int = 500, seed: int = 0) -> np.ndarray:
    """Values of images that are right with these probabilities, one row per seed."""
    rng = np.random.default_rng(seed)
    return np.stack([100.0 * (rng.random(images) < share) for share in shares])


ONE, OTHER = right([0.6, 0.62, 0.58]), right([0.66, 0.71, 0.64], seed=1)
SHARED_OUT = [(f"s{image % 60}",) for image in range(500)]
"""500 images of 60 sources."""


def crossed(rng: np.random.Generator, seeds: int, images: int) -> np.ndarray:
    """Values with an effect of the seed, of the image, and noise of every single prediction."""
    return (
        2 * rng.normal(size=(seeds, 1)) + 8 * rng.normal(size=(1, images)) + 30 * rng.normal(size=(seeds, images)) + 60
    )


def only_seeds(scores_from: list[float], scores_to: list[float], **parts) -> Parts:
    """A comparison to which images add nothing."""
    base = Parts(tuple(scores_from), tuple(scores_to), 0.0, 0, 0.0, 0.0, 100, 100.0)
    return replace(base, **parts)


def random_comparison(rng: np.random.Generator):
    """Parts and priors of any kind: few seeds or many, clustered or not, constant arms, identical arms."""
    images = int(rng.integers(1, 40))
    counts = rng.integers(2, 11, size=2)
    arms = [100.0 * (rng.random((count, images)) < rng.random()) for count in counts]
    if rng.random() < 0.3:
        arms[1] = np.full((counts[1], images), rng.choice([0.0, 50.0, 100.0]))
    if rng.random() < 0.1:
        arms[0] = np.full((counts[0], images), 50.0)
    if rng.random() < 0.1:
        arms[1] = arms[0].copy()
    clusters = None
    if rng.random() < 0.5:
        clusters = [tuple(rng.choice(list("abcdefgh"), rng.integers(1, 3), replace=False)) for _ in range(images)]
    numbers = [rng.choice(20, len(arm), replace=False).tolist() for arm in arms]
    parts = measure(*arms, sharing(clusters), tuple(numbers) if rng.random() < 0.5 else numbers)
    spreads = [(float(rng.random() * 10), float(rng.integers(1, 40))) for _ in arms]
    return parts, spreads if rng.random() < 0.5 else None


def test_delta_is_the_difference_of_the_arms_means_also_where_their_seeds_differ():
    parts = measure(ONE, OTHER[:2], seeds=([0, 1, 2], [4, 7]))
    assert parts.delta == pytest.approx(OTHER[:2].mean() - ONE.mean())
    assert parts.scores_from == pytest.approx(tuple(ONE.mean(axis=1)))
    assert (parts.seeds, parts.shared_seeds, parts.covariance, parts.images) == (2, 0, 0.0, 500)
    difference = conclude(parts)
    assert difference.delta == parts.delta
    assert 0 < difference.se < 20


def test_seeds_are_paired_by_their_numbers_not_by_their_places():
    parts = measure(ONE, OTHER, seeds=([0, 1, 2], [2, 5, 0]))
    pairs = [ONE[[0, 2]].mean(axis=1), OTHER[[2, 0]].mean(axis=1)]
    assert parts.shared_seeds == 2
    assert parts.covariance == pytest.approx(np.cov(*pairs)[0, 1])


def test_p_is_below_five_percent_exactly_where_the_interval_excludes_zero():
    rng = np.random.default_rng(0)
    significant = 0
    for _ in range(1000):
        parts, priors = random_comparison(rng)
        difference = conclude(parts, priors)
        if parts.clusters < 3:
            assert np.isnan([difference.p, *difference.interval()]).all()
            continue
        low, high = difference.interval()
        assert np.isfinite([low, high, difference.p]).all()
        assert low <= difference.delta <= high
        assert difference.df > 0
        assert difference.seed_variance >= -1e-9
        assert (difference.p < 0.05) == (low > 0 or high < 0), difference
        significant += difference.p < 0.05
    assert 100 < significant < 900, "both outcomes were tried"


def test_an_interval_with_more_confidence_holds_the_one_with_less():
    difference = conclude(measure(ONE, OTHER))
    widths = [difference.half_width(confidence) for confidence in (0.5, 0.9, 0.95, 0.99)]
    assert widths == sorted(set(widths))
    assert difference.half_width() == widths[2]


def test_equal_arms_differ_by_nothing():
    difference = conclude(measure(ONE, ONE))
    assert difference.delta == difference.image_variance == 0
    assert difference.p == 1.0


@pytest.mark.parametrize(("level", "p"), [(50.0, 1.0), (60.0, 0.0)])
def test_arms_without_any_spread_are_either_the_same_or_certainly_not(level, p):
    difference = conclude(measure(np.full((3, 8), 50.0), np.full((3, 8), level)))
    assert (difference.se, difference.p) == (0.0, p)
    assert difference.interval() == (level - 50, level - 50)


@pytest.mark.parametrize(("one", "other"), [(ONE[:1], OTHER), (ONE, OTHER[:1]), (ONE[:1], OTHER[:1])])
def test_one_seed_has_a_difference_but_no_interval(one, other):
    difference = conclude(measure(one, other), [(1.0, 8.0), (1.0, 8.0)])
    assert difference.delta == pytest.approx(other.mean() - one.mean())
    assert np.isnan([difference.se, difference.p, *difference.interval(), difference.seed_variance]).all()
    assert difference.image_variance > 0


def test_swapping_arms_flips_the_sign_alone():
    shared, spreads = sharing(SHARED_OUT), [(1.0, 8.0), (2.0, 5.0)]
    there = conclude(measure(ONE, OTHER[:2], shared), spreads)
    back = conclude(measure(OTHER[:2], ONE, shared), spreads[::-1])
    assert back.delta == pytest.approx(-there.delta)
    assert (back.se, back.df, back.p) == pytest.approx((there.se, there.df, there.p))


@pytest.mark.parametrize("counts", [(3, 3), (2, 7), (5, 4)])
def test_where_images_add_nothing_it_is_welchs_test(counts):
    rng = np.random.default_rng(1)
    one, other = rng.normal(70, 1, counts[0]), rng.normal(72, 3, counts[1])
    values = [np.repeat(scores[:, None], 20, axis=1) for scores in (one, other)]
    difference = conclude(measure(*values, seeds=(range(counts[0]), range(50, 50 + counts[1]))))
    welch = ttest_ind(other, one, equal_var=False)
    assert difference.image_variance == pytest.approx(0, abs=1e-20)
    assert (difference.p, difference.df) == pytest.approx((welch.pvalue, welch.df))
    assert difference.interval() == pytest.approx(tuple(welch.confidence_interval(0.95)))


def test_two_seeds_by_hand():
    difference = conclude(only_seeds([20.0, 30.0], [60.0, 70.0]))
    # Variance 50 each over 2 seeds: se² = 25 + 25; df = 50² / (25² + 25²) = 2.
    assert (difference.delta, difference.se, difference.df) == pytest.approx((40, np.sqrt(50), 2))
    assert difference.half_width() == pytest.approx(4.30265273 * np.sqrt(50))


def test_arms_that_move_together_over_seeds_differ_more_surely_but_little_is_made_of_it():
    apart = only_seeds([60.0, 62.0, 64.0], [61.0, 63.0, 65.0], shared_seeds=3)
    together = replace(apart, covariance=4.0)
    # Weight 2 / (2 + 9); variance 4 of each arm and covariance 4, over 3 seeds.
    assert conclude(apart).se ** 2 == pytest.approx(8 / 3)
    assert conclude(together).se ** 2 == pytest.approx(8 / 3 - 2 * 2 / 11 * 4 / 3)


def test_the_images_part_is_that_of_a_bootstrap_over_images():
    of_image = OTHER.mean(axis=0) - ONE.mean(axis=0)
    found = bootstrap((of_image,), np.mean, n_resamples=10_000, method="percentile", rng=1)
    assert np.sqrt(measure(ONE, OTHER).image_variance) == pytest.approx(found.standard_error, rel=0.03)


def alike_within_sources(rng: np.random.Generator, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arms whose difference depends on the source of the image."""
    of_source = rng.normal(size=sources.max() + 1)[sources]
    one = 50 + rng.normal(size=(3, len(sources)))
    return one, one + 4 * of_source + rng.normal(size=(3, len(sources)))


def test_the_images_part_with_clusters_is_that_of_a_bootstrap_over_clusters():
    rng = np.random.default_rng(3)
    sources = np.repeat(np.arange(80), rng.integers(3, 8, 80))
    one, other = alike_within_sources(rng, sources)
    of_image = other.mean(axis=0) - one.mean(axis=0)
    sums, sizes = np.bincount(sources, of_image), np.bincount(sources)
    drawn = rng.integers(0, 80, (10_000, 80))
    resampled = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    parts = measure(one, other, sharing([(str(source),) for source in sources]))
    assert np.sqrt(parts.image_variance) == pytest.approx(resampled.std(), rel=0.04)
    assert parts.image_variance > 3 * measure(one, other).image_variance, "images of a source count together"
    assert 70 < parts.clusters <= 80


def test_clusters_of_one_image_each_are_none():
    alone = sharing([(str(image),) for image in range(500)])
    parts, without = measure(ONE, OTHER, alone), measure(ONE, OTHER)
    assert parts.image_variance == pytest.approx(without.image_variance)
    assert parts.residual_variance == pytest.approx(without.residual_variance)
    assert (parts.clusters, without.clusters) == (500, 500)


def test_images_of_several_sources_count_together_with_all_that_share_one():
    rng = np.random.default_rng(4)
    names = [[f"d{n}" for n in rng.choice(15, rng.integers(1, 4), replace=False)] for _ in range(60)]
    of_source = rng.normal(size=15)
    gain = np.array([sum(of_source[int(name[1:])] for name in own) for own in names])
    one = 50 + rng.normal(size=(2, 60))
    other = one + 5 * gain + rng.normal(size=(2, 60))
    of_image = (other - one).mean(axis=0)
    centred = of_image - of_image.mean()
    pairs = [(i, k) for i in range(60) for k in range(60) if set(names[i]) & set(names[k])]
    effective = 60**2 / len(pairs)
    expected = sum(centred[i] * centred[k] for i, k in pairs) / 60**2 * effective / (effective - 1)
    parts = measure(one, other, sharing(names))
    assert expected > 2 * measure(one, other).image_variance
    assert parts.image_variance == pytest.approx(expected)
    assert parts.clusters == pytest.approx(effective)


def test_images_are_never_surer_together_than_alone():
    values = np.tile([0.0, 100.0], 20)[None].repeat(2, axis=0)
    pairs = sharing([(str(image // 2),) for image in range(40)])  # each source has one image of either value
    one = np.full((2, 40), 50.0)
    assert measure(one, values, pairs).image_variance == pytest.approx(measure(one, values).image_variance)


@pytest.mark.parametrize("images", [1, 30])
def test_one_image_or_one_source_has_a_difference_but_no_interval(images):
    one, other = np.zeros((4, images)), np.full((4, images), 100.0)
    difference = conclude(measure(one, other, sharing([("the only patient",)] * images)))
    assert difference.delta == 100
    assert np.isnan([difference.se, difference.p, *difference.interval()]).all()
    assert np.isnan(conclude(measure(one[:, :1], other[:, :1])).se)


def test_what_single_predictions_add_by_chance_is_the_spread_within_an_image():
    expected = sum((arm.var(axis=0, ddof=1) / len(arm)).sum() / 500 / 499 for arm in (ONE, OTHER))
    # Seeds' own means are taken out first: chance of the whole training is not chance of an image.
    expected -= sum(arm.mean(axis=1).var(ddof=1) / len(arm) / 499 for arm in (ONE, OTHER))
    assert measure(ONE, OTHER).residual_variance == pytest.approx(expected, rel=1e-6)


def test_the_standard_error_is_the_spread_over_new_trainings_and_new_images():
    rng = np.random.default_rng(5)
    found = [conclude(measure(crossed(rng, 5, 80), crossed(rng, 5, 80))) for _ in range(2000)]
    deltas = np.array([difference.delta for difference in found])
    assert np.mean([difference.se**2 for difference in found]) == pytest.approx(deltas.var(), rel=0.12)
    covered = np.mean([low <= 0 <= high for low, high in (difference.interval() for difference in found)])
    assert 0.94 < covered < 0.98


def test_noise_of_single_predictions_is_not_counted_twice():
    rng = np.random.default_rng(6)
    noise = [measure(*(100.0 * (rng.random((4, 50)) < 0.5) for _ in range(2))) for _ in range(2000)]
    parts = np.mean([[p.image_variance, p.residual_variance, conclude(p).seed_variance] for p in noise], axis=0)
    assert parts == pytest.approx(2 * 2500 / 4 / 50, rel=0.06), "all three are the same thing here"
    # A maximum of three estimates of one variance, not their sum.
    assert np.mean([conclude(p).se ** 2 for p in noise]) < 1.6 * parts[0]


def test_a_spread_known_from_elsewhere_counts_for_the_arm_it_belongs_to():
    parts = only_seeds([60.0, 60.5, 61.0], [62.0, 62.5, 63.0])
    known = conclude(parts, [(7.0, 10.0), (0.25, 2.0)])
    assert known.se**2 == pytest.approx(7.0 / 3 + 0.25 / 3)
    assert known.df == pytest.approx(known.se**4 / ((7.0 / 3) ** 2 / 10 + (0.25 / 3) ** 2 / 2))


@pytest.mark.parametrize(("sources", "known"), [(1, False), (2, False), (4, True)])
def test_images_of_fewer_than_three_sources_say_nothing_of_others(sources, known):
    shared = sharing([(str(image % sources),) for image in range(ONE.shape[1])])
    difference = conclude(measure(ONE, OTHER, shared))
    assert difference.delta == pytest.approx(OTHER.mean() - ONE.mean())
    assert np.isfinite([difference.se, difference.p, *difference.interval()]).all() == known
    assert np.isnan([difference.se, difference.p, *difference.interval()]).all() != known


def test_few_clusters_leave_few_degrees_of_freedom():
    parts = replace(only_seeds([60.0] * 3, [62.0] * 3), image_variance=1.0, clusters=5.0)
    difference = conclude(parts)
    assert (difference.se, difference.df) == (1.0, 4.0)


def test_mcnemar_counts_only_images_on_which_the_arms_disagree():
    one = np.array([True] * 50 + [True] * 2 + [False] * 8)
    other = np.array([True] * 50 + [False] * 2 + [True] * 8)
    tail = sum([1, 10, 45]) / 2**10  # two or fewer of ten coins
    assert mcnemar_p(one, other) == mcnemar_p(other, one) == pytest.approx(2 * tail)


def test_mcnemar_of_arms_that_never_disagree_is_one():
    assert mcnemar_p(np.array([True, False]), np.array([True, False])) == 1.0
