"""Chapter 8: values and the attention output, and whether an unbiased bit pays there (T15).

In the order of the page: errors that tokens share, derived and measured; the output against
effective tokens; a mean in one channel; captured heads; the split of bits between K and V; context
length.

A *way* to store values is a name with a function that makes the quantizer of a budget. Errors of
values are in units of their mean square norm, errors of an output in units of its energy |T|^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from numpy.random import SeedSequence
from numpy.typing import NDArray

from kvbook import ledger
from kvlib import laws
from kvlib.data import synthetic
from kvlib.data.captured import KVCache
from kvlib.data.heads import with_windows
from kvlib.measure import attention, metrics
from kvlib.quantize import RotatedQuantizer, codebooks
from kvlib.stats import Interval, geometric_mean_interval, mean_interval

FloatArray = NDArray[np.float64]
Vectors = NDArray[Any]
"""Values, keys or queries in float32, shape (..., tokens, d)."""
Way = Callable[[int], RotatedQuantizer]
"""A way to store vectors: the quantizer of each budget."""

DIM = 128
"""Coordinates of the synthetic values."""
TOLERANCE = {2: 0.1, 3: 0.15, 4: 0.3}
"""Relative tolerance of a derived threshold by budget: the overload term is a leading order."""

# Errors that tokens share, derived -----------------------------------------------------------


class Errors(NamedTuple):
    """E|e_i|^2 of one value and E<e_i, e_j> of two, A and B of the page, in units of E|v|^2."""

    single: float
    shared: float


def errors_law(way: str, bits: int, share: float, dim: int = DIM) -> Errors:
    """Closed forms of both errors for values with a share of their energy in a common mean.

    ``way`` is "plain", "unbiased", "orthogonal", "gaussian" or "centred plain".
    """
    fine, coarse = codebooks.lloyd_max(dim, bits), codebooks.lloyd_max(dim, bits - 1)
    D = fine.distortion
    if way == "centred plain":
        return Errors((1 - share) * D, 0.0)
    if way == "plain":
        return Errors(D, float(laws.common_mean_error(share, fine.levels, dim)))
    if way == "unbiased":
        rest = laws.common_mean_error(share, fine.levels, dim, rescale=1 / (1 - D))
        return Errors(laws.unbiased_distortion(D), float(rest))
    sketches = {
        "gaussian": laws.gaussian_sketch_error,
        "orthogonal": laws.orthogonal_sketch_error,
    }
    shared = laws.sketched_mean_error(share, coarse.levels, dim, way)
    return Errors(sketches[way](dim) * coarse.distortion, shared)


def threshold_law(bits: int, share: float, *, first: str = "plain", dim: int = DIM) -> float:
    """Effective tokens past which an orthogonal sketch beats ``first``; infinite if never."""
    pair = (errors_law(way, bits, share, dim) for way in (first, "orthogonal"))
    return laws.output_threshold(*pair)


def flat_mean_law(bits: int, share: float, dim: int = DIM) -> float:
    """Shared error if every rotated coordinate of the mean is ±sqrt(share / d): a squared bias."""
    book = codebooks.lloyd_max(dim, bits)
    edges = np.concatenate([[-np.inf], book.edges, [np.inf]]) * math.sqrt(dim)
    weights = np.diff(scipy.stats.norm.cdf(edges, math.sqrt(share), math.sqrt(1 - share)))
    return float((book.levels * math.sqrt(dim) @ weights - math.sqrt(share)) ** 2)


def shrinkage_share(bits: int, share: float, dim: int = DIM) -> float:
    """Part of the shared error of plain codes that is shrinkage, D^2 share."""
    distortion = codebooks.lloyd_max(dim, bits).distortion
    return share * distortion**2 / errors_law("plain", bits, share, dim).shared


def predict_t15() -> ledger.Predictions:
    """Thresholds and shared errors at d = 128, from closed forms."""
    zero_mean = errors_law("orthogonal", 2, 0.0).single / errors_law("plain", 2, 0.0).single
    rows: list[tuple[str, ledger.Rule, str]] = [
        (
            "no common mean, n = 2: error of one value, QJL over MSE-only",
            ledger.Within(zero_mean, 0.05 * zero_mean),
            "off by more than 5%",
        ),
        *(
            (
                f"mean share 1/2, n = {n}: derived threshold {threshold_law(n, 0.5):.3g} over the "
                "measured",
                ledger.Within(1, tolerance),
                f"off by more than {tolerance:.0%}",
            )
            for n, tolerance in TOLERANCE.items()
        ),
        (
            "the same with Haar rotation and sketch, n = 2",
            ledger.Within(1, TOLERANCE[2]),
            f"off by more than {TOLERANCE[2]:.0%}",
        ),
        (
            "unbiased scale in place of MSE-only, n = 2: derived threshold "
            f"{threshold_law(2, 0.5, first='unbiased'):.3g} over the measured",
            ledger.Within(1, 0.15),
            "off by more than 15%, or no threshold",
        ),
        (
            "Gaussian sketch, n = 4: shared error over that of the bare 3-bit codes",
            ledger.Within(1, 0.05),
            "a shared error that one more bit lowers by more than 5%",
        ),
        (
            "unequal weights, n = 3: output error over the formula in N_eff",
            ledger.Within(1, 0.05),
            "depends on the weights otherwise than through N_eff",
        ),
        (
            "mean removed, n = 2 to 5: shared error over MSE-only's, largest",
            ledger.Below(0.1),
            "a tenth of the shared error stays",
        ),
        (
            "captured heads, n = 2: QJL over MSE-only, measured over predicted, mean of heads",
            ledger.Within(1, 0.2),
            "off by more than 20%",
        ),
    ]
    return ledger.Predictions("T15", [ledger.Prediction(*row) for row in rows])


# Errors that tokens share, measured ----------------------------------------------------------


class Cell(NamedTuple):
    """One point of the grid: a way to store values, its budget, the mean's share of the energy."""

    way: str
    bits: int
    share: float


