"""Closed forms that the book derives and tests; no experiment is imported, none imports this.

Relative mean squared errors are per vector, |x - x_hat|^2 / |x|^2; rates are bits a coordinate.
Result numbers (T..) are those of the book's ledger.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, gammaln, ndtr

from kvlib import sphere
from kvlib._validation import FloatArray, check_dim, check_fraction, check_int, check_positive

GAUSSIAN_PANTER_DITE = math.sqrt(3) * math.pi / 2

HIGH_RATE_PENALTY = {
    "gaussian": 2 * math.pi,
    "orthogonal": 2 * math.pi - 4,
    "orthogonal mmse": 4 - 8 / math.pi,
}
"""Limits of :func:`equal_budget_penalty` for d and n to infinity (T08): four times pi/2,
pi/2 - 1 and 1 - 2/pi, because one bit is worth a factor of four."""

HARMONICS = 75
"""Highest degree of the expansions of a quantizer's error in :func:`shared_error`."""


def shannon_bound(bits: float) -> float:
    """4^-n: least relative MSE of a Gaussian source at ``bits`` bits a coordinate (Shannon 1959).

    TurboQuant's lower bound. It is a statement about Gaussian coordinates: a vector whose norm is
    stored for free has only d - 1 of them, and for d = 2 a scalar quantizer passes below it.
    """
    return math.exp2(-2 * bits)


def shannon_lower_bound(bits: float, dim: int) -> float:
    """Shannon's lower bound d e^(2h) / (2 pi e) 4^-n for the coordinate law of the sphere (T03).

    h is the differential entropy of f_d. Holds for every scalar quantizer of 2^n levels, at any d.
    """
    d = check_dim(dim)
    return d * math.exp(2 * coordinate_entropy(d)) / (2 * math.pi * math.e) * shannon_bound(bits)


def coordinate_entropy(dim: int) -> float:
    """Differential entropy of f_d in nats: that of Beta(a, a), a = (d-1)/2, stretched by 2."""
    d = check_dim(dim)
    a = (d - 1) / 2
    # E log(1 - u^2) = psi(a) - psi(a + 1/2), because 1 - u_1^2 ~ Beta((d-1)/2, 1/2).
    return -math.log(sphere.normalizer(d)) - (a - 1) * float(digamma(a) - digamma(a + 0.5))


def panter_dite(bits: float, dim: int | None = None) -> float:
    """High-rate distortion of the best scalar quantizer: (d/12) (integral f^(1/3))^3 4^-n (T03).

    Panter and Dite (1951). ``dim=None`` gives the Gaussian limit (sqrt(3) pi / 2) 4^-n, which is
    TurboQuant's upper bound on D_mse. For finite d the integral is a ratio of normalizers, because
    f_d^(1/3) is proportional to a coordinate density of dimension d/3 + 2.
    """
    if dim is None:
        return GAUSSIAN_PANTER_DITE * shannon_bound(bits)
    d = check_dim(dim)
    cube_of_integral = sphere.normalizer(d) / sphere.normalizer(sphere.companding_dim(d)) ** 3
    return d / 12 * cube_of_integral * shannon_bound(bits)


def one_bit_distortion(dim: int) -> float:
    """D(1) = 1 - d E|u_1|^2, exact: levels +-E|u_1| are the centroids of the two halves (T03)."""
    return 1 - check_dim(dim) * sphere.mean_absolute(dim) ** 2


def cosine_of(distortion: float) -> float:
    """Cosine between a vector and its Lloyd-Max reconstruction, sqrt(1 - D) (T04).

    Centroid condition: E<x, x_hat> = E|x_hat|^2 = 1 - D for unit x. Exact for the mean of
    <x, x_hat>; the cosine of single vectors spreads around it by O(1/sqrt(d)).
    """
    _check_distortion(distortion)
    return math.sqrt(1 - distortion)


def direction_error_of(distortion: float, reading: str) -> float:
    """Direction error of a Lloyd-Max reconstruction in each of three readings (T04).

    "one-minus-cosine": 1 - cos; "angle": angle / pi; "chord": |u - u_hat| of unit vectors.
    """
    cosine = cosine_of(distortion)
    readings = {
        "one-minus-cosine": 1 - cosine,
        "angle": math.acos(cosine) / math.pi,
        "chord": math.sqrt(2 * (1 - cosine)),
    }
    if reading not in readings:
        raise ValueError(f"reading must be one of {', '.join(readings)}, got {reading!r}")
    return readings[reading]


