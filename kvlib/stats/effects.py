"""Rank-biserial correlation of two samples; :mod:`kvlib.stats` is the public name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from kvlib.checks import check_bool, check_choice, check_fraction
from kvlib.stats.intervals import Interval, as_two_samples, pair_differences

ALTERNATIVES = ("two-sided", "greater", "less")

# Up to so many pairs Wilcoxon's null distribution is counted out.
EXACT_PAIRS = 50


@dataclass(frozen=True)
class RankBiserial:
    """Rank-biserial correlation of two samples, and the rank test of no difference.

    Attributes
    ----------
    r : float
        From -1 (every x below every y) to 1 (every x above every y).
    interval : Interval
        ``estimate`` is r.
    pvalue : float
    statistic : float
        Mann and Whitney's U of x; Wilcoxon's sum of the positive ranks if paired.
    alternative : str
        What the p-value speaks for: x ``"greater"`` than y, ``"less"``, or ``"two-sided"``.
    n : tuple of int
        Sizes of the two samples; if paired, the number of pairs that differ, twice.
    paired : bool
    """

    r: float
    interval: Interval
    pvalue: float
    statistic: float
    alternative: str
    n: tuple[int, int]
    paired: bool

    @property
    def superiority(self) -> float:
        """Probability that an x exceeds a y, ties counted half: ``(1 + r) / 2``."""
        return (1 + self.r) / 2


def rank_biserial(
    x: ArrayLike,
    y: ArrayLike,
    *,
    paired: bool = False,
    alternative: str = "two-sided",
    confidence: float = 0.95,
) -> RankBiserial:
    """Rank-biserial correlation with its interval and the p-value of the rank test.

    Parameters
    ----------
    x, y : array, shapes (n,) and (m,)
        Repetitions of two methods, at least two of each; ties allowed.
    paired : bool
        Whether x[i] and y[i] come from the same draw; then n = m.
    alternative : {"two-sided", "greater", "less"}
    confidence : float
        Coverage of the interval, in (0, 1); it is two-sided whatever the alternative.

    Returns
    -------
    RankBiserial

    Notes
    -----
    Unpaired: ``r = 2 U / (n m) - 1 = P(x > y) - P(x < y)`` (Cureton 1956; Wendt 1972), ties
    counted half, with the test of Mann and Whitney (1947): exact for a sample of at most 8
    without ties, else the normal approximation corrected for ties.

    Paired: the matched-pairs correlation of Kerby (2014), ``(W+ - W-) / (W+ + W-)`` over the
    signed ranks of the differences, with the test of Wilcoxon (1945): exact up to 50 pairs, with
    ties as well, else the normal approximation. Pairs without a difference are left out. It
    estimates ``2 P(d + d' > 0) - 1`` for two independent differences.

    The interval is Wilson's (1927) for ``(1 + r) / 2`` with an effective number of trials: that
    which gives the variance under the null, or fewer where the placements (DeLong et al. 1988)
    show more variance, but never fewer than the bound of Birnbaum and Klose (1957) allows,
    min(n, m), or half the pairs. So it keeps its width at r = -1 and 1, where intervals from
    the placements alone and from the bootstrap have none. The combination is ours; the tests
    measure its coverage.
    """
    paired = check_bool(paired, "paired")
    a, b = as_two_samples(x, y, paired=paired)
    check_choice(alternative, "alternative", ALTERNATIVES)
    confidence = check_fraction(confidence, "confidence")
    if paired:
        return _matched(pair_differences(a, b), alternative, confidence)
    above = _placements(a, b)
    theta, shape = float(above.mean()), (a.size, b.size)
    result = stats.mannwhitneyu(a, b, alternative=alternative)
    variance = above.var(ddof=1) / a.size + _placements(b, a).var(ddof=1) / b.size
    under_null = (a.size + b.size + 1) / (3 * a.size * b.size)
    spread = _spread(theta, float(variance), under_null, largest=1 / min(shape))
    interval = _wilson(theta, spread, confidence, min(shape))
    p = 1.0 if math.isnan(result.pvalue) else float(result.pvalue)
    return RankBiserial(
        interval.estimate, interval, p, float(result.statistic), alternative, shape, False
    )


def _matched(d: NDArray[np.float64], alternative: str, confidence: float) -> RankBiserial:
    """Matched-pairs rank-biserial correlation of the differences ``d``."""
    d = d[d != 0]
    n = d.size
    if n == 0:
        return RankBiserial(0.0, Interval(0.0, -1.0, 1.0, 0), 1.0, 0.0, alternative, (0, 0), True)
    positive = float(stats.rankdata(np.abs(d))[d > 0].sum())
    theta = positive / (n * (n + 1) / 2)
    # Share of the other differences that outweigh the opposite of each: its Walsh averages.
    above = (_placements(d, -d) * n - (d > 0)) / max(n - 1, 1)
    variance = 4 * float(above.var(ddof=1)) / n if n > 1 else 0.0
    under_null = 2 * (2 * n + 1) / (3 * n * (n + 1))
    spread = _spread(theta, variance, under_null, largest=2 / n)
    interval = _wilson(theta, spread, confidence, n)
    p = _signed_rank_pvalue(d, alternative)
    return RankBiserial(interval.estimate, interval, p, positive, alternative, (n, n), True)


def _signed_rank_pvalue(d: NDArray[np.float64], alternative: str) -> float:
    """P-value of Wilcoxon's test of differences that are not zero."""
    if d.size > EXACT_PAIRS:
        return float(stats.wilcoxon(d, alternative=alternative, method="asymptotic").pvalue)
    # Twice a mid-rank is a whole number, so that the sums of all sign patterns can be counted.
    ranks = np.rint(2 * stats.rankdata(np.abs(d))).astype(int)
    counts = np.zeros(ranks.sum() + 1)
    counts[0] = 1.0
    for rank in ranks:
        counts[rank:] = counts[rank:] + counts[:-rank]
    at = ranks[d > 0].sum()
    upper, lower = counts[at:].sum() / counts.sum(), counts[: at + 1].sum() / counts.sum()
    ends = {"greater": upper, "less": lower, "two-sided": min(1.0, 2 * min(upper, lower))}
    return float(ends[alternative])


def _placements(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each x the share of y below it, ties counted half."""
    ordered = np.sort(y)
    below, upto = np.searchsorted(ordered, x, "left"), np.searchsorted(ordered, x, "right")
    return np.asarray((below + upto) / (2 * y.size))


def _spread(theta: float, variance: float, under_null: float, largest: float) -> float:
    """Variance of an estimate of ``theta`` in units of theta (1 - theta)."""
    measured = variance / (theta * (1 - theta)) if 0 < theta < 1 else 0.0
    return min(max(measured, under_null), largest)


def _wilson(theta: float, spread: float, confidence: float, n: int) -> Interval:
    """Wilson's interval with ``1 / spread`` trials, on the scale of ``r = 2 theta - 1``."""
    square = float(stats.norm.ppf((1 + confidence) / 2)) ** 2 * spread
    center = (theta + square / 2) / (1 + square)
    half = math.sqrt(square * (theta * (1 - theta) + square / 4)) / (1 + square)
    low, high = max(0.0, center - half), min(1.0, center + half)
    # Rounding must not put the estimate outside its own interval at theta = 0 and 1.
    low, high = min(low, theta), max(high, theta)
    return Interval(2 * theta - 1, 2 * low - 1, 2 * high - 1, n)
