"""What several experiments share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvlib import quantize
from kvlib.quantize import RotatedQuantizer, codebooks
from kvlib.stats import Interval


def children(seed: np.random.SeedSequence, count: int) -> list[np.random.SeedSequence]:
    """What ``seed.spawn(count)`` returns, but the same at every call: the seed stays as it is."""
    first = seed.n_children_spawned
    return [
        np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, i))
        for i in range(first, first + count)
    ]


def distortion(dim: int, bits: int) -> float:
    """Relative squared error of the Lloyd-Max code of a rotated vector: D(bits) at d = dim."""
    return codebooks.lloyd_max(dim, bits).distortion


def key_quantizer(arm: str, bits: int) -> RotatedQuantizer:
    """The quantizer that a scheme has for keys at ``bits`` a coordinate.

    Parameters
    ----------
    arm : str
        A scheme's name, for a sketched one with the sketch's: ``"KQV"``, ``"QKQV, Gaussian"``,
        ``"QKQV, orthogonal"``; or ``"KQV, unbiased"``, Lloyd-Max with the unbiased scale.
    bits : int
        Budget a coordinate, the sketch's bit included.
    """
    if arm == "KQV, unbiased":
        return RotatedQuantizer(bits, scale="unbiased")
    name, _, sketch = arm.partition(", ")
    rows = "hadamard" if sketch == "orthogonal" else "gaussian"
    quantizer = quantize.named(name, bits, sketch=rows).key
    assert isinstance(quantizer, RotatedQuantizer)
    return quantizer


def worst_interval(intervals: Sequence[Interval], target: float) -> Interval:
    """The estimate farthest from a target, with the hull of all intervals around it."""
    estimate = max((i.estimate for i in intervals), key=lambda e: abs(e - target))
    low, high = min(i.low for i in intervals), max(i.high for i in intervals)
    return Interval(estimate, low, high, intervals[0].n)
