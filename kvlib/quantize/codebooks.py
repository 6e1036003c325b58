"""Scalar codebooks for the coordinate law of the sphere, each with its exact distortion.

Distortion is relative mean squared error: D = d * E(u_1 - Q(u_1))^2, because E u_1^2 = 1/d. It is
the relative MSE |x - x_hat|^2/|x|^2 of a vector whose direction is uniform on the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from kvlib.checks import (
    FloatArray,
    as_finite,
    as_integers,
    as_real,
    check_bits,
    check_dim,
    check_int,
    keep_checked,
)
from kvlib.laws import sphere

_NEWTON_STEPS = 100


@dataclass(frozen=True, eq=False)
class Codebook:
    """A scalar quantizer of [-1, 1] by nearest level.

    Attributes
    ----------
    dim, bits : int
        The law it is judged against, and log2 of the number of levels.
    levels : array, shape (2**bits,)
        Reconstruction values, increasing; repeated levels are allowed (a wasted code).
    name : str
        How it was made.
    edges : array, shape (2**bits - 1,)
        Midpoints between neighbouring levels.
    distortion : float
        Exact relative MSE under the coordinate law of dimension ``dim``.
    stationarity : float
        max over cells of |level - centroid| in units of the standard deviation 1/sqrt(d); zero for
        a Lloyd-Max quantizer. Cells of probability zero count as zero.
    """

    dim: int
    bits: int
    levels: FloatArray
    name: str
    edges: FloatArray = field(init=False, repr=False)
    distortion: float = field(init=False)
    stationarity: float = field(init=False)

    def __post_init__(self) -> None:
        keep_checked(self, dim=check_dim(self.dim), bits=check_bits(self.bits))
        levels = as_real(self.levels, "levels").astype(np.float64)
        increasing = np.isfinite(levels).all() and (np.diff(levels) >= 0).all()
        if levels.shape != (2**self.bits,) or not increasing:
            raise ValueError(
                f"levels must be {2**self.bits} finite increasing numbers for bits={self.bits}, "
                f"got shape {levels.shape} and values {np.array2string(levels, threshold=8)}"
            )
        edges = (levels[1:] + levels[:-1]) / 2
        probability, first, second = _cell_moments(edges, self.dim)
        error = second - 2 * levels * first + levels**2 * probability
        occupied = probability > 0
        centroid = np.divide(first, probability, out=levels.copy(), where=occupied)
        gaps = np.abs(levels - centroid) * np.sqrt(self.dim)
        for array in (levels, edges):
            array.setflags(write=False)
        keep_checked(
            self,
            levels=levels,
            edges=edges,
            distortion=float(self.dim * error.sum()),
            stationarity=float(gaps.max()),
        )

    def __setstate__(self, state: dict[str, object]) -> None:
        keep_checked(self, **state)
        for array in (self.levels, self.edges):
            array.setflags(write=False)  # which pickle does not store

    @property
    def occupied_cells(self) -> int:
        """Number of cells with probability above 1e-9 under the coordinate law.

        A Lloyd-Max codebook of up to 8 bits has none below 1e-6.
        """
        probability, _, _ = _cell_moments(self.edges, self.dim)
        return int((probability > 1e-9).sum())

    def quantize(self, y: ArrayLike) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """Index of the nearest level for each entry of ``y`` (any shape); ties go down."""
        values = as_finite(y, "y")
        codes = np.zeros(values.shape, dtype=np.uint8)
        # Summing comparisons beats a binary search by an order of magnitude for few levels.
        for edge in self.edges.astype(values.dtype):
            codes += values > edge
        return codes

    def dequantize(self, codes: ArrayLike, dtype: np.dtype | type = np.float64) -> FloatArray:
        """Levels of the given codes, in ``dtype``."""
        index = as_integers(codes, "codes")
        if index.size and (index.min() < 0 or index.max() >= self.levels.size):
            raise ValueError(
                f"codes must lie in 0..{self.levels.size - 1}, "
                f"got {int(index.min())}..{int(index.max())}"
            )
        return np.asarray(self.levels.astype(dtype)[index])


def radial_gain_variance(codebook: Codebook) -> float:
    """Variance of the gain <u, Q(u)> over uniformly random unit vectors u, exact.

    The gain has mean 1 - D for a Lloyd-Max codebook and differs from vector to vector. Its
    spread is of order 1/d, but it multiplies the whole logit.

    Notes
    -----
    With the error e(u) = Q(u) - u of a coordinate the gain is 1 + sum_i g(u_i), g(u) = u e(u), so
    its variance is d Var g(u_1) + d (d-1) Cov(g(u_1), g(u_2)): at fine budgets and large d a
    difference of the gain's own moments would have no digits left. Given u_1, u_2 is
    sqrt(1 - u_1^2) times a coordinate of a uniform vector in R^(d-1), so the inner expectation is a
    sum of partial moments and the outer one is done by Gauss-Legendre quadrature, on pieces that
    neither cross an edge nor are wide where the density falls, to a relative error below 1e-6.
    Needs a symmetric codebook and d >= 8 (for fewer dimensions the inner sum has kinks that the
    quadrature would not resolve).
    """
    if not isinstance(codebook, Codebook):
        raise TypeError(f"codebook must be a Codebook, got {codebook!r}")
    d, levels = check_int(codebook.dim, "codebook.dim", low=8, high=1 << 24), codebook.levels
    if not np.allclose(levels, -levels[::-1], atol=1e-12):
        raise ValueError("codebook must be symmetric about zero")
    if not levels.any():
        return 0.0  # not what rounding leaves of it
    _, first, _ = _cell_moments(codebook.edges, d)
    mean = float((levels * first).sum()) - 1 / d
    x, weights = _upper_half_nodes(codebook)
    g = x * (levels[np.searchsorted(codebook.edges, x)] - x)
    inner = [_conditional_gain(codebook, u) - (1 - u) * (1 + u) / (d - 1) for u in x.tolist()]
    # The integrands are even in u_1: their positive half, doubled.
    weights *= 2 * sphere.coordinate_pdf(x, d)
    own = float(weights @ (g - mean) ** 2)
    shared = float(weights @ ((g - mean) * (np.array(inner) - mean)))
    return d * own + d * (d - 1) * shared


def _upper_half_nodes(codebook: Codebook) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights on [0, 1], cut at edges and at 1, 2, 4, ... standard deviations.

    And where an edge is the largest possible value of the second coordinate.
    """
    deviations = 2.0 ** np.arange(np.log2(codebook.dim) / 2) / np.sqrt(codebook.dim)
    edges = codebook.edges[(codebook.edges > 0) & (codebook.edges < 1)]
    kinks = np.sqrt((1 - edges) * (1 + edges)) if codebook.dim < 64 else edges
    cuts = np.unique(np.concatenate([[0.0], edges, kinks, deviations, [1.0]]))
    nodes, weights = np.polynomial.legendre.leggauss(max(14, 24 - 2 * codebook.bits))
    half = np.diff(cuts)[:, None] / 2
    return (cuts[:-1, None] + half * (1 + nodes)).ravel(), (half * weights).ravel()