def unbiased_distortion(distortion: float) -> float:
    """Relative MSE D / (1 - D) once the shrinkage 1 - D is divided out (T04).

    The error then is orthogonal to x, so it is tan^2 of the angle whose cosine is sqrt(1 - D).
    """
    _check_distortion(distortion)
    return distortion / (1 - distortion)


def hadamard_kurtosis(kurtosis: float, dim: int, rounds: int = 1) -> float:
    """Kurtosis of a coordinate after ``rounds`` rounds of randomised Hadamard transform (T02).

    Parameters
    ----------
    kurtosis : float
        Of the coordinates before it, d sum x^4 for a unit vector x: from 1 (flat) to d (one-hot).
    dim, rounds : int
        Dimension d and number of rounds, each with random signs of its own.

    Notes
    -----
    Exact as a mean over the signs of any one vector. A round maps kurtosis k to 3 - 2 k / d; the
    fixed point is the sphere's 3 d / (d + 2), and a round multiplies the distance to it by -2/d.
    For one round this is the fourth moment of Efron's (1969) t-statistic under symmetry.
    """
    d = check_dim(dim)
    if not 1 <= kurtosis <= d:
        raise ValueError(f"kurtosis must lie in [1, dim] = [1, {d}], got {kurtosis}")
    excess = kurtosis - sphere.kurtosis(d)
    return sphere.kurtosis(d) + excess * (-2 / d) ** check_int(rounds, "rounds", low=0)


def student_t_kurtosis(nu: float, dim: int) -> float:
    """E d sum x^4 / (sum x^2)^2 for d independent Student-t coordinates, any nu > 0 (T02).

    Notes
    -----
    With phi(s) = E exp(-s x^2), E sum x^4 / (sum x^2)^2 = d int s phi''(s) phi(s)^(d-1) ds (Fuchs,
    Joffe and Teugels 2001). The trapezoidal rule in log s and log x converges geometrically. For
    nu < 2 and d -> infinity the sum tends to 1 - nu/2.
    """
    d, step = check_dim(dim), 0.2
    stretch = max(1.0, 1 / check_positive(nu, "nu"))
    log_x = np.arange(-35, 35 * stretch, step)
    weight = np.exp(log_x - (nu + 1) / 2 * np.logaddexp(0, 2 * log_x - math.log(nu)))
    weight /= weight.sum()
    log_s = np.arange(-70 * stretch, 70, step)
    # Beyond e^7 the exponential is zero in double precision.
    exponent = np.exp(np.minimum(log_s[:, None] + 2 * log_x, 7.0))
    decay = np.exp(-exponent)
    s_squared_second_derivative = (exponent**2 * decay) @ weight
    return float(d * d * step * (s_squared_second_derivative @ (decay @ weight) ** (d - 1)))


def ks_of_kurtosis(kurtosis: float, dim: int) -> float:
    """Kolmogorov-Smirnov distance to the coordinate law, to first order in the kurtosis (T02).

    Parameters
    ----------
    kurtosis : float
        Of a symmetric law on [-1, 1] with variance 1/d.
    dim : int
        Dimension d.

    Notes
    -----
    Keeps the first term that can differ in an expansion in Gegenbauer polynomials, which are
    orthogonal under f_d: density f_d (1 + a p / <p, p>) with p(x) = x^4 - 6 x^2 / (d + 4) +
    3 / ((d + 2)(d + 4)) and a = (kurtosis - 3d/(d+2)) / d^2. By their differential equation the
    distribution function then differs by -a (1 - x^2) f_d(x) p'(x) / (4 (d + 2) <p, p>).
    """
    d = check_dim(dim)
    # Angles, not x: at d = 2 the density is infinite where x = 1, the product is not.
    x = np.cos(np.linspace(0, math.pi / 2, 4002)[1:-1])
    x = np.concatenate([x, np.linspace(0, min(1, 5 / math.sqrt(d)), 4002)[1:-1]])
    slope = np.abs(4 * x**3 - 12 * x / (d + 4))
    square_norm = 24 * (d - 1) * (d + 1) / (d * (d + 2) ** 2 * (d + 4) ** 2 * (d + 6))
    peak = float(np.max((1 - x * x) * sphere.coordinate_pdf(x, d) * slope))
    return abs(kurtosis - sphere.kurtosis(d)) / d**2 * peak / (4 * (d + 2) * square_norm)


def sign_sketch_variance(cosine: float, rows: int) -> float:
    """Variance of <q, r_hat> / (|q| |r|) for the Gaussian sign sketch: (pi/2 - rho^2) / m (T05)."""
    return (math.pi / 2 - cosine**2) / check_int(rows, "rows", low=1)


