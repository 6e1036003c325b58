"""C08: does KQV win on every measure at four bits, and which sketch gives a ratio of 2.25?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from kvbook import ledger
from kvbook.experiments.ch11.baselines import Books, BooksByBits
from kvbook.experiments.ch11.c14 import apart, sign_rank
from kvbook.experiments.ch11.errors import (
    ANGLE,
    SQUARED,
    Floats,
    draw_heads,
    errors,
    highest_reaching,
    random_draws,
    six_norm,
)
from kvbook.experiments.ch11.readings import Search
from kvlib import laws, stats
from kvlib.data import synthetic
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer, Scheme, codebooks

FAMILIES = {
    "gaussian": synthetic.GAUSSIAN,
    "t, ν=3": synthetic.student_t(3),
    "t, ν=1.05": synthetic.student_t(1.05),
    "rank 1": synthetic.low_rank(1),
    "rank 4": synthetic.low_rank(4),
    "rank 32": synthetic.low_rank(32),
    "rank 32, t ν=3": synthetic.low_rank_t(32, 3),
}
LIGHT_TAILS = ("gaussian", "rank 1", "rank 4", "rank 32")
SKETCHES = ("Gaussian", "orthogonal", "Gaussian, least squares")
MEASURES = ("KL", "K direction", "6-D norm")
"""The abstract's three: KL, geometric error of K, six-dimensional distance."""
COUNTS = (16, 64)
"""Queries a draw that KL is averaged over: a few, or one for each key."""

PUBLISHED_RATIO, PUBLISHED_R = 2.25, -0.983
PUBLISHED_DRAWS = 72
"""A scheme, as the published p-value says."""
WIN, R_TOLERANCE_OF_SEARCH = 0.95, 0.02

AGAINST_QKQV, AGAINST_BOTH = "better than QKQV", "better than QKQV and KV"
AHEAD = "{} of KQV over {}: ratio in the worst of 7 families"
OF_QKQV, OF_BOTH = "QKQV, Gaussian", "the better of QKQV, Gaussian, and KV (Lloyd-Max)"
LIGHT = "light tails (gaussian, rank 1, 4, 32)"
TIE = "{} of KQV over KV (Lloyd-Max), " + LIGHT + ": ratio"
RATIO = "{}: KL of QKQV over KQV, " + LIGHT
POOLED = "{}: r of KL, KQV against QKQV (published -0.983), " + LIGHT
P_VALUE = "log10 of the p-value of r = -0.983 with 72 samples a scheme"


# ------------------------------------------------------------------------------ predictions


def sample_sizes(r: float, p_low: float, p_high: float, sides: int) -> tuple[int, int]:
    """Sizes of two equal samples whose normal approximation gives a p between the two."""
    z = [abs(r) * math.sqrt(3 * m * m / (2 * m + 1)) for m in range(1, 200)]
    p = sides * scipy.stats.norm.sf(z)
    sizes = np.flatnonzero((p > p_low) & (p < p_high)) + 1
    return int(sizes[0]), int(sizes[-1])


@cache
def region_of_r(repetitions: int = 4000) -> tuple[float, float]:
    """Where 95% of the r lie of as many draws as the paper's, if the published r is the true one.

    Two clouds of normal numbers, apart so that their r is the published one in the long run. The
    region is not symmetric: near -1 an r scatters less to the one side than to the other.
    """
    z = np.random.default_rng(0).standard_normal((repetitions, 2 * PUBLISHED_DRAWS))
    z[:, PUBLISHED_DRAWS:] += apart(PUBLISHED_R)
    low, high = np.quantile(sign_rank(z, PUBLISHED_DRAWS), [0.025, 0.975])
    return float(low), float(high)


def kl_ratio_law(dim: int = 128, bits: int = 4) -> dict[str, float]:
    """KL of QKQV over that of KQV to first order, by sketch and scale."""
    coarse, fine = (codebooks.lloyd_max(dim, n).distortion for n in (bits - 1, bits))
    found = {}
    for name, c in (
        ("gaussian", laws.gaussian_sketch_error(dim)),
        ("orthogonal", laws.orthogonal_sketch_error(dim)),
    ):
        found[name] = laws.equal_budget_penalty(c, coarse, fine)
        found[f"{name}-mmse"] = laws.equal_budget_penalty(laws.mmse_error(c), coarse, fine)
    return found


