"""The law of one coordinate of a uniformly random unit vector in R^d.

If u is uniform on the unit sphere, (1 + u_1)/2 ~ Beta((d-1)/2, (d-1)/2) on [0, 1]. The density of
u_1 on [-1, 1] is

    f_d(x) = Gamma(d/2) / (sqrt(pi) Gamma((d-1)/2)) * (1 - x^2)^((d-3)/2),

with mean 0, variance 1/d and kurtosis 3d/(d+2). TurboQuant (arXiv:2504.19874, Lemma 1) quantizes
against this law. Everything here is closed form; nothing is sampled except by :func:`sample`.

The dimension may be any real d > 1: :func:`companding_dim` needs the non-integer ones.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from kvlib.checks import (
    FloatArray,
    as_real,
    as_within,
    check_dim,
    check_int,
    check_number,
    check_rng,
)


def _check_real_dim(dim: float) -> float:
    return check_number(dim, "dim", low=1, above=True)


def _as_points(x: ArrayLike) -> FloatArray:
    """Points of the real line, infinite ones included, in float64."""
    points = as_real(x, "x").astype(np.float64, copy=False)
    if np.isnan(points).any():
        raise ValueError("x must not be NaN")
    return points


def _half_step_gamma_ratio(x: float) -> float:
    """Gamma(x + 1/2) / Gamma(x), to rounding error for every x > 0.

    A difference of log-gammas would lose log10(x) digits, and with them the convergence of the
    Lloyd-Max solver at large d; the asymptotic series (Tricomi and Erdelyi 1951) loses none.
    """
    if x < 100:
        return math.gamma(x + 0.5) / math.gamma(x)
    coefficients = (1, -1 / 8, 1 / 128, 5 / 1024, -21 / 32768, -399 / 262144, 869 / 4194304)
    return math.sqrt(x) * sum(c / x**power for power, c in enumerate(coefficients))


def normalizer(dim: float) -> float:
    """The constant Gamma(d/2) / (sqrt(pi) Gamma((d-1)/2)) of the density."""
    return _half_step_gamma_ratio((_check_real_dim(dim) - 1) / 2) / math.sqrt(math.pi)


def _power_of_one_minus_square(x: FloatArray, power: float) -> FloatArray:
    """(1 - x^2)^power for |x| <= 1, without losing digits near x = 0 (large power) or |x| = 1."""
    square = x * x
    log = np.where(
        square < 0.5,
        special.xlog1py(power, -square),
        special.xlogy(power, (1 - x) * (1 + x)),
    )
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(log))


def coordinate_pdf(x: ArrayLike, dim: float) -> FloatArray:
    """Density f_d(x); zero outside [-1, 1], infinite at +-1 when d < 3."""
    x = _as_points(x)
    inside = np.abs(x) <= 1
    shape = _power_of_one_minus_square(np.where(inside, x, 0.0), (_check_real_dim(dim) - 3) / 2)
    return np.asarray(np.where(inside, normalizer(dim) * shape, 0.0))


def coordinate_sf(x: ArrayLike, dim: float) -> FloatArray:
    """P(u_1 > x), accurate in relative terms in the upper tail."""
    x = np.clip(_as_points(x), -1, 1)
    shape = (_check_real_dim(dim) - 1) / 2
    square, one_minus_square = x * x, (1 - x) * (1 + x)
    # u_1^2 ~ Beta(1/2, (d-1)/2). Of the two forms of its tail take the one whose argument is not
    # a difference of nearly equal numbers.
    both_tails = np.where(
        square < 0.5,
        special.betaincc(0.5, shape, square),
        special.betainc(shape, 0.5, one_minus_square),
    )
    return np.asarray(np.where(x >= 0, 0.5 * both_tails, 1 - 0.5 * both_tails))


def coordinate_cdf(x: ArrayLike, dim: float) -> FloatArray:
    """P(u_1 <= x), accurate in relative terms in the lower tail."""
    return coordinate_sf(-_as_points(x), dim)


def coordinate_ppf(probability: ArrayLike, dim: float) -> FloatArray:
    """Quantile function, the inverse of :func:`coordinate_cdf`."""
    p = as_within(probability, "probability", low=0, high=1)
    shape = (_check_real_dim(dim) - 1) / 2
    # Solve in the lower half and mirror: betaincinv keeps full relative accuracy there.
    lower = 2 * special.betaincinv(shape, shape, np.minimum(p, 1 - p)) - 1
    return np.asarray(np.where(p <= 0.5, lower, -lower))


def variance(dim: float) -> float:
    """E u_1^2 = 1/d."""
    return 1 / _check_real_dim(dim)


def kurtosis(dim: float) -> float:
    """E u_1^4 / (E u_1^2)^2 = 3d/(d+2); the Gaussian's 3 is the limit."""
    d = _check_real_dim(dim)
    return 3 * d / (d + 2)


def mean_absolute(dim: float) -> float:
    """E|u_1| = Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)), about sqrt(2/(pi d))."""
    return 1 / (math.sqrt(math.pi) * _half_step_gamma_ratio(_check_real_dim(dim) / 2))


def companding_dim(dim: float) -> float:
    """Dimension d' = d/3 + 2 whose coordinate density is proportional to f_d^(1/3).

    Panter and Dite (1951): at high rate the best quantizer's levels have density proportional to
    f^(1/3). The cube root of (1-x^2)^((d-3)/2) is again a coordinate density, so the optimal
    compander is a quantile function of the same family.
    """
    return _check_real_dim(dim) / 3 + 2


def upper_cell_moments(edges: ArrayLike, dim: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Probability, first and second partial moment of each cell of [0, 1].

    Parameters
    ----------
    edges : array, shape (cells + 1,)
        Increasing (points may repeat), within [0, 1]. Restricting to the upper half costs nothing,
        because the law is symmetric, and keeps differences of tail probabilities accurate in
        relative terms.
    dim : float
        Dimension d.

    Returns
    -------
    probability, first, second : arrays, shape (cells,)
        Integrals of 1, x and x^2 against f_d over each cell.

    Notes
    -----
    With g(x) = f_d(x) (1 - x^2) / (d - 1), d/dx g(x) = -x f_d(x), which gives the first moment.
    Integrating x * (x f_d) by parts gives the second, because f_d(x) (1 - x^2) is f_{d+2}(x) times
    (d - 1)/d.
    """
    d = _check_real_dim(dim)
    edges = as_real(edges, "edges").astype(np.float64, copy=False)
    inside = edges.ndim == 1 and edges.size >= 2 and edges[0] >= 0 and edges[-1] <= 1
    if not inside or not (np.diff(edges) >= 0).all():  # false for NaN, too
        raise ValueError(
            "edges must be an increasing 1-d array of at least two points in [0, 1], got "
            f"{np.array2string(edges, threshold=8)}"
        )
    g = normalizer(d) / (d - 1) * _power_of_one_minus_square(edges, (d - 1) / 2)
    probability = -np.diff(coordinate_sf(edges, d))
    first = -np.diff(g)
    second = -np.diff(edges * g) - np.diff(coordinate_sf(edges, d + 2)) / d
    return probability, first, second


def sample(shape: int | tuple[int, ...], dim: int, *, rng: np.random.Generator) -> FloatArray:
    """Independent uniform unit vectors, shape (*shape, dim), float64."""
    d, given = check_dim(dim), shape if isinstance(shape, tuple) else (shape,)
    leading = [check_int(size, "shape", low=0) for size in given]
    gaussian = check_rng(rng).standard_normal((*leading, d))
    return np.asarray(gaussian / np.linalg.norm(gaussian, axis=-1, keepdims=True))
