"""Errors of reconstructed vectors and caches, in every reading the page needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from kvlib.data import synthetic
from kvlib.measure import attention
from kvlib.stats import Interval

Floats = NDArray[np.float64]
BUDGETS = range(2, 7)

# Index of each error along the axis of four that `errors` makes.
SQUARED, ONE_MINUS_COSINE, ANGLE, CHORD = range(4)
SIZES = ("squared error", "root error", "rate gap")
DIRECTIONS = ("1 − cos", "angle/π", "chord")


def error_and_cosine(x: ArrayLike, x_hat: ArrayLike) -> tuple[Floats, Floats]:
    """Relative squared error and cosine of each vector along the last axis.

    The cosine is zero where the reconstruction is the zero vector and points nowhere, which
    `kvlib.measure.metrics` refuses; this is the quickest way, with nine digits at these errors.
    """
    a, b = (np.asarray(z, dtype=np.float64) for z in (x, x_hat))
    aa, bb, ab = (np.einsum("...i,...i", *pair) for pair in ((a, a), (b, b), (a, b)))
    size = np.sqrt(aa * bb)
    cosine = np.divide(ab, size, out=np.zeros_like(size), where=size > 0)
    return (aa - 2 * ab + bb) / aa, np.clip(cosine, -1, 1)


def errors(x: ArrayLike, x_hat: ArrayLike) -> Floats:
    """Relative squared error, 1 - cos, angle/π and chord, means over tokens: shape (4, ...)."""
    squared, c = error_and_cosine(x, x_hat)
    each = squared, 1 - c, np.arccos(c) / np.pi, np.sqrt(2 - 2 * c)
    return np.stack([e.mean(axis=-1) for e in each])


def six_norm(*parts: Floats) -> Floats:
    """Length of the errors of some caches, each (4, ...): root squared errors and angles/π."""
    squares = [part[SQUARED] + part[ANGLE] ** 2 for part in parts]
    return np.asarray(np.sqrt(np.sum(squares, axis=0)))


def coordinates(parts: Floats, size: str, direction: int, bits: int) -> Floats:
    """Six coordinates of each draw from the errors of its K, V and T.

    Parameters
    ----------
    parts : array, shape (..., 3, 4, draws)
    size : {"squared error", "root error", "rate gap"}
        The last is the number of bits lost to Shannon's bound.
    direction : int
        Which of DIRECTIONS.
    bits : int
        Budget, for the rate gap.

    Returns
    -------
    ndarray, shape (..., 6, draws)
        Size and direction of K, of V and of T.
    """
    squared = parts[..., SQUARED, :]
    sizes = {
        "squared error": squared,
        "root error": np.sqrt(squared),
        "rate gap": bits + np.log2(squared) / 2,
    }
    pairs = np.stack([sizes[size], parts[..., ONE_MINUS_COSINE + direction, :]], axis=-2)
    return pairs.reshape(*parts.shape[:-3], 6, parts.shape[-1])


def random_draws(
    stream: np.random.SeedSequence, count: int
) -> Iterator[tuple[np.random.Generator, int]]:
    """One generator a draw, and a seed for its rotation and sketch."""
    for child in stream.spawn(count):
        rng = np.random.default_rng(child)
        yield rng, int(rng.integers(2**30))


def draw_heads(
    rng: np.random.Generator,
    families: Mapping[str, synthetic.Family],
    *,
    tokens: int,
    queries: int,
    dim: int,
) -> tuple[Floats, NDArray[np.float32], NDArray[np.float32]]:
    """Queries, keys and values of one head a family, shapes (family, tokens or queries, dim)."""
    k, v = (
        np.stack([synthetic.draw(f, tokens, dim, rng=rng) for f in families.values()])
        for _ in ("k", "v")
    )
    q = rng.standard_normal((len(families), queries, dim))
    return q, k.astype(np.float32), v.astype(np.float32)


@dataclass(frozen=True)
class Caches:
    """Heads of one family, one a draw.

    Attributes
    ----------
    q, k, v : array, shape (draw, queries or tokens, dim)
    seeds : array, shape (draw,)
        Of the rotation and sketch of each draw.
    share : int
        How many draws that follow each other have one rotation and sketch.
    """

    q: NDArray[Any]
    k: NDArray[Any]
    v: NDArray[Any]
    seeds: NDArray[np.int64]
    share: int = 1

    def in_float32(self) -> Caches:
        """The same heads in half the memory, for searches that take time."""
        q, k, v = (x.astype(np.float32) for x in (self.q, self.k, self.v))
        return replace(self, q=q, k=k, v=v)

    def errors_of(self, k_hat: ArrayLike, v_hat: ArrayLike) -> Floats:
        """Errors of reconstructed keys, values and of the attention output: (3, 4, draw)."""
        t, t_hat = (
            attention.attention_output(self.q, *pair) for pair in ((self.k, self.v), (k_hat, v_hat))
        )
        pairs = ((self.k, k_hat), (self.v, v_hat), (t, t_hat))
        return np.stack([errors(x, x_hat) for x, x_hat in pairs])


def draw_caches(
    family: synthetic.Family,
    stream: np.random.SeedSequence,
    *,
    draws: int,
    tokens: int,
    queries: int,
    dim: int,
    share: int = 1,
) -> Caches:
    """Heads of one family; ``share`` draws, a divisor of all, have one rotation."""
    rng = np.random.default_rng(stream)
    k, v = (synthetic.draw(family, tokens, dim, rng=rng, heads=(draws,)) for _ in range(2))
    q = rng.standard_normal((draws, queries, dim))
    seeds = np.repeat(rng.integers(2**30, size=draws // share), share)
    return Caches(q, k, v, seeds, share)


def rank_correlation(x: Floats, y: Floats) -> Interval:
    """Spearman's rank correlation with Fisher's interval."""
    rho = float(scipy.stats.spearmanr(x, y).statistic)
    half = 1.96 * math.sqrt(1.06 / (len(x) - 3))
    low, high = np.tanh(np.arctanh(rho) - half), np.tanh(np.arctanh(rho) + half)
    return Interval(rho, float(low), float(high), len(x))


def jackknife_interval(
    statistic: Callable[..., float], *samples: Floats, axis: int = -1
) -> Interval:
    """95% interval of a statistic of the draws from its leave-one-out values.

    Parameters
    ----------
    statistic : callable
        Maps the samples to a number.
    *samples : array
        Draws run along ``axis``; the same draw is left out of each.
    axis : int
    """
    count = samples[0].shape[axis]
    left = np.array(
        [statistic(*(np.delete(x, i, axis=axis) for x in samples)) for i in range(count)]
    )
    half = 1.96 * math.sqrt((count - 1) * left.var())
    estimate = float(statistic(*samples))
    return Interval(estimate, estimate - half, estimate + half, count)


def highest_reaching(intervals: Sequence[Interval]) -> Interval:
    """The interval with the highest upper end: the worst case of what should be low."""
    return max(intervals, key=lambda i: i.high)
