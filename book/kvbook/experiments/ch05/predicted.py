"""What is foretold of the KL of quantized keys: from codebooks, norms and attention rows (T14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kvbook.experiments.ch05.heads import Cell
from kvbook.experiments.ch05.keys import (
    ByFamily,
    ContextGrowth,
    FamilyDraw,
    Tails,
    by_scale,
    gathered,
    keys_and_queries,
)
from kvbook.experiments.ch05.rows import logits, norm_product, on_sphere
from kvbook.experiments.common import distortion
from kvlib import KVCache, laws
from kvlib.checks import FloatArray
from kvlib.data.heads import heads
from kvlib.measure import attention
from kvlib.quantize import codebooks


@lru_cache(maxsize=64)
def relative_error_law(arm: str, bits: int, dim: int) -> float:
    """Mean squared error of a key over its squared length: c D.

    ``arm`` is as in :func:`kvbook.experiments.common.key_quantizer`, the unbiased scale excepted.
    """
    if not arm.startswith("QKQV"):
        return distortion(dim, bits)
    orthogonal = arm.endswith("orthogonal")
    error = laws.orthogonal_sketch_error if orthogonal else laws.gaussian_sketch_error
    return error(dim) * distortion(dim, bits - 1)


class Gain(NamedTuple):
    """A quantizer's error along a key and across it.

    ``mean`` and ``variance`` of <k, k_hat> / |k|^2, and ``across``, the energy of the error
    orthogonal to k over |k|^2.
    """

    mean: float
    variance: float
    across: float


@lru_cache(maxsize=64)
def gain_law(arm: str, bits: int, dim: int) -> Gain:
    """The gain of a quantizer, from its codebook (T14)."""
    if arm == "KQV, unbiased":  # as KQV, divided by its gain
        mean, _, across = gain_law("KQV", bits, dim)
        return Gain(1.0, 0.0, across / mean**2)
    total = relative_error_law(arm, bits, dim)
    if arm == "KQV":
        variance = codebooks.radial_gain_variance(codebooks.lloyd_max(dim, bits))
        return Gain(1 - total, variance, total - total**2 - variance)
    residual = distortion(dim, bits - 1)
    orthogonal = arm.endswith("orthogonal")
    law = laws.orthogonal_sketch_variance if orthogonal else laws.sign_sketch_variance
    # The residual of a Lloyd-Max key has cosine sqrt(D) with the key.
    variance = residual * float(law(np.sqrt(residual), dim))
    return Gain(1.0, variance, total - variance)


@dataclass(frozen=True, eq=False)
class PredictedKL:
    """Three predictions of a KL, each with one term more, and the noise that they are for.

    Attributes
    ----------
    alone : ndarray
        From D, norms and attention rows: T11.
    shrunk : ndarray
        With the temperature that shrinkage amounts to.
    full : ndarray
        With the variance of the gain besides: T14.
    sigma2 : ndarray
        Variance of a logit's error, keys averaged by their weights.
    """

    alone: FloatArray
    shrunk: FloatArray
    full: FloatArray
    sigma2: FloatArray


def off_axis_share(q: FloatArray, k: FloatArray) -> FloatArray:
    """(|q|^2 |k|^2 / d - L^2) / (d - 1): what one unit of error across a key does to its logit L.

    ``q`` (..., queries, d) and ``k`` (..., tokens, d); the result is (..., queries, tokens).
    """
    dim = k.shape[-1]
    return np.asarray(np.maximum(norm_product(q, k) ** 2 / dim - logits(q, k) ** 2, 0) / (dim - 1))


def predicted_kl_law(
    gain: Gain, q: FloatArray, k: FloatArray, *, causal: bool = False
) -> PredictedKL:
    """What KL of each row a quantizer's gain foretells; fields of shape (..., queries)."""
    p, level, across = attention.attention_weights(q, k, causal=causal), logits(q, k), gain.across
    total = (1 - gain.mean) ** 2 + gain.variance + across
    off_axis = off_axis_share(q, k)
    sigma2 = laws.logit_variance(total, norm_product(q, k), 1.0, k.shape[-1])
    return PredictedKL(
        alone=laws.predicted_kl(p, level, sigma2),
        shrunk=laws.predicted_kl(
            p, level, off_axis * (total - (1 - gain.mean) ** 2), gain_mean=gain.mean
        ),
        full=laws.predicted_kl(
            p, level, off_axis * across, gain_mean=gain.mean, gain_variance=gain.variance
        ),
        sigma2=(p * sigma2).sum(axis=-1),
    )