def sketch_readings() -> dict[str, tuple[str, int]]:
    """Name of each reading of the numbers to its sketch and its number of queries a draw."""
    return {f"{s}, {count} queries": (s, count) for s, count in product(SKETCHES, COUNTS)}


def predict_c08() -> ledger.Predictions:
    """A win on every measure, over QKQV or over both; the published ratio and r by sketch."""
    wins = [_predict_win(measure, OF_QKQV, reading=AGAINST_QKQV) for measure in MEASURES]
    wins += [_predict_win(measure, OF_BOTH, reading=AGAINST_BOTH) for measure in MEASURES]
    numbers = [check for reading in sketch_readings() for check in _predict_numbers(reading)]
    ours = [_predict_win(measure, "QKQV, orthogonal", scope="ours") for measure in MEASURES]
    ours += [
        ledger.Prediction(
            TIE.format(measure),
            ledger.tie(),
            "keys more than 5% apart",
            scope="ours",
            reading=AGAINST_QKQV,
        )
        for measure in MEASURES[:2]
    ]
    arithmetic = ledger.Prediction(
        P_VALUE, ledger.Below(-23), "another number of samples", part="number", scope="shown"
    )
    return ledger.Predictions(
        "C08",
        [*wins, *numbers, *ours, arithmetic],
        pilots="That r hangs on the number of queries, and the least-squares sketch, were noticed "
        "in pilots; the margin of a win was set, draws added until r is resolved, and the region "
        "of r capped so that -1 lies outside, after them",
    )


def _predict_win(
    measure: str, rival: str, *, reading: str = "", scope: str = "claim"
) -> ledger.Prediction:
    """A win is more than a tie: at least 5% lower."""
    return ledger.Prediction(
        AHEAD.format(measure, rival),
        ledger.Below(WIN),
        f"a family where KQV is not 5% below {rival}",
        scope=scope,
        reading=reading,
    )


def _predict_numbers(reading: str) -> tuple[ledger.Prediction, ledger.Prediction]:
    """The ratio within 5%, and r where draws as many as the paper's would have it."""
    low, high = region_of_r()
    ratio = ledger.Prediction(
        RATIO.format(reading),
        ledger.Within(PUBLISHED_RATIO, 0.05 * PUBLISHED_RATIO),
        "more than 5% off",
        part="number",
        reading=reading,
    )
    r = ledger.Prediction(
        POOLED.format(reading),
        ledger.Within((low + high) / 2, (high - low) / 2),
        f"outside what 95% of samples of {PUBLISHED_DRAWS} draws give where r is {PUBLISHED_R}",
        part="number",
        reading=reading,
    )
    return ratio, r


# ------------------------------------------------------------------------------ experiment


@dataclass(frozen=True)
class SchemeErrors:
    """Errors of schemes on heads of several families.

    Attributes
    ----------
    schemes, families : sequence of str
    kl : array, shape (scheme, family, draw)
        Mean over the queries of a draw, nats.
    keys, values, outputs : array, shape (scheme, 4, family, draw)
        The errors of `errors.errors`, means over tokens or queries.
    """

    schemes: Sequence[str]
    families: Sequence[str]
    kl: Floats
    keys: Floats
    values: Floats
    outputs: Floats

    @property
    def draws(self) -> int:
        """How many there are."""
        return int(self.kl.shape[-1])

    def of(self, scheme: str, measure: str) -> Floats:
        """One measure of a scheme, such as "KL", "K direction" or "6-D norm": (family, draw)."""
        i = self.schemes.index(scheme)
        if measure == "KL":
            return np.asarray(self.kl[i])
        if measure == "6-D norm":
            return six_norm(self.keys[i], self.values[i], self.outputs[i])
        place, kind = measure.split(" ", 1)
        part = {"K": self.keys, "V": self.values, "T": self.outputs}[place]
        return np.asarray(part[i, SQUARED if kind == "squared error" else ANGLE])

    def ratios(self, rival: str, measure: str) -> Floats:
        """A measure of KQV, with the rival's sketch on its values, over the rival's."""
        kqv = "KQV, orthogonal" if "orthogonal" in rival else "KQV"
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.of(kqv, measure) / self.of(rival, measure))

    def ratio_by_family(self, rival: str, measure: str) -> list[stats.Interval]:
        """Geometric means of the ratios over the draws, one a family; low where KQV is better."""
        # A saturated row of fat-tailed keys can have a KL of exactly zero in both.
        ratios = self.ratios(rival, measure)
        return [stats.geometric_mean_interval(x[np.isfinite(x) & (x > 0)]) for x in ratios]

    def light_mean_r(self, measure: str) -> float:
        """r of KQV, orthogonal sketch, against KV: mean over the families with light tails."""
        kqv, kv = self.of("KQV, orthogonal", measure), self.of("KV", measure)
        light = [self.families.index(name) for name in LIGHT_TAILS]
        return float(np.mean([stats.rank_biserial(kqv[i], kv[i]).r for i in light]))

    def light_ratio(self, measure: str) -> stats.Interval:
        """KQV over KV, mean of the logs over the four families with light tails."""
        light = [self.families.index(name) for name in LIGHT_TAILS]
        logs = np.log(self.ratios("KV", measure)[light]).mean(axis=0)
        return stats.geometric_mean_interval(np.exp(logs))

    def light_six_ratio(self) -> stats.Interval:
        """6-D norm of KQV over that of KV, families with light tails."""
        return self.light_ratio("6-D norm")

    def light_value_penalty(self, scheme: str) -> float:
        """Squared error of a KQV's values over that of KV's, light tails: geometric mean."""
        light = [self.families.index(name) for name in LIGHT_TAILS]
        kqv, kv = (self.of(name, "V squared error")[light] for name in (scheme, "KV"))
        return float(np.exp(np.log(kqv / kv).mean()))


