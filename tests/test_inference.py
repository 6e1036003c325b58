"""Coverage of intervals and size of p-values, by simulation under known laws.

Every simulated rate is compared with its nominal value within four binomial standard errors
(false-alarm rate 6e-5 a comparison), and each check is shown to reject a method known to fail.
"""

import math

import numpy as np
import pytest
from scipy import stats

from kvlib import inference


def within(rate, nominal, trials):
    return abs(rate - nominal) <= 4 * math.sqrt(nominal * (1 - nominal) / trials)


def covers(x, quantile):
    """Whether mean +- quantile standard errors covers zero, row by row."""
    return np.abs(x.mean(-1)) <= quantile * x.std(-1, ddof=1) / math.sqrt(x.shape[-1])


# Intervals -------------------------------------------------------------------------------------


def test_mean_interval_by_hand():
    # 1, 2, 3, 4: mean 5/2, standard error sqrt(5/3)/2, t quantile 3.18245 at 3 degrees.
    interval = inference.mean_interval([1, 2, 3, 4])
    assert (interval.estimate, interval.n) == (2.5, 4)
    assert interval.half_width == pytest.approx(3.182446305 * math.sqrt(5 / 3) / 2)
    assert 2.5 in interval
    assert interval.low in interval
    assert 5 not in interval


@pytest.mark.parametrize("n", [2, 4, 30])
def test_mean_interval_covers_at_its_confidence(n):
    trials = 4000
    x = np.random.default_rng(n).standard_normal((trials, n))
    for confidence in (0.95, 0.8):
        covered = np.mean([0 in inference.mean_interval(row, confidence) for row in x])
        assert within(covered, confidence, trials)
    if n < 30:
        # Negative control: the normal quantile in place of Student's undercovers at small n.
        z = np.mean(covers(x, stats.norm.ppf(0.975)))
        assert z < 0.95
        assert not within(z, 0.95, trials)


def test_bootstrap_interval_covers_a_skewed_mean_and_median():
    trials, n = 400, 60
    rng = np.random.default_rng(1)
    x = rng.exponential(size=(trials, n))
    for statistic, truth in ((np.mean, 1.0), (np.median, math.log(2))):
        covered = np.mean(
            [truth in inference.bootstrap_interval(r, statistic, resamples=999, rng=rng) for r in x]
        )
        # BCa is second-order correct, not exact: one percent of leeway beyond the noise.
        assert within(covered, 0.95, trials) or within(covered, 0.94, trials)
    # Negative control: the same check rejects intervals of 80 percent confidence.
    short = np.mean(
        [
            1.0 in inference.bootstrap_interval(r, np.mean, confidence=0.8, resamples=999, rng=rng)
            for r in x
        ]
    )
    assert not within(short, 0.94, trials)


@pytest.mark.parametrize("method", ["BCa", "percentile", "basic"])
def test_bootstrap_interval_is_reproducible_and_holds_its_estimate(method):
    x = np.random.default_rng(2).standard_normal(50)
    first, second = (
        inference.bootstrap_interval(x, np.mean, method=method, rng=np.random.default_rng(3))
        for _ in range(2)
    )
    assert first == second
    assert first.estimate == pytest.approx(x.mean())
    assert first.estimate in first
    # For a normal mean it is close to Student's.
    assert first.half_width == pytest.approx(inference.mean_interval(x).half_width, rel=0.1)


# Kolmogorov-Smirnov and Monte Carlo p-values ---------------------------------------------------


def test_ks_distance_matches_scipy_with_and_without_ties():
    x = np.random.default_rng(4).standard_normal(500)
    for sample in (x, np.round(x, 1), x.reshape(50, 10)):
        expected = stats.kstest(sample.ravel(), stats.norm.cdf).statistic
        assert inference.ks_distance(sample, stats.norm.cdf) == pytest.approx(expected)
    # One point at the median is half a step away; a point mass there likewise.
    assert inference.ks_distance([0.0], stats.norm.cdf) == 0.5
    assert inference.ks_distance([0.0] * 7, stats.norm.cdf) == 0.5


