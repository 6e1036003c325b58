"""A quantizer for the keys and one for the values of a cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kvlib.checks import FloatArray, as_vectors, check_int
from kvlib.quantize.rotated import RotatedEncoded, RotatedQuantizer


@dataclass(frozen=True)
class Scheme:
    """A quantizer for keys and one for values."""

    name: str
    key: RotatedQuantizer
    value: RotatedQuantizer

    def encode(self, k: ArrayLike, v: ArrayLike, *, seed: int = 0) -> EncodedCache:
        """Compress keys and values of equal leading shape (..., tokens, d) each.

        One ``seed`` draws independent randomness for K and for V, the same for every scheme, so
        that schemes encoded with equal seeds are paired.
        """
        check_int(seed, "seed", low=0)
        keys, values = as_vectors(k, "k"), as_vectors(v, "v")
        if keys.shape[:-1] != values.shape[:-1]:
            raise ValueError(
                f"k and v must hold the same tokens, got shapes {keys.shape} and {values.shape}"
            )
        return EncodedCache(
            self,
            self.key.encode(keys, seed=2 * seed),
            self.value.encode(values, seed=2 * seed + 1),
        )


@dataclass(frozen=True, eq=False)
class EncodedCache:
    """Compressed keys and values of one scheme."""

    scheme: Scheme
    key: RotatedEncoded
    value: RotatedEncoded

    def decode(self) -> tuple[FloatArray, FloatArray]:
        """Reconstructed keys and values."""
        return self.key.decode(), self.value.decode()

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.key.nbytes + self.value.nbytes

    @property
    def bits_per_coordinate(self) -> float:
        """Stored bits over coordinates, keys and values together."""
        coordinates = int(np.prod(self.key.shape)) + int(np.prod(self.value.shape))
        return 8 * self.nbytes / coordinates