def _conditional_gain(codebook: Codebook, u: float) -> float:
    """E[u_2 Q(u_2) | u_1 = u] for a uniform unit vector."""
    rest = np.sqrt((1 - u) * (1 + u))
    _, first, _ = _cell_moments(codebook.edges / rest, codebook.dim - 1)
    return float(rest * (codebook.levels * first).sum())


def _cell_moments(edges: FloatArray, dim: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Partial moments of the cells of [-1, 1] cut at ``edges`` (sorted, may repeat or exceed 1)."""
    cuts = np.concatenate([[-1.0], np.clip(edges, -1, 1), [1.0]])
    positive = np.clip(cuts, 0, 1)
    negative = np.clip(-cuts[::-1], 0, 1)
    up = sphere.upper_cell_moments(positive, dim)
    down = sphere.upper_cell_moments(negative, dim)
    probability = up[0] + down[0][::-1]
    first = up[1] - down[1][::-1]
    second = up[2] + down[2][::-1]
    return probability, first, second


@lru_cache(maxsize=512, typed=True)
def lloyd_max(dim: int, bits: int) -> Codebook:
    """The Lloyd-Max quantizer of the coordinate law: the least MSE among 2**bits levels.

    Parameters
    ----------
    dim : int
        d >= 2.
    bits : int
        0 to 8. Zero bits give the single level 0, with distortion 1.

    Returns
    -------
    Codebook
        Symmetric; its ``stationarity`` is at rounding level (below 1e-10).

    Raises
    ------
    RuntimeError
        If the solver does not reach a stationary point (not seen for any d >= 2).

    Notes
    -----
    Max (1960) and Lloyd (1982): levels are centroids of their cells, edges are midpoints. The
    cells' moments are closed forms (:func:`kvlib.laws.sphere.upper_cell_moments`), the equations
    are solved by a damped Newton iteration on a tridiagonal Jacobian from Panter and Dite's
    compander. For d >= 3 the density is log-concave, so the stationary point is the unique optimum
    (Fleischer 1964); for d = 2 the tests compare it with an exhaustive dynamic programme.
    """
    d, n = check_dim(dim), check_bits(bits)
    if n == 0:
        return Codebook(d, 0, np.zeros(1), "Lloyd-Max")
    half = 2 ** (n - 1)
    quantiles = 0.5 + (np.arange(half) + 0.5) / (2 * half)
    levels = _solve_lloyd_max(sphere.coordinate_ppf(quantiles, sphere.companding_dim(d)), d)
    return Codebook(d, n, np.concatenate([-levels[::-1], levels]), "Lloyd-Max")


def _positive_half(levels: FloatArray, dim: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Edges, probabilities and centroid residuals of the cells of [0, 1]."""
    edges = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [1.0]])
    probability, first, _ = sphere.upper_cell_moments(edges, dim)
    return edges, probability, levels - first / probability


