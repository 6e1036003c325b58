"""What a quantizer is, and a pair of them for the keys and the values of a cache.

A quantizer is anything with the methods of :class:`Quantizer`; nothing need be inherited. What it
returns is anything with those of :class:`Encoded`. :mod:`kvlib.quantize.registry` gives a pair of
quantizers a name, which sweeps, figures and the command line read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import FloatArray, as_vectors, check_int
from kvlib.quantize import storage


@runtime_checkable
class Encoded(Protocol):
    """Compressed vectors."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (..., tokens, d) of the vectors."""

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored, and that decoding needs, for these vectors."""

    def decode(self) -> FloatArray:
        """Reconstructed vectors, of :attr:`shape`, float32 or float64."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file from which they can be decoded again."""


@runtime_checkable
class Quantizer(Protocol):
    """How one kind of vector is stored."""

    def encode(self, x: ArrayLike, *, seed: int = 0) -> Encoded:
        """Compress vectors of shape (..., tokens, d).

        ``seed`` draws whatever is random; equal seeds must give equal bytes.
        """


def bits_per_coordinate(*parts: Encoded) -> float:
    """Stored bits over coordinates, counted from the bytes of everything stored."""
    coordinates = sum(int(np.prod(part.shape)) for part in parts)
    return 8 * sum(part.nbytes for part in parts) / coordinates


@dataclass(frozen=True)
class Scheme:
    """A quantizer for keys and one for values.

    Parameters
    ----------
    name : str
    key, value : Quantizer
        Objects with a method ``encode(x, *, seed)``.

    Raises
    ------
    TypeError
        If one of them has no such method.
    """

    name: str
    key: Quantizer
    value: Quantizer

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, got {self.name!r}")
        for name in ("key", "value"):
            if not isinstance(getattr(self, name), Quantizer):
                raise TypeError(
                    f"{name} must be a quantizer, an object with a method encode(x, *, seed), "
                    f"got {getattr(self, name)!r}"
                )

    def encode(self, k: ArrayLike, v: ArrayLike, *, seed: int = 0) -> EncodedCache:
        """Compress keys and values of equal leading shape (..., tokens, d) each.

        One ``seed`` draws independent randomness for K and for V, the same for every scheme, so
        that schemes encoded with equal seeds are paired.
        """
        root = check_int(seed, "seed", low=0)
        keys, values = as_vectors(k, "k"), as_vectors(v, "v")
        if keys.shape[:-1] != values.shape[:-1]:
            raise ValueError(
                f"k and v must hold the same tokens, got shapes {keys.shape} and {values.shape}"
            )
        return EncodedCache(
            self.name,
            self.key.encode(keys, seed=2 * root),
            self.value.encode(values, seed=2 * root + 1),
        )


@storage.storable("cache")
@dataclass(frozen=True, eq=False)
class EncodedCache:
    """Compressed keys and values of one scheme."""

    name: str
    key: Encoded
    value: Encoded

    def __post_init__(self) -> None:
        if self.key.shape[:-1] != self.value.shape[:-1]:
            raise ValueError(
                "key and value must hold the same tokens, got shapes "
                f"{self.key.shape} and {self.value.shape}"
            )

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
        return bits_per_coordinate(self.key, self.value)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write both to one ``.npz`` file that :func:`kvlib.quantize.load` reads."""
        storage.save(path, self)

    def state(self) -> tuple[dict[str, Any], storage.Arrays]:
        """Header and arrays, see :class:`kvlib.quantize.storage.Storable`."""
        key, key_arrays = storage.state_of(self.key, "key")
        value, value_arrays = storage.state_of(self.value, "value")
        return {"name": self.name, "key": key, "value": value}, key_arrays | value_arrays

    @classmethod
    def from_state(
        cls, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> EncodedCache:
        """The same again, each part checked like any other."""
        parts = (storage.part(header, arrays, name) for name in ("key", "value"))
        return cls(str(header["name"]), *parts)