def jl_variance(cosine: float, rows: int) -> float:
    """The same for unquantised Johnson-Lindenstrauss projections: (1 + rho^2) / m (T05)."""
    return (1 + cosine**2) / check_int(rows, "rows", low=1)


def gaussian_sketch_error(dim: int, rows: int | None = None) -> float:
    """E|r_hat - r|^2 / |r|^2 of the unbiased Gaussian sketch: (pi d/2 - 1) / m (T06)."""
    d = check_dim(dim)
    return (math.pi * d / 2 - 1) / (d if rows is None else check_int(rows, "rows", low=1))


def orthogonal_sketch_error(dim: int) -> float:
    """The same for an orthogonal S with m = d: 1/(d E|u_1|^2) - 1, towards pi/2 - 1 (T07)."""
    return 1 / (check_dim(dim) * sphere.mean_absolute(dim) ** 2) - 1


def mmse_error(unbiased_error: float) -> float:
    """Error e / (1 + e) of an unbiased estimator once it is shrunk by 1 / (1 + e) (T07)."""
    if unbiased_error < 0:
        raise ValueError(f"unbiased_error must be non-negative, got {unbiased_error}")
    return unbiased_error / (1 + unbiased_error)


def orthogonal_sketch_variance(cosine: float, dim: int) -> float:
    """Variance of <q, r_hat> / (|q| |r|) for the unbiased Haar sketch with m = d (T07).

    Along r the estimate is |S r|_1 / (d E|u_1|), whose second moment follows from
    E|u_1 u_2| = 2/(pi d). The rest of E|r_hat|^2 is spread evenly over the d - 1 directions
    orthogonal to r, because the law of S is unchanged by rotations that fix r.
    """
    d = check_dim(dim)
    scale = d * sphere.mean_absolute(d)
    along = (1 + (d - 1) * 2 / math.pi) / scale**2
    across = (d / scale**2 - along) / (d - 1)
    return cosine**2 * (along - 1) + (1 - cosine**2) * across


def sketch_inflation(cosine: float) -> float:
    """Variance of the sign sketch over that of unquantised JL: (pi/2 - rho^2)/(1 + rho^2) (T05)."""
    return sign_sketch_variance(cosine, 1) / jl_variance(cosine, 1)


def inflation_crossing() -> float:
    """|rho| past which the sign sketch has the smaller variance: sqrt(pi/4 - 1/2) (T05)."""
    return math.sqrt(math.pi / 4 - 0.5)


def sign_sketch_failure(epsilon: float, rows: int) -> float:
    """P(|<q, r_hat>| > epsilon |q| |r|) at rho = 0, exact at every m (T05).

    Orthogonal to r, <s, q> is independent of sign(<s, r>), so the estimate is exactly Gaussian
    with variance (pi/2) / m.
    """
    z = check_positive(epsilon, "epsilon") / math.sqrt(sign_sketch_variance(0, rows))
    return float(2 * ndtr(-z))


def qjl_rows(epsilon: float, delta: float) -> float:
    """Rows that QJL's Lemma 3.5 asks for: (4/3) (1 + epsilon)/epsilon^2 log(2/delta)."""
    check_positive(epsilon, "epsilon")
    check_fraction(delta, "delta")
    return 4 / 3 * (1 + epsilon) / epsilon**2 * math.log(2 / delta)


def sufficient_rows(epsilon: float, delta: float) -> float:
    """Rows that do guarantee failure probability delta at every rho: (pi/epsilon^2) log(2/delta).

    Given unit q and r, a row contributes sqrt(pi/2) (rho |a| + sqrt(1 - rho^2) b) with a, b
    standard normal: a Lipschitz function of constant sqrt(pi/2), hence sub-Gaussian with variance
    proxy pi/2, and P(|error| > epsilon) <= 2 exp(-m epsilon^2 / pi).
    """
    check_positive(epsilon, "epsilon")
    check_fraction(delta, "delta")
    return math.pi / epsilon**2 * math.log(2 / delta)


def equal_budget_penalty(sketch_error: float, coarse: float, fine: float) -> float:
    """Error of (n-1)-bit codes with a sketched residual over that of n-bit codes (T08).

    c D(n-1) / D(n), with c the relative error of the sketch, ``coarse`` = D(n-1) and
    ``fine`` = D(n). Below one the sketch wins (T09).
    """
    _check_distortion(fine)
    check_positive(fine, "fine")
    return sketch_error * check_positive(coarse, "coarse") / fine


