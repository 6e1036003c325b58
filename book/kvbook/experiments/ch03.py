"""Chapter 3: how good n bits a coordinate can be (T03), and what the optimum does to a key (T04).

In the order of the page: exact codebooks; what is predicted; isotropic vectors through the stored
bytes; codebooks that are not optimal, and Lloyd iterations that stop early; real heads; spikes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, special

from kvbook import ledger
from kvbook.experiments.common import distortion, worst_interval
from kvlib import laws
from kvlib.data import synthetic
from kvlib.data.captured import KVCache
from kvlib.data.heads import heads as heads_of
from kvlib.laws import sphere
from kvlib.measure import metrics
from kvlib.quantize import RotatedQuantizer, codebooks
from kvlib.quantize.codebooks import Codebook
from kvlib.quantize.rotations import Rotation
from kvlib.stats import Interval, mean_interval

FloatArray = NDArray[np.float64]
Books = Mapping[tuple[int, int], Codebook]
"""Codebooks by (dimension, bits)."""

PRINTED = (0.36089, 0.11600, 0.03397, 0.00931, 0.00245, 0.00063)
"""The ledger's D(1) to D(6) at d = 128."""
MAX_1960 = {
    1: (0.3634, 5e-5),
    2: (0.1175, 5e-5),
    3: (0.03454, 5e-6),
    4: (0.009497, 5e-7),
    5: (0.002499, 5e-7),
}
"""Max's distortions of a normal variable by bits, each with half a unit of its last digit."""
QUOTED_MSE = {1: (0.36, 2), 2: (0.117, 3), 3: (0.03, 2), 4: (0.009, 3)}
"""TurboQuant's D_mse by bits, each with its number of decimals."""
QUOTED_PRODUCT = {1: 1.57, 2: 0.56, 3: 0.18, 4: 0.047}
"""TurboQuant's d D_prod by bits."""
LARGE_DIM = 10**9
"""Dimension that stands for the Gaussian limit."""

# Exact codebooks -------------------------------------------------------------------------------


def optimal_codebooks(dims: Iterable[int], bits: Iterable[int]) -> dict[tuple[int, int], Codebook]:
    """Lloyd-Max codebooks of every dimension and every number of bits."""
    budgets = tuple(bits)
    return {(d, n): codebooks.lloyd_max(d, n) for d in dims for n in budgets}


def gaussian_limit(bits: Iterable[int]) -> dict[int, float]:
    """Distortion D(n) for d to infinity, by bits."""
    return {n: distortion(LARGE_DIM, n) for n in bits}


def scaled_distortions(dims: Iterable[int], bits: Iterable[int]) -> dict[int, list[float]]:
    """4^n D(n) by dimension, for every number of bits: the constant before Shannon's 4^-n."""
    budgets = tuple(bits)
    return {d: [4**n * distortion(d, n) for n in budgets] for d in dims}


def quadrature_distortion(book: Codebook) -> float:
    """The definition of D, integrated numerically in the angle x = sin(t), cell by cell."""
    cuts = np.arcsin(np.concatenate([[-1], book.edges, [1]]))
    power, constant = book.dim - 2, book.dim * sphere.normalizer(book.dim)
    total = sum(
        integrate.quad(lambda t, c=c: (np.sin(t) - c) ** 2 * np.cos(t) ** power, a, b)[0]
        for a, b, c in zip(cuts[:-1], cuts[1:], book.levels, strict=True)
    )
    return float(constant * total)


class CodebookChecks(NamedTuple):
    """How far the codebooks are from what defines them.

    ``residual``: largest distance of a level from its centroid, in standard deviations;
    ``quadrature``: largest relative difference of D to its definition; ``one_bit``: largest
    difference of D(1) to the closed form.
    """

    residual: float
    quadrature: float
    one_bit: float


def check_codebooks(books: Books, *, integrated: Iterable[int] = (2, 8, 128)) -> CodebookChecks:
    """Check stationarity of all codebooks, D(1), and D(1) and D(3) of some dimensions."""
    keys = [(d, n) for d in integrated for n in (1, 3)]
    return CodebookChecks(
        residual=max(book.stationarity for book in books.values()),
        quadrature=max(
            abs(quadrature_distortion(books[key]) / books[key].distortion - 1) for key in keys
        ),
        one_bit=max(
            abs(book.distortion - laws.one_bit_distortion(d))
            for (d, n), book in books.items()
            if n == 1
        ),
    )


class GaussianLloyd(NamedTuple):
    """Where Lloyd's iteration on N(0, 1) ends, and after how many steps."""

    distortion: float
    steps: int


def gaussian_lloyd(levels: FloatArray, *, tolerance: float = 1e-12) -> GaussianLloyd:
    """Alternate midpoints and centroids of N(0, 1) until no level moves.

    A second witness of the Gaussian constants, which shares no code with ``codebooks``.
    """
    for step in range(100_000):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        mass = np.diff(special.ndtr(edges))
        moment = -np.diff(np.exp(-(edges**2) / 2)) / np.sqrt(2 * np.pi)
        if np.abs(moment / mass - levels).max() < tolerance:
            return GaussianLloyd(float(1 - (moment**2 / mass).sum()), step)
        levels = moment / mass
    raise RuntimeError(f"levels still move by more than {tolerance:g} after 100000 steps")


