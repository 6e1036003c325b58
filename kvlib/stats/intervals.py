"""Estimates with confidence intervals; :mod:`kvlib.stats` is the public name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from kvlib.checks import as_real, check_choice, check_fraction, check_int

Statistic = Callable[..., Any]


@dataclass(frozen=True)
class Interval:
    """An estimate with a confidence interval.

    Attributes
    ----------
    estimate, low, high : float
    n : int
        Number of independent repetitions behind it.
    """

    estimate: float
    low: float
    high: float
    n: int

    @classmethod
    def exactly(cls, value: float, n: int = 1) -> Interval:
        """A value without uncertainty: both ends are the estimate."""
        return cls(float(value), float(value), float(value), n)

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def mean_interval(samples: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student-t interval of a mean over independent repetitions.

    Parameters
    ----------
    samples : array, shape (n,)
        At least two repetitions.
    confidence : float
        Coverage if the repetitions are normal, in (0, 1).

    Returns
    -------
    Interval

    Notes
    -----
    Student (1908). Exact for normal repetitions of any number; repetitions that are themselves
    means over many vectors are close to normal.
    """
    x = as_samples(samples, "samples", least=2)
    check_fraction(confidence, "confidence")
    mean = float(x.mean())
    half = float(stats.t.ppf((1 + confidence) / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, x.size)


def difference_interval(
    x: ArrayLike, y: ArrayLike, *, paired: bool = False, confidence: float = 0.95
) -> Interval:
    """Student-t interval of the mean of x less the mean of y.

    Parameters
    ----------
    x, y : array, shapes (n,) and (m,)
        Repetitions of two methods, at least two of each.
    paired : bool
        Whether x[i] and y[i] come from the same draw; then n = m.
    confidence : float

    Returns
    -------
    Interval
        ``n`` is the number of pairs, or the size of the smaller sample.

    Notes
    -----
    Paired: :func:`mean_interval` of the differences. Unpaired: Welch (1947), without the
    assumption of equal variances.
    """
    a, b = as_two_samples(x, y, paired=paired)
    if paired:
        return mean_interval(a - b, confidence)
    check_fraction(confidence, "confidence")
    parts = np.array([a.var(ddof=1) / a.size, b.var(ddof=1) / b.size])
    center, half = float(a.mean() - b.mean()), 0.0
    if parts.sum() > 0:
        degrees = parts.sum() ** 2 / (parts[0] ** 2 / (a.size - 1) + parts[1] ** 2 / (b.size - 1))
        half = float(stats.t.ppf((1 + confidence) / 2, degrees) * math.sqrt(parts.sum()))
    return Interval(center, center - half, center + half, min(a.size, b.size))


def geometric_mean_interval(ratios: ArrayLike, confidence: float = 0.95) -> Interval:
    """Geometric mean of positive ratios: :func:`mean_interval` of their logarithms, exponentiated.

    Parameters
    ----------
    ratios : array, shape (n,)
        Positive, at least two independent repetitions.
    confidence : float

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If a ratio is not positive.

    Examples
    --------
    >>> interval = geometric_mean_interval([0.5, 1.0, 2.0])
    >>> round(interval.estimate, 12)
    1.0
    """
    array = as_samples(ratios, "ratios", least=2)
    if not (array > 0).all():
        raise ValueError(f"ratios must be positive, got {array.min():.6g}")
    i = mean_interval(np.log(array), confidence)
    low, estimate, high = np.exp([i.low, i.estimate, i.high]).tolist()
    return Interval(estimate, low, high, i.n)


def proportion_interval(hits: int, total: int, confidence: float = 0.95) -> Interval:
    """Exact binomial interval of a share (Clopper and Pearson, 1934).

    Parameters
    ----------
    hits, total : int
        Successes among independent trials.
    confidence : float

    Examples
    --------
    >>> proportion_interval(0, 10).low
    0.0
    """
    count = check_int(total, "total", low=1)
    found = check_int(hits, "hits", low=0, high=count)
    level = check_fraction(confidence, "confidence")
    ends = stats.binomtest(found, count).proportion_ci(level, "exact")
    return Interval(found / count, float(ends.low), float(ends.high), count)


def bootstrap_interval(
    samples: ArrayLike,
    statistic: Statistic,
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    method: str = "BCa",
    rng: np.random.Generator,
) -> Interval:
    """Bootstrap interval of a statistic of independent repetitions.

    Parameters
    ----------
    samples : array, shape (n,)
    statistic : callable
        Maps an array of samples to a number; must accept ``axis``, like ``numpy.median``.
    confidence : float
    resamples : int
    method : {"BCa", "percentile", "basic"}
        ``"BCa"`` corrects for bias and skewness.
    rng : numpy.random.Generator

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If the resampled statistic has no spread, so that BCa is undefined.

    Notes
    -----
    Efron (1987), through :func:`scipy.stats.bootstrap`. Below about 20 repetitions every
    bootstrap interval is too short; :func:`mean_interval` is not.
    """
    x = as_samples(samples, "samples", least=2)
    if np.ptp(x) == 0:
        raise ValueError(f"samples must differ, got {x.size} times {x[0]:.6g}")
    low, high = _bootstrap((x,), statistic, confidence, resamples, method, False, rng)
    return Interval(float(statistic(x, axis=-1)), low, high, x.size)


def bootstrap_difference(
    x: ArrayLike,
    y: ArrayLike,
    statistic: Statistic,
    *,
    paired: bool = False,
    confidence: float = 0.95,
    resamples: int = 9999,
    method: str = "BCa",
    rng: np.random.Generator,
) -> Interval:
    """Bootstrap interval of a statistic of x less the same statistic of y.

    Parameters
    ----------
    x, y : array, shapes (n,) and (m,)
        Repetitions of two methods, at least two of each.
    statistic : callable
        Maps an array of samples to a number; must accept ``axis``, like ``numpy.median``.
    paired : bool
        Whether x[i] and y[i] come from the same draw: pairs are then resampled together.
    confidence : float
    resamples : int
    method : {"BCa", "percentile", "basic"}
    rng : numpy.random.Generator

    Returns
    -------
    Interval
        ``n`` is the number of pairs, or the size of the smaller sample.

    Raises
    ------
    ValueError
        If the resampled difference has no spread, so that BCa is undefined.

    Notes
    -----
    As :func:`bootstrap_interval`. On pairs this is the difference of the statistics, which for
    the median is not the median of the differences.
    """
    a, b = as_two_samples(x, y, paired=paired)

    def difference(u: NDArray[Any], v: NDArray[Any], axis: int = -1) -> Any:
        return statistic(u, axis=axis) - statistic(v, axis=axis)

    low, high = _bootstrap((a, b), difference, confidence, resamples, method, paired, rng)
    return Interval(float(difference(a, b)), low, high, min(a.size, b.size))


def _bootstrap(
    samples: tuple[NDArray[np.float64], ...],
    statistic: Statistic,
    confidence: float,
    resamples: int,
    method: str,
    paired: bool,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Ends of the bootstrap interval of a statistic of one or two samples."""
    check_fraction(confidence, "confidence")
    check_choice(method, "method", ("BCa", "percentile", "basic"))
    result = stats.bootstrap(
        samples,
        statistic,
        confidence_level=confidence,
        n_resamples=check_int(resamples, "resamples", low=100),
        method=method,
        paired=paired,
        vectorized=True,
        rng=rng,
    )
    low, high = (float(end) for end in result.confidence_interval)
    if math.isnan(low) or math.isnan(high):
        raise ValueError(
            f"statistic must vary over resamples for method {method!r}; use percentile"
        )
    return low, high


def as_samples(x: ArrayLike, name: str, *, least: int) -> NDArray[np.float64]:
    """Return ``x`` flat in float64, finite and of at least ``least`` entries."""
    flat = np.asarray(as_real(x, name), dtype=np.float64).ravel()
    if flat.size < least:
        raise ValueError(f"{name} must hold at least {least} values, got {flat.size}")
    if not np.isfinite(flat).all():
        bad = int(flat.size - np.isfinite(flat).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite values")
    return flat


def as_two_samples(
    x: ArrayLike, y: ArrayLike, *, paired: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both samples as by :func:`as_samples`, of equal sizes if they are pairs."""
    a, b = as_samples(x, "x", least=2), as_samples(y, "y", least=2)
    check_pairs(a.size, b.size, paired=paired)
    return a, b


def check_pairs(n: int, m: int, *, paired: bool) -> None:
    """Refuse pairs whose two members are not equally many."""
    if paired and n != m:
        raise ValueError(f"y must have as many samples as x when paired, got {m} against {n}")
