"""Errors that values share, in closed form, and the thresholds that follow."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.stats

from kvbook.experiments.ch08.storing import DIM
from kvlib import laws
from kvlib.quantize import codebooks


class Errors(NamedTuple):
    """E|e_i|^2 of one value and E<e_i, e_j> of two, A and B of the page, in units of E|v|^2."""

    single: float
    shared: float


def errors_law(way: str, bits: int, share: float, dim: int = DIM) -> Errors:
    """Closed forms of both errors for values with a share of their energy in a common mean.

    ``way`` is "plain", "unbiased", "orthogonal", "gaussian" or "centred plain".
    """
    fine, coarse = codebooks.lloyd_max(dim, bits), codebooks.lloyd_max(dim, bits - 1)
    D = fine.distortion
    if way == "centred plain":
        return Errors((1 - share) * D, 0.0)
    if way == "plain":
        return Errors(D, float(laws.common_mean_error(share, fine.levels, dim)))
    if way == "unbiased":
        rest = laws.common_mean_error(share, fine.levels, dim, rescale=1 / (1 - D))
        return Errors(laws.unbiased_distortion(D), float(rest))
    sketches = {
        "gaussian": laws.gaussian_sketch_error,
        "orthogonal": laws.orthogonal_sketch_error,
    }
    shared = laws.sketched_mean_error(share, coarse.levels, dim, way)
    return Errors(sketches[way](dim) * coarse.distortion, shared)


def threshold_law(bits: int, share: float, *, first: str = "plain", dim: int = DIM) -> float:
    """Effective tokens past which an orthogonal sketch beats ``first``; infinite if never."""
    pair = (errors_law(way, bits, share, dim) for way in (first, "orthogonal"))
    return laws.output_threshold(*pair)


def flat_mean_law(bits: int, share: float, dim: int = DIM) -> float:
    """Shared error if every rotated coordinate of the mean is ±sqrt(share / d): a squared bias."""
    book = codebooks.lloyd_max(dim, bits)
    edges = np.concatenate([[-np.inf], book.edges, [np.inf]]) * math.sqrt(dim)
    weights = np.diff(scipy.stats.norm.cdf(edges, math.sqrt(share), math.sqrt(1 - share)))
    return float((book.levels * math.sqrt(dim) @ weights - math.sqrt(share)) ** 2)


def shrinkage_share(bits: int, share: float, dim: int = DIM) -> float:
    """Part of the shared error of plain codes that is shrinkage, D^2 share."""
    distortion = codebooks.lloyd_max(dim, bits).distortion
    return share * distortion**2 / errors_law("plain", bits, share, dim).shared


def least_error_sketch_law(bits: int, share: float, dim: int = DIM) -> Errors:
    """Both errors of codes with an orthogonal sketch of least error, shrunk by 1 / (1 + c).

    Single: c / (1 + c) D(n - 1). Shared: the unbiased sketch's, shrunk, and what the shrinkage
    leaves of the codes' own.
    """
    c, coarse = laws.orthogonal_sketch_error(dim), codebooks.lloyd_max(dim, bits - 1)
    shrink = 1 / (1 + c)
    bare = float(laws.common_mean_error(share, coarse.levels, dim))
    unshrunk = errors_law("orthogonal", bits, share, dim).shared
    return Errors(c * shrink * coarse.distortion, shrink**2 * unshrunk + (1 - shrink) ** 2 * bare)
