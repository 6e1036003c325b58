"""How much one more bit helps: the bound behind "no budget crossover" (T09), for every budget.

Split each cell of the best (n-1)-bit quantizer in two. That is an n-bit quantizer, hence

    D(n) <= rho(d) D(n-1),

with rho(d) the largest ratio, over intervals [a, b] of [0, 1], of the best two-level distortion
to the one-level distortion (the variance) of the coordinate law restricted to [a, b]. For n >= 2
every cell is such an interval or the mirror image of one, because the best quantizer is symmetric.

The functions here bound rho(d) from above on boxes that cover all intervals. Up to its scale and
place, the density on [a, b] is (1 - s(t)/m)^m with m = (d-3)/2 and s a quadratic polynomial with
non-negative coefficients. It falls in s and rises in m, so the extreme corners of a box bound it
from both sides. Distortions grow with the density, and each box gets one inequality. A box whose
inequality is too weak is cut in two.

Computed in double precision with Gauss-Legendre quadrature, whose error is far below
:data:`MARGIN`; not in interval arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kvlib.checks import check_int, check_number, check_positive
from kvlib.laws import sphere

MARGIN = 1e-4
"""A box is accepted when its bound stays below the limit by this relative margin."""

NODES = 24
"""Quadrature nodes a cell."""

_MAX_BOXES = 500_000
# Beyond this many units of decay a density is bounded by exp(-t) instead of integrated.
_LONG = 16.0
_LLOYD_STEPS = 4

_Floats = NDArray[np.float64]
_Bounds = Callable[[_Floats], tuple[_Floats, _Floats]]


@dataclass(frozen=True)
class Cover:
    """Boxes that cover all cells, each with a proven bound.

    Attributes
    ----------
    boxes : int
        How many were accepted.
    worst : float
        Largest bound of an accepted box over its limit; below one.
    """

    boxes: int
    worst: float


def split_ratio(low: float, high: float, dim: int, *, nodes: int = 256) -> float:
    """Best two-level distortion over the variance, for the coordinate law on [low, high].

    Parameters
    ----------
    low, high : float
        0 <= low < high <= 1.
    dim : int
        d >= 3.
    """
    d, count = check_int(dim, "dim", low=3), check_int(nodes, "nodes", low=2)
    low, high = check_number(low, "low"), check_number(high, "high")
    if not 0 <= low < high <= 1:
        raise ValueError(f"low and high must satisfy 0 <= low < high <= 1, got {low}, {high}")
    start = np.array([(1 - low) / (1 + low)])
    length = np.array([(high - low) / (1 - low)])
    cell = _cell_in_unit_square(length, start, (d - 3) / 2, count)
    return float((cell.two_level(steps=60) / cell.variance())[0])


def cover_dimension(dim: int, limit: float, *, nodes: int = NODES) -> Cover:
    """Prove split_ratio < limit for every cell at one dimension d >= 4.

    Cells are points of the unit square: beta = (b-a)/(1-a) and eta = (1-a)/(1+a).

    Raises
    ------
    RuntimeError
        If the boxes do not settle, as when the limit is false.
    """
    m = (check_int(dim, "dim", low=4) - 3) / 2
    bound, count = check_positive(limit, "limit"), check_int(nodes, "nodes", low=2)
    corners = np.linspace(0, 1, 5)
    boxes = np.array([[*beta, *eta] for beta in pairwise(corners) for eta in pairwise(corners)])

    def bounds(boxes: _Floats) -> tuple[_Floats, _Floats]:
        beta_low, beta_high, eta_low, eta_high = boxes.T
        above = _cell_in_unit_square(beta_low, eta_high, m, count)
        below = _cell_in_unit_square(beta_high, eta_low, m, count)
        return above.two_level() / below.variance(), np.full(len(boxes), bound)

    def cost(boxes: _Floats) -> _Floats:
        beta_low, beta_high, eta_low, eta_high = boxes.T
        return np.array(
            [(beta_high - beta_low) / (1.02 - beta_low), (eta_high - eta_low) * beta_high]
        )

    return _bisect(boxes, bounds, cost)


def cover_from(dim: int, *, nodes: int = NODES) -> Cover:
    """Prove split_ratio < D(1) at every (real) dimension from ``dim`` on, the Gaussian included.

    Cells are scaled so that s(t) = sigma t + (1 - sigma) t^2 on [0, width]; boxes span sigma,
    width and 1/m. The limit is D(1) at the box's smallest dimension, because D(1) grows with d.
    """
    start, count = 2 / (check_int(dim, "dim", low=4) - 3), check_int(nodes, "nodes", low=2)
    widths = [0.0, *np.geomspace(0.1, _LONG, 12), np.inf]
    quarters = np.linspace(0, 1, 5)
    boxes = np.array(
        [[*sigma, *width, 0.0, start] for sigma in pairwise(quarters) for width in pairwise(widths)]
    )
    return _bisect(boxes, lambda boxes: _strip_bounds(boxes, count), _strip_cost)


@lru_cache(maxsize=8)
def _gauss_legendre(nodes: int) -> tuple[_Floats, _Floats]:
    x, weight = np.polynomial.legendre.leggauss(nodes)
    x.setflags(write=False)
    weight.setflags(write=False)
    return x, weight


@dataclass(frozen=True)
class _Cells:
    """Densities (1 - s(t)/m)^m, s = linear t + quadratic t^2, on [0, end]; one a box."""

    linear: _Floats
    quadratic: _Floats
    inverse_m: _Floats
    end: _Floats
    nodes: int

    def moments(self, low: _Floats, high: _Floats) -> tuple[_Floats, _Floats, _Floats]:
        """Integrals of 1, t and t^2 from ``low`` to ``high``."""
        x, weight = _gauss_legendre(self.nodes)
        # t = 1 - u^2 turns the square root at the end of the support into a polynomial.
        u, length = (1 - x) / 2, (high - low)[:, None]
        t = low[:, None] + length * (1 - u * u)
        s = (self.quadratic[:, None] * t + self.linear[:, None]) * t
        inverse = np.maximum(self.inverse_m, 1e-9)[:, None]
        power = np.log1p(-np.minimum(s * inverse, 1 - 1e-15)) / inverse
        density = np.exp(np.where(self.inverse_m[:, None] > 1e-9, power, -s))
        density *= length * u * weight
        first = density * t
        return density.sum(axis=1), first.sum(axis=1), (first * t).sum(axis=1)

    def support_end(self) -> _Floats:
        """Where the cell or the density ends."""
        m = 1 / np.maximum(self.inverse_m, 1e-9)
        root = np.sqrt(self.linear**2 + 4 * self.quadratic * m)
        slope = self.linear + root
        ends = np.divide(2 * m, slope, out=np.full_like(m, np.inf), where=slope > 1e-9)
        return np.asarray(np.minimum(self.end, ends))

    def variance(self) -> _Floats:
        """Least one-level distortion (not divided by the mass)."""
        end = self.support_end()
        mass, first, second = self.moments(0 * end, end)
        return np.asarray(second - first**2 / mass)

    def two_level(self, steps: int = _LLOYD_STEPS) -> _Floats:
        """Distortion of a two-level quantizer with centroids as levels; near the least one."""
        end = self.support_end()
        mass, first, _ = self.moments(0 * end, end)
        threshold = 1.3 * first / mass
        for _ in range(steps):
            threshold = np.clip(threshold, 0.005 * end, 0.995 * end)
            lower, upper = self.moments(0 * end, threshold), self.moments(threshold, end)
            left, right = lower[1] / lower[0], upper[1] / upper[0]
            error = lower[2] - lower[1] * left + upper[2] - upper[1] * right
            threshold = threshold + 1.6 * ((left + right) / 2 - threshold)  # over-relaxed Lloyd
        return np.asarray(error)


def _cell_in_unit_square(beta: _Floats, eta: _Floats, m: float, nodes: int) -> _Cells:
    """The cell's density ((1 - beta t)(1 + eta beta t))^m on [0, 1]."""
    inverse = np.full(beta.shape, 1 / m if m else 0.0)
    return _Cells(m * beta * (1 - eta), m * beta**2 * eta, inverse, np.ones_like(beta), nodes)