class StoredRate(NamedTuple):
    """A code's distortion, its rate R = n + 16/d with the norm counted, and the bits stored."""

    dim: int
    bits: int
    distortion: float
    rate: float
    stored_bits: float

    @property
    def margin(self) -> float:
        """Distance from Shannon's line, 4^R D."""
        return self.distortion * 4**self.rate


def stored_rates(dims: Iterable[int], bits: Iterable[int]) -> list[StoredRate]:
    """What a quantizer stores a coordinate, norm included, against Shannon's line."""
    budgets, found = tuple(bits), []
    for d in dims:
        for n in budgets:
            x = np.random.default_rng(0).standard_normal((4, d))
            encoded = RotatedQuantizer(n, rotation="haar").encode(x)
            stored = encoded.bits_per_coordinate
            found.append(StoredRate(d, n, distortion(d, n), n + 16 / d, stored))
    return found


# Laws for single vectors -----------------------------------------------------------------------


class SingleVectorErrors(NamedTuple):
    """Mean over single vectors of 1 - cos, angle / pi, and relative MSE at the unbiased scale."""

    one_minus_cosine: float
    angle: float
    unbiased_mse: float


def first_order_law(distortion: float) -> SingleVectorErrors:
    """The errors if every vector had the mean cosine, sqrt(1 - D)."""
    return SingleVectorErrors(
        laws.direction_error_of(distortion, "one-minus-cosine"),
        laws.direction_error_of(distortion, "angle"),
        laws.unbiased_distortion(distortion),
    )


def second_order_law(book: Codebook) -> SingleVectorErrors:
    """The errors with the fluctuations of single vectors, to order 1/d."""
    aa, ab, bb = fluctuations_law(book)
    cosine = laws.cosine_of(book.distortion) * (1 + 3 / 8 * bb - ab / 2)
    spread = cosine**2 * (aa - ab + bb / 4)
    angle = np.arccos(cosine) - spread * cosine / (1 - cosine**2) ** 1.5 / 2
    tangent_square = (1 + 3 * aa - 2 * ab) / (1 - book.distortion) - 1
    return SingleVectorErrors(float(1 - cosine), float(angle / np.pi), float(tangent_square))


def fluctuations_law(book: Codebook) -> tuple[float, float, float]:
    """Relative covariances (aa, ab, bb) of a = <u, u_hat> and b = |u_hat|^2, to order 1/d.

    What the length constraint |u| = 1 explains is regressed out; in units of (1 - D)^2.
    """
    x = sphere.coordinate_ppf((np.arange(2**17) + 0.5) / 2**17, book.dim)
    level, square = book.dequantize(book.quantize(x)), book.dim * x**2 - 1
    sums = book.dim * np.stack([x * level, level**2])
    sums -= np.outer(sums @ square, square) / (square @ square)
    (aa, ab), (_, bb) = np.cov(sums) / book.dim / (1 - book.distortion) ** 2
    return float(aa), float(ab), float(bb)


def least_squares_gain_law(book: Codebook) -> float:
    """Share of the error that the least-squares scale saves: 1 - E sin^2 / D, to order 1/d."""
    aa, ab, bb = fluctuations_law(book)
    mean_square = (1 - book.distortion) * (1 + aa + bb - 2 * ab)
    return 1 - (1 - mean_square) / book.distortion


# Predictions -----------------------------------------------------------------------------------

_PRINTED_LABEL = "d = 128, n = 1..6: largest distance from the printed D(n)"
_HIGH_RATE_LABEL = "Gaussian limit, high-rate constant from n = 7 and 8"
_LARGEST_LABEL = "largest 4^n D(n) over d and n ≥ 1 (upper bound, any d)"
_ISOTROPIC_LABEL = "isotropic vectors, worst of n = 1..6: measured / D(n)"


def _floor_label(dim: int) -> str:
    return f"d = {dim}: smallest 4^n D(n) over n ≥ 1, TurboQuant's lower bound"


def _max_label(bits: int) -> str:
    return f"Gaussian limit, n = {bits}: Max's constant"


