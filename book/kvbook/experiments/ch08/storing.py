"""What the experiments of the chapter store: values, ways to store them, their draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvlib.data import synthetic
from kvlib.quantize import Quantizer

FloatArray = NDArray[np.float64]
Vectors = NDArray[Any]
"""Values, keys or queries in float32, shape (..., tokens, d)."""
Way = Callable[[int], Quantizer]
"""A way to store vectors: the quantizer of each budget."""
DIM = 128
"""Coordinates of the synthetic values."""


def common_mean(share: float) -> synthetic.Family:
    """Gaussian values around a mean that holds a share of their energy, which may be zero."""
    return synthetic.common_mean(share) if share else synthetic.GAUSSIAN


def stored(x: Vectors, quantizer: Quantizer, seed: int) -> Vectors:
    """Vectors after storage; ``seed`` draws the rotation and the sketch that all of them share."""
    return quantizer.encode(x, seed=int(seed)).decode()
