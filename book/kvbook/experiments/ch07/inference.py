"""Intervals of ratios, families of paired comparisons, and whether the tests can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvbook.experiments.ch07.cells import BUDGETS, DIMS, EDEN, SKETCHED, WHT
from kvbook.experiments.ch07.factorial import OUTPUT_DIM, Factorial
from kvbook.experiments.ch07.regimes import REGIMES, regimes_at
from kvbook.experiments.ch07.rows import MODERATE, SPREADS
from kvlib import stats
from kvlib.checks import FloatArray
from kvlib.stats import Interval, RankBiserial

LEVEL = 0.05


def ratio_interval(log_ratios: ArrayLike) -> Interval:
    """Geometric mean of paired ratios, given their logs, with its interval over repetitions."""
    return stats.geometric_mean_interval(np.exp(log_ratios))


def paired_pvalue(differences: ArrayLike) -> float:
    """P-value of Wilcoxon's paired test of differences against none."""
    x = np.asarray(differences)
    return stats.rank_biserial(x, np.zeros_like(x), paired=True).pvalue


# Does QKQV ever beat KQV? ----------------------------------------------------------------------


class Comparison(NamedTuple):
    """One comparison of QKQV with KQV; ``spread`` is an index into :data:`SPREADS`."""

    dim: int
    sketch: str
    bits: int
    regime: str
    spread: int


class Tally(NamedTuple):
    """How many comparisons say what, after correction for their number."""

    ahead: int
    undecided: int
    behind: int

    @property
    def total(self) -> int:
        """Number of comparisons."""
        return sum(self)


@dataclass(frozen=True, eq=False)
class Family:
    """A family of comparisons of QKQV with KQV by KL, corrected for all of it.

    Attributes
    ----------
    log_ratios : mapping
        Log of KL of QKQV over that of KQV, one number a repetition.
    pvalues, adjusted : mapping
        Of Wilcoxon's paired test; the latter after Holm's correction over the family.
    """

    log_ratios: Mapping[Comparison, FloatArray]
    pvalues: Mapping[Comparison, float]
    adjusted: Mapping[Comparison, float]

    def side(self, comparison: Comparison) -> int:
        """-1 where QKQV is ahead, 1 where KQV is, 0 where it is undecided after correction."""
        if self.adjusted[comparison] > LEVEL:
            return 0
        return int(np.sign(self.log_ratios[comparison].mean()))

    def tally(self, **chosen: Collection[Any]) -> Tally:
        """Count the comparisons whose fields are among the values given, of any by default."""
        sides = Counter(
            self.side(c)
            for c in self.log_ratios
            if all(getattr(c, name) in values for name, values in chosen.items())
        )
        return Tally(sides[-1], sides[0], sides[1])

    def uncorrected_wins(self) -> list[Comparison]:
        """Where QKQV would be called ahead by p-values that are not corrected."""
        return [c for c, x in self.log_ratios.items() if self.pvalues[c] <= LEVEL and x.mean() < 0]


def penalty(factorial: Factorial, dim: int, sketch: str) -> NDArray[np.float64]:
    """Log KL of QKQV over KQV: (repetition, budget, regime, spread). Only the keys differ."""
    return factorial.log_kl(dim, SKETCHED[sketch]) - factorial.log_kl(dim, WHT)


def compare_family(
    factorial: Factorial, dims: Sequence[int] = DIMS, sketches: Sequence[str] = tuple(SKETCHED)
) -> Family:
    """Compare QKQV with KQV in every dimension, budget, regime and spread, with each sketch."""
    found: dict[Comparison, FloatArray] = {}
    for dim, sketch in product(dims, sketches):
        logs = penalty(factorial, dim, sketch)
        for at in product(range(len(BUDGETS)), range(len(regimes_at(dim))), range(len(SPREADS))):
            b, f, spread = at
            comparison = Comparison(dim, sketch, BUDGETS[b], regimes_at(dim)[f], spread)
            found[comparison] = logs[:, b, f, spread]
    pvalues = {comparison: paired_pvalue(x) for comparison, x in found.items()}
    adjusted = stats.holm(list(pvalues.values())).tolist()
    return Family(found, pvalues, dict(zip(pvalues, adjusted, strict=True)))


# Can the tests be trusted? ---------------------------------------------------------------------

RankTest = Callable[..., RankBiserial]
PValues = Callable[[FloatArray, FloatArray, np.random.Generator], Mapping[str, float]]

