"""C15 once more with a wider net: how much does "no reading gives it" depend on the list?

A reading of KQV and a reading of KV go together if they share keys, dimension, what a direction
error is and how it runs over tokens. So the search need not go through the pairs: it counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kvbook.experiments.ch11.baselines import (
    AXES,
    Axis,
    Books,
    Quantize,
    round_to_levels,
    scalar_baselines,
)
from kvbook.experiments.ch11.c15 import (
    FAT_KEYS,
    PUBLISHED_DIRECTIONS,
    ROTATIONS,
    as_directions,
)
from kvbook.experiments.ch11.errors import Floats, error_and_cosine
from kvlib.data import synthetic
from kvlib.quantize import codebooks, rotations

CLIPS = (2, 3, 4)  # standard deviations
OVER = ("mean", "median", "one vector", "mean weighted by energy")
KQV_BITS = (3, 4, 5)
KV_BITS = ((1, 3), (2, 4), (3, 5))
WITHOUT_SIGNS = "WHT without signs"
TOLERANCE = 0.05


def wide_directions(x: Floats, x_hat: Floats) -> Floats:
    """Every reading of direction error and of "over tokens": (direction, OVER).

    Medians over the draws of x, shape (draw, token, dim).
    """
    each = _stacked(*error_and_cosine(x, x_hat))
    flat = (len(x), -1)
    whole = _stacked(*error_and_cosine(x.reshape(flat), x_hat.reshape(flat)))
    energy = np.square(x).sum(axis=-1)
    weighted = (each * energy).sum(axis=-1) / energy.sum(axis=-1)
    by_draw = np.stack([each.mean(axis=-1), whole, weighted], axis=1)
    mean, one, heavy = np.median(by_draw, axis=-1).T
    return np.stack([mean, np.median(each, axis=(1, 2)), one, heavy], axis=1)


def _stacked(squared: Floats, cosine: Floats) -> Floats:
    """The readings of `as_directions` and sin²θ along a new first axis."""
    found = as_directions(squared, cosine)
    return np.stack([*found.values(), 1 - np.square(cosine)])


def clipped(x: Floats, bits: int, axis: Axis, clip: float) -> Floats:
    """Midpoints of 2^n cells of ± ``clip`` root mean squares."""
    half = 2 ** (bits - 1)
    step = clip * np.sqrt(np.square(x).mean(axis=axis, keepdims=True)) / half
    return np.asarray((np.clip(np.floor(x / step), -half, half - 1) + 0.5) * step)


def trained(numbers: Floats, bits: int, dim: int) -> codebooks.Codebook:
    """Lloyd's codebook of every eighth number, from quantiles on, thirty iterations."""
    some = numbers.ravel()[::8]
    start = np.quantile(some, (np.arange(2**bits) + 0.5) / 2**bits)
    return codebooks.lloyd_iterations(some, dim, bits, start=start, iterations=30)


