"""One draw of keys, values and queries, measured under every treatment of a grid."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvlib.data import synthetic
from kvlib.measure import attention, metrics
from kvlib.sweeps.grid import Cell, Grid, Treatment

MEASURES = (
    "kl_mean",
    "kl_median",
    "kl_p95",
    "mse_k",
    "mse_v",
    "mse_t",
    "rate_k",
    "angle_k",
    "rate_v",
    "angle_v",
    "rate_t",
    "angle_t",
    "top1_agreement",
    "bits_per_coordinate",
)
"""Measured columns, see :func:`run`."""


# One cell --------------------------------------------------------------------------------------


def _seeds(cell: Cell, seed: int) -> list[np.random.SeedSequence]:
    """Independent streams for keys, values, queries and schemes, from the coordinates alone."""
    coordinates = json.dumps({"seed": seed, **asdict(cell)}, sort_keys=True)
    digest = hashlib.sha256(coordinates.encode()).digest()
    return np.random.SeedSequence(int.from_bytes(digest, "big")).spawn(4)


class _Draw:
    """The keys, values and queries of a cell, and what several of its rows share."""

    def __init__(self, cell: Cell, grid: Grid) -> None:
        *data, scheme = _seeds(cell, grid.seed)
        key_rng, value_rng, query_rng = map(np.random.default_rng, data)
        extra = grid.queries if grid.query_law == "keys" else 0
        keys = synthetic.draw(cell.family, cell.tokens + extra, cell.dim, rng=key_rng)
        self.k = np.ascontiguousarray(keys[: cell.tokens])
        self.v = synthetic.draw(cell.family, cell.tokens, cell.dim, rng=value_rng)
        self.q = (
            np.ascontiguousarray(keys[cell.tokens :])
            if extra
            else synthetic.draw(synthetic.GAUSSIAN, grid.queries, cell.dim, rng=query_rng)
        )
        # One seed for all schemes: they are paired in their rotation and sketch, too.
        self.scheme_seed = int(scheme.generate_state(1)[0])
        self._exact: dict[float, NDArray[np.float64]] = {}
        self._top: NDArray[np.intp] | None = None

    def exact_output(self, logit_scale: float) -> NDArray[np.float64]:
        """Attention output with exact keys and values, computed once a logit scale."""
        if logit_scale not in self._exact:
            q = logit_scale * self.q
            self._exact[logit_scale] = attention.attention_output(q, self.k, self.v)
        return self._exact[logit_scale]

    def top1_agreement(self, k_hat: NDArray[Any]) -> float:
        """Share of queries whose largest attention weight stays at the same key."""
        if self._top is None:
            self._top = _largest(self.q, self.k)
        return float(np.mean(_largest(self.q, k_hat) == self._top))


def _largest(q: NDArray[Any], k: NDArray[Any]) -> NDArray[np.intp]:
    """Index of the key with the largest logit, in blocks of queries."""
    rows = max(1, attention.BLOCK_BYTES // (8 * len(k)))
    blocks = [(q[i : i + rows] @ k.T).argmax(-1) for i in range(0, len(q), rows)]
    return np.concatenate(blocks)


def _treat(draw: _Draw, treatment: Treatment, logit_scales: Sequence[float]) -> Iterator[Any]:
    """Yield the measures of one treatment at each logit scale, or the error in their place."""
    try:
        encoded = treatment.build().encode(draw.k, draw.v, seed=draw.scheme_seed)
        k_hat, v_hat = encoded.decode()
    except Exception as error:
        yield from itertools.repeat(error, len(logit_scales))
        return
    for logit_scale in logit_scales:
        try:
            yield _measure(draw, k_hat, v_hat, logit_scale, encoded.bits_per_coordinate)
        except Exception as error:
            yield error


def _measure(
    draw: _Draw, k_hat: NDArray[Any], v_hat: NDArray[Any], logit_scale: float, bits: float
) -> list[float]:
    """One row, in the order of MEASURES."""
    q, k, v = logit_scale * draw.q, draw.k, draw.v
    kl = attention.attention_kl(q, k, k_hat)
    t, t_hat = draw.exact_output(logit_scale), attention.attention_output(q, k_hat, v_hat)
    pairs = ((k, k_hat), (v, v_hat), (t, t_hat))
    return [
        float(kl.mean()),
        float(np.median(kl)),
        float(np.quantile(kl, 0.95)),
        *(float(metrics.relative_mse(x, x_hat).mean()) for x, x_hat in pairs),
        *map(float, metrics.error_vector_6d(k, k_hat, v, v_hat, t, t_hat)),
        draw.top1_agreement(k_hat),
        bits,
    ]


@dataclass(frozen=True, eq=False)
class Computed:
    """Measures of the rows of a shard, and the message of each that failed."""

    shard: int
    values: NDArray[np.float64]
    errors: dict[int, str]


def cells_of(grid: Grid, shard: int) -> range:
    size = grid.cells_per_shard
    return range(shard * size, min((shard + 1) * size, grid.cell_count))


def compute(grid: Grid, shard: int) -> Computed:
    """Measure every row of a shard; a row that fails does not stop the others."""
    results: list[Any] = []
    for index in cells_of(grid, shard):
        try:
            draw = _Draw(grid.cell(index), grid)
        except Exception as error:
            results += [error] * grid.rows_per_cell
            continue
        for treatment in grid.treatments:
            results += _treat(draw, treatment, grid.logit_scales)
    values = np.full((len(results), len(MEASURES)), np.nan)
    errors = {}
    for row, result in enumerate(results):
        if isinstance(result, Exception):
            errors[row] = f"{type(result).__name__}: {result}"
        else:
            values[row] = result
    return Computed(shard, values, errors)
