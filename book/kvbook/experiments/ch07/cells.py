"""The cells of the factorial: ways to quantize keys or values, and what each reconstructs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.ch07.regimes import dots
from kvlib.quantize import BlockQuantizer, RotatedQuantizer
from kvlib.quantize.sketches import SignSketch

BUDGETS = range(1, 7)


@dataclass(frozen=True)
class Cell:
    """A way to quantize vectors, for any budget of bits.

    Attributes
    ----------
    rotation, sketch, scale, center
        As of :class:`kvlib.quantize.RotatedQuantizer`.
    levels : {"Lloyd-Max", "min-max"}
        The codebook: that of a rotated vector, or equal steps between the least and the largest
        coordinate of each vector (:class:`kvlib.quantize.BlockQuantizer`), which nothing of the
        above applies to.
    """

    rotation: str = "hadamard"
    sketch: str | None = None
    scale: str = "norm"
    center: bool = False
    levels: str = "Lloyd-Max"

    def quantizer(
        self, bits: int, side_dtype: str = "float32"
    ) -> RotatedQuantizer | BlockQuantizer:
        """The cell's quantizer at ``bits`` a coordinate, the sketch's bit included."""
        if self.levels == "min-max":
            return BlockQuantizer(bits, side_dtype=side_dtype)
        return RotatedQuantizer(
            bits,
            rotation=self.rotation,
            sketch=self.sketch,
            scale=self.scale,
            center=self.center,
            side_dtype=side_dtype,
        )

    def with_scale(self, scale: str) -> Cell:
        """The same with another scale in place of the norm."""
        return replace(self, scale=scale)

    def with_unbiased_scale(self) -> Cell:
        """The same with the unbiased scale in place of the norm."""
        return self.with_scale("unbiased")

    def stored_bits(self, bits: int, dim: int, tokens: int) -> float:
        """Bits a coordinate that a cache takes, numbers beside the codes in float16 included."""
        vectors = np.random.default_rng(0).standard_normal((tokens, dim))
        return self.quantizer(bits, side_dtype="float16").encode(vectors).bits_per_coordinate


NONE = Cell(rotation="none")
WHT = Cell()
HAAR = Cell(rotation="haar")
MATCHED = WHT.with_scale("matched")
EDEN = WHT.with_unbiased_scale()
C_EDEN = replace(EDEN, center=True)
QJL_GAUSSIAN = Cell(sketch="gaussian")
QJL_HADAMARD = Cell(sketch="hadamard")
QJL_HAAR = Cell(sketch="haar")
MIN_MAX = Cell(rotation="none", levels="min-max")
SKETCHED = {"gaussian": QJL_GAUSSIAN, "hadamard": QJL_HADAMARD}
"""The cells that sketch their residual after a Hadamard rotation, by the sketch's name."""

ROTATIONS = ("none", "hadamard", "haar")
SCALES = ("norm", "matched", "unbiased")
CORE = (NONE, WHT, EDEN, QJL_GAUSSIAN, QJL_HADAMARD)
SMALL_PLAN = (WHT, QJL_GAUSSIAN, QJL_HADAMARD)
"""KQV's keys and QKQV's with both sketches."""
PLANE_PLAN = (*SMALL_PLAN, HAAR, Cell(rotation="haar", sketch="haar"))
"""The same, and Haar rotations and sketches: two dimensions have only eight Hadamard matrices."""
FULL_PLAN = (
    *(Cell(rotation, scale=scale) for rotation, scale in product(ROTATIONS, SCALES)),
    *(Cell(rotation, sketch) for rotation, sketch in product(ROTATIONS, SKETCHED)),
    *(cell.with_scale(scale) for cell, scale in product(SKETCHED.values(), SCALES[1:])),
    QJL_HAAR,
    Cell(rotation="haar", sketch="haar"),
    C_EDEN,
)
"""Every rotation with every scale and with every sketch, every scale with every sketch under WHT,
and a few cells more."""

