"""What the KL of a cell should be: closed forms of first order, without and with the gain's spread.

``kind`` everywhere: ``"norm"`` and ``"unbiased"`` for all bits in the codebook with that scale,
``"gaussian"`` and ``"hadamard"`` for one bit of QJL with that sketch and the norm.
"""

from __future__ import annotations

import math

import numpy as np

from kvbook.experiments.common import distortion
from kvlib import laws
from kvlib.quantize import codebooks

DIM = 128


def sketch_constant(sketch: str, dim: int = DIM) -> float:
    """Relative squared error of the unbiased sketch of a residual, c."""
    if sketch == "gaussian":
        return laws.gaussian_sketch_error(dim)
    return laws.orthogonal_sketch_error(dim)


def first_order_law(kind: str, bits: int, kappa: float, dim: int = DIM) -> float:
    """KL over half the variance of the logits, eq-schemes-first: the gain is one constant."""
    D = distortion(dim, bits)
    if kind == "norm":
        return D**2 + kappa * D * (1 - D)
    if kind == "unbiased":
        return kappa * D / (1 - D)
    return kappa * sketch_constant(kind, dim) * distortion(dim, bits - 1)


def first_order_ratio_law(kind: str, bits: int, kappa: float = 1.0, dim: int = DIM) -> float:
    """KL over that of WHT with the norm, to first order; kappa is one for isotropic queries."""
    return first_order_law(kind, bits, kappa, dim) / first_order_law("norm", bits, kappa, dim)


def border_law(sketch: str, bits: int, dim: int = DIM) -> float:
    """The kappa below which QKQV has the lower KL, to first order."""
    D, coarse = distortion(dim, bits), distortion(dim, bits - 1)
    return D**2 / (sketch_constant(sketch, dim) * coarse - D * (1 - D))


def gain_variance_law(bits: int, dim: int = DIM) -> float:
    """Variance over tokens of the gain ``<x, x_hat> / |x|^2`` under WHT with the norm.

    For unit x the gain is a sum of u Q(u) over the coordinates. Given that the sum of u^2 is one,
    its variance is that of independent coordinates less what the sum of squares explains.
    """
    z = np.linspace(-8, 8, 40001)
    w = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    book = codebooks.lloyd_max(dim, bits)
    y = z * math.sqrt(dim) * book.dequantize(book.quantize(z / math.sqrt(dim)))
    centred, square = y - w @ y, z**2 - 1
    explained = (w @ (centred * square)) ** 2 / (w @ square**2)
    return float((w @ centred**2 - explained) / dim)


def second_order_law(kind: str, bits: int, rank: float, dim: int = DIM) -> float:
    """The same where keys and queries share ``rank`` dimensions, eq-schemes-gain.

    With the spread of the gain over tokens, and noise orthogonal to the key only.
    """
    D, across = distortion(dim, bits), rank / dim * (1 - 1 / rank)
    if kind == "norm":
        return D**2 + gain_variance_law(bits, dim) + across * D * (1 - D)
    if kind == "unbiased":
        return across * D / (1 - D)
    return rank / dim * sketch_constant(kind, dim) * distortion(dim, bits - 1)


def second_order_ratio_law(kind: str, bits: int, rank: float, dim: int = DIM) -> float:
    """KL over that of WHT with the norm, by the corrected formula."""
    return second_order_law(kind, bits, rank, dim) / second_order_law("norm", bits, rank, dim)


def crossing_rank_law(bits: int) -> float:
    """Rank below which QKQV with an orthogonal sketch is ahead, by the corrected formula."""
    ranks = np.geomspace(1.5, DIM, 2000)
    ahead = [second_order_ratio_law("hadamard", bits, float(rank)) < 1 for rank in ranks]
    return float(ranks[np.argmin(ahead)]) if ahead[0] else 0.0
