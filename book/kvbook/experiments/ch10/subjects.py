"""Keys and queries: synthetic ones with and without spikes, and captured heads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kvbook.models import load_all
from kvlib.checks import FloatArray
from kvlib.data import synthetic
from kvlib.data.heads import Head
from kvlib.data.heads import heads as heads_of

DENSE = "Gaussian"
RARE = "one key in 16 a spike of 99%"
HEAVY = "Student t, ν = 1.05"

SPIKES = {f"spike {share:.1%}".replace(".0%", "%"): share for share in (0.6, 0.9, 0.99, 0.999)}
"""Kinds of keys whose largest coordinate, at a random place, holds this share of the energy."""

SUBJECTS = (DENSE, *SPIKES, RARE, HEAVY)
"""Kinds of keys, by name. Lengths are about sqrt(d), but for ``HEAVY``, whose lengths vary."""


def draw_subject(name: str, tokens: int, dim: int, rng: np.random.Generator) -> FloatArray:
    """Keys of one kind, median length sqrt(d), shape (token, d)."""
    if name == RARE:
        k = synthetic.draw(synthetic.GAUSSIAN, tokens, dim, rng=rng)
        k[::16] = synthetic.draw(synthetic.spike(0.99), len(k[::16]), dim, rng=rng)
        return k
    if name in SPIKES:
        return synthetic.draw(synthetic.spike(SPIKES[name]), tokens, dim, rng=rng)
    k = synthetic.draw(
        synthetic.student_t(1.05) if name == HEAVY else synthetic.GAUSSIAN, tokens, dim, rng=rng
    )
    return np.asarray(k * math.sqrt(dim / np.median((k * k).sum(axis=-1))))


def draw_queries(k: FloatArray, queries: int, rng: np.random.Generator) -> FloatArray:
    """Isotropic queries, scaled so that the logits of the head have standard deviation one."""
    return unit_spread(rng.standard_normal((queries, k.shape[-1])), k)


def unit_spread(q: FloatArray, k: FloatArray) -> FloatArray:
    """Queries scaled so that the logits have standard deviation one over rows and tokens."""
    return np.asarray(q / (q @ k.T / math.sqrt(k.shape[-1])).std())


def draw_all(
    tokens: int, queries: int, dim: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Queries and keys of every kind in float32, shapes (subject, query or token, d)."""
    keys = [draw_subject(name, tokens, dim, rng) for name in SUBJECTS]
    asked = [draw_queries(k, queries, rng) for k in keys]
    return np.array(asked, dtype=np.float32), np.array(keys, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Captured:
    """A captured head, and whether its model is the language model trained at the right rate."""

    head: Head
    language_model: bool


def captured_heads(rows: int) -> list[Captured]:
    """Every captured head in float32, with the last ``rows`` queries a window."""
    return [
        Captured(head, model == "rope-lm")
        for model, cache in load_all().items()
        for head in heads_of(cache, rows=rows, dtype=np.float32)
    ]


def largest_shares(captured: list[Captured]) -> Iterator[FloatArray]:
    """Share of the energy in the largest coordinate of every key, head by head."""
    for entry in captured:
        energy = entry.head.k.reshape(-1, entry.head.dim) ** 2
        yield energy.max(axis=-1) / energy.sum(axis=-1)


def share_numbers(captured: list[Captured], limit: float = 0.9) -> Mapping[str, float]:
    """Largest share of all captured keys, its median over keys, percent of keys above a limit."""
    shares = np.concatenate(list(largest_shares(captured)))
    return {
        "share-largest": 100 * float(shares.max()),
        "share-median": 100 * float(np.median(shares)),
        "share-above": int((shares > limit).sum()),
    }


def heavy_share(dim: int, seed: np.random.SeedSequence, vectors: int = 20_000) -> float:
    """Percent of Student-t vectors with more than half of their energy in one coordinate."""
    energy = draw_subject(HEAVY, vectors, dim, np.random.default_rng(seed)) ** 2
    return 100 * float(np.mean(energy.max(axis=-1) > energy.sum(axis=-1) / 2))
