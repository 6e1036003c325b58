"""Errors that values share, measured: pairs, outputs, a mean in one channel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.random import SeedSequence

from kvbook.experiments.ch08.storing import DIM, FloatArray, Vectors, Way, common_mean, stored
from kvlib.data import synthetic
from kvlib.quantize import RotatedQuantizer
from kvlib.stats import Interval, mean_interval


class Cell(NamedTuple):
    """One point of the grid: a way to store values, its budget, the mean's share of the energy."""

    way: str
    bits: int
    share: float


def threshold_grid() -> tuple[Cell, ...]:
    """The cells that the predictions and the figures of the page ask for."""
    budgets, half = (2, 3, 4, 5), 0.5
    return (
        *(Cell(way, n, half) for way in ("plain", "orthogonal", "unbiased") for n in budgets),
        *(Cell("centred plain", n, half) for n in budgets),
        *(Cell("gaussian", n, half) for n in (2, 4)),
        *(
            Cell(way, n, share)
            for share in (0.25, 0.75)
            for way in ("plain", "orthogonal")
            for n in budgets
        ),
        *(Cell(way, 2, 0.0) for way in ("plain", "orthogonal")),
        *(Cell(way, n, half) for way in ("plain, Haar", "orthogonal, Haar") for n in (2, 3, 4)),
    )


def single_and_shared(v: Vectors, v_hat: Vectors) -> FloatArray:
    """Both errors of values (..., tokens, d), averaged over heads by unbiased sums over pairs.

    Shape (2,): the error of one value, the error that two share.
    """
    e, count = v_hat - v, v.shape[-2]
    energy = np.square(v).sum(axis=-1).mean()
    each = np.square(e).sum(axis=(-2, -1))
    together = np.square(e.sum(axis=-2)).sum(axis=-1)
    pairs = (together - each) / (count * (count - 1))
    return np.array([each.mean() / count, pairs.mean()], dtype=np.float64) / float(energy)


def measure_shared_errors(
    ways: Mapping[str, Way],
    cells: Iterable[Cell],
    *,
    heads: int,
    tokens: int,
    seeds: Iterable[SeedSequence],
    dim: int = DIM,
) -> dict[Cell, FloatArray]:
    """Both errors of every cell, shape (draws, 2): single and shared.

    Each seed is a draw of ``heads`` means, of ``tokens`` values around each, of rotation and
    sketch; all cells of a draw with one share have the same values.
    """
    wanted = tuple(cells)
    shares = sorted({cell.share for cell in wanted})
    found: dict[Cell, list[FloatArray]] = {cell: [] for cell in wanted}
    for child in seeds:
        rng, state = np.random.default_rng(child), child.generate_state(1)[0]
        for share in shares:
            drawn = synthetic.draw(common_mean(share), tokens, dim, rng=rng, heads=(heads,))
            v = drawn.astype(np.float32)
            for cell in (c for c in wanted if c.share == share):
                v_hat = stored(v, ways[cell.way](cell.bits), state)
                found[cell].append(single_and_shared(v, v_hat))
    return {cell: np.array(rows) for cell, rows in found.items()}


def measured_threshold(
    errors: Mapping[Cell, FloatArray],
    bits: int,
    share: float,
    *,
    first: str = "plain",
    second: str = "orthogonal",
) -> Interval:
    """Effective tokens past which ``second`` wins, from measured errors.

    The interval is that of the difference of the shared errors, which is in the denominator; its
    upper end is infinite where that difference may be zero.
    """
    one, two = errors[Cell(first, bits, share)], errors[Cell(second, bits, share)]
    saved = mean_interval(one[:, 1] - two[:, 1])
    extra = float(two[:, 0].mean() - one[:, 0].mean())
    high = 1 + extra / saved.low if saved.low > 0 else math.inf
    return Interval(1 + extra / saved.estimate, 1 + extra / saved.high, high, saved.n)