def test_ks_distances_are_taken_row_by_row():
    x = np.random.default_rng(7).standard_normal((3, 4, 20))
    rows = inference.ks_distances(x, stats.norm.cdf)
    assert rows.shape == (3, 4)
    assert rows[2, 1] == inference.ks_distance(x[2, 1], stats.norm.cdf)
    # Negative control: rows that each fail can pool to the very law.
    split = stats.norm.ppf((np.arange(100) + 0.5) / 100).reshape(2, 50)
    assert inference.ks_distances(split, stats.norm.cdf) == pytest.approx([0.505, 0.505])
    assert inference.ks_distance(split, stats.norm.cdf) == pytest.approx(0.005)


def test_monte_carlo_null_of_a_uniform_maximum():
    # The largest of 5 uniform numbers has distribution function x^5. Alarm rate 1e-4.
    null = inference.monte_carlo_null(
        np.max, lambda rng: rng.random(5), repetitions=2000, rng=np.random.default_rng(5)
    )
    assert (np.diff(null) >= 0).all()
    assert stats.kstest(null, lambda x: x**5).pvalue > 1e-4
    assert stats.kstest(null, lambda x: x**6).pvalue < 1e-4  # negative control


def test_pvalue_counts_ties_and_is_never_zero():
    null = np.array([0.0, 1, 1, 2])
    assert inference.monte_carlo_pvalue(1, null) == (1 + 3) / 5
    assert inference.monte_carlo_pvalue(1.5, null) == (1 + 1) / 5
    assert inference.monte_carlo_pvalue(99, null) == 1 / 5


def rejection_rate(pvalue, draw, trials=2000, size=99, seed=6):
    """Share of p-values of at most 0.05 when observation and null come from one law."""
    rng = np.random.default_rng(seed)
    return np.mean([pvalue(x[0], x[1:]) <= 0.05 for x in draw(rng, (trials, size + 1))])


def strict_pvalue(observed, null):
    """The variant that lets ties speak against the null."""
    return (1 + (null > observed).sum()) / (1 + null.size)


def test_size_of_the_pvalue_with_continuous_and_tied_statistics():
    normal = lambda rng, shape: rng.standard_normal(shape)  # noqa: E731
    # Sums of six signs: seven values, heavily tied.
    signs = lambda rng, shape: rng.choice([-1, 1], (*shape, 6)).sum(-1)  # noqa: E731
    assert within(rejection_rate(inference.monte_carlo_pvalue, normal), 0.05, 2000)
    tied = rejection_rate(inference.monte_carlo_pvalue, signs)
    assert tied <= 0.05 or within(tied, 0.05, 2000)
    # Negative control: a strict inequality rejects far too often on the tied statistic.
    strict = rejection_rate(strict_pvalue, signs)
    assert strict > 0.05
    assert not within(strict, 0.05, 2000)


# Refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inference.mean_interval([1.0]), "samples must hold at least 2 values, got 1"),
        (lambda: inference.mean_interval([1.0, np.nan]), "samples must be finite, got 1 NaN"),
        (lambda: inference.mean_interval([1, 2], 95), r"confidence must be a number in \(0, 1\)"),
        (lambda: bootstrap([1.0, 1.0]), "samples must differ, got 2 times 1"),
        (lambda: bootstrap([1.0, 2.0], method="t"), "method must be one of 'BCa'"),
        (lambda: bootstrap([1.0, 2.0], resamples=5), "resamples must be an integer >= 100"),
        (lambda: inference.ks_distance([], stats.norm.cdf), "samples must hold at least 1"),
        (lambda: inference.ks_distance([1.0], lambda x: 2 * x), "cdf must return one value"),
        (lambda: inference.ks_distances([[np.nan]], stats.norm.cdf), "samples must be finite and"),
        (lambda: inference.monte_carlo_pvalue(np.nan, [1.0]), "observed must be finite, got nan"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def bootstrap(x, **change):
    return inference.bootstrap_interval(x, np.mean, rng=np.random.default_rng(0), **change)
