"""When a sketch would win: the rule, its constants, and the set of budgets it wins.

KQV's keys err by D(n). QKQV codes with n - 1 bits and sketches the residual, which leaves the share
c of its energy: QKQV is ahead at budget n if and only if c D(n-1) < D(n).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

from kvbook.experiments.common import distortion
from kvlib import laws
from kvlib.quantize import sketches

Budgets = tuple[int, ...]
"""A set of budgets, increasing."""

BUDGETS = range(2, 7)
"""Bits a coordinate at which the two schemes are compared."""

PUBLISHED: Budgets = (2, 3, 5)
"""Where the paper has QKQV ahead."""


class Sketch(NamedTuple):
    """A sign sketch: its matrix ("gaussian", "haar", "hadamard") and its scale."""

    kind: str
    scale: str

    @property
    def label(self) -> str:
        """Its name for a table."""
        return f"{self.kind.capitalize()}, {'MMSE' if self.scale == 'mmse' else self.scale}"


SKETCHES = tuple(Sketch(*pair) for pair in product(sketches.KINDS, sketches.SCALES))
GAUSSIAN = Sketch("gaussian", "unbiased")
ORTHOGONAL = Sketch("haar", "unbiased")
ORTHOGONAL_MMSE = Sketch("haar", "mmse")

CONSTANTS = {"MMSE": ORTHOGONAL_MMSE, "orthogonal": ORTHOGONAL, "Gaussian": GAUSSIAN}
"""The sketches whose constant c is tried on damaged codebooks, by name."""


def sketch_constant(sketch: Sketch, dim: int) -> float:
    """The constant c of a sketch in R^dim; a Hadamard sketch counts as a Haar one."""
    gaussian = sketch.kind == "gaussian"
    error = laws.gaussian_sketch_error(dim) if gaussian else laws.orthogonal_sketch_error(dim)
    return error if sketch.scale == "unbiased" else laws.mmse_error(error)


def improvement(dim: int, bits: int) -> float:
    """What the last bit leaves of the error of the best codebook: D(bits) / D(bits - 1)."""
    return distortion(dim, bits) / distortion(dim, bits - 1)


def error_ratio_law(sketch: Sketch, dim: int, bits: int) -> float:
    """Error of QKQV over error of KQV with the best codebooks; below one QKQV is ahead."""
    c = sketch_constant(sketch, dim)
    return laws.equal_budget_penalty(c, distortion(dim, bits - 1), distortion(dim, bits))


def closest_call(sketch: Sketch, dims: Iterable[int], budgets: Iterable[int]) -> float:
    """The least error ratio of a sketch over dimensions and budgets."""
    return min(error_ratio_law(sketch, d, n) for d, n in product(dims, budgets))


def winning_set(distortions: Sequence[float], c: float) -> Budgets:
    """Budgets that QKQV wins by the rule, whatever the codebooks.

    Parameters
    ----------
    distortions : sequence of 6 floats
        Distortion of the codebooks of 1 to 6 bits.
    c : float
        The sketch's constant.
    """
    return tuple(n for n in BUDGETS if c * distortions[n - 2] < distortions[n - 1])


def set_name(budgets: Budgets) -> str:
    """A set of budgets as text."""
    return "{" + ",".join(map(str, budgets)) + "}" if budgets else "∅"
