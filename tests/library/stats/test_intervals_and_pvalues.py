"""Coverage of intervals and size of p-values, by simulation under known laws.

Every simulated rate is compared with its nominal value within four binomial standard errors
(false-alarm rate 6e-5 a comparison), and each check is shown to reject a method known to fail.
"""

import itertools
import math
import warnings

import numpy as np
import pytest
import scipy.stats

from kvlib import stats


def within(rate, nominal, trials):
    return abs(rate - nominal) <= 4 * math.sqrt(nominal * (1 - nominal) / trials)


def covers(x, quantile):
    """Whether mean +- quantile standard errors covers zero, row by row."""
    return np.abs(x.mean(-1)) <= quantile * x.std(-1, ddof=1) / math.sqrt(x.shape[-1])


# Intervals -------------------------------------------------------------------------------------


def test_mean_interval_by_hand():
    # 1, 2, 3, 4: mean 5/2, standard error sqrt(5/3)/2, t quantile 3.18245 at 3 degrees.
    interval = stats.mean_interval([1, 2, 3, 4])
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
        covered = np.mean([0 in stats.mean_interval(row, confidence) for row in x])
        assert within(covered, confidence, trials)
    if n < 30:
        # Negative control: the normal quantile in place of Student's undercovers at small n.
        z = np.mean(covers(x, scipy.stats.norm.ppf(0.975)))
        assert z < 0.95
        assert not within(z, 0.95, trials)


def test_bootstrap_interval_covers_a_skewed_mean_and_median():
    trials, n = 400, 60
    rng = np.random.default_rng(1)
    x = rng.exponential(size=(trials, n))
    for statistic, truth in ((np.mean, 1.0), (np.median, math.log(2))):
        covered = np.mean(
            [truth in stats.bootstrap_interval(r, statistic, resamples=999, rng=rng) for r in x]
        )
        # BCa is second-order correct, not exact: one percent of leeway beyond the noise.
        assert within(covered, 0.95, trials) or within(covered, 0.94, trials)
    # Negative control: the same check rejects intervals of 80 percent confidence.
    short = np.mean(
        [
            1.0 in stats.bootstrap_interval(r, np.mean, confidence=0.8, resamples=999, rng=rng)
            for r in x
        ]
    )
    assert not within(short, 0.94, trials)


@pytest.mark.parametrize("method", ["BCa", "percentile", "basic"])
def test_bootstrap_interval_is_reproducible_and_holds_its_estimate(method):
    x = np.random.default_rng(2).standard_normal(50)
    first, second = (
        stats.bootstrap_interval(x, np.mean, method=method, rng=np.random.default_rng(3))
        for _ in range(2)
    )
    assert first == second
    assert first.estimate == pytest.approx(x.mean())
    assert first.estimate in first
    # For a normal mean it is close to Student's.
    assert first.half_width == pytest.approx(stats.mean_interval(x).half_width, rel=0.1)


@pytest.mark.parametrize("paired", [False, True])
def test_difference_interval_matches_scipy(paired):
    rng = np.random.default_rng(8)
    x, y = 3 * rng.standard_normal(9) + 1, rng.standard_normal(9 if paired else 14)
    found = stats.difference_interval(x, y, paired=paired, confidence=0.9)
    test = scipy.stats.ttest_rel(x, y) if paired else scipy.stats.ttest_ind(x, y, equal_var=False)
    expected = test.confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-10)
    assert (found.estimate, found.n) == (pytest.approx(x.mean() - y.mean()), 9)
    constant = stats.difference_interval([2, 2], [1, 1], paired=paired)
    assert (constant.low, constant.high) == (1, 1)


def test_difference_interval_covers_with_unequal_spread_and_sizes():
    trials = 2000
    rng = np.random.default_rng(9)
    x, y = 5 * rng.standard_normal((trials, 5)), rng.standard_normal((trials, 20))
    pairs = list(zip(x, y, strict=True))
    covered = np.mean([0 in stats.difference_interval(*pair) for pair in pairs])
    assert within(covered, 0.95, trials)
    # Negative control: the interval that assumes equal variances.
    pooled = np.mean([scipy.stats.ttest_ind(*pair).pvalue > 0.05 for pair in pairs])
    assert not within(pooled, 0.95, trials)


def test_bootstrap_difference_covers_and_pairing_narrows_it():
    trials, n = 400, 40
    rng = np.random.default_rng(10)
    common = 3 * rng.standard_normal((trials, n))
    x, y = (common + rng.exponential(size=(trials, n)) + shift for shift in (1, 0))

    def intervals(**options):
        return [
            stats.bootstrap_difference(a, b, np.mean, resamples=499, rng=rng, **options)
            for a, b in zip(x, y, strict=True)
        ]

    together, apart = intervals(paired=True), intervals()
    covered = np.mean([1.0 in interval for interval in together])
    assert within(covered, 0.95, trials) or within(covered, 0.94, trials)
    assert together[0].estimate == pytest.approx((x - y)[0].mean())
    # Variances 9 + 9 + 1 + 1 against 1 + 1.
    widths = [np.mean([i.half_width for i in found]) for found in (apart, together)]
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(10), rel=0.1)
    # Negative control: intervals of 80 percent confidence.
    short = np.mean([1.0 in interval for interval in intervals(paired=True, confidence=0.8)])
    assert not within(short, 0.94, trials)