def shares_of_kl_law(cache: KVCache, gain: Gain, *, rows: int) -> FloatArray:
    """Shares of a model's predicted KL: from shrinkage, the radial variance, and the rest.

    ``rows`` are the queries of a window that are taken; the shares sum to one.
    """
    total = np.zeros(3)
    for head in heads(cache, rows=rows):
        p = attention.attention_weights(head.q, head.k, causal=head.causal)
        level, zero = logits(head.q, head.k), np.zeros_like(p)
        across = off_axis_share(head.q, head.k) * gain.across
        alone = (
            laws.predicted_kl(p, level, zero, gain_mean=gain.mean),
            laws.predicted_kl(p, level, zero, gain_variance=gain.variance),
            laws.predicted_kl(p, level, across),
        )
        total += [x.mean() for x in alone]
    return np.asarray(total / total.sum())


def shrinkage_law(shrink: float, p: FloatArray, level: FloatArray) -> FloatArray:
    """KL of rows whose keys are multiplied by ``shrink`` and otherwise exact: a temperature.

    ``p`` and the logits ``level`` have shape (queries, tokens), the result (queries,).
    """
    return laws.predicted_kl(p, level, np.zeros_like(p), gain_mean=shrink)


def bridge_law(angle: FloatArray, scale: float) -> FloatArray:
    """T11 for keys on the sphere with the squared sine of the angle (over pi) as D."""
    k = on_sphere((256, 128), np.random.default_rng(0))
    q = on_sphere((64, 128), np.random.default_rng(1))
    S2 = attention.row_statistics(attention.attention_weights(scale * q, k)).S2
    return laws.small_noise_kl(scale**2 * np.sin(np.pi * angle) ** 2, S2.mean())


def heads_law(
    caches: Mapping[str, KVCache], cells: Sequence[Cell], *, rows: int
) -> dict[Cell, PredictedKL]:
    """What is foretold for :func:`measure_heads`, by cell; fields of shape (heads,)."""
    every = [head for cache in caches.values() for head in heads(cache, rows=rows)]
    found = {}
    for arm, bits in cells:
        of_heads = [
            predicted_kl_law(gain_law(arm, bits, head.dim), head.q, head.k, causal=head.causal)
            for head in every
        ]
        names = ("alone", "shrunk", "full", "sigma2")
        means = ([float(getattr(law, name).mean()) for law in of_heads] for name in names)
        found[arm, bits] = PredictedKL(*(np.array(x) for x in means))
    return found


def families_law(draws: Sequence[FamilyDraw], arms: Sequence[str], bits: int) -> ByFamily:
    """What is foretold, radial gain included, for :func:`measure_families` with these arms."""
    found = []
    for draw in draws:
        keys = keys_and_queries(draw.family, draw.dim, np.random.default_rng(draw.seed))
        gains = (gain_law(arm, bits, draw.dim) for arm in arms)
        found.append(
            np.array([by_scale(predicted_kl_law(gain, keys.q, keys.k).full) for gain in gains])
        )
    return gathered(draws, found)


def tails_law(tails: Tails, bits: int) -> FloatArray:
    """What KL is foretold for Lloyd-Max keys of each draw at every scale: (draws, scales)."""
    gain = gain_law("KQV", bits, tails.keys[0].k.shape[-1])
    return np.array([by_scale(predicted_kl_law(gain, keys.q, keys.k).full) for keys in tails.keys])


def context_law(growth: ContextGrowth, relative_error: float) -> FloatArray:
    """T11 for the KL of each length and spread, mean over queries and draws."""
    variance = relative_error * np.square(growth.spreads)[:, None]
    return np.asarray(laws.small_noise_kl(variance, growth.S2).mean(axis=-1).mean(axis=0))