def logit_variance(
    relative_mse: float, q_norm: ArrayLike, k_norm: ArrayLike, dim: int
) -> FloatArray:
    """Variance of one logit's error from an isotropic key error: |q|^2 |k|^2 D / d^2 (T11).

    The logit is <q, k>/sqrt(d); the key error has energy D |k|^2, 1/d of it along q. For
    |q|^2 = |k|^2 = d it is D itself.
    """
    d = check_dim(dim)
    product = np.asarray(q_norm, dtype=np.float64) * np.asarray(k_norm, dtype=np.float64)
    return np.asarray(relative_mse * (product / d) ** 2)


def small_noise_kl(variance: ArrayLike, S2: ArrayLike) -> FloatArray:
    """E KL to first order in the variance of independent logit errors: sigma^2/2 (1 - S2) (T11)."""
    return np.asarray(np.asarray(variance) / 2 * (1 - np.asarray(S2)))


def second_order_coefficient(S2: ArrayLike, S3: ArrayLike) -> FloatArray:
    """Coefficient of sigma^4 in E KL: S3 - S2/4 - (3/4) S2^2 (T12)."""
    S2, S3 = np.asarray(S2, dtype=np.float64), np.asarray(S3, dtype=np.float64)
    return np.asarray(S3 - S2 / 4 - 0.75 * S2**2)


def second_order_kl(variance: ArrayLike, S2: ArrayLike, S3: ArrayLike) -> FloatArray:
    """E KL through sigma^4 for independent Gaussian logit errors (T12); error O(sigma^6)."""
    quartic = np.asarray(variance) ** 2 * second_order_coefficient(S2, S3)
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
    row = np.asarray(p, dtype=np.float64)
    if row.ndim != 1 or not (row >= 0).all() or abs(row.sum() - 1) > 1e-9:
        raise ValueError(f"p must be one row of non-negative weights of sum one, got {row!r}")
    first, counts = _spread(np.log(row[row > _LEAST_WEIGHT]) / _STEP)
    sizes = np.asarray(variance, dtype=np.float64)
    if not (np.isfinite(sizes) & (sizes >= 0)).all():
        raise ValueError(f"variance must be finite and non-negative, got {variance!r}")
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
    return np.asarray(np.asarray(rest) * np.expm1(np.asarray(variance)))


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
    s = np.asarray(variance, dtype=np.float64)
    eps, squares = np.asarray(rest, dtype=np.float64), np.asarray(rest_squares, dtype=np.float64)
    second_moment = eps**2 * (np.exp(3 * s) - 2 * np.exp(s) + 1)
    second_moment = second_moment + squares * (np.exp(4 * s) - np.exp(3 * s))
    return np.asarray(peaked_kl(s, eps) - second_moment / (2 * (1 - eps) ** 2))


def kl_bound(variance: ArrayLike, rest: ArrayLike) -> FloatArray:
    """E KL <= min(sigma^2/2, log(1 + eps (exp(sigma^2) - 1))), independent Gaussian errors (T13).

    The first by Jensen on log E sum p exp(delta); the second by the same after factoring out
    the top key's error, whose mean is zero. ``rest`` = eps = 1 - top weight.
    """
    variance = np.asarray(variance, dtype=np.float64)
    return np.asarray(np.minimum(variance / 2, np.log1p(peaked_kl(variance, rest))))


def diffuse_kl(variance: ArrayLike, tokens: ArrayLike) -> FloatArray:
    """E KL of uniform attention over N keys, to leading order in log N (T13).

    The random-energy model (Derrida 1981): sigma^2/2 while sigma^2 <= 2 log N, and
    sigma sqrt(2 log N) - log N beyond, where the largest error takes the whole row.
    """
    variance = np.asarray(variance, dtype=np.float64)
    log_n = np.log(np.asarray(tokens, dtype=np.float64))
    frozen = np.sqrt(2 * log_n * variance) - log_n
    return np.asarray(np.where(variance <= 2 * log_n, variance / 2, frozen))


def predicted_kl(
    p: FloatArray,
    logits: FloatArray,
    variance: FloatArray,
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
    seen = p > 0
    level = np.where(seen, logits, 0.0)
    shift = (gain_mean - 1) * level
    centred = shift - (p * shift).sum(axis=-1, keepdims=True)
    noise = np.where(seen, variance, 0.0) + gain_variance * level**2
    return np.asarray(((p * centred**2) + p * (1 - p) * noise).sum(axis=-1) / 2)


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


def _check_distortion(distortion: float) -> None:
    if not 0 <= distortion < 1:
        raise ValueError(f"distortion must lie in [0, 1), got {distortion}")
