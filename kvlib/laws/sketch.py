"""The 1-bit sign sketch of a residual: variance, squared error and price at equal budget."""

from __future__ import annotations

import math

from scipy.special import ndtr

from kvlib.checks import (
    check_cosine,
    check_dim,
    check_fraction,
    check_int,
    check_number,
    check_positive,
)
from kvlib.laws import sphere
from kvlib.laws.scalar import check_distortion

HIGH_RATE_PENALTY = {
    "gaussian": 2 * math.pi,
    "orthogonal": 2 * math.pi - 4,
    "orthogonal mmse": 4 - 8 / math.pi,
}
"""Limits of :func:`equal_budget_penalty` for d and n to infinity (T08): four times pi/2,
pi/2 - 1 and 1 - 2/pi, because one bit is worth a factor of four."""


def sign_sketch_variance(cosine: float, rows: int) -> float:
    """Variance of <q, r_hat> / (|q| |r|) for the Gaussian sign sketch: (pi/2 - rho^2) / m (T05)."""
    return (math.pi / 2 - check_cosine(cosine) ** 2) / check_int(rows, "rows", low=1)


def jl_variance(cosine: float, rows: int) -> float:
    """The same for unquantised Johnson-Lindenstrauss projections: (1 + rho^2) / m (T05)."""
    return (1 + check_cosine(cosine) ** 2) / check_int(rows, "rows", low=1)


def gaussian_sketch_error(dim: int, rows: int | None = None) -> float:
    """E|r_hat - r|^2 / |r|^2 of the unbiased Gaussian sketch: (pi d/2 - 1) / m (T06)."""
    d = check_dim(dim)
    return (math.pi * d / 2 - 1) / (d if rows is None else check_int(rows, "rows", low=1))


def orthogonal_sketch_error(dim: int) -> float:
    """The same for an orthogonal S with m = d: 1/(d E|u_1|^2) - 1, towards pi/2 - 1 (T07)."""
    d = check_dim(dim)
    return 1 / (d * sphere.mean_absolute(d) ** 2) - 1


def mmse_error(unbiased_error: float) -> float:
    """Error e / (1 + e) of an unbiased estimator once it is shrunk by 1 / (1 + e) (T07)."""
    e = check_number(unbiased_error, "unbiased_error", low=0)
    return e / (1 + e)


def orthogonal_sketch_variance(cosine: float, dim: int) -> float:
    """Variance of <q, r_hat> / (|q| |r|) for the unbiased Haar sketch with m = d (T07).

    Along r the estimate is |S r|_1 / (d E|u_1|), whose second moment follows from
    E|u_1 u_2| = 2/(pi d). The rest of E|r_hat|^2 is spread evenly over the d - 1 directions
    orthogonal to r, because the law of S is unchanged by rotations that fix r.
    """
    d, rho = check_dim(dim), check_cosine(cosine)
    scale = d * sphere.mean_absolute(d)
    along = (1 + (d - 1) * 2 / math.pi) / scale**2
    across = (d / scale**2 - along) / (d - 1)
    return rho**2 * (along - 1) + (1 - rho**2) * across


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
    e, failure = check_positive(epsilon, "epsilon"), check_fraction(delta, "delta")
    return 4 / 3 * (1 + e) / e**2 * math.log(2 / failure)


def sufficient_rows(epsilon: float, delta: float) -> float:
    """Rows that do guarantee failure probability delta at every rho: (pi/epsilon^2) log(2/delta).

    Given unit q and r, a row contributes sqrt(pi/2) (rho |a| + sqrt(1 - rho^2) b) with a, b
    standard normal: a Lipschitz function of constant sqrt(pi/2), hence sub-Gaussian with variance
    proxy pi/2, and P(|error| > epsilon) <= 2 exp(-m epsilon^2 / pi).
    """
    e, failure = check_positive(epsilon, "epsilon"), check_fraction(delta, "delta")
    return math.pi / e**2 * math.log(2 / failure)


def equal_budget_penalty(sketch_error: float, coarse: float, fine: float) -> float:
    """Error of (n-1)-bit codes with a sketched residual over that of n-bit codes (T08).

    c D(n-1) / D(n), with c the relative error of the sketch, ``coarse`` = D(n-1) and
    ``fine`` = D(n). Below one the sketch wins (T09).
    """
    of_sketch = check_number(sketch_error, "sketch_error", low=0)
    of_fine = check_positive(check_distortion(fine, "fine"), "fine")
    return of_sketch * check_positive(coarse, "coarse") / of_fine
