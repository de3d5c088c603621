"""Verdicts, families, what holds over all backbones, and how many seeds a decision takes."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t, ttest_ind

from noah.report.power import MOST_SEEDS, expected_error
from noah.report.stats import Difference, Parts, conclude
from noah.report.verdicts import holm, overall, seeds_needed, spread_of, verdict


def difference(delta: float, se: float = 1.0, df: float = 10.0) -> Difference:
    return Difference(delta, se, df, se**2, 0.0, 0.0)


def parts(delta: float, sd: float, seeds: int = 3, **changes) -> Parts:
    """Arms whose scores over seeds have exactly this spread."""
    places = np.linspace(-1, 1, seeds)
    scores = 70 + sd * places / places.std(ddof=1)
    base = Parts(tuple(scores), tuple(scores + delta), 0.0, 0, 0.0, 0.0, 1000, 1000.0)
    return replace(base, **changes)


EDGE = t.ppf(0.975, 10)
NEAR = t.ppf(0.95, 10)


@pytest.mark.parametrize(
    ("delta", "margin", "expected"),
    [
        (EDGE + 0.01, None, "ahead"),
        (-EDGE - 0.01, None, "behind"),
        (EDGE - 0.01, None, "undecided"),
        (0.0, None, "undecided"),
        (0.0, NEAR + 0.01, "equal"),
        (0.0, NEAR - 0.01, "undecided"),
        (-0.5, NEAR + 0.51, "equal"),
        (-0.5, NEAR + 0.49, "undecided"),
        # Small and certain: the sign is known, which says more than that it hardly matters.
        (EDGE + 0.01, 100.0, "ahead"),
        (-EDGE - 0.01, 100.0, "behind"),
    ],
)
def test_a_verdict_follows_from_the_95_and_the_90_percent_interval(delta, margin, expected):
    assert verdict(difference(delta), 3, margin) == expected


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_have_no_verdict_however_far_apart(seeds):
    assert verdict(difference(100.0), seeds, 1.0) is None


def test_a_difference_without_an_interval_has_no_verdict():
    assert verdict(difference(100.0, np.nan, np.nan), 9, 1.0) is None


@pytest.mark.parametrize(("delta", "expected"), [(0.0, "equal"), (0.5, "ahead"), (-0.5, "behind")])
def test_arms_without_spread_have_the_verdict_of_their_difference(delta, expected):
    assert verdict(conclude(parts(delta, 0.0)), 3, 1.0) == expected


def test_holm_by_hand():
    # Sorted: .01 x 4, .02 x 3, .03 x 2, .5 x 1, never less than the one before.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([0.7, 0.9]) == pytest.approx([1, 1])


def test_a_comparison_without_p_belongs_to_no_family():
    adjusted = holm([0.02, float("nan"), 0.04])
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.04])
    assert np.isnan(adjusted[1])
    assert np.isnan(holm([float("nan")])).all()
    assert holm([]).tolist() == []


EFFECTS, ERRORS = np.array([1.0, 4.0, 2.5, 7.0]), np.array([0.5, 1.0, 0.8, 1.5])


def test_over_all_backbones_it_is_paule_and_mandels_mean_with_hartung_and_knapps_interval():
    def spread(tau2: float) -> tuple[float, float, np.ndarray]:
        weights = 1 / (ERRORS**2 + tau2)
        mean = (weights * EFFECTS).sum() / weights.sum()
        return (weights * (EFFECTS - mean) ** 2).sum(), mean, weights

    tau2 = brentq(lambda tau2: spread(tau2)[0] - 3, 0, 100)
    q, mean, weights = spread(tau2)
    se = np.sqrt(q / 3 / weights.sum())
    found = overall([difference(*pair) for pair in zip(EFFECTS, ERRORS, strict=True)])
    assert found.delta == pytest.approx(mean, rel=1e-4)
    assert found.tau == pytest.approx(np.sqrt(tau2), rel=1e-3)
    assert (found.low, found.high) == pytest.approx(tuple(mean + np.array([-1, 1]) * t.ppf(0.975, 3) * se), rel=1e-3)
    assert found.p == pytest.approx(2 * t.sf(mean / se, 3), rel=1e-3)


def test_backbones_that_differ_no_more_than_by_chance_have_no_spread_between_them():
    found = overall([difference(delta) for delta in (1.0, 1.8, 0.4)])
    assert found.tau == 0
    assert found.delta == pytest.approx(np.mean([1.0, 1.8, 0.4]))


def test_one_backbone_is_no_sample_of_backbones():
    assert overall([difference(1.0)]) is None
    assert overall([]) is None
    assert overall([difference(1.0), difference(2.0, np.nan)]) is None, "without an interval it has no weight"


def test_a_backbone_without_an_interval_is_left_out_of_the_mean():
    kept = [difference(1.0), difference(3.0)]
    assert overall([*kept, difference(50.0, np.nan, np.nan)]) == overall(kept)


def decided(p: Parts, delta: float, margin: float | None, seeds: int) -> bool:
    """The criterion in words: 80% of studies with so many seeds reach a verdict."""
    se, df = expected_error(spread_of(p), seeds)
    differs = abs(delta) >= (t.ppf(0.975, df) + t.ppf(0.8, df)) * se
    # Near 0 both ends of the interval may miss the margin.
    return differs or (margin is not None and margin - abs(delta) >= (t.ppf(0.95, df) + t.ppf(0.9, df)) * se)


@pytest.mark.parametrize("margin", [None, 2.0])
@pytest.mark.parametrize("delta", [0.6, 1.0, 1.5])
def test_so_many_seeds_are_enough_and_one_less_is_not(delta, margin):
    p = parts(delta, 1.5)
    seeds = seeds_needed(p, margin)
    assert 4 < seeds <= 100
    assert decided(p, delta, margin, seeds)
    assert not decided(p, delta, margin, seeds - 1)


def test_studies_with_the_seeds_that_are_needed_find_the_difference_four_times_in_five():
    p = parts(2.0, 1.5)
    seeds = seeds_needed(p, None)
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1.5, (2, 4000, seeds))
    found = (ttest_ind(other + 2.0, one, axis=1, equal_var=False).pvalue < 0.05).mean()
    assert 0.77 < found < 0.9
    fewer = (ttest_ind(other[:, 2:] + 2.0, one[:, 2:], axis=1, equal_var=False).pvalue < 0.05).mean()
    assert fewer < 0.8


def test_a_margin_makes_a_small_difference_decidable():
    p = parts(0.0, 1.0)
    assert seeds_needed(p, None) is None, "no difference is never found"
    assert seeds_needed(p, 1.5) is not None


def test_where_test_images_leave_too_much_open_no_number_of_seeds_helps():
    p = parts(1.0, 0.5, image_variance=1.0)
    assert seeds_needed(p, None) is None
    sharp = replace(p, image_variance=0.01)
    assert seeds_needed(sharp, None) is not None


def test_a_small_difference_that_images_do_not_hide_takes_more_seeds_than_are_worth_asking_for():
    assert seeds_needed(parts(0.1, 1.0), None) == MOST_SEEDS + 1


def test_never_fewer_seeds_are_asked_for_than_there_are_already_nor_fewer_than_a_verdict_takes():
    assert seeds_needed(parts(50.0, 1.0, seeds=2), None) == 3
    assert seeds_needed(parts(50.0, 1.0, seeds=5), None) == 6


def test_what_images_add_for_good_is_what_they_add_beyond_the_noise_of_single_predictions():
    p = parts(1.0, 1.5, image_variance=0.5, residual_variance=0.2, clusters=70.0)
    spread = spread_of(p)
    assert (spread.images, spread.clusters) == (pytest.approx(0.3), 70)
    # The residual is a sum over both arms, each divided by its three seeds.
    assert spread.residual == pytest.approx(0.3)
    errors = [expected_error(spread, seeds)[0] for seeds in range(3, 101)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(np.sqrt(2 * 1.5**2 / 3 + 0.3))
    assert expected_error(spread, 10**9)[0] == pytest.approx(np.sqrt(0.3), rel=1e-3)


def test_images_that_differ_by_chance_alone_add_nothing_for_good():
    assert spread_of(parts(1.0, 1.5, image_variance=0.1, residual_variance=0.2)).images == 0