def threshold_grid() -> tuple[Cell, ...]:
    """The cells that the predictions and the figures of the page ask for."""
    budgets, half = (2, 3, 4, 5), 0.5
    return (
        *(Cell(way, n, half) for way in ("plain", "orthogonal", "unbiased") for n in budgets),
        *(Cell("centred plain", n, half) for n in budgets),
        *(Cell("gaussian", n, half) for n in (2, 4)),
        *(
            Cell(way, n, share)
            for share in (0.25, 0.75)
            for way in ("plain", "orthogonal")
            for n in budgets
        ),
        *(Cell(way, 2, 0.0) for way in ("plain", "orthogonal")),
        *(Cell(way, n, half) for way in ("plain, Haar", "orthogonal, Haar") for n in (2, 3, 4)),
    )


def common_mean(share: float) -> synthetic.Family:
    """Gaussian values around a mean that holds a share of their energy, which may be zero."""
    return synthetic.common_mean(share) if share else synthetic.GAUSSIAN


def stored(x: Vectors, quantizer: RotatedQuantizer, seed: int) -> Vectors:
    """Vectors after storage; ``seed`` draws the rotation and the sketch that all of them share."""
    return quantizer.encode(x, seed=int(seed)).decode()


def single_and_shared(v: Vectors, v_hat: Vectors) -> FloatArray:
    """Both errors of values (..., tokens, d), averaged over heads by unbiased sums over pairs.

    Shape (2,): the error of one value, the error that two share.
    """
    e, count = v_hat - v, v.shape[-2]
    energy = np.square(v).sum(axis=-1).mean()
    each = np.square(e).sum(axis=(-2, -1))
    together = np.square(e.sum(axis=-2)).sum(axis=-1)
    pairs = (together - each) / (count * (count - 1))
    return np.array([each.mean() / count, pairs.mean()], dtype=np.float64) / float(energy)


def measure_shared_errors(
    ways: Mapping[str, Way],
    cells: Iterable[Cell],
    *,
    heads: int,
    tokens: int,
    seeds: Iterable[SeedSequence],
    dim: int = DIM,
) -> dict[Cell, FloatArray]:
    """Both errors of every cell, shape (draws, 2): single and shared.

    Each seed is a draw of ``heads`` means, of ``tokens`` values around each, of rotation and
    sketch; all cells of a draw with one share have the same values.
    """
    wanted = tuple(cells)
    shares = sorted({cell.share for cell in wanted})
    found: dict[Cell, list[FloatArray]] = {cell: [] for cell in wanted}
    for child in seeds:
        rng, state = np.random.default_rng(child), child.generate_state(1)[0]
        for share in shares:
            drawn = synthetic.draw(common_mean(share), tokens, dim, rng=rng, heads=(heads,))
            v = drawn.astype(np.float32)
            for cell in (c for c in wanted if c.share == share):
                v_hat = stored(v, ways[cell.way](cell.bits), state)
                found[cell].append(single_and_shared(v, v_hat))
    return {cell: np.array(rows) for cell, rows in found.items()}


def measured_threshold(
    errors: Mapping[Cell, FloatArray],
    bits: int,
    share: float,
    *,
    first: str = "plain",
    second: str = "orthogonal",
) -> Interval:
    """Effective tokens past which ``second`` wins, from measured errors.

    The interval is that of the difference of the shared errors, which is in the denominator; its
    upper end is infinite where that difference may be zero.
    """
    one, two = errors[Cell(first, bits, share)], errors[Cell(second, bits, share)]
    saved = mean_interval(one[:, 1] - two[:, 1])
    extra = float(two[:, 0].mean() - one[:, 0].mean())
    high = 1 + extra / saved.low if saved.low > 0 else math.inf
    return Interval(1 + extra / saved.estimate, 1 + extra / saved.high, high, saved.n)


def measure_output_curves(
    ways: Mapping[str, Way],
    bits: Iterable[int],
    *,
    groups: Sequence[int],
    share: float,
    seeds: Iterable[SeedSequence],
    dim: int = DIM,
) -> dict[tuple[str, int], FloatArray]:
    """Squared error of the plain average of a number of values, by way and budget.

    ``groups`` are the numbers averaged, each a divisor of the last. Shape (draws, groups).
    """
    found: dict[tuple[str, int], list[list[float]]] = {(way, n): [] for n in bits for way in ways}
    for child in seeds:
        v, _, state = _values_around_a_mean(child, groups[-1], share, dim)
        energy = np.square(v).sum(axis=-1).mean()
        for (way, n), rows in found.items():
            e = stored(v, ways[way](n), state) - v
            means = [e.reshape(-1, size, dim).mean(axis=1) for size in groups]
            rows.append([float(np.square(m).sum(axis=-1).mean() / energy) for m in means])
    return {key: np.array(rows) for key, rows in found.items()}


