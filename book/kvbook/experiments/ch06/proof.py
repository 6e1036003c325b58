"""T09: with the best codebooks no sketch is ahead. The proof by boxes, and measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kvbook import ledger
from kvbook.experiments.ch06.rule import (
    GAUSSIAN,
    ORTHOGONAL,
    ORTHOGONAL_MMSE,
    Sketch,
    error_ratio_law,
    improvement,
    sketch_constant,
)
from kvbook.experiments.common import distortion
from kvlib import laws, stats
from kvlib.checks import FloatArray
from kvlib.laws import sphere, splitting
from kvlib.measure import metrics
from kvlib.quantize import RotatedQuantizer, codebooks
from kvlib.quantize.sketches import SignSketch
from kvlib.stats import Interval


@dataclass(frozen=True)
class Case:
    """A dimension, a budget and a sketch, and how far from its closed form the ratio may be."""

    dim: int
    bits: int
    sketch: Sketch
    tolerance: float

    @property
    def foretold(self) -> float:
        """The closed form: error of QKQV over error of KQV."""
        return error_ratio_law(self.sketch, self.dim, self.bits)


RANDOM_DIRECTIONS = {
    "d=128, n=2, orthogonal MMSE": Case(128, 2, ORTHOGONAL_MMSE, 0.02),
    "d=128, n=4, orthogonal": Case(128, 4, ORTHOGONAL, 0.02),
    "d=128, n=6, Gaussian": Case(128, 6, GAUSSIAN, 0.02),
    "d=4, n=2, orthogonal MMSE": Case(4, 2, ORTHOGONAL_MMSE, 0.01),
    "d=3, n=4, orthogonal MMSE: a tie": Case(3, 4, ORTHOGONAL_MMSE, 0.01),
    "d=2, n=5, orthogonal: QKQV ahead": Case(2, 5, ORTHOGONAL, 0.02),
    "d=2, n=2, orthogonal MMSE: QKQV ahead": Case(2, 2, ORTHOGONAL_MMSE, 0.02),
}
"""Cases measured on uniformly random directions, by label."""

_SMALL_DIMENSIONS = "d = 4..19: boxes of cells with a bound not below D(1)"
_LARGE_DIMENSIONS = "d ≥ 20: boxes of cells with a bound not below D(1)"
_EQUAL_BYTES = "d=2, n=2, equal bytes (fp16 norm): error ratio"


def _ratio_label(label: str) -> str:
    return f"{label}, error ratio"


def predict_t09(cases: Mapping[str, Case] = RANDOM_DIRECTIONS) -> ledger.Predictions:
    """What has to hold of the boxes of the proof, of the cases, and of the cost of the norm."""
    no_bit_less = "a cell that one more bit improves less than D(1)"
    boxes = [
        ledger.Prediction(label, ledger.Below(0), no_bit_less)
        for label in (_SMALL_DIMENSIONS, _LARGE_DIMENSIONS)
    ]
    ratios = [
        ledger.Prediction(
            _ratio_label(label),
            ledger.Within(case.foretold, case.tolerance * case.foretold),
            f"an interval more than {case.tolerance:.1%} off",
        )
        for label, case in cases.items()
    ]
    cost = ledger.Prediction(_EQUAL_BYTES, ledger.Above(1), "QKQV ahead at equal bytes")
    return ledger.Predictions("T09", [*boxes, *ratios, cost])


# The proof ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Covers:
    """Boxes that cover all cells of all dimensions from 4 on.

    Attributes
    ----------
    single : tuple of Cover
        One a dimension, from 4 on.
    beyond : Cover
        All larger dimensions at once.
    """

    single: tuple[splitting.Cover, ...]
    beyond: splitting.Cover

    @property
    def single_boxes(self) -> int:
        """Boxes of the dimensions that are covered one at a time."""
        return sum(cover.boxes for cover in self.single)

    @property
    def boxes(self) -> int:
        """Boxes in all."""
        return self.single_boxes + self.beyond.boxes

    @property
    def worst(self) -> float:
        """The largest bound of a box over its limit D(1)."""
        return max(cover.worst for cover in (*self.single, self.beyond))


def cover_all_dimensions(last_single: int) -> Covers:
    """Prove D(n) < D(1) D(n-1) for every n >= 2 and d >= 4.

    Parameters
    ----------
    last_single : int
        Dimensions up to this one are covered one at a time, the rest together.
    """
    single = tuple(
        splitting.cover_dimension(d, laws.one_bit_distortion(d)) for d in range(4, last_single + 1)
    )
    return Covers(single, splitting.cover_from(last_single + 1))


def quadrature_error(cover: splitting.Cover) -> float:
    """How far the worst bound at d = 4 moves with twice the quadrature nodes."""
    finer = splitting.cover_dimension(4, laws.one_bit_distortion(4), nodes=2 * splitting.NODES)
    return abs(finer.worst - cover.worst)


def to_three_digits(number: float) -> float:
    """Three digits: a box within rounding of its margin may be cut on one machine only."""
    return float(f"{number:.3g}")


# The exception d = 2, and what its second norm costs ---------------------------------------------


def break_even_price(bits: int, sketch: Sketch) -> float:
    """Bits a vector that the residual norm may cost at d = 2 before QKQV's lead is gone."""
    return math.log2(improvement(2, bits) / sketch_constant(sketch, 2))