# Kolmogorov-Smirnov and Monte Carlo p-values ---------------------------------------------------


def test_ks_distance_matches_scipy_with_and_without_ties():
    x = np.random.default_rng(4).standard_normal(500)
    for sample in (x, np.round(x, 1), x.reshape(50, 10)):
        expected = scipy.stats.kstest(sample.ravel(), scipy.stats.norm.cdf).statistic
        assert stats.ks_distance(sample, scipy.stats.norm.cdf) == pytest.approx(expected)
    # One point at the median is half a step away; a point mass there likewise.
    assert stats.ks_distance([0.0], scipy.stats.norm.cdf) == 0.5
    assert stats.ks_distance([0.0] * 7, scipy.stats.norm.cdf) == 0.5


def test_ks_distances_are_taken_row_by_row():
    x = np.random.default_rng(7).standard_normal((3, 4, 20))
    rows = stats.ks_distances(x, scipy.stats.norm.cdf)
    assert rows.shape == (3, 4)
    assert rows[2, 1] == stats.ks_distance(x[2, 1], scipy.stats.norm.cdf)
    # Negative control: rows that each fail can pool to the very law.
    split = scipy.stats.norm.ppf((np.arange(100) + 0.5) / 100).reshape(2, 50)
    assert stats.ks_distances(split, scipy.stats.norm.cdf) == pytest.approx([0.505, 0.505])
    assert stats.ks_distance(split, scipy.stats.norm.cdf) == pytest.approx(0.005)


def test_monte_carlo_null_of_a_uniform_maximum():
    # The largest of 5 uniform numbers has distribution function x^5. Alarm rate 1e-4.
    null = stats.monte_carlo_null(
        np.max, lambda rng: rng.random(5), repetitions=2000, rng=np.random.default_rng(5)
    )
    assert (np.diff(null) >= 0).all()
    assert scipy.stats.kstest(null, lambda x: x**5).pvalue > 1e-4
    assert scipy.stats.kstest(null, lambda x: x**6).pvalue < 1e-4  # negative control


def test_pvalue_counts_ties_and_is_never_zero():
    null = np.array([0.0, 1, 1, 2])
    assert stats.monte_carlo_pvalue(1, null) == (1 + 3) / 5
    assert stats.monte_carlo_pvalue(1.5, null) == (1 + 1) / 5
    assert stats.monte_carlo_pvalue(99, null) == 1 / 5


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
    assert within(rejection_rate(stats.monte_carlo_pvalue, normal), 0.05, 2000)
    tied = rejection_rate(stats.monte_carlo_pvalue, signs)
    assert tied <= 0.05 or within(tied, 0.05, 2000)
    # Negative control: a strict inequality rejects far too often on the tied statistic.
    strict = rejection_rate(strict_pvalue, signs)
    assert strict > 0.05
    assert not within(strict, 0.05, 2000)


# Multiple comparisons --------------------------------------------------------------------------


def closed_bonferroni(p):
    """Adjusted p-values by closed testing: the largest Bonferroni p-value of a set with i."""
    subsets = [s for k in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), k)]
    return [
        max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s)
        for i in range(len(p))
    ]


def test_holm_is_closed_bonferroni():
    rng = np.random.default_rng(11)
    for size in (1, 2, 5, 7):
        for p in (rng.random(size), rng.random(size) / 20, np.round(rng.random(size) / 5, 1)):
            assert stats.holm(p) == pytest.approx(closed_bonferroni(p), abs=1e-12)


def test_holm_bounds_false_rejections():
    trials, true, false = 4000, 6, 4
    rng = np.random.default_rng(12)
    p = rng.random((trials, true + false))
    p[:, true:] /= 1e4  # false null hypotheses, always found
    adjusted = np.array([stats.holm(row) for row in p])
    # All four are found first, so that six remain: 1 - (1 - 0.05/6)^6.
    expected = 1 - (1 - 0.05 / true) ** true
    assert within(np.mean((adjusted[:, :true] <= 0.05).any(1)), expected, trials)
    assert (adjusted[:, true:] <= 0.05).all()
    # Negative control: p-values taken one by one.
    assert not within(np.mean((p[:, :true] <= 0.05).any(1)), expected, trials)


# Shapes and range ------------------------------------------------------------------------------

