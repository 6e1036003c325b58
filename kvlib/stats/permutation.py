"""Permutation tests of two samples; :mod:`kvlib.stats` is the public name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from kvlib.checks import check_bool, check_choice, check_fraction, check_int, check_rng
from kvlib.stats.effects import ALTERNATIVES, rank_biserial
from kvlib.stats.energy import as_points, energy_squared, label_weights, weight_unit
from kvlib.stats.intervals import (
    Interval,
    as_two_samples,
    difference_interval,
    pair_differences,
)

# Two values of a statistic closer than this, in units of the mean distance of the pooled points
# from their mean, count as tied: above what rounding does to equal values, below what counts.
TIE_TOLERANCE = 1e-12

# Labels held at once, one byte a point and permutation. Distances are computed anew for each
# such piece, of 2,000 permutations for 4,000 points, which adds about 5% to its products.
LABEL_BYTES = 1 << 23

Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class NullDistribution:
    """Values of a statistic over relabelled samples.

    Attributes
    ----------
    values : ndarray, shape (B,)
        Ascending.
    exact : bool
        Whether these are all relabellings, the observed one included, rather than random ones.
    """

    values: NDArray[np.float64] = field(repr=False, compare=False)
    exact: bool

    @property
    def size(self) -> int:
        """Number of relabellings."""
        return self.values.size

    @property
    def mean(self) -> float:
        """Mean over the relabellings."""
        return float(self.values.mean())

    @property
    def sd(self) -> float:
        """Standard deviation over the relabellings."""
        return float(self.values.std())

    def quantile(self, level: float) -> float:
        """Value that a share ``level`` of the relabellings does not exceed."""
        return float(np.quantile(self.values, level, method="inverted_cdf"))


@dataclass(frozen=True)
class PermutationTest:
    """Outcome of a permutation test.

    Attributes
    ----------
    name : str
        What ``statistic`` is: ``"energy_squared"``, ``"mean"`` or ``"rank_biserial"``.
    statistic : float
        Of the samples as they were given.
    pvalue : float
        ``(1 + b) / (1 + B)`` from B random relabellings, ``b / B`` from all of them; b are at
        least as extreme as the observed, ties included.
    pvalue_interval : Interval
        Where the p-value of all relabellings lies; without length if the test is exact.
    alternative : str
        ``"two-sided"``, ``"greater"`` or ``"less"``.
    n : tuple of int
        Sizes of the two samples.
    paired : bool
    interval : Interval or None
        Interval of the statistic over repetitions; None for the energy distance.
    null : NullDistribution
    tolerance : float
        Largest difference between two values of the statistic that count as tied.
    """

    name: str
    statistic: float
    pvalue: float
    pvalue_interval: Interval
    alternative: str
    n: tuple[int, int]
    paired: bool
    interval: Interval | None
    null: NullDistribution
    tolerance: float


def energy_test(
    x: ArrayLike,
    y: ArrayLike,
    *,
    paired: bool = False,
    permutations: int = 9999,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> PermutationTest:
    """Permutation test that two samples of points follow one law, by their energy distance.

    Parameters
    ----------
    x, y : array, shapes (n,) or (n, d) and (m,) or (m, d)
        Points of two methods, at least two of each.
    paired : bool
        Whether x[i] and y[i] come from the same draw: then the two are exchanged within pairs.
    permutations : int
        Random relabellings; all of them are taken instead if there are no more than this.
    confidence : float
        Of the interval of the p-value.
    rng : numpy.random.Generator

    Returns
    -------
    PermutationTest
        ``statistic`` is the squared energy distance; its root has the same p-value.

    Notes
    -----
    Null hypothesis: all points are exchangeable between the samples; paired, within each pair.
    Szekely and Rizzo (2004); p-value of Phipson and Smyth (2010). It takes (n + m)^2 B / 2
    multiplications, in matrix products, and below 100 MB: the distances are never held all at
    once. There is no interval of the
    distance: its sampling law is not normal near zero, and resampling biases it upward.
    """
    paired = check_bool(paired, "paired")
    points, sizes = as_points(x, y, least=2, paired=paired)
    design = _Design(*sizes, paired=paired)
    return _test(
        "energy_squared",
        lambda labels: energy_squared(points, labels, design.n),
        design,
        unit=float(np.linalg.norm(points - points.mean(0), axis=1).mean()),
        alternative="greater",
        interval=None,
        permutations=permutations,
        confidence=confidence,
        rng=rng,
    )


def permutation_test(
    x: ArrayLike,
    y: ArrayLike,
    *,
    statistic: str = "mean",
    paired: bool = False,
    alternative: str = "two-sided",
    permutations: int = 9999,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> PermutationTest:
    """Permutation test that two samples of numbers follow one law.

    Parameters
    ----------
    x, y : array, shapes (n,) and (m,)
        Repetitions of two methods, at least two of each.
    statistic : {"mean", "rank_biserial"}
        Difference of the means, x less y, or the correlation of :func:`rank_biserial`.
    paired : bool
        Whether x[i] and y[i] come from the same draw: then the two are exchanged within pairs,
        which changes the signs of their differences.
    alternative : {"two-sided", "greater", "less"}
        What the p-value speaks for: x greater than y, less, or either.
    permutations : int
        Random relabellings; all of them are taken instead if there are no more than this.
    confidence : float
        Of the intervals of the statistic and of the p-value.
    rng : numpy.random.Generator

    Returns
    -------
    PermutationTest

    Notes
    -----
    Null hypothesis: all numbers are exchangeable between the samples; paired, within each pair.
    Samples of equal means and unequal spread break it. Fisher (1935); p-value of Phipson and
    Smyth (2010), two-sided twice the smaller of the one-sided ones.
    """
    paired = check_bool(paired, "paired")
    a, b = as_two_samples(x, y, paired=paired)
    check_choice(statistic, "statistic", ("mean", "rank_biserial"))
    check_choice(alternative, "alternative", ALTERNATIVES)
    if statistic == "mean":
        interval = difference_interval(a, b, paired=paired, confidence=confidence)
    else:
        interval = rank_biserial(a, b, paired=paired, confidence=confidence).interval
    scores = _scores(a, b, statistic, paired)
    design = _Design(a.size, b.size, paired=paired)
    return _test(
        statistic,
        lambda labels: design.weights(labels) @ scores * design.unit,
        design,
        unit=float(np.abs(scores).mean()),
        alternative=alternative,
        interval=interval,
        permutations=permutations,
        confidence=confidence,
        rng=rng,
    )


def _scores(
    a: NDArray[np.float64], b: NDArray[np.float64], statistic: str, paired: bool
) -> NDArray[np.float64]:
    """One score a number: the statistic is the mean score of x less that of y."""
    if not paired:
        pooled = np.concatenate([a, b])
        if statistic == "rank_biserial":
            pooled = 2 * stats.rankdata(pooled) / pooled.size
        return np.asarray(pooled - pooled.mean())
    # A pair enters by its difference alone, which rounds less than its two members do.
    d = pair_differences(a, b)
    if statistic == "rank_biserial":
        signed = np.zeros_like(d)
        signed[d != 0] = np.sign(d[d != 0]) * stats.rankdata(np.abs(d[d != 0]))
        d = signed * (d.size / max(np.abs(signed).sum(), 1.0))
    return np.concatenate([d, -d]) / 2


@dataclass(frozen=True)
class _Design:
    """Which relabellings of n + m points the null hypothesis allows."""

    n: int
    m: int
    paired: bool

    @property
    def unit(self) -> float:
        return weight_unit(self.n, self.m)

    def weights(self, labels: Labels) -> NDArray[np.float64]:
        return label_weights(labels, self.n, self.m)

    @property
    def observed(self) -> Labels:
        return (np.arange(self.n + self.m) < self.n)[None]

    @property
    def count(self) -> int:
        """Number of distinct relabellings."""
        return 2**self.n if self.paired else math.comb(self.n + self.m, self.n)

    def random(self, count: int, rng: np.random.Generator) -> Labels:
        """Draw relabellings one after the other, so that the way they are cut does not matter."""
        if self.paired:
            kept = rng.random((count, self.n)) < 0.5
            return np.concatenate([kept, ~kept], axis=1)
        return rng.permuted(np.repeat(self.observed, count, axis=0), axis=1)

    def every(self) -> Iterator[Any]:
        """All relabellings, each as the indices of the points of x."""
        if self.paired:
            swaps = itertools.product((0, self.n), repeat=self.n)
            return ([i + swap for i, swap in enumerate(chosen)] for chosen in swaps)
        return itertools.combinations(range(self.n + self.m), self.n)

    def chunks(self, permutations: int, rng: np.random.Generator) -> Iterator[Labels]:
        """Labels of the null in pieces of bounded size: all if they are few enough."""
        length = max(1, LABEL_BYTES // (self.n + self.m))
        if self.count > permutations:
            for start in range(0, permutations, length):
                yield self.random(min(length, permutations - start), rng)
            return
        relabellings = self.every()
        while chosen := list(itertools.islice(relabellings, length)):
            labels = np.zeros((len(chosen), self.n + self.m), dtype=bool)
            np.put_along_axis(labels, np.array(chosen), True, axis=1)
            yield labels


def _test(
    name: str,
    evaluate: Callable[[Labels], NDArray[np.float64]],
    design: _Design,
    *,
    unit: float,
    alternative: str,
    interval: Interval | None,
    permutations: int,
    confidence: float,
    rng: np.random.Generator,
) -> PermutationTest:
    """Compare a statistic of labels with its values on relabelled samples."""
    count, level = (
        check_int(permutations, "permutations", low=1),
        check_fraction(confidence, "confidence"),
    )
    check_rng(rng)
    observed = float(evaluate(design.observed)[0])
    values = np.concatenate([evaluate(labels) for labels in design.chunks(count, rng)])
    null = NullDistribution(np.sort(values), exact=design.count <= count)
    tolerance = TIE_TOLERANCE * unit
    pvalue, pvalue_interval = _pvalue(observed, null, tolerance, alternative, level)
    return PermutationTest(
        name=name,
        statistic=observed,
        pvalue=pvalue,
        pvalue_interval=pvalue_interval,
        alternative=alternative,
        n=(design.n, design.m),
        paired=design.paired,
        interval=interval,
        null=null,
        tolerance=tolerance,
    )


def _pvalue(
    observed: float, null: NullDistribution, tolerance: float, alternative: str, confidence: float
) -> tuple[float, Interval]:
    """P-value with the interval that its number of relabellings leaves, Clopper-Pearson's."""
    signs = {"greater": (1,), "less": (-1,), "two-sided": (1, -1)}[alternative]
    # Of the two sides of a two-sided test the smaller one decides.
    b = min(int((s * null.values >= s * observed - tolerance).sum()) for s in signs)
    size, sides = null.size, len(signs)
    if null.exact:
        p = min(1.0, sides * b / size)
        return p, Interval(p, p, p, size)
    p = min(1.0, sides * (1 + b) / (1 + size))
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(b, size - b + 1, tail)) if b else 0.0
    high = float(special.betaincinv(b + 1, size - b, 1 - tail)) if b < size else 1.0
    return p, Interval(p, min(1.0, sides * low), min(1.0, sides * high), size)