def predict_t03(dims: Sequence[int]) -> ledger.Predictions:
    """Printed constants, limits and bounds of D(n), and the error of isotropic vectors.

    Parameters
    ----------
    dims : sequence of int
        Dimensions at which the lower bound is asked for, each an instance of "any d".
    """
    high_rate = laws.GAUSSIAN_PANTER_DITE
    floor = ledger.Above(1 - 1e-9)  # d = 3 meets the bound exactly, up to rounding
    return ledger.Predictions(
        "T03",
        [
            ledger.Prediction(
                _ISOTROPIC_LABEL, ledger.Within(1.0, 0.01), "an interval that leaves 1 ± 1%"
            ),
            ledger.Prediction(_PRINTED_LABEL, ledger.Below(5e-6), "another digit"),
            ledger.Prediction(
                _HIGH_RATE_LABEL, ledger.Within(high_rate, high_rate * 2**-8), "another constant"
            ),
            ledger.Prediction(_LARGEST_LABEL, ledger.Below(high_rate), "any d, n above √3π/2"),
            *(
                ledger.Prediction(
                    _floor_label(d), floor, "any n below 1", exception=f"the bound 4^-n at d = {d}"
                )
                for d in dims
            ),
            *(
                ledger.Prediction(
                    _max_label(n), ledger.Within(value, unit), "another last digit", scope="ours"
                )
                for n, (value, unit) in MAX_1960.items()
            ),
        ],
    )


_ALIGNMENT_LABEL = "mean ⟨x, x̂⟩/‖x‖² minus (1 − D), worst of n = 1..6"
_COSINE_LABEL = "1 − cos θ, worst of n = 1..6: measured / second order"
_UNBIASED_LABEL = "unbiased scale, worst of n = 1..6: relative MSE / second order"
_MISS_LABEL = "unbiased scale, largest |⟨x, x̂⟩/‖x‖² − 1| of any vector"
_SLOPES = {(1, "norm"): "slope", (4, "norm"): "slope"}
_SLOPES |= {(1, "unbiased"): "unbiased slope", (4, "unbiased"): "unbiased slope"}


def _slope_label(bits: int, scale: str) -> str:
    return f"slope of ⟨q, x̂⟩ on ⟨q, x⟩, n = {bits}, {scale} scale"


def _first_order_label(reading: str) -> str:
    return f"{reading}, worst of n = 1..6: measured / first order"


def predict_t04(distortions: Mapping[int, float], dim: int) -> ledger.Predictions:
    """Shrinkage and directions of reconstructions, from D(n) by bits at dimension ``dim``."""
    slopes = {(n, s): 1 - distortions[n] if s == "norm" else 1.0 for n, s in _SLOPES}
    rows: list[tuple[str, ledger.Rule, str]] = [
        (_ALIGNMENT_LABEL, ledger.Within(0.0, 0.001), "a mean elsewhere"),
        *(
            (_slope_label(*key), ledger.Within(value, 0.005), "another slope")
            for key, value in slopes.items()
        ),
        (_COSINE_LABEL, ledger.Within(1.0, 0.01), "a mean off by 1%"),
        *(
            (_first_order_label(reading), ledger.Within(1.0, 4 / dim), "off by more than 4/d")
            for reading in ("angle", "chord")
        ),
        (_UNBIASED_LABEL, ledger.Within(1.0, 0.01), "a mean off by 1%"),
        (_MISS_LABEL, ledger.Below(2**-11 + 1e-6), "one vector beyond a rounding"),
    ]
    return ledger.Predictions("T04", [ledger.Prediction(*row) for row in rows])


# Isotropic vectors through the bytes -----------------------------------------------------------


class Logits(NamedTuple):
    """Inner products with queries, over d: exact, with a stored norm, with the unbiased scale."""

    exact: NDArray[np.floating]
    norm: NDArray[np.floating]
    unbiased: NDArray[np.floating]


@dataclass(frozen=True)
class Isotropic:
    """What isotropic vectors have lost after encoding and decoding.

    Attributes
    ----------
    dim : int
    distortion : mapping from bits to the exact D(n) of the codebook
    samples : mapping from (quantity, bits) to one value a draw of vectors and rotation
        Means over vectors: "mse", "alignment" (<x, x_hat>/|x|^2), "one-minus-cosine", "angle"
        (over pi), "chord"; "slope" of logits; for the unbiased scale, on a part of the vectors,
        "unbiased mse", "unbiased slope", "unbiased miss" (largest |<x, x_hat>/|x|^2 - 1|), and
        "part mse" of the stored norm on the same part.
    logits : Logits, optional
        Of the first draw at the fewest bits.
    """

    dim: int
    distortion: Mapping[int, float]
    samples: Mapping[tuple[str, int], Sequence[float] | FloatArray]
    logits: Logits | None = None

    @property
    def bits(self) -> tuple[int, ...]:
        """Budgets measured."""
        return tuple(self.distortion)

    def interval(self, quantity: str, bits: int, over: float = 1.0) -> Interval:
        """Mean of a quantity over draws, divided by ``over``."""
        return mean_interval(np.array(self.samples[quantity, bits]) / over)

    def relative_error(self, bits: int) -> Interval:
        """Squared error over D(n)."""
        return self.interval("mse", bits, self.distortion[bits])

    def controlled(self, quantity: str, bits: int, over: float) -> Interval:
        """As ``interval``, over the same vectors' squared error in units of D(n), of mean 1."""
        control = "part mse" if quantity == "unbiased mse" else "mse"
        luck = np.array(self.samples[control, bits]) / self.distortion[bits]
        return mean_interval(np.array(self.samples[quantity, bits]) / luck / over)


