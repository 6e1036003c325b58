"""Closed forms that the book derives and tests; no experiment is imported, none imports this.

Relative mean squared errors are per vector, |x - x_hat|^2 / |x|^2; rates are bits a coordinate.
Result numbers (T..) are those of the book's ledger.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import digamma

from kvlib import sphere
from kvlib._validation import check_dim, check_int, check_positive

GAUSSIAN_PANTER_DITE = math.sqrt(3) * math.pi / 2


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


def _check_distortion(distortion: float) -> None:
    if not 0 <= distortion < 1:
        raise ValueError(f"distortion must lie in [0, 1), got {distortion}")