def trained_unit(x: Floats, bits: int) -> Floats:
    """A codebook trained on the coordinates of the unit vectors, norms kept."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    u = x / norm
    return np.asarray(norm * round_to_levels(trained(u, bits, x.shape[-1]), u))


def trained_tensor(x: Floats, bits: int) -> Floats:
    """A codebook trained on the raw numbers."""
    return np.asarray(round_to_levels(trained(x, bits, x.shape[-1]), x))


def wide_baselines(books: Books) -> dict[str, Quantize]:
    """The sixteen quantizers of the first search, clipped ones, and two trained on the data."""
    found = scalar_baselines(books)
    for scaled_by, clip in product(AXES, CLIPS):
        found[f"clipped at {clip}σ, {scaled_by}"] = _clipped_by(AXES[scaled_by], clip)
    return found | {"trained, unit vector": trained_unit, "trained, tensor": trained_tensor}


def _clipped_by(axis: Axis, clip: float) -> Quantize:
    return lambda x, bits: clipped(x, bits, axis, clip)


def rotated_by_name(x: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """The keys under each rotation that a search tries, one round without signs among them."""
    dim = x.shape[-1]
    found = {
        name: rotations.Rotation(kind, dim, seed=int(rng.integers(2**30)), rounds=rounds).apply(x)
        for name, (kind, rounds) in ROTATIONS.items()
    }
    return found | {WITHOUT_SIGNS: x @ (scipy.linalg.hadamard(dim) / np.sqrt(dim))}


@dataclass(frozen=True)
class WideSearch:
    """Readings of KQV and of KV; those of one group share keys, d, direction error and "over".

    Attributes
    ----------
    kqv : array, shape (group, reading of KQV)
        Its direction error.
    kv : array, shape (group, reading of KV, 2)
        Its two direction errors.
    """

    kqv: Floats
    kv: Floats

    def __len__(self) -> int:
        """How many pairs of readings there are."""
        return int(self.kqv.shape[0] * self.kqv.shape[1] * self.kv.shape[1])

    def matches(self, target: Sequence[float] | Floats, tolerance: float = TOLERANCE) -> int:
        """How many pairs give all three numbers within a share of them."""
        kqv, kv = self._near(np.asarray(target, dtype=float), tolerance)
        return int((kqv.sum(axis=1) * kv.sum(axis=1)).sum())

    def _near(
        self, target: Floats, tolerance: float
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        width = tolerance * np.abs(target)
        kqv = np.asarray(np.abs(self.kqv - target[0]) <= width[0])
        kv = np.asarray((np.abs(self.kv - target[1:]) <= width[1:]).all(axis=-1))
        return kqv, kv

    @property
    def found(self) -> int:
        """Pairs that give the published numbers."""
        return self.matches(list(PUBLISHED_DIRECTIONS.values()))

    def chance(self, stream: np.random.SeedSequence, count: int = 400) -> float:
        """Share of made-up targets, each number of a random reading, that some pair matches."""
        rng = np.random.default_rng(stream)
        columns = (self.kqv.ravel(), *self.kv.reshape(-1, 2).T)
        targets = np.stack([rng.choice(column, count) for column in columns], axis=-1)
        return float(np.mean([self.matches(target) > 0 for target in targets]))

    def power(self, again: WideSearch, near: float = 0.5) -> float:
        """How often a pair meets its own numbers in a second search on new draws.

        Of pairs near the published numbers, which a factor of 1 + ``near`` reaches. It is the
        chance that an exactly right reading would have been recognised.
        """
        target = np.log(list(PUBLISHED_DIRECTIONS.values()))
        with np.errstate(divide="ignore"):
            mine, other = ((np.log(np.abs(x.kqv)), np.log(np.abs(x.kv))) for x in (self, again))
        close = np.log1p(near)
        near_kqv = np.abs(mine[0] - target[0]) <= close
        near_kv = (np.abs(mine[1] - target[1:]) <= close).all(axis=-1)
        met_kqv = near_kqv & (np.abs(np.expm1(other[0] - mine[0])) <= TOLERANCE)
        met_kv = near_kv & (np.abs(np.expm1(other[1] - mine[1])) <= TOLERANCE).all(axis=-1)
        pairs = (near_kqv.sum(axis=1) * near_kv.sum(axis=1)).sum()
        return float((met_kqv.sum(axis=1) * met_kv.sum(axis=1)).sum() / pairs)


def search_widely(
    books: Mapping[int, Books],
    stream: np.random.SeedSequence,
    *,
    draws: int = 8,
    numbers_a_draw: int = 2**13,
) -> WideSearch:
    """All readings of KQV and KV on the same keys."""
    rng = np.random.default_rng(stream)
    kqv, kv = [], []
    for dim, family in product(books, FAT_KEYS.values()):
        x = synthetic.draw(family, numbers_a_draw // dim, dim, rng=rng, heads=(draws,))
        methods = wide_baselines(books[dim])
        # Axes (reading of a scheme, direction, over), then groups first.
        mine = np.array(list(_of_kqv(x, methods, list(books[dim]), rng)))
        theirs = np.array(list(_of_kv(x, methods)))
        kqv.append(mine.reshape(len(mine), -1).T)
        kv.append(theirs.reshape(len(theirs), 2, -1).transpose(2, 0, 1))
    return WideSearch(np.concatenate(kqv), np.concatenate(kv))


def _of_kv(x: Floats, methods: Mapping[str, Quantize]) -> Iterator[Floats]:
    """Readings of each quantizer at each pair of budgets: (2, direction, over) each."""
    for quantize in methods.values():
        of_bits = {n: wide_directions(x, quantize(x, n)) for pair in KV_BITS for n in pair}
        for pair in KV_BITS:
            yield np.stack([of_bits[n] for n in pair])


def _of_kqv(
    x: Floats, methods: Mapping[str, Quantize], books: Sequence[str], rng: np.random.Generator
) -> Iterator[Floats]:
    """Readings of each quantizer of rotated keys at each number of bits: (direction, over) each."""
    used = [f"unit vector, {name}" for name in books]
    used += ["min_max, token", "cells, token", "trained, unit vector"]
    used += [f"clipped at {clip}σ, token" for clip in CLIPS]
    for y in rotated_by_name(x, rng).values():
        for name, n in product(used, KQV_BITS):
            yield wide_directions(y, methods[name](y, n))
