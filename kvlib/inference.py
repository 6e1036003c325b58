"""Intervals and p-values for Monte Carlo results.

A sample here is one number per independent repetition: a seed, a draw of data, a head. Vectors
or tokens of one draw share its rotation and are not independent repetitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from kvlib._validation import as_real, check_choice, check_fraction, check_int

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
    x = _samples(samples, "samples", least=2)
    check_fraction(confidence, "confidence")
    mean = float(x.mean())
    half = float(stats.t.ppf((1 + confidence) / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, x.size)


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
    x = _samples(samples, "samples", least=2)
    check_fraction(confidence, "confidence")
    check_choice(method, "method", ("BCa", "percentile", "basic"))
    if np.ptp(x) == 0:
        raise ValueError(f"samples must differ, got {x.size} times {x[0]:.6g}")
    result = stats.bootstrap(
        (x,),
        statistic,
        confidence_level=confidence,
        n_resamples=check_int(resamples, "resamples", low=100),
        method=method,
        vectorized=True,
        rng=rng,
    )
    low, high = (float(end) for end in result.confidence_interval)
    if math.isnan(low) or math.isnan(high):
        raise ValueError(
            f"statistic must vary over resamples for method {method!r}; use percentile"
        )
    return Interval(float(statistic(x, axis=-1)), low, high, x.size)


def ks_distance(samples: ArrayLike, cdf: Callable[[NDArray[Any]], ArrayLike]) -> float:
    """Kolmogorov-Smirnov distance of a sample to a continuous law.

    Parameters
    ----------
    samples : array, any shape
        Pooled into one sample; ties allowed.
    cdf : callable
        Distribution function of the law, continuous, vectorised.

    Returns
    -------
    float
        Largest distance of the empirical from the given distribution function.

    Notes
    -----
    The tabulated law of this distance assumes independent samples. Coordinates of one vector
    are not independent, nor are vectors that share a rotation: compare with
    :func:`monte_carlo_null` instead.
    """
    return float(ks_distances(_samples(samples, "samples", least=1), cdf))


def ks_distances(
    samples: ArrayLike, cdf: Callable[[NDArray[Any]], ArrayLike]
) -> NDArray[np.float64]:
    """Kolmogorov-Smirnov distance to a continuous law of each row of samples.

    Parameters
    ----------
    samples : array, shape (..., n)
        Each row along the last axis is a sample of its own: the coordinates of a vector, say.
    cdf : callable
        As in :func:`ks_distance`.

    Returns
    -------
    ndarray, shape (...)
    """
    x = np.asarray(as_real(samples, "samples"), dtype=np.float64)
    if x.ndim == 0 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"samples must be finite and not empty, got an array of shape {x.shape}")
    x = np.sort(x, axis=-1)
    law = np.asarray(cdf(x), dtype=np.float64)
    if law.shape != x.shape or not ((law >= 0) & (law <= 1)).all():
        raise ValueError("cdf must return one value in [0, 1] for each sample")
    # With ties only the outermost of the equal samples counts, and it gives the largest distance.
    steps = np.arange(x.shape[-1] + 1) / x.shape[-1]
    above, below = (steps[1:] - law).max(axis=-1), (law - steps[:-1]).max(axis=-1)
    return np.asarray(np.maximum(above, below))


def monte_carlo_null(
    statistic: Callable[[Any], float],
    draw: Callable[[np.random.Generator], Any],
    *,
    repetitions: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Sorted values of a statistic on data drawn under the null hypothesis.

    Parameters
    ----------
    statistic : callable
        Maps what ``draw`` returns to a number.
    draw : callable
        Draws one data set under the null from the generator it is given.
    repetitions : int
    rng : numpy.random.Generator
        Spawns one generator a repetition.

    Returns
    -------
    ndarray, shape (repetitions,)
        Ascending; ``numpy.quantile`` of it gives the null band.
    """
    count = check_int(repetitions, "repetitions", low=1)
    null = np.array([float(statistic(draw(child))) for child in rng.spawn(count)])
    return np.sort(_samples(null, "statistic under the null", least=1))


def monte_carlo_pvalue(observed: float, null: ArrayLike) -> float:
    """One-sided p-value of an observed statistic among null values.

    Parameters
    ----------
    observed : float
        Large values speak against the null.
    null : array, shape (B,)
        Values under the null, from fresh draws or from random permutations.

    Returns
    -------
    float
        ``(1 + b) / (1 + B)``, b the number of null values at least as large as ``observed``.

    Notes
    -----
    Phipson and Smyth (2010): never zero, and of size at most the nominal one, with ties as
    well, since ties count against the observation.
    """
    values = _samples(null, "null", least=1)
    if not math.isfinite(observed):
        raise ValueError(f"observed must be finite, got {observed}")
    return float((1 + (values >= observed).sum()) / (1 + values.size))


def _samples(x: ArrayLike, name: str, *, least: int) -> NDArray[np.float64]:
    """Return ``x`` flat in float64, finite and of at least ``least`` entries."""
    flat = np.asarray(as_real(x, name), dtype=np.float64).ravel()
    if flat.size < least:
        raise ValueError(f"{name} must hold at least {least} values, got {flat.size}")
    if not np.isfinite(flat).all():
        bad = int(flat.size - np.isfinite(flat).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite values")
    return flat