def _strip_bounds(boxes: _Floats, nodes: int) -> tuple[_Floats, _Floats]:
    """Upper bound of the ratio, and limit, on boxes of (sigma, width, 1/m)."""
    sigma_low, sigma_high, width_low, width_high, inverse_low, inverse_high = boxes.T
    limit = np.array([_one_bit_distortion(2 / i + 3) for i in inverse_high])
    slow = sigma_low, 1 - sigma_high  # coefficients below all of the box's
    fast = sigma_high, 1 - sigma_low
    above = _Cells(*slow, inverse_low, np.minimum(width_high, _LONG), nodes)
    endless = np.isinf(width_high)
    rate = 1 - (sigma_high - sigma_low)
    # Beyond _LONG: s >= rate * t, and the second moment there is at most this.
    rest = np.exp(-rate * _LONG) * (_LONG**2 / rate + 2 * _LONG / rate**2 + 2 / rate**3)
    error = above.two_level() + np.where(endless, rest, 0)
    narrow = width_low == 0
    below = _Cells(*fast, inverse_high, np.where(narrow, width_high, width_low), nodes)
    # A narrow cell's density lies between its value at the end and one: uniform up to a factor.
    steepest = np.where(narrow, (fast[1] * width_high + fast[0]) * width_high, 0)
    lowest = np.exp(np.log1p(-np.minimum(steepest * inverse_high, 0.999)) / inverse_high)
    return np.where(narrow, 0.25 / lowest, error / below.variance()), limit