def measure_isotropic(
    norm: Mapping[int, RotatedQuantizer],
    unbiased: Mapping[int, RotatedQuantizer],
    *,
    dim: int,
    draws: int,
    tokens: int,
    seed: np.random.SeedSequence,
) -> Isotropic:
    """Encode and decode normal vectors with fresh rotations.

    Parameters
    ----------
    norm, unbiased : mapping from bits to RotatedQuantizer
        With a stored norm, and with the unbiased scale; the latter on a quarter of the vectors.
    dim, tokens : int
        Coordinates, and vectors a draw.
    draws : int
        Independent draws of vectors, queries and rotation.
    seed : SeedSequence
    """
    part, logits = tokens // 4, None
    samples: dict[tuple[str, int], list[float]] = {}
    for index, stream in enumerate(seed.spawn(draws)):
        x, q = _vectors_and_queries(tokens, dim, np.random.default_rng(stream))
        for n in norm:
            x_hat = norm[n].encode(x, seed=index).decode()
            x_unbiased = unbiased[n].encode(x[:part], seed=index).decode()
            found = _norm_errors(x, x_hat, q)
            found |= _unbiased_errors(x[:part], x_unbiased, q[:part])
            found["part mse"] = metrics.relative_mse(x[:part], x_hat[:part]).mean()
            for quantity, value in found.items():
                samples.setdefault((quantity, n), []).append(float(value))
            if logits is None:
                kept = (_inner(q[:part], y) / dim for y in (x[:part], x_hat[:part], x_unbiased))
                logits = Logits(*kept)
    exact = {n: quantizer.codebook_for(dim).distortion for n, quantizer in norm.items()}
    return Isotropic(dim, exact, samples, logits)


