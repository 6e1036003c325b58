"""Intervals, effect sizes and p-values for Monte Carlo results.

A sample here is one number, or one point, per independent repetition: a seed, a draw of data, a
head. Vectors or tokens of one draw share its rotation and are not independent repetitions.

Repetition i of two schemes on the same draw is a pair: ``paired=True`` compares within pairs and
sees smaller differences than comparing the two samples as if they were drawn apart.
"""

from __future__ import annotations

from kvlib.stats.effects import RankBiserial, rank_biserial
from kvlib.stats.energy import EnergyDistance, energy_distance
from kvlib.stats.intervals import (
    Interval,
    Statistic,
    bootstrap_difference,
    bootstrap_interval,
    difference_interval,
    geometric_mean_interval,
    mean_interval,
    proportion_interval,
)
from kvlib.stats.permutation import (
    TIE_TOLERANCE,
    NullDistribution,
    PermutationTest,
    energy_test,
    permutation_test,
)
from kvlib.stats.pvalues import (
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
    "geometric_mean_interval",
    "holm",
    "ks_distance",
    "ks_distances",
    "mean_interval",
    "monte_carlo_null",
    "monte_carlo_pvalue",
    "permutation_test",
    "proportion_interval",
    "rank_biserial",
]
