"""One vector, one scale: rotate, round each coordinate to a codebook, sketch the residual."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import (
    FloatArray,
    as_array,
    as_vectors,
    check_bits,
    check_bool,
    check_choice,
    check_dim,
    check_int,
    check_shape,
    keep_checked,
    refuse_masked,
)
from kvlib.quantize import codebooks, means, packing, rotations, sketches, storage
from kvlib.quantize.codebooks import Codebook
from kvlib.quantize.growing import Growing
from kvlib.quantize.kernels import dispatch
from kvlib.quantize.rotations import Rotation
from kvlib.quantize.sketches import SignSketch

SCALES = ("norm", "matched", "unbiased")
SIDE_DTYPES = ("float16", "float32")
_CODEBOOKS = {"lloyd-max": codebooks.lloyd_max, "uniform": codebooks.uniform}


@dataclass(frozen=True)
class RotatedQuantizer:
    """How one vector of d coordinates is stored in ``bits`` bits a coordinate plus a scale.

    Parameters
    ----------
    bits : int
        Budget n a coordinate, 0 to 8. With a sketch, one of them is the sketched sign and the
        codebook has n - 1.
    rotation : {"hadamard", "haar", "none"}
        Applied to the unit vector before the codebook. ``rounds`` counts Hadamard rounds. A d that
        is no power of two is transformed in blocks, the largest power of two that divides it, which
        are then mixed (:func:`kvlib.quantize.rotations.block_hadamard`).
    codebook : {"lloyd-max", "uniform"} or Codebook
        Scalar quantizer, made for the coordinate law of the dimension at hand; or a ready one.
    sketch : {None, "gaussian", "haar", "hadamard"}
        Sign sketch of the residual, d signs a vector, and its scale ("unbiased" or "mmse").
    scale : {"norm", "matched", "unbiased"}
        Stored per-vector number s of x_hat = s R^T c: the norm |x| (TurboQuant); |x| / |c|, which
        gives x_hat the length of x (the norm correction of vLLM's presets); or
        |x|^2 / <x, R^T c>, which makes <x, x_hat> = |x|^2 exactly (EDEN). All at the same bytes.
    side_dtype : {"float16", "float32"}
        Storage of the scale, of the residual norm and of the mean.
    center : bool
        Encode deviations from the mean over the tokens of each batch entry, whose d numbers are
        stored and counted. What is subtracted is the mean as stored, so that its rounding is
        encoded, not lost.
    block : int, optional
        With ``center``: a mean for every so many tokens, the last block perhaps shorter. One for
        all by default.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((3, 100, 64))
    >>> encoded = RotatedQuantizer(4, scale="unbiased").encode(x, seed=7)
    >>> encoded.bits_per_coordinate  # 4 bits and a number of 16 bits for 64 coordinates
    4.25
    >>> encoded.decode().shape
    (3, 100, 64)
    """

    bits: int
    rotation: str = "hadamard"
    rounds: int = 1
    codebook: str | Codebook = "lloyd-max"
    sketch: str | None = None
    sketch_scale: str = "unbiased"
    scale: str = "norm"
    side_dtype: str = "float16"
    center: bool = False
    block: int | None = None

    def __post_init__(self) -> None:
        keep_checked(
            self,
            bits=check_bits(self.bits, low=0 if self.sketch is None else 1),
            rounds=check_int(self.rounds, "rounds", low=1),
            center=check_bool(self.center, "center"),
        )
        if self.block is not None:
            keep_checked(self, block=check_int(self.block, "block", low=1))
            if not self.center:
                raise ValueError("block needs center=True: it says of how many tokens a mean is")
        check_choice(self.rotation, "rotation", rotations.KINDS)
        if self.sketch is not None:
            check_choice(self.sketch, "sketch", sketches.KINDS)
        check_choice(self.sketch_scale, "sketch_scale", sketches.SCALES)
        check_choice(self.scale, "scale", SCALES)
        check_choice(self.side_dtype, "side_dtype", SIDE_DTYPES)
        if isinstance(self.codebook, str):
            check_choice(self.codebook, "codebook", tuple(_CODEBOOKS))
        elif not isinstance(self.codebook, Codebook):
            raise TypeError(
                f"codebook must be a Codebook or one of {', '.join(_CODEBOOKS)}, "
                f"got {self.codebook!r}"
            )
        elif self.codebook.bits != self.codebook_bits:
            raise ValueError(
                f"codebook must have {self.codebook_bits} bits for bits={self.bits} and "
                f"sketch={self.sketch!r}, got {self.codebook.bits}"
            )
        self.rotation_for(2, seed=0)  # refuses rounds that the kind does not have
        if self.scale != "norm" and self.codebook_bits == 0:
            raise ValueError(
                f"scale={self.scale!r} needs at least one codebook bit: a zero-bit code has no "
                f"direction to rescale, got bits={self.bits} with sketch={self.sketch!r}"
            )

    @property
    def codebook_bits(self) -> int:
        """Bits a coordinate that go to the scalar codebook."""
        return self.bits if self.sketch is None else self.bits - 1

    def codebook_for(self, dim: int) -> Codebook:
        """The codebook for vectors of ``dim`` coordinates."""
        dim = check_dim(dim)
        if isinstance(self.codebook, str):
            return _CODEBOOKS[self.codebook](dim, self.codebook_bits)
        if self.codebook.dim != dim:
            raise ValueError(
                f"x must have {self.codebook.dim} coordinates to fit the codebook, got {dim}"
            )
        return self.codebook

    def rotation_for(self, dim: int, *, seed: int) -> Rotation:
        """The rotation drawn with ``seed``."""
        return Rotation(self.rotation, dim, seed=seed, rounds=self.rounds)

    def sketch_for(self, dim: int, *, seed: int) -> SignSketch | None:
        """The sign sketch drawn with ``seed``, independent of the rotation; None without one."""
        if self.sketch is None:
            return None
        return SignSketch(self.sketch, dim, scale=self.sketch_scale, seed=seed)

    def encode(
        self,
        x: ArrayLike,
        *,
        seed: int = 0,
        mean: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> RotatedEncoded:
        """Compress vectors.

        Parameters
        ----------
        x : array, shape (..., tokens, d)
            float16, bfloat16, float32 or float64, torch tensors in the CPU's memory among them;
            computed in float32 at least. Finite. A zero vector has a scale of zero and decodes to
            zero; one that equals the stored mean decodes to it exactly. float32 uses compiled
            kernels where numba is installed (rotation "hadamard" or "none"); codes within rounding
            of a cell's edge may then fall on its other side.
        seed : int
            Draws the rotation and the sketch, shared by all vectors of ``x``.
        mean : array, optional
            With ``center``: what to subtract in place of the tokens' own mean, such as that of a
            prompt or of other texts; broadcasts to (..., 1, d). Stored and counted like it.
        mask : array of bool, optional
            False for tokens that a mean leaves out, such as padding; broadcasts to (..., tokens).
            They are encoded like the others. Nothing else depends on it.

        Returns
        -------
        RotatedEncoded

        Raises
        ------
        TypeError, ValueError
            On anything else, naming the argument and what is allowed.

        Warns
        -----
        FewTokensWarning
            If one mean is taken of fewer than 2 d tokens.
        """
        root = check_int(seed, "seed", low=0)
        self._check_takes(mean)
        x = as_array(x, "x")
        if not self.center and mask is None:
            return self._encode(x, root)
        vectors = as_vectors(x, "x")
        counted = means.counted_tokens(mask, vectors)
        if not self.center:
            return self._encode(x, root)
        return self._encode_centered(vectors, root, self._stored_mean(vectors, mean, counted))

    def _stored_mean(
        self, x: FloatArray, mean: ArrayLike | None, counted: NDArray[np.bool_] | None
    ) -> FloatArray:
        if mean is not None:
            return means.given(mean, x, self.side_dtype)
        if self.block is None:
            means.warn_of_few(*x.shape[-2:])
        return means.of_tokens(x, counted, self.block, self.side_dtype)

    def _encode_centered(self, x: FloatArray, seed: int, mean: FloatArray) -> RotatedEncoded:
        """Encode deviations from the stored mean."""
        wide = mean.astype(x.dtype)
        deviations = x - means.over_tokens(wide, x.shape[-2], self.block)
        plain = replace(self, center=False, block=None)
        encoded = plain._encode(deviations, seed, any_small=True)
        return replace(encoded, quantizer=self, mean=mean)

    def grow(self, *, seed: int = 0, mean: ArrayLike | None = None) -> Growing:
        """Vectors that come one after another, see :class:`~kvlib.quantize.growing.Growing`.

        Parameters
        ----------
        seed : int
            As in :meth:`encode`.
        mean : array, optional
            With ``center`` and no ``block``: what to subtract, broadcasts to (..., 1, d). By
            default the mean of the tokens that are appended first: the prompt's.

        Examples
        --------
        >>> x = np.random.default_rng(0).standard_normal((2, 10, 64)).astype(np.float32)
        >>> cache = RotatedQuantizer(4).grow(seed=1)
        >>> for token in range(10):
        ...     cache.append(x[:, token : token + 1])
        >>> bool((cache.decode() == RotatedQuantizer(4).encode(x, seed=1).decode()).all())
        True
        """
        self._check_takes(mean)
        return Growing(self, seed=seed, options={} if mean is None else {"mean": mean})

    def _check_takes(self, mean: object) -> None:
        if mean is not None and (not self.center or self.block is not None):
            raise ValueError(
                "mean needs center=True and no block, got "
                f"center={self.center} and block={self.block}"
            )

    @property
    def period(self) -> int:
        """Tokens that are encoded together, whatever comes after them."""
        return 1 if self.block is None else self.block

    def bytes_per_token(self, dim: int) -> float:
        """Bytes that a vector of ``dim`` coordinates takes: a whole number unless ``block`` is set.

        A block's mean is shared out among its tokens; one that is not full costs as much.

        >>> RotatedQuantizer(4, center=True).bytes_per_token(64)
        34
        """
        own = self._bytes_of_vector(dim)
        return own if self.block is None else own + self._bytes_of_mean(dim) / self.block

    def fixed_bytes(self, dim: int) -> int:
        """Bytes beside those of the vectors, for each entry of the axes before the tokens."""
        return self._bytes_of_mean(dim) if self.center and self.block is None else 0

    def nbytes_for(self, shape: tuple[int, ...]) -> int:
        """Bytes of encoded vectors of a shape (..., tokens, d), to the last one."""
        *lead, tokens, dim = check_shape(shape, "shape")
        count = 0 if not self.center else 1 if self.block is None else -(-tokens // self.block)
        own = tokens * self._bytes_of_vector(dim) + count * self._bytes_of_mean(dim)
        return math.prod(lead) * own

    def _bytes_of_vector(self, dim: int) -> int:
        dim, side = check_dim(dim), np.dtype(self.side_dtype).itemsize
        own = packing.bytes_per_vector(dim, self.codebook_bits) + side * (self.codebook_bits > 0)
        if self.sketch is not None:
            own += packing.bytes_per_vector(dim, 1) + side
        return own

    def _bytes_of_mean(self, dim: int) -> int:
        return check_dim(dim) * np.dtype(self.side_dtype).itemsize

    def _encode(self, x: ArrayLike, seed: int, *, any_small: bool = False) -> RotatedEncoded:
        """Encode vectors as they are; ``any_small`` as in :func:`_store`."""
        store = partial(_store, dtype=self.side_dtype, any_small=any_small)
        compiled = self._encode_compiled(x, seed, store)
        if compiled is not None:
            return compiled
        vectors = as_vectors(x, "x")
        dim = vectors.shape[-1]
        directions, norms = _directions(vectors)
        codebook = self.codebook_for(dim)
        unit = self.rotation_for(dim, seed=seed).apply(directions)
        codes = codebook.quantize(unit)
        shrinkage = self._shrinkage(unit, codebook.dequantize(codes, unit.dtype))
        norms = np.divide(norms, shrinkage, out=np.zeros_like(norms), where=norms > 0)
        packed = packing.pack(codes, self.codebook_bits)
        scales = store(norms) if self.codebook_bits else None
        signs = lengths = None
        sketch = self.sketch_for(dim, seed=seed)
        if sketch is not None:
            residual = vectors
            if scales is not None:
                residual = vectors - self.decode_codes(packed, scales, dim, vectors.dtype, seed)
            signs = packing.pack(sketch.signs(residual).astype(np.uint8), 1)
            lengths = _store(np.linalg.norm(residual, axis=-1), self.side_dtype, any_small=True)
        return RotatedEncoded(self, seed, dim, vectors.dtype.name, packed, scales, signs, lengths)

    def _shrinkage(self, unit: FloatArray, levels: FloatArray) -> FloatArray:
        """What the norm is divided by: of rotated unit vectors and the levels chosen."""
        if self.scale == "norm":
            return np.ones((), unit.dtype)
        if self.scale == "matched":
            return np.asarray(np.linalg.norm(levels, axis=-1))
        return np.asarray((unit * levels).sum(axis=-1))

    def decode_codes(
        self,
        packed: NDArray[np.uint8],
        scales: FloatArray,
        dim: int,
        dtype: np.dtype[Any],
        seed: int,
    ) -> FloatArray:
        """Reconstruct vectors from packed codes and scales alone, without sketch and mean."""
        codes = packing.unpack(packed, self.codebook_bits, dim)
        levels = self.codebook_for(dim).dequantize(codes, dtype)
        unit = self.rotation_for(dim, seed=seed).inverse(levels)
        return np.asarray(scales.astype(dtype)[..., None] * unit)

    def _encode_compiled(
        self, x: ArrayLike, seed: int, store: Callable[..., FloatArray]
    ) -> RotatedEncoded | None:
        """The same by compiled kernels, None where they do not apply (or numpy must refuse)."""
        if self.scale == "matched" or not dispatch.takes(x):  # no kernel has that scale
            return None
        array = np.asarray(x)
        dim = array.shape[-1]
        try:
            codebook = self.codebook_for(dim)
            rotation = self.rotation_for(dim, seed=seed)
            sketch = self.sketch_for(dim, seed=seed)
        except ValueError:  # numpy says what is wrong, in its own order
            return None
        stored = dispatch.encode(
            array,
            codebook,
            rotation,
            sketch,
            unbiased=self.scale == "unbiased",
            side_dtype=self.side_dtype,
            store=store,
        )
        if stored is None:
            return None
        return RotatedEncoded(
            self,
            seed,
            dim,
            "float32",
            stored.codes,
            stored.scales,
            stored.signs,
            stored.residual_norms,
        )


@storage.storable("rotated")
@dataclass(frozen=True, eq=False, repr=False)
class RotatedEncoded:
    """Compressed vectors: every array here is what a cache would hold in memory.

    Attributes
    ----------
    quantizer, seed, dim, dtype
        What is needed to decode; shared by all vectors and not counted.
    codes : uint8 array, shape (..., tokens, ceil(d * codebook_bits / 8))
        Packed codebook indices.
    scales : float16 or float32 array, shape (..., tokens), or None
        Stored per-vector scale; None when the codebook has zero bits and nothing to scale.
    signs : uint8 array, shape (..., tokens, ceil(d / 8)), or None
        Packed signs of the sketched residual.
    residual_norms : array, shape (..., tokens), or None
    mean : array, shape (..., 1 or blocks, d), or None
        Stored means of the tokens, subtracted before everything else; None unless centred.
    """

    quantizer: RotatedQuantizer
    seed: int
    dim: int
    dtype: str
    codes: NDArray[np.uint8]
    scales: FloatArray | None
    signs: NDArray[np.uint8] | None = None
    residual_norms: FloatArray | None = None
    mean: FloatArray | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.quantizer, RotatedQuantizer):
            raise TypeError(f"quantizer must be a RotatedQuantizer, got {self.quantizer!r}")
        object.__setattr__(self, "seed", check_int(self.seed, "seed", low=0))
        object.__setattr__(self, "dim", check_dim(self.dim))
        check_choice(self.dtype, "dtype", ("float32", "float64"))
        if not isinstance(self.codes, np.ndarray) or self.codes.ndim < 2:
            raise ValueError(f"codes must have axes (..., tokens, bytes), got {self.codes!r:.100}")
        coder, leading = self.quantizer, self.codes.shape[:-1]
        scaled = leading if coder.codebook_bits else None
        sketched = leading if coder.sketch is not None else None
        width = packing.bytes_per_vector(self.dim, coder.codebook_bits)
        signs = sketched and (*leading, packing.bytes_per_vector(self.dim, 1))
        blocks = 1 if coder.block is None else -(-leading[-1] // coder.block)
        mean = (*leading[:-1], blocks, self.dim) if coder.center else None
        check_part(self.codes, "codes", "uint8", (*leading, width))
        check_part(self.scales, "scales", coder.side_dtype, scaled)
        check_part(self.signs, "signs", "uint8", signs)
        check_part(self.residual_norms, "residual_norms", coder.side_dtype, sketched)
        check_part(self.mean, "mean", coder.side_dtype, mean)

    def __repr__(self) -> str:
        """What was encoded and how, without the arrays."""
        return (
            f"RotatedEncoded(shape={self.shape}, nbytes={self.nbytes}, dtype={self.dtype!r}, "
            f"seed={self.seed}, quantizer={self.quantizer})"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (..., tokens, d) of the vectors."""
        return (*self.codes.shape[:-1], self.dim)

    @property
    def growing(self) -> dict[str, tuple[int, int]]:
        """Arrays that grow with the tokens: their axis, and the tokens of one entry of it."""
        axes = {"codes": (-2, 1), "scales": (-1, 1), "signs": (-2, 1), "residual_norms": (-1, 1)}
        if self.quantizer.block is not None:
            axes["mean"] = (-2, self.quantizer.block)
        return {name: of for name, of in axes.items() if getattr(self, name) is not None}

    @property
    def kept(self) -> dict[str, Any]:
        """What later tokens of the same sequence must be encoded with."""
        return {} if self.mean is None or self.quantizer.block is not None else {"mean": self.mean}

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales, signs, residual norms and mean together."""
        parts = (self.codes, self.scales, self.signs, self.residual_norms, self.mean)
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def bits_per_coordinate(self) -> float:
        """Stored bits over coordinates, counted from the bytes of everything stored."""
        return 8 * self.nbytes / int(np.prod(self.shape))

    def decode(self, *, out: FloatArray | None = None) -> FloatArray:
        """Reconstruct the vectors, shape (..., tokens, d), float32 or float64 as computed.

        Parameters
        ----------
        out : array, optional
            Where to write them, of that shape and dtype (float32 unless float64 was encoded), and
            what is returned then. Fresh memory costs about as much as decoding: whoever decodes
            again and again spares it.
        """
        if out is not None:
            self._check_out(out)
        x_hat = self._decode_deviations(out)
        if self.mean is not None:
            wide = self.mean.astype(x_hat.dtype)
            x_hat += means.over_tokens(wide, self.shape[-2], self.quantizer.block)
        if out is None or x_hat is out:
            return x_hat
        out[...] = x_hat
        return out

    def _check_out(self, out: FloatArray) -> None:
        refuse_masked(out, "out")
        if out.shape != self.shape or out.dtype != self.dtype or not out.flags.writeable:
            writeable = "" if out.flags.writeable else "read-only "
            raise ValueError(
                f"out must be a writeable {self.dtype} array of shape {self.shape}, got a "
                f"{writeable}{out.dtype} array of shape {out.shape}"
            )

    def _decode_deviations(self, out: FloatArray | None) -> FloatArray:
        """Decode all but the mean, into ``out`` or an array of its own."""
        sketch = self.quantizer.sketch_for(self.dim, seed=self.seed)
        if self.dtype == "float32":
            compiled = dispatch.decode(
                dispatch.Stored(self.codes, self.scales, self.signs, self.residual_norms),
                self.quantizer.codebook_for(self.dim),
                self.quantizer.rotation_for(self.dim, seed=self.seed),
                sketch,
                out,
            )
            if compiled is not None:
                return compiled
        x_hat = self._decode_codes()
        if sketch is None:
            return x_hat
        assert self.signs is not None
        assert self.residual_norms is not None
        signs = packing.unpack(self.signs, 1, sketch.row_count).astype(bool)
        return x_hat + sketch.reconstruct(signs, self.residual_norms.astype(self.dtype))

    def _decode_codes(self) -> FloatArray:
        if self.scales is None:
            return np.zeros(self.shape, dtype=self.dtype)
        dtype = np.dtype(self.dtype)
        return self.quantizer.decode_codes(self.codes, self.scales, self.dim, dtype, self.seed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to an ``.npz`` file that :func:`kvlib.quantize.load` reads."""
        storage.save(path, self)

    def state(self) -> tuple[dict[str, Any], storage.Arrays]:
        """Header and arrays, see :class:`kvlib.quantize.storage.Storable`."""
        options = {f.name: getattr(self.quantizer, f.name) for f in fields(RotatedQuantizer)}
        arrays: storage.Arrays = {name: getattr(self, name) for name in _ARRAYS}
        book = options["codebook"]
        if isinstance(book, Codebook):
            options["codebook"] = {"dim": book.dim, "bits": book.bits, "name": book.name}
            arrays["levels"] = book.levels
        header = {"quantizer": options, "seed": self.seed, "dim": self.dim, "dtype": self.dtype}
        header["leading"] = list(self.codes.shape[:-1])
        return header, {name: array for name, array in arrays.items() if array is not None}

    @classmethod
    def from_state(
        cls, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> RotatedEncoded:
        """The same again, checked like any other."""
        options = dict(header["quantizer"])
        if isinstance(options["codebook"], dict):
            options["codebook"] = Codebook(**options["codebook"], levels=arrays["levels"])
        parts: dict[str, Any] = {name: arrays.get(name) for name in _ARRAYS}
        if parts["codes"] is None:  # a code of no bits has no bytes
            parts["codes"] = np.empty((*header["leading"], 0), dtype=np.uint8)
        quantizer = RotatedQuantizer(**options)
        return cls(quantizer, header["seed"], header["dim"], header["dtype"], **parts)


_ARRAYS = ("codes", "scales", "signs", "residual_norms", "mean")


def check_part(part: object, name: str, dtype: str, shape: tuple[int, ...] | None) -> None:
    """Refuse an array that is not there, or of another type or shape; None: must not be there."""
    if shape is None:
        if part is not None:
            raise ValueError(f"{name} must be None for this quantizer, got {type(part).__name__}")
        return
    if not isinstance(part, np.ndarray) or part.dtype != dtype or part.shape != shape:
        given = f"{part.dtype} {part.shape}" if isinstance(part, np.ndarray) else repr(part)
        raise ValueError(f"{name} must be an array of {dtype}, shape {shape}, got {given}")
    if part.dtype.kind == "f" and not np.isfinite(part).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")


def _directions(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Unit vectors and norms; dividing by the largest coordinate first keeps squares in range.

    The direction of a zero vector is zero.
    """
    peak = np.abs(x).max(axis=-1, keepdims=True)
    zero = peak == 0
    scaled = x / np.where(zero, 1, peak)
    relative_norm = np.linalg.norm(scaled, axis=-1, keepdims=True)
    with np.errstate(over="ignore"):  # an infinite norm is refused when it is stored
        norms = (peak * relative_norm)[..., 0]
    return scaled / np.where(zero, 1, relative_norm), norms


def _store(numbers: FloatArray, dtype: str, *, any_small: bool = False) -> FloatArray:
    """Round per-vector numbers to their stored type, refusing what it cannot hold.

    Below the smallest normal number digits are lost: harmless for a residual's norm
    (``any_small``), an error of the whole vector for its scale. Zero is the scale of a zero vector.
    """
    with np.errstate(over="ignore", under="ignore"):
        stored = numbers.astype(dtype)
        # Rounding keeps order (and NaN), so that the extremes speak for all.
        low, high = np.array([numbers.min(), numbers.max()]).astype(dtype).tolist()
    smallest = np.finfo(dtype).smallest_normal
    too_small = not any_small and low < smallest and bool((stored[numbers != 0] < smallest).any())
    if too_small or not (math.isfinite(low) and math.isfinite(high)):
        raise means.cannot_hold("per-vector scales", numbers, dtype)
    return stored