def measure_scheme_errors(
    schemes: Mapping[str, Scheme],
    families: Mapping[str, synthetic.Family],
    stream: np.random.SeedSequence,
    *,
    draws: int,
    tokens: int,
    dim: int,
) -> SchemeErrors:
    """Errors of each scheme on heads of each family, the same draws and rotations for all."""
    collected: list[list[tuple[Floats, ...]]] = []
    for rng, seed in random_draws(stream, draws):
        q, k, v = draw_heads(rng, families, tokens=tokens, queries=max(COUNTS), dim=dim)
        collected.append([_trial(scheme, q, k, v, seed) for scheme in schemes.values()])
    kl, keys, values, outputs = (
        np.moveaxis(np.array([[trial[part] for trial in draw] for draw in collected]), 0, -1)
        for part in range(4)
    )
    return SchemeErrors(tuple(schemes), tuple(families), kl, keys, values, outputs)


def _trial(
    scheme: Scheme, q: Floats, k: NDArray[np.float32], v: NDArray[np.float32], seed: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """KL, and the errors of keys, values and outputs, of one draw."""
    k_hat, v_hat = scheme.encode(k, v, seed=seed).decode()
    t, t_hat = (attention.attention_output(q, *pair) for pair in ((k, v), (k_hat, v_hat)))
    kl = attention.attention_kl(q, k, k_hat).mean(axis=-1)
    return kl, errors(k, k_hat), errors(v, v_hat), errors(t, t_hat)


@dataclass(frozen=True)
class KeyKl:
    """KL of KQV's and QKQV's keys on heads with light tails, query by query.

    Attributes
    ----------
    kl : mapping
        "KQV" or one of SKETCHES to nats, shape (family, query, draw); the same draws for all.
    """

    kl: Mapping[str, Floats]

    def both(self, sketch: str, queries: int) -> tuple[Floats, Floats]:
        """KL of KQV and of QKQV with a sketch, mean over some queries: (family, draw) each."""
        kqv, qkqv = (self.kl[name][:, :queries].mean(axis=1) for name in ("KQV", sketch))
        return kqv, qkqv

    def r(self, sketch: str, queries: int = COUNTS[-1]) -> stats.Interval:
        """Rank-biserial r of all draws of all families, with a jackknife over draws.

        The families of one draw share a rotation, so that draws are left out, not points.
        """
        x, y = self.both(sketch, queries)
        count = x.shape[1]
        # How often an x of one draw is above a y of another, less how often below.
        above = sum(np.sign(of_x[:, None] - of_y) for of_x in x for of_y in y)
        left = above.sum() - above.sum(axis=0) - above.sum(axis=1) + np.diag(above)
        half = 1.96 * math.sqrt((count - 1) * (left / (len(x) * (count - 1)) ** 2).var())
        r = float(above.sum() / (len(x) * count) ** 2)
        return stats.Interval(r, r - half, r + half, count)

    def ratio(self, sketch: str, queries: int = COUNTS[-1]) -> stats.Interval:
        """QKQV over KQV: mean over the families of each draw, geometric mean of the draws."""
        x, y = self.both(sketch, queries)
        return stats.geometric_mean_interval(y.mean(axis=0) / x.mean(axis=0))


def measure_key_kl(
    schemes: Mapping[str, Scheme],
    stream: np.random.SeedSequence,
    *,
    draws: int,
    tokens: int,
    dim: int,
) -> KeyKl:
    """KL of the keys of "KQV" and of "QKQV, ..." with each of SKETCHES, light tails alone."""
    families = {name: FAMILIES[name] for name in LIGHT_TAILS}
    coders = {"KQV": schemes["KQV"].key, **{s: schemes[f"QKQV, {s}"].key for s in SKETCHES}}
    found: dict[str, list[Floats]] = {name: [] for name in coders}
    for rng, seed in random_draws(stream, draws):
        q, k, _ = draw_heads(rng, families, tokens=tokens, queries=max(COUNTS), dim=dim)
        for name, coder in coders.items():
            k_hat = coder.encode(k, seed=seed).decode()
            found[name].append(attention.attention_kl(q, k, k_hat))
    return KeyKl({name: np.moveaxis(np.array(kl), 0, -1) for name, kl in found.items()})


def worst_for(bound: float, intervals: Sequence[stats.Interval]) -> stats.Interval:
    """The interval that decides whether all lie at or below a bound.

    One that lies above it where there is any, else the one that reaches highest.
    """
    highest_low = max(intervals, key=lambda i: i.low)
    return highest_low if highest_low.low > bound else highest_reaching(intervals)


def judge_c08(
    predictions: ledger.Predictions, measured: SchemeErrors, keys: KeyKl, *, chance: float
) -> ledger.Verdict:
    """Judge the worst family of each measure, and the ratio and r of each sketch.

    Parameters
    ----------
    predictions : Predictions
    measured : SchemeErrors
    keys : KeyKl
    chance : float
        Share of made-up pairs of ratio and r that the search would have matched.
    """
    found = {
        AHEAD.format(measure, name): worst_for(
            WIN, [x for rival in rivals for x in measured.ratio_by_family(rival, measure)]
        )
        for name, rivals in (
            (OF_QKQV, [OF_QKQV]),
            (OF_BOTH, [OF_QKQV, "KV"]),
            ("QKQV, orthogonal", ["QKQV, orthogonal"]),
        )
        for measure in MEASURES
    }
    found |= {TIE.format(measure): measured.light_ratio(measure) for measure in MEASURES[:2]}
    for reading, (sketch, queries) in sketch_readings().items():
        found[RATIO.format(reading)] = keys.ratio(sketch, queries)
        found[POOLED.format(reading)] = keys.r(sketch, queries)
    z = abs(PUBLISHED_R) * math.sqrt(3 * PUBLISHED_DRAWS**2 / (2 * PUBLISHED_DRAWS + 1))
    found[P_VALUE] = stats.Interval.exactly(float(np.log10(2 * scipy.stats.norm.sf(z))))
    gaussian, orthogonal, fitted = (
        keys.ratio(s).estimate for s in ("Gaussian", "orthogonal", SKETCHES[-1])
    )
    return predictions.verdict(
        found,
        what_is_true=(
            "At four bits and d = 128 KQV beats QKQV on every measure in each of seven families "
            "of synthetic keys; it does not beat KV (Lloyd-Max without rotation) where tails are "
            f"light: there keys tie ({measured.light_ratio('KL').estimate:.2f} times KV's KL) "
            "and a Gaussian sketch on V makes KQV's 6-D error "
            f"{measured.light_six_ratio().estimate:.2f} times KV's. On keys with {LIGHT} the KL of "
            f"QKQV is {gaussian:.1f} times KQV's with QJL's unbiased Gaussian sketch, "
            f"{orthogonal:.2f} times with an orthogonal one and {fitted:.2f} times with a "
            "least-squares Gaussian one. The last is near the published 2.25, but is not QJL's "
            f"unbiased decoder ({len(sketch_readings())} readings; chance that a made-up pair of "
            f"ratio and r is matched by the search {chance:.0%})."
        ),
    )


# ---------------------------------------------------------------------------------- search

SKETCH_SCALES = tuple(product(("gaussian", "haar", "hadamard"), ("unbiased", "mmse")))
SEARCH_BOOKS = tuple(product((128, 256), ("Lloyd-Max", "dead levels")))
POOLS = {
    "light tails": LIGHT_TAILS,
    "all but ν=1.05": tuple(name for name in FAMILIES if name != "t, ν=1.05"),
    "all seven": tuple(FAMILIES),
    "ranks 1, 4, 32": LIGHT_TAILS[1:],
}


class ReadingC08(NamedTuple):
    """What the abstract leaves open about its KL ratio and r."""

    dim: int
    book: str
    sketch: str
    scale: str
    keys: str
    summary: str
    queries: int
    pool: str
    ratio: str


def search_c08(
    books: Mapping[int, Books],
    stream: np.random.SeedSequence,
    *,
    draws: int,
    tokens: int,
    counts: tuple[int, int],
) -> Search[ReadingC08]:
    """Ratio and r of every reading: the product of the choices in the page's table.

    Parameters
    ----------
    books : mapping
        Codebooks by dimension, name and bits.
    stream : SeedSequence
    draws, tokens : int
        Draws a reading, keys a draw.
    counts : tuple of int
        The two numbers of queries a draw; the larger is what is drawn.
    """
    labels: list[ReadingC08] = []
    values: list[tuple[float, float]] = []
    for (dim, book), child in zip(SEARCH_BOOKS, stream.spawn(len(SEARCH_BOOKS)), strict=True):
        kl = _kl_of_codebook(books[dim][book], dim, child, draws, tokens, counts)
        for label, value in _readings_of_kl(kl, dim, book, counts):
            labels.append(label)
            values.append(value)
    published = np.array([PUBLISHED_RATIO, PUBLISHED_R])
    tolerance = np.array([0.05, R_TOLERANCE_OF_SEARCH / abs(PUBLISHED_R)])
    return Search(labels, np.array(values), published, tolerance, relative=True)


def _kl_of_codebook(
    book: BooksByBits,
    dim: int,
    stream: np.random.SeedSequence,
    draws: int,
    tokens: int,
    counts: tuple[int, int],
) -> Floats:
    """KL by axes (keys, scheme, summary, family, draw); the first scheme is KQV."""
    arms = [RotatedQuantizer(4, codebook=book[4], side_dtype="float32")]
    arms += [
        RotatedQuantizer(4, codebook=book[3], sketch=s, sketch_scale=c, side_dtype="float32")
        for s, c in SKETCH_SCALES
    ]
    found = []
    for rng, seed in random_draws(stream, draws):
        q, drawn, _ = draw_heads(rng, FAMILIES, tokens=tokens, queries=max(counts), dim=dim)
        power = np.square(drawn, dtype=np.float64).mean((-2, -1), keepdims=True)
        unit = (drawn / np.sqrt(power)).astype(np.float32)
        found.append([[_summaries(arm, q, k, seed, counts) for arm in arms] for k in (drawn, unit)])
    return np.moveaxis(np.array(found), 0, -1)


def _summaries(
    arm: RotatedQuantizer, q: Floats, k: NDArray[np.float32], seed: int, counts: tuple[int, int]
) -> list[Floats]:
    """KL of each family: mean, then median, over each number of queries."""
    kl = attention.attention_kl(q, k, arm.encode(k, seed=seed).decode())
    return [summary(kl[:, :count], axis=-1) for summary in (np.mean, np.median) for count in counts]


def _readings_of_kl(
    kl: Floats, dim: int, book: str, counts: tuple[int, int]
) -> Iterator[tuple[ReadingC08, tuple[float, float]]]:
    """Every way to make a ratio and an r out of the KL of one codebook."""
    for (i, keys), (a, summary), (j, sketch), (pool, names) in product(
        enumerate(("as drawn", "unit")),
        enumerate(product(("mean", "median"), counts)),
        enumerate(SKETCH_SCALES, start=1),
        POOLS.items(),
    ):
        members = [list(FAMILIES).index(name) for name in names]
        x, y = kl[i, 0, a][members], kl[i, j, a][members]
        r = stats.rank_biserial(x.ravel(), y.ravel()).r
        both = (x > 0) & (y > 0)  # a saturated row can have a KL of exactly zero
        ratios = {
            "means": y.mean() / x.mean(),
            "medians": np.median(y) / np.median(x),
            "geometric": np.exp(np.log(y[both] / x[both]).mean()),
        }
        for name, ratio in ratios.items():
            yield ReadingC08(dim, book, *sketch, keys, *summary, pool, name), (float(ratio), r)
