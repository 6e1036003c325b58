"""One vector, one scale: rotate, round each coordinate to a codebook, sketch the residual."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import (
    FloatArray,
    as_vectors,
    check_bits,
    check_choice,
    check_int,
    check_nonzero_norms,
)
from kvlib.quantize import codebooks, packing, rotations, sketches
from kvlib.quantize.codebooks import Codebook
from kvlib.quantize.kernels import dispatch
from kvlib.quantize.rotations import Rotation
from kvlib.quantize.sketches import SignSketch

SCALES = ("norm", "unbiased")
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
        Applied to the unit vector before the codebook. ``rounds`` counts Hadamard rounds.
    codebook : {"lloyd-max", "uniform"} or Codebook
        Scalar quantizer, made for the coordinate law of the dimension at hand; or a ready one.
    sketch : {None, "gaussian", "haar", "hadamard"}
        Sign sketch of the residual, d signs a vector, and its scale ("unbiased" or "mmse").
    scale : {"norm", "unbiased"}
        Stored per-vector number s of x_hat = s R^T c: the norm |x| (TurboQuant), or
        |x|^2 / <x, R^T c>, which makes <x, x_hat> = |x|^2 exactly (EDEN), at no extra storage.
    side_dtype : {"float16", "float32"}
        Storage of the scale, of the residual norm and of the mean.
    center : bool
        Encode deviations from the mean over the tokens of each batch entry, whose d numbers are
        stored and counted. What is subtracted is the mean as stored, so that its rounding is
        encoded, not lost.
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

    def __post_init__(self) -> None:
        check_bits(self.bits, low=0 if self.sketch is None else 1)
        check_choice(self.rotation, "rotation", rotations.KINDS)
        if self.sketch is not None:
            check_choice(self.sketch, "sketch", sketches.KINDS)
        check_choice(self.sketch_scale, "sketch_scale", sketches.SCALES)
        check_choice(self.scale, "scale", SCALES)
        check_choice(self.side_dtype, "side_dtype", SIDE_DTYPES)
        if not isinstance(self.center, bool):
            raise TypeError(f"center must be True or False, got {self.center!r}")
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
        if self.scale == "unbiased" and self.codebook_bits == 0:
            raise ValueError(
                "scale='unbiased' needs at least one codebook bit: a zero-bit code has no "
                f"direction to rescale, got bits={self.bits} with sketch={self.sketch!r}"
            )

    @property
    def codebook_bits(self) -> int:
        """Bits a coordinate that go to the scalar codebook."""
        return self.bits if self.sketch is None else self.bits - 1

    def codebook_for(self, dim: int) -> Codebook:
        """The codebook for vectors of ``dim`` coordinates."""
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

    def encode(self, x: ArrayLike, *, seed: int = 0) -> RotatedEncoded:
        """Compress vectors.

        Parameters
        ----------
        x : array, shape (..., tokens, d)
            float16, float32 or float64; computed in float32 at least. Finite. No zero vectors,
            unless ``center`` (a vector equal to the stored mean decodes to it exactly). float32
            uses compiled kernels where numba is installed (rotation "hadamard" or "none"); codes
            within rounding of a cell's edge may then fall on its other side.
        seed : int
            Draws the rotation and the sketch, shared by all vectors of ``x``.

        Returns
        -------
        RotatedEncoded

        Raises
        ------
        TypeError, ValueError
            On anything else, naming the argument and what is allowed.
        """
        check_int(seed, "seed", low=0)
        return self._encode_centered(x, seed) if self.center else self._encode(x, seed)

    def _encode_centered(self, x: ArrayLike, seed: int) -> RotatedEncoded:
        """Encode deviations from the stored mean; a zero deviation by a scale of zero."""
        vectors = as_vectors(x, "x")
        _check_peaks(vectors, self.side_dtype)
        mean = vectors.mean(axis=-2, keepdims=True, dtype=np.float64).astype(self.side_dtype)
        deviations = vectors - mean.astype(vectors.dtype)
        at_mean = ~deviations.any(axis=-1)
        deviations[at_mean] = 1  # any direction: its length is set to zero below
        encoded = self._encode(deviations, seed, any_small=True)
        for lengths in (encoded.scales, encoded.residual_norms):
            if lengths is not None:
                lengths[at_mean] = 0
        return replace(encoded, mean=mean)

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
        if self.scale == "unbiased":
            norms = norms / (unit * codebook.dequantize(codes, unit.dtype)).sum(axis=-1)
        encoded = RotatedEncoded(
            quantizer=self,
            seed=seed,
            dim=dim,
            dtype=vectors.dtype.name,
            codes=packing.pack(codes, self.codebook_bits),
            scales=store(norms) if self.codebook_bits else None,
        )
        sketch = self.sketch_for(dim, seed=seed)
        return encoded if sketch is None else encoded.with_residual(vectors, sketch)

    def _encode_compiled(
        self, x: ArrayLike, seed: int, store: Callable[..., FloatArray]
    ) -> RotatedEncoded | None:
        """The same by compiled kernels, None where they do not apply (or numpy must refuse)."""
        if not dispatch.takes(x):
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


@dataclass(frozen=True, eq=False)
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
    mean : array, shape (..., 1, d), or None
        Stored mean over the tokens, subtracted before everything else; None unless centred.
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

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (..., tokens, d) of the vectors."""
        return (*self.codes.shape[:-1], self.dim)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales, signs, residual norms and mean together."""
        parts = (self.codes, self.scales, self.signs, self.residual_norms, self.mean)
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def bits_per_coordinate(self) -> float:
        """Stored bits over coordinates, counted from the bytes of everything stored."""
        return 8 * self.nbytes / int(np.prod(self.shape))

    def with_residual(self, x: FloatArray, sketch: SignSketch) -> RotatedEncoded:
        """Add the sign sketch of x - (scalar stage decoded), in the space of ``x``."""
        residual = x - self._decode_codes()
        signs = packing.pack(sketch.signs(residual).astype(np.uint8), 1)
        norms = _store(np.linalg.norm(residual, axis=-1), self.quantizer.side_dtype, any_small=True)
        return RotatedEncoded(
            self.quantizer, self.seed, self.dim, self.dtype, self.codes, self.scales, signs, norms
        )

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
            x_hat += self.mean.astype(x_hat.dtype)
        if out is None or x_hat is out:
            return x_hat
        out[...] = x_hat
        return out

    def _check_out(self, out: FloatArray) -> None:
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
        codes = packing.unpack(self.codes, self.quantizer.codebook_bits, self.dim)
        levels = self.quantizer.codebook_for(self.dim).dequantize(codes, np.dtype(self.dtype))
        unit = self.quantizer.rotation_for(self.dim, seed=self.seed).inverse(levels)
        return self.scales.astype(self.dtype)[..., None] * unit


def _directions(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Unit vectors and norms; dividing by the largest coordinate first keeps squares in range."""
    peak = np.abs(x).max(axis=-1, keepdims=True)
    check_nonzero_norms(peak, "x")
    scaled = x / peak
    relative_norm = np.linalg.norm(scaled, axis=-1, keepdims=True)
    with np.errstate(over="ignore"):  # an infinite norm is refused when it is stored
        norms = (peak * relative_norm)[..., 0]
    return scaled / relative_norm, norms


