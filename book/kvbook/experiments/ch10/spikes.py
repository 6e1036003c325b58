"""Spikes and rounds: what each code makes of a spike, derived and measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy import optimize
from scipy import stats as distributions

from kvbook.experiments.ch10 import codes
from kvbook.experiments.ch10.codes import (
    CODES,
    MATCHED,
    NORM,
    QJL,
    QJL_GAUSSIAN,
    SCALES,
    WHAT,
    squared_error,
)
from kvbook.experiments.ch10.subjects import (
    HEAVY,
    SPIKES,
    SUBJECTS,
    Captured,
    draw_all,
)
from kvbook.experiments.common import children, distortion
from kvlib import laws
from kvlib.checks import FloatArray
from kvlib.data import synthetic
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer, codebooks
from kvlib.quantize.rotations import Rotation
from kvlib.stats import Interval, geometric_mean_interval

BUDGETS = (1, 2, 3, 4)
ROUNDS = (1, 2, 3)
RULE = MATCHED, 1
"""The code and the number of rounds that the chapter advises."""
TIE = 0.05
"""Ratios this near to one are ties."""

# Closed forms ------------------------------------------------------------------------------------


def one_hot_error_law(dim: int, bits: int) -> float:
    """Squared error with the norm of a one-hot key under one round: of one level alone."""
    levels = codebooks.lloyd_max(dim, bits).levels
    nearest = levels[np.abs(levels - 1 / math.sqrt(dim)).argmin()]
    return float((1 - math.sqrt(dim) * nearest) ** 2)


@cache
def spike_moments_law(
    dim: int, bits: int, share: float, points: int = 10_000
) -> tuple[float, float]:
    """Mean gain <u, Q(u)> and mean energy |Q(u)|^2 of a spike under one round.

    The rest of the key counts as normal; the midpoint rule in probability averages over it.
    """
    z = distributions.norm.ppf((np.arange(points) + 0.5) / points)
    y = math.sqrt(share) + math.sqrt(1 - share) * z
    book = codebooks.lloyd_max(dim, bits)
    levels = math.sqrt(dim) * book.dequantize(book.quantize(y / math.sqrt(dim)))
    return float(np.mean(y * levels)), float(np.mean(levels**2))


def scaled_error(gain: float, energy: float, scale: str) -> float:
    """Squared error of a unit vector whose code has this gain and energy, by what is stored."""
    if scale == NORM:
        return 1 - 2 * gain + energy
    if scale == MATCHED:
        return 2 - 2 * gain / math.sqrt(energy)
    return energy / gain**2 - 1


def spike_error_law(dim: int, bits: int, share: float, scale: str = NORM) -> float:
    """Squared error of a key whose spike holds ``share`` of the energy, after one round."""
    return scaled_error(*spike_moments_law(dim, bits, share), scale)


def sketched_spike_law(dim: int, bits: int, share: float) -> float:
    """The same with an orthogonal sketch in the place of the last bit."""
    c = laws.orthogonal_sketch_error(dim)
    return c * (spike_error_law(dim, bits - 1, share) if bits > 1 else 1.0)


def uniform_error_law(dim: int, bits: int, code: str) -> float:
    """Squared error where the rotated key is uniform on the sphere: what more rounds lead to."""
    if code in SCALES:
        D = distortion(dim, bits)
        return scaled_error(1 - D, 1 - D, code)
    return laws.orthogonal_sketch_error(dim) * (distortion(dim, bits - 1) if bits > 1 else 1.0)


def crossing_share(excess: Callable[[float], float], low: float, high: float) -> float:
    """Share between two others at which an excess of error changes its sign."""
    return float(optimize.brentq(excess, low, high, xtol=1e-5))


SKETCHES = ("Gaussian", "orthogonal", "orthogonal, MMSE")


def sketch_constant(sketch: str, dim: int) -> float:
    """What a sketch of :data:`SKETCHES` leaves of a residual's energy."""
    if sketch == "Gaussian":
        return laws.gaussian_sketch_error(dim)
    c = laws.orthogonal_sketch_error(dim)
    return laws.mmse_error(c) if sketch.endswith("MMSE") else c


