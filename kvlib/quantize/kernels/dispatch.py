"""Encode and decode float32 vectors with compiled kernels, in bounded memory.

:mod:`kvlib.quantize.rotated` asks here first. None means "not for the kernels" (another type,
another rotation, numba missing, a vector that numpy must judge), and the numpy code there, which
defines what is right, does the work or raises the error. The kernels store the same codes except
where a coordinate lies within rounding of a cell's edge.

Work is cut into blocks of about 2 MB whose boundaries depend on the array's shape only, so that
results do not depend on the number of threads, and memory beyond the output is a few blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import FloatArray
from kvlib.quantize import packing, rotations, sketches
from kvlib.quantize.codebooks import Codebook
from kvlib.quantize.kernels import runtime
from kvlib.quantize.rotations import Rotation
from kvlib.quantize.sketches import SignSketch

_BLOCK = 1 << 19  # coordinates: 2 MB of float32
_MOST_ROUNDS = 4  # the transform is not normalised between rounds: keep it in float32's range
_MOST_DIM = 1 << 14  # one vector and its codes must fit the first cache levels


# --- Blocks -------------------------------------------------------------------------------------


_Block = tuple[slice, FloatArray]


def _blocks(x: FloatArray) -> list[_Block]:
    """Pieces of ``x`` (..., d) with the rows they hold, in order, each at most a block long."""
    dim, start, blocks = x.shape[-1], 0, []
    for piece in _pieces(x):
        stop = start + piece.size // dim
        blocks.append((slice(start, stop), piece))
        start = stop
    return blocks


def _pieces(x: FloatArray) -> Iterator[FloatArray]:
    if x.flags.c_contiguous:
        x = x.reshape(-1, x.shape[-1])
    inner = x.size // x.shape[0]
    if x.ndim > 2 and inner > _BLOCK:
        for part in x:
            yield from _pieces(part)
        return
    step = max(1, _BLOCK // inner)
    for start in range(0, x.shape[0], step):
        yield x[start : start + step]


def _rows(piece: FloatArray) -> FloatArray:
    """A piece as aligned, contiguous float32 rows; a copy only if it is not that already."""
    rows = np.require(piece, dtype=np.float32, requirements=["C", "A"])
    return rows.reshape(-1, rows.shape[-1])


# --- What the kernels are given -----------------------------------------------------------------


@dataclass(frozen=True)
class _Buffers:
    """One vector, on a cache line's boundary, and the bytes of its codes."""

    vector: FloatArray
    words: NDArray[np.uint64]
    codes: NDArray[np.uint8]

    @classmethod
    def of(cls, dim: int) -> _Buffers:
        groups = -(-dim // 8)
        space = np.zeros(8 * groups + 16, dtype=np.float32)
        first = -space.ctypes.data % 64 // 4
        words = np.zeros(groups, dtype=np.uint64)
        return cls(space[first : first + 8 * groups], words, words.view(np.uint8))


def _level_table(levels: FloatArray, bits: int) -> FloatArray:
    """Levels of the 8, 4, 2, 2 or 1 codes in each pattern of consecutive bits."""
    width = {1: 8, 2: 4, 3: 2, 4: 2}.get(bits, 1)
    patterns = np.arange(1 << bits * width)[:, None]
    index = patterns >> bits * np.arange(width) & ((1 << bits) - 1)
    return np.ascontiguousarray(levels.astype(np.float32)[index])


_PLUS_MINUS = _level_table(np.array([-1.0, 1.0]), 1)


@dataclass(frozen=True)
class _Levels:
    """A codebook as the kernels read it."""

    edges: FloatArray
    levels: FloatArray
    table: FloatArray


@lru_cache(maxsize=64)
def _levels(codebook: Codebook) -> _Levels:
    return _Levels(
        codebook.edges.astype(np.float32),
        codebook.levels.astype(np.float32),
        _level_table(codebook.levels, codebook.bits),
    )


def _sign_rows(rotation: Rotation) -> FloatArray | None:
    """The signs of each round, shape (rounds, d); no row for "none"; None for what numpy does."""
    if rotation.kind == "haar" or rotation.rounds > _MOST_ROUNDS or rotation.dim > _MOST_DIM:
        return None
    if rotation.kind == "hadamard" and rotations.block_size(rotation.dim) != rotation.dim:
        return None
    if rotation.kind == "none":
        return np.empty((0, rotation.dim), dtype=np.float32)
    signs = rotations._signs(rotation.dim, rotation.rounds, rotation.seed)
    return signs.astype(np.float32)


def _sketch_signs(sketch: SignSketch) -> FloatArray | None:
    """The signs of a Hadamard sketch; None for the ones that numpy projects."""
    if sketch.kind != "hadamard":
        return None
    return _sign_rows(sketches._orthogonal(sketch.kind, sketch.dim, sketch.seed))


@dataclass(frozen=True)
class Stored:
    """Arrays of :class:`kvlib.schemes.Encoded`, one row a vector."""

    codes: NDArray[np.uint8]
    scales: FloatArray | None
    signs: NDArray[np.uint8] | None
    residual_norms: FloatArray | None


def takes(x: ArrayLike) -> bool:
    """Whether ``x`` is of a kind the kernels encode: float16 or float32, (..., tokens, d >= 2)."""
    if isinstance(x, np.ma.MaskedArray):  # refused by numpy's path
        return False
    array = np.asarray(x)
    return (
        array.dtype in (np.float16, np.float32)
        and array.dtype.isnative
        and array.ndim >= 2
        and array.size > 0
        and array.shape[-1] >= 2
    )


# --- Encode -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Encoder:
    """What is shared by the blocks of one call."""

    compiled: ModuleType
    codebook: Codebook
    signs: FloatArray
    unbiased: bool
    sketch: SignSketch | None
    store: Callable[..., FloatArray]  # rounds per-vector numbers, or raises ValueError
    out: Stored

    def __call__(self, block: _Block) -> bool:
        """Encode one block into its place; False if it holds a vector that numpy must judge."""
        where, piece = block
        x = _rows(piece)
        buffers = _Buffers.of(x.shape[1])
        sketch = self.sketch
        try:
            if self.codebook.bits and sketch is not None:
                signs = _sketch_signs(sketch)
                if signs is not None:
                    return self._both(where, x, buffers, signs)
            done = not self.codebook.bits or self._scalar(where, x, buffers)
            return done and (sketch is None or self._residual(where, x, buffers, sketch))
        except ValueError:  # a number that its stored type cannot hold
            return False

    def _scalar(self, where: slice, x: FloatArray, buffers: _Buffers) -> bool:
        norms = np.empty(x.shape[0], dtype=np.float32)
        book = _levels(self.codebook)
        refused = self.compiled.encode_rows(
            x,
            self.signs,
            book.edges,
            book.levels,
            self.codebook.bits,
            self.unbiased,
            buffers.vector,
            buffers.words,
            buffers.codes,
            self.out.codes[where],
            norms,
        )
        if not refused and self.out.scales is not None:
            self.out.scales[where] = self.store(norms)
        return not refused

    def _both(
        self, where: slice, x: FloatArray, buffers: _Buffers, sketch_signs: FloatArray
    ) -> bool:
        """Codebook and Hadamard sketch in one pass over the rows."""
        norms, residual_norms = np.empty((2, x.shape[0]), dtype=np.float32)
        assert self.out.scales is not None
        assert self.out.signs is not None
        assert self.out.residual_norms is not None
        book = _levels(self.codebook)
        refused = self.compiled.encode_sketch_rows(
            x,
            self.signs,
            book.edges,
            book.levels,
            self.codebook.bits,
            self.unbiased,
            self.out.scales.dtype == np.float16,
            sketch_signs,
            buffers.vector,
            buffers.words,
            buffers.codes,
            self.out.codes[where],
            norms,
            self.out.signs[where],
            residual_norms,
        )
        if refused:
            return False
        self.out.scales[where] = self.store(norms)
        self.out.residual_norms[where] = self.store(residual_norms, any_small=True)
        return True

    def _residual(self, where: slice, x: FloatArray, buffers: _Buffers, sketch: SignSketch) -> bool:
        assert self.out.signs is not None
        assert self.out.residual_norms is not None
        norms = np.empty(x.shape[0], dtype=np.float32)
        if self.out.scales is None:
            residual = x
            refused = self.compiled.norm_rows(x, buffers.vector, norms)
        else:
            residual = np.empty_like(x)
            _decode_scalar(
                self.compiled, self.out, where, self.codebook, self.signs, buffers, residual
            )
            refused = self.compiled.subtract_rows(x, residual, buffers.vector, norms)
        if refused:
            return False
        self.out.residual_norms[where] = self.store(norms, any_small=True)
        buffers.words[:] = 0
        signs = _sketch_signs(sketch)
        if signs is None:  # numpy's product, then the signs of its result
            residual = np.ascontiguousarray(sketch.project(residual))
            signs = np.empty((0, sketch.dim), dtype=np.float32)
        self.compiled.sign_rows(
            residual, signs, buffers.vector, buffers.words, buffers.codes, self.out.signs[where]
        )
        return True


def encode(
    x: FloatArray,
    codebook: Codebook,
    rotation: Rotation,
    sketch: SignSketch | None,
    *,
    unbiased: bool,
    side_dtype: str,
    store: Callable[..., FloatArray],
) -> Stored | None:
    """Encode the vectors of ``x`` (see :func:`takes`), or None if numpy must."""
    signs = _sign_rows(rotation)
    compiled = runtime.kernels("rows")
    if compiled is None or signs is None or (codebook.bits == 0 and sketch is None):
        return None
    if sketch is not None and sketch.dim > _MOST_DIM:
        return None
    leading, dim = x.shape[:-1], x.shape[-1]
    count = x.size // dim

    def empty(width: int) -> NDArray[np.uint8]:
        return np.empty((count, width), dtype=np.uint8)

    out = Stored(
        codes=empty(packing.bytes_per_vector(dim, codebook.bits)),
        scales=np.empty(count, dtype=side_dtype) if codebook.bits else None,
        signs=None if sketch is None else empty(packing.bytes_per_vector(dim, 1)),
        residual_norms=None if sketch is None else np.empty(count, dtype=side_dtype),
    )
    encoder = _Encoder(compiled, codebook, signs, unbiased, sketch, store, out)
    if not runtime.run(encoder, _blocks(x)):
        return None

    return Stored(
        out.codes.reshape(*leading, out.codes.shape[1]),
        None if out.scales is None else out.scales.reshape(leading),
        None if out.signs is None else out.signs.reshape(*leading, out.signs.shape[1]),
        None if out.residual_norms is None else out.residual_norms.reshape(leading),
    )


# --- Decode -------------------------------------------------------------------------------------


def _decode_scalar(
    compiled: ModuleType,
    stored: Stored,
    where: slice,
    codebook: Codebook,
    signs: FloatArray,
    buffers: _Buffers,
    out: FloatArray,
) -> None:
    """out <- the decoded codes."""
    assert stored.scales is not None
    compiled.decode_rows(
        stored.codes[where],
        stored.scales[where].astype(np.float32),
        signs,
        _levels(codebook).table,
        codebook.bits,
        buffers.vector,
        out,
    )


def _add_sketch(
    compiled: ModuleType,
    stored: Stored,
    where: slice,
    sketch: SignSketch,
    buffers: _Buffers,
    out: FloatArray,
) -> None:
    """out += the decoded sketch."""
    assert stored.signs is not None
    assert stored.residual_norms is not None
    lengths = stored.residual_norms[where].astype(np.float32) * np.float32(sketch.decoder_scale)
    signs = _sketch_signs(sketch)
    if signs is not None:
        lengths /= np.float32(np.sqrt(sketch.dim))
        compiled.add_sketch_rows(
            stored.signs[where], lengths, signs, _PLUS_MINUS, buffers.vector, out
        )
        return
    plus_minus = np.empty_like(out)
    compiled.unpack_sign_rows(stored.signs[where], _PLUS_MINUS, buffers.vector, plus_minus)
    back = sketch.transpose(plus_minus)
    back *= lengths[:, None]
    out += back


def decode(
    stored: Stored,
    codebook: Codebook,
    rotation: Rotation,
    sketch: SignSketch | None,
    out: FloatArray | None = None,
) -> FloatArray | None:
    """Reconstruct float32 vectors, in ``out`` if it is contiguous; None if numpy must."""
    signs = _sign_rows(rotation)
    compiled = runtime.kernels("rows")
    if compiled is None or signs is None or (codebook.bits == 0 and sketch is None):
        return None
    leading, dim = stored.codes.shape[:-1], rotation.dim
    flat = _flat(stored, dim, codebook.bits, sketch is not None)
    if flat is None or (sketch is not None and sketch.dim > _MOST_DIM):
        return None
    if out is None or not (out.flags.c_contiguous and out.flags.aligned):
        out = np.empty((*leading, dim), dtype=np.float32)

    def work(block: _Block) -> None:
        where, x_hat = block
        buffers = _Buffers.of(dim)
        if codebook.bits:
            _decode_scalar(compiled, flat, where, codebook, signs, buffers, x_hat)
        else:
            x_hat[:] = 0
        if sketch is not None:
            _add_sketch(compiled, flat, where, sketch, buffers, x_hat)

    runtime.run(work, _blocks(out))
    return out


def _flat(stored: Stored, dim: int, bits: int, sketched: bool) -> Stored | None:
    """One row a vector; None where a part is missing or of another shape (numpy says how)."""
    leading = stored.codes.shape[:-1]
    expected = {
        "codes": (*leading, packing.bytes_per_vector(dim, bits)),
        "scales": leading if bits else None,
        "signs": (*leading, packing.bytes_per_vector(dim, 1)) if sketched else None,
        "residual_norms": leading if sketched else None,
    }
    count = math.prod(leading)
    flat: dict[str, FloatArray | None] = {}
    for name, shape in expected.items():
        part = getattr(stored, name)
        if shape is None:
            flat[name] = None
        elif part is None or part.shape != shape:
            return None
        elif name in ("codes", "signs"):
            if part.dtype != np.uint8:
                return None
            flat[name] = np.require(part, requirements=["C", "A"]).reshape(count, shape[-1])
        else:
            flat[name] = part.reshape(count)
    return Stored(**flat)  # type: ignore[arg-type]
