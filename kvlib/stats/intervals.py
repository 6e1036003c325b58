"""Estimates with confidence intervals; :mod:`kvlib.stats` is the public name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from kvlib.checks import as_real, check_bool, check_choice, check_fraction, check_int, check_rng

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
    level = check_fraction(confidence, "confidence")
    with np.errstate(over="ignore", invalid="ignore"):  # refused by name
        mean, spread = float(x.mean()), float(x.std(ddof=1)) / math.sqrt(x.size)
    half = float(stats.t.ppf((1 + level) / 2, x.size - 1)) * spread
    return _finite(Interval(mean, mean - half, mean + half, x.size), "samples")


def _finite(interval: Interval, names: str) -> Interval:
    """Refuse an interval beyond the range of float64: its samples are too large."""
    if not all(map(math.isfinite, (interval.estimate, interval.low, interval.high))):
        raise ValueError(f"{names} must be smaller: their interval overflows float64")
    return interval


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
    paired = check_bool(paired, "paired")
    a, b = as_two_samples(x, y, paired=paired)
    if paired:
        return mean_interval(pair_differences(a, b), confidence)
    level = check_fraction(confidence, "confidence")
    with np.errstate(over="ignore", invalid="ignore"):  # refused by name
        parts = np.array([a.var(ddof=1) / a.size, b.var(ddof=1) / b.size])
        center, half = float(a.mean() - b.mean()), 0.0
        if parts.sum() > 0:
            shares = parts / parts.sum()
            degrees = 1 / (shares[0] ** 2 / (a.size - 1) + shares[1] ** 2 / (b.size - 1))
            half = float(stats.t.ppf((1 + level) / 2, degrees) * math.sqrt(parts.sum()))
    return _finite(Interval(center, center - half, center + half, min(a.size, b.size)), "x and y")


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
    with np.errstate(over="ignore"):  # refused by name
        low, estimate, high = np.exp([i.low, i.estimate, i.high]).tolist()
    return _finite(Interval(estimate, low, high, i.n), "ratios")


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
    return _finite(Interval(float(statistic(x, axis=-1)), low, high, x.size), "samples")


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
    paired = check_bool(paired, "paired")
    a, b = as_two_samples(x, y, paired=paired)

    def difference(u: NDArray[Any], v: NDArray[Any], axis: int = -1) -> Any:
        return statistic(u, axis=axis) - statistic(v, axis=axis)

    low, high = _bootstrap((a, b), difference, confidence, resamples, method, paired, rng)
    return _finite(Interval(float(difference(a, b)), low, high, min(a.size, b.size)), "x and y")


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
    check_choice(method, "method", ("BCa", "percentile", "basic"))
    result = stats.bootstrap(
        samples,
        statistic,
        confidence_level=check_fraction(confidence, "confidence"),
        n_resamples=check_int(resamples, "resamples", low=100),
        method=method,
        paired=paired,
        vectorized=True,
        rng=check_rng(rng),
    )
    low, high = (float(end) for end in result.confidence_interval)
    if math.isnan(low) or math.isnan(high):
        raise ValueError(
            f"statistic must vary over resamples for method {method!r}; use percentile"
        )
    return low, high


def as_samples(x: ArrayLike, name: str, *, least: int) -> NDArray[np.float64]:
    """Return ``x`` in float64: one axis, finite and of at least ``least`` entries.

    More axes are refused, not flattened: of (repetitions, tokens) every token would count as a
    repetition, and the interval would be too short by the root of their number.
    """
    samples = np.asarray(as_real(x, name), dtype=np.float64)
    if samples.ndim != 1:
        raise ValueError(
            f"{name} must have shape (n,), one number a repetition, got {samples.shape}; take the "
            "mean over the other axes first, or ravel what is independent"
        )
    if samples.size < least:
        raise ValueError(f"{name} must hold at least {least} values, got {samples.size}")
    if not np.isfinite(samples).all():
        bad = int(samples.size - np.isfinite(samples).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite values")
    return samples


def as_two_samples(
    x: ArrayLike, y: ArrayLike, *, paired: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both samples as by :func:`as_samples`, of equal sizes if they are pairs."""
    a, b = as_samples(x, "x", least=2), as_samples(y, "y", least=2)
    check_pairs(a.size, b.size, paired=paired)
    return a, b


def pair_differences(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The differences of pairs, refused if one overflows."""
    with np.errstate(over="ignore"):
        differences = a - b
    if not np.isfinite(differences).all():
        raise ValueError("x and y must be smaller: their differences overflow float64")
    return differences


def check_pairs(n: int, m: int, *, paired: bool) -> None:
    """Refuse pairs whose two members are not equally many."""
    if paired and n != m:
        raise ValueError(f"y must have as many samples as x when paired, got {m} against {n}")
