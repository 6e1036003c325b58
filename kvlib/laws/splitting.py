"""How much one more bit helps: the bound behind "no budget crossover" (T09), for every budget.

Split each cell of the best (n-1)-bit quantizer in two. That is an n-bit quantizer, hence

    D(n) <= psi(d) D(n-1),

with psi(d) the largest ratio, over intervals [a, b] of [0, 1], of the best two-level distortion
to the one-level distortion (the variance) of the coordinate law restricted to [a, b]. For n >= 2
every cell is such an interval or the mirror image of one, because the best quantizer is symmetric.

:func:`split_ratio` computes the ratio of one cell, by quadrature. The covers bound psi(d) from
above and use no quadrature. Up to its scale and place, the density on [a, b] is (1 - s(t)/m)^m with
m = (d-3)/2 and s a quadratic polynomial with non-negative coefficients. It falls in s and rises in
m, so the extreme corners of a box of cells bound it from both sides. Each of the two is cut into
pieces, and on every piece a straight line bounds it: below, the tangent of its chord in the
logarithm; above, the chord of its tangent in the logarithm (the density is log-concave). Moments
of straight lines are closed forms, distortions grow with the density, and each box gets one number
that no cell in it exceeds. Boxes whose number is too large are cut in two.

What is left is the rounding of double precision, some ten digits below what the boxes have to
spare; no interval arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from kvlib.checks import check_int, check_number, check_positive
from kvlib.laws import sphere

SPARE = 0.01
"""A box is cut until its bound is below the limit by this share of it."""

PIECES = 64
"""Pieces with one straight line each."""

MOST_BOXES = 500_000
"""Boxes after which a cover is given up."""

# Beyond this many units of decay a density is bounded by exp(-t) instead of by lines.
_LONG = 16.0
# Where a density has fallen by exp(-_GONE), double precision sees nothing of the rest.
_GONE = 60.0
_CHUNK = 1000

_Floats = NDArray[np.float64]
_Bounds = Callable[[_Floats], tuple[_Floats, _Floats]]


@dataclass(frozen=True)
class Cover:
    """Boxes that cover all cells, each with a bound on the ratios of its cells.

    Attributes
    ----------
    boxes : int
        How many.
    worst : float
        Largest bound of a box over its limit, whatever it came to. Below one, every cell's ratio
        is below the limit; not below one, nothing is shown.
    """

    boxes: int
    worst: float


# One cell ----------------------------------------------------------------------------------------


def split_ratio(low: float, high: float, dim: int, *, nodes: int = 256) -> float:
    """Best two-level distortion over the variance, for the coordinate law on [low, high].

    Parameters
    ----------
    low, high : float
        0 <= low < high <= 1.
    dim : int
        d >= 3.
    nodes : int
        Of the Gauss-Legendre quadrature.

    Examples
    --------
    >>> round(split_ratio(0.2, 0.7, 3), 6)  # the uniform law
    0.25
    """
    d, count = check_int(dim, "dim", low=3), check_int(nodes, "nodes", low=2)
    low, high = check_number(low, "low"), check_number(high, "high")
    if not 0 <= low < high <= 1:
        raise ValueError(f"low and high must satisfy 0 <= low < high <= 1, got {low}, {high}")
    m, eta, xi = (d - 3) / 2, (1 - low) / (1 + low), (high - low) / (1 - low)
    linear, quadratic = m * xi * (1 - eta), m * xi**2 * eta

    def moments(start: float, stop: float) -> _Floats:
        """Integrals of 1, t and t^2 over a part of the cell, in units of its length."""
        x, weight = _gauss_legendre(count)
        u = (1 - x) / 2
        t = start + (stop - start) * (1 - u * u)  # takes a square root at the end away
        share = (quadratic * t + linear) * t / m if m else 0 * t
        weighted = np.exp(m * np.log1p(-np.minimum(share, 1 - 1e-15))) * u * weight
        return np.asarray((stop - start) * (weighted * t ** np.arange(3)[:, None]).sum(axis=1))

    # A wide cell at large d is nearly all empty: only where the density lives is integrated.
    fading = linear + np.sqrt(linear**2 + 4 * quadratic * _GONE)
    end = min(1.0, 2 * _GONE / fading) if fading > 0 else 1.0

    def imbalance(threshold: float) -> float:
        """Threshold above the middle of the two means; rises through zero at the best."""
        left, right = moments(0, threshold), moments(threshold, end)
        return float(threshold - (left[1] / left[0] + right[1] / right[0]) / 2)

    best = optimize.brentq(imbalance, 1e-3 * end, 0.999 * end, xtol=1e-14 * end)
    whole, left, right = moments(0, end), moments(0, best), moments(best, end)
    return float((_spread(*left) + _spread(*right)) / _spread(*whole))


def _spread(mass: float, first: float, second: float) -> float:
    """Sum of squares about the mean, from three moments."""
    return second - first**2 / mass


@lru_cache(maxsize=8)
def _gauss_legendre(nodes: int) -> tuple[_Floats, _Floats]:
    x, weight = np.polynomial.legendre.leggauss(nodes)
    x.setflags(write=False)
    weight.setflags(write=False)
    return x, weight


# All cells ---------------------------------------------------------------------------------------


def cover_dimension(
    dim: int, limit: float, *, pieces: int = PIECES, most: int = MOST_BOXES
) -> Cover:
    """Bound split_ratio / limit over every cell of one dimension.

    Cells are points of the unit square: xi = (b-a)/(1-a) and eta = (1-a)/(1+a).

    Parameters
    ----------
    dim : int
        d >= 3, where the density is log-concave.
    limit : float
    pieces : int
        Straight lines a density.
    most : int
        Boxes after which it stops, with the largest bound of those it has: where the limit is
        false, or too close, they never settle.

    Examples
    --------
    >>> cover_dimension(8, 0.36).worst < 1
    True
    >>> cover_dimension(8, 0.29, most=2000).worst < 1  # [0, 1] itself has 0.294
    False
    """
    m = (check_int(dim, "dim", low=3) - 3) / 2
    bound, count = check_positive(limit, "limit"), check_int(pieces, "pieces", low=2)
    corners = np.linspace(0, 1, 5)
    boxes = np.array([[*xi, *eta] for xi in pairwise(corners) for eta in pairwise(corners)])

    def bounds(boxes: _Floats) -> tuple[_Floats, _Floats]:
        xi_low, xi_high, eta_low, eta_high = boxes.T
        above = _cell_in_unit_square(xi_low, eta_high, m, count)
        below = _cell_in_unit_square(xi_high, eta_low, m, count)
        return above.two_level() / below.variance(), np.full(len(boxes), bound)

    def cost(boxes: _Floats) -> _Floats:
        xi_low, xi_high, eta_low, eta_high = boxes.T
        return np.array([(xi_high - xi_low) / (1.02 - xi_low), (eta_high - eta_low) * xi_high])

    return _bisect(boxes, bounds, cost, check_int(most, "most", low=1))


def cover_from(dim: int, *, pieces: int = PIECES, most: int = MOST_BOXES) -> Cover:
    """Bound split_ratio / D(1) at every (real) dimension from ``dim`` on, the Gaussian included.

    Cells are scaled so that s(t) = alpha t + (1 - alpha) t^2 on [0, width]; boxes span alpha,
    width and 1/m. The limit is D(1) at the box's smallest dimension, because D(1) grows with d.

    Parameters
    ----------
    dim : int
        d >= 4.
    pieces, most : int
        As of :func:`cover_dimension`.
    """
    start, count = 2 / (check_int(dim, "dim", low=4) - 3), check_int(pieces, "pieces", low=2)
    widths = [0.0, *np.geomspace(0.1, _LONG, 12), np.inf]
    quarters = np.linspace(0, 1, 5)
    boxes = np.array(
        [[*alpha, *width, 0.0, start] for alpha in pairwise(quarters) for width in pairwise(widths)]
    )
    limit_of_boxes = check_int(most, "most", low=1)
    return _bisect(boxes, lambda boxes: _strip_bounds(boxes, count), _strip_cost, limit_of_boxes)


@dataclass(frozen=True)
class _Cells:
    """Densities (1 - s(t)/m)^m, s = linear t + quadratic t^2, on [0, end]; one a box."""

    linear: _Floats
    quadratic: _Floats
    inverse_m: _Floats
    end: _Floats
    pieces: int

    def support_end(self) -> _Floats:
        """Where the cell or the density ends."""
        m = 1 / np.maximum(self.inverse_m, 1e-9)
        root = np.sqrt(self.linear**2 + 4 * self.quadratic * m)
        slope = self.linear + root
        ends = np.divide(2 * m, slope, out=np.full_like(m, np.inf), where=slope > 1e-9)
        return np.asarray(np.minimum(self.end, ends))

    def _edges(self) -> _Floats:
        """Edges of the pieces, narrower where the density is large: shape (box, piece + 1)."""
        return self.support_end()[:, None] * np.linspace(0, 1, self.pieces + 1) ** 1.5

    def _log_density(self, t: _Floats) -> _Floats:
        s = (self.quadratic[:, None] * t + self.linear[:, None]) * t
        inverse = np.maximum(self.inverse_m, 1e-9)[:, None]
        with np.errstate(divide="ignore"):  # the density may end at the last edge
            power = np.log1p(-np.minimum(s * inverse, 1)) / inverse
        return np.where(self.inverse_m[:, None] > 1e-9, power, -s)

    def variance(self) -> _Floats:
        """At most the least one-level distortion (not divided by the mass).

        On a piece the logarithm lies above its chord, whose exponential is convex and lies above
        its tangent at the middle.
        """
        edges = self._edges()
        width, middle = np.diff(edges, axis=1), (edges[:, 1:] + edges[:, :-1]) / 2
        logs = self._log_density(edges)
        left, right = logs[:, :-1], logs[:, 1:]
        height = np.exp((left + right) / 2)
        fall = np.subtract(left, right, out=np.zeros_like(left), where=np.isfinite(right))
        mass, first, second = _moments_of_lines(middle, width, height, -height * fall)
        return _spread_of(mass.sum(axis=1), first.sum(axis=1), second.sum(axis=1))

    def two_level(self) -> _Floats:
        """At least the least two-level distortion: the best threshold among the edges.

        On a piece the logarithm lies below its tangent at the middle, whose exponential is convex
        and lies below its chord.
        """
        edges = self._edges()
        width, middle = np.diff(edges, axis=1), (edges[:, 1:] + edges[:, :-1]) / 2
        log_middle = self._log_density(middle)
        slope = 2 * self.quadratic[:, None] * middle + self.linear[:, None]
        s = (self.quadratic[:, None] * middle + self.linear[:, None]) * middle
        half_fall = slope / (1 - s * self.inverse_m[:, None]) * width / 2
        left, right = np.exp(log_middle + half_fall), np.exp(log_middle - half_fall)
        moments = _moments_of_lines(middle, width, (left + right) / 2, right - left)
        lower = _spread_of(*(part.cumsum(axis=1)[:, :-1] for part in moments))
        upper = _spread_of(*(part[:, ::-1].cumsum(axis=1)[:, -2::-1] for part in moments))
        return np.asarray((lower + upper).min(axis=1))


def _moments_of_lines(
    middle: _Floats, width: _Floats, height: _Floats, rise: _Floats
) -> tuple[_Floats, _Floats, _Floats]:
    """Integrals of 1, t and t^2 under lines, each with a height at its middle and a rise in all."""
    tilt = rise * width * width / 12
    mass = height * width
    first = mass * middle + tilt
    return mass, first, mass * (middle * middle + width * width / 12) + 2 * middle * tilt


def _spread_of(mass: _Floats, first: _Floats, second: _Floats) -> _Floats:
    """Sum of squares about the mean, from moments; about zero where no mass is left to see."""
    mean = np.divide(first, mass, out=np.zeros_like(first), where=mass > 0)
    return np.asarray(second - first * mean)


def _cell_in_unit_square(xi: _Floats, eta: _Floats, m: float, pieces: int) -> _Cells:
    """The cell's density ((1 - xi t)(1 + eta xi t))^m on [0, 1]."""
    inverse = np.full(xi.shape, 1 / m if m else 0.0)
    return _Cells(m * xi * (1 - eta), m * xi**2 * eta, inverse, np.ones_like(xi), pieces)


