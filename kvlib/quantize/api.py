"""What a quantizer is, and a pair of them for the keys and the values of a cache.

A quantizer is anything with the methods of :class:`Quantizer`; nothing need be inherited. What it
returns is anything with those of :class:`Encoded`. :mod:`kvlib.quantize.registry` gives a pair of
quantizers a name, which sweeps, figures and the command line read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import FloatArray, as_vectors, check_int
from kvlib.quantize import storage
from kvlib.quantize.growing import Growing


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
    """How one kind of vector is stored.

    A quantizer may have more, which :class:`Scheme` uses where it is asked to: keyword arguments
    ``mean`` and ``mask`` of ``encode``, ``grow(*, seed)`` for vectors that come one after another,
    and ``bytes_per_token(dim)`` and ``fixed_bytes(dim)`` to foretell what ``nbytes`` will be.
    """

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

    def encode(
        self,
        k: ArrayLike,
        v: ArrayLike,
        *,
        seed: int = 0,
        mean: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
        mask: ArrayLike | None = None,
    ) -> EncodedCache:
        """Compress keys and values of equal leading shape (..., tokens, d) each.

        Parameters
        ----------
        k : array, shape (..., tokens, d)
        v : array, shape (..., tokens, d_v)
        seed : int
            Draws independent randomness for K and for V, the same for every scheme, so that schemes
            encoded with equal seeds are paired.
        mean : pair of arrays or None
            Of quantizers with ``center``: what keys and values have subtracted in place of their
            own mean, see :meth:`kvlib.quantize.RotatedQuantizer.encode`.
        mask : array of bool, optional
            False for padding, which means and ranges over tokens leave out; broadcasts to
            (..., tokens).

        Raises
        ------
        TypeError, ValueError
            If the arrays do not fit, or a quantizer does not take what is given.
        """
        root = check_int(seed, "seed", low=0)
        keys, values = as_vectors(k, "k"), as_vectors(v, "v")
        if keys.shape[:-1] != values.shape[:-1]:
            raise ValueError(
                f"k and v must hold the same tokens, got shapes {keys.shape} and {values.shape}"
            )
        masked = _given(mask=mask)
        return EncodedCache(
            self.name,
            _encode(self.key, keys, 2 * root, _given(mean=mean[0]) | masked),
            _encode(self.value, values, 2 * root + 1, _given(mean=mean[1]) | masked),
        )

    def grow(
        self,
        *,
        seed: int = 0,
        mean: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
    ) -> GrowingCache:
        """A cache whose tokens come one after another, see :class:`GrowingCache`.

        ``seed`` and ``mean`` as in :meth:`encode`; without a mean, quantizers with ``center``
        subtract that of the tokens that are appended first.
        """
        root = check_int(seed, "seed", low=0)
        parts = [
            _method(getattr(self, name), name, "grow")(seed=2 * root + i, **_given(mean=mean[i]))
            for i, name in enumerate(("key", "value"))
        ]
        return GrowingCache(self.name, *parts)

    def bytes_per_token(self, dim: int, value_dim: int | None = None) -> float:
        """Bytes that a token takes in one key head, keys and values together.

        Parameters
        ----------
        dim : int
            Coordinates of a key.
        value_dim : int, optional
            Coordinates of a value, as many by default.

        Examples
        --------
        >>> from kvlib import named
        >>> named("C-EDEN", 4).bytes_per_token(64), named("C-EDEN", 4).fixed_bytes(64)
        (68, 256)
        """
        return self._bytes("bytes_per_token", dim, value_dim)

    def fixed_bytes(self, dim: int, value_dim: int | None = None) -> float:
        """Bytes of a key head beside those of its tokens: means, and ranges over all tokens."""
        return self._bytes("fixed_bytes", dim, value_dim)

    def _bytes(self, which: str, dim: int, value_dim: int | None) -> float:
        key, value = (_method(getattr(self, name), name, which) for name in ("key", "value"))
        own: float = key(dim) + value(dim if value_dim is None else value_dim)
        return own


def _given(**options: object) -> dict[str, Any]:
    """Options that were given: a quantizer of one's own need not know the others."""
    return {name: value for name, value in options.items() if value is not None}


def _encode(quantizer: Quantizer, x: FloatArray, seed: int, options: dict[str, Any]) -> Encoded:
    encode: Callable[..., Encoded] = quantizer.encode
    return encode(x, seed=seed, **options)


def _method(quantizer: object, name: str, method: str) -> Callable[..., Any]:
    """A method that not every quantizer has."""
    found: Callable[..., Any] | None = getattr(quantizer, method, None)
    if found is None:
        raise TypeError(f"{name} must be a quantizer with a method {method}, got {quantizer!r}")
    return found


@dataclass(frozen=True, eq=False)
class GrowingCache:
    """Compressed keys and values of one sequence, which grow token by token.

    Attributes
    ----------
    name : str
        Of the scheme.
    key, value : Growing
        See :class:`kvlib.quantize.growing.Growing`.

    Examples
    --------
    >>> from kvlib import named
    >>> k, v = np.random.default_rng(0).standard_normal((2, 3, 200, 64)).astype(np.float32)
    >>> cache = named("EDEN", 4).grow(seed=5)
    >>> cache.append(k[:, :150], v[:, :150])
    >>> cache.append(k[:, 150:], v[:, 150:])
    >>> k_hat, v_hat = cache.decode()
    >>> bool((k_hat == named("EDEN", 4).encode(k, v, seed=5).decode()[0]).all())
    True
    """

    name: str
    key: Growing
    value: Growing

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return self.key.tokens

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.key.nbytes + self.value.nbytes

    def append(self, k: ArrayLike, v: ArrayLike) -> None:
        """Add keys and values of the same new tokens, shapes (..., new, d) and (..., new, d_v).

        Raises
        ------
        TypeError, ValueError
            If they do not fit; nothing is added then.
        """
        keys, values = as_vectors(k, "k"), as_vectors(v, "v")
        if keys.shape[:-1] != values.shape[:-1]:
            raise ValueError(
                f"k and v must hold the same tokens, got shapes {keys.shape} and {values.shape}"
            )
        ready = self.key.prepare(k, "k"), self.value.prepare(v, "v")
        self.key.commit(*ready[0])
        self.value.commit(*ready[1])

    def truncate(self, tokens: int) -> None:
        """Forget all but the first ``tokens``; both or, with an error, neither."""
        for part in (self.key, self.value):
            part.check_end(tokens)
        for part in (self.key, self.value):
            part.truncate(tokens)

    def decode(
        self, *, start: int = 0, out: tuple[FloatArray | None, FloatArray | None] = (None, None)
    ) -> tuple[FloatArray, FloatArray]:
        """Reconstructed keys and values from token ``start`` on, in ``out`` where it is given."""
        k, v = (
            part.decode(start=start, out=into)
            for part, into in zip((self.key, self.value), out, strict=True)
        )
        return k, v

    def encoded(self) -> EncodedCache:
        """All tokens as :meth:`Scheme.encode` would have encoded them at once, copied."""
        return EncodedCache(self.name, self.key.encoded(), self.value.encoded())


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
