"""Errors that values share, and what is left of them in the attention output.

Relative mean squared errors are per vector, |x - x_hat|^2 / |x|^2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from kvlib.checks import (
    FloatArray,
    as_within,
    check_choice,
    check_dim,
    check_int,
    check_number,
)
from kvlib.laws import sphere
from kvlib.laws.agreement import agreement, check_levels

HARMONICS = 75
"""Highest degree of :func:`quantizer_energies` unless another is asked for."""


def gegenbauer(degrees: int, x: ArrayLike, dim: int) -> FloatArray:
    """Zonal polynomials P_0..P_degrees of the sphere in R^d, P_k(1) = 1, by their recurrence.

    Returns an array of shape (degrees + 1, *x.shape). They are orthogonal under the coordinate
    law, and E P_k(u_1)^2 is one over the number of harmonics of degree k.
    """
    d, count = check_dim(dim), check_int(degrees, "degrees", low=0)
    x = as_within(x, "x")
    values = np.ones((count + 1, *x.shape))
    if count:
        values[1] = x
    for k in range(1, count):
        values[k + 1] = ((2 * k + d - 2) * x * values[k] - k * values[k - 1]) / (k + d - 2)
    return values


def quantizer_energies(levels: ArrayLike, dim: int, degrees: int = HARMONICS) -> FloatArray:
    """Signed share of each harmonic in a scalar quantizer Q of the coordinates (T15).

    Parameters
    ----------
    levels : array
        Increasing reconstruction values, symmetric about zero; cells end halfway between them.
    dim, degrees : int
        Dimension d, highest degree.

    Returns
    -------
    array, shape (degrees + 1,)
        sqrt(d N_k) E[Q(u_1) P_k(u_1)], where N_k harmonics have degree k. Their squares add up to
        d E Q(u_1)^2 as ``degrees`` grows; entry 1 is the gain d E[u_1 Q(u_1)].

    Notes
    -----
    ((1 - x^2) f_d P_k')' = -k (k + d - 2) f_d P_k, so the integral over a cell is a difference of
    boundary terms, and the sum over cells one of jumps: no quadrature. P_k' is
    k (k + d - 2) / (d - 1) times the polynomial of degree k - 1 in dimension d + 2.
    """
    d, count = check_dim(dim), check_int(degrees, "degrees", low=1)
    levels = check_levels(levels)
    edges = (levels[1:] + levels[:-1]) / 2
    boundary = np.diff(levels) * (1 - edges**2) * sphere.coordinate_pdf(edges, d)
    k = np.arange(1, count + 1)
    coefficients = _orthonormal(count - 1, edges, d + 2) @ boundary / np.sqrt(k * (k + d - 2))
    mean = 0.0  # of a symmetric quantizer
    return np.concatenate([[mean], d / math.sqrt(d - 1) * coefficients])


def _orthonormal(degrees: int, x: FloatArray, dim: int) -> FloatArray:
    """The polynomials of :func:`gegenbauer` times the root of the number of harmonics.

    By a recurrence of their own: the number itself overflows where d and degree are large.
    """
    values = np.ones((degrees + 1, *x.shape))
    before, below = np.zeros_like(x), 0.0
    for k in range(1, degrees + 1):
        above = math.sqrt(k * (k + dim - 3) / ((2 * k + dim - 2) * (2 * k + dim - 4)))
        values[k] = (x * values[k - 1] - below * before) / above
        before, below = values[k - 1], above
    return values


def shared_error(
    cosine: ArrayLike, levels: ArrayLike, dim: int, *, rescale: float = 1.0
) -> FloatArray:
    """E <e(u), e(w)> for unit vectors at a given cosine, quantized in one Haar rotation (T15).

    e(u) = rescale R^T Q(R u) - u. One is the plain scale; 1 / (1 - D) the unbiased one.

    Parameters
    ----------
    cosine : array
        <u, w>. At one the value is the relative MSE itself.
    levels, dim
        As in :func:`quantizer_energies`; symmetric levels.

    Notes
    -----
    A function of one coordinate correlates with the same function of another unit vector's
    coordinate degree by degree: sum_k g_k P_k(cosine). Near cosine one hundreds of degrees count;
    :mod:`kvlib.laws.agreement` integrates the derivative of the sum instead, which is finite.
    """
    cosine, d = _cosines(cosine), check_dim(dim)
    curve, scale = agreement(levels, d), check_number(rescale, "rescale", low=0)
    own = scale**2 * curve(np.arccos(cosine))
    return np.asarray(own - (2 * scale * curve.gain - 1) * cosine)


def _cosines(x: ArrayLike) -> FloatArray:
    return as_within(x, "cosine", low=-1, high=1)


def common_mean_error(
    share: ArrayLike, levels: ArrayLike, dim: int, *, rescale: float = 1.0
) -> FloatArray:
    """The same averaged over pairs of vectors m + g with a common mean, exactly (T15).

    In units of their mean square norm. ``share`` is the energy share s of the mean, g isotropic
    Gaussian.

    Notes
    -----
    sum_k g_k h_k^2 with h_k = E |v| P_k(cos(v, m)) over v = m + g. Because |v|^k P_k is a harmonic
    function, h_k = |m|^k E |w|^(1-k) for w = m + g in dimension d + 2k: s^(k/2) but for a factor
    of 1 - O(k^2 (1 - s) / d), and just that for k = 1. Its moment of negative order is the
    integral of t^((k-3)/2) E exp(-t |w|^2) over t. Very close to one (1 - s < 1e-5) the angle of
    two vectors is that of their difference in the plane, to a relative 1e-5.
    """
    share, d = as_within(share, "share", low=0, high=1), check_dim(dim)
    curve, scale = agreement(levels, d), check_number(rescale, "rescale", low=0)
    higher = np.array([_higher_degrees(s, levels, d) for s in share.ravel().tolist()])
    first = (scale * curve.gain - 1) ** 2 * share
    return np.asarray(first + scale**2 * higher.reshape(share.shape))


_NEARLY_ONE = 1e-5
_NEGLIGIBLE = 37.0  # e^-37 is below rounding


def _higher_degrees(share: float, levels: ArrayLike, dim: int) -> float:
    """sum over k >= 2 of g_k h_k^2 for the plain scale (see :func:`common_mean_error`)."""
    if 1 - share < _NEARLY_ONE:
        return _nearly_one(share, levels, dim)
    if share == 0:
        return 0.0
    # h_k^2 is below share^k, and below exp(-k^2 (1 - share) / d) where that says more.
    count = _NEGLIGIBLE / -math.log(share)
    if (1 - share) < dim / (4 * _NEGLIGIBLE):
        count = min(count, math.sqrt(_NEGLIGIBLE * dim / (1 - share)))
    energies = quantizer_energies(levels, dim, max(3, math.ceil(count)))[3::2] ** 2
    return float(energies @ _mean_harmonics(share, energies.size, dim) ** 2)


def _mean_harmonics(share: float, count: int, dim: int) -> FloatArray:
    """h_3, h_5, ... of :func:`common_mean_error`, ``count`` of them."""
    k = 2.0 * np.arange(count) + 3
    b, width = (k - 1) / 2, 2 * (1 - share) / dim

    def exponent(y: FloatArray, k: FloatArray, b: FloatArray) -> FloatArray:
        spread = 1 + width * np.exp(y)
        return np.asarray(b * y - (dim / 2 + k) * np.log(spread) - share * np.exp(y) / spread)

    # The peak in y = log t, by bisection: the slope falls from b to below zero.
    low, high = np.full(count, -5.0), np.full(count, 60.0)
    for _ in range(60):
        middle = (low + high) / 2
        part = width * np.exp(middle) / (1 + width * np.exp(middle))
        slope = (
            b - (dim / 2 + k) * part - share * np.exp(middle) / (1 + width * np.exp(middle)) ** 2
        )
        low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    result = np.empty(count)
    # Half widths of e^-45 on the left, where the slope is at most b, and in units of 1/sqrt(b).
    u = np.arange(-180, 181) * 0.25
    for start in range(0, count, 1024):
        part = slice(start, start + 1024)
        step = 1 / np.sqrt(b[part])
        y = low[part, None] + u * step[:, None]
        values = exponent(y, k[part, None], b[part, None])
        top = values.max(axis=1)
        total = np.exp(values - top[:, None]).sum(axis=1) * 0.25 * step
        log_h = k[part] / 2 * math.log(share) + top + np.log(total) - gammaln(b[part])
        result[part] = np.exp(log_h)
    return result


def _nearly_one(share: float, levels: ArrayLike, dim: int) -> float:
    """The same where the mean is nearly everything: angle^2 is 2 (1 - share) / d chi^2_(d-1)."""
    curve = agreement(levels, dim)
    y = math.log(dim) + np.arange(-45, 12, 0.3 / math.sqrt(dim))
    log_weight = (dim - 1) / 2 * y - np.exp(y) / 2
    seen = log_weight > log_weight.max() - 45
    weight = np.exp(log_weight[seen] - log_weight.max())
    angle = np.minimum(np.sqrt(2 * (1 - share) / dim * np.exp(y[seen])), math.pi)
    rest = curve(angle) - curve.gain**2 * np.cos(angle)
    return float(weight @ rest / weight.sum())


def sketched_shared_error(cosine: ArrayLike, dim: int, kind: str) -> FloatArray:
    """E <e(u), e(w)> of the sign sketch, e = r_hat - r, both vectors under one S, m = d (T15).

    Parameters
    ----------
    cosine : array
        Of the two residuals.
    dim : int
    kind : {"gaussian", "orthogonal"}
        Independent normal entries, or a Haar rotation; both unbiased.

    Notes
    -----
    P(signs agree) - P(signs differ) = (2/pi) asin(cosine). Orthogonal: kappa asin - cosine with
    kappa = (2/pi) / (d E|u_1|^2), near one. Gaussian: asin - cosine/d, because two different rows
    are not orthogonal and spread the second moment; near cosine zero nothing of it cancels.
    """
    cosine, d = _cosines(cosine), check_dim(dim)
    if check_choice(kind, "kind", ("gaussian", "orthogonal")) == "gaussian":
        return np.asarray(np.arcsin(cosine) - cosine / d)
    kappa = 2 / math.pi / (d * sphere.mean_absolute(d) ** 2)
    return np.asarray(kappa * np.arcsin(cosine) - cosine)


def sketched_mean_error(share: float, levels: ArrayLike, dim: int, kind: str) -> float:
    """Shared error of codes with a sketched residual, for vectors with a common mean (T15).

    Parameters
    ----------
    share, dim
        As in :func:`common_mean_error`.
    levels : array
        Of the (n-1)-bit stage.
    kind : {"gaussian", "orthogonal"}

    Notes
    -----
    Mean cosine of two residuals: their shared error over their error. From pair to pair it has
    variance (1 - cosine^2)^2 / d, over which the arcsine is averaged to second order; for an
    orthogonal sketch that makes up for kappa < 1. To this comes :func:`overload_error`.
    """
    d = check_dim(dim)
    single = float(shared_error(1.0, levels, d))
    shared = float(common_mean_error(check_number(share, "share", low=0, high=1), levels, d))
    cosine = min(1.0, shared / single)
    bend = cosine * math.sqrt(1 - cosine**2) / (2 * d)
    if kind == "orthogonal":
        bend *= (2 / math.pi) / (d * sphere.mean_absolute(d) ** 2)
    plain = single * (float(sketched_shared_error(cosine, d, kind)) + bend)
    return plain + overload_error(share, levels, d)


def overload_error(share: float, levels: ArrayLike, dim: int) -> float:
    """Shared error of a sketch when a rotated mean has a coordinate past the last level (T15).

    All residuals then point along that coordinate, and the signs, whose third harmonic is not
    zero, err together. Small for d to infinity, but what remains of an orthogonal sketch's shared
    error at fine budgets.

    Notes
    -----
    Leading order of the third harmonic, asin x - x = x^3/6 + ..: E_m (E_g psi(h))^2 / (6 d^2), for
    psi(h) = (h^3 - 3 D h) / (D + h^2 / d) and the error h of one coordinate, in units of its
    standard deviation, of a vector m + g. Normal coordinates; tens of percent where it matters.
    """
    d, share = check_dim(dim), check_number(share, "share", low=0, high=1)
    single = float(shared_error(1.0, levels, d))
    levels = check_levels(levels) * math.sqrt(d)
    mean, spread = np.linspace(-6.5, 6.5, 131), np.linspace(-6, 6, 241)
    weights = [np.exp(-(x**2) / 2) for x in (mean, spread)]
    coordinate = math.sqrt(share) * mean[:, None] + math.sqrt(1 - share) * spread
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, coordinate)
    h = levels[nearest] - coordinate
    third = (h**3 - 3 * single * h) / (single + h**2 / d) @ weights[1] / weights[1].sum()
    return float(weights[0] @ third**2 / weights[0].sum()) / (6 * d**2)


def output_error(effective_tokens: ArrayLike, single: ArrayLike, shared: ArrayLike) -> FloatArray:
    """E|T_hat - T|^2 of T = sum p_i v_i over the mean square norm of the v_i (T15).

    Parameters
    ----------
    effective_tokens : array
        N_eff = 1 / sum p_i^2.
    single, shared : array
        E|e_i|^2 and E<e_i, e_j> over the mean square norm; p independent of the errors.

    Notes
    -----
    shared + (single - shared) / N_eff: what tokens share never averages out.
    """
    single, shared = as_within(single, "single", low=0), as_within(shared, "shared")
    # 1 / sum p_i^2 of a row in float32 may be a little below one.
    tokens = as_within(effective_tokens, "effective_tokens", low=1 - 1e-5)
    return np.asarray(shared + (single - shared) / tokens)


def output_threshold(first: tuple[float, float], second: tuple[float, float]) -> float:
    """N_eff past which the second quantizer's output error is below the first's (T15).

    Parameters
    ----------
    first, second : (single, shared)
        Errors as in :func:`output_error`; the second has the larger ``single``.

    Returns
    -------
    float
        1 + (single_2 - single_1) / (shared_1 - shared_2); infinite if the second shares as much.
    """
    singles = [
        check_number(pair[0], f"single error of {name}", low=0)
        for name, pair in (("first", first), ("second", second))
    ]
    shared = [
        check_number(pair[1], f"shared error of {name}")
        for name, pair in (("first", first), ("second", second))
    ]
    if singles[1] < singles[0]:
        raise ValueError(
            f"second must have the larger single error, got {singles[1]:.6g} after {singles[0]:.6g}"
        )
    saved = shared[0] - shared[1]
    return math.inf if saved <= 0 else 1 + (singles[1] - singles[0]) / saved
