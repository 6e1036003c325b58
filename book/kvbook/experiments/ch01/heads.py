"""KL of attention rows under several arms: one row worked through, then every captured head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvlib import attention_kl, attention_weights
from kvlib.data.captured import KVCache
from kvlib.data.heads import heads as heads_of
from kvlib.quantize import Quantizer, Scheme
from kvlib.stats import Interval, geometric_mean_interval

FloatArray = NDArray[np.float64]
Arm = Callable[[int], Scheme]
"""A scheme at a budget of n bits, such as ``partial(named, "KQV")``."""


@dataclass(frozen=True, eq=False)
class AttentionRow:
    """One attention row under several arms.

    Attributes
    ----------
    exact : ndarray, shape (tokens,)
        Attention weights of the query on the exact keys.
    quantized : mapping from arm to ndarray, shape (tokens,)
        The same on the keys restored from the first draw.
    kl : mapping from arm to ndarray, shape (draws,)
        KL of the row in nats; a single draw where the arm has no random part.
    nbytes : mapping from arm to int
        Bytes of the encoded keys and values.
    """

    exact: FloatArray
    quantized: Mapping[str, FloatArray]
    kl: Mapping[str, FloatArray]
    nbytes: Mapping[str, int]

    def share_below(self, arm: str, other: str) -> float:
        """Share of draws in which an arm has the lower KL, paired by draw."""
        return float(np.mean(self.kl[arm] < self.kl[other]))


def is_random(quantizer: Quantizer, dim: int) -> bool:
    """Whether what a quantizer restores of vectors of ``dim`` coordinates depends on its seed."""
    probe = np.random.default_rng(0).standard_normal((8, dim))
    return not np.array_equal(restored(quantizer, probe, 0), restored(quantizer, probe, 1))


def restored(quantizer: Quantizer, vectors: FloatArray, seed: int) -> FloatArray:
    """Vectors as they come back from the codes."""
    return np.asarray(quantizer.encode(vectors, seed=seed).decode(), dtype=np.float64)


def measure_row(
    arms: Mapping[str, Arm],
    query: FloatArray,
    keys: FloatArray,
    values: FloatArray,
    *,
    bits: int,
    draws: Sequence[int],
) -> AttentionRow:
    """The attention row of one query under each arm, for every draw of rotation and sketch.

    Parameters
    ----------
    arms : mapping from name to Arm
    query : ndarray, shape (1, d)
    keys, values : ndarray, shape (tokens, d)
    bits : int
        Budget n.
    draws : sequence of int
        Seeds, the same for every arm.
    """
    rows, kl, nbytes = {}, {}, {}
    for arm, at_budget in arms.items():
        scheme = at_budget(bits)
        used = draws if is_random(scheme.key, keys.shape[-1]) else draws[:1]
        k_hat = np.stack([restored(scheme.key, keys, seed) for seed in used])
        rows[arm] = attention_weights(query, k_hat[0])[0]
        kl[arm] = attention_kl(query, keys, k_hat)[:, 0]
        nbytes[arm] = scheme.encode(keys, values).nbytes
    return AttentionRow(attention_weights(query, keys)[0], rows, kl, nbytes)


class Ratio(NamedTuple):
    """KL of one arm over another: geometric mean over heads, and on how many it is above one."""

    interval: Interval
    worse_on: int


@dataclass(frozen=True, eq=False)
class HeadsKL:
    """Mean KL of attention rows, by arm, budget, rotation and head.

    Attributes
    ----------
    arms : tuple of str
    random : tuple of bool
        Whether the arm has a random part.
    bits : tuple of int
        Budgets.
    kl : mapping from cache to ndarray, shape (arms, bits, rotations, heads)
        In nats.
    """

    arms: tuple[str, ...]
    random: tuple[bool, ...]
    bits: tuple[int, ...]
    kl: Mapping[str, FloatArray]

    def per_head(self, cache: str | None = None) -> FloatArray:
        """Mean over rotations, shape (arms, bits, heads): of one cache, or of all joined."""
        tables = self.kl.values() if cache is None else [self.kl[cache]]
        return np.concatenate([table.mean(axis=2) for table in tables], axis=-1)

    def mean_of(self, cache: str, arm: str, bits: int) -> float:
        """Mean KL over rotations and heads of one cache."""
        return float(self.kl[cache][self.arms.index(arm), self.bits.index(bits)].mean())

    def by_rotation(self, cache: str, arm: str) -> FloatArray:
        """Mean over the heads of one cache, shape (bits, rotations)."""
        means: FloatArray = self.kl[cache][self.arms.index(arm)].mean(axis=-1)
        return means

    def ratio(self, arm: str, bits: int, *, over: str = "KQV", cache: str | None = None) -> Ratio:
        """KL of an arm over that of another on the same heads."""
        per_head, b = self.per_head(cache), self.bits.index(bits)
        ratios = per_head[self.arms.index(arm), b] / per_head[self.arms.index(over), b]
        return Ratio(geometric_mean_interval(ratios), int((np.log(ratios) > 0).sum()))

    def cases_below(self, arm: str, other: str, cache: str | None = None) -> int:
        """Pairs of head and budget in which an arm has the lower KL."""
        per_head = self.per_head(cache)
        return int((per_head[self.arms.index(arm)] < per_head[self.arms.index(other)]).sum())


def measure_heads(
    caches: Mapping[str, KVCache],
    arms: Mapping[str, Arm],
    *,
    bits: Sequence[int],
    rotations: int,
    rows: int,
    seed: np.random.SeedSequence,
) -> HeadsKL:
    """Mean KL of attention rows of every head, all arms on the same rotations and rows.

    Parameters
    ----------
    caches : mapping from name to KVCache
    arms : mapping from name to Arm
    bits : sequence of int
        Budgets n.
    rotations : int
        Draws of rotation and sketch a head; they take turns on the windows of the cache.
    rows : int
        The last rows of a window of a causal model, half as many, evenly spaced, of another.
    seed : SeedSequence
        Spawns one child a cache.
    """
    quantizers = {arm: [at_budget(n).key for n in bits] for arm, at_budget in arms.items()}
    dim = next(iter(caches.values())).dim
    random = tuple(is_random(of_arm[0], dim) for of_arm in quantizers.values())
    kl = {}
    for (name, cache), child in zip(caches.items(), seed.spawn(len(caches)), strict=True):
        count = len(cache.layers) * len(cache.heads)
        draws = child.generate_state(count * rotations).reshape(count, rotations)
        kl[name] = _kl_of_cache(cache, list(quantizers.values()), random, draws, rows)
    return HeadsKL(tuple(arms), random, tuple(bits), kl)


def _kl_of_cache(
    cache: KVCache,
    quantizers: Sequence[Sequence[Quantizer]],
    random: Sequence[bool],
    draws: NDArray[np.unsignedinteger[Any]],
    rows: int,
) -> FloatArray:
    """Mean KL of one cache, shape (arms, bits, rotations, heads); draws (heads, rotations)."""
    count, rotations = draws.shape
    table = np.empty((len(quantizers), len(quantizers[0]), rotations, count))
    of_cache = heads_of(cache, rows=rows if cache.causal else rows // 2)
    for h, head in enumerate(of_cache):
        windows = len(head.k)
        for r, draw in enumerate(draws[h].tolist()):
            w = r % windows
            for a, of_arm in enumerate(quantizers):
                if r >= windows and not random[a]:
                    table[a, :, r, h] = table[a, :, w, h]  # as in the first round
                    continue
                k_hat = np.stack([restored(quantizer, head.k[w], draw) for quantizer in of_arm])
                of_rows = attention_kl(head.q[w], head.k[w], k_hat, causal=head.causal)
                table[a, :, r, h] = of_rows.mean(axis=-1)
    return table


def quoted_numbers(measured: HeadsKL) -> dict[str, float]:
    """What the text quotes of the comparison of arms, by name; at n = 4 where no n is named."""
    quoted: dict[str, float] = {}
    sketched = {"gaussian": "QKQV, Gaussian", "orthogonal": "QKQV, orthogonal"}
    for kind, arm in sketched.items():
        for n in measured.bits:
            ratio = measured.ratio(arm, n)
            quoted |= _ends(f"ratio-{kind}-n{n}", ratio.interval)
            quoted[f"wins-{kind}-n{n}"] = ratio.worse_on
        for cache in measured.kl:
            ratio = measured.ratio(arm, 4, cache=cache)
            quoted[f"ratio-{kind}-n4-{cache}"] = ratio.interval.estimate
            quoted[f"wins-{kind}-n4-{cache}"] = ratio.worse_on
        quoted[f"exceptions-{kind}"] = measured.cases_below(arm, "KQV")
        saturated = measured.cases_below(arm, "KQV", "rope-lm-saturated")
        quoted[f"exceptions-{kind}-saturated"] = saturated
    heads = measured.per_head().shape[-1]
    rotation = measured.ratio("KQV", 4, over="KV")
    quoted |= _ends("kqv-over-kv-n4", rotation.interval)
    quoted["kqv-below-kv-n4"] = heads - rotation.worse_on
    by_matrix = measured.ratio("QKQV, Gaussian", 4, over="QKQV, orthogonal").interval.estimate
    whole = measured.ratio("QKQV, Gaussian", 4).interval.estimate
    quoted["gaussian-over-orthogonal-n4"] = by_matrix
    quoted["gaussian-share-n4"] = float(100 * np.log(by_matrix) / np.log(whole))
    quoted["heads"], quoted["pairs"] = heads, heads * len(measured.bits)
    quoted["smallest-head-1e5"] = float(1e5 * measured.per_head().min())
    return quoted


def _ends(name: str, interval: Interval) -> dict[str, float]:
    """An interval as three numbers."""
    return {name: interval.estimate, f"{name}-low": interval.low, f"{name}-high": interval.high}