@dataclass(frozen=True)
class UnequalWeights:
    """Output errors under softmax weights, and what their law needs.

    Attributes
    ----------
    output : ndarray, shape (draws,)
        Measured error, averaged over the rows of a draw.
    errors : ndarray, shape (draws, 2)
        Single and shared error of the same values.
    effective_tokens : ndarray, shape (draws, rows)
    """

    output: FloatArray
    errors: FloatArray
    effective_tokens: FloatArray


def unequal_weights_law(measured: UnequalWeights) -> FloatArray:
    """Output error by the formula in N_eff, from the errors of the values: shape (draws,)."""
    pairs = zip(measured.effective_tokens, measured.errors, strict=True)
    return np.array([np.mean(laws.output_error(tokens, *errors)) for tokens, errors in pairs])


def measure_unequal_weights(
    quantizer: RotatedQuantizer,
    *,
    tokens: int,
    row: int,
    share: float,
    seeds: Iterable[SeedSequence],
    dim: int = DIM,
) -> UnequalWeights:
    """Errors of averages over ``row`` values each, weighted by a softmax of logits of spread 2."""
    output, errors, effective = [], [], []
    for child in seeds:
        v, rng, state = _values_around_a_mean(child, tokens, share, dim)
        logits = rng.normal(scale=2, size=(tokens // row, row))
        p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        v_hat = stored(v, quantizer, state)
        e = (v_hat - v).reshape(-1, row, dim)
        energy = np.square(v).sum(axis=-1).mean()
        squares = np.square((p[..., None] * e).sum(axis=-2)).sum(axis=-1) / energy
        output.append(squares.mean())
        errors.append(single_and_shared(v, v + e.reshape(v.shape)))
        effective.append(1 / np.square(p).sum(-1))
    return UnequalWeights(np.array(output), np.array(errors), np.array(effective))


def _values_around_a_mean(
    child: SeedSequence, tokens: int, share: float, dim: int
) -> tuple[Vectors, np.random.Generator, int]:
    """Values of one draw, the generator they came from, and the seed of rotation and sketch."""
    rng, state = np.random.default_rng(child), int(child.generate_state(1)[0])
    v = synthetic.draw(common_mean(share), tokens, dim, rng=rng).astype(np.float32)
    return v, rng, state


def in_one_channel(share: float, tokens: int, dim: int, rng: np.random.Generator) -> Vectors:
    """Values whose common mean lies along the first coordinate."""
    v = math.sqrt(1 - share) * rng.standard_normal((tokens, dim))
    v[:, 0] += math.sqrt(share * dim)
    return v.astype(np.float32)


def measure_mean_in_one_channel(
    rotations: Mapping[str, Way],
    bits: Iterable[int],
    *,
    share: float,
    tokens: int,
    seeds: Iterable[SeedSequence],
    dim: int = DIM,
) -> dict[tuple[str, int], Interval]:
    """Shared error of values whose mean lies in one channel, by rotation and budget."""
    budgets = tuple(bits)
    found: dict[tuple[str, int], list[float]] = {key: [] for key in product(rotations, budgets)}
    for child in seeds:
        rng, state = np.random.default_rng(child), int(child.generate_state(1)[0])
        v = in_one_channel(share, tokens, dim, rng)
        for (name, n), values in found.items():
            v_hat = stored(v, rotations[name](n), state)
            values.append(float(single_and_shared(v, v_hat)[1]))
    return {key: mean_interval(values) for key, values in found.items()}


# Captured heads --------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadFacts:
    """What attention rows p and values v of a model say about its heads, each of shape (heads,).

    Attributes
    ----------
    dim : int
        Coordinates of a value.
    signal : ndarray
        Energy of the outputs.
    mean_share : ndarray
        Share of the values' energy in their mean.
    attended_share : ndarray
        The same for attended values: what their outputs have beyond independent values.
    effective_tokens : ndarray
    left : ndarray
        Attended energy of single values with the mean removed, over that without.
    """

    dim: int
    signal: FloatArray
    mean_share: FloatArray
    attended_share: FloatArray
    effective_tokens: FloatArray
    left: FloatArray


@dataclass(frozen=True)
class HeadErrors:
    """Relative squared output errors of the heads of several models.

    ``facts`` by model; ``errors`` by (model, way, bits), each of shape (heads,).
    """

    facts: Mapping[str, HeadFacts]
    errors: Mapping[tuple[str, str, int], FloatArray]

    def of(self, way: str, bits: int, models: Iterable[str] | None = None) -> FloatArray:
        """Errors of a way to store values, the heads of all models (or of some) in a row."""
        chosen = self.facts if models is None else models
        return np.concatenate([self.errors[model, way, bits] for model in chosen])

    def over_plain(self, way: str, bits: int, models: Iterable[str] | None = None) -> FloatArray:
        """Errors over those of plain codes, head by head."""
        chosen = tuple(self.facts if models is None else models)
        return self.of(way, bits, chosen) / self.of("plain", bits, chosen)

    def fact(self, name: str) -> FloatArray:
        """One of the facts, the heads of all models in a row."""
        return np.concatenate([getattr(facts, name) for facts in self.facts.values()])

    @property
    def dims(self) -> NDArray[np.int64]:
        """Coordinates of a value of each head."""
        return np.concatenate([np.full(f.signal.size, f.dim) for f in self.facts.values()])

    def best(self, ways: Sequence[str], bits: int) -> list[str]:
        """The way with the smallest error, head by head."""
        places = np.argmin([self.of(way, bits) for way in ways], axis=0)
        return [ways[place] for place in places]


def describe_heads(heads: HeadErrors) -> str:
    """Medians of the facts, a line a model."""
    return "\n".join(
        f"{name:17} {facts.signal.size:2} heads, mean share {np.median(facts.mean_share):.2f}, "
        f"attended share {np.median(facts.attended_share):.2f}, "
        f"N_eff {np.median(facts.effective_tokens):.1f} (medians)"
        for name, facts in heads.facts.items()
    )


def exact_rows(cache: KVCache, *, every: int = 4) -> tuple[Vectors, Vectors]:
    """Attention rows of every so-manieth query, and values: (layer, head, window, token, ...)."""
    q, k, v = with_windows(cache)
    p = attention.attention_weights(q, k, causal=cache.causal)[..., every - 1 :: every, :]
    return p.astype(np.float32), v


def head_total(x: NDArray[Any]) -> FloatArray:
    """Sum over windows, queries and the last axis: one number a head."""
    return np.asarray(x.sum(axis=(-3, -2, -1)), dtype=np.float64).ravel()


def head_facts(p: Vectors, v: Vectors) -> HeadFacts:
    """Effective tokens, shares and energies of every head, from rows and values."""
    energy = np.square(v).sum(axis=-1)
    mean = v.mean(axis=-2, keepdims=True)
    own = head_total((p * p) @ energy[..., None])  # sum of p^2 |v|^2
    whole = head_total(p @ energy[..., None])
    signal = head_total(np.square(p @ v))
    left = head_total((p * p) @ np.square(v - mean).sum(-1)[..., None])
    return HeadFacts(
        dim=v.shape[-1],
        signal=signal,
        mean_share=head_total(np.square(mean)) * v.shape[-2] / head_total(v * v),
        attended_share=(signal - own) / (whole - own),
        effective_tokens=whole / own,
        left=left / own,
    )


def uniform_min_max(v: Vectors, bits: int) -> Vectors:
    """A token's own range in equal steps, without rotation: what many caches do today."""
    low = v.min(axis=-1, keepdims=True).astype(np.float16).astype(v.dtype)
    span = v.max(axis=-1, keepdims=True) - low
    step = (span / (2**bits - 1)).astype(np.float16).astype(v.dtype)
    return np.asarray(low + step * np.clip(np.rint((v - low) / step), 0, 2**bits - 1))


def measure_heads(
    caches: Mapping[str, KVCache],
    ways: Mapping[str, Way],
    bits: Iterable[int],
    *,
    draws: int,
    seeds: Sequence[SeedSequence],
) -> HeadErrors:
    """Output errors of captured heads with exact attention rows, averaged over draws.

    Besides ``ways`` there is "min-max", :func:`uniform_min_max`, which has nothing to draw. One
    seed a cache; the draws of a cache serve all ways and budgets.
    """
    budgets, facts, errors = tuple(bits), {}, {}
    for (model, cache), child in zip(caches.items(), seeds, strict=True):
        p, v = exact_rows(cache)
        facts[model] = head_facts(p, v)
        signal, states = facts[model].signal, child.generate_state(draws)
        for n in budgets:
            for name, way in ways.items():
                each = [_output_energy(p, stored(v, way(n), s) - v) / signal for s in states]
                errors[model, name, n] = np.mean(each, axis=0)
            errors[model, "min-max", n] = _output_energy(p, uniform_min_max(v, n) - v) / signal
    return HeadErrors(facts, errors)


def _output_energy(p: Vectors, e: Vectors) -> FloatArray:
    """Energy of the output that rows make of vectors, one number a head."""
    return head_total(np.square(p @ e))


def predict_heads(
    caches: Mapping[str, KVCache], bits: Iterable[int]
) -> dict[tuple[str, str, int], FloatArray]:
    """Output errors foretold from rows, lengths and cosines of the values alone.

    By (model, way, bits) for "plain", "unbiased" and "orthogonal", each of shape (heads,).
    """
    budgets, foretold = tuple(bits), {}
    for model, cache in caches.items():
        p, v = exact_rows(cache)
        signal = _output_energy(p, v)
        norms = np.linalg.norm(v, axis=-1)
        u = v / norms[..., None]
        cosines = np.clip(u @ u.swapaxes(-1, -2), -1, 1)
        place = np.rint((cosines + 1) * (_COSINES.size // 2)).astype(np.int16)
        weighted = p * norms[..., None, :]
        for n in budgets:
            for way, values in shared_error_laws(n, cache.dim).items():
                kernel = values.astype(np.float32)[place]
                foretold[model, way, n] = head_total((weighted @ kernel) * weighted) / signal
    return foretold


_COSINES = np.linspace(-1, 1, 8001)


def shared_error_laws(bits: int, dim: int) -> dict[str, FloatArray]:
    """Error that two unit vectors share, at 8001 evenly spaced cosines from -1 to 1, by way."""
    fine, coarse = codebooks.lloyd_max(dim, bits), codebooks.lloyd_max(dim, bits - 1)
    rescale = 1 / (1 - fine.distortion)
    residual = laws.shared_error(_COSINES, coarse.levels, dim) / coarse.distortion
    sketched = laws.sketched_shared_error(np.clip(residual, -1, 1), dim, "orthogonal")
    return {
        "plain": np.asarray(laws.shared_error(_COSINES, fine.levels, dim)),
        "unbiased": np.asarray(laws.shared_error(_COSINES, fine.levels, dim, rescale=rescale)),
        "orthogonal": np.asarray(coarse.distortion * sketched),
    }


def passes_threshold(heads: HeadErrors, bits: int, share: str) -> NDArray[np.bool_]:
    """Whether a head's effective tokens pass the derived threshold at its share.

    ``share`` names the fact to use, "mean_share" or "attended_share".
    """
    shares = np.clip(heads.fact(share), 1e-6, 0.999)
    pairs = zip(shares, heads.dims, strict=True)
    limits = [threshold_law(bits, float(s), dim=int(d)) for s, d in pairs]
    return np.asarray(heads.fact("effective_tokens") > limits)


def gram_calibration(
    heads: HeadErrors, foretold: Mapping[tuple[str, str, int], FloatArray], model: str
) -> Interval:
    """Error of the orthogonal sketch over its prediction, heads and budgets of a model pooled."""
    keys = [key for key in foretold if key[:2] == (model, "orthogonal")]
    ratios = [heads.errors[key] / foretold[key] for key in keys]
    return geometric_mean_interval(np.concatenate(ratios))


def over_foretold(
    heads: HeadErrors, foretold: Mapping[tuple[str, str, int], FloatArray], bits: int
) -> FloatArray:
    """Ratio of the orthogonal sketch to plain codes, measured over foretold, head by head."""
    plain, sketched = (
        np.concatenate([foretold[model, way, bits] for model in heads.facts])
        for way in ("plain", "orthogonal")
    )
    return np.asarray(heads.over_plain("orthogonal", bits) * plain / sketched)


def own_range_over_lloyd_max(bits: int, dim: int, seed: SeedSequence) -> float:
    """Error of each vector's own range in equal steps over D(bits), on Gaussian vectors."""
    x = np.random.default_rng(seed).standard_normal((4000, dim))
    error = float(metrics.aggregate_relative_mse(x, uniform_min_max(x, bits)))
    return error / codebooks.lloyd_max(dim, bits).distortion


def sketch_counts(heads: HeadErrors, bits: int) -> dict[str, int]:
    """On how many heads a sketch wins at a budget, foretold and measured.

    ``passes``: past the threshold by the share of their mean; ``wins``: measured; ``calls``: told
    right by attended share; ``best-sketch`` and ``best-cure``: one with a sketch, or one with the
    mean removed or the unbiased scale, is the best of all ways.
    """
    won = heads.over_plain("orthogonal", bits) < 1
    sketches = ("orthogonal", "gaussian", "centred orthogonal")
    cures = ("unbiased", "centred plain", "centred unbiased")
    best = heads.best(("plain", *cures, *sketches), bits)
    return {
        "wins": int(won.sum()),
        "passes": int(passes_threshold(heads, bits, "mean_share").sum()),
        "calls": int((passes_threshold(heads, bits, "attended_share") == won).sum()),
        "best-sketch": sum(way in sketches for way in best),
        "best-cure": sum(way in cures for way in best),
    }


class WorstCentred(NamedTuple):
    """The head that loses most by the removal of the mean.

    Its error over that of plain codes, and the attended energy that is left over that before.
    """

    ratio: float
    left: float


def worst_centred(heads: HeadErrors, bits: int) -> WorstCentred:
    """The head whose output suffers most when the mean of the values is removed."""
    ratios = heads.over_plain("centred plain", bits)
    worst = int(ratios.argmax())
    return WorstCentred(float(ratios[worst]), float(heads.fact("left")[worst]))


def head_numbers(
    heads: HeadErrors,
    foretold: Mapping[tuple[str, str, int], FloatArray],
    *,
    language: Sequence[str],
) -> dict[str, float]:
    """What the text says about captured heads, by the names it uses.

    ``language`` are the models that are not encoders.
    """
    budgets, worst = (2, 3, 4), worst_centred(heads, 4)
    ways = dict.fromkeys(way for _, way, _ in heads.errors)
    of_language = [heads.over_plain("orthogonal", n, language) for n in budgets]
    found = {
        "heads": float(heads.dims.size),
        "worst-centred": worst.ratio,
        "worst-left": worst.left,
        "worst-unbiased": float(heads.over_plain("unbiased", 4).max()),
        "wins-language": float((np.concatenate(of_language) < 1).sum()),
    }
    for n in budgets:
        found |= {f"{name}-{n}": float(x) for name, x in sketch_counts(heads, n).items()}
        for way in (w for w in ways if w not in ("plain", "uniform", "min-max")):
            ratio = geometric_mean_interval(heads.over_plain(way, n))
            found[f"ratio-{way.replace(' ', '-')}-{n}"] = ratio.estimate
    for model in heads.facts:
        found[f"gram-{model}"] = gram_calibration(heads, foretold, model).estimate
    return found


# Verdict ---------------------------------------------------------------------------------------


def ratio_of_means(top: FloatArray, bottom: FloatArray) -> Interval:
    """Ratio of the means of two quantities of the same draws, with the delta method's interval."""
    ratio = float(top.mean() / bottom.mean())
    i = mean_interval((top - ratio * bottom) / bottom.mean())
    return Interval(ratio, ratio + i.low, ratio + i.high, i.n)


def judge_t15(
    predictions: ledger.Predictions,
    errors: Mapping[Cell, FloatArray],
    *,
    unequal: UnequalWeights,
    heads_over_foretold: FloatArray,
) -> ledger.Verdict:
    """Verdict on T15; errors of :func:`measure_shared_errors`, ratios of :func:`over_foretold`."""

    def over_measured(bits: int, first: str = "plain", second: str = "orthogonal") -> Interval:
        target = threshold_law(bits, 0.5, first=first.removesuffix(", Haar"))
        i = measured_threshold(errors, bits, 0.5, first=first, second=second)
        return Interval(target / i.estimate, target / i.high, target / i.low, i.n)

    def ratio(top: Cell, bottom: Cell, column: int) -> Interval:
        return ratio_of_means(errors[top][:, column], errors[bottom][:, column])

    left_over = [
        ratio(Cell("centred plain", n, 0.5), Cell("plain", n, 0.5), 1) for n in range(2, 6)
    ]
    found = [
        ratio(Cell("orthogonal", 2, 0.0), Cell("plain", 2, 0.0), 0),
        *(over_measured(n) for n in TOLERANCE),
        over_measured(2, first="plain, Haar", second="orthogonal, Haar"),
        over_measured(2, first="unbiased"),
        ratio(Cell("gaussian", 4, 0.5), Cell("plain", 3, 0.5), 1),
        ratio_of_means(unequal.output, unequal_weights_law(unequal)),
        max(left_over, key=lambda i: i.high),
        geometric_mean_interval(heads_over_foretold),
    ]
    labels = [prediction.label for prediction in predictions.predictions]
    return predictions.verdict(
        dict(zip(labels, found, strict=True)),
        note="Corrected on the way: unbiased scales do not average out either, because the "
        "rotation is shared; and without the overload of single coordinates the threshold at five "
        "bits comes out too low.",
    )


# Bits between keys and values ------------------------------------------------------------------


@dataclass(frozen=True)
class SplitErrors:
    """Relative output errors with n_K and n_V bits, and the two first-order terms.

    Attributes
    ----------
    bits : tuple of int
        Budgets of both axes.
    errors : ndarray, shape (..., budgets + 1, budgets + 1)
        By n_K and n_V; the last entry of each axis is exact keys, or exact values.
    key_term, value_term : ndarray, shape (...)
        Factors a and b of D(n_K) and D(n_V).
    """

    bits: tuple[int, ...]
    errors: FloatArray
    key_term: FloatArray
    value_term: FloatArray

    def predicted_difference(self) -> FloatArray:
        """Best n_K - n_V to first order, from keys and values as they are."""
        return np.asarray(np.log(self.key_term / self.value_term) / math.log(4))

    def measured_difference(self, bits: int = 4) -> FloatArray:
        """The same from the errors of keys alone and of values alone at a budget."""
        at = self.bits.index(bits)
        ratio = self.errors[..., at, -1] / self.errors[..., -1, at]
        return np.asarray(np.log(ratio) / math.log(4))

    def of_sum(self, total: int) -> FloatArray:
        """Errors of the splits of a sum of bits, by rising n_K: shape (splits, ...)."""
        pairs = [(k, total - k) for k in self.bits if total - k in self.bits]
        places = [(self.bits.index(k), self.bits.index(v)) for k, v in pairs]
        return np.stack([self.errors[..., i, j] for i, j in places])

    def even_over_best(self, total: int = 8) -> FloatArray:
        """Error of the even split over that of the best one."""
        at = self.bits.index(total // 2)
        return np.asarray(self.errors[..., at, at] / self.of_sum(total).min(axis=0))


def split_errors(
    q: Vectors,
    k: Vectors,
    v: Vectors,
    way: Way,
    bits: Sequence[int],
    *,
    causal: bool,
    seeds: Iterable[int],
) -> SplitErrors:
    """Output errors of every pair of budgets, averaged over seeds; leading axes are kept."""
    p = attention.attention_weights(q, k, causal=causal).astype(np.float32)
    out, budgets, drawn = p @ v, tuple(bits), [int(s) for s in seeds]
    signal = np.square(out).sum(axis=(-2, -1))
    errors = np.zeros((*signal.shape, len(budgets) + 1, len(budgets) + 1))
    for seed in drawn:
        keys = [*(stored(k, way(n), seed) for n in budgets), k]
        values = [*(stored(v, way(n), seed + 1) for n in budgets), v]
        for i, k_hat in enumerate(keys):
            p_hat = attention.attention_weights(q, k_hat, causal=causal).astype(np.float32)
            for j, v_hat in enumerate(values):
                error = np.square(p_hat @ v_hat - out).sum(axis=(-2, -1))
                errors[..., i, j] += error / signal / len(drawn)
    energy = np.square(v).sum(axis=-1)[..., None, :]
    value_term = (p * p * energy).sum(axis=(-2, -1)) / signal
    key_term = _key_term(p, q, k, v).sum(axis=(-2, -1)) / signal
    return SplitErrors(budgets, errors, key_term, value_term)


def _key_term(p: Vectors, q: Vectors, k: Vectors, v: Vectors) -> Vectors:
    """p_i^2 |q|^2 |k_i|^2 |v_i - T|^2 / d^2 of every query and token."""
    out = p @ v
    energy = np.square(v).sum(axis=-1)[..., None, :]
    away = energy - 2 * out @ v.swapaxes(-1, -2) + np.square(out).sum(axis=-1)[..., None]
    noise = np.square(q).sum(axis=-1)[..., None] * np.square(k).sum(axis=-1)[..., None, :]
    return np.asarray(p * p * noise * away / k.shape[-1] ** 2)


def measure_split(
    way: Way,
    bits: Sequence[int],
    *,
    spreads: Sequence[float],
    draws: int,
    seeds: Sequence[SeedSequence],
    tokens: int = 256,
    queries: int = 64,
    dim: int = DIM,
) -> dict[float, SplitErrors]:
    """Output errors of every split on Gaussian caches, by spread of the logits: axis of draws."""
    found = {}
    for spread, child in zip(spreads, seeds, strict=True):
        rng, drawn = np.random.default_rng(child), []
        for state in child.generate_state(draws):
            k, v = (rng.standard_normal((tokens, dim), dtype=np.float32) for _ in range(2))
            q = spread * rng.standard_normal((queries, dim), dtype=np.float32)
            drawn.append(split_errors(q, k, v, way, bits, causal=False, seeds=[state]))
        found[spread] = SplitErrors(
            tuple(bits),
            *(np.array([getattr(x, name) for x in drawn]) for name in _SPLIT_ARRAYS),
        )
    return found


_SPLIT_ARRAYS = ("errors", "key_term", "value_term")


def measure_split_on_heads(
    caches: Mapping[str, KVCache],
    way: Way,
    bits: Sequence[int],
    *,
    draws: int,
    seeds: Sequence[SeedSequence],
) -> dict[str, SplitErrors]:
    """Output errors of every split on captured heads, by model: axis of heads, windows averaged.

    Causal caches use the last 64 queries of a window, others every eighth.
    """
    found = {}
    for (model, cache), child in zip(caches.items(), seeds, strict=True):
        q, k, v = with_windows(cache)
        q = q[..., -64:, :] if cache.causal else q[..., ::8, :]
        states = child.generate_state(draws)
        errors = split_errors(q, k, v, way, bits, causal=cache.causal, seeds=states)
        by_head = (getattr(errors, name).mean(axis=2) for name in _SPLIT_ARRAYS)
        heads = math.prod(q.shape[:2])
        found[model] = SplitErrors(tuple(bits), *(x.reshape(heads, *x.shape[2:]) for x in by_head))
    return found


def all_heads(by_model: Mapping[str, SplitErrors]) -> SplitErrors:
    """The heads of all models in a row."""
    found = tuple(by_model.values())
    arrays = (np.concatenate([getattr(x, name) for x in found]) for name in _SPLIT_ARRAYS)
    return SplitErrors(found[0].bits, *arrays)


def split_numbers(errors: SplitErrors, norm_ratios: FloatArray) -> dict[str, float]:
    """What the text says about the best split of heads, by the names it uses.

    ``norm_ratios`` are those of :func:`key_over_value_norm`, head by head.
    """
    even, best = errors.even_over_best(8), errors.measured_difference()
    by_norm = scipy.stats.spearmanr(norm_ratios, best)
    return {
        "even-best": float((even == 1).sum()),
        "even-cost": float(even.max()),
        "split-rank": float(scipy.stats.spearmanr(errors.predicted_difference(), best).statistic),
        "norm-rank": float(by_norm.statistic),
        "norm-p": float(by_norm.pvalue),
        "norm-least": float(norm_ratios.min()),
        "norm-most": float(norm_ratios.max()),
        "more-for-values": float((best < 0).sum()),
    }


def change_with_longer_values(
    cache: KVCache, way: Way, bits: Sequence[int], factor: float
) -> float:
    """Largest relative change of an output error when all values are so many times as long."""
    q, k, v = with_windows(cache)
    q = q[..., -64:, :] if cache.causal else q[..., ::8, :]
    longer, as_is = (
        split_errors(q, k, x, way, bits, causal=False, seeds=[0]).errors[0][..., :-1, :-1]
        for x in (factor * v, v)
    )
    return float(np.abs(longer / as_is - 1).max())


def key_over_value_norm(cache: KVCache) -> FloatArray:
    """Mean length of a head's keys over that of its values, shape (heads,)."""
    _, k, v = with_windows(cache)
    keys, values = (np.linalg.norm(x, axis=-1).mean(axis=(-2, -1)).ravel() for x in (k, v))
    return np.asarray(keys / values)


# Context length --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ContextErrors:
    """Relative output errors at one context length, and what their law needs.

    Attributes
    ----------
    errors : mapping from way to ndarray, shape (draws,)
    key_term : ndarray, shape (draws,)
        Factor of D(n) in the error that quantized keys cause.
    effective_tokens : ndarray, shape (draws, queries)
    signal : ndarray, shape (draws,)
        Energy of the outputs.
    """

    errors: Mapping[str, FloatArray]
    key_term: FloatArray
    effective_tokens: FloatArray
    signal: FloatArray

    def interval(self, way: str) -> Interval:
        """Mean error over draws."""
        return mean_interval(self.errors[way])


def measure_context_length(
    keys: RotatedQuantizer,
    values: Mapping[str, RotatedQuantizer],
    *,
    lengths: Sequence[int],
    shares: Sequence[float],
    draws: int,
    seeds: Sequence[SeedSequence],
    queries: int = 64,
    dim: int = DIM,
) -> dict[float, dict[int, ContextErrors]]:
    """Output errors by share of the mean and context length; one seed a share and length.

    Keys and queries are Gaussian with logits of unit spread, values lie around a common mean.
    """
    found: dict[float, dict[int, ContextErrors]] = {share: {} for share in shares}
    for (share, tokens), child in zip(product(shares, lengths), seeds, strict=True):
        rng, drawn = np.random.default_rng(child), []
        for state in child.generate_state(draws):
            k, q = (rng.standard_normal((m, dim), dtype=np.float32) for m in (tokens, queries))
            v = synthetic.draw(common_mean(share), tokens, dim, rng=rng).astype(np.float32)
            drawn.append(_context_errors(keys, values, (q, k, v), int(state)))
        found[share][tokens] = ContextErrors(
            {way: np.array([x.errors[way] for x in drawn]) for way in values},
            *(
                np.array([getattr(x, name) for x in drawn])
                for name in ("key_term", "effective_tokens", "signal")
            ),
        )
    return found


def _context_errors(
    keys: RotatedQuantizer,
    values: Mapping[str, RotatedQuantizer],
    cache: tuple[Vectors, Vectors, Vectors],
    seed: int,
) -> ContextErrors:
    """One draw of a context, q, k and v: fields without their axis of draws."""
    q, k, v = cache
    p = attention.attention_weights(q, k)
    p_hat = attention.attention_weights(q, stored(k, keys, seed))
    out = p @ v
    signal = np.square(out).sum()
    errors = {
        way: np.square(p_hat @ stored(v, quantizer, seed + 1) - out).sum() / signal
        for way, quantizer in values.items()
    }
    effective = 1 / np.square(p).sum(axis=-1)
    return ContextErrors(errors, _key_term(p, q, k, v).sum(), effective, signal)


def context_length_law(
    measured: ContextErrors, share: float, *, bits: int, dim: int = DIM
) -> float:
    """Relative output error of plain codes for keys and values, averaged over the draws' rows."""
    of_keys = codebooks.lloyd_max(dim, bits).distortion * measured.key_term
    errors = laws.output_error(measured.effective_tokens, *errors_law("plain", bits, share, dim))
    of_values = dim * np.asarray(errors).sum(axis=-1)
    return float(((of_keys + of_values) / measured.signal).mean())


def measure_by_position(
    cache: KVCache, quantizer: RotatedQuantizer, edges: Sequence[int]
) -> FloatArray:
    """Relative output error of a causal cache by position of the query: (heads, bins)."""
    q, k, v = with_windows(cache)
    p_hat = attention.attention_weights(q, stored(k, quantizer, 0), causal=True)
    out = attention.attention_weights(q, k, causal=True) @ v
    error = np.square(p_hat @ stored(v, quantizer, 1) - out).sum(axis=-1).mean(axis=2)
    signal = np.square(out).sum(axis=-1).mean(axis=2)
    bins = [slice(low, high) for low, high in pairwise(edges)]
    return np.stack([(error[..., b].sum(-1) / signal[..., b].sum(-1)).ravel() for b in bins], -1)


# Exercises -------------------------------------------------------------------------------------


def least_error_sketch_law(bits: int, share: float, dim: int = DIM) -> Errors:
    """Both errors of codes with an orthogonal sketch of least error, shrunk by 1 / (1 + c).

    Single: c / (1 + c) D(n - 1). Shared: the unbiased sketch's, shrunk, and what the shrinkage
    leaves of the codes' own.
    """
    c, coarse = laws.orthogonal_sketch_error(dim), codebooks.lloyd_max(dim, bits - 1)
    shrink = 1 / (1 + c)
    bare = float(laws.common_mean_error(share, coarse.levels, dim))
    unshrunk = errors_law("orthogonal", bits, share, dim).shared
    return Errors(c * shrink * coarse.distortion, shrink**2 * unshrunk + (1 - shrink) ** 2 * bare)
