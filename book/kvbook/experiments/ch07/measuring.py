"""Measures the factorial: draws heads, quantizes them by every cell, and attends.

:func:`measure_factorial` is the one way in, a :class:`Factorial` what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.ch07.cells import (
    BUDGETS,
    FULL_PLAN,
    QJL_GAUSSIAN,
    QJL_HADAMARD,
    WHT,
    Cell,
    reconstruction_errors,
    vector_errors,
)
from kvbook.experiments.ch07.factorial import OUTPUT_DIM, PROBED, Factorial
from kvbook.experiments.ch07.regimes import draw_heads, draw_values
from kvbook.experiments.ch07.rows import MODERATE, SPREADS, AttentionRows
from kvbook.experiments.common import children
from kvlib import quantize
from kvlib.checks import FloatArray
from kvlib.measure import attention


def measure_factorial(
    plans: Mapping[int, Sequence[Cell]],
    pairs: Sequence[tuple[Cell, Cell]],
    *,
    repetitions: int,
    tokens: Mapping[int, int],
    queries: int,
    seed: np.random.SeedSequence,
    output_bits: Sequence[int] = BUDGETS,
) -> Factorial:
    """Measure the cells of each dimension at all budgets, regimes and logit spreads.

    Parameters
    ----------
    plans : mapping
        Dimension to the cells that keys are quantized by there; that of ``PROBED`` everywhere.
    pairs : sequence
        (key cell, value cell) that the attention output is measured with at ``OUTPUT_DIM``.
    repetitions : int
        Draws of keys, queries, values, rotation and sketch.
    tokens : mapping
        Dimension to the number of keys of a head.
    queries : int
        Queries of a head.
    seed : SeedSequence
        A child for each dimension in the order of ``plans``, of it one for each repetition.
    output_bits : sequence of int
        Budgets at which values and outputs are measured.
    """
    kl: dict[tuple[int, Cell, int], FloatArray] = {}
    keys: dict[tuple[int, Cell, int], FloatArray] = {}
    of_output_dim = _Draw({}, {}, np.empty((0, 0)), {}, {})
    for (dim, cells), stream in zip(plans.items(), children(seed, len(plans)), strict=True):
        draws = [
            _measure_draw(
                dim,
                cells,
                pairs if dim == OUTPUT_DIM else (),
                tokens=tokens[dim],
                queries=queries,
                output_bits=output_bits,
                rng=np.random.default_rng(child),
            )
            for child in children(stream, repetitions)
        ]
        together = _Draw.stacked(draws)
        kl |= {(dim, *at): x for at, x in together.kl.items()}
        keys |= {(dim, *at): x for at, x in together.keys.items()}
        if dim == OUTPUT_DIM:
            of_output_dim = together
    return Factorial(kl, keys, of_output_dim.values, of_output_dim.outputs, of_output_dim.by_query)


@dataclass(frozen=True, eq=False)
class _Draw:
    """What one draw gives, as in :class:`Factorial` without d and repetition."""

    kl: dict[tuple[Cell, int], FloatArray]
    keys: dict[tuple[Cell, int], FloatArray]
    by_query: FloatArray
    values: dict[tuple[Cell, int], FloatArray]
    outputs: dict[tuple[Cell, Cell, int], FloatArray]

    @classmethod
    def stacked(cls, draws: Sequence[_Draw]) -> _Draw:
        """All draws, with the repetition for the first axis."""
        first = draws[0]
        return cls(
            {at: np.stack([draw.kl[at] for draw in draws]) for at in first.kl},
            {at: np.stack([draw.keys[at] for draw in draws]) for at in first.keys},
            np.stack([draw.by_query for draw in draws]),
            {at: np.stack([draw.values[at] for draw in draws]) for at in first.values},
            {at: np.stack([draw.outputs[at] for draw in draws]) for at in first.outputs},
        )


def _measure_draw(
    dim: int,
    cells: Sequence[Cell],
    pairs: Sequence[tuple[Cell, Cell]],
    *,
    tokens: int,
    queries: int,
    output_bits: Sequence[int],
    rng: np.random.Generator,
) -> _Draw:
    """Draw a head of each regime and measure all cells and pairs on it."""
    heads = _Heads.draw(dim, cells, tokens, queries, rng)
    kl = {at: heads.kl(at) for at in heads.errors}
    values: dict[tuple[Cell, int], FloatArray] = {}
    outputs: dict[tuple[Cell, Cell, int], FloatArray] = {}
    if pairs:
        v = draw_values(dim, tokens, rng)
        sketch_seed = int(rng.integers(2**31))
        values, outputs = _output_errors(heads, pairs, v, output_bits, seed=sketch_seed)
    return _Draw(
        kl={at: _statistics(x) for at, x in kl.items()},
        keys={at: heads.key_measures(at) for at in heads.errors},
        by_query=kl[PROBED][:, MODERATE],
        values=values,
        outputs=outputs,
    )


@dataclass(frozen=True, eq=False)
class _Heads:
    """A head of each regime, and by (cell, bits) the errors of its keys and of its logits."""

    k: NDArray[np.float32]
    rows: AttentionRows
    errors: Mapping[tuple[Cell, int], NDArray[Any]]
    deltas: Mapping[tuple[Cell, int], NDArray[Any]]

    @classmethod
    def draw(
        cls, dim: int, cells: Sequence[Cell], tokens: int, queries: int, rng: np.random.Generator
    ) -> _Heads:
        """Draw keys and queries, then rotation and sketch; quantize the keys by every cell."""
        k, q = draw_heads(dim, tokens, queries, rng)
        rows = AttentionRows.of(k, q, tuple(SPREADS.values()))
        errors = dict(reconstruction_errors(k, cells, seed=int(rng.integers(2**31))))
        return cls(k, rows, errors, {at: rows.logit_errors(error) for at, error in errors.items()})

    def kl(self, at: tuple[Cell, int]) -> NDArray[np.float64]:
        """KL of every query, shape (regime, spread, query)."""
        by_spread = [self.rows.kl(self.deltas[at], i) for i in range(len(SPREADS))]
        return np.stack(by_spread, axis=1).astype(np.float64)

    def key_measures(self, at: tuple[Cell, int]) -> NDArray[np.float64]:
        """Squared error, angle and share of changed top keys, shape (regime, measure)."""
        missed = self.rows.top_missed(self.deltas[at])[..., None]
        return np.concatenate([vector_errors(self.k, self.errors[at]), missed], axis=-1)


def _statistics(kl: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean, median and 95% quantile over the last axis."""
    return np.stack([kl.mean(axis=-1), *np.quantile(kl, (0.5, 0.95), axis=-1)], axis=-1)


