"""Intervals of ratios, and families of paired comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvbook.experiments.ch07.cells import BUDGETS, DIMS, SKETCHED, WHT
from kvbook.experiments.ch07.factorial import Factorial
from kvbook.experiments.ch07.regimes import regimes_at
from kvbook.experiments.ch07.rows import SPREADS
from kvlib import stats
from kvlib.checks import FloatArray
from kvlib.stats import Interval

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
