"""What backbones say of each other's spread over seeds, against spreads that are known."""

import numpy as np
import pytest
from moderation import Prior, fit_prior


def spreads(count: int, seeds: int, df: float, variance: float, seed: int = 0) -> list[np.ndarray]:
    """Scores on so many backbones, whose true variances are scaled inverse chi-square."""
    rng = np.random.default_rng(seed)
    true = variance * df / rng.chisquare(df, count) if np.isfinite(df) else np.full(count, variance)
    return [rng.normal(70 + backbone % 7, np.sqrt(v), seeds) for backbone, v in enumerate(true)]


@pytest.mark.parametrize("df", [4.0, 12.0])
def test_the_prior_is_found_from_the_spreads_on_many_backbones(df):
    prior = fit_prior(spreads(4000, 5, df, 2.5))
    assert prior.variance == pytest.approx(2.5, rel=0.05)
    assert prior.df == pytest.approx(df, rel=0.15)
    assert prior.total_df == 4000 * 4


def test_backbones_may_have_different_numbers_of_seeds():
    prior = fit_prior([sample[: 3 + place % 4] for place, sample in enumerate(spreads(4000, 6, 8.0, 2.5))])
    assert (prior.variance, prior.df) == (pytest.approx(2.5, rel=0.05), pytest.approx(8, rel=0.2))


def test_fewer_than_three_backbones_teach_nothing_of_a_third():
    samples = spreads(3, 5, 8.0, 2.5)
    assert fit_prior(samples) is not None
    assert fit_prior(samples[:2]) is None
    assert fit_prior([*samples[:2], samples[2][:1]]) is None, "one seed has no spread"
    assert fit_prior([[70.0, 70.0]] * 5) is None, "an arm that never spreads has no prior"


def test_a_spread_that_is_the_same_everywhere_is_known_as_well_as_all_backbones_together():
    prior = fit_prior([[mean - 1, mean, mean + 1] for mean in (60.0, 65.0, 70.0, 75.0)], 4)
    assert (prior.df, prior.total_df) == (np.inf, 8)
    assert prior.moderate(100.0, 2) == (prior.variance, 8)
    alike = fit_prior(spreads(1000, 5, np.inf, 2.5))
    assert alike.variance == pytest.approx(2.5, rel=0.05)
    assert alike.df > 100


def test_a_backbone_whose_seeds_agree_by_rounding_leaves_the_prior_finite():
    prior = fit_prior([[70.0, 70.0, 70.0], [60.0, 61.0, 62.0], [50.0, 53.0, 51.0], [55.0, 56.5, 58.0]], 4)
    assert 0 < prior.variance < 10
    assert 0 < prior.df < np.inf


def test_a_moderated_variance_lies_between_its_own_and_the_others():
    variance, df = Prior(4.0, 6.0, 100.0).moderate(1.0, 2)
    assert (variance, df) == ((6 * 4 + 2 * 1) / 8, 8)
    assert Prior(4.0, 6.0, 7.0).moderate(1.0, 2)[1] == 7, "no one backbone is better known than all together"
