"""Quantized keys drawn from a law: errors of logits, what cancels, families, context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kvbook.experiments.ch05.rows import logits, on_sphere
from kvbook.experiments.common import children
from kvlib import attention_kl, attention_weights
from kvlib.checks import FloatArray
from kvlib.data import synthetic
from kvlib.data.synthetic import Family
from kvlib.measure import attention, metrics
from kvlib.quantize import RotatedQuantizer

FAMILIES = (
    synthetic.GAUSSIAN,
    synthetic.student_t(3),
    synthetic.low_rank(4),
    synthetic.common_mean(0.5),
)
SCALES = (0.5, 1, 2, 4)
"""Standard deviations of the logits, from diffuse to sharp."""


@dataclass(frozen=True, eq=False)
class LogitErrors:
    """Errors of quantized keys as queries see them, one entry a draw.

    Attributes
    ----------
    variance : dict of str to ndarray, shape (draws,)
        Mean square of the logits' errors, by arm.
    kl : dict of str to ndarray, shape (draws,)
        Mean KL over queries, by arm.
    S2 : ndarray, shape (draws, queries)
        Of the exact rows.
    """

    variance: dict[str, FloatArray]
    kl: dict[str, FloatArray]
    S2: FloatArray


def measure_logit_errors(
    quantizers: Mapping[str, RotatedQuantizer],
    seed: np.random.SeedSequence,
    *,
    draws: int = 48,
    tokens: int = 512,
    queries: int = 64,
    dim: int = 128,
) -> LogitErrors:
    """Quantize keys of length sqrt(d) and read them with queries of that length."""
    variance, kl = np.empty((2, len(quantizers), draws))
    S2 = np.empty((draws, queries))
    for i, child in enumerate(children(seed, draws)):
        rng = np.random.default_rng(child)
        k, q = on_sphere((tokens, dim), rng), on_sphere((queries, dim), rng)
        S2[i] = attention.row_statistics(attention_weights(q, k)).S2
        for a, quantizer in enumerate(quantizers.values()):
            k_hat = quantizer.encode(k, seed=int(rng.integers(2**31))).decode()
            variance[a, i] = np.mean(((k_hat - k) @ q.T / np.sqrt(dim)) ** 2)
            kl[a, i] = attention_kl(q, k, k_hat).mean()
    of_arm = [dict(zip(quantizers, x, strict=True)) for x in (variance, kl)]
    return LogitErrors(variance=of_arm[0], kl=of_arm[1], S2=S2)


@dataclass(frozen=True, eq=False)
class CommonError:
    """KL of each query, shape (queries,): keys quantized, and with an error added to them.

    Attributes
    ----------
    kl, kl_common, kl_half : ndarray
        Nothing added; the same vector added to every key, and to every second key.
    size : float
        Length of that vector, in lengths of a key.
    """

    kl: FloatArray
    kl_common: FloatArray
    kl_half: FloatArray
    size: float


@dataclass(frozen=True, eq=False)
class Keys:
    """Keys (tokens, d) on the sphere and queries (queries, d) that read them."""

    k: FloatArray
    q: FloatArray


def draw_keys(rng: np.random.Generator, *, tokens: int, queries: int, dim: int = 128) -> Keys:
    """Keys and queries of squared length d."""
    return Keys(k=on_sphere((tokens, dim), rng), q=on_sphere((queries, dim), rng))


def measure_common_error(
    keys: Keys, quantizer: RotatedQuantizer, rng: np.random.Generator, *, size: float = 0.3
) -> CommonError:
    """Add one Gaussian vector to all keys or to every second one, at logits of spread four."""
    k, q = keys.k, 4 * keys.q
    noisy = quantizer.encode(k, seed=1).decode()
    common = size * rng.standard_normal(k.shape[-1])
    half = np.where(np.arange(len(k))[:, None] % 2 == 0, common, 0.0)
    kl, kl_common, kl_half = (
        attention_kl(q, k, k_hat) for k_hat in (noisy, noisy + common, noisy + half)
    )
    length = float(np.linalg.norm(common) / np.sqrt(k.shape[-1]))
    return CommonError(kl, kl_common, kl_half, length)


@dataclass(frozen=True, eq=False)
class Shrinkage:
    """Keys multiplied by a number and otherwise exact.

    Attributes
    ----------
    bits : int
        Whose Lloyd-Max code shrinks a key so much.
    scale, shrink : float
        Of the logits, and the factor.
    kl : ndarray, shape (queries,)
    p, logits : ndarray, shape (queries, tokens)
        Exact rows.
    """

    bits: int
    scale: float
    shrink: float
    kl: FloatArray
    p: FloatArray
    logits: FloatArray


def measure_shrinkage(
    keys: Keys, shrinks: Mapping[int, float], *, scales: Sequence[float] = (1, 2, 4)
) -> list[Shrinkage]:
    """KL of shrunk keys, for the factor of each number of bits and each scale of the logits."""
    found = []
    for bits, shrink in shrinks.items():
        for scale in scales:
            q = scale * keys.q
            kl = attention_kl(q, keys.k, shrink * keys.k)
            p, level = attention_weights(q, keys.k), logits(q, keys.k)
            found.append(Shrinkage(bits, scale, shrink, kl, p, level))
    return found


def by_scale(per_query: FloatArray) -> FloatArray:
    """Mean over the queries of each logit scale: the last axis becomes one of scales."""
    shape = (*per_query.shape[:-1], len(SCALES), -1)
    return np.asarray(per_query.reshape(shape).mean(axis=-1))


def keys_and_queries(family: Family, dim: int, rng: np.random.Generator) -> Keys:
    """256 keys of mean square one; 16 Gaussian queries at every logit scale."""
    k = synthetic.draw(family, 256, dim, rng=rng)
    base = rng.standard_normal((16, dim))
    return Keys(k / np.sqrt(np.mean(k**2)), np.concatenate([scale * base for scale in SCALES]))


@dataclass(frozen=True)
class FamilyDraw:
    """One draw of a family: its label, d, and the seed of keys, queries and quantizers."""

    family: Family
    dim: int
    seed: np.random.SeedSequence


def family_draws(
    families: Sequence[Family], dims: Sequence[int], seed: np.random.SeedSequence, draws: int
) -> list[FamilyDraw]:
    """So many draws of every family in every dimension."""
    found = []
    for family, child in zip(families, children(seed, len(families)), strict=True):
        for dim, of_dim in zip(dims, children(child, len(dims)), strict=True):
            found += [FamilyDraw(family, dim, s) for s in children(of_dim, draws)]
    return found


ByFamily = dict[tuple[str, int], FloatArray]
"""(label of the family, d) to an array of axes (draw, arm, scale)."""


def gathered(draws: Sequence[FamilyDraw], kl: Sequence[FloatArray]) -> ByFamily:
    """Results of draws, by family and dimension."""
    found: dict[tuple[str, int], list[FloatArray]] = {}
    for draw, of_draw in zip(draws, kl, strict=True):
        found.setdefault((draw.family.label, draw.dim), []).append(of_draw)
    return {key: np.array(x) for key, x in found.items()}


def measure_families(
    draws: Sequence[FamilyDraw], quantizers: Mapping[str, RotatedQuantizer]
) -> ByFamily:
    """Mean KL of each arm at each scale, by family and dimension."""
    found = []
    for draw in draws:
        rng = np.random.default_rng(draw.seed)
        keys = keys_and_queries(draw.family, draw.dim, rng)
        seed = int(rng.integers(2**31))
        hats = (x.encode(keys.k, seed=seed).decode() for x in quantizers.values())
        found.append(np.array([by_scale(attention_kl(keys.q, keys.k, k_hat)) for k_hat in hats]))
    return gathered(draws, found)


@dataclass(frozen=True, eq=False)
class Tails:
    """Student t keys, one entry a draw.

    Attributes
    ----------
    mse : ndarray, shape (draws,)
        Relative squared error of the keys.
    kl : ndarray, shape (draws, scales)
    keys : list of Keys
        What the prediction needs.
    """

    mse: FloatArray
    kl: FloatArray
    keys: list[Keys]


def measure_tails(
    quantizer: RotatedQuantizer, seed: np.random.SeedSequence, *, draws: int = 24, dim: int = 128
) -> Tails:
    """Error and KL of Student t keys; the same seed gives every quantizer the same keys."""
    mse, kl, kept = [], [], []
    for child in children(seed, draws):
        rng = np.random.default_rng(child)
        keys = keys_and_queries(synthetic.student_t(3), dim, rng)
        k_hat = quantizer.encode(keys.k, seed=int(rng.integers(2**31))).decode()
        mse.append(float(metrics.aggregate_relative_mse(keys.k, k_hat)))
        kl.append(by_scale(attention_kl(keys.q, keys.k, k_hat)))
        kept.append(keys)
    return Tails(np.array(mse), np.array(kl), kept)


@dataclass(frozen=True, eq=False)
class ContextGrowth:
    """KL by number of keys, queries of several spreads of the logits.

    Attributes
    ----------
    lengths : tuple of int
    spreads : tuple of float
    kl : ndarray, shape (draws, lengths, spreads)
        Mean over queries.
    S2 : ndarray, shape (draws, lengths, spreads, queries)
        Of the exact rows.
    """

    lengths: tuple[int, ...]
    spreads: tuple[float, ...]
    kl: FloatArray
    S2: FloatArray


def measure_context(
    quantizer: RotatedQuantizer,
    seed: np.random.SeedSequence,
    *,
    lengths: Sequence[int],
    spreads: Sequence[float],
    draws: int = 6,
    queries: int = 16,
) -> ContextGrowth:
    """KL of the same queries over the first N of the same keys, for every N."""
    kl, S2 = [], []
    for child in children(seed, draws):
        rng = np.random.default_rng(child)
        keys = draw_keys(rng, tokens=max(lengths), queries=queries)
        k_hat = quantizer.encode(keys.k, seed=int(rng.integers(2**31))).decode()
        q = np.concatenate([spread * keys.q for spread in spreads])
        kl.append([attention_kl(q, keys.k[:n], k_hat[:n]) for n in lengths])
        rows = (attention_weights(q, keys.k[:n]) for n in lengths)
        S2.append([attention.row_statistics(p).S2 for p in rows])
    shape = (draws, len(lengths), len(spreads), queries)
    of_queries = np.array(kl).reshape(shape)
    return ContextGrowth(
        tuple(lengths), tuple(spreads), of_queries.mean(axis=-1), np.array(S2).reshape(shape)
    )
