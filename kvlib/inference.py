"""Intervals, effect sizes and p-values for Monte Carlo results.

A sample here is one number, or one point, per independent repetition: a seed, a draw of data, a
head. Vectors or tokens of one draw share its rotation and are not independent repetitions.

Repetition i of two schemes on the same draw is a pair: ``paired=True`` compares within pairs and
sees smaller differences than comparing the two samples as if they were drawn apart.
"""

from __future__ import annotations

from kvlib._effects import RankBiserial, rank_biserial
from kvlib._energy import EnergyDistance, energy_distance
from kvlib._intervals import (
    Interval,
    Statistic,
    bootstrap_difference,
    bootstrap_interval,
    difference_interval,
    mean_interval,
)
from kvlib._permutation import (
    TIE_TOLERANCE,
    NullDistribution,
    PermutationTest,
    energy_test,
    permutation_test,
)
from kvlib._pvalues import (
    holm,
    ks_distance,
    ks_distances,
    monte_carlo_null,
    monte_carlo_pvalue,
)

__all__ = [
    "TIE_TOLERANCE",
    "EnergyDistance",
    "Interval",
    "NullDistribution",
    "PermutationTest",
    "RankBiserial",
    "Statistic",
    "bootstrap_difference",
    "bootstrap_interval",
    "difference_interval",
    "energy_distance",
    "energy_test",
    "holm",
    "ks_distance",
    "ks_distances",
    "mean_interval",
    "monte_carlo_null",
    "monte_carlo_pvalue",
    "permutation_test",
    "rank_biserial",
]