REPETITIONS = np.array([0.3, -1.2, 0.8, 1.9])
FLAT_ONLY = {
    "mean_interval": stats.mean_interval,
    "geometric_mean_interval": lambda x: stats.geometric_mean_interval(np.exp(x)),
    "bootstrap_interval": lambda x: bootstrap(x),
    "bootstrap_difference": lambda x: stats.bootstrap_difference(
        x, REPETITIONS, np.mean, rng=np.random.default_rng(0)
    ),
    "difference_interval": lambda x: stats.difference_interval(x, REPETITIONS),
    "difference_interval of y": lambda x: stats.difference_interval(REPETITIONS, x),
    "rank_biserial": lambda x: stats.rank_biserial(x, REPETITIONS),
    "permutation_test": lambda x: stats.permutation_test(
        x, REPETITIONS, rng=np.random.default_rng(0)
    ),
    "monte_carlo_pvalue": lambda x: stats.monte_carlo_pvalue(1.0, x),
    "holm": lambda x: stats.holm(np.abs(x) / 2),
}


@pytest.mark.parametrize("name", FLAT_ONLY)
def test_tokens_do_not_count_as_repetitions(name):
    # Four repetitions of a thousand tokens that share everything: still four repetitions.
    tokens = np.repeat(REPETITIONS[:, None], 1000, axis=1)
    FLAT_ONLY[name](REPETITIONS)
    for wrong in (tokens, REPETITIONS[:, None], REPETITIONS[None], np.float64(1.0)):
        with pytest.raises(ValueError, match=r"must have shape \((n|m),\)"):
            FLAT_ONLY[name](wrong)


def test_what_flattening_would_cost():  # why the test above is there
    tokens = np.repeat(REPETITIONS[:, None], 1000, axis=1)
    honest = stats.mean_interval(tokens.mean(axis=1)).half_width
    assert stats.mean_interval(tokens.ravel()).half_width < honest / 40


def test_samples_of_any_shape_are_pooled_by_ks_distance():
    x = np.random.default_rng(3).standard_normal((4, 5, 2))
    pooled = stats.ks_distance(x.ravel(), scipy.stats.norm.cdf)
    assert stats.ks_distance(x, scipy.stats.norm.cdf) == pooled


HUGE = [1e308, 1.2e308]
OVERFLOWING = {
    "mean": lambda: stats.mean_interval([1.7e308, 1.7e308]),
    "spread": lambda: stats.mean_interval([1e200, -1e200]),
    "difference": lambda: stats.difference_interval(HUGE, np.negative(HUGE)),
    "pairs": lambda: stats.difference_interval(HUGE, np.negative(HUGE), paired=True),
    "ratios": lambda: stats.geometric_mean_interval([1e-300, 1e300]),
    "effect": lambda: stats.rank_biserial(HUGE, np.negative(HUGE), paired=True),
    "permutations": lambda: stats.permutation_test(
        HUGE, np.negative(HUGE), paired=True, rng=np.random.default_rng(0)
    ),
}


@pytest.mark.parametrize("name", OVERFLOWING)
def test_intervals_beyond_the_range_of_floats_are_refused(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"must be smaller: their (interval|differences) over"):
            OVERFLOWING[name]()


def test_large_numbers_within_range_are_no_overflow():
    interval = stats.mean_interval([1e150, 3e150])
    assert interval.estimate == 2e150
    welch = stats.difference_interval([1e100, 2e100], [3e100, 5e100])
    small = stats.difference_interval([1, 2], [3, 5])
    assert welch.half_width == pytest.approx(1e100 * small.half_width)


# Refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.mean_interval([1.0]), "samples must hold at least 2 values, got 1"),
        (lambda: stats.mean_interval([1.0, np.nan]), "samples must be finite, got 1 NaN"),
        (lambda: stats.mean_interval([1, 2], 95), r"confidence must be a number in \(0, 1\)"),
        (lambda: bootstrap([1.0, 1.0]), "samples must differ, got 2 times 1"),
        (lambda: bootstrap([1.0, 2.0], method="t"), "method must be one of 'BCa'"),
        (lambda: bootstrap([1.0, 2.0], resamples=5), "resamples must be an integer >= 100"),
        (lambda: stats.ks_distance([], scipy.stats.norm.cdf), "samples must hold at least 1"),
        (lambda: stats.ks_distance([1.0], lambda x: 2 * x), "cdf must return one value"),
        (
            lambda: stats.ks_distances([[np.nan]], scipy.stats.norm.cdf),
            "samples must be finite and",
        ),
        (lambda: stats.holm([]), r"pvalues must have shape \(m,\) with m >= 1, got \(0,\)"),
        (lambda: stats.holm([0.5, 1.5]), r"pvalues must be a number in \[0, 1\], got 1.5"),
        (lambda: stats.holm([np.nan]), r"pvalues must be a number in \[0, 1\], got nan"),
        (
            lambda: stats.difference_interval([1, 2], [1, 2, 3], paired=True),
            "y must have as many samples as x when paired, got 3 against 2",
        ),
        (
            lambda: stats.monte_carlo_pvalue(np.nan, [1.0]),
            "observed must be a finite number, got nan",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def bootstrap(x, **change):
    return stats.bootstrap_interval(x, np.mean, rng=np.random.default_rng(0), **change)
