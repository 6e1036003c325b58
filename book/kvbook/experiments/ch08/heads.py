"""Captured heads: what their attention rows say, and what is measured on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.random import SeedSequence
from numpy.typing import NDArray

from kvbook.experiments.ch08.storing import FloatArray, Vectors, Way, stored
from kvbook.experiments.varying import over_rotations
from kvlib.data.captured import KVCache
from kvlib.data.heads import with_windows
from kvlib.measure import attention, metrics
from kvlib.quantize import BlockQuantizer, bits_per_coordinate, codebooks
from kvlib.stats import Interval


@dataclass(frozen=True)
class HeadFacts:
    """What attention rows p and values v of a model say about its heads, each of shape (heads,).

    Attributes
    ----------
    dim : int
        Coordinates of a value.
    signal : ndarray
        Energy of the outputs.
    mean_share : ndarray
        Share of the values' energy in their mean.
    attended_share : ndarray
        The same for attended values: what their outputs have beyond independent values.
    effective_tokens : ndarray
    left : ndarray
        Attended energy of single values with the mean removed, over that without.
    """

    dim: int
    signal: FloatArray
    mean_share: FloatArray
    attended_share: FloatArray
    effective_tokens: FloatArray
    left: FloatArray


@dataclass(frozen=True)
class HeadErrors:
    """Relative squared output errors of the heads of several models.

    ``facts`` by model; ``errors`` by (model, way, bits), each of shape (heads, draws), a single
    draw where nothing is random; ``bits`` the same way, stored bits a coordinate, counted from the
    bytes.
    """

    facts: Mapping[str, HeadFacts]
    errors: Mapping[tuple[str, str, int], FloatArray]
    bits: Mapping[tuple[str, str, int], float]

    def priced(self, way: str, bits: int, over: str = "plain") -> FloatArray:
        """Error of a way over that of another, what it stores more priced at a factor of 4 a bit.

        One number a head.
        """
        extra = [
            np.full(facts.signal.size, self.bits[model, way, bits] - self.bits[model, over, bits])
            for model, facts in self.facts.items()
        ]
        ratio = self.of(way, bits) / self.of(over, bits)
        return np.asarray(ratio * 4 ** np.concatenate(extra))

    def of(self, way: str, bits: int, models: Iterable[str] | None = None) -> FloatArray:
        """Errors of a way, means over draws, the heads of all models (or of some) in a row."""
        return np.asarray(self.each(way, bits, models).mean(axis=-1))

    def each(self, way: str, bits: int, models: Iterable[str] | None = None) -> FloatArray:
        """Errors of a way to store values by head and draw."""
        chosen = self.facts if models is None else models
        return np.concatenate([self.errors[model, way, bits] for model in chosen])

    def ratio(
        self,
        way: str,
        bits: int,
        models: Iterable[str] | None = None,
        *,
        foretold: FloatArray | float = 1.0,
    ) -> Interval:
        """Error over that of plain codes (and over a foretold ratio), mean over these heads.

        The interval is over draws of rotation and sketch.
        """
        chosen = tuple(self.facts if models is None else models)
        plain = self.each("plain", bits, chosen)
        errors = np.broadcast_to(self.each(way, bits, chosen), plain.shape)
        return over_rotations(errors / np.reshape(foretold, (-1, 1)), plain)

    def over_plain(self, way: str, bits: int, models: Iterable[str] | None = None) -> FloatArray:
        """Errors over those of plain codes, head by head."""
        chosen = tuple(self.facts if models is None else models)
        return self.of(way, bits, chosen) / self.of("plain", bits, chosen)

    def fact(self, name: str) -> FloatArray:
        """One of the facts, the heads of all models in a row."""
        return np.concatenate([getattr(facts, name) for facts in self.facts.values()])

    @property
    def dims(self) -> NDArray[np.int64]:
        """Coordinates of a value of each head."""
        return np.concatenate([np.full(f.signal.size, f.dim) for f in self.facts.values()])

    def best(self, ways: Sequence[str], bits: int) -> list[str]:
        """The way with the smallest error, head by head."""
        places = np.argmin([self.of(way, bits) for way in ways], axis=0)
        return [ways[place] for place in places]


def describe_heads(heads: HeadErrors) -> str:
    """Medians of the facts, a line a model."""
    return "\n".join(
        f"{name:17} {facts.signal.size:2} heads, mean share {np.median(facts.mean_share):.2f}, "
        f"attended share {np.median(facts.attended_share):.2f}, "
        f"N_eff {np.median(facts.effective_tokens):.1f} (medians)"
        for name, facts in heads.facts.items()
    )


def exact_rows(cache: KVCache, *, every: int = 4) -> tuple[Vectors, Vectors]:
    """Attention rows of every so-manieth query, and values: (layer, head, window, token, ...)."""
    q, k, v = with_windows(cache)
    p = attention.attention_weights(q, k, causal=cache.causal)[..., every - 1 :: every, :]
    return p.astype(np.float32), v


def head_total(x: NDArray[Any]) -> FloatArray:
    """Sum over windows, queries and the last axis: one number a head."""
    return np.asarray(x.sum(axis=(-3, -2, -1)), dtype=np.float64).ravel()


def head_facts(p: Vectors, v: Vectors) -> HeadFacts:
    """Effective tokens, shares and energies of every head, from rows and values."""
    energy = np.square(v).sum(axis=-1)
    mean = v.mean(axis=-2, keepdims=True)
    own = head_total((p * p) @ energy[..., None])  # sum of p^2 |v|^2
    whole = head_total(p @ energy[..., None])
    signal = head_total(np.square(p @ v))
    left = head_total((p * p) @ np.square(v - mean).sum(-1)[..., None])
    return HeadFacts(
        dim=v.shape[-1],
        signal=signal,
        mean_share=head_total(np.square(mean)) * v.shape[-2] / head_total(v * v),
        attended_share=(signal - own) / (whole - own),
        effective_tokens=whole / own,
        left=left / own,
    )


def measure_heads(
    caches: Mapping[str, KVCache],
    ways: Mapping[str, Way],
    bits: Iterable[int],
    *,
    fixed: Mapping[str, Way],
    draws: int,
    seeds: Sequence[SeedSequence],
) -> HeadErrors:
    """Output errors of captured heads with exact attention rows, draw by draw.

    Ways in ``fixed`` have nothing to draw. One seed a cache; the draws of a cache serve all ways
    and budgets.
    """
    budgets, facts, errors, stored_bits = tuple(bits), {}, {}, {}
    for (model, cache), child in zip(caches.items(), seeds, strict=True):
        p, v = exact_rows(cache)
        facts[model] = head_facts(p, v)
        signal, states = facts[model].signal, child.generate_state(draws)
        for n, (name, way) in product(budgets, {**ways, **fixed}.items()):
            drawn = states[:1] if name in fixed else states
            each = [output_energy(p, stored(v, way(n), s) - v) / signal for s in drawn]
            errors[model, name, n] = np.stack(each, axis=-1)
            stored_bits[model, name, n] = bits_per_coordinate(way(n).encode(v))
    return HeadErrors(facts, errors, stored_bits)


def output_energy(p: Vectors, e: Vectors) -> FloatArray:
    """Energy of the output that rows make of vectors, one number a head."""
    return head_total(np.square(p @ e))


def own_range_over_lloyd_max(bits: int, dim: int, seed: SeedSequence) -> float:
    """Error of each vector's own range in equal steps over D(bits), on Gaussian vectors."""
    x = np.random.default_rng(seed).standard_normal((4000, dim))
    x_hat = BlockQuantizer(bits).encode(x).decode()
    error = float(metrics.aggregate_relative_mse(x, x_hat))
    return error / codebooks.lloyd_max(dim, bits).distortion


class WorstCentred(NamedTuple):
    """The head that loses most by the removal of the mean.

    Its error over that of plain codes, and the attended energy that is left over that before.
    """

    ratio: float
    left: float


def worst_centred(heads: HeadErrors, bits: int) -> WorstCentred:
    """The head whose output suffers most when the mean of the values is removed."""
    ratios = heads.over_plain("centred plain", bits)
    worst = int(ratios.argmax())
    return WorstCentred(float(ratios[worst]), float(heads.fact("left")[worst]))
