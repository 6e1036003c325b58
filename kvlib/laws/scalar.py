"""Scalar quantizers: what n bits a coordinate can and do reach.

Relative mean squared errors are per vector, |x - x_hat|^2 / |x|^2; rates are bits a coordinate.
"""

from __future__ import annotations

import math

from scipy.special import digamma

from kvlib.checks import check_choice, check_dim, check_number
from kvlib.laws import sphere

GAUSSIAN_PANTER_DITE = math.sqrt(3) * math.pi / 2


def shannon_bound(bits: float) -> float:
    """4^-n: least relative MSE of a Gaussian source at ``bits`` bits a coordinate (Shannon 1959).

    TurboQuant's lower bound. It is a statement about Gaussian coordinates: a vector whose norm is
    stored for free has only d - 1 of them, and for d = 2 a scalar quantizer passes below it.
    """
    return math.exp2(-2 * check_number(bits, "bits", low=0))


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
    d = check_dim(dim)
    return 1 - d * sphere.mean_absolute(d) ** 2


def cosine_of(distortion: float) -> float:
    """Cosine between a vector and its Lloyd-Max reconstruction, sqrt(1 - D) (T04).

    Centroid condition: E<x, x_hat> = E|x_hat|^2 = 1 - D for unit x. Exact for the mean of
    <x, x_hat>; the cosine of single vectors spreads around it by O(1/sqrt(d)).
    """
    return math.sqrt(1 - check_distortion(distortion))


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
    return readings[check_choice(reading, "reading", tuple(readings))]


def unbiased_distortion(distortion: float) -> float:
    """Relative MSE D / (1 - D) once the shrinkage 1 - D is divided out (T04).

    The error then is orthogonal to x, so it is tan^2 of the angle whose cosine is sqrt(1 - D).
    """
    D = check_distortion(distortion)
    return D / (1 - D)


def matched_distortion(distortion: float) -> float:
    """Relative MSE 2 - 2 sqrt(1 - D) once the reconstruction has the length of x (T20).

    The cosine sqrt(1 - D) is that of the codes (T04), in the limit of many coordinates: D + D^2/4
    + ..., between D of the plain norm and D / (1 - D) of the unbiased scale. At finite d the error
    is smaller by about the variance of the radial gain.
    """
    D = check_distortion(distortion)
    return 2 * D / (1 + math.sqrt(1 - D))


def check_distortion(distortion: float, name: str = "distortion") -> float:
    """Return a relative MSE as a float in [0, 1)."""
    value = check_number(distortion, name, low=0)
    if value >= 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {distortion}")
    return value
