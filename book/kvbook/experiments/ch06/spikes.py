"""A genuine exception: keys made of one spike, under one Hadamard round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats as distributions

from kvbook.experiments.ch06.keys import Encoding, KeyErrors, repeat_draws
from kvbook.experiments.ch06.rule import (
    BUDGETS,
    GAUSSIAN,
    ORTHOGONAL,
    Sketch,
    sketch_constant,
)
from kvlib.checks import FloatArray
from kvlib.data import synthetic
from kvlib.quantize import codebooks


def spike_error_law(dim: int, bits: int, energy: float, *, points: int = 20_000) -> float:
    """KQV's relative squared error on a key whose spike holds ``energy``, one Hadamard round.

    The rest of the key counts as normal; the midpoint rule in probability averages over it.
    """
    z = distributions.norm.ppf((np.arange(points) + 0.5) / points)
    y = (math.sqrt(energy) + math.sqrt(1 - energy) * z) / math.sqrt(dim)
    book = codebooks.lloyd_max(dim, bits)
    return float(dim * np.mean((y - book.dequantize(book.quantize(y))) ** 2))


def sketched_spike_law(sketch: Sketch, dim: int, bits: int, energy: float) -> float:
    """QKQV's error on the same key: what the sketch leaves of the error with a bit less."""
    return sketch_constant(sketch, dim) * spike_error_law(dim, bits - 1, energy)


def measure_spikes(
    energies: Sequence[float],
    arms: Mapping[str, Encoding],
    *,
    dim: int,
    tokens: int,
    draws: int,
    seed: np.random.SeedSequence,
) -> dict[str, KeyErrors]:
    """Errors of every arm on keys with one spike; a kind of keys is a share of the energy."""

    def draw(rng: np.random.Generator) -> FloatArray:
        families = [synthetic.spike(energy) for energy in energies]
        keys = [synthetic.draw(family, tokens, dim, rng=rng) for family in families]
        return np.stack(keys).astype(np.float32)

    return repeat_draws(draw, arms, draws=draws, seed=seed)


def sketch_disagreement(errors: KeyErrors, energy: int, *, dim: int, share: float) -> float:
    """The largest relative deviation from the law at n = 2, over Gaussian and Haar sketches.

    Parameters
    ----------
    errors : KeyErrors
        Under one Hadamard round.
    energy : int
        Position of the kind of keys.
    dim, share
        Dimension, and the spike's share of the energy in that kind.
    """
    return max(
        abs(float(array[:, 0, 0, energy].mean()) / sketched_spike_law(sketch, dim, 2, share) - 1)
        for sketch, array in errors.sketched.items()
        if sketch.kind != "hadamard"
    )


def spike_numbers(errors: KeyErrors, energy: int, *, dim: int, share: float) -> dict[str, float]:
    """Errors at n = 2, and the largest deviations from the laws in percent (arguments as above)."""
    plain = errors.plain[:, :, 0, energy].mean(axis=0)
    law = np.array([spike_error_law(dim, n, share) for n in BUDGETS])
    off = sketch_disagreement(errors, energy, dim=dim, share=share)
    sketched = {
        name: float(errors.sketched[sketch][:, 0, 0, energy].mean())
        for name, sketch in (("spike-gaussian", GAUSSIAN), ("spike-orthogonal", ORTHOGONAL))
    }
    return sketched | {
        "spike-kqv": float(plain[0]),
        "spike-agreement": 100 * float(np.abs(plain / law - 1).max()),
        "spike-sketch-agreement": 100 * off,
    }