def _strip_bounds(boxes: _Floats, pieces: int) -> tuple[_Floats, _Floats]:
    """Upper bound of the ratio, and limit, on boxes of (alpha, width, 1/m)."""
    alpha_low, alpha_high, width_low, width_high, inverse_low, inverse_high = boxes.T
    limit = np.array([_one_bit_distortion(2 / i + 3) for i in inverse_high])
    slow = alpha_low, 1 - alpha_high  # coefficients below all of the box's
    fast = alpha_high, 1 - alpha_low
    above = _Cells(*slow, inverse_low, np.minimum(width_high, _LONG), pieces)
    endless = np.isinf(width_high)
    rate = 1 - (alpha_high - alpha_low)
    # Beyond _LONG: s >= rate * t, and the second moment there is at most this.
    rest = np.exp(-rate * _LONG) * (_LONG**2 / rate + 2 * _LONG / rate**2 + 2 / rate**3)
    error = above.two_level() + np.where(endless, rest, 0)
    narrow = width_low == 0
    below = _Cells(*fast, inverse_high, np.where(narrow, width_high, width_low), pieces)
    # A narrow cell's density lies between its value at the end and one: uniform up to a factor.
    steepest = np.where(narrow, (fast[1] * width_high + fast[0]) * width_high, 0)
    lowest = np.exp(np.log1p(-np.minimum(steepest * inverse_high, 0.999)) / inverse_high)
    return np.where(narrow, 0.25 / lowest, error / below.variance()), limit


