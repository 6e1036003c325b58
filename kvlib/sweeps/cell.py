"""One draw of keys, values and queries, measured under every treatment of a grid.

A draw holds the heads of all families of one shape, which share a rotation and are encoded
together, or one captured head. Numbers do not depend on what else is in a draw.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvlib.checks import FloatArray
from kvlib.data import heads, synthetic
from kvlib.measure.comparison import Comparison, Exact, Reconstruction
from kvlib.measure.registry import metric_of
from kvlib.sweeps.grid import Cell, Grid, Treatment, load_cache

# Numbers of keys that are encoded together: 32 MB in float64, whatever the grid.
_MOST_NUMBERS = 1 << 22


# Draws -----------------------------------------------------------------------------------------


def _seeds(coordinates: Mapping[str, Any], count: int) -> list[np.random.SeedSequence]:
    """Independent streams from coordinates and nothing else."""
    digest = hashlib.sha256(json.dumps(coordinates, sort_keys=True).encode()).digest()
    return np.random.SeedSequence(int.from_bytes(digest, "big")).spawn(count)


def scheme_seed(cell: Cell, seed: int) -> int:
    """Root of rotation and sketch: one for all treatments, and for all families of a shape.

    Schemes, budgets and families are paired in it; captured heads each have their own.
    """
    shared: dict[str, Any] = {"dim": cell.dim, "tokens": cell.tokens, "repetition": cell.repetition}
    if cell.cache is not None:
        shared |= {"cache": cell.cache, "layer": cell.layer, "head": cell.head}
    (stream,) = _seeds({"seed": seed, "what": "scheme", **shared}, 1)
    return int(stream.generate_state(1)[0])


def draw_head(cell: Cell, grid: Grid) -> tuple[FloatArray, FloatArray, FloatArray, dict[str, Any]]:
    """Queries, keys, values of one head, and what attention must be told of it."""
    options: dict[str, Any] = {"causal": False}
    if cell.cache is not None:
        q, k, v, options = _captured_head(cell, grid)
    else:
        q, k, v = _synthetic_head(cell, grid)
    q, k, v = (np.ascontiguousarray(x, dtype=grid.dtype) for x in (q, k, v))
    if grid.logit_unit == "spread":
        q = _unit_spread(q, k, options.get("scale"))
    return q, k, v, options


def _synthetic_head(cell: Cell, grid: Grid) -> tuple[FloatArray, FloatArray, FloatArray]:
    assert cell.family is not None
    coordinates = {"seed": grid.seed, **asdict(cell)}
    key_rng, value_rng, query_rng = map(np.random.default_rng, _seeds(coordinates, 3))
    extra = grid.queries if cell.query_law == "keys" else 0
    keys = synthetic.draw(cell.family, cell.tokens + extra, cell.dim, rng=key_rng)
    values = synthetic.draw(cell.family, cell.tokens, cell.dim, rng=value_rng)
    queries = keys[cell.tokens :]
    if not extra:
        queries = synthetic.draw(synthetic.GAUSSIAN, grid.queries, cell.dim, rng=query_rng)
    return queries, keys[: cell.tokens], values


def _captured_head(
    cell: Cell, grid: Grid
) -> tuple[FloatArray, FloatArray, FloatArray, dict[str, Any]]:
    (path,) = (p for p in grid.caches if load_cache(p).name == cell.cache)
    cache = load_cache(path)
    assert cell.layer is not None
    assert cell.head is not None
    at = cache.layers.index(cell.layer) * len(cache.heads) + cache.heads.index(cell.head)
    head = _heads_of(str(path), grid.queries)[at]
    window = cell.window or 0
    options = head.options
    if "mask" in options:  # of a sliding window: padding is refused
        options["mask"] = options["mask"][window]
    k, v = (x[window].reshape(x.shape[-2:]) for x in (head.k, head.v))
    return head.q[window], k, v, options


@functools.lru_cache(maxsize=2)
def _heads_of(path: str, rows: int) -> tuple[heads.Head, ...]:
    return tuple(heads.heads(load_cache(path), rows=rows))


def _unit_spread(q: FloatArray, k: FloatArray, scale: float | None) -> FloatArray:
    """Queries scaled so that the logits spread by one, each query's mean removed."""
    logits = q.astype(np.float64) @ k.T.astype(np.float64)
    logits = logits / np.sqrt(k.shape[-1]) if scale is None else logits * scale
    spread = np.sqrt(np.square(logits - logits.mean(-1, keepdims=True)).mean())
    return np.asarray(q / spread, dtype=q.dtype)


# Rows ------------------------------------------------------------------------------------------


