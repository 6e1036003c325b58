"""Errors of both caches and the output at each budget: what C14 to C17 look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.ch11.errors import (
    BUDGETS,
    Floats,
    coordinates,
    draw_heads,
    errors,
    random_draws,
)
from kvlib.data import synthetic
from kvlib.measure import attention
from kvlib.quantize import Scheme

FAT, RANK_32 = "t, ν=1.05", "rank 32"
PLANE_FAMILIES = {RANK_32: synthetic.low_rank(32), FAT: synthetic.student_t(1.05)}
CACHES = "KVT"  # keys, values, outputs


@dataclass(frozen=True)
class Planes:
    """Errors of schemes by budget.

    Attributes
    ----------
    schemes, families : sequence of str
    errors : array, shape (budget 2..6, scheme, cache K V T, 4, family, draw)
        The errors of `errors.errors`.
    kl : array, shape (budget 2..6, scheme, family, draw)
        Mean over the queries of a draw, nats.
    """

    schemes: Sequence[str]
    families: Sequence[str]
    errors: Floats
    kl: Floats

    def of(self, family: str, scheme: str, bits: int) -> Floats:
        """Errors of keys, values and outputs: (3, 4, draw)."""
        i, j = BUDGETS.index(bits), self.schemes.index(scheme)
        return np.asarray(self.errors[i, j, :, :, self.families.index(family)])

    def of_cache(self, family: str, scheme: str, bits: int, cache: str) -> Floats:
        """Errors of "K", "V" or "T": (4, draw)."""
        return np.asarray(self.of(family, scheme, bits)[CACHES.index(cache)])

    def points(self, family: str, scheme: str, bits: int) -> Floats:
        """The natural point of each draw, root squared errors and angles/π: (draw, 6)."""
        return coordinates(self.of(family, scheme, bits), "root error", 1, bits).T

    def kl_of(self, family: str, scheme: str, bits: int) -> Floats:
        """KL of each draw, nats."""
        i, j = BUDGETS.index(bits), self.schemes.index(scheme)
        return np.asarray(self.kl[i, j, self.families.index(family)])


def measure_planes(
    schemes: Mapping[str, Callable[[int], Scheme]],
    families: Mapping[str, synthetic.Family],
    stream: np.random.SeedSequence,
    *,
    draws: int,
    tokens: int,
    queries: int,
    dim: int,
) -> Planes:
    """Errors and KL of each scheme at each budget, the same draws and rotations for all."""
    found: list[list[Floats]] = []
    for rng, seed in random_draws(stream, draws):
        q, k, v = draw_heads(rng, families, tokens=tokens, queries=2 * queries, dim=dim)
        found.append(list(_trials(schemes, q[:, :queries], k, v, seed)))
    shape = (draws, len(BUDGETS), len(schemes), 13, len(families))
    quantities = np.moveaxis(np.array(found).reshape(shape), 0, -1)
    parts = quantities[:, :, :12].reshape(*shape[1:3], 3, 4, len(families), draws)
    return Planes(tuple(schemes), tuple(families), parts, quantities[:, :, 12])


def _trials(
    schemes: Mapping[str, Callable[[int], Scheme]],
    q: Floats,
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    seed: int,
) -> Iterator[Floats]:
    """Twelve errors and the KL of each budget and scheme, all families at once: (13, family)."""
    t = attention.attention_output(q, k, v)
    for bits in BUDGETS:
        for make in schemes.values():
            k_hat, v_hat = make(bits).encode(k, v, seed=seed).decode()
            t_hat = attention.attention_output(q, k_hat, v_hat)
            kl = attention.attention_kl(q, k, k_hat).mean(axis=-1)
            pairs = ((k, k_hat), (v, v_hat), (t, t_hat))
            yield np.concatenate([*(errors(x, x_hat) for x, x_hat in pairs), kl[None]])