def _output_errors(
    heads: _Heads,
    pairs: Sequence[tuple[Cell, Cell]],
    v: NDArray[np.float32],
    budgets: Sequence[int],
    *,
    seed: int,
) -> tuple[dict[tuple[Cell, int], FloatArray], dict[tuple[Cell, Cell, int], FloatArray]]:
    """Errors (regime, measure) of values by (cell, bits) and of outputs by (key, value, bits)."""
    cells = tuple(dict.fromkeys(value for _, value in pairs))
    errors = reconstruction_errors(v, cells, budgets, seed=seed)
    coded = {at: v + error for at, error in errors}
    exact, outputs = heads.rows.p[MODERATE] @ v, {}
    for key, bits in product(dict.fromkeys(key for key, _ in pairs), budgets):
        p = heads.rows.perturbed(heads.deltas[key, bits], MODERATE)
        partners = [value for other, value in pairs if other == key]
        # One product for all values that meet these keys.
        attended = p @ np.concatenate([coded[value, bits] for value in partners], axis=-1)
        for value, t in zip(partners, np.split(attended, len(partners), axis=-1), strict=True):
            outputs[key, value, bits] = vector_errors(exact, t - exact)
    return {at: vector_errors(v, v_hat - v) for at, v_hat in coded.items()}, outputs


@dataclass(frozen=True)
class Agreement:
    """How far the factorial's shortcuts are from the library.

    Attributes
    ----------
    kl : float
        Largest relative difference of a mean KL from :func:`attention_kl` in float64.
    reconstructions : bool
        Whether QKQV at four bits reconstructs what :func:`kvlib.quantize.named` does.
    """

    kl: float
    reconstructions: bool


def measure_agreement(*, tokens: int, queries: int, seed: int = 0) -> Agreement:
    """Compare KL in float32 and reconstructions from shared codes with the library's."""
    heads = _Heads.draw(OUTPUT_DIM, FULL_PLAN, tokens, queries, np.random.default_rng(seed))
    q, k = heads.rows.q.astype(float), heads.k
    worst = 0.0
    for at in ((WHT, 2), (QJL_GAUSSIAN, 4), (WHT, 6)):
        measured, k_hat = heads.kl(at).mean(axis=-1), k + heads.errors[at]
        for i, spread in enumerate(SPREADS.values()):
            exact = attention.attention_kl(q, k, k_hat, scale=spread).mean(axis=-1)
            worst = max(worst, float(np.abs(measured[:, i] / exact - 1).max()))
    scheme = quantize.named("QKQV", 4, sketch="hadamard", side_dtype="float32")
    direct = scheme.key.encode(k, seed=11).decode() - k
    shared = dict(reconstruction_errors(k, [QJL_HADAMARD], [4], seed=11))[QJL_HADAMARD, 4]
    return Agreement(worst, bool(np.allclose(direct, shared, atol=1e-3)))