TIES_NOT_COUNTED = "energy distance, ties not counted"


def pvalues_of_tests(
    x: FloatArray, y: FloatArray, rng: np.random.Generator, permutations: int = 199
) -> dict[str, float]:
    """P-value of each test, and of one that is broken: it does not count ties."""
    energy = stats.energy_test(x, y, permutations=permutations, rng=rng)
    above = int((energy.null.values > energy.statistic + energy.tolerance).sum())
    return {
        "Mann-Whitney": stats.rank_biserial(x, y).pvalue,
        "Wilcoxon paired": stats.rank_biserial(x, y, paired=True).pvalue,
        "energy distance": energy.pvalue,
        TIES_NOT_COUNTED: (1 + above) / (1 + permutations),
    }


def measure_levels(
    trials: int,
    *,
    seed: np.random.SeedSequence,
    size: int = 12,
    pvalues: PValues = pvalues_of_tests,
) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Rejections at 5% where there is nothing to find, by (test, kind of data).

    Parameters
    ----------
    trials : int
        Pairs of samples of each kind: ``"continuous"``, lognormal, and ``"signs"``, full of ties.
    seed : SeedSequence
        Draws samples and permutations.
    size : int
        Of each sample.
    pvalues : callable
        The tests, as :func:`pvalues_of_tests`.

    Returns
    -------
    dict of array, shape (trials,)
    """
    rng = np.random.default_rng(seed)
    rejected: dict[tuple[str, str], NDArray[np.bool_]] = {}
    for kind in ("continuous", "signs"):
        found = []
        for _ in range(trials):
            x, y = _null_samples(kind, size, rng)
            found.append(pvalues(x, y, rng))
        for test in found[0]:
            rejected[test, kind] = np.array([p[test] <= LEVEL for p in found])
    return rejected


def _null_samples(kind: str, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Two samples of one law, shape (2, size)."""
    if kind == "signs":
        return rng.choice([-1.0, 1.0], (2, size))
    return np.asarray(np.exp(rng.standard_normal((2, size))))


def measure_false_alarms(
    by_query: FloatArray, rank_test: RankTest = stats.rank_biserial
) -> NDArray[np.bool_]:
    """Rejections when the queries of one draw are taken for repetitions, under the null.

    Parameters
    ----------
    by_query : array, shape (repetition, regime, query)
        KL of one scheme; every other draw is compared with the next.
    rank_test : callable
        As :func:`kvlib.stats.rank_biserial`.

    Returns
    -------
    ndarray, shape (pairs of draws * regimes,)
    """
    pairs = zip(by_query[0::2], by_query[1::2], strict=True)
    return np.array(
        [
            rank_test(one, other).pvalue <= LEVEL
            for first, second in pairs
            for one, other in zip(first, second, strict=True)
        ]
    )


@dataclass(frozen=True, eq=False)
class Power:
    """Whether blocks of few repetitions find the effect of the unbiased scale.

    Attributes
    ----------
    paired, unpaired : array of 0 and 1, shape (blocks * budgets * regimes,)
        Rejections at 5%.
    """

    paired: NDArray[np.float64]
    unpaired: NDArray[np.float64]

    @property
    def gain(self) -> NDArray[np.float64]:
        """What pairing adds."""
        return self.paired - self.unpaired


def measure_power(
    factorial: Factorial,
    *,
    block: int = 10,
    budgets: Sequence[int] = (3, 4, 5, 6),
    rank_test: RankTest = stats.rank_biserial,
) -> Power:
    """Compare the unbiased scale with the norm in blocks of repetitions, paired and not."""
    norm, unbiased = (factorial.log_kl(OUTPUT_DIM, cell)[..., MODERATE] for cell in (WHT, EDEN))
    blocks = np.split(np.arange(factorial.repetitions), factorial.repetitions // block)
    found = [
        [rank_test(x, y, paired=paired).pvalue <= LEVEL for paired in (True, False)]
        for chosen in blocks
        for x, y in _columns(norm[chosen], unbiased[chosen], budgets)
    ]
    paired, unpaired = np.array(found, dtype=float).T
    return Power(paired, unpaired)


def _columns(
    one: FloatArray, other: FloatArray, budgets: Sequence[int]
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Both columns of each budget and regime, from arrays (repetition, budget, regime)."""
    for bits, f in product(budgets, range(len(REGIMES))):
        b = BUDGETS.index(bits)
        yield one[:, b, f], other[:, b, f]