def _check_peaks(x: FloatArray, dtype: str) -> None:
    """Refuse arrays whose mean would overflow, or whose every entry is too small to store.

    Where the largest entry is a normal number, deviations that are not lose digits that no
    vector of that size has.
    """
    peaks = np.abs(x).max(axis=(-2, -1))
    limits = np.finfo(dtype)
    if ((peaks > limits.max) | ((peaks > 0) & (peaks < limits.smallest_normal))).any():
        raise _cannot_hold("the mean of entries", peaks, dtype)


def _store(numbers: FloatArray, dtype: str, *, any_small: bool = False) -> FloatArray:
    """Round per-vector numbers to their stored type, refusing what it cannot hold.

    Below the smallest normal number digits are lost: harmless for a residual's norm
    (``any_small``), an error of the whole vector for its scale.
    """
    with np.errstate(over="ignore", under="ignore"):
        stored = numbers.astype(dtype)
        # Rounding keeps order (and NaN), so that the extremes speak for all.
        low, high = np.array([numbers.min(), numbers.max()]).astype(dtype).tolist()
    too_small = not any_small and low < np.finfo(dtype).smallest_normal
    if too_small or not (math.isfinite(low) and math.isfinite(high)):
        raise _cannot_hold("per-vector scales", numbers, dtype)
    return stored


def _cannot_hold(what: str, numbers: FloatArray, dtype: str) -> ValueError:
    remedy = "rescale the vectors"
    if dtype == "float16":
        remedy = f"use side_dtype='float32' or {remedy}"
    return ValueError(
        f"side_dtype={dtype!r} cannot hold {what} from {numbers.min():.3g} to "
        f"{numbers.max():.3g}; {remedy}"
    )
