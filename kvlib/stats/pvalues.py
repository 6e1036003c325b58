"""P-values against a null distribution; :mod:`kvlib.stats` is the public name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import as_real, as_within, check_int, check_number, check_rng
from kvlib.stats.intervals import as_samples


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
    pooled = np.ravel(as_real(samples, "samples"))
    return float(ks_distances(as_samples(pooled, "samples", least=1), cdf))


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
    check_rng(rng)
    null = np.array([float(statistic(draw(child))) for child in rng.spawn(count)])
    return np.sort(as_samples(null, "statistic under the null", least=1))


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
    values = as_samples(null, "null", least=1)
    seen = check_number(observed, "observed")
    return float((1 + (values >= seen).sum()) / (1 + values.size))


def holm(pvalues: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted for the number of comparisons made together.

    Parameters
    ----------
    pvalues : array, shape (m,)
        One p-value a comparison, of any dependence.

    Returns
    -------
    ndarray, shape (m,)
        In the order given. Rejecting those of at most alpha makes a false rejection among the
        true null hypotheses with probability at most alpha.

    Raises
    ------
    ValueError
        If a p-value is not in [0, 1] or there is none.

    Notes
    -----
    Holm (1979): the k-th smallest is multiplied by m - k + 1, and none may fall below a smaller
    one. A p-value from B permutations is at least 1 / (1 + B), its adjusted value at least
    m / (1 + B) if it is the smallest: B of at least m / alpha is needed to reject anything.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = as_within(pvalues, "pvalues", low=0, high=1)
    if p.ndim != 1 or p.size == 0:
        raise ValueError(f"pvalues must have shape (m,) with m >= 1, got {p.shape}")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
