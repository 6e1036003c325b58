"""From noise in the logits to the divergence of an attention row, in nats."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from kvlib.checks import FloatArray, as_real, as_within, check_dim, check_number


def logit_variance(
    relative_mse: float, q_norm: ArrayLike, k_norm: ArrayLike, dim: int
) -> FloatArray:
    """Variance of one logit's error from an isotropic key error: |q|^2 |k|^2 D / d^2 (T11).

    The logit is <q, k>/sqrt(d); the key error has energy D |k|^2, 1/d of it along q. For
    |q|^2 = |k|^2 = d it is D itself.
    """
    d, error = check_dim(dim), as_within(relative_mse, "relative_mse", low=0)
    product = as_within(q_norm, "q_norm", low=0) * as_within(k_norm, "k_norm", low=0)
    return np.asarray(error * (product / d) ** 2)


# What rounding adds to a share of one: a row in float32 may sum to a little more.
_SLACK = 1e-5


def _share(x: ArrayLike, name: str) -> FloatArray:
    """Numbers in [0, 1], such as sums of squares of a row; what rounding adds is taken off."""
    as_within(x, name, low=-_SLACK, high=1 + _SLACK)
    return np.clip(as_real(x, name).astype(np.float64), 0, 1)


def _variance(x: ArrayLike) -> FloatArray:
    return as_within(x, "variance", low=0)


def small_noise_kl(variance: ArrayLike, S2: ArrayLike) -> FloatArray:
    """E KL to first order in the variance of independent logit errors: sigma^2/2 (1 - S2) (T11)."""
    return np.asarray(_variance(variance) / 2 * (1 - _share(S2, "S2")))


def second_order_coefficient(S2: ArrayLike, S3: ArrayLike) -> FloatArray:
    """Coefficient of sigma^4 in E KL: S3 - S2/4 - (3/4) S2^2 (T12)."""
    S2, S3 = _share(S2, "S2"), _share(S3, "S3")
    return np.asarray(S3 - S2 / 4 - 0.75 * S2**2)


def second_order_kl(variance: ArrayLike, S2: ArrayLike, S3: ArrayLike) -> FloatArray:
    """E KL through sigma^4 for independent Gaussian logit errors (T12); error O(sigma^6)."""
    quartic = _variance(variance) ** 2 * second_order_coefficient(S2, S3)
    return np.asarray(small_noise_kl(variance, S2) + quartic)


def gaussian_noise_kl(p: ArrayLike, variance: ArrayLike) -> FloatArray:
    """E KL of one row under independent Gaussian logit errors of any size, by quadrature (T12).

    Parameters
    ----------
    p : array, shape (tokens,)
        An attention row. Weights below 1e-30 are left out.
    variance : array
        sigma^2, non-negative.

    Returns
    -------
    array, of the shape of ``variance``
        In nats, with an absolute error below 1e-11 for ``variance`` up to 50.

    Notes
    -----
    E KL = E log Z for Z = sum p_i exp(delta_i), and by Frullani's integral
    log Z = int_0^inf (exp(-t) - exp(-t Z)) dt/t. Independence makes E exp(-t Z) a product over the
    keys of phi(t p_i), phi(t) = E exp(-t exp(delta)). In u = log t the trapezoidal rule converges
    geometrically. The logarithms of the weights are spread over the grid of u by Lagrange
    interpolation, so that the sum of log phi over the keys is a correlation.
    """
    row = as_real(p, "p").astype(np.float64, copy=False)
    if row.ndim != 1 or not (row >= 0).all() or abs(row.sum() - 1) > 1e-9:
        raise ValueError(f"p must be one row of non-negative weights of sum one, got {row!r}")
    first, counts = _spread(np.log(row[row > _LEAST_WEIGHT]) / _STEP)
    sizes = _variance(variance)
    result = np.empty(sizes.shape)
    for index, size in np.ndenumerate(sizes):
        u, start, log_phi = _log_laplace(float(size))
        begin = round(u[0] / _STEP) + first - start
        product = np.exp(np.correlate(log_phi[begin : begin + u.size + counts.size - 1], counts))
        result[index] = _STEP * float(np.sum(np.exp(-np.exp(u)) - product))
    return result


_STEP = 0.1
_LEAST_WEIGHT = 1e-30
_ORDER = 10  # points of the interpolation; its error is near 1e-14 at this step


def _spread(x: FloatArray) -> tuple[int, FloatArray]:
    """Counts on the integers, from the first one on, that integrate like unit masses at ``x``."""
    below = np.floor(x).astype(np.int64)
    offsets = np.arange(_ORDER) - (_ORDER // 2 - 1)
    first = int(below.min()) + int(offsets[0])
    counts = np.zeros(int(below.max()) + int(offsets[-1]) - first + 1)
    for j, offset in enumerate(offsets):
        others = np.delete(offsets, j)
        weight = np.prod(((x - below)[:, None] - others) / (offset - others), axis=1)
        np.add.at(counts, below + offset - first, weight)
    return first, counts


@lru_cache(maxsize=256)
def _log_laplace(variance: float) -> tuple[FloatArray, int, FloatArray]:
    """Grid of u; and from an index on, log E exp(-exp(u + delta)) where u + log p can lie."""
    sigma = math.sqrt(variance)
    low, high = math.floor((-36 - variance / 2) / _STEP), math.ceil((6 + 12 * sigma) / _STEP)
    start = low + math.floor(math.log(_LEAST_WEIGHT) / _STEP) - _ORDER
    w = np.arange(start, high + _ORDER) * _STEP
    width = min(0.25, 0.2 / sigma) if sigma else 0.25
    g = np.arange(-math.ceil(12 / width), math.ceil(12 / width) + 1) * width
    weight = np.exp(-(g**2) / 2)
    weight /= weight.sum()
    # Beyond e^7 the exponential is zero in double precision.
    exponent = np.exp(np.minimum(w[:, None] + sigma * g, 7.0))
    lost = -np.expm1(-exponent) @ weight
    kept = np.exp(-exponent) @ weight
    # Near one the complement has the digits, near zero the value itself.
    log_phi = np.where(lost < 0.5, np.log1p(-np.minimum(lost, 0.5)), np.log(np.fmax(kept, 1e-300)))
    return np.arange(low, high + 1) * _STEP, start, log_phi


def is_superlinear(S2: ArrayLike, S3: ArrayLike) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Whether small noise is amplified superlinearly: 4 S3 > S2 + 3 S2^2 (T12)."""
    return np.asarray(second_order_coefficient(S2, S3) > 0, dtype=np.bool_)


