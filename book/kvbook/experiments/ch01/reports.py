"""What a comparison of two counts of right answers can show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom, binomtest, fisher_exact


def fisher_pvalue(right: int, others: int, checks: int) -> float:
    """Two-sided p of a difference between two counts of right answers among ``checks`` each."""
    return float(fisher_exact([[right, checks - right], [others, checks - others]]).pvalue)


def paired_pvalue(changed: int) -> float:
    """Two-sided p of McNemar's exact test if all answers that changed did so in one direction.

    The smallest p that counts with this difference can have, asked of the same questions.
    """
    return float(binomtest(changed, changed).pvalue)


def fisher_power(checks: int, rates: tuple[float, float], level: float = 0.05) -> float:
    """Chance that Fisher's test reaches ``level`` if these are the true rates of right answers."""
    odds = [binom.pmf(np.arange(checks + 1), checks, rate) for rate in rates]
    likely = [np.flatnonzero(p > 1e-6).tolist() for p in odds]
    hits = [(a, b) for a in likely[0] for b in likely[1] if fisher_pvalue(a, b, checks) <= level]
    return float(sum(odds[0][a] * odds[1][b] for a, b in hits))


def checks_needed(rates: tuple[float, float], power: float, candidates: Sequence[int]) -> int:
    """The first of the candidate numbers of checks a side at which the test has that power."""
    return next(checks for checks in candidates if fisher_power(checks, rates) >= power)