def measure_output_curves(
    ways: Mapping[str, Way],
    bits: Iterable[int],
    *,
    groups: Sequence[int],
    share: float,
    seeds: Iterable[SeedSequence],
    dim: int = DIM,
) -> dict[tuple[str, int], FloatArray]:
    """Squared error of the plain average of a number of values, by way and budget.

    ``groups`` are the numbers averaged, each a divisor of the last. Shape (draws, groups).
    """
    found: dict[tuple[str, int], list[list[float]]] = {(way, n): [] for n in bits for way in ways}
    for child in seeds:
        v, _, state = _values_around_a_mean(child, groups[-1], share, dim)
        energy = np.square(v).sum(axis=-1).mean()
        for (way, n), rows in found.items():
            e = stored(v, ways[way](n), state) - v
            means = [e.reshape(-1, size, dim).mean(axis=1) for size in groups]
            rows.append([float(np.square(m).sum(axis=-1).mean() / energy) for m in means])
    return {key: np.array(rows) for key, rows in found.items()}


@dataclass(frozen=True)
class UnequalWeights:
    """Output errors under softmax weights, and what their law needs.

    Attributes
    ----------
    output : ndarray, shape (draws,)
        Measured error, averaged over the rows of a draw.
    errors : ndarray, shape (draws, 2)
        Single and shared error of the same values.
    effective_tokens : ndarray, shape (draws, rows)
    """

    output: FloatArray
    errors: FloatArray
    effective_tokens: FloatArray


def measure_unequal_weights(
    quantizer: RotatedQuantizer,
    *,
    tokens: int,
    row: int,
    share: float,
    seeds: Iterable[SeedSequence],
    dim: int = DIM,
) -> UnequalWeights:
    """Errors of averages over ``row`` values each, weighted by a softmax of logits of spread 2."""
    output, errors, effective = [], [], []
    for child in seeds:
        v, rng, state = _values_around_a_mean(child, tokens, share, dim)
        logits = rng.normal(scale=2, size=(tokens // row, row))
        p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        v_hat = stored(v, quantizer, state)
        e = (v_hat - v).reshape(-1, row, dim)
        energy = np.square(v).sum(axis=-1).mean()
        squares = np.square((p[..., None] * e).sum(axis=-2)).sum(axis=-1) / energy
        output.append(squares.mean())
        errors.append(single_and_shared(v, v + e.reshape(v.shape)))
        effective.append(1 / np.square(p).sum(-1))
    return UnequalWeights(np.array(output), np.array(errors), np.array(effective))


def _values_around_a_mean(
    child: SeedSequence, tokens: int, share: float, dim: int
) -> tuple[Vectors, np.random.Generator, int]:
    """Values of one draw, the generator they came from, and the seed of rotation and sketch."""
    rng, state = np.random.default_rng(child), int(child.generate_state(1)[0])
    v = synthetic.draw(common_mean(share), tokens, dim, rng=rng).astype(np.float32)
    return v, rng, state


def in_one_channel(share: float, tokens: int, dim: int, rng: np.random.Generator) -> Vectors:
    """Values whose common mean lies along the first coordinate."""
    v = math.sqrt(1 - share) * rng.standard_normal((tokens, dim))
    v[:, 0] += math.sqrt(share * dim)
    return v.astype(np.float32)


def measure_mean_in_one_channel(
    rotations: Mapping[str, Way],
    bits: Iterable[int],
    *,
    share: float,
    tokens: int,
    seeds: Iterable[SeedSequence],
    dim: int = DIM,
) -> dict[tuple[str, int], Interval]:
    """Shared error of values whose mean lies in one channel, by rotation and budget."""
    budgets = tuple(bits)
    found: dict[tuple[str, int], list[float]] = {key: [] for key in product(rotations, budgets)}
    for child in seeds:
        rng, state = np.random.default_rng(child), int(child.generate_state(1)[0])
        v = in_one_channel(share, tokens, dim, rng)
        for (name, n), values in found.items():
            v_hat = stored(v, rotations[name](n), state)
            values.append(float(single_and_shared(v, v_hat)[1]))
    return {key: mean_interval(values) for key, values in found.items()}