def peaked_kl(variance: ArrayLike, rest: ArrayLike) -> FloatArray:
    """E KL of peaked attention while small: eps (exp(sigma^2) - 1), eps = 1 - top weight (T13).

    An upper bound always. Close to E KL while eps exp(3/2 sigma^2) is small, if the rest is spread
    over many keys, and while eps exp(2 sigma^2) is small, if it is not.
    """
    return np.asarray(_share(rest, "rest") * np.expm1(_variance(variance)))


def peaked_kl_lower_bound(
    variance: ArrayLike, rest: ArrayLike, rest_squares: ArrayLike
) -> FloatArray:
    """Lower bound of E KL of a peaked row, close to :func:`peaked_kl` for small noise (T13).

    Parameters
    ----------
    variance : array
        sigma^2 of independent Gaussian logit errors.
    rest, rest_squares : array
        Sums of p and of p^2 over all keys but the top one.

    Notes
    -----
    With Y = sum of p_i (exp(delta_i - delta_top) - 1) over the rest, E KL = E log(1 + Y), and
    log(1 + y) >= y - y^2 / (2 (1 - eps)^2) for y >= -eps. E Y^2 has lognormal moments.
    """
    s, eps, squares = (
        _variance(variance),
        _share(rest, "rest"),
        _share(rest_squares, "rest_squares"),
    )
    if (eps == 1).any():
        raise ValueError("rest must be below 1, the weight of the top key being above 0, got 1.0")
    second_moment = eps**2 * (np.exp(3 * s) - 2 * np.exp(s) + 1)
    second_moment = second_moment + squares * (np.exp(4 * s) - np.exp(3 * s))
    return np.asarray(peaked_kl(s, eps) - second_moment / (2 * (1 - eps) ** 2))


