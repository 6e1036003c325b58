"""How to split bits between keys and values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.random import SeedSequence
from numpy.typing import NDArray

from kvbook.experiments.ch08.storing import DIM, FloatArray, Vectors, Way, stored
from kvlib.data.captured import KVCache
from kvlib.data.heads import with_windows
from kvlib.measure import attention


@dataclass(frozen=True)
class SplitErrors:
    """Relative output errors with n_K and n_V bits, and the two first-order terms.

    Attributes
    ----------
    bits : tuple of int
        Budgets of both axes.
    errors : ndarray, shape (..., budgets + 1, budgets + 1)
        By n_K and n_V; the last entry of each axis is exact keys, or exact values.
    key_term, value_term : ndarray, shape (...)
        Factors a and b of D(n_K) and D(n_V).
    """

    bits: tuple[int, ...]
    errors: FloatArray
    key_term: FloatArray
    value_term: FloatArray

    def predicted_difference(self) -> FloatArray:
        """Best n_K - n_V to first order, from keys and values as they are."""
        return np.asarray(np.log(self.key_term / self.value_term) / math.log(4))

    def measured_difference(self, bits: int = 4) -> FloatArray:
        """The same from the errors of keys alone and of values alone at a budget."""
        at = self.bits.index(bits)
        ratio = self.errors[..., at, -1] / self.errors[..., -1, at]
        return np.asarray(np.log(ratio) / math.log(4))

    def of_sum(self, total: int) -> FloatArray:
        """Errors of the splits of a sum of bits, by rising n_K: shape (splits, ...)."""
        pairs = [(k, total - k) for k in self.bits if total - k in self.bits]
        places = [(self.bits.index(k), self.bits.index(v)) for k, v in pairs]
        return np.stack([self.errors[..., i, j] for i, j in places])

    def even_over_best(self, total: int = 8) -> FloatArray:
        """Error of the even split over that of the best one."""
        at = self.bits.index(total // 2)
        return np.asarray(self.errors[..., at, at] / self.of_sum(total).min(axis=0))

    def odd_bit_for_keys(self, total: int) -> NDArray[np.bool_]:
        """Of an odd sum, whether the odd bit does more on the keys than on the values."""
        low = self.bits.index(total // 2)
        return np.asarray(self.errors[..., low + 1, low] < self.errors[..., low, low + 1])


def split_errors(
    q: Vectors,
    k: Vectors,
    v: Vectors,
    way: Way,
    bits: Sequence[int],
    *,
    causal: bool,
    seeds: Iterable[int],
) -> SplitErrors:
    """Output errors of every pair of budgets, averaged over seeds; leading axes are kept."""
    p = attention.attention_weights(q, k, causal=causal).astype(np.float32)
    out, budgets, drawn = p @ v, tuple(bits), [int(s) for s in seeds]
    signal = np.square(out).sum(axis=(-2, -1))
    errors = np.zeros((*signal.shape, len(budgets) + 1, len(budgets) + 1))
    for seed in drawn:
        keys = [*(stored(k, way(n), seed) for n in budgets), k]
        values = [*(stored(v, way(n), seed + 1) for n in budgets), v]
        for i, k_hat in enumerate(keys):
            p_hat = attention.attention_weights(q, k_hat, causal=causal).astype(np.float32)
            for j, v_hat in enumerate(values):
                error = np.square(p_hat @ v_hat - out).sum(axis=(-2, -1))
                errors[..., i, j] += error / signal / len(drawn)
    energy = np.square(v).sum(axis=-1)[..., None, :]
    value_term = (p * p * energy).sum(axis=(-2, -1)) / signal
    key_term = key_error_summands(p, q, k, v).sum(axis=(-2, -1)) / signal
    return SplitErrors(budgets, errors, key_term, value_term)


def key_error_summands(p: Vectors, q: Vectors, k: Vectors, v: Vectors) -> Vectors:
    """p_i^2 |q|^2 |k_i|^2 |v_i - T|^2 / d^2 of every query and token."""
    out = p @ v
    energy = np.square(v).sum(axis=-1)[..., None, :]
    away = energy - 2 * out @ v.swapaxes(-1, -2) + np.square(out).sum(axis=-1)[..., None]
    noise = np.square(q).sum(axis=-1)[..., None] * np.square(k).sum(axis=-1)[..., None, :]
    return np.asarray(p * p * noise * away / k.shape[-1] ** 2)


def measure_split(
    way: Way,
    bits: Sequence[int],
    *,
    spreads: Sequence[float],
    draws: int,
    seeds: Sequence[SeedSequence],
    tokens: int = 256,
    queries: int = 64,
    dim: int = DIM,
) -> dict[float, SplitErrors]:
    """Output errors of every split on Gaussian caches, by spread of the logits: axis of draws."""
    found = {}
    for spread, child in zip(spreads, seeds, strict=True):
        rng, drawn = np.random.default_rng(child), []
        for state in child.generate_state(draws):
            k, v = (rng.standard_normal((tokens, dim), dtype=np.float32) for _ in range(2))
            q = spread * rng.standard_normal((queries, dim), dtype=np.float32)
            drawn.append(split_errors(q, k, v, way, bits, causal=False, seeds=[state]))
        found[spread] = SplitErrors(
            tuple(bits),
            *(np.array([getattr(x, name) for x in drawn]) for name in _SPLIT_ARRAYS),
        )
    return found


_SPLIT_ARRAYS = ("errors", "key_term", "value_term")


def measure_split_on_heads(
    caches: Mapping[str, KVCache],
    way: Way,
    bits: Sequence[int],
    *,
    draws: int,
    seeds: Sequence[SeedSequence],
) -> dict[str, SplitErrors]:
    """Output errors of every split on captured heads, by model: axis of heads, windows averaged.

    Causal caches use the last 64 queries of a window, others every eighth.
    """
    found = {}
    for (model, cache), child in zip(caches.items(), seeds, strict=True):
        q, k, v = with_windows(cache)
        q = q[..., -64:, :] if cache.causal else q[..., ::8, :]
        states = child.generate_state(draws)
        errors = split_errors(q, k, v, way, bits, causal=cache.causal, seeds=states)
        by_head = (getattr(errors, name).mean(axis=2) for name in _SPLIT_ARRAYS)
        heads = math.prod(q.shape[:2])
        found[model] = SplitErrors(tuple(bits), *(x.reshape(heads, *x.shape[2:]) for x in by_head))
    return found


def all_heads(by_model: Mapping[str, SplitErrors]) -> SplitErrors:
    """The heads of all models in a row."""
    found = tuple(by_model.values())
    arrays = (np.concatenate([getattr(x, name) for x in found]) for name in _SPLIT_ARRAYS)
    return SplitErrors(found[0].bits, *arrays)


def split_numbers(errors: SplitErrors, norm_ratios: FloatArray) -> dict[str, float]:
    """What the text says about the best split of heads, by the names it uses.

    ``norm_ratios`` are those of :func:`key_over_value_norm`, head by head.
    """
    even, best = errors.even_over_best(8), errors.measured_difference()
    by_norm = scipy.stats.spearmanr(norm_ratios, best)
    return {
        "even-best": float((even == 1).sum()),
        "even-cost": float(even.max()),
        "split-rank": float(scipy.stats.spearmanr(errors.predicted_difference(), best).statistic),
        "norm-rank": float(by_norm.statistic),
        "norm-p": float(by_norm.pvalue),
        "norm-least": float(norm_ratios.min()),
        "norm-most": float(norm_ratios.max()),
        "more-for-values": float((best < 0).sum()),
        "within-a-bit": float((np.abs(best) < 1).sum()),
        "odd-for-keys": float(errors.odd_bit_for_keys(7).sum()),
    }


def change_with_longer_values(
    cache: KVCache, way: Way, bits: Sequence[int], factor: float
) -> float:
    """Largest relative change of an output error when all values are so many times as long."""
    q, k, v = with_windows(cache)
    q = q[..., -64:, :] if cache.causal else q[..., ::8, :]
    longer, as_is = (
        split_errors(q, k, x, way, bits, causal=False, seeds=[0]).errors[0][..., :-1, :-1]
        for x in (factor * v, v)
    )
    return float(np.abs(longer / as_is - 1).max())


def key_over_value_norm(cache: KVCache) -> FloatArray:
    """Mean length of a head's keys over that of its values, shape (heads,)."""
    _, k, v = with_windows(cache)
    keys, values = (np.linalg.norm(x, axis=-1).mean(axis=(-2, -1)).ravel() for x in (k, v))
    return np.asarray(keys / values)
