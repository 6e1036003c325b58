"""One bit a coordinate: under a sketch no codebook is left.

The signs of a rotated key are the one-bit code, and they are the orthogonal sketch of the whole key
as well. What differs is the number stored beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kvbook.experiments.ch10 import codes
from kvbook.experiments.ch10.codes import (
    CODES,
    MATCHED,
    NORM,
    QJL,
    QJL_GAUSSIAN,
    UNBIASED,
)
from kvbook.experiments.ch10.subjects import draw_queries, unit_spread
from kvbook.experiments.common import children
from kvlib.checks import FloatArray
from kvlib.data import synthetic
from kvlib.quantize import codebooks
from kvlib.stats import Interval, geometric_mean_interval

ISOTROPIC = "isotropic"
RANKS = {f"rank {rank}, queries along the keys": rank for rank in (32, 4)}
"""Ranks of the subspace that keys and queries share."""


class OneBitLaw(NamedTuple):
    """Error of a one-bit key: squared mean and variance of its part along the key, the rest."""

    bias: float
    variance: float
    across: float

    @property
    def total(self) -> float:
        """Relative squared error."""
        return self.bias + self.variance + self.across


def one_bit_law(dim: int, code: str) -> OneBitLaw:
    """Error of a one-bit code of a uniformly random direction.

    The one code has gain g of mean 1 - D and variance v, and energy 1 - D, whose rest of
    D - D^2 - v lies across the key; each scale multiplies all of it. A Gaussian sketch is
    unbiased, and its signs of d independent rows give it variance along the key, too.
    """
    if code == QJL_GAUSSIAN:
        return OneBitLaw(0.0, (math.pi / 2 - 1) / dim, (math.pi / 2) * (1 - 1 / dim))
    book = codebooks.lloyd_max(dim, 1)
    D, v = book.distortion, codebooks.radial_gain_variance(book)
    across = D - D**2 - v
    if code == UNBIASED:
        return OneBitLaw(0.0, 0.0, across / (1 - D) ** 2)
    stretch = {NORM: 1.0, MATCHED: 1 / math.sqrt(1 - D), QJL: 1 / (1 - D)}[code]
    return OneBitLaw((1 - stretch * (1 - D)) ** 2, stretch**2 * v, stretch**2 * across)


def one_bit_kl_law(dim: int, code: str, rank: int | None = None) -> float:
    """KL of a code over that of the norm to first order, where logits have unit spread.

    ``rank``: of the subspace that keys and queries share; None for isotropic ones.
    """

    def cost(name: str) -> float:
        error = one_bit_law(dim, name)
        share = 1.0 if rank is None else rank / dim * (1 - 1 / rank)
        return error.bias + 2 * error.variance + share * error.across

    return cost(code) / cost(NORM)


def _draw(
    rank: int | None, dim: int, tokens: int, queries: int, seed: np.random.SeedSequence
) -> tuple[FloatArray, FloatArray, int]:
    """Queries, keys and the seed of a rotation."""
    rng = np.random.default_rng(seed)
    if rank is None:
        k = synthetic.draw(synthetic.GAUSSIAN, tokens, dim, rng=rng)
        q = draw_queries(k, queries, rng)
    else:
        both = synthetic.draw(synthetic.low_rank(rank), tokens + queries, dim, rng=rng)
        k, q = both[:tokens], unit_spread(both[tokens:], both[:tokens])
    return q.astype(np.float32), k.astype(np.float32), int(rng.integers(2**31))


def measure_one_bit(
    *,
    dim: int,
    tokens: int,
    queries: int,
    draws: int,
    seed: np.random.SeedSequence,
    spread: float = 1.0,
) -> dict[str, FloatArray]:
    """KL and squared error of every code at one bit: shape (draw, 2, code), by kind of keys.

    ``spread`` is the standard deviation of the logits.
    """
    kinds: dict[str, int | None] = {ISOTROPIC: None, **RANKS}
    found = {}
    for (name, rank), child in zip(kinds.items(), children(seed, len(kinds)), strict=True):
        each = []
        for one in children(child, draws):
            q, k, state = _draw(rank, dim, tokens, queries, one)
            each.append(codes.measure_codes(np.float32(spread) * q, k, 1, seed=state))
        found[name] = np.array(each)
    return found


def over_norm(errors: FloatArray, what: str = "KL") -> dict[str, Interval]:
    """Error of every code over that of the norm, paired, over the first axis."""
    of_code = errors[:, codes.WHAT.index(what)]
    ratios = of_code / of_code[:, [CODES.index(NORM)]]
    return {c: geometric_mean_interval(r) for c, r in zip(CODES, ratios.T, strict=True)}


def kl_ratio(errors: FloatArray, code: str, over: str) -> Interval:
    """KL of one code over that of another, paired."""
    upper, lower = (errors[:, 0, CODES.index(name)] for name in (code, over))
    return geometric_mean_interval(upper / lower)


def one_bit_numbers(
    found: Mapping[str, FloatArray], names: Sequence[str] = (ISOTROPIC, *RANKS)
) -> dict[str, float]:
    """What the text says of one bit: KL over that of the norm, by kind of keys and code."""
    short = {MATCHED: "matched", UNBIASED: "unbiased", QJL: "qjl", QJL_GAUSSIAN: "gaussian"}
    words = ("isotropic", "rank-32", "rank-4")
    return {
        f"one-bit-{word}-{short[code]}": i.estimate
        for name, word in zip(names, words, strict=True)
        for code, i in over_norm(found[name]).items()
        if code in short
    }
