"""Chapter 1: what a cache weighs, a first look at captured heads, how exact a KL is (T18).

In the order of the page: bytes of a cache; what a reported comparison can show; one head worked
through; every captured head; the KL divergence against arithmetic with 50 digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, fisher_exact

from kvbook import ledger
from kvlib import attention_kl, attention_weights
from kvlib.data.captured import KVCache
from kvlib.data.heads import heads as heads_of
from kvlib.quantize import RotatedQuantizer, Scheme
from kvlib.stats import Interval, geometric_mean_interval, mean_interval

FloatArray = NDArray[np.float64]
Arm = Callable[[int], Scheme]
"""A scheme at a budget of n bits, such as ``partial(named, "KQV")``."""

# Bytes of a cache ------------------------------------------------------------------------------


class CacheShape(NamedTuple):
    """The key-value heads of a model."""

    layers: int
    heads: int
    dim: int

    def gibibytes(self, tokens: int, bits: float) -> float:
        """Size in GiB of the cache of one sequence at ``bits`` stored a coordinate."""
        return 2 * self.layers * self.heads * tokens * self.dim * bits / 8 / 2**30


@dataclass(frozen=True)
class StoredVector:
    """Bytes of one stored vector of ``dim`` coordinates: codes, signs, norm, residual norm."""

    dim: int
    parts: tuple[int, int, int, int]

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts)

    @property
    def bits_per_coordinate(self) -> float:
        """Stored bits over coordinates."""
        return 8 * self.total / self.dim


def stored_vector(quantizer: RotatedQuantizer, dim: int) -> StoredVector:
    """What one vector takes, counted from the arrays that hold it."""
    encoded = quantizer.encode(np.ones((1, dim)))
    arrays = (encoded.codes, encoded.signs, encoded.scales, encoded.residual_norms)
    codes, signs, norm, residual_norm = (0 if x is None else x.nbytes for x in arrays)
    return StoredVector(dim, (codes, signs, norm, residual_norm))


def stored_bits(scheme: Scheme, dim: int) -> float:
    """Stored bits a coordinate of keys and values together, counted from the bytes of a cache."""
    vectors = np.ones((1, dim))
    return scheme.encode(vectors, vectors).bits_per_coordinate


def stages(quantizer: RotatedQuantizer) -> str:
    """What a quantizer does to a vector, in words."""
    rotated = "" if quantizer.rotation == "none" else "WHT + "
    sketched = "" if quantizer.sketch is None else " + 1-bit sketch"
    return f"{rotated}{quantizer.codebook_bits}-bit Lloyd-Max{sketched}"


# What a report can show ------------------------------------------------------------------------


def fisher_pvalue(right: int, others: int, checks: int) -> float:
    """Two-sided p of a difference between two counts of right answers among ``checks`` each."""
    return float(fisher_exact([[right, checks - right], [others, checks - others]]).pvalue)


def fisher_power(checks: int, rates: tuple[float, float], level: float = 0.05) -> float:
    """Chance that Fisher's test reaches ``level`` if these are the true rates of right answers."""
    odds = [binom.pmf(np.arange(checks + 1), checks, rate) for rate in rates]
    likely = [np.flatnonzero(p > 1e-6).tolist() for p in odds]
    hits = [(a, b) for a in likely[0] for b in likely[1] if fisher_pvalue(a, b, checks) <= level]
    return float(sum(odds[0][a] * odds[1][b] for a, b in hits))


def checks_needed(rates: tuple[float, float], power: float, candidates: Sequence[int]) -> int:
    """The first of the candidate numbers of checks a side at which the test has that power."""
    return next(checks for checks in candidates if fisher_power(checks, rates) >= power)


# One head --------------------------------------------------------------------------------------


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


def is_random(quantizer: RotatedQuantizer) -> bool:
    """Whether what a quantizer restores depends on its seed."""
    return quantizer.rotation != "none" or quantizer.sketch is not None


