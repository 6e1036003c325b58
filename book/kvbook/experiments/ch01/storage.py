"""Bytes of a cache, counted from the arrays that hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kvlib.quantize import RotatedQuantizer, Scheme


class CacheShape(NamedTuple):
    """The key-value heads of a model."""

    layers: int
    heads: int
    dim: int

    def gibibytes(self, tokens: int, bits: float) -> float:
        """Size in GiB of the cache of one sequence at ``bits`` stored a coordinate."""
        return 2 * self.layers * self.heads * tokens * self.dim * bits / 8 / 2**30


@dataclass(frozen=True)
class StoredVector:
    """Bytes of one stored vector of ``dim`` coordinates: codes, signs, norm, residual norm."""

    dim: int
    parts: tuple[int, int, int, int]

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts)

    @property
    def bits_per_coordinate(self) -> float:
        """Stored bits over coordinates."""
        return 8 * self.total / self.dim


def stored_vector(quantizer: RotatedQuantizer, dim: int) -> StoredVector:
    """What one vector takes, counted from the arrays that hold it."""
    encoded = quantizer.encode(np.ones((1, dim)))
    arrays = (encoded.codes, encoded.signs, encoded.scales, encoded.residual_norms)
    codes, signs, norm, residual_norm = (0 if x is None else x.nbytes for x in arrays)
    return StoredVector(dim, (codes, signs, norm, residual_norm))


def stored_bits(scheme: Scheme, dim: int) -> float:
    """Stored bits a coordinate of keys and values together, counted from the bytes of a cache."""
    vectors = np.ones((1, dim))
    return scheme.encode(vectors, vectors).bits_per_coordinate


def stages(quantizer: RotatedQuantizer) -> str:
    """What a quantizer does to a vector, in words."""
    rotated = "" if quantizer.rotation == "none" else "WHT + "
    sketched = "" if quantizer.sketch is None else " + 1-bit sketch"
    return f"{rotated}{quantizer.codebook_bits}-bit Lloyd-Max{sketched}"
