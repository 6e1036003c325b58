"""The cells of the factorial: ways to quantize keys or values, and what each reconstructs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.ch07.regimes import dots
from kvlib.quantize import RotatedQuantizer
from kvlib.quantize.sketches import SignSketch

BUDGETS = range(1, 7)


@dataclass(frozen=True)
class Cell:
    """A way to quantize vectors, for any budget of bits.

    Attributes
    ----------
    rotation, sketch, scale, center
        As of :class:`kvlib.quantize.RotatedQuantizer`.
    """

    rotation: str = "hadamard"
    sketch: str | None = None
    scale: str = "norm"
    center: bool = False

    def quantizer(self, bits: int) -> RotatedQuantizer:
        """The cell's quantizer at ``bits`` a coordinate, the sketch's bit included."""
        return RotatedQuantizer(
            bits,
            rotation=self.rotation,
            sketch=self.sketch,
            scale=self.scale,
            center=self.center,
            side_dtype="float32",
        )

    def with_unbiased_scale(self) -> Cell:
        """The same with the unbiased scale in place of the norm."""
        return replace(self, scale="unbiased")


NONE = Cell(rotation="none")
WHT = Cell()
HAAR = Cell(rotation="haar")
EDEN = WHT.with_unbiased_scale()
C_EDEN = replace(EDEN, center=True)
QJL_GAUSSIAN = Cell(sketch="gaussian")
QJL_HADAMARD = Cell(sketch="hadamard")
QJL_HAAR = Cell(sketch="haar")
SKETCHED = {"gaussian": QJL_GAUSSIAN, "hadamard": QJL_HADAMARD}
"""The cells that sketch their residual after a Hadamard rotation, by the sketch's name."""

CORE = (NONE, WHT, EDEN, QJL_GAUSSIAN, QJL_HADAMARD)
SMALL_PLAN = (NONE, NONE.with_unbiased_scale(), WHT, EDEN, QJL_GAUSSIAN, QJL_HADAMARD)
"""Rotation against none, both scales, both sketches under a Hadamard rotation."""
PLANE_PLAN = (
    *SMALL_PLAN,
    HAAR,
    HAAR.with_unbiased_scale(),
    Cell(rotation="haar", sketch="haar"),
)
"""The same, and Haar rotations and sketches: two dimensions have only eight Hadamard matrices."""
FULL_PLAN = (
    *(
        Cell(rotation, sketch, scale)
        for rotation, sketch, scale in product(
            ("none", "hadamard", "haar"), (None, "gaussian", "hadamard"), ("norm", "unbiased")
        )
    ),
    QJL_HAAR,
    Cell(rotation="haar", sketch="haar"),
    C_EDEN,
)
"""Every rotation with every sketch and scale, and a few cells more."""

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
    serves both scales and all sketches of its residual, which makes the factorial several times
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
    yield norm.with_unbiased_scale(), plain * (dots(x, x) / dots(x, plain))[..., None] - x
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