def kl_bound(variance: ArrayLike, rest: ArrayLike) -> FloatArray:
    """E KL <= min(sigma^2/2, log(1 + eps (exp(sigma^2) - 1))), independent Gaussian errors (T13).

    The first by Jensen on log E sum p exp(delta); the second by the same after factoring out
    the top key's error, whose mean is zero. ``rest`` = eps = 1 - top weight.
    """
    variance = _variance(variance)
    return np.asarray(np.minimum(variance / 2, np.log1p(peaked_kl(variance, rest))))


def diffuse_kl(variance: ArrayLike, tokens: ArrayLike) -> FloatArray:
    """E KL of uniform attention over N keys, to leading order in log N (T13).

    The random-energy model (Derrida 1981): sigma^2/2 while sigma^2 <= 2 log N, and
    sigma sqrt(2 log N) - log N beyond, where the largest error takes the whole row.
    """
    variance, log_n = _variance(variance), np.log(as_within(tokens, "tokens", low=1))
    frozen = np.sqrt(2 * log_n * variance) - log_n
    return np.asarray(np.where(variance <= 2 * log_n, variance / 2, frozen))


def predicted_kl(
    p: ArrayLike,
    logits: ArrayLike,
    variance: ArrayLike,
    *,
    gain_mean: float = 1.0,
    gain_variance: float = 0.0,
) -> FloatArray:
    """KL of attention rows predicted from the quantizer's error moments alone (T11, T14).

    Parameters
    ----------
    p, logits : array, shape (..., queries, tokens)
        Exact attention rows and their scaled logits (finite where p > 0).
    variance : array, broadcastable to ``p``
        Variance of each logit's error from the part of the key error orthogonal to the key.
    gain_mean : float
        Mean of <k, k_hat>/|k|^2: 1 - D for a Lloyd-Max quantizer, 1 for an unbiased one. It acts
        as a temperature on the logits.
    gain_variance : float
        Variance of that gain from key to key, which shakes each logit in proportion to itself.

    Returns
    -------
    array, shape (..., queries)
        Second-order KL: half the variance of the logit shift under p, plus half the sum of
        p (1 - p) times the variance of each logit's independent error.
    """
    p = _rows(p)
    seen = p > 0
    level = np.where(seen, as_real(logits, "logits"), 0.0)
    noise = np.where(seen, as_real(variance, "variance"), 0.0)
    if not np.isfinite(level).all():
        raise ValueError("logits must be finite where p > 0")
    as_within(noise, "variance", low=0)
    mean = check_number(gain_mean, "gain_mean")
    spread = check_number(gain_variance, "gain_variance", low=0)
    shift = (mean - 1) * level
    centred = shift - (p * shift).sum(axis=-1, keepdims=True)
    noise = noise + spread * level**2
    return np.asarray(((p * centred**2) + p * (1 - p) * noise).sum(axis=-1) / 2)


def _rows(p: ArrayLike) -> FloatArray:
    """Rows of probabilities along the last axis, of sum one within 1e-4."""
    rows = as_real(p, "p")
    if rows.ndim == 0 or rows.size == 0:
        raise ValueError(f"p must have shape (..., tokens) and not be empty, got {rows.shape}")
    if not (rows.min() >= 0 and np.abs(rows.sum(axis=-1) - 1).max() <= 1e-4):  # false for NaN, too
        raise ValueError("p must hold rows of non-negative weights of sum one along the last axis")
    return rows
