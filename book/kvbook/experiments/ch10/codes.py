"""The ways to spend n bits on a key that this chapter compares, and what it measures of them.

Norm, matched and unbiased scale store the same codes: they differ in the length of one decoded
direction. So keys are encoded once for the three, and stretched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvlib.checks import FloatArray
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer

NORM = "norm"
MATCHED = "matched"
UNBIASED = "unbiased"
QJL = "QJL, orthogonal"
QJL_GAUSSIAN = "QJL, Gaussian"

SCALES = (NORM, MATCHED, UNBIASED)
"""All bits in the codebook; the number stored beside the codes differs."""
CODES = (*SCALES, QJL, QJL_GAUSSIAN)
"""Those, and one bit of n in a sign sketch of what the other n - 1 leave."""

WHAT = ("KL", "squared error")
"""What is measured: the KL divergence of attention rows, and |k - k_hat|^2 / |k|^2."""


def stretched(x: FloatArray, decoded: FloatArray) -> dict[str, FloatArray]:
    """Vectors decoded with the norm, and the same directions with the two other scales."""
    energy = (x * x).sum(axis=-1, keepdims=True)
    length = (decoded * decoded).sum(axis=-1, keepdims=True)
    overlap = (x * decoded).sum(axis=-1, keepdims=True)
    return {
        NORM: decoded,
        MATCHED: decoded * np.sqrt(energy / length),
        UNBIASED: decoded * (energy / overlap),
    }


def decode_all(
    x: FloatArray,
    bits: int,
    *,
    rounds: int = 1,
    seed: int,
    wanted: Sequence[str] = CODES,
    side_dtype: str = "float32",
) -> dict[str, FloatArray]:
    """What each code makes of vectors, all under one rotation.

    Parameters
    ----------
    x : array, shape (..., tokens, d)
    bits : int
        All bits a coordinate, the sketch's among them.
    rounds : int
        Hadamard rounds before the codebook; the Hadamard sketch has one of its own.
    seed : int
        Of the rotation and of the sketch.
    wanted : sequence of str
        Of :data:`CODES`.
    side_dtype : {"float16", "float32"}
        Float32 by default, for keys whose lengths half precision does not hold.
    """
    plain = RotatedQuantizer(bits, rounds=rounds, side_dtype=side_dtype)
    found = stretched(x, plain.encode(x, seed=seed).decode())
    for name, kind in ((QJL, "hadamard"), (QJL_GAUSSIAN, "gaussian")):
        if name in wanted:
            sketched = RotatedQuantizer(bits, rounds=rounds, sketch=kind, side_dtype=side_dtype)
            found[name] = sketched.encode(x, seed=seed).decode()
    return {name: found[name] for name in wanted}


def squared_error(x: FloatArray, x_hat: FloatArray) -> FloatArray:
    """|x - x_hat|^2 / |x|^2, mean over the tokens."""
    error, energy = (np.einsum("...i,...i->...", y, y) for y in (x_hat - x, x))
    return np.asarray((error / energy).mean(axis=-1))


def measure_codes(
    q: FloatArray,
    k: FloatArray,
    bits: int,
    *,
    rounds: int = 1,
    seed: int,
    causal: bool = False,
    wanted: Sequence[str] = CODES,
) -> FloatArray:
    """KL and squared error of every code: shape (2, code, ...).

    Means over the rows, and over the tokens.
    """
    found = decode_all(k, bits, rounds=rounds, seed=seed, wanted=wanted).values()
    kl = [attention.attention_kl(q, k, x, causal=causal).mean(axis=-1) for x in found]
    return np.stack([kl, [squared_error(k, x) for x in found]])