def restored(quantizer: RotatedQuantizer, vectors: FloatArray, seed: int) -> FloatArray:
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
        used = draws if is_random(scheme.key) else draws[:1]
        k_hat = np.stack([restored(scheme.key, keys, seed) for seed in used])
        rows[arm] = attention_weights(query, k_hat[0])[0]
        kl[arm] = attention_kl(query, keys, k_hat)[:, 0]
        nbytes[arm] = scheme.encode(keys, values).nbytes
    return AttentionRow(attention_weights(query, keys)[0], rows, kl, nbytes)


# All heads -------------------------------------------------------------------------------------


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
    kl = {}
    for (name, cache), child in zip(caches.items(), seed.spawn(len(caches)), strict=True):
        count = len(cache.layers) * len(cache.heads)
        draws = child.generate_state(count * rotations).reshape(count, rotations)
        kl[name] = _kl_of_cache(cache, list(quantizers.values()), draws, rows)
    random = tuple(is_random(of_arm[0]) for of_arm in quantizers.values())
    return HeadsKL(tuple(arms), random, tuple(bits), kl)


def _kl_of_cache(
    cache: KVCache,
    quantizers: Sequence[Sequence[RotatedQuantizer]],
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
                if r >= windows and not is_random(of_arm[0]):
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


# T18: the accuracy of a KL ---------------------------------------------------------------------

TARGETS = (1e-12, 1e-9, 1e-8, 1e-7, 3e-7, 1e-6, 1e-4, 1e-2, 1.0)
"""Sizes of the KL, in nats, at which T18 is tried."""
COMMON_ERRORS = (1e-3, 1e-1, 1e1, 1e2)
"""Sizes of an error common to all keys, in nats."""

KLMethod = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], float]
"""KL of one row from query (d,), keys and quantized keys (tokens, d)."""


def predict_t18() -> ledger.Predictions:
    """What T18 says about the shifted form and about the log-softmax in float32."""
    per_row = "any row off by more than "
    mean_of_rows = "right to better than 100% in the mean of rows"
    foretold: list[tuple[str, ledger.Rule, str]] = [
        ("shifted form, KL near 1e-8: relative error", ledger.Below(1e-4), per_row + "1e-4"),
        ("shifted form, KL from 1e-12 to 1: relative error", ledger.Below(1e-9), per_row + "1e-9"),
        (
            "shifted form, 100 nats of common error: relative error",
            ledger.Below(1e-4),
            per_row + "1e-4",
        ),
        ("float32 log-softmax, KL near 1e-8: relative error", ledger.Above(1), mean_of_rows),
        ("float32 log-softmax, KL near 3e-7: relative error", ledger.Above(1), mean_of_rows),
        (
            "float32 log-softmax, KL near 1e-9: share of negative values",
            ledger.Above(0.25),
            "fewer than one value in four negative",
        ),
        (
            "control, float32 log-softmax, KL near 0.01: relative error",
            ledger.Below(0.01),
            "off by more than one per cent",
        ),
    ]
    return ledger.Predictions("T18", [ledger.Prediction(*one) for one in foretold])


def decimal_log_row(q: NDArray[Any], k: NDArray[Any]) -> NDArray[Any]:
    """Log of an attention row in the digits of the current decimal context, from stored numbers."""
    q, k = (np.vectorize(lambda x: Decimal(float(x)), otypes=[object])(x) for x in (q, k))
    logits = k @ q / Decimal(len(q)).sqrt()
    shifted: NDArray[Any] = logits - sum(x.exp() for x in logits).ln()
    return shifted


def decimal_kl(log_p: NDArray[Any], log_p_hat: NDArray[Any]) -> float:
    """The definition of KL, in the same arithmetic."""
    return float(sum(a.exp() * (a - b) for a, b in zip(log_p, log_p_hat, strict=True)))


def pairwise_sum(x: NDArray[Any]) -> NDArray[Any]:
    """Sum of 2^m numbers along the last axis by halving.

    Accurate, and unlike numpy's own sum rounded alike on every machine.
    """
    while x.shape[-1] > 1:
        x = x[..., ::2] + x[..., 1::2]
    return np.asarray(x[..., 0])


