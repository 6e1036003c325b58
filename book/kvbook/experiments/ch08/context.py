"""Output errors against context length, and against the position of the query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.random import SeedSequence

from kvbook.experiments.ch08.splitting import key_error_summands
from kvbook.experiments.ch08.storing import DIM, FloatArray, Vectors, common_mean, stored
from kvbook.experiments.ch08.theory import errors_law
from kvlib import laws
from kvlib.data import synthetic
from kvlib.data.captured import KVCache
from kvlib.data.heads import with_windows
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer, codebooks
from kvlib.stats import Interval, geometric_mean_interval, mean_interval


@dataclass(frozen=True)
class ContextErrors:
    """Relative output errors at one context length, and what their law needs.

    Attributes
    ----------
    errors : mapping from way to ndarray, shape (draws,)
    key_term : ndarray, shape (draws,)
        Factor of D(n) in the error that quantized keys cause.
    effective_tokens : ndarray, shape (draws, queries)
    signal : ndarray, shape (draws,)
        Energy of the outputs.
    """

    errors: Mapping[str, FloatArray]
    key_term: FloatArray
    effective_tokens: FloatArray
    signal: FloatArray

    def interval(self, way: str) -> Interval:
        """Mean error over draws."""
        return mean_interval(self.errors[way])


def measure_context_length(
    keys: RotatedQuantizer,
    values: Mapping[str, RotatedQuantizer],
    *,
    lengths: Sequence[int],
    shares: Sequence[float],
    draws: int,
    seeds: Sequence[SeedSequence],
    queries: int = 64,
    dim: int = DIM,
) -> dict[float, dict[int, ContextErrors]]:
    """Output errors by share of the mean and context length; one seed a share and length.

    Keys and queries are Gaussian with logits of unit spread, values lie around a common mean.
    """
    found: dict[float, dict[int, ContextErrors]] = {share: {} for share in shares}
    for (share, tokens), child in zip(product(shares, lengths), seeds, strict=True):
        rng, drawn = np.random.default_rng(child), []
        for state in child.generate_state(draws):
            k, q = (rng.standard_normal((m, dim), dtype=np.float32) for m in (tokens, queries))
            v = synthetic.draw(common_mean(share), tokens, dim, rng=rng).astype(np.float32)
            drawn.append(_context_errors(keys, values, (q, k, v), int(state)))
        found[share][tokens] = ContextErrors(
            {way: np.array([x.errors[way] for x in drawn]) for way in values},
            *(
                np.array([getattr(x, name) for x in drawn])
                for name in ("key_term", "effective_tokens", "signal")
            ),
        )
    return found


def _context_errors(
    keys: RotatedQuantizer,
    values: Mapping[str, RotatedQuantizer],
    cache: tuple[Vectors, Vectors, Vectors],
    seed: int,
) -> ContextErrors:
    """One draw of a context, q, k and v: fields without their axis of draws."""
    q, k, v = cache
    p = attention.attention_weights(q, k)
    p_hat = attention.attention_weights(q, stored(k, keys, seed))
    out = p @ v
    signal = np.square(out).sum()
    errors = {
        way: np.square(p_hat @ stored(v, quantizer, seed + 1) - out).sum() / signal
        for way, quantizer in values.items()
    }
    effective = 1 / np.square(p).sum(axis=-1)
    return ContextErrors(errors, key_error_summands(p, q, k, v).sum(), effective, signal)


def context_length_law(
    measured: ContextErrors, share: float, *, bits: int, dim: int = DIM
) -> float:
    """Relative output error of plain codes for keys and values, averaged over the draws' rows."""
    of_keys = codebooks.lloyd_max(dim, bits).distortion * measured.key_term
    errors = laws.output_error(measured.effective_tokens, *errors_law("plain", bits, share, dim))
    of_values = dim * np.asarray(errors).sum(axis=-1)
    return float(((of_keys + of_values) / measured.signal).mean())


def measure_by_position(
    cache: KVCache, quantizer: RotatedQuantizer, edges: Sequence[int]
) -> FloatArray:
    """Relative output error of a causal cache by position of the query: (heads, bins)."""
    q, k, v = with_windows(cache)
    p_hat = attention.attention_weights(q, stored(k, quantizer, 0), causal=True)
    out = attention.attention_weights(q, k, causal=True) @ v
    error = np.square(p_hat @ stored(v, quantizer, 1) - out).sum(axis=-1).mean(axis=2)
    signal = np.square(out).sum(axis=-1).mean(axis=2)
    bins = [slice(low, high) for low, high in pairwise(edges)]
    return np.stack([(error[..., b].sum(-1) / signal[..., b].sum(-1)).ravel() for b in bins], -1)


def spread_of_heads(ratios: FloatArray) -> Interval:
    """Geometric mean over heads, from the 16th to the 84th percentile of them."""
    low, high = np.percentile(ratios, [16, 84]).tolist()
    return Interval(geometric_mean_interval(ratios).estimate, low, high, ratios.size)