def _strip_cost(boxes: _Floats) -> _Floats:
    """How much each side of a box loosens its bound, roughly."""
    sigma_low, sigma_high, width_low, width_high, inverse_low, inverse_high = boxes.T
    narrow, endless = width_low == 0, np.isinf(width_high)
    width = np.where(narrow, 0.05, width_low)
    depth = np.minimum(width, 6)
    step = np.where(narrow, 0.7, np.where(endless, 0, width_high) / width - 1)
    fading = np.where(width < 2, 3, 3 * (width / 2) ** 3 * np.exp(2 - width))
    return np.array(
        [
            2 * depth * (sigma_high - sigma_low),
            np.where(endless, 0, step * fading),
            depth**2 / 2 * (inverse_high - inverse_low),
        ]
    )


def _bisect(boxes: _Floats, bounds: _Bounds, cost: Callable[[_Floats], _Floats]) -> Cover:
    """Halve the boxes whose bound is not yet below the limit until none is left."""
    accepted, worst = 0, 0.0
    while len(boxes):
        if accepted + len(boxes) > _MAX_BOXES:
            raise RuntimeError(f"no cover with {_MAX_BOXES} boxes: the limit may be false")
        ratio, limit = bounds(boxes)
        relative = ratio / limit
        done = relative < 1 - MARGIN
        accepted += int(done.sum())
        worst = max(worst, float(relative[done].max(initial=0)))
        boxes = boxes[~done]
        boxes = _halve(boxes, cost(boxes).argmax(axis=0)) if len(boxes) else boxes
    return Cover(accepted, worst)


def _halve(boxes: _Floats, side: NDArray[np.int_]) -> _Floats:
    """Both halves of each box, cut across one side at its middle."""
    rows = np.arange(len(boxes))
    low, high = boxes[rows, 2 * side], boxes[rows, 2 * side + 1]
    middle = (low + high) / 2
    left, right = boxes.copy(), boxes.copy()
    left[rows, 2 * side + 1] = middle
    right[rows, 2 * side] = middle
    return np.concatenate([left, right])


def _one_bit_distortion(dim: float) -> float:
    """D(1) = 1 - d E|u_1|^2 at real d, below its limit 1 - 2/pi."""
    return 1 - dim * sphere.mean_absolute(dim) ** 2