def winning_share(dim: int, bits: int, sketch: str) -> float | None:
    """Share from which on QKQV's squared error is below KQV's (the norm), None if nowhere."""
    c = sketch_constant(sketch, dim)

    def excess(share: float) -> float:
        return c * spike_error_law(dim, bits - 1, share) - spike_error_law(dim, bits, share)

    if excess(1 - 1e-6) > 0:
        return None
    return crossing_share(excess, 0.3, 1 - 1e-6)


def sketch_share(dim: int) -> float:
    """Share from which on, at two bits, the sketch errs less than the matched code, one round."""
    return crossing_share(
        lambda s: sketched_spike_law(dim, 2, s) - spike_error_law(dim, 2, s, MATCHED), 0.5, 0.99
    )


def one_bit_share(dim: int, bits: int) -> float:
    """Share from which on a matched code errs less with one bit than with ``bits``, one round."""
    return crossing_share(
        lambda s: spike_error_law(dim, 1, s, MATCHED) - spike_error_law(dim, bits, s, MATCHED),
        0.5,
        0.99,
    )


def harmful_shares(dim: int, bits: int, scale: str) -> tuple[float, float] | None:
    """Shares from where to where one round errs more than many, None where nowhere."""
    shares = np.concatenate([np.linspace(0.3, 0.99, 139), 1 - np.geomspace(0.0099, 1e-5, 100)])
    many = uniform_error_law(dim, bits, scale)
    worse = np.array([spike_error_law(dim, bits, s, scale) > 1.001 * many for s in shares])
    if not worse.any():
        return None
    first, last = int(worse.argmax()), int(len(worse) - 1 - worse[::-1].argmax())

    def excess(share: float) -> float:
        return spike_error_law(dim, bits, share, scale) - many

    start = crossing_share(excess, shares[first - 1], shares[first])
    if last == len(shares) - 1:
        return start, 1.0
    return start, crossing_share(excess, shares[last], shares[last + 1])


# Measurements ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CodeErrors:
    """Errors of every code, by what repeats (draws, or rotations of given heads).

    Attributes
    ----------
    values : array, shape (repetition, what, budget, rounds, code, subject)
        KL and squared error (:data:`codes.WHAT`).
    subjects : tuple of str
    """

    values: FloatArray
    subjects: tuple[str, ...] = SUBJECTS

    def of(
        self, subject: str, bits: int, code: str, rounds: int = 1, what: str = "KL"
    ) -> FloatArray:
        """Errors of one code on one kind of keys, shape (repetition,)."""
        at = (
            WHAT.index(what),
            BUDGETS.index(bits),
            ROUNDS.index(rounds),
            CODES.index(code),
            self.subjects.index(subject),
        )
        return np.asarray(self.values[(slice(None), *at)])

    def ratio(
        self,
        subject: str,
        bits: int,
        cell: tuple[str, int],
        over: tuple[str, int] = RULE,
        what: str = "KL",
    ) -> Interval:
        """Error of a cell (code, rounds) over that of another, paired, over the repetitions."""
        upper, lower = (self.of(subject, bits, *c, what=what) for c in (cell, over))
        return geometric_mean_interval(upper / lower)

    def median_ratio(self, subject: str, bits: int, cell: tuple[str, int]) -> float:
        """Median over the repetitions of the KL of a cell over that of the advised one."""
        upper, lower = (self.of(subject, bits, *c) for c in (cell, RULE))
        return float(np.median(upper / lower))

    def better(self, subject: str, bits: int) -> tuple[tuple[str, int], Interval] | None:
        """The cell of the lowest KL and its ratio to the advised one; None if not worth the change.

        Worth it is a ratio whose whole interval lies below a tie, 5% under one. Of cells within
        3% of the lowest it is the one of the fewest rounds, the matched scale first.
        """
        present = [c for c in cells(bits) if np.isfinite(self.of(subject, bits, *c)).all()]
        found = {c: self.ratio(subject, bits, c) for c in present}
        lowest = min(ratio.estimate for ratio in found.values())
        near = [c for c in found if found[c].estimate <= 1.03 * lowest]
        cell = min(near, key=lambda c: (c[1], c[0] != MATCHED, CODES.index(c[0])))
        return (cell, found[cell]) if found[cell].high < 1 - TIE else None

    def joined(self, other: CodeErrors) -> dict[str, CodeErrors]:
        """Every kind of keys of both, with the errors that hold it."""
        return {s: errors for errors in (self, other) for s in errors.subjects}


