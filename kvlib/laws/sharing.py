"""Errors that values share, and what is left of them in the attention output.

Relative mean squared errors are per vector, |x - x_hat|^2 / |x|^2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from kvlib.checks import FloatArray, check_dim, check_int
from kvlib.laws import sphere

HARMONICS = 75
"""Highest degree of the expansions of a quantizer's error in :func:`shared_error`."""


def gegenbauer(degrees: int, x: ArrayLike, dim: int) -> FloatArray:
    """Zonal polynomials P_0..P_degrees of the sphere in R^d, P_k(1) = 1, by their recurrence.

    Returns an array of shape (degrees + 1, *x.shape). They are orthogonal under the coordinate
    law, and E P_k(u_1)^2 is one over the number of harmonics of degree k.
    """
    d, count = check_dim(dim), check_int(degrees, "degrees", low=0)
    x = np.asarray(x, dtype=np.float64)
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
        Increasing reconstruction values; cells end halfway between them.
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
    levels = np.asarray(levels, dtype=np.float64)
    edges = (levels[1:] + levels[:-1]) / 2
    boundary = np.diff(levels) * (1 - edges**2) * sphere.coordinate_pdf(edges, d) / (d - 1)
    coefficients = gegenbauer(count - 1, edges, d + 2) @ boundary
    k = np.arange(1, count + 1)
    log_number = np.log(2 * k + d - 2) - np.log(k) + gammaln(k + d - 2)
    log_number -= gammaln(d - 1) + gammaln(k)
    mean = 0.0  # of a symmetric quantizer
    return np.concatenate([[mean], np.sqrt(d) * np.exp(log_number / 2) * coefficients])


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
    coordinate degree by degree: sum_k g_k P_k(cosine). Degrees above the last one kept are
    lumped into one more, so that the value at cosine one is exact; elsewhere it is to 1e-5 for
    d >= 8, and to 1e-3 for d >= 3.
    """
    cosine = np.asarray(cosine, dtype=np.float64)
    shares, rest = _error_energies(levels, dim, rescale)
    polynomials = gegenbauer(shares.size + 1, cosine, dim)
    return np.asarray(np.tensordot(shares, polynomials[:-2], 1) + rest * polynomials[-1])


def common_mean_error(
    share: ArrayLike, levels: ArrayLike, dim: int, *, rescale: float = 1.0
) -> FloatArray:
    """The same averaged over pairs of vectors m + g with a common mean: sum_k g_k share^k (T15).

    In units of their mean square norm. ``share`` is the energy share of the mean, g isotropic
    Gaussian. Exact in degree one, and otherwise up to O(1/d) from the spread of the norms:
    |v|^k P_k is a harmonic function, whose mean over g is its value at m.
    """
    share = np.asarray(share, dtype=np.float64)
    shares, rest = _error_energies(levels, dim, rescale)
    powers = share[..., None] ** np.arange(shares.size)
    return np.asarray(powers @ shares + rest * share ** (shares.size + 1))


def _error_energies(levels: ArrayLike, dim: int, rescale: float) -> tuple[FloatArray, float]:
    """Energies g_k of the error rescale Q - id, and what lies beyond the last degree."""
    levels = np.asarray(levels, dtype=np.float64)
    amplitude = rescale * quantizer_energies(levels, dim)
    amplitude[1] -= 1
    edges = np.concatenate([[0.0], (levels[1:] + levels[:-1])[levels.size // 2 :] / 2, [1.0]])
    probability, _, _ = sphere.upper_cell_moments(edges, dim)
    energy = 2 * dim * float(probability @ levels[levels.size // 2 :] ** 2) * rescale**2
    gain = amplitude[1] + 1
    return amplitude**2, energy - 2 * gain + 1 - float(amplitude @ amplitude)


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
    cosine, d = np.asarray(cosine, dtype=np.float64), check_dim(dim)
    if kind == "gaussian":
        return np.asarray(np.arcsin(cosine) - cosine / d)
    if kind != "orthogonal":
        raise ValueError(f"kind must be 'gaussian' or 'orthogonal', got {kind!r}")
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
    single = float(shared_error(1.0, levels, dim))
    cosine = float(common_mean_error(share, levels, dim)) / single
    bend = cosine * math.sqrt(max(1 - cosine**2, 0)) / (2 * dim)
    if kind == "orthogonal":
        bend *= (2 / math.pi) / (dim * sphere.mean_absolute(dim) ** 2)
    plain = single * (float(sketched_shared_error(cosine, dim, kind)) + bend)
    return plain + overload_error(share, levels, dim)


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
    levels = np.asarray(levels, dtype=np.float64) * math.sqrt(check_dim(dim))
    single = float(shared_error(1.0, levels / math.sqrt(dim), dim))
    mean, spread = np.linspace(-6.5, 6.5, 131), np.linspace(-6, 6, 241)
    weights = [np.exp(-(x**2) / 2) for x in (mean, spread)]
    coordinate = math.sqrt(share) * mean[:, None] + math.sqrt(1 - share) * spread
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, coordinate)
    h = levels[nearest] - coordinate
    third = (h**3 - 3 * single * h) / (single + h**2 / dim) @ weights[1] / weights[1].sum()
    return float(weights[0] @ third**2 / weights[0].sum()) / (6 * dim**2)


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
    single, shared = np.asarray(single, dtype=np.float64), np.asarray(shared, dtype=np.float64)
    return np.asarray(shared + (single - shared) / np.asarray(effective_tokens))


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
    if second[0] < first[0]:
        raise ValueError(
            f"second must have the larger single error, got {second[0]:.6g} after {first[0]:.6g}"
        )
    saved = first[1] - second[1]
    return math.inf if saved <= 0 else 1 + (second[0] - first[0]) / saved
