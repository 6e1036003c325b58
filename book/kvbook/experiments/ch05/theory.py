"""What is derived for single rows under independent errors: T11 to T13, and by quadrature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvbook.experiments.ch05.rows import (
    Panel,
    gaussian_row,
    needle,
    power_sums,
)
from kvlib import laws
from kvlib.checks import FloatArray
from kvlib.measure import attention

NEVER, ALWAYS = 1 / 3, (1 + 3**-0.5) / 2
"""Top weights up to which no row is amplified, and from which on every row is."""


def coefficient_law(panel: Panel) -> FloatArray:
    """The fourth-order coefficient of each row (T12)."""
    return laws.second_order_coefficient(panel.S2, panel.S3)


def sixth_order_law(panel: Panel) -> FloatArray:
    """The coefficient of sigma^6 of each row: what T12 leaves out, from the same expansion."""
    S2, S3, S4 = panel.S2, panel.S3, np.array([(p**4).sum() for p in panel.rows])
    third = -S2 / 2 + 8 * S3 - 4.5 * S2**2 - 24 * S4 + 36 * S2 * S3 - 15 * S2**3
    return np.asarray(third / 6)


def clear_law(panel: Panel, variance: float) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Rows whose sigma^4 term is more than twice the sigma^6 term, so that it has the say.

    And which have more than 1e-9 off the top key: on others 1 - S2 and quadrature lose all digits.
    """
    fourth, sixth = coefficient_law(panel), variance * sixth_order_law(panel)
    return np.asarray((np.abs(fourth) > 2 * np.abs(sixth)) & (1 - panel.S2 > 1e-9))


def superlinear_law(panel: Panel) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Whether the condition for superlinear amplification holds, of each row (T12)."""
    return laws.is_superlinear(panel.S2, panel.S3)


def excess_law(panel: Panel, variance: float) -> FloatArray:
    """What :class:`Excess` estimates, by quadrature: one number a row."""
    exact = np.array([laws.gaussian_noise_kl(p, variance) for p in panel.rows])
    return np.asarray((exact - laws.small_noise_kl(variance, panel.S2)) / variance**2)


def over_first_order_law(panel: Panel, variance: float) -> FloatArray:
    """E KL of each row over its first order, by quadrature: one where KL is in proportion.

    Not a number for rows with 1e-9 or less off the top key, whose digits are lost.
    """
    first = laws.small_noise_kl(variance, panel.S2)
    kept = 1 - panel.S2 > 1e-9
    ratio = 1 + excess_law(panel, variance) * variance**2 / np.where(kept, first, 1.0)
    return np.asarray(np.where(kept, ratio, np.nan))


def margin_law(panel: Panel) -> FloatArray:
    """Relative size of the next order: the fourth over the second at variance one, of each row."""
    return np.asarray(coefficient_law(panel) / ((1 - panel.S2) / 2))


@dataclass(frozen=True)
class ThresholdSearch:
    """Rows tried against the two thresholds on the top weight.

    Attributes
    ----------
    found, total : int
        Counterexamples among so many rows.
    largest_sublinear, smallest_superlinear : float
        The top weights that come nearest to the thresholds.
    """

    found: int
    total: int
    largest_sublinear: float
    smallest_superlinear: float


def search_thresholds(
    seed: np.random.SeedSequence,
    *,
    others: Sequence[int] = (1, 2, 3, 8, 32, 256),
    shapes: Sequence[float] = (0.05, 0.5, 5.0),
    rows: int = 2000,
) -> ThresholdSearch:
    """Look for a row that the thresholds misjudge.

    A first key of any weight; the others share what is left, unevenly to evenly.
    """
    rng = np.random.default_rng(seed)
    found, total, sublinear, superlinear = 0, 0, 0.0, 1.0
    for count in others:
        for shape in shapes:
            first = rng.uniform(0, 0.999, size=(rows, 1))
            rest = rng.dirichlet(np.full(count, shape), size=rows)
            p = np.hstack([first, (1 - first) * rest])
            holds, peak = laws.is_superlinear(*power_sums(p)), p.max(axis=1)
            found += int((holds & (peak <= NEVER)).sum() + (~holds & (peak > ALWAYS)).sum())
            total += len(p)
            sublinear = max(sublinear, float(peak[~holds].max(initial=0)))
            superlinear = min(superlinear, float(peak[holds].min(initial=1)))
    return ThresholdSearch(found, total, sublinear, superlinear)


def reach_of_peaked_law(rest: float, *, others: int = 1024, level: float = 0.9) -> float:
    """The variance up to which the peaked law is right within a tenth, by the exact KL."""
    s = np.linspace(0.05, 12, 120)
    exact = laws.gaussian_noise_kl(needle(rest, others + 1), s)
    return float(s[np.argmax(exact / laws.peaked_kl(s, rest) <= level)])


@dataclass(frozen=True, eq=False)
class PhaseMap:
    """Local exponents of a one-parameter family of rows, by quadrature.

    Attributes
    ----------
    entropy, top : ndarray, shape (rows,)
        Entropy in nats and the largest weight of each row.
    superlinear : ndarray of bool, shape (rows,)
        Whether T12 holds for it.
    variances : ndarray, shape (variances,)
    exponent : ndarray, shape (rows, variances)
    """

    entropy: FloatArray
    top: FloatArray
    superlinear: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    variances: FloatArray
    exponent: FloatArray

    @property
    def boundary(self) -> float:
        """Entropy below which T12 holds."""
        return float(self.entropy[self.superlinear].max())


def phase_map(rows: Sequence[FloatArray], variances: FloatArray) -> PhaseMap:
    """Map rows of one length, by central differences of log KL in log variance."""
    p = np.array(rows)
    kl = np.array([laws.gaussian_noise_kl(row, variances) for row in rows])
    exponent = np.gradient(np.log(kl), np.log(variances), axis=1)
    row = attention.row_statistics(p)
    superlinear = laws.is_superlinear(row.S2, row.S3)
    return PhaseMap(row.entropy, p.max(axis=1), superlinear, variances, exponent)


def needle_rows(tokens: int, count: int = 40) -> list[FloatArray]:
    """One leader above an even crowd, from one that holds all to none."""
    return [needle(rest, tokens) for rest in np.geomspace(3e-5, 1 - 1 / tokens, count)]


def gaussian_rows(tokens: int, spreads: FloatArray) -> list[FloatArray]:
    """Gaussian logits, one row for each standard deviation."""
    return [gaussian_row(spread, tokens) for spread in spreads]


def exact_over_first_order(p: FloatArray, sigma2: FloatArray, S2: FloatArray) -> float:
    """Exact E KL of rows under independent errors over its first order, both summed over rows.

    ``p`` has shape (rows, tokens), ``sigma2`` and ``S2`` (rows,).
    """
    sigma2 = np.exp(np.round(np.log(sigma2) * 8) / 8)  # few different ones: quadrature is cached
    exact = sum(float(laws.gaussian_noise_kl(a, s)) for a, s in zip(p, sigma2, strict=True))
    return float(exact / laws.small_noise_kl(sigma2, S2).sum())
