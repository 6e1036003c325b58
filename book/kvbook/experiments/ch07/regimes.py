"""The ten laws of keys and values, and draws of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvlib.data import synthetic

GAUSSIAN = "Gaussian"
HEAVY = "t, ν=3"
EXTREME = "t, ν=1.05"
SPIKE = "spike 99%"
ALIGNED = "rank 4, aligned"

REGIMES = {
    GAUSSIAN: synthetic.GAUSSIAN,
    HEAVY: synthetic.student_t(3),
    EXTREME: synthetic.student_t(1.05),
    "rank 1": synthetic.low_rank(1),
    "rank 4": synthetic.low_rank(4),
    "rank 32": synthetic.low_rank(32),
    "rank 4, t": synthetic.low_rank_t(4, 3),
    ALIGNED: synthetic.low_rank(4),
    SPIKE: synthetic.spike(0.99),
    "common mean": synthetic.common_mean(0.5),
}
"""Laws of keys, and of values, by name. Where keys are ``ALIGNED``, queries are of their law and
share their subspace; everywhere else queries are standard normal."""

ORDINARY = tuple(name for name in REGIMES if name not in (SPIKE, EXTREME, ALIGNED))
"""Regimes without spiky keys, and without queries that lie along the keys."""

ISOTROPIC = tuple(name for name in REGIMES if name not in (HEAVY, EXTREME, SPIKE))
"""Regimes whose law of keys and queries together no rotation changes: there a quantizer without a
rotation has the same law of errors as behind a Haar rotation."""


def regimes_at(dim: int) -> tuple[str, ...]:
    """Names of the regimes that exist in ``dim`` dimensions: those of at most that rank."""
    return tuple(name for name, law in REGIMES.items() if not (law.rank and law.rank > dim))


def regime_index(dim: int, name: str) -> int:
    """Place of a regime on the regime axis of results at ``dim``."""
    return regimes_at(dim).index(name)


def dots(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Inner products along the last axis."""
    return np.asarray(np.einsum("...i,...i->...", a, b))


def draw_heads(
    dim: int, tokens: int, queries: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Keys (regime, token, d) and queries (regime, query, d), a head of each regime."""
    drawn = []
    for name in regimes_at(dim):
        x = synthetic.draw(REGIMES[name], tokens + queries, dim, rng=rng)
        q = x[tokens:] if name == ALIGNED else rng.standard_normal((queries, dim))
        drawn.append((_scaled(x[:tokens]), q))
    keys, all_queries = zip(*drawn, strict=True)
    return np.array(keys, dtype=np.float32), np.array(all_queries, dtype=np.float32)


def draw_values(dim: int, tokens: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Values (regime, token, d) of the keys' laws, independent of the keys."""
    laws = [REGIMES[name] for name in regimes_at(dim)]
    return np.array(
        [_scaled(synthetic.draw(law, tokens, dim, rng=rng)) for law in laws], dtype=np.float32
    )


def draw_keys(
    name: str, dim: int, tokens: int, spare: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Keys of one regime, shape (token, d), out of a draw of ``tokens + spare`` vectors."""
    return _scaled(synthetic.draw(REGIMES[name], tokens + spare, dim, rng=rng)[:tokens])


def _scaled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median length sqrt(d): an easy range for float32. No measure here depends on it."""
    return np.asarray(x * math.sqrt(x.shape[-1] / np.median(dots(x, x))))