def _newton_step(levels: FloatArray, dim: int) -> FloatArray:
    """Newton step for level_i = centroid_i, whose Jacobian is tridiagonal."""
    from scipy.linalg import solve_banded  # 0.1 s, spared whoever solves nothing

    edges, probability, residual = _positive_half(levels, dim)
    inner = edges[1:-1]
    centroid = levels - residual
    density = sphere.coordinate_pdf(inner, dim) / 2  # an edge moves half as far as its level
    # d centroid_i / d(upper edge) and d centroid_i / d(lower edge)
    upper = (inner - centroid[:-1]) * density / probability[:-1]
    lower = (centroid[1:] - inner) * density / probability[1:]
    banded = np.zeros((3, levels.size))
    banded[0, 1:] = -upper
    banded[1] = 1.0
    banded[1, :-1] -= upper
    banded[1, 1:] -= lower
    banded[2, :-1] = -lower
    return np.asarray(solve_banded((1, 1), banded, -residual))


def _solve_lloyd_max(levels: FloatArray, dim: int) -> FloatArray:
    """Damped Newton iteration from ``levels`` (positive half) to the stationary point."""

    def worst(candidate: FloatArray) -> float:
        ordered = (np.diff(np.concatenate([[0.0], candidate, [1.0]])) > 0).all()
        if not ordered:
            return np.inf
        return float(np.abs(_positive_half(candidate, dim)[2]).max() * np.sqrt(dim))

    size = worst(levels)
    for _ in range(_NEWTON_STEPS):
        step, damping = _newton_step(levels, dim), 1.0
        while (new_size := worst(levels + damping * step)) >= size and damping > 1e-6:
            damping /= 2
        if new_size >= size:  # rounding level: no step improves the residual any more
            break
        levels, size = levels + damping * step, new_size
    if size > 1e-10:
        raise RuntimeError(f"Lloyd-Max did not converge for dim={dim}: residual {size:.2e}")
    return levels


@lru_cache(maxsize=512, typed=True)
def uniform(dim: int, bits: int) -> Codebook:
    """Equally spaced levels, symmetric about zero, with the step of least MSE for the law."""
    from scipy.optimize import minimize_scalar  # 0.3 s, spared whoever minimises nothing

    d, n = check_dim(dim), check_bits(bits)
    if n == 0:
        return Codebook(d, 0, np.zeros(1), "uniform")
    offsets = np.arange(2**n) - (2**n - 1) / 2

    def distortion(step: float) -> float:
        return Codebook(d, n, offsets * step, "uniform").distortion

    best = minimize_scalar(
        distortion, bounds=(1e-9, 2 / (2**n - 1)), method="bounded", options={"xatol": 1e-12}
    )
    return Codebook(d, n, offsets * float(best.x), "uniform")


def equal_probability(dim: int, bits: int) -> Codebook:
    """Centroids of 2**bits equally likely cells, used with nearest-level cells.

    Some public ports call this Lloyd-Max; it is not: its ``stationarity`` is far from zero. Kept
    as a baseline and as a negative control.
    """
    d, n = check_dim(dim), check_bits(bits)
    edges = sphere.coordinate_ppf(np.arange(1, 2**n) / 2**n, d)
    probability, first, _ = _cell_moments(edges, d)
    return Codebook(d, n, first / probability, "equal probability")


def lloyd_iterations(
    samples: ArrayLike, dim: int, bits: int, *, start: ArrayLike, iterations: int
) -> Codebook:
    """A fixed number of Lloyd iterations on a finite sample: the quantizer of many ports.

    Parameters
    ----------
    samples : array, any shape
        Coordinates to fit.
    dim, bits : int
        The law to judge the result against, and the number of levels 2**bits.
    start : array, shape (2**bits,)
        Initial levels. A cell that receives no sample keeps its level, as common code does; that
        is how a start such as ``linspace(-1, 1, 2**bits)`` wastes codes for good.
    iterations : int
        Number of assign-and-average steps, >= 0.

    Returns
    -------
    Codebook
        Judged under the exact law, so that ``distortion`` shows what the iteration cost.
    """
    d, n = check_dim(dim), check_bits(bits)
    count = check_int(iterations, "iterations", low=0)
    values = np.sort(as_finite(samples, "samples").astype(np.float64).ravel())
    if values.size == 0:
        raise ValueError("samples must not be empty")
    levels = np.sort(as_finite(start, "start").astype(np.float64))
    if levels.shape != (2**n,):
        raise ValueError(f"start must hold {2**n} levels for bits={n}, got shape {levels.shape}")
    sums = np.concatenate([[0.0], np.cumsum(values)])
    for _ in range(count):
        cuts = np.searchsorted(values, (levels[1:] + levels[:-1]) / 2, side="right")
        bounds = np.concatenate([[0], cuts, [values.size]])
        counts = np.diff(bounds)
        means = np.divide(np.diff(sums[bounds]), counts, out=levels.copy(), where=counts > 0)
        if np.array_equal(means, levels):
            break
        levels = np.sort(means)
    return Codebook(d, n, levels, f"{count} Lloyd iterations")