def _strip_cost(boxes: _Floats) -> _Floats:
    """How much each side of a box loosens its bound, roughly."""
    alpha_low, alpha_high, width_low, width_high, inverse_low, inverse_high = boxes.T
    narrow, endless = width_low == 0, np.isinf(width_high)
    width = np.where(narrow, 0.05, width_low)
    depth = np.minimum(width, 6)
    step = np.where(narrow, 0.7, np.where(endless, 0, width_high) / width - 1)
    fading = np.where(width < 2, 3, 3 * (width / 2) ** 3 * np.exp(2 - width))
    return np.array(
        [
            2 * depth * (alpha_high - alpha_low),
            np.where(endless, 0, step * fading),
            depth**2 / 2 * (inverse_high - inverse_low),
        ]
    )


def _bisect(
    boxes: _Floats, bounds: _Bounds, cost: Callable[[_Floats], _Floats], most: int
) -> Cover:
    """Halve the boxes with too large a bound until none is left, or there are too many."""
    settled, worst = 0, 0.0
    while len(boxes):
        relative = np.concatenate(
            [np.divide(*bounds(part)) for part in np.array_split(boxes, -(-len(boxes) // _CHUNK))]
        )
        done = relative < 1 - SPARE
        if settled + len(boxes) > most:
            done[:] = True
        settled += int(done.sum())
        worst = max(worst, float(relative[done].max(initial=0)))
        boxes = boxes[~done]
        boxes = _halve(boxes, cost(boxes).argmax(axis=0)) if len(boxes) else boxes
    return Cover(settled, worst)


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