DIMS = (2, 8, 32, 64, 128, 256, 1024)
PLANS = dict.fromkeys(DIMS, SMALL_PLAN) | {
    2: PLANE_PLAN,
    128: FULL_PLAN,
}
"""Cells that are measured in each dimension."""

PAIRS = (*product(CORE, CORE), (C_EDEN, C_EDEN))
"""(keys, values): the pairs of cells that the attention output is measured with."""


def reconstruction_errors(
    x: NDArray[np.float32],
    cells: Sequence[Cell],
    budgets: Sequence[int] = BUDGETS,
    *,
    seed: int,
) -> Iterator[tuple[tuple[Cell, int], NDArray[Any]]]:
    """``(cell, bits), x_hat - x`` for every cell and budget that exists.

    What ``cell.quantizer(bits)`` reconstructs with this seed, but for rounding: here one code
    serves all scales and all sketches of its residual, which makes the factorial several times
    faster.

    Parameters
    ----------
    x : array, shape (..., token, d)
    cells : sequence of Cell
    budgets : sequence of int
        Bits a coordinate. An unbiased scale needs a bit besides the sketch's.
    seed : int
        Draws rotation and sketch, the same for all cells.
    """
    for cell, bits in product((cell for cell in cells if cell.levels == "min-max"), budgets):
        yield (cell, bits), cell.quantizer(bits).encode(x).decode() - x
    cells = [cell for cell in cells if cell.levels != "min-max"]
    kinds = dict.fromkeys(cell.sketch for cell in cells if cell.sketch)
    sketches = {kind: SignSketch(kind, x.shape[-1], seed=seed) for kind in kinds}
    rotations = dict.fromkeys(cell.rotation for cell in cells)
    for rotation, bits in product(rotations, range(max(budgets) + 1)):
        for plain, error in _codebook_errors(x, rotation, bits, cells, seed):
            if bits in budgets and plain in cells:
                yield (plain, bits), error
            if bits + 1 not in budgets:
                continue
            for kind, sketch in sketches.items():
                cell = replace(plain, sketch=kind)
                if cell in cells:
                    yield (cell, bits + 1), error + _sketched(-error, sketch)


def _codebook_errors(
    x: NDArray[np.float32], rotation: str, bits: int, cells: Sequence[Cell], seed: int
) -> Iterator[tuple[Cell, NDArray[Any]]]:
    """Errors of the codebook alone at each scale; without a bit there is but the norm."""
    norm = Cell(rotation)
    plain = norm.quantizer(bits).encode(x, seed=seed).decode()
    yield norm, plain - x
    if bits == 0:
        return
    square = dots(x, x)
    factors = {"matched": np.sqrt(square / dots(plain, plain)), "unbiased": square / dots(x, plain)}
    for scale, factor in factors.items():
        yield norm.with_scale(scale), plain * factor[..., None] - x
    centred = Cell(rotation, scale="unbiased", center=True)
    if centred in cells:
        yield centred, centred.quantizer(bits).encode(x, seed=seed).decode() - x


def _sketched(residual: NDArray[Any], sketch: SignSketch) -> NDArray[Any]:
    """What the signs of a residual's projections and its length give back of it."""
    length = np.sqrt(dots(residual, residual))[..., None]
    signs = np.copysign(np.float32(1), sketch.project(residual))
    return np.asarray(np.float32(sketch.decoder_scale) * length * sketch.transpose(signs))


def vector_errors(x: NDArray[Any], error: NDArray[Any]) -> NDArray[Any]:
    """Relative squared error and angle over pi of each head, means over its vectors: (..., 2)."""
    a, b, c = dots(x, x), dots(x, error), dots(error, error)
    angle = np.arctan2(np.sqrt(np.maximum(a * c - b * b, 0)), a + b) / np.pi
    return np.stack([(c / a).mean(axis=-1), angle.mean(axis=-1)], axis=-1)