def cells(bits: int) -> list[tuple[str, int]]:
    """Codes with rounds that are compared at a budget; at one bit QJL has no codebook to rotate."""
    every = list(product(CODES[:-1], ROUNDS))
    return [c for c in every if bits > 1 or c[0] != QJL or c[1] == 1]


def _measure_budgets(
    q: FloatArray,
    k: FloatArray,
    seed: int,
    *,
    rounds: Sequence[int] = ROUNDS,
    causal: bool = False,
) -> FloatArray:
    """Errors of one draw: shape (what, budget, rounds, code, ...).

    Not a number for rounds left out, and for the Gaussian sketch under more rounds than one.
    """
    shape = (len(WHAT), len(BUDGETS), len(ROUNDS), len(CODES), *k.shape[:-2])
    found = np.full(shape, np.nan)
    for (i, n), r in product(enumerate(BUDGETS), rounds):
        wanted = CODES if r == 1 else CODES[:-1]
        each = codes.measure_codes(q, k, n, rounds=r, seed=seed, causal=causal, wanted=wanted)
        found[:, i, ROUNDS.index(r), : len(wanted)] = each
    return found


def measure_subjects(
    *, dim: int, tokens: int, queries: int, draws: int, seed: np.random.SeedSequence
) -> CodeErrors:
    """Every code on every kind of synthetic keys; a draw has keys, queries and rotation anew."""
    found = []
    for child in children(seed, draws):
        rng = np.random.default_rng(child)
        q, k = draw_all(tokens, queries, dim, rng)
        found.append(_measure_budgets(q, k, int(rng.integers(2**31))))
    return CodeErrors(np.array(found))


