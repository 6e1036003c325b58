"""A slow, obvious second implementation: dense matrices, loops, quadrature, no kvlib.

TurboQuant (arXiv:2504.19874) Algorithms 1 and 2 are written here as the paper describes them;
the scalar quantizer comes from Lloyd's own iteration on quadrature, or from an exhaustive dynamic
programme; the law of a coordinate from ``scipy.integrate.quad``.
"""

import itertools
import math
from functools import cache, lru_cache

import numpy as np
from scipy import integrate

# --- Statistics -----------------------------------------------------------------------------

# Two-sided false-alarm rate 6.8e-6 for one normal mean; "largest of k" multiplies it by k.
Z_LIMIT = 4.5


def z_score(samples, expected):
    """(mean - expected) / standard error, along axis 0 of independent samples."""
    samples = np.asarray(samples)
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    return (samples.mean(axis=0) - expected) / error


# --- Law of one coordinate, by quadrature in the angle ----------------------------------------


def _weight(t, dim, power):
    """x^power (1-x^2)^((d-3)/2) dx with x = sin(t/sqrt(d)): bounded for every d >= 2."""
    sine = math.sin(t / math.sqrt(dim))
    squared_cosine = 1 - sine * sine
    if squared_cosine <= 0:
        return float(dim == 2) * sine**power
    return sine**power * math.exp((dim - 2) / 2 * math.log1p(-sine * sine))


