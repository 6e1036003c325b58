"""Energy distance of two samples of points; :mod:`kvlib.stats` is the public name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from kvlib.checks import as_finite
from kvlib.stats.intervals import check_pairs

# Entries of one block of distances: 8 MB, small beside what it is multiplied with.
BLOCK_ENTRIES = 1 << 20


@dataclass(frozen=True)
class EnergyDistance:
    """Energy distance between two samples.

    Attributes
    ----------
    squared : float
        ``2 E|X - Y| - E|X - X'| - E|Y - Y'|``, in the unit of the data.
    n : tuple of int
        Sizes of the two samples.
    """

    squared: float
    n: tuple[int, int]

    @property
    def root(self) -> float:
        """Its square root: a metric on distributions, in the root of the data's unit."""
        return math.sqrt(self.squared)


def energy_distance(x: ArrayLike, y: ArrayLike) -> EnergyDistance:
    """Energy distance between two samples of points.

    Parameters
    ----------
    x, y : array, shapes (n,) or (n, d) and (m,) or (m, d)
        One point a row; one number a point if there is no second axis.

    Returns
    -------
    EnergyDistance
        Both readings, named: papers report either as "the energy distance".

    Notes
    -----
    Szekely and Rizzo (2013), the V-statistic: the means E run over all pairs, a point with
    itself included, so that it is never negative and is zero only for equal samples. Its
    expectation under equal laws is above zero, of order 1/n: compare it with
    :func:`energy_test`'s null, not with zero. In one dimension ``root`` is
    :func:`scipy.stats.energy_distance`.

    The distance is not invariant to the scale of a coordinate: standardise coordinates of
    different units first.

    Examples
    --------
    >>> energy_distance([0.0], [2.0])
    EnergyDistance(squared=4.0, n=(1, 1))
    """
    points, (n, m) = as_points(x, y, least=1)
    labels = np.arange(n + m) < n
    return EnergyDistance(float(energy_squared(points, labels[None], n)[0]), (n, m))


def as_points(
    x: ArrayLike, y: ArrayLike, *, least: int, paired: bool = False
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Return both samples in one array of shape (n + m, d), and their sizes."""
    first, second = _points(x, "x", least), _points(y, "y", least)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"y must have points of {first.shape[1]} coordinates like x, got {second.shape[1]}"
        )
    check_pairs(len(first), len(second), paired=paired)
    return np.concatenate([first, second]), (len(first), len(second))


def label_weights(labels: NDArray[np.bool_], n: int, m: int) -> NDArray[np.float64]:
    """Whole-number weights in the ratio of 1/n for the points of x to -1/m for those of y.

    Whole numbers keep sums of whole-numbered distances exact, so that ties stay ties. Multiplied
    by :func:`weight_unit` they are 1/n and -1/m.
    """
    common = math.gcd(n, m)
    return labels * np.float64((n + m) // common) - np.float64(n // common)


def weight_unit(n: int, m: int) -> float:
    """Size of one whole step of :func:`label_weights`."""
    return math.gcd(n, m) / (n * m)


def energy_squared(
    points: NDArray[np.float64], labels: NDArray[np.bool_], n: int
) -> NDArray[np.float64]:
    """Squared energy distances of all labellings of one set of points.

    Parameters
    ----------
    points : array, shape (N, d)
    labels : array, shape (B, N)
        Which n points of each labelling belong to x; the rest belong to y.

    Returns
    -------
    ndarray, shape (B,)

    Notes
    -----
    With weights w of 1/n and -1/m it is the quadratic form ``-w' D w`` in the distances D. Each
    distance above the diagonal is computed once, in blocks of rows, and each block serves all
    labellings in matrix products.
    """
    size, m = len(points), len(points) - n
    rows = max(1, min(256, BLOCK_ENTRIES // size))
    width = max(1, 2 * BLOCK_ENTRIES // size)
    forms = np.zeros(len(labels))
    for top in range(0, size, rows):
        here = slice(top, top + rows)
        block = cdist(points[here], points[top:])
        # Off the diagonal each distance counts twice; the square on it holds both already.
        block[:, : len(block)] /= 2
        for start in range(0, len(labels), width):
            part = slice(start, start + width)
            weights = label_weights(labels[part, top:], n, m)
            products = weights @ block.T
            forms[part] += np.einsum("bi,bi->b", products, weights[:, : len(block)])
    squared = -2 * forms * weight_unit(n, m) ** 2
    if not np.isfinite(squared).all():
        raise ValueError("x and y must be smaller: distances between them overflow")
    return np.maximum(squared, 0.0)


def _points(x: ArrayLike, name: str, least: int) -> NDArray[np.float64]:
    array = np.asarray(as_finite(x, name), dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must have shape (n,) or (n, d), got {np.shape(x)}")
    if len(array) < least:
        raise ValueError(f"{name} must hold at least {least} points, got {len(array)}")
    return array
