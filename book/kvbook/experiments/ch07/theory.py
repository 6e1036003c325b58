"""What the KL of a cell should be: the closed form of first order, from D and the radial gain.

``kind`` everywhere: ``"norm"``, ``"matched"`` and ``"unbiased"`` for all bits in the codebook with
that scale, ``"gaussian"`` and ``"hadamard"`` for one bit of QJL with that sketch and the norm.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from kvbook.experiments.ch07.rows import DIFFUSE, SPREADS
from kvbook.experiments.common import distortion
from kvlib import laws
from kvlib.quantize import codebooks

DIM = 128
DIFFUSE_SPREAD = tuple(SPREADS.values())[DIFFUSE]


class Parts(NamedTuple):
    """The error of a decoded unit key in three parts, eq-softmax-parts.

    ``bias`` is the squared mean of the gain less one, ``radial`` the variance of the gain and
    ``across`` the energy of the error orthogonal to the key.
    """

    bias: float
    radial: float
    across: float


def sketch_constant(sketch: str, dim: int = DIM) -> float:
    """Relative squared error of the unbiased sketch of a residual, c."""
    if sketch == "gaussian":
        return laws.gaussian_sketch_error(dim)
    return laws.orthogonal_sketch_error(dim)


def gain_variance_law(bits: int, dim: int = DIM) -> float:
    """Variance over tokens of the gain ``<x, x_hat> / |x|^2`` with the norm, v: exact."""
    return codebooks.radial_gain_variance(codebooks.lloyd_max(dim, bits))


@lru_cache(maxsize=256)
def error_parts_law(kind: str, bits: int, dim: int = DIM) -> Parts:
    """The three parts of a cell's error, from its codebook."""
    if kind in ("gaussian", "hadamard"):
        return _sketched_parts(kind, distortion(dim, bits - 1), dim)
    D, v = distortion(dim, bits), gain_variance_law(bits, dim)
    if kind == "norm":
        return Parts(D**2, v, D - D**2 - v)
    if kind == "unbiased":
        return Parts(0.0, 0.0, (D - D**2 - v) / (1 - D) ** 2)
    # Of the matched scale the gain is the cosine of key and code. It varies from token to token
    # by an order of D less than v, which is left out; its mean is taken to the order of v.
    cosine = math.sqrt(1 - D) + v / (2 * (1 - D) ** 1.5)
    return Parts((1 - cosine) ** 2, 0.0, 1 - cosine**2)


def _sketched_parts(sketch: str, coarse: float, dim: int) -> Parts:
    """Of an unbiased sketch of the residual of a code with distortion ``coarse``."""
    variance = (
        laws.sign_sketch_variance if sketch == "gaussian" else laws.orthogonal_sketch_variance
    )
    # The residual of a Lloyd-Max code has a cosine of sqrt(D) with the key.
    radial = coarse * float(variance(math.sqrt(coarse), dim))
    return Parts(0.0, radial, sketch_constant(sketch, dim) * coarse - radial)


def across_factor(kappa: float, dim: int = DIM) -> float:
    """Variance that one unit of error across the keys puts on logits, over their own variance."""
    return (kappa * dim - 1) / (dim - 1)


def shared_kappa(rank: float, dim: int = DIM) -> float:
    """Kappa of Gaussian keys and queries in a common random subspace: about its share, rank / dim.

    With a basis of ``rank`` Gaussian rows B, the variance of a logit is tr (B B^T)^2, a little
    more than of an orthonormal basis.
    """
    return rank / (dim + rank + 1)


def first_order_law(
    kind: str, bits: int, kappa: float, dim: int = DIM, *, spread: float = DIFFUSE_SPREAD
) -> float:
    """KL over half the variance of the logits, eq-schemes-gain; ``spread`` is that of the logits.

    Under the attention weights a Gaussian logit has the mean square spread^2 (1 + spread^2).
    """
    parts = error_parts_law(kind, bits, dim)
    radial = parts.radial * (1 + spread**2)
    return parts.bias + radial + across_factor(kappa, dim) * parts.across


def first_order_ratio_law(kind: str, bits: int, kappa: float = 1.0, dim: int = DIM) -> float:
    """KL over that of WHT with the norm, diffuse; kappa is one for isotropic queries."""
    return first_order_law(kind, bits, kappa, dim) / first_order_law("norm", bits, kappa, dim)


def constant_gain_ratio_law(bits: int, kappa: float, dim: int = DIM) -> float:
    """The same for the unbiased scale as if all tokens had one gain: an estimate that failed."""
    D = distortion(dim, bits)
    return kappa * D / (1 - D) / (D**2 + kappa * D * (1 - D))


def border_law(sketch: str, bits: int, dim: int = DIM) -> float:
    """The kappa below which QKQV has the lower KL, diffuse."""
    plain, sketched = (error_parts_law(kind, bits, dim) for kind in ("norm", sketch))
    gained = plain.bias + (plain.radial - sketched.radial) * (1 + DIFFUSE_SPREAD**2)
    return (1 + (dim - 1) * gained / (sketched.across - plain.across)) / dim


def crossing_rank_law(bits: int, sketch: str = "hadamard", dim: int = DIM) -> float:
    """Dimensions shared by keys and queries below which QKQV is ahead, by shared_kappa."""
    kappa = border_law(sketch, bits, dim)
    return kappa * (dim + 1) / (1 - kappa)