def _vectors_and_queries(
    tokens: int, dim: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Normal vectors, and queries at cosines that are spread evenly over [-1, 1]."""
    x = rng.standard_normal((tokens, dim), dtype=np.float32)
    rho = rng.uniform(-1, 1, (tokens, 1)).astype(np.float32)
    noise = rng.standard_normal((tokens, dim), dtype=np.float32)
    return x, np.asarray(rho * x + np.sqrt(1 - rho**2) * noise, dtype=np.float32)


def _inner(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    """Inner products of rows, in float64."""
    return np.asarray((x * y).sum(-1, dtype=np.float64))


def _slope(logit: NDArray[np.floating], exact: NDArray[np.floating]) -> float:
    """Least-squares slope through the origin."""
    return float((logit @ exact) / (exact @ exact))


def _norm_errors(
    x: NDArray[np.floating], x_hat: NDArray[np.floating], q: NDArray[np.floating]
) -> dict[str, float]:
    """What one draw says about the stored norm."""
    chord = metrics.direction_error(x, x_hat, "chord")
    return {
        "mse": metrics.relative_mse(x, x_hat).mean(),
        "alignment": (_inner(x, x_hat) / _inner(x, x)).mean(),
        "slope": _slope(_inner(q, x_hat), _inner(q, x)),
        "one-minus-cosine": (chord**2 / 2).mean(),
        "angle": (2 / np.pi * np.arcsin(chord / 2)).mean(),
        "chord": chord.mean(),
    }


def _unbiased_errors(
    x: NDArray[np.floating], x_hat: NDArray[np.floating], q: NDArray[np.floating]
) -> dict[str, float]:
    """What one draw says about the unbiased scale."""
    return {
        "unbiased mse": metrics.relative_mse(x, x_hat).mean(),
        "unbiased miss": np.abs(_inner(x, x_hat) / _inner(x, x) - 1).max(),
        "unbiased slope": _slope(_inner(q, x_hat), _inner(q, x)),
    }


# Verdicts --------------------------------------------------------------------------------------


def _worst_rounded(intervals: Sequence[Interval], target: float) -> Interval:
    """The worst interval in six decimals."""
    i = worst_interval(intervals, target)
    return Interval(round(i.estimate, 6), round(i.low, 6), round(i.high, 6), i.n)


def judge_t03(
    predictions: ledger.Predictions,
    *,
    distortions: Mapping[int, float],
    limit: Mapping[int, float],
    scaled: Mapping[int, Sequence[float]],
    isotropic: Isotropic,
) -> ledger.Verdict:
    """Judge T03.

    Parameters
    ----------
    predictions : Predictions
        Of :func:`predict_t03`.
    distortions, limit : mapping from bits to D(n)
        At d = 128, and for d to infinity.
    scaled : mapping from dimension to sequence of float
        4^n D(n) at all bits tried.
    isotropic : Isotropic
    """
    exactly = Interval.exactly
    printed = enumerate(PRINTED, start=1)
    measured = {
        _PRINTED_LABEL: exactly(max(abs(distortions[n] - value) for n, value in printed)),
        _HIGH_RATE_LABEL: exactly(2 * 4**8 * limit[8] - 4**7 * limit[7]),
        _LARGEST_LABEL: exactly(max(max(values) for values in scaled.values())),
        _ISOTROPIC_LABEL: _worst_rounded([isotropic.relative_error(n) for n in isotropic.bits], 1),
    }
    measured |= {_floor_label(d): exactly(min(values)) for d, values in scaled.items()}
    measured |= {_max_label(n): exactly(limit[n]) for n in MAX_1960}
    return predictions.verdict(
        measured,
        what_is_true="Stored bytes of isotropic vectors have the error D(n) of the exact law to "
        "1%, n = 1..6 at d = 128. D(n) stays below (√3π/2) 4^-n, and above 4^-n from d = 4 on: "
        "d = 3 meets that line exactly, and d = 2 passes it unless the stored norm is counted.",
        note="Max's table of 1960 stands beside as an independent source: its constants for 8, 16 "
        "and 32 levels are low in their last digits; they round to 0.03455, 0.009501 and 0.002505.",
    )


def judge_t04(
    predictions: ledger.Predictions,
    *,
    second_order: Mapping[int, SingleVectorErrors],
    isotropic: Isotropic,
) -> ledger.Verdict:
    """Judge T04 by what isotropic vectors have lost.

    Parameters
    ----------
    predictions : Predictions
        Of :func:`predict_t04`.
    second_order : mapping from bits to SingleVectorErrors
        Of :func:`second_order_law`.
    isotropic : Isotropic
    """
    bits, D = isotropic.bits, isotropic.distortion
    shortfall = [
        mean_interval(np.array(isotropic.samples["alignment", n]) - 1 + D[n]) for n in bits
    ]
    cosine = [
        isotropic.controlled("one-minus-cosine", n, second_order[n].one_minus_cosine) for n in bits
    ]
    unbiased = [isotropic.controlled("unbiased mse", n, second_order[n].unbiased_mse) for n in bits]
    miss = max(np.max(isotropic.samples["unbiased miss", n]) for n in bits)
    measured = {
        _ALIGNMENT_LABEL: _worst_rounded(shortfall, 0),
        _COSINE_LABEL: _worst_rounded(cosine, 1),
        _UNBIASED_LABEL: _worst_rounded(unbiased, 1),
        _MISS_LABEL: Interval.exactly(round(float(miss), 6)),
    }
    for reading in ("angle", "chord"):
        first = [laws.direction_error_of(D[n], reading) for n in bits]
        found = [isotropic.interval(reading, n, f) for n, f in zip(bits, first, strict=True)]
        measured[_first_order_label(reading)] = _worst_rounded(found, 1)
    for (n, scale), quantity in _SLOPES.items():
        measured[_slope_label(n, scale)] = isotropic.interval(quantity, n)
    return predictions.verdict(
        measured,
        what_is_true="Lloyd-Max keys have a component 1 − D(n) along the true key and cosine "
        "√(1 − D); the unbiased scale restores the component at the same bytes for a relative "
        "error D/(1 − D). Exact for means, to order 1/d for single vectors.",
    )


# Codebooks that are not optimal ----------------------------------------------------------------


def gaussian_table(dim: int, bits: int) -> Codebook:
    """The Lloyd-Max levels of a normal variable over sqrt(d), judged at dimension ``dim``."""
    levels = codebooks.lloyd_max(LARGE_DIM, bits).levels * np.sqrt(LARGE_DIM / dim)
    return Codebook(dim, bits, levels, "Gaussian table / √d")


def gaussian_table_loss(dim: int, bits: Iterable[int]) -> float:
    """Largest relative excess of the Gaussian table, levels past ±1 clipped, over ``bits``."""
    losses = []
    for n in bits:
        wide = codebooks.lloyd_max(LARGE_DIM, n).levels * np.sqrt(LARGE_DIM / dim)
        clipped = Codebook(dim, n, np.clip(wide, -1, 1), "Gaussian table, clipped")
        losses.append(clipped.distortion / distortion(dim, n) - 1)
    return max(losses)


def codebook_zoo(dim: int, bits: int) -> dict[str, Codebook]:
    """Codebooks of ``bits`` bits that one finds in use, by how they were made."""
    shipped_outer, right_outer = 0.1739, 0.2402  # as reported by that port, at 4 bits, d = 128
    best, finer = (codebooks.lloyd_max(dim, n).levels for n in (bits, bits + 1))
    half = 2 ** (bits - 1)
    quantiles = (np.arange(2**bits) + 0.5) / 2**bits
    levels = {
        "compander quantiles": sphere.coordinate_ppf(quantiles, sphere.companding_dim(dim)),
        "every second of n + 1 bits": finer[::2],
        "inner half of n + 1 bits": finer[half:-half],
        "table scaled too small": best * shipped_outer / right_outer,
        "linspace(−1, 1)": np.linspace(-1, 1, 2**bits),
    }
    return {
        "Gaussian table / √d": gaussian_table(dim, bits),
        **{name: Codebook(dim, bits, found, name) for name, found in levels.items()},
        "equally spaced, best step": codebooks.uniform(dim, bits),
        "equally likely cells": codebooks.equal_probability(dim, bits),
    }


def zoo_excess(dim: int, bits: int) -> dict[str, float]:
    """Distortion of :func:`codebook_zoo` relative to Lloyd-Max, by name."""
    best = distortion(dim, bits)
    return {name: book.distortion / best for name, book in codebook_zoo(dim, bits).items()}


# Lloyd iterations that stop early --------------------------------------------------------------


@dataclass(frozen=True)
class LloydRuns:
    """Lloyd's iteration on finite samples, from several starts.

    Attributes
    ----------
    best : mapping from bits to the least distortion D(n)
    excess : mapping from (start, bits, step) to D / D(n), one entry a sample
    codes_used : mapping from (start, bits) to the codes that occur at the end, one entry a sample
    """

    best: Mapping[int, float]
    excess: Mapping[tuple[str, int, int], Sequence[float]]
    codes_used: Mapping[tuple[str, int], Sequence[int]]

    @property
    def starts(self) -> tuple[str, ...]:
        """Names of the starts."""
        return tuple(dict.fromkeys(start for start, _, _ in self.excess))

    @property
    def steps(self) -> tuple[int, ...]:
        """Numbers of iterations looked at."""
        return tuple(dict.fromkeys(step for _, _, step in self.excess))

    def median(self, start: str, bits: int, step: int) -> float:
        """Median over samples of D / D(n)."""
        return float(np.median(self.excess[start, bits, step]))


def lloyd_starts(dim: int, bits: int, sample: FloatArray) -> dict[str, FloatArray]:
    """Levels that an iteration may start from, by name."""
    sigma, count = 1 / np.sqrt(dim), 2**bits
    quantiles = (np.arange(count) + 0.5) / count
    return {
        "linspace(−1, 1)": np.linspace(-1, 1, count),
        "sample quantiles": np.quantile(sample, quantiles),
        "linspace over the sample": np.linspace(sample.min(), sample.max(), count),
        "linspace, ±3σ": np.linspace(-3 * sigma, 3 * sigma, count),
        "compander": sphere.coordinate_ppf(quantiles, sphere.companding_dim(dim)),
    }


def measure_lloyd(
    bits: Iterable[int],
    *,
    dim: int,
    samples: int,
    draws: int,
    steps: Sequence[int],
    seed: np.random.SeedSequence,
) -> LloydRuns:
    """Iterate from every start on every sample.

    Parameters
    ----------
    bits : iterable of int
    dim, samples : int
        Dimension of the coordinate law, and coordinates a sample.
    draws : int
        Independent samples.
    steps : sequence of int
        Increasing numbers of iterations after which to look.
    seed : SeedSequence
    """
    best = {n: distortion(dim, n) for n in bits}
    excess: dict[tuple[str, int, int], list[float]] = {}
    used: dict[tuple[str, int], list[int]] = {}
    for stream in seed.spawn(draws):
        rng = np.random.default_rng(stream)
        sample = sphere.sample(samples // dim, dim, rng=rng).ravel()
        for n in best:
            for start, levels in lloyd_starts(dim, n, sample).items():
                for step, book in _lloyd_path(sample, dim, n, levels, steps):
                    excess.setdefault((start, n, step), []).append(book.distortion / best[n])
                used.setdefault((start, n), []).append(np.unique(book.quantize(sample)).size)
    return LloydRuns(best, excess, used)


def _lloyd_path(
    sample: FloatArray, dim: int, bits: int, levels: FloatArray, steps: Sequence[int]
) -> Iterator[tuple[int, Codebook]]:
    """The codebook after each of the numbers of iterations."""
    done = 0
    for step in steps:
        book = codebooks.lloyd_iterations(sample, dim, bits, start=levels, iterations=step - done)
        levels, done = book.levels, step
        yield step, book


# Real heads ------------------------------------------------------------------------------------


class Turn(NamedTuple):
    """A kind of rotation, how many are drawn, and its rounds."""

    kind: str
    draws: int
    rounds: int = 1

    def rotation(self, dim: int, seed: int) -> Rotation:
        """One of them."""
        return Rotation(self.kind, dim, seed, self.rounds)


@dataclass(frozen=True)
class HeadErrors:
    """Errors of captured keys (K) and values (V) under drawn rotations.

    Attributes
    ----------
    bits : tuple of int
    models, turns : tuple of str
    halves : mapping from (model, "K" or "V", turn) to array, shape (heads, rotations, 2, bits)
        Relative error over D(n) in the first and in the second half of the tokens.
    top_share : mapping from (model, "K" or "V") to array, shape (heads,)
        Share of the energy in a head's strongest direction.
    """

    bits: tuple[int, ...]
    models: tuple[str, ...]
    turns: tuple[str, ...]
    halves: Mapping[tuple[str, str, str], FloatArray]
    top_share: Mapping[tuple[str, str], FloatArray]

    def ratio(self, model: str, letter: str, turn: str) -> FloatArray:
        """Relative error over D(n), shape (heads, rotations, bits)."""
        return np.asarray(self.halves[model, letter, turn].mean(2))

    def over_heads(self, letter: str, turn: str) -> FloatArray:
        """The same for all models' heads."""
        return np.concatenate([self.ratio(model, letter, turn) for model in self.models])

    def at(self, bits: int, letter: str, turn: str, model: str | None = None) -> FloatArray:
        """The same at one budget, of all models or one: shape (heads, rotations)."""
        found = self.ratio(model, letter, turn) if model else self.over_heads(letter, turn)
        return np.asarray(found[..., self.bits.index(bits)])


def measure_heads(
    caches: Mapping[str, KVCache],
    turns: Mapping[str, Turn],
    bits: Iterable[int],
    *,
    seeds: Sequence[int],
) -> HeadErrors:
    """Rotate every head's directions and round them to Lloyd-Max levels.

    Parameters
    ----------
    caches : mapping from model to KVCache
    turns : mapping from name to Turn
    bits : iterable of int
    seeds : sequence of int
        Of the rotations, the same for all heads; a turn takes the first of them.
    """
    budgets = tuple(bits)
    halves: dict[tuple[str, str, str], list[FloatArray]] = {}
    top_share: dict[tuple[str, str], list[float]] = {}
    for model, cache in caches.items():
        books = [codebooks.lloyd_max(cache.dim, n) for n in budgets]
        for head in heads_of(cache, dtype=np.float32):
            for letter, x in (("K", head.k), ("V", head.v)):
                unit = unit_vectors(x)
                strongest = np.linalg.eigvalsh(unit.T @ unit / len(unit))[-1]
                top_share.setdefault((model, letter), []).append(strongest)
                for name, turn in turns.items():
                    rotations = [turn.rotation(cache.dim, s) for s in seeds[: turn.draws]]
                    found = np.array([_errors_of_halves(r.apply(unit), books) for r in rotations])
                    halves.setdefault((model, letter, name), []).append(found)
    return HeadErrors(
        budgets,
        tuple(caches),
        tuple(turns),
        {key: np.array(found) for key, found in halves.items()},
        {key: np.array(shares) for key, shares in top_share.items()},
    )


def unit_vectors(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Directions of all vectors, shape (vectors, d)."""
    rows = x.reshape(-1, x.shape[-1])
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def _errors_of_halves(turned: NDArray[np.floating], books: Sequence[Codebook]) -> FloatArray:
    """Relative error over D of the first and the second half of the rows, shape (2, bits)."""
    ideal = np.array([book.distortion for book in books])
    parts = np.sort(turned.reshape(2, -1))
    return np.array([pooled_errors(part, books) / ideal for part in parts])


def pooled_errors(coordinates: NDArray[np.floating], books: Sequence[Codebook]) -> FloatArray:
    """Relative MSE of unit vectors under each codebook, from their sorted coordinates.

    Cumulative sums give all cells' moments at once, so that a codebook costs a few look-ups
    however many the vectors are.
    """
    sums = np.concatenate([[0.0], np.cumsum(coordinates, dtype=np.float64)])
    total, errors = float(np.square(coordinates, dtype=np.float64).sum()), []
    for book in books:
        cuts = np.searchsorted(coordinates, book.edges.astype(coordinates.dtype))
        bounds = np.concatenate([[0], cuts, [coordinates.size]])
        count, first_moment = np.diff(bounds), np.diff(sums[bounds])
        error = total - 2 * book.levels @ first_moment + book.levels**2 @ count
        errors.append(book.dim * error / coordinates.size)
    return np.array(errors)


def measure_first_head(cache: KVCache, bits: Iterable[int], *, seed: int) -> FloatArray:
    """Relative error over D(n) of a cache's first head of keys through encoded bytes, by bits."""
    k = next(heads_of(cache, dtype=np.float32)).k
    found = []
    for n in bits:
        x_hat = RotatedQuantizer(n).encode(k, seed=seed).decode()
        found.append(metrics.relative_mse(k, x_hat).mean() / distortion(cache.dim, n))
    return np.array(found)


def covering_heads(found: HeadErrors, turn: str, bits: int) -> tuple[int, int]:
    """How many heads' intervals over rotations contain D(n), keys and values, and of how many."""
    heads = np.concatenate([found.at(bits, letter, turn) for letter in "KV"])
    return sum(1.0 in mean_interval(head) for head in heads), len(heads)


class Luck(NamedTuple):
    """What decides a rotation's luck with a head's keys.

    ``correlation``: over heads, of the strongest direction's share of energy with the scatter
    over rotations (keys and values); ``persists``: of a rotation's luck on the first half of the
    tokens with that on the second; ``chosen``: share of the second half's error that is saved by
    the rotation that was best on the first.
    """

    correlation: float
    persists: float
    chosen: float


def luck_of_rotations(found: HeadErrors, turn: str, bits: int) -> Luck:
    """Luck of single rotations of one kind at one budget."""
    shares = np.concatenate([found.top_share[m, letter] for letter in "KV" for m in found.models])
    scatter = np.concatenate([np.log(found.at(bits, letter, turn)).std(1) for letter in "KV"])
    keys = np.concatenate([found.halves[model, "K", turn] for model in found.models])
    logs = np.log(keys[..., found.bits.index(bits)])  # (heads, rotations, 2)
    luck = logs - logs.mean(1, keepdims=True)
    chosen = np.take_along_axis(luck[..., 1], luck[..., 0].argmin(1)[:, None], 1)
    return Luck(
        float(np.corrcoef(shares, scatter)[0, 1]),
        float(np.corrcoef(luck[..., 0].ravel(), luck[..., 1].ravel())[0, 1]),
        float(1 - np.exp(chosen.mean())),
    )


class Overload(NamedTuple):
    """The coordinate with most of a rotation's error: its share of the error, and the share of
    tokens that lie beyond the outermost level in it."""

    share: float
    beyond: float


def unluckiest_rotation(
    found: HeadErrors, caches: Mapping[str, KVCache], *, bits: int, seeds: Sequence[int]
) -> Overload:
    """The Hadamard rotation with the largest error on any head's keys, coordinate by coordinate."""
    errors = found.at(bits, "K", "Hadamard")
    head, draw = divmod(int(errors.argmax()), errors.shape[1])
    owner = [(m, h) for m in found.models for h in heads_of(caches[m], dtype=np.float32)]
    model, unlucky = owner[head]
    dim = caches[model].dim
    turned = Rotation("hadamard", dim, seeds[draw]).apply(unit_vectors(unlucky.k))
    book = codebooks.lloyd_max(dim, bits)
    by_coordinate = np.square(turned - book.dequantize(book.quantize(turned))).mean(0)
    overloaded = turned[:, by_coordinate.argmax()]
    return Overload(
        float(by_coordinate.max() / by_coordinate.sum()),
        float((np.abs(overloaded) > book.levels[-1]).mean()),
    )


# Spikes ----------------------------------------------------------------------------------------


def errors_at(book: Codebook, x: FloatArray) -> FloatArray:
    """The codebook's error at points, d (x - Q(x))^2: relative MSE of a vector of such points."""
    return np.asarray(book.dim * np.square(x - book.dequantize(book.quantize(x))))


def spike_law(book: Codebook, energy: float) -> float:
    """Relative MSE after one Hadamard round of vectors with a share of energy in one coordinate."""
    normal = special.ndtri((np.arange(4001) + 0.5) / 4001)
    x = (np.sqrt(energy) + np.sqrt(1 - energy) * normal) / np.sqrt(book.dim)
    return float(errors_at(book, x).mean())


@dataclass(frozen=True)
class SpikeErrors:
    """Relative MSE of spiked families under several rotations.

    ``samples`` maps (family, turn, bits) to one mean over vectors a draw.
    """

    samples: Mapping[tuple[str, str, int], Sequence[float]]

    def mean(self, family: str, turn: str, bits: int) -> float:
        """Over draws."""
        return float(np.mean(self.samples[family, turn, bits]))


def measure_spikes(
    families: Mapping[str, synthetic.Family],
    turns: Mapping[str, Mapping[int, RotatedQuantizer]],
    *,
    dim: int,
    draws: int,
    tokens: int,
    seed: np.random.SeedSequence,
) -> SpikeErrors:
    """Encode and decode draws of each family.

    Parameters
    ----------
    families : mapping from name to Family
    turns : mapping from a rotation's name to quantizers by bits
    dim, tokens : int
        Coordinates, and vectors a draw.
    draws : int
        Independent draws of vectors and rotation.
    seed : SeedSequence
    """
    samples: dict[tuple[str, str, int], list[float]] = {}
    for index, stream in enumerate(seed.spawn(draws)):
        rng = np.random.default_rng(stream)
        for family, law in families.items():
            x = synthetic.draw(law, tokens, dim, rng=rng)
            for turn, quantizers in turns.items():
                for n, quantizer in quantizers.items():
                    x_hat = quantizer.encode(x, seed=index).decode()
                    found = float(metrics.relative_mse(x, x_hat).mean())
                    samples.setdefault((family, turn, n), []).append(found)
    return SpikeErrors(samples)


# Exercises -------------------------------------------------------------------------------------


def arcsine_grid(size: int) -> FloatArray:
    """Equally likely points of the coordinate law at d = 2, increasing."""
    return np.asarray(np.sin(np.pi * ((np.arange(size) + 0.5) / size - 0.5)))


def best_partition(points: FloatArray, cells: int) -> float:
    """Least mean squared error of sorted points cut into intervals, by dynamic programming."""
    size = points.size
    one, two = (np.concatenate([[0], np.cumsum(points**k)]) for k in (1, 2))
    width = np.arange(size + 1)[None, :] - np.arange(size + 1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = (two[None, :] - two[:, None]) - (one[None, :] - one[:, None]) ** 2 / width
    cost[width <= 0] = np.inf
    best = cost[0]
    for _ in range(cells - 1):
        best = (best[:, None] + cost).min(axis=0)
    return float(best[size] / size)
