"""Min-max blocks: each group of numbers stored as equal steps between its least and its largest.

What many caches ship without any rotation: a group of ``size`` consecutive coordinates of one
vector (per-token quantization), or of ``size`` consecutive tokens of one channel (per-channel
quantization, as KIVI does to keys, arXiv:2402.02750). Every group stores its least number and its
step beside the codes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import (
    FloatArray,
    as_vectors,
    check_bits,
    check_choice,
    check_dim,
    check_int,
    check_shape,
)
from kvlib.quantize import means, packing, storage
from kvlib.quantize.growing import Growing
from kvlib.quantize.rotated import SIDE_DTYPES, check_part

ALONG = ("coordinates", "tokens")


@dataclass(frozen=True)
class BlockQuantizer:
    """Groups of numbers, each in 2**bits equal steps over its own range.

    Parameters
    ----------
    bits : int
        1 to 8 a coordinate, besides two numbers a group.
    along : {"coordinates", "tokens"}
        Whether a group lies in one vector or in one channel.
    size : int, optional
        Numbers in a group; all of the axis by default. A shorter last group is stored like any
        other.
    side_dtype : {"float16", "float32"}
        Storage of each group's least number and step.

    Examples
    --------
    >>> encoded = BlockQuantizer(4).encode(np.ones((10, 64)))
    >>> encoded.bits_per_coordinate  # 4 bits and 2 numbers of 16 bits for 64 coordinates
    4.5
    """

    bits: int
    along: str = "coordinates"
    size: int | None = None
    side_dtype: str = "float16"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", check_bits(self.bits, low=1))
        check_choice(self.along, "along", ALONG)
        if self.size is not None:
            object.__setattr__(self, "size", check_int(self.size, "size", low=1))
        check_choice(self.side_dtype, "side_dtype", SIDE_DTYPES)

    def groups(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(groups along the axis, numbers in each but perhaps the last) for vectors of a shape."""
        length = shape[self.axis]
        size = length if self.size is None else min(self.size, length)
        return -(-length // size), size

    @property
    def axis(self) -> int:
        """The axis that is cut into groups: -1 for coordinates, -2 for tokens."""
        return -1 if self.along == "coordinates" else -2

    @property
    def period(self) -> int | None:
        """Tokens that are encoded together, whatever comes after them; None where all are."""
        return 1 if self.along == "coordinates" else self.size

    def grow(self, *, seed: int = 0) -> Growing:
        """Vectors that come one after another, see :class:`~kvlib.quantize.growing.Growing`.

        Groups along tokens need a ``size``.
        """
        return Growing(self, seed=seed)

    def bytes_per_token(self, dim: int) -> float:
        """Bytes that a vector of ``dim`` coordinates takes: whole but for groups along tokens.

        The two numbers of such a group are shared out among its tokens; a group that is not full
        costs as much.

        >>> BlockQuantizer(4, along="tokens", size=32).bytes_per_token(64)
        40
        """
        dim = check_dim(dim)
        codes = packing.bytes_per_vector(dim, self.bits)
        if self.along == "coordinates":
            return codes + self.groups((1, dim))[0] * self._bytes_of_group
        if self.size is None:
            return codes
        shared = dim * self._bytes_of_group / self.size
        return codes + (int(shared) if shared.is_integer() else shared)

    def fixed_bytes(self, dim: int) -> int:
        """Bytes beside those of the vectors, for each entry of the axes before the tokens."""
        whole = self.along == "tokens" and self.size is None
        return check_dim(dim) * self._bytes_of_group if whole else 0

    def nbytes_for(self, shape: tuple[int, ...]) -> int:
        """Bytes of encoded vectors of a shape (..., tokens, d), to the last one."""
        *lead, tokens, dim = check_shape(shape, "shape")
        kept = tokens if self.along == "coordinates" else dim
        groups = kept * self.groups((tokens, dim))[0]
        codes = tokens * packing.bytes_per_vector(check_dim(dim), self.bits)
        return math.prod(lead) * (codes + groups * self._bytes_of_group)

    @property
    def _bytes_of_group(self) -> int:
        return 2 * np.dtype(self.side_dtype).itemsize

    def encode(self, x: ArrayLike, *, seed: int = 0, mask: ArrayLike | None = None) -> BlockEncoded:
        """Compress vectors.

        Parameters
        ----------
        x : array, shape (..., tokens, d)
            float16, float32 or float64, finite; zero vectors are stored like any other.
        seed : int
            Not used: nothing is random here.
        mask : array of bool, optional
            False for tokens that the range of a group along tokens leaves out, such as padding;
            broadcasts to (..., tokens). What they decode to then means nothing.

        Raises
        ------
        TypeError, ValueError
            On anything else, or where a range does not fit ``side_dtype``.
        """
        seed = check_int(seed, "seed", low=0)
        vectors = as_vectors(x, "x")
        grouped = self._grouped(vectors)
        least, largest = self._extremes(vectors, grouped, means.counted_tokens(mask, vectors))
        low = self._stored(least)
        wide = low.astype(vectors.dtype)
        # Rounding may put the stored least number above the largest of a narrow group.
        span = np.maximum(largest - wide, 0)
        step = self._stored(span / (2**self.bits - 1))
        width = step.astype(vectors.dtype)[..., None]
        # A group of one value has no step: its numbers are the least one.
        scaled = np.divide(
            grouped - wide[..., None], width, out=np.zeros_like(grouped), where=width > 0
        )
        codes = np.clip(np.rint(scaled), 0, 2**self.bits - 1).astype(np.uint8)
        return BlockEncoded(
            quantizer=self,
            dim=vectors.shape[-1],
            dtype=vectors.dtype.name,
            codes=packing.pack(self._ungrouped(codes, vectors.shape), self.bits),
            lows=low,
            steps=step,
        )

    def _extremes(
        self, x: FloatArray, grouped: FloatArray, counted: NDArray[np.bool_] | None
    ) -> tuple[FloatArray, FloatArray]:
        """Least and largest number of each group, zeros where no token of it is counted."""
        if counted is None or self.along == "coordinates":
            return grouped.min(axis=-1), grouped.max(axis=-1)
        inside = self._grouped(np.broadcast_to(counted[..., None], x.shape))
        some = inside.any(axis=-1)
        least = grouped.min(axis=-1, where=inside, initial=np.inf)
        largest = grouped.max(axis=-1, where=inside, initial=-np.inf)
        return np.where(some, least, 0), np.where(some, largest, 0)

    def _grouped(self, x: NDArray[Any]) -> NDArray[Any]:
        """Groups on a last axis of their own, the shorter last one filled up with its last entry.

        Shape (..., tokens, groups, size) along coordinates, (..., d, groups, size) along tokens.
        """
        moved = np.moveaxis(x, self.axis, -1)
        count, size = self.groups(x.shape)
        missing = count * size - moved.shape[-1]
        if missing:
            last = np.repeat(moved[..., -1:], missing, axis=-1)
            moved = np.concatenate([moved, last], axis=-1)
        return moved.reshape(*moved.shape[:-1], count, size)

    def _ungrouped(self, grouped: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Undo :meth:`_grouped`."""
        flat = grouped.reshape(*grouped.shape[:-2], -1)[..., : shape[self.axis]]
        return np.ascontiguousarray(np.moveaxis(flat, -1, self.axis))

    def _stored(self, numbers: FloatArray) -> FloatArray:
        with np.errstate(over="ignore", under="ignore"):
            stored = numbers.astype(self.side_dtype)
        if not np.isfinite(stored).all():
            raise ValueError(
                f"side_dtype={self.side_dtype!r} cannot hold numbers from {numbers.min():.3g} to "
                f"{numbers.max():.3g}; use 'float32' or rescale the vectors"
            )
        return stored


@storage.storable("block")
@dataclass(frozen=True, eq=False, repr=False)
class BlockEncoded:
    """Vectors compressed by a :class:`BlockQuantizer`.

    Attributes
    ----------
    quantizer, dim, dtype
        What is needed to decode; shared by all vectors and not counted.
    codes : uint8 array, shape (..., tokens, ceil(d * bits / 8))
        Packed steps above the least number of the group.
    lows, steps : float16 or float32 array
        Shape (..., tokens, groups) along coordinates, (..., d, groups) along tokens.
    """

    quantizer: BlockQuantizer
    dim: int
    dtype: str
    codes: NDArray[np.uint8]
    lows: FloatArray
    steps: FloatArray

    def __post_init__(self) -> None:
        if not isinstance(self.quantizer, BlockQuantizer):
            raise TypeError(f"quantizer must be a BlockQuantizer, got {self.quantizer!r}")
        object.__setattr__(self, "dim", check_dim(self.dim))
        check_choice(self.dtype, "dtype", ("float32", "float64"))
        if not isinstance(self.codes, np.ndarray) or self.codes.ndim < 2:
            raise ValueError(f"codes must have axes (..., tokens, bytes), got {self.codes!r:.100}")
        width = packing.bytes_per_vector(self.dim, self.quantizer.bits)
        check_part(self.codes, "codes", "uint8", (*self.codes.shape[:-1], width))
        count, _ = self.quantizer.groups(self.shape)
        kept = self.shape[-2] if self.quantizer.axis == -1 else self.dim
        for name in ("lows", "steps"):
            shape = (*self.shape[:-2], kept, count)
            check_part(getattr(self, name), name, self.quantizer.side_dtype, shape)

    def __repr__(self) -> str:
        """What was encoded and how, without the arrays."""
        return (
            f"BlockEncoded(shape={self.shape}, nbytes={self.nbytes}, dtype={self.dtype!r}, "
            f"quantizer={self.quantizer})"
        )

    @property
    def growing(self) -> dict[str, tuple[int, int]]:
        """Arrays that grow with the tokens: their axis, and the tokens of one entry of it."""
        if self.quantizer.along == "coordinates":
            return {"codes": (-2, 1), "lows": (-2, 1), "steps": (-2, 1)}
        each = self.quantizer.size or self.shape[-2]
        return {"codes": (-2, 1), "lows": (-1, each), "steps": (-1, each)}

    @property
    def kept(self) -> dict[str, Any]:
        """What later tokens of the same sequence must be encoded with: nothing."""
        return {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (..., tokens, d) of the vectors."""
        return (*self.codes.shape[:-1], self.dim)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, least numbers and steps together."""
        return self.codes.nbytes + self.lows.nbytes + self.steps.nbytes

    @property
    def bits_per_coordinate(self) -> float:
        """Stored bits over coordinates, counted from the bytes of everything stored."""
        return 8 * self.nbytes / int(np.prod(self.shape))

    def decode(self) -> FloatArray:
        """Reconstruct the vectors, shape (..., tokens, d), float32 or float64 as computed."""
        codes = packing.unpack(self.codes, self.quantizer.bits, self.dim).astype(self.dtype)
        grouped = self.quantizer._grouped(codes)
        lows, steps = (part.astype(self.dtype)[..., None] for part in (self.lows, self.steps))
        return self.quantizer._ungrouped(lows + steps * grouped, self.shape)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to an ``.npz`` file that :func:`kvlib.quantize.load` reads."""
        storage.save(path, self)

    def state(self) -> tuple[dict[str, Any], storage.Arrays]:
        """Header and arrays, see :class:`kvlib.quantize.storage.Storable`."""
        header = {"quantizer": asdict(self.quantizer), "dim": self.dim, "dtype": self.dtype}
        return header, {"codes": self.codes, "lows": self.lows, "steps": self.steps}

    @classmethod
    def from_state(
        cls, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> BlockEncoded:
        """The same again, checked like any other."""
        quantizer = BlockQuantizer(**header["quantizer"])
        parts = (arrays[name] for name in ("codes", "lows", "steps"))
        return cls(quantizer, header["dim"], header["dtype"], *parts)
