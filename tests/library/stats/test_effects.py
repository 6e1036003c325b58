"""Rank-biserial correlations: by hand, against scipy, against all pairs, and their coverage.

Simulated coverages may fall short of the nominal one by four binomial standard errors
(false-alarm rate 3e-5 a comparison); each check is shown to reject an interval known to fail.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from kvlib import stats

RNG = np.random.default_rng
TRIALS = 600


def too_low(rate, nominal, trials=TRIALS):
    return rate < nominal - 4 * math.sqrt(nominal * (1 - nominal) / trials)


def samples(seed, n=9, m=13, ties=False):
    rng = RNG(seed)
    x, y = rng.standard_normal(n) + 0.4, rng.standard_normal(m)
    return (np.round(2 * x), np.round(2 * y)) if ties else (x, y)


def test_by_hand():
    # Of the 2 x 3 pairs, 4 have the larger x, 1 the larger y, 1 is tied.
    found = stats.rank_biserial([2, 5], [1, 2, 3])
    assert found.r == pytest.approx((4 - 1) / 6)
    assert found.superiority == pytest.approx(4.5 / 6)
    assert (found.statistic, found.n, found.alternative) == (4.5, (2, 3), "two-sided")
    # Differences 1, -2, 3, 0: signed ranks 1, -2, 3, the zero left out.
    matched = stats.rank_biserial([2, 1, 4, 7], [1, 3, 1, 7], paired=True)
    assert matched.r == pytest.approx((4 - 2) / 6)
    assert (matched.statistic, matched.n, matched.paired) == (4, (3, 3), True)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("size", [(6, 7), (30, 40)])
def test_unpaired_matches_scipy_and_all_pairs(ties, alternative, size):
    x, y = samples(1, *size, ties=ties)
    found = stats.rank_biserial(x, y, alternative=alternative)
    expected = scipy.stats.mannwhitneyu(x, y, alternative=alternative)
    assert found.pvalue == pytest.approx(expected.pvalue, rel=1e-10)
    assert found.r == pytest.approx(2 * expected.statistic / (x.size * y.size) - 1, abs=1e-10)
    assert found.r == pytest.approx(np.sign(np.subtract.outer(x, y)).mean(), abs=1e-10)
    # Somers' D of the sample's name is the same number.
    name = np.repeat([1, 0], size)
    assert found.r == pytest.approx(scipy.stats.somersd(name, np.r_[x, y]).statistic, abs=1e-10)


# Where scipy is exact (without ties, or up to 13 pairs) and where both are approximate.
@pytest.mark.parametrize(("n", "ties"), [(12, True), (12, False), (25, False), (80, True)])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_paired_matches_scipy_and_all_walsh_averages(n, ties, alternative):
    x, y = samples(2, n, n, ties=ties)
    found = stats.rank_biserial(x, y, paired=True, alternative=alternative)
    d = (x - y)[x != y]
    expected = scipy.stats.wilcoxon(d, alternative=alternative)
    assert found.pvalue == pytest.approx(expected.pvalue, rel=1e-10)
    sums = [a + b for a, b in itertools.combinations_with_replacement(d, 2)]
    assert found.r == pytest.approx(np.sign(sums).mean(), abs=1e-10)


def test_paired_signs_are_binomial():
    # With differences of one size, Wilcoxon's test is the sign test.
    d = np.array([1.0] * 14 + [-1.0] * 6)
    found = stats.rank_biserial(d, 0 * d, paired=True, alternative="greater")
    assert found.pvalue == pytest.approx(
        scipy.stats.binomtest(14, 20, alternative="greater").pvalue
    )
    assert found.r == pytest.approx(8 / 20)


@pytest.mark.parametrize("paired", [False, True])
def test_exchanging_the_samples_changes_the_sign(paired):
    x, y = samples(3, 12, 12)
    forth = stats.rank_biserial(x, y, paired=paired, alternative="greater")
    back = stats.rank_biserial(y, x, paired=paired, alternative="less")
    assert back.r == pytest.approx(-forth.r, abs=1e-12)
    assert back.interval.low == pytest.approx(-forth.interval.high, abs=1e-12)
    assert back.pvalue == pytest.approx(forth.pvalue)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("n", [2, 5, 50])
def test_a_perfect_separation_keeps_a_wide_interval(paired, n):
    # As for Wilson's: at r = 1 the end is (1 - z^2 c) / (1 + z^2 c), c the variance under the
    # null in units of 1/4.
    x, y = np.arange(n) + 2.0 * n, np.arange(n) * 0.5
    found = stats.rank_biserial(x, y, paired=paired)
    c = 2 * (2 * n + 1) / (3 * n * (n + 1)) if paired else (2 * n + 1) / (3 * n * n)
    square = scipy.stats.norm.ppf(0.975) ** 2 * c
    assert found.r == found.interval.high == 1
    assert found.interval.low == pytest.approx((1 - square) / (1 + square))


@pytest.mark.parametrize("paired", [False, True])
def test_identical_samples_say_nothing(paired):
    found = stats.rank_biserial(np.ones(6), np.ones(6), paired=paired)
    assert (found.r, found.pvalue) == (0, 1)
    assert found.interval.low == pytest.approx(-found.interval.high)
    assert found.interval.high > 0.5


LAWS = {
    # name: (x, y, true r unpaired, true r paired); Phi is the normal distribution function.
    "normal": (
        lambda g, n: g.standard_normal(n) + 1,
        lambda g, n: g.standard_normal(n),
        2 * scipy.stats.norm.cdf(1 / math.sqrt(2)) - 1,
        2 * scipy.stats.norm.cdf(1) - 1,
    ),
    "unequal spread": (
        lambda g, n: 10 * g.standard_normal(n) + 5,
        lambda g, n: g.standard_normal(n),
        2 * scipy.stats.norm.cdf(5 / math.sqrt(101)) - 1,
        2 * scipy.stats.norm.cdf(10 / math.sqrt(202)) - 1,
    ),
    "signs": (
        # P(x > y) - P(x < y) = (0.7 - 0.3) / 2; the differences that are not zero have 0.7 : 0.3.
        lambda g, n: np.where(g.random(n) < 0.7, 1.0, -1.0),
        lambda g, n: g.choice([-1.0, 1.0], n),
        0.2,
        0.4,
    ),
}


def misses(interval_of, law, n=20, seed=4):
    rng = RNG(seed)
    x, y = LAWS[law][:2]
    return 1 - np.mean([interval_of(x(rng, n), y(rng, n)) for _ in range(TRIALS)])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("paired", [False, True])
def test_interval_covers_at_its_confidence(law, paired):
    truth = LAWS[law][3 if paired else 2]

    def covers(x, y):
        return truth in stats.rank_biserial(x, y, paired=paired).interval

    assert not too_low(1 - misses(covers, law), 0.95)


def test_coverage_check_rejects_intervals_that_are_too_short():
    # Negative controls: 80 percent intervals, and one that knows only the variance under the
    # null, where the spreads are unequal.
    def covers_short(x, y):
        return LAWS["normal"][2] in stats.rank_biserial(x, y, confidence=0.8).interval

    assert too_low(1 - misses(covers_short, "normal"), 0.95)

    def covers_null(x, y):
        r = stats.rank_biserial(x, y).r
        return (
            abs(r - LAWS["unequal spread"][2]) <= 1.96 * math.sqrt(41 / 1200) * (1 - r * r) ** 0.5
        )

    assert too_low(1 - misses(covers_null, "unequal spread", n=20), 0.95)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.rank_biserial([1.0], [1, 2]), "x must hold at least 2 values, got 1"),
        (lambda: stats.rank_biserial([1, 2], [1, np.inf]), "y must be finite, got 1"),
        (
            lambda: stats.rank_biserial([1, 2], [1, 2, 3], paired=True),
            "y must have as many samples as x when paired, got 3 against 2",
        ),
        (
            lambda: stats.rank_biserial([1, 2], [1, 2], alternative="larger"),
            "alternative must be one of 'two-sided'",
        ),
        (lambda: stats.rank_biserial([1, 2], [1, 2], confidence=95), "confidence must be"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
