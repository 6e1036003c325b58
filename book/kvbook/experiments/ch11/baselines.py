"""Codebooks and scalar quantizers that the captions' "MSE baseline" could be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from kvbook.experiments.ch11.errors import BUDGETS, Floats
from kvlib.laws import sphere
from kvlib.quantize import RotatedQuantizer, codebooks
from kvlib.quantize.codebooks import Codebook

DAMAGED_DIM = 256  # where chapter 6 found its damaged codebook
BITS = range(1, 7)

BooksByBits = Mapping[int, Codebook]
Books = Mapping[str, BooksByBits]  # by name
Quantize = Callable[[Floats, int], Floats]  # vectors and bits to reconstructed vectors
Axis = int | tuple[int, int]

# Axes that share one scale, of keys (..., token, channel).
AXES: dict[str, Axis] = {"token": -1, "channel": -2, "tensor": (-2, -1)}


def crosses(distortions: Mapping[int, float], dim: int) -> tuple[int, ...]:
    """Budgets at which QKQV has the smaller error, by a least-squares orthogonal sketch."""
    residual = 1 - dim * sphere.mean_absolute(dim) ** 2
    return tuple(n for n in BUDGETS if residual * distortions[n - 1] < distortions[n])


def damaged_codebooks(
    dim: int, rng: np.random.Generator, pattern: tuple[int, ...] = (2, 3, 5)
) -> dict[int, Codebook]:
    """Chapter 6's damaged codebooks, by bits: Lloyd iterations that leave levels without data.

    2^14 samples, start on [-1, 1], 100 iterations. At d = 256 the first training sample that
    makes QKQV win at the budgets of ``pattern``; elsewhere the first of all.
    """
    while True:
        u = rng.standard_normal((2**14 // dim, dim))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        books = {
            n: codebooks.lloyd_iterations(u, dim, n, start=np.linspace(-1, 1, 2**n), iterations=100)
            for n in BITS
        }
        distortions = {n: book.distortion for n, book in books.items()}
        if dim != DAMAGED_DIM or crosses(distortions, dim) == pattern:
            return books


def candidate_codebooks(dim: int, stream: np.random.SeedSequence) -> dict[str, BooksByBits]:
    """The four codebooks a search tries, by name and bits."""
    return {
        "Lloyd-Max": {n: codebooks.lloyd_max(dim, n) for n in BITS},
        "uniform": {n: codebooks.uniform(dim, n) for n in BITS},
        "[−1, 1] evenly": {n: Codebook(dim, n, np.linspace(-1, 1, 2**n), "even") for n in BITS},
        "dead levels": damaged_codebooks(dim, np.random.default_rng(stream)),
    }


def round_to_levels(book: Codebook, y: ArrayLike) -> Floats:
    """Each number, replaced by the nearest level."""
    return book.dequantize(book.quantize(np.asarray(y)))


def on_unit_vector(books: BooksByBits) -> Quantize:
    """A codebook applied to the directions of vectors, whose norms are kept."""

    def quantize(x: Floats, bits: int) -> Floats:
        norm = np.linalg.norm(x, axis=-1, keepdims=True)
        return np.asarray(norm * round_to_levels(books[bits], x / norm))

    return quantize


def min_max(x: Floats, bits: int, axis: Axis) -> Floats:
    """2^n levels evenly from the minimum to the maximum."""
    low, high = x.min(axis=axis, keepdims=True), x.max(axis=axis, keepdims=True)
    step = (high - low) / (2**bits - 1)
    return np.asarray(low + np.round((x - low) / step) * step)


def symmetric_integers(x: Floats, bits: int, axis: Axis) -> Floats:
    """Integers to ±(2^(n-1) - 1), at one bit to ±1, scaled to the largest absolute value."""
    step = np.abs(x).max(axis=axis, keepdims=True) / max(2 ** (bits - 1) - 1, 1)
    return np.asarray(np.round(x / step) * step)


def cell_midpoints(x: Floats, bits: int, axis: Axis) -> Floats:
    """Midpoints of 2^n cells of [-max, max]."""
    half = 2 ** (bits - 1)
    step = np.abs(x).max(axis=axis, keepdims=True) / half
    return np.asarray((np.clip(np.floor(x / step), -half, half - 1) + 0.5) * step)


def normal_levels(x: Floats, bits: int, axis: Axis) -> Floats:
    """Lloyd-Max levels of (nearly) the normal law, at the root mean square."""
    size = 32 * np.sqrt(np.square(x).mean(axis=axis, keepdims=True))
    return np.asarray(size * round_to_levels(codebooks.lloyd_max(1024, bits), x / size))


RAW_METHODS = {
    "min_max": min_max,
    "integers": symmetric_integers,
    "cells": cell_midpoints,
    "normal": normal_levels,
}


def on_raw_keys(method: str, scaled_by: str) -> Quantize:
    """A quantizer of the raw keys, with one scale a token, channel or tensor."""
    return lambda x, bits: RAW_METHODS[method](x, bits, AXES[scaled_by])


def scalar_baselines(books: Books) -> dict[str, Quantize]:
    """Every reading of "scalar MSE baseline", by name: sixteen quantizers without rotation."""
    found = {f"unit vector, {name}": on_unit_vector(of_bits) for name, of_bits in books.items()}
    for method, scaled_by in product(RAW_METHODS, AXES):
        found[f"{method}, {scaled_by}"] = on_raw_keys(method, scaled_by)
    return found


def decoded(coder: RotatedQuantizer, x: Floats, seeds: ArrayLike) -> Floats:
    """Heads (draw, token, dim) coded and decoded, each draw with a rotation of its own."""
    pairs = zip(x.astype(np.float32), np.asarray(seeds).tolist(), strict=True)
    return np.stack([coder.encode(y, seed=s).decode() for y, s in pairs])