def log_softmax_kl(
    q: NDArray[Any], k: NDArray[Any], k_hat: NDArray[Any], dtype: type[np.floating[Any]]
) -> float:
    """The textbook way: two log-softmax rows subtracted, each operation rounded to ``dtype``."""
    q, k, k_hat = (x.astype(dtype) for x in (q, k, k_hat))
    log_rows = []
    for keys in (k, k_hat):
        logits = pairwise_sum(q * keys) / np.sqrt(dtype(len(q)))
        logits = logits - logits.max()
        exponentials = np.exp(logits.astype(np.float64)).astype(dtype)
        normalizer = np.log(pairwise_sum(exponentials).astype(np.float64)).astype(dtype)
        log_rows.append(logits - normalizer)
    p = np.exp(log_rows[0].astype(np.float64)).astype(dtype)
    return float(pairwise_sum(p * (log_rows[0] - log_rows[1])))


def shifted_kl(q: NDArray[Any], k: NDArray[Any], k_hat: NDArray[Any]) -> float:
    """The form that kvlib computes: from errors of logits, their mean subtracted first."""
    return float(attention_kl(q[None], k, k_hat)[0])


def unshifted_kl(q: NDArray[Any], k: NDArray[Any], k_hat: NDArray[Any]) -> float:
    """The same without subtracting the mean error, in float64."""
    q, k, k_hat = (x.astype(np.float64) for x in (q, k, k_hat))
    p = attention_weights(q[None], k)[0]
    delta = (k_hat - k) @ q / np.sqrt(len(q))
    return float(np.log1p(p @ np.expm1(delta)) - p @ delta)


KL_METHODS: dict[str, KLMethod] = {
    "float32 log-softmax": partial(log_softmax_kl, dtype=np.float32),
    "float64 log-softmax": partial(log_softmax_kl, dtype=np.float64),
    "shifted": shifted_kl,
    "unshifted": unshifted_kl,
}
"""Ways to compute the KL of a row."""


@dataclass(frozen=True, eq=False)
class KLAccuracy:
    """How far each way to compute a KL is off, by size of the KL and of a common error.

    Attributes
    ----------
    truth : ndarray, shape (heads, targets + common errors)
        True KL in nats: one column for each of ``TARGETS``, then one for each of
        ``COMMON_ERRORS`` (at a KL near 1e-8).
    relative_error : mapping from method to ndarray, of the shape of ``truth``
        Absolute value.
    negative : ndarray, shape (heads,)
        Share of float32 log-softmax values below zero at a KL near 1e-9.
    """

    truth: FloatArray
    relative_error: Mapping[str, FloatArray]
    negative: FloatArray

    def typical(self, method: str, target: float) -> Interval:
        """Relative error near one size of KL: geometric mean over heads, with its interval."""
        return geometric_mean_interval(self.relative_error[method][:, TARGETS.index(target)])

    def worst(self, method: str, columns: slice) -> Interval:
        """Largest relative error of all heads: one number, judged as it is.

        Raised to 1e-9 where it is smaller, since digits below that are the machine's.
        """
        errors = self.relative_error[method][:, columns]
        return Interval.exactly(max(float(errors.max()), 1e-9), len(errors))

    def absolute_error(self, method: str, targets: Sequence[float]) -> float:
        """Absolute error in nats: geometric mean over heads and some sizes of KL."""
        columns = [TARGETS.index(target) for target in targets]
        errors = (self.relative_error[method] * self.truth)[:, columns]
        return float(np.exp(np.log(errors).mean()))


def noisy_keys(
    q: FloatArray, k: FloatArray, error: FloatArray, target: float, common: float = 0.0
) -> NDArray[np.float32]:
    """Keys in float32 whose row has a KL near ``target``, plus an error common to all keys.

    Parameters
    ----------
    q : ndarray, shape (d,)
    k, error : ndarray, shape (tokens, d)
        The error is scaled to reach the target.
    target, common : float
        In nats.
    """
    size = np.sqrt(target / shifted_kl(q, k, k + 0.01 * error)) * 0.01
    # Rounded, so that these inputs are the same on every machine.
    size = float(f"{size:.6g}")
    offset = common * np.sqrt(len(q)) * q / pairwise_sum(q * q)
    keys: NDArray[np.float32] = (k + size * error + offset).astype(np.float32)
    return keys