def _integral(low, high, dim, power):
    """Unnormalised partial moment over [low, high], in panels of at most two deviations."""
    if low < 0 < high:  # no panel across a change of sign
        return _integral(low, 0, dim, power) + _integral(0, high, dim, power)
    limit = 40.0
    ends = np.clip(np.sqrt(dim) * np.arcsin([low, high]), -limit, limit)
    panels = np.linspace(*ends, 2 + int((ends[1] - ends[0]) // 2))
    parts = [
        integrate.quad(_weight, a, b, args=(dim, power), epsabs=0, epsrel=1e-13, limit=100)[0]
        for a, b in itertools.pairwise(panels)
        if b > a
    ]
    return math.fsum(parts)


@lru_cache
def _total(dim):
    return _integral(-1, 1, dim, 0)


def partial_moment(low, high, dim, power):
    """Integral of x^power over [low, high] against the law of u_1 on the sphere of R^dim."""
    return _integral(low, high, dim, power) / _total(dim)


@lru_cache
def mean_absolute(dim):
    """E|u_1|."""
    return 2 * partial_moment(0, 1, dim, 1)


def distortion(levels, dim):
    """d E(u_1 - nearest level)^2 by quadrature of the squared error over each cell."""
    levels = np.asarray(levels)
    cuts = np.concatenate([[-1], np.clip((levels[1:] + levels[:-1]) / 2, -1, 1), [1]])
    total = 0.0
    for level, low, high in zip(levels, cuts[:-1], cuts[1:], strict=True):
        second, first, mass = (partial_moment(low, high, dim, power) for power in (2, 1, 0))
        total += second - 2 * level * first + level**2 * mass
    return dim * total


# --- Scalar quantizers ----------------------------------------------------------------------


def _node_moments(cuts, dim):
    """Probability and first moment of the cells between ``cuts`` (in t), Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(80)
    half = np.diff(cuts)[:, None] / 2
    t = (cuts[1:] + cuts[:-1])[:, None] / 2 + half * nodes
    sine = np.sin(t / math.sqrt(dim))
    density = half * weights * np.cos(t / math.sqrt(dim)) ** (dim - 2)
    total = density.sum()
    return density.sum(1) / total, (density * sine).sum(1) / total


@cache
def lloyd_levels(dim, bits, iterations=20_000):
    """Lloyd's iteration on quadrature: slow and certain."""
    bound = min(math.pi / 2 * math.sqrt(dim), 12.0)
    start = min(bound, 2.5) / math.sqrt(dim)
    levels = np.sin(start * np.linspace(-1, 1, 2**bits + 2)[1:-1])
    for _ in range(iterations):
        edges = np.arcsin((levels[1:] + levels[:-1]) / 2) * math.sqrt(dim)
        mass, first = _node_moments(np.concatenate([[-bound], edges, [bound]]), dim)
        moved = np.abs(first / mass - levels).max()
        levels = first / mass
        if moved * math.sqrt(dim) < 1e-14:
            break
    levels.setflags(write=False)
    return levels


@cache
def gaussian_distortion(bits, iterations=20_000):
    """MSE of the Lloyd-Max quantizer of N(0, 1): Lloyd's iteration with the error function."""
    levels = np.linspace(-2.5, 2.5, 2**bits + 2)[1:-1]
    for _ in range(iterations):
        cuts = np.concatenate([[-40], (levels[1:] + levels[:-1]) / 2, [40]])
        mass = np.diff([0.5 * math.erfc(-c / math.sqrt(2)) for c in cuts])
        new = -np.diff(np.exp(-cuts * cuts / 2)) / math.sqrt(2 * math.pi) / mass
        moved = np.abs(new - levels).max()
        levels = new
        if moved < 1e-15:
            break
    return 1 - (mass * levels**2).sum()


def exhaustive_distortion(dim, bits, points=1000):
    """Least distortion over ALL partitions of [-1, 1] whose edges lie on a grid, by dynamic
    programming: the global optimum, asymmetric partitions included.

    The grid is uniform in the angle and holds 0. The cost of a cell is exact for the law.
    """
    angles = np.linspace(-math.pi / 2, math.pi / 2, points + 1)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = np.diff(angles)[:, None] / 2
    phi = (angles[1:] + angles[:-1])[:, None] / 2 + half * nodes
    density = half * weights * np.cos(phi) ** (dim - 2)
    density /= density.sum()
    x = np.sin(phi)
    mass, first, second = (
        np.concatenate([[0], np.cumsum((density * x**power).sum(1))]) for power in (0, 1, 2)
    )
    cell_mass, cell_first, cell_second = (
        prefix[None, :] - prefix[:, None] for prefix in (mass, first, second)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = cell_second - cell_first**2 / cell_mass
    cost[~(cell_mass > 1e-13)] = np.inf  # below the diagonal, and cells lost to rounding
    best = cost[0]
    for _ in range(2**bits - 1):
        best = (best[:, None] + cost).min(axis=0)
    return dim * best[-1]


# --- TurboQuant, one vector at a time ---------------------------------------------------------


def nearest(value, levels):
    """Index of the nearest level, the lower one of a tie."""
    best = 0
    for index in range(1, len(levels)):
        if abs(value - levels[index]) < abs(value - levels[best]):
            best = index
    return best


def norm(vector):
    """Euclidean norm by a correctly rounded sum."""
    return math.sqrt(math.fsum(float(v) ** 2 for v in vector))


def mean(vectors, side=np.float16):
    """Mean of each coordinate by a correctly rounded sum, as stored."""
    columns = np.asarray(vectors, dtype=float).T
    return np.array([side(math.fsum(column) / len(column)) for column in columns], dtype=float)


def sketch_scale(kind, rows, dim, scale):
    """alpha of alpha |r| S^T sign(S r): unbiased = |r|^2/E<z,r>, mmse = E<z,r>/E|z|^2 (times |r|
    out), for z = S^T sign(S r)."""
    if kind == "gaussian":
        inner = rows * math.sqrt(2 / math.pi)
        energy = rows * dim + rows * (rows - 1) * 2 / math.pi
    else:
        inner, energy = rows * mean_absolute(dim), rows
    return 1 / inner if scale == "unbiased" else inner / energy


def encode(vector, rotation, levels, sketch=None, unbiased=False, side=np.float16):
    """Algorithm 1 (sketch None) or 2: codes, stored scale, signs, stored residual norm."""
    length = norm(vector)
    rotated = rotation @ (vector / length)
    codes = [nearest(value, levels) for value in rotated]
    chosen = np.array([levels[code] for code in codes])
    scale = side(length / float(rotated @ chosen) if unbiased else length)
    if len(levels) == 1:  # no codebook bit: nothing to store, nothing to scale
        codes, scale = [], None
    if sketch is None:
        return codes, scale, None, None
    residual = vector - decode((codes, scale, None, None), rotation, levels)
    signs = [bool(row @ residual >= 0) for row in sketch]
    return codes, scale, signs, side(norm(residual))


def decode(stored, rotation, levels, sketch=None, alpha=None):
    """Inverse of :func:`encode`."""
    codes, scale, signs, residual_norm = stored
    out = np.zeros(rotation.shape[1])
    if scale is not None:
        for code, row in zip(codes, rotation, strict=True):
            out += float(scale) * levels[code] * row
    if sketch is not None:
        for sign, row in zip(signs, sketch, strict=True):
            out += alpha * float(residual_norm) * (1 if sign else -1) * row
    return out


def read_bits(packed, bits, count):
    """Codes from bytes: a little-endian string of bits, cut every ``bits``."""
    text = "".join(format(int(byte), "08b")[::-1] for byte in packed)
    return [int(text[i * bits : (i + 1) * bits][::-1] or "0", 2) for i in range(count)]


def stored_bits(dim, codebook_bits, sketched, side_bits=16):
    """Bits a vector: codes and signs rounded up to whole bytes, one number beside each."""
    total = 0
    if codebook_bits:
        total += 8 * math.ceil(dim * codebook_bits / 8) + side_bits
    if sketched:
        total += 8 * math.ceil(dim / 8) + side_bits
    return total
