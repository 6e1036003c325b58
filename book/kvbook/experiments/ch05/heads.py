"""Captured attention heads: the KL of quantized keys, how concentrated the rows are, positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kvbook.experiments.ch05.rows import norm_product
from kvbook.experiments.common import children, key_quantizer
from kvlib import KVCache, attention_kl, attention_weights
from kvlib.checks import FloatArray
from kvlib.data.heads import Head, heads
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer

Cell = tuple[str, int]
"""An arm and its bits, as for :func:`kvbook.experiments.common.key_quantizer`."""


@dataclass(frozen=True, eq=False)
class HeadKL:
    """Mean KL of real heads.

    Attributes
    ----------
    cells : tuple of Cell
    model : ndarray of str, shape (heads,)
        Whose head it is.
    dim : ndarray of int, shape (heads,)
    kl : ndarray, shape (heads, cells)
        Mean over rows and rotations.
    error : ndarray, shape (heads, cells)
        Its relative standard error: what varies is the rotation, and the window with it.
    """

    cells: tuple[Cell, ...]
    model: np.ndarray[tuple[int, ...], np.dtype[np.str_]]
    dim: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    kl: FloatArray
    error: FloatArray

    def of(self, arm: str, bits: int) -> FloatArray:
        """Mean KL of every head, one cell."""
        return np.asarray(self.kl[:, self.cells.index((arm, bits))])

    def error_of(self, arm: str, bits: int) -> FloatArray:
        """Relative standard error of every head's mean KL, one cell."""
        return np.asarray(self.error[:, self.cells.index((arm, bits))])


def kl_of_head(
    head: Head, quantizer: RotatedQuantizer, seeds: Sequence[int]
) -> tuple[float, float]:
    """Mean KL of a head and its relative standard error, over one rotation a seed.

    Rotations take turns on the windows.
    """
    kl = []
    for i, seed in enumerate(seeds):
        q, k = head.q[i % len(head.k)], head.k[i % len(head.k)]
        k_hat = quantizer.encode(k, seed=int(seed)).decode()
        kl.append(attention_kl(q, k, k_hat, causal=head.causal).mean())
    mean = float(np.mean(kl))
    return mean, float(np.std(kl, ddof=1)) / np.sqrt(len(kl)) / mean


def measure_heads(
    caches: Mapping[str, KVCache],
    cells: Sequence[Cell],
    seed: np.random.SeedSequence,
    *,
    rows: int,
    rotations: int,
) -> HeadKL:
    """KL of every head of some models under every cell, ``rows`` queries a window."""
    quantizers = [key_quantizer(arm, bits) for arm, bits in cells]
    model, dim, kl = [], [], []
    for (name, cache), child in zip(caches.items(), children(seed, len(caches)), strict=True):
        found = list(heads(cache, rows=rows))
        for head, of_head in zip(found, children(child, len(found)), strict=True):
            seeds = of_head.generate_state(rotations).tolist()
            kl.append([kl_of_head(head, quantizer, seeds) for quantizer in quantizers])
            model.append(name)
            dim.append(head.dim)
    means, errors = np.moveaxis(np.array(kl), -1, 0)
    return HeadKL(tuple(cells), np.array(model), np.array(dim), means, errors)


@dataclass(frozen=True, eq=False)
class ModelRows:
    """The attention rows of a model.

    Attributes
    ----------
    p : ndarray, shape (rows, tokens)
    entropy, top, S2, S3 : ndarray, shape (rows,)
        Entropy in nats, the largest weight, sums of squares and cubes.
    unit_noise : ndarray, shape (rows,)
        |q|^2 |k|^2 / d^2, keys averaged by their weights: the variance of a logit's error for a
        relative error of one.
    """

    p: FloatArray
    entropy: FloatArray
    top: FloatArray
    S2: FloatArray
    S3: FloatArray
    unit_noise: FloatArray


def measure_rows(cache: KVCache, *, rows: int) -> ModelRows:
    """Exact attention rows of all heads, ``rows`` queries a window."""
    p, unit = [], []
    for head in heads(cache, rows=rows):
        weights = attention_weights(head.q, head.k, causal=head.causal)
        share = (weights * (norm_product(head.q, head.k) / head.dim) ** 2).sum(axis=-1)
        p.append(weights.reshape(-1, weights.shape[-1]))
        unit.append(share.ravel())
    every = np.concatenate(p)
    row = attention.row_statistics(every)
    return ModelRows(every, row.entropy, every.max(axis=-1), row.S2, row.S3, np.concatenate(unit))


def measure_positions(
    cache: KVCache,
    quantizer: RotatedQuantizer,
    seed: np.random.SeedSequence,
    *,
    edges: Sequence[int],
) -> FloatArray:
    """Mean KL by position of the query, over that of the last range; shape (heads, ranges).

    ``edges`` are the first positions of the ranges and the end of the last one. Every head has the
    same four rotations, one for each window.
    """
    seeds, found = seed.generate_state(4), []
    for head in heads(cache):
        k_hat = np.stack(
            [quantizer.encode(k, seed=int(s)).decode() for k, s in zip(head.k, seeds, strict=True)]
        )
        kl = attention_kl(head.q, head.k, k_hat, causal=True).mean(axis=0)
        found.append([kl[a:b].mean() for a, b in pairwise(edges)])
    means = np.array(found)
    return np.asarray(means / means[:, -1:])