def break_even_limit(sketch: Sketch) -> float:
    """The same for many bits, where one more leaves a quarter of the error."""
    return math.log2(0.25 / sketch_constant(sketch, 2))


def ratio_without_norm(bits: int, points: int = 200_000) -> float:
    """Error ratio at d = 2, MMSE sketch, when the decoder knows only the mean residual norm.

    Averaged over equally spaced points of the circle.
    """
    angle = 2 * np.pi * (np.arange(points) + 0.5) / points
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    book = codebooks.lloyd_max(2, bits - 1)
    norms = np.linalg.norm(circle - book.dequantize(book.quantize(circle)), axis=-1)
    kept = (1 - sketch_constant(ORTHOGONAL_MMSE, 2)) * norms.mean() ** 2 / (norms**2).mean()
    return float((1 - kept) / improvement(2, bits))


def ratio_at_one_bit(bits: int) -> float:
    """Error ratio at d = 2, MMSE sketch, when the norm costs one bit a vector.

    KQV spends that bit on one of its two coordinates.
    """
    fine = (distortion(2, bits) + distortion(2, bits + 1)) / 2
    return sketch_constant(ORTHOGONAL_MMSE, 2) * distortion(2, bits - 1) / fine


def ratio_at_equal_bytes() -> float:
    """Error ratio at d = 2, n = 2, MMSE sketch, when the norm is stored in fp16.

    The norm buys KQV eight bits a coordinate more; eight in all are enough to show the point.
    """
    return sketch_constant(ORTHOGONAL_MMSE, 2) * distortion(2, 1) / distortion(2, 8)


# Measurements ------------------------------------------------------------------------------------


def measure_random_directions(
    cases: Mapping[str, Case], *, seed: np.random.SeedSequence
) -> dict[str, Interval]:
    """Error of QKQV over error of KQV on uniformly random directions, one interval a case."""
    rng = np.random.default_rng(seed)
    return {
        label: (measure_ratio if case.dim >= 8 else measure_small_ratio)(case, rng)
        for label, case in cases.items()
    }


def measure_ratio(
    case: Case, rng: np.random.Generator, *, repetitions: int = 240, vectors: int = 48
) -> Interval:
    """The ratio of mean squared errors; the interval runs over rotations and sketches."""
    plain = RotatedQuantizer(case.bits, rotation="haar", side_dtype="float32")
    sketched = RotatedQuantizer(
        case.bits,
        rotation="haar",
        sketch=case.sketch.kind,
        sketch_scale=case.sketch.scale,
        side_dtype="float32",
    )
    ratios = []
    for seed in rng.integers(2**31, size=repetitions).tolist():
        x = sphere.sample(vectors, case.dim, rng=rng).astype(np.float32)
        errors = [
            metrics.relative_mse(x, q.encode(x, seed=seed).decode()).mean()
            for q in (sketched, plain)
        ]
        ratios.append(errors[0] / errors[1])
    return stats.mean_interval(ratios)


def measure_small_ratio(
    case: Case, rng: np.random.Generator, *, repetitions: int = 40, vectors: int = 8000
) -> Interval:
    """The same at small d, where one sketch matrix is far from typical: a fresh one a vector."""
    dim = case.dim
    alpha = SignSketch(case.sketch.kind, dim, scale=case.sketch.scale).decoder_scale
    coarse, fine = (codebooks.lloyd_max(dim, b) for b in (case.bits - 1, case.bits))
    ratios = []
    for _ in range(repetitions):
        x = sphere.sample(vectors, dim, rng=rng)
        matrix = haar_matrices(vectors, dim, rng)
        residual = x - coarse.dequantize(coarse.quantize(x))
        signs = np.sign(np.einsum("vij,vj->vi", matrix, residual))
        sketched = alpha * np.einsum("vij,vi->vj", matrix, signs)
        left = residual - np.linalg.norm(residual, axis=-1, keepdims=True) * sketched
        plain = x - fine.dequantize(fine.quantize(x))
        ratios.append(np.square(left).sum() / np.square(plain).sum())
    return stats.mean_interval(ratios)


def haar_matrices(count: int, dim: int, rng: np.random.Generator) -> FloatArray:
    """Independent Haar-random orthogonal matrices, shape (count, dim, dim)."""
    matrix, upper = np.linalg.qr(rng.standard_normal((count, dim, dim)))
    signs = np.sign(np.diagonal(upper, axis1=1, axis2=2))
    return np.asarray(matrix * signs[:, None])


def judge_t09(
    predictions: ledger.Predictions,
    covers: Covers,
    ratios: Mapping[str, Interval],
    equal_bytes: float,
) -> ledger.Verdict:
    """Hold boxes, measured ratios and the ratio at equal bytes against the predictions."""
    single = sum(cover.worst >= 1 for cover in covers.single)
    measured = {
        _SMALL_DIMENSIONS: Interval.exactly(float(single)),
        _LARGE_DIMENSIONS: Interval.exactly(float(covers.beyond.worst >= 1)),
        **{_ratio_label(label): interval for label, interval in ratios.items()},
        _EQUAL_BYTES: Interval.exactly(equal_bytes),
    }
    return predictions.verdict(
        measured,
        note="Proved for every n ≥ 2 and d ≥ 4 by splitting cells and covering all of them with "
        "boxes. d=3 is a tie and d=2 an exception, both only while the residual norm is free.",
    )
