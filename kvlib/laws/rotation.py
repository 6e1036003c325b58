"""What rounds of a randomised Hadamard transform leave of a heavy tail: kurtosis and distance."""

from __future__ import annotations

import math

import numpy as np

from kvlib.checks import check_dim, check_int, check_number, check_positive
from kvlib.laws import sphere


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
    d, count = check_dim(dim), check_int(rounds, "rounds", low=0)
    excess = check_number(kurtosis, "kurtosis", low=1, high=d) - sphere.kurtosis(d)
    return sphere.kurtosis(d) + excess * (-2 / d) ** count


def student_t_kurtosis(nu: float, dim: int) -> float:
    """E d sum x^4 / (sum x^2)^2 for d independent Student-t coordinates, any nu > 0 (T02).

    Notes
    -----
    With phi(s) = E exp(-s x^2), E sum x^4 / (sum x^2)^2 = d int s phi''(s) phi(s)^(d-1) ds (Fuchs,
    Joffe and Teugels 2001). The trapezoidal rule in log s and log x converges geometrically. For
    nu < 2 and d -> infinity the sum tends to 1 - nu/2.
    """
    d, nu, step = check_dim(dim), check_positive(nu, "nu"), 0.2
    stretch = max(1.0, 1 / nu)
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
    excess = check_number(kurtosis, "kurtosis", low=1, high=d) - sphere.kurtosis(d)
    # Angles, not x: at d = 2 the density is infinite where x = 1, the product is not.
    x = np.cos(np.linspace(0, math.pi / 2, 4002)[1:-1])
    x = np.concatenate([x, np.linspace(0, min(1, 5 / math.sqrt(d)), 4002)[1:-1]])
    slope = np.abs(4 * x**3 - 12 * x / (d + 4))
    square_norm = 24 * (d - 1) * (d + 1) / (d * (d + 2) ** 2 * (d + 4) ** 2 * (d + 6))
    peak = float(np.max((1 - x * x) * sphere.coordinate_pdf(x, d) * slope))
    return abs(excess) / d**2 * peak / (4 * (d + 2) * square_norm)
