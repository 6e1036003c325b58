"""How far the quantized coordinates of two unit vectors agree, at any angle between the two.

A(t) = d E[Q(u_1) Q(w_1)] for an odd step function Q and unit vectors u, w at an angle t, both in
one Haar rotation. Its expansion in harmonics converges slowly where the angle is small, because Q
jumps; its derivative is a finite sum instead. Degree by degree, in the cosine r,

    d/dr E_d[g(u_1) h(w_1)] = E_(d+2)[g'(u_1) h'(w_1)] / d,

Price's theorem (1958) on the sphere: P_k' is a multiple of the polynomial of degree k - 1 in
dimension d + 2. The derivative of Q is a row of point masses, so that

    -dA/dt = d / (2 pi) sum_ij J_i J_j max(0, z_ij)^(d/2 - 1),
    z_ij = 1 - (x_i - x_j)^2 / sin(t)^2 - x_i x_j / cos(t/2)^2

for jumps J_i at x_i: the joint density of u_1 and w_1 in dimension d + 2.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from kvlib.checks import FloatArray, as_finite
from kvlib.laws import sphere

_NODES = 18
# Pieces for each halving of the angle. In few dimensions the derivative has kinks (in two, jumps).
_PIECES, _PIECES_OF_FEW = 3, 48
_SMOOTH_DIM = 16
_MOST_KINKED = 32


class Agreement:
    """A(t) as polynomials on pieces of [0, pi/2]; to 1e-12 for d >= 6, to 1e-5 for d >= 2."""

    gain: float
    """d E[u_1 Q(u_1)]."""

    energy: float
    """d E[Q(u_1)^2], which is A(0)."""

    def __init__(self, levels: FloatArray, dim: int) -> None:
        edges, jumps = (levels[1:] + levels[:-1]) / 2, np.diff(levels)
        seen = (np.abs(edges) < 1) & (jumps > 0)
        edges, jumps = edges[seen], jumps[seen]
        self.gain, self.energy = _moments(levels, dim)
        self._cuts = _pieces(edges, dim)
        nodes = -np.cos(math.pi * (np.arange(_NODES) + 0.5) / _NODES)
        half = np.diff(self._cuts) / 2
        angles = (self._cuts[:-1] + half) + half * nodes[:, None]
        slopes = _slopes(angles.ravel(), edges, jumps, dim).reshape(angles.shape)
        coefficients = np.linalg.solve(chebyshev.chebvander(nodes, _NODES - 1), slopes)
        self._lost = np.asarray(chebyshev.chebint(coefficients, lbnd=-1) * half)
        whole = chebyshev.chebval(1.0, self._lost)
        self._lost_before = np.concatenate([[0.0], np.cumsum(whole)[:-1]])

    def __call__(self, angle: ArrayLike) -> FloatArray:
        """A at angles from 0 to pi."""
        angle = np.asarray(angle, dtype=np.float64)
        acute = np.minimum(angle, math.pi - angle)
        piece = np.searchsorted(self._cuts[1:-1], acute, side="right")
        low, high = self._cuts[piece], self._cuts[piece + 1]
        place = (2 * acute - low - high) / (high - low)
        lost = chebyshev.chebval(place, self._lost[:, piece], tensor=False)
        value = self.energy - self._lost_before[piece] - lost
        return np.asarray(np.where(angle <= math.pi / 2, value, -value))


def agreement(levels: ArrayLike, dim: int) -> Agreement:
    """The agreement of a symmetric quantizer with these levels, made once.

    Raises
    ------
    ValueError
        If ``levels`` are not increasing and symmetric about zero.
    """
    return _made(tuple(check_levels(levels).tolist()), dim)


@lru_cache(maxsize=64)
def _made(levels: tuple[float, ...], dim: int) -> Agreement:
    return Agreement(np.array(levels), dim)


def check_levels(levels: ArrayLike) -> FloatArray:
    """Return reconstruction values in float64, increasing and symmetric about zero."""
    x = np.asarray(as_finite(levels, "levels"), dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or (np.diff(x) < 0).any() or np.abs(x + x[::-1]).max() > 1e-12:
        raise ValueError(
            "levels must be one increasing row of numbers, symmetric about zero, got "
            f"shape {x.shape} and values {np.array2string(x, threshold=8)}"
        )
    return x


def _moments(levels: FloatArray, dim: int) -> tuple[float, float]:
    """d E[u_1 Q(u_1)] and d E[Q(u_1)^2]."""
    upper = levels[levels.size // 2 :]
    edges = (levels[1:] + levels[:-1])[levels.size // 2 :] / 2
    cuts = np.concatenate([[0.0], np.minimum(edges, 1.0), [1.0]])
    probability, first, _ = sphere.upper_cell_moments(cuts, dim)
    return 2 * dim * float(upper @ first), 2 * dim * float(upper**2 @ probability)


def _pieces(edges: FloatArray, dim: int) -> FloatArray:
    """Where to cut [0, pi/2]: geometrically, and at the kinks if they are few and sharp.

    Below the least gap between two edges each agrees with itself only, which is smooth.
    """
    smooth = dim >= _SMOOTH_DIM
    gap = float(np.diff(edges).min(initial=1.0))
    octaves = min(44, max(1, math.ceil(math.log2(math.pi / 2 / gap))))
    count = octaves * (_PIECES if smooth else _PIECES_OF_FEW)
    cuts = math.pi / 2 * 2.0 ** -(np.arange(count + 1) * octaves / count)
    kinks = np.empty(0)
    if not smooth and edges.size < _MOST_KINKED:
        first, second = np.arccos(edges)[:, None], np.arccos(edges)
        kinks = np.concatenate([np.abs(first - second), first + second], axis=None)
        kinks = kinks[(kinks > 1e-9) & (kinks < math.pi / 2)]
    return np.unique(np.concatenate([[0.0], cuts, kinks]))


def _slopes(angles: FloatArray, edges: FloatArray, jumps: FloatArray, dim: int) -> FloatArray:
    """-dA/dt by the formula of the module."""
    i, j = np.triu_indices(edges.size)
    weight = jumps[i] * jumps[j] * np.where(i == j, 1.0, 2.0) * dim / (2 * math.pi)
    apart, product = (edges[i] - edges[j]) ** 2, edges[i] * edges[j]
    result = np.empty(angles.size)
    for k, angle in enumerate(angles.tolist()):
        inside = 1 - apart / math.sin(angle) ** 2 - product / math.cos(angle / 2) ** 2
        # In the plane the power is zero: inside or not.
        density = np.maximum(inside, 0.0) ** (dim / 2 - 1) if dim > 2 else inside > 0
        result[k] = density @ weight
    return result