def measure_captured(
    captured: Sequence[Captured], *, rotations: int, seed: np.random.SeedSequence
) -> CodeErrors:
    """Every code on captured heads: geometric means over heads, one repetition a rotation.

    One round and two. The subjects are all heads, and those of the language model trained at the
    right rate.
    """
    chosen = np.array([entry.language_model for entry in captured])
    found = []
    for turn, child in enumerate(children(seed, rotations)):
        seeds = child.generate_state(len(captured)).tolist()
        each = []
        for entry, state in zip(captured, seeds, strict=True):
            window = turn % len(entry.head.k)
            q, k = entry.head.q[window], entry.head.k[window]
            errors = _measure_budgets(q, k, state // 2, rounds=(1, 2), causal=entry.head.causal)
            each.append(np.log(errors))
        logs = np.array(each)
        found.append(np.stack([logs.mean(axis=0), logs[chosen].mean(axis=0)], axis=-1))
    return CodeErrors(np.exp(np.array(found)), captured_names(len(captured), int(chosen.sum())))


def captured_names(heads: int, language: int) -> tuple[str, str]:
    """What tables call all captured heads and those of the language model."""
    return f"{heads} captured heads", f"{language} heads of the language model"


@dataclass(frozen=True, eq=False)
class ShareErrors:
    """Squared errors on spikes by the share of the energy they hold, one round and two.

    Attributes
    ----------
    values : array, shape (draw, share, budget, rounds, scale)
    shares : tuple of float
        Increasing.
    dim : int
    """

    values: FloatArray
    shares: tuple[float, ...]
    dim: int

    def errors(self, bits: int, scale: str, rounds: int = 1) -> FloatArray:
        """Squared errors with a scale, shape (draw, share)."""
        at = BUDGETS.index(bits), rounds - 1, SCALES.index(scale)
        return np.asarray(self.values[(slice(None), slice(None), *at)])


def measure_shares(
    shares: Sequence[float], *, dim: int, tokens: int, draws: int, seed: np.random.SeedSequence
) -> ShareErrors:
    """Squared errors of the three scales on spikes of every share."""
    found = []
    for child in children(seed, draws):
        rng = np.random.default_rng(child)
        drawn = [synthetic.draw(synthetic.spike(s), tokens, dim, rng=rng) for s in shares]
        k, state = np.array(drawn, dtype=np.float32), int(rng.integers(2**31))
        each = np.empty((len(shares), len(BUDGETS), 2, len(SCALES)))
        for (i, n), rounds in product(enumerate(BUDGETS), (1, 2)):
            decoded = codes.decode_all(k, n, rounds=rounds, seed=state, wanted=SCALES)
            each[:, i, rounds - 1] = np.transpose([squared_error(k, x) for x in decoded.values()])
        found.append(each)
    return ShareErrors(np.array(found), tuple(shares), dim)


def over_law(found: ShareErrors, rounds: int) -> Interval:
    """Measured over derived squared error, where it is farthest from one.

    A mean over shares up to 99% for each budget and scale; after two rounds the law is that of
    the sphere, whatever the share.
    """
    shares = [s for s in found.shares if s <= 0.99]
    intervals = []
    for n, scale in product(BUDGETS, SCALES):
        foretold = [
            spike_error_law(found.dim, n, share, scale)
            if rounds == 1
            else uniform_error_law(found.dim, n, scale)
            for share in shares
        ]
        measured = found.errors(n, scale, rounds)[:, : len(shares)]
        intervals.append(geometric_mean_interval((measured / foretold).mean(axis=1)))
    return max(intervals, key=lambda i: abs(i.estimate - 1))


# A search for the stretch ------------------------------------------------------------------------


def search_stretch(
    shares: Sequence[float],
    stretches: Sequence[float],
    *,
    bits: int,
    dim: int,
    tokens: int,
    seed: np.random.SeedSequence,
) -> dict[float, tuple[float, float]]:
    """Squared error with the matched scale, without and with a stretch chosen for each key.

    The rotated unit key is multiplied by each of ``stretches`` before it is rounded, and the
    code that points best along it is kept: no byte more, one encoding for each stretch.
    """
    rng, book = np.random.default_rng(seed), codebooks.lloyd_max(dim, bits)
    found = {}
    for share in shares:
        x = synthetic.draw(synthetic.spike(share), tokens, dim, rng=rng)
        unit = Rotation("hadamard", dim, seed=1).apply(x)
        unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
        cosines = []
        for stretch in (1.0, *stretches):
            levels = book.dequantize(book.quantize(stretch * unit))
            cosines.append((unit * levels).sum(axis=-1) / np.linalg.norm(levels, axis=-1))
        plain, best = cosines[0], np.max(cosines, axis=0)
        found[share] = float(np.mean(2 - 2 * plain)), float(np.mean(2 - 2 * best))
    return found


def measure_same_channel(
    ways: Mapping[str, RotatedQuantizer], *, draws: int, seed: np.random.SeedSequence
) -> dict[str, float]:
    """Mean KL on keys whose first coordinate, the same in all of them, holds 99% of the energy."""
    dim, tokens, share = 128, 256, 0.99
    found: dict[str, list[float]] = {name: [] for name in ways}
    for child in children(seed, draws):
        rng = np.random.default_rng(child)
        k = math.sqrt(1 - share) * rng.standard_normal((tokens, dim))
        k[:, 0] = math.sqrt(share * dim)
        spread = math.sqrt(1 - share)  # of the logits, but for what the keys share
        q = rng.standard_normal((16, dim)) / spread
        state = int(rng.integers(2**31))
        for name, quantizer in ways.items():
            k_hat = quantizer.encode(k, seed=state).decode()
            found[name].append(float(attention.attention_kl(q, k, k_hat).mean()))
    return {name: float(np.mean(kl)) for name, kl in found.items()}


def lowest_over_rule(errors: CodeErrors, bits: int) -> Interval:
    """The least KL of any cell over that of the advised one, over all kinds of keys."""
    found = [errors.ratio(s, bits, c) for s in errors.subjects for c in cells(bits)]
    return min(found, key=lambda i: i.estimate)


def second_round(errors: CodeErrors, bits: int, subjects: Iterable[str]) -> Interval:
    """KL after two rounds over one, matched scale: the least over kinds of keys."""
    found = [errors.ratio(s, bits, (MATCHED, 2)) for s in subjects]
    return min(found, key=lambda i: i.estimate)


def second_round_on_average(errors: CodeErrors, subject: str, what: str = "KL") -> Interval:
    """Error after two rounds over one on one kind of keys, matched scale, mean of 2 to 4 bits."""
    ratios = [
        errors.of(subject, n, MATCHED, 2, what) / errors.of(subject, n, MATCHED, 1, what)
        for n in BUDGETS[1:]
    ]
    return geometric_mean_interval(np.exp(np.mean(np.log(ratios), axis=0)))


def one_bit_over(errors: CodeErrors, subject: str, bits: int) -> Interval:
    """KL of the one-bit code over that of a finer one, paired, matched scale, one round."""
    coarse, fine = (errors.of(subject, n, MATCHED) for n in (1, bits))
    return geometric_mean_interval(coarse / fine)


def norm_over_law(errors: CodeErrors, dim: int) -> Interval:
    """KL ratio of norm to matched scale over the ratio of their squared errors as derived.

    Spikes of 60% to 99.9%, one round, two to four bits; the one farthest from one.
    """
    found = []
    for (subject, share), n in product(SPIKES.items(), BUDGETS[1:]):
        law = spike_error_law(dim, n, share) / spike_error_law(dim, n, share, MATCHED)
        i = errors.ratio(subject, n, (NORM, 1))
        found.append(Interval(i.estimate / law, i.low / law, i.high / law, i.n))
    return max(found, key=lambda i: abs(i.estimate - 1))


def third_over_second(errors: CodeErrors) -> tuple[float, float]:
    """Least and largest KL after three rounds over two, matched scale, two to four bits."""
    found = [
        errors.ratio(s, n, (MATCHED, 3), (MATCHED, 2)).estimate
        for s in errors.subjects
        for n in BUDGETS[1:]
        if s != HEAVY
    ]
    return min(found), max(found)


def law_numbers(dim: int) -> dict[str, float]:
    """What the text says of spikes before any measurement."""
    found = {f"one-hot-{n}": one_hot_error_law(dim, n) for n in BUDGETS}
    found |= {f"d-{n}": distortion(dim, n) for n in BUDGETS}
    for n, scale in product((2, 3), (NORM, MATCHED)):
        span = harmful_shares(dim, n, scale)
        assert span is not None  # a test holds that it is so at d = 128
        found |= {f"{scale}-{n}-from": 100 * span[0], f"{scale}-{n}-to": 100 * span[1]}
    edge = codebooks.lloyd_max(dim, 2).edges[-1] * math.sqrt(dim)
    return found | {
        "sketch-from": 100 * sketch_share(dim),
        **{
            f"kqv-{word}-from": 100 * (winning_share(dim, 2, sketch) or 1)
            for word, sketch in zip(("gaussian", "orthogonal", "mmse"), SKETCHES, strict=True)
        },
        "one-bit-from": 100 * one_bit_share(dim, 2),
        "one-bit-from-3": 100 * one_bit_share(dim, 3),
        "edge": float(edge),
    }


def spike_numbers(drawn: CodeErrors) -> dict[str, float]:
    """What the text says of measured spikes: KL ratios."""
    pure, nearly, half = "spike 99%", "spike 90%", "spike 60%"
    found = {
        "qjl-99": drawn.ratio(pure, 2, (QJL, 1)).estimate,
        "qjl-90": drawn.ratio(nearly, 2, (QJL, 1)).estimate,
        "norm-99": drawn.ratio(pure, 2, (NORM, 1)).estimate,
        "norm-999": drawn.ratio("spike 99.9%", 2, (NORM, 1)).estimate,
        "one-bit-over-2": one_bit_over(drawn, pure, 2).estimate,
        "one-bit-over-3": one_bit_over(drawn, pure, 3).estimate,
        "one-bit-over-4": one_bit_over(drawn, pure, 4).estimate,
        "window-2": drawn.ratio(pure, 2, (MATCHED, 2)).estimate,
        "window-3": drawn.ratio(pure, 3, (MATCHED, 2)).estimate,
        "again-60": drawn.ratio(half, 3, (MATCHED, 2)).estimate,
        "again-90": drawn.ratio(nearly, 3, (MATCHED, 2)).estimate,
        "gaussian-sketch": drawn.ratio(pure, 2, (QJL_GAUSSIAN, 1), (QJL, 1)).estimate,
        "t-norm": drawn.median_ratio(HEAVY, 3, (NORM, 1)),
    }
    for n in BUDGETS[1:]:
        found[f"t-again-{n}"] = drawn.median_ratio(HEAVY, n, (MATCHED, 2))
    third = third_over_second(drawn)
    return found | {"third-least": third[0], "third-most": third[1]}
