"""KL of attention rows under several arms: one row worked through, then every captured head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.arms import Arm, measure_captured
from kvlib import attention_kl, attention_weights
from kvlib.quantize import Quantizer
from kvlib.stats import Interval, geometric_mean_interval, mean_interval

FloatArray = NDArray[np.float64]


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
    """KL of one arm over another on the same heads.

    Attributes
    ----------
    interval : Interval
        Geometric mean, over models or over rotations, as the method that made it says.
    spread : tuple of float
        16th and 84th percentile of the heads.
    worse_on : int
        On how many heads it is above one.
    """

    interval: Interval
    spread: tuple[float, float]
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

    def head_ratios(
        self, arm: str, bits: int, *, over: str = "KQV", cache: str | None = None
    ) -> FloatArray:
        """KL of an arm over that of another, each averaged over rotations; shape (heads,)."""
        per_head, b = self.per_head(cache), self.bits.index(bits)
        found: FloatArray = per_head[self.arms.index(arm), b] / per_head[self.arms.index(over), b]
        return found

    def ratio(self, arm: str, bits: int, *, over: str = "KQV") -> Ratio:
        """Geometric mean of the models' geometric means over heads; interval over models.

        Heads of one model are no independent samples: the model is the unit, with as many
        degrees of freedom as there are models but one.
        """
        by_model = [
            np.exp(np.log(self.head_ratios(arm, bits, over=over, cache=cache)).mean())
            for cache in self.kl
        ]
        heads = self.head_ratios(arm, bits, over=over)
        return Ratio(geometric_mean_interval(by_model), _spread(heads), int((heads > 1).sum()))

    def ratio_in(self, cache: str, arm: str, bits: int, *, over: str = "KQV") -> Ratio:
        """Geometric mean over the heads of one cache; interval over rotations, for these heads."""
        b = self.bits.index(bits)
        kl, base = (self.kl[cache][self.arms.index(name), b] for name in (arm, over))
        interval = _over_rotations(kl, base)
        heads = self.head_ratios(arm, bits, over=over, cache=cache)
        return Ratio(interval, _spread(heads), int((heads > 1).sum()))

    def cases_below(self, arm: str, other: str, cache: str | None = None) -> int:
        """Pairs of head and budget in which an arm has the lower KL."""
        per_head = self.per_head(cache)
        return int((per_head[self.arms.index(arm)] < per_head[self.arms.index(other)]).sum())


def _spread(ratios: FloatArray) -> tuple[float, float]:
    """16th and 84th percentile."""
    low, high = np.percentile(ratios, (16, 84)).tolist()
    return low, high


def _over_rotations(kl: FloatArray, base: FloatArray) -> Interval:
    """Geometric mean over heads of the ratio of mean KLs, both (rotations, heads).

    The interval is a jackknife over rotations, left out one by one.
    """

    def log_ratio(kept: Any) -> float:
        return float(np.log(kl[kept].mean(axis=0) / base[kept].mean(axis=0)).mean())

    count = len(kl)
    whole = log_ratio(slice(None))
    left_out = [log_ratio(np.arange(count) != r) for r in range(count)]
    half = mean_interval(count * whole - (count - 1) * np.array(left_out)).half_width
    low, estimate, high = np.exp([whole - half, whole, whole + half]).tolist()
    return Interval(estimate, low, high, count)


def measure_heads(
    caches: Mapping[str, Path],
    arms: Mapping[str, Arm],
    *,
    bits: Sequence[int],
    rotations: int,
    rows: int,
    seed: int,
) -> HeadsKL:
    """Mean KL of attention rows of every head, all arms on the same rotations and rows.

    Parameters
    ----------
    caches : mapping from name to path
    arms : mapping from name to Arm
    bits : sequence of int
        Budgets n.
    rotations, rows : int
        As for :func:`kvbook.experiments.arms.measure_captured`.
    seed : int
    """
    table = measure_captured(
        arms, caches, bits=bits, rotations=rotations, rows=rows, metrics=("kl_mean",), seed=seed
    )
    dim = int(table["dim"].iloc[0])
    random = tuple(is_random(arm(bits[0]).key, dim) for arm in arms.values())
    kl = {}
    for cache in caches:
        rows_of = table[table.cache == cache]
        # Heads in the order of the cache, (arms, bits, rotations, heads).
        index = ["arm", "bits", "repetition", "layer", "head"]
        sizes = (len(arms), len(bits), rotations, -1)
        order = {arm: place for place, arm in enumerate(arms)}
        ordered = rows_of.assign(arm=rows_of.arm.map(order)).sort_values(index)
        kl[cache] = ordered.kl_mean.to_numpy().reshape(sizes)
    return HeadsKL(tuple(arms), random, tuple(bits), kl)


CAUSAL = "rope-lm"
"""The cache of an ordinary causal language model: the one kind here that keeps a KV cache."""
SKETCHED = {"gaussian": "QKQV, Gaussian", "orthogonal": "QKQV, orthogonal"}


def quoted_numbers(measured: HeadsKL) -> dict[str, float]:
    """What the text quotes of the comparison of arms, by name; at n = 4 where no n is named.

    Names that end in "-causal" are of the heads of the causal language model alone.
    """
    quoted: dict[str, float] = {}
    for kind, arm in SKETCHED.items():
        for n in measured.bits:
            quoted |= _quoted_ratio(f"{kind}-n{n}", measured, arm, n)
        for cache in measured.kl:
            ratio = measured.ratio_in(cache, arm, 4)
            quoted[f"ratio-{kind}-n4-{cache}"] = ratio.interval.estimate
            quoted[f"wins-{kind}-n4-{cache}"] = ratio.worse_on
        quoted[f"exceptions-{kind}"] = measured.cases_below(arm, "KQV")
        saturated = measured.cases_below(arm, "KQV", "rope-lm-saturated")
        quoted[f"exceptions-{kind}-saturated"] = saturated
        quoted[f"exceptions-{kind}-causal"] = measured.cases_below(arm, "KQV", CAUSAL)
    heads = measured.per_head().shape[-1]
    rotation = measured.ratio("KQV", 4, over="KV")
    quoted |= _ends("kqv-over-kv-n4", rotation.interval)
    quoted["kqv-below-kv-n4"] = heads - rotation.worse_on
    causal = measured.ratio_in(CAUSAL, "KQV", 4, over="KV")
    quoted |= _ends("kqv-over-kv-n4-causal", causal.interval)
    by_matrix = measured.ratio("QKQV, Gaussian", 4, over="QKQV, orthogonal").interval.estimate
    whole = measured.ratio("QKQV, Gaussian", 4).interval.estimate
    quoted["gaussian-over-orthogonal-n4"] = by_matrix
    quoted["gaussian-share-n4"] = float(100 * np.log(by_matrix) / np.log(whole))
    quoted["heads"], quoted["pairs"] = heads, heads * len(measured.bits)
    quoted["heads-causal"] = measured.per_head(CAUSAL).shape[-1]
    quoted["smallest-head-1e5"] = float(1e5 * measured.per_head().min())
    return quoted


def _quoted_ratio(name: str, measured: HeadsKL, arm: str, bits: int) -> dict[str, float]:
    """A ratio between models with the spread of heads, and that of the causal heads alone."""
    ratio, causal = measured.ratio(arm, bits), measured.ratio_in(CAUSAL, arm, bits)
    quoted = _ends(f"ratio-{name}", ratio.interval)
    quoted |= _ends(f"ratio-{name}-causal", causal.interval)
    quoted[f"ratio-{name}-spread-low"], quoted[f"ratio-{name}-spread-high"] = ratio.spread
    quoted[f"wins-{name}"], quoted[f"wins-{name}-causal"] = ratio.worse_on, causal.worse_on
    return quoted


def _ends(name: str, interval: Interval) -> dict[str, float]:
    """An interval as three numbers."""
    return {name: interval.estimate, f"{name}-low": interval.low, f"{name}-high": interval.high}