class _Heads:
    """Heads of one seed, stacked, at every logit scale."""

    def __init__(
        self, parts: Sequence[tuple[FloatArray, ...]], options: Mapping[str, Any], seed: int
    ) -> None:
        q, self.k, self.v = (np.stack(x) for x in zip(*parts, strict=True))
        self.q, self.options, self.seed = q, options, seed
        self._exact: dict[float, Exact] = {}

    def exact(self, logit_scale: float) -> Exact:
        """At one logit scale; what attention makes of it is computed once for all treatments."""
        if logit_scale not in self._exact:
            q = np.asarray(logit_scale * self.q, dtype=self.q.dtype)
            rules = {name: x for name, x in self.options.items() if name != "causal"}
            self._exact[logit_scale] = Exact(q, self.k, self.v, self.options["causal"], rules)
        return self._exact[logit_scale]

    def one(self, index: int) -> _Heads:
        """A head by itself."""
        part = (self.q[index], self.k[index], self.v[index])
        return _Heads([part], self.options, self.seed)


def _measure(
    heads_: _Heads, treatment: Treatment, grid: Grid, scales: Sequence[float]
) -> NDArray[np.float64]:
    """All metrics of one treatment, shape (heads, logit scales, metrics)."""
    scheme = treatment.build(grid.side_dtype)
    decoded = Reconstruction(scheme, heads_.exact(scales[0]), heads_.seed)
    out = np.empty((len(heads_.k), len(scales), len(grid.metrics)))
    for i, scale in enumerate(scales):
        comparison = Comparison(heads_.exact(scale), decoded)
        for j, name in enumerate(grid.metrics):
            out[:, i, j] = metric_of(name).measure(comparison)
    return out


def _rows_of(heads_: _Heads, treatment: Treatment, grid: Grid) -> list[list[Any]]:
    """For each head and logit scale its measures, or the error in their place.

    Heads and scales are measured together; where one of them fails, each by itself.
    """
    try:
        return [list(of_head) for of_head in _measure(heads_, treatment, grid, grid.logit_scales)]
    except Exception as error:
        if len(heads_.k) == len(grid.logit_scales) == 1:
            return [[error]]
    if len(heads_.k) > 1:
        return [_rows_of(heads_.one(i), treatment, grid)[0] for i in range(len(heads_.k))]
    return [[_row(heads_, treatment, grid, scale) for scale in grid.logit_scales]]


def _row(heads_: _Heads, treatment: Treatment, grid: Grid, scale: float) -> Any:
    """The measures of one head at one logit scale, or the error."""
    try:
        return _measure(heads_, treatment, grid, (scale,))[0, 0]
    except Exception as error:
        return error


def _measure_draw(grid: Grid, index: int) -> list[list[Any]]:
    """For each cell of a draw its rows: measures, or the error in their place."""
    cells = grid.draw(index)
    seed = scheme_seed(cells[0], grid.seed)
    results: list[list[Any]] = [[] for _ in cells]
    for members in _batches(cells):
        parts, whole = [], []
        for i in members:
            try:
                *part, options = draw_head(cells[i], grid)
            except Exception as error:
                results[i] = [error] * grid.rows_per_cell
            else:
                parts.append(tuple(part))
                whole.append(i)
        if not whole:
            continue
        stacked = _Heads(parts, options, seed)
        for treatment in grid.treatments:
            for i, rows in zip(whole, _rows_of(stacked, treatment, grid), strict=True):
                results[i] += rows
    return results


def _batches(cells: Sequence[Cell]) -> Iterator[range]:
    """Places of cells that are measured together."""
    size = max(1, _MOST_NUMBERS // (cells[0].tokens * cells[0].dim))
    for start in range(0, len(cells), size):
        yield range(start, min(start + size, len(cells)))


# Shards ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Computed:
    """Measures of the rows of a shard, and the message of each that failed."""

    shard: int
    values: NDArray[np.float64]
    errors: dict[int, str]


def draws_of(grid: Grid, shard: int) -> range:
    """Indices of the draws in a shard."""
    size = grid.draws_per_shard
    return range(shard * size, min((shard + 1) * size, grid.draw_count))


def cells_of(grid: Grid, shard: int) -> list[Cell]:
    """The cells of a shard in the order of their rows."""
    return [cell for index in draws_of(grid, shard) for cell in grid.draw(index)]


def compute(grid: Grid, shard: int) -> Computed:
    """Measure every row of a shard; a row that fails does not stop the others."""
    rows = [
        row
        for index in draws_of(grid, shard)
        for of_cell in _measure_draw(grid, index)
        for row in of_cell
    ]
    values = np.full((len(rows), len(grid.metrics)), np.nan)
    errors = {}
    for number, row in enumerate(rows):
        if isinstance(row, Exception):
            errors[number] = f"{type(row).__name__}: {row}"
        else:
            values[number] = row
    return Computed(shard, values, errors)
