"""The best scheme by regime and budget, with ties declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from kvbook.experiments.ch07.cells import (
    EDEN,
    HAAR,
    MATCHED,
    NONE,
    QJL_GAUSSIAN,
    QJL_HAAR,
    QJL_HADAMARD,
    WHT,
    Cell,
)
from kvbook.experiments.ch07.factorial import OUTPUT_DIM, Factorial
from kvbook.experiments.ch07.inference import LEVEL, paired_pvalue, ratio_interval
from kvbook.experiments.ch07.regimes import ISOTROPIC, regimes_at
from kvbook.experiments.ch07.rows import MODERATE
from kvlib import stats
from kvlib.checks import FloatArray
from kvlib.stats import Interval

RANKED_KEYS = {
    "none": NONE,
    "none~": NONE.with_scale("matched"),
    "none*": NONE.with_unbiased_scale(),
    "WHT": WHT,
    "WHT~": MATCHED,
    "WHT*": EDEN,
    "Haar": HAAR,
    "Haar~": HAAR.with_scale("matched"),
    "Haar*": HAAR.with_unbiased_scale(),
    "QJL Gaussian": QJL_GAUSSIAN,
    "QJL Hadamard": QJL_HADAMARD,
    "QJL Haar": QJL_HAAR,
    "QJL Hadamard*": replace(QJL_HADAMARD, scale="unbiased"),
}
"""Key quantizers that compete in the factorial; ~ marks the matched and * the unbiased scale."""
"""Pairs key/value; W: WHT, U: WHT with the unbiased scale, G, H: QJL with that sketch."""

Place = tuple[int, int]
"""Index of the budget, from two bits on, and of the regime."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Competitors by budget and regime.

    Attributes
    ----------
    best : mapping
        Place to the competitor with the lowest mean log.
    rivals : mapping
        Place to the others with their paired log ratios to the best, closest first.
    tied : mapping
        Place to the best and all that Wilcoxon's paired test does not separate from it, after
        Holm's correction over all comparisons of the ranking.
    """

    best: Mapping[Place, str]
    rivals: Mapping[Place, Mapping[str, FloatArray]]
    tied: Mapping[Place, frozenset[str]]

    @property
    def total(self) -> int:
        """Number of places."""
        return len(self.best)

    def count(self, accepted: Callable[[str], bool]) -> int:
        """Places where a competitor of some kind is best or tied."""
        return sum(any(map(accepted, tied)) for tied in self.tied.values())

    def margin(self, at: Place, accepted: Callable[[str], bool]) -> Interval:
        """The best competitor of some kind over the best of the others at a place, a ratio."""
        # Closest first, and the best before them.
        logs = {self.best[at]: np.zeros(1)} | dict(self.rivals[at])
        kind, others = (
            next(x for name, x in logs.items() if accepted(name) == wanted)
            for wanted in (True, False)
        )
        return ratio_interval(kind - others)


def rotation_margins(keys: Ranking) -> dict[Place, Interval]:
    """KL of the best rotated key without QJL over that of the best other one, at each place.

    Where the law is isotropic an unrotated key is as good as a rotated one by symmetry, and counts
    as such.
    """
    found = {}
    for at in keys.best:
        same = regimes_at(OUTPUT_DIM)[at[1]] in ISOTROPIC
        found[at] = keys.margin(at, is_without_sketch if same else rotates_without_sketch)
    return found


def share_within(margins: Mapping[Place, Interval], margin: float) -> Interval:
    """Share of places whose ratio is at most ``1 + margin``.

    From the places where the whole interval says so to those where it does not say the opposite:
    places that the draws leave open count for the upper end only.
    """
    bound, total = 1 + margin, len(margins)
    ends = [[getattr(m, end) <= bound for m in margins.values()] for end in _ENDS]
    estimate, low, high = (sum(within) / total for within in ends)
    return Interval(estimate, low, high, total)


_ENDS = ("estimate", "high", "low")
"""Of an interval: counted by its upper end a place is surely within a bound."""


def rank(logs: Mapping[str, FloatArray]) -> Ranking:
    """Rank competitors by what should be small.

    Parameters
    ----------
    logs : mapping
        Competitor to the logs of its measure, shape (repetition, budget, regime); NaN where it
        does not compete.
    """
    best, rivals = {}, {}
    _, *sizes = next(iter(logs.values())).shape
    for b, f in product(*map(range, sizes)):
        columns = {name: x[:, b, f] for name, x in logs.items() if np.isfinite(x[0, b, f])}
        first = min(columns, key=lambda name: columns[name].mean())
        ratios = {name: x - columns[first] for name, x in columns.items() if name != first}
        best[b, f] = first
        rivals[b, f] = dict(sorted(ratios.items(), key=lambda item: item[1].mean()))
    return Ranking(best, rivals, _ties(best, rivals))


def _ties(
    best: Mapping[Place, str], rivals: Mapping[Place, Mapping[str, FloatArray]]
) -> dict[Place, frozenset[str]]:
    """The best of each place and the rivals that are not told apart from it."""
    compared = [(at, name) for at, ratios in rivals.items() for name in ratios]
    corrected = stats.holm([paired_pvalue(rivals[at][name]) for at, name in compared])
    tied = {at: {name} for at, name in best.items()}
    for (at, name), p in zip(compared, corrected, strict=True):
        if p > LEVEL:
            tied[at].add(name)
    return {at: frozenset(names) for at, names in tied.items()}


def rank_keys(factorial: Factorial, cells: Mapping[str, Cell]) -> Ranking:
    """Rank key quantizers by KL at n=2..6, d=128, moderate spread."""
    return rank(
        {
            name: factorial.log_kl(OUTPUT_DIM, cell)[:, 1:, :, MODERATE]
            for name, cell in cells.items()
        }
    )


def rotates_without_sketch(label: str) -> bool:
    """Whether a competitor of ``RANKED_KEYS`` rotates and has no QJL."""
    return label.startswith(("WHT", "Haar"))


def is_without_sketch(label: str) -> bool:
    """Whether a competitor of ``RANKED_KEYS`` has no QJL."""
    return not label.startswith("QJL")