def relative_errors(
    q: FloatArray,
    k: FloatArray,
    noisy: Sequence[NDArray[np.float32]],
    methods: Mapping[str, KLMethod],
) -> tuple[list[float], dict[str, list[float]]]:
    """True KL of each array of noisy keys, and by method the signed relative errors."""
    with localcontext(prec=50):
        log_p = decimal_log_row(q, k)
        truths = [decimal_kl(log_p, decimal_log_row(q, k_hat)) for k_hat in noisy]
    pairs = list(zip(noisy, truths, strict=True))
    errors = {
        name: [method(q, k, k_hat) / truth - 1 for k_hat, truth in pairs]
        for name, method in methods.items()
    }
    return truths, errors


def share_negative(q: FloatArray, k: FloatArray, errors: Sequence[FloatArray]) -> float:
    """Share of float32 log-softmax values below zero at a KL near 1e-9.

    Of the last query of every window, q and k (windows, tokens, d), for every array of errors.
    """
    method = KL_METHODS["float32 log-softmax"]
    signs = [
        method(q[w, -1], k[w], noisy_keys(q[w, -1], k[w], error[w], 1e-9)) < 0
        for error in errors
        for w in range(len(k))
    ]
    return float(np.mean(signs))


def measure_t18(
    cache: KVCache,
    quantizer: RotatedQuantizer,
    *,
    draws: int,
    seed: np.random.SeedSequence,
    methods: Mapping[str, KLMethod] = KL_METHODS,
) -> KLAccuracy:
    """Errors of each method against arithmetic with 50 digits, on rows of every head.

    Parameters
    ----------
    cache : KVCache
    quantizer : RotatedQuantizer
        Its errors give the noise its direction.
    draws : int
        Rotations a head; all count for signs, the first (on the first window) for sizes.
    seed : SeedSequence
    methods : mapping from name to KLMethod
    """
    count = len(cache.layers) * len(cache.heads)
    seeds = seed.generate_state(draws * count).reshape(count, draws)
    truth, signed, negative = [], [], []
    for head, of_head in zip(heads_of(cache), seeds.tolist(), strict=True):
        q, k = head.q, head.k
        errors = [np.round(restored(quantizer, k, draw) - k, 6) for draw in of_head]
        row = q[0, -1], k[0], errors[0][0]
        noisy = [noisy_keys(*row, target) for target in TARGETS]
        noisy += [noisy_keys(*row, 1e-8, common) for common in COMMON_ERRORS]
        truths, by_method = relative_errors(*row[:2], noisy, methods)
        truth.append(truths)
        signed.append(by_method)
        negative.append(share_negative(q, k, errors))
    off = {name: np.abs([by_method[name] for by_method in signed]) for name in methods}
    return KLAccuracy(np.array(truth), off, np.array(negative))


def judge_t18(predictions: ledger.Predictions, measured: KLAccuracy) -> ledger.Verdict:
    """Verdict on T18."""
    near_1e8 = TARGETS.index(1e-8)
    sizes, most_common = (
        slice(0, len(TARGETS)),
        slice(len(TARGETS) + COMMON_ERRORS.index(1e2), None),
    )
    textbook = partial(measured.typical, "float32 log-softmax")
    shifted = partial(measured.worst, "shifted")
    return predictions.verdict(
        {
            "shifted form, KL near 1e-8: relative error": shifted(slice(near_1e8, near_1e8 + 1)),
            "shifted form, KL from 1e-12 to 1: relative error": shifted(sizes),
            "shifted form, 100 nats of common error: relative error": shifted(most_common),
            "float32 log-softmax, KL near 1e-8: relative error": textbook(1e-8),
            "float32 log-softmax, KL near 3e-7: relative error": textbook(3e-7),
            "float32 log-softmax, KL near 1e-9: share of negative values": mean_interval(
                measured.negative
            ),
            "control, float32 log-softmax, KL near 0.01: relative error": textbook(1e-2),
        },
        note="The shifted form does what T18 says. The float32 log-softmax loses its last digit "
        "near a KL of 1e-7, not 1e-6: corrected statement, meaningless below about 1e-7.",
    )
