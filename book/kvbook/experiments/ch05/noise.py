"""Independent Gaussian errors of the logits: the divergence of single rows, by Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kvbook.experiments.ch05.rows import (
    Panel,
    kl_of_errors,
    needle,
    normal_batches,
)
from kvlib import stats
from kvlib.checks import FloatArray
from kvlib.stats import Interval

RowKL = Callable[[FloatArray, float, FloatArray], FloatArray]
"""(row, variance, standard normal errors of shape (draws, tokens)) to draws of its KL."""


@dataclass(frozen=True, eq=False)
class IndependentNoise:
    """Mean KL of each row of a panel under independent errors.

    Attributes
    ----------
    small : float
        The small variance.
    kl_small : ndarray, shape (rows,)
        Mean KL there, over draws and their mirror images.
    larger : tuple of float
        Other variances.
    kl, error : ndarray, shape (rows, variances)
        Mean KL there and its standard error.
    """

    small: float
    kl_small: FloatArray
    larger: tuple[float, ...]
    kl: FloatArray
    error: FloatArray


def measure_independent(
    panel: Panel,
    seed: np.random.SeedSequence,
    *,
    values: int,
    small: float = 0.01,
    larger: Sequence[float] = (0.25, 1.0, 4.0, 16.0),
) -> IndependentNoise:
    """KL of every row at a small variance and at some larger ones, ``values`` numbers a row."""
    rng = np.random.default_rng(seed)
    kl_small, moments = [], []
    for p in panel.rows:
        draws = min(4000, max(60, values // 2 // p.size))
        batches = list(normal_batches(draws, p.size, rng))
        mirrored = [kl_of_errors(p, x * np.sqrt(small) * g) for g in batches for x in (1, -1)]
        kl_small.append(np.concatenate(mirrored).mean())
        few = batches[:4]
        kl = np.array(
            [np.concatenate([kl_of_errors(p, np.sqrt(s) * g) for g in few]) for s in larger]
        )
        moments.append([kl.mean(axis=1), kl.std(axis=1, ddof=1) / np.sqrt(kl.shape[1])])
    means, errors = np.moveaxis(np.array(moments), 1, 0)
    return IndependentNoise(small, np.array(kl_small), tuple(larger), means, errors)


@dataclass(frozen=True, eq=False)
class Excess:
    """What the KL of some rows exceeds its first order by, over the square of the variance.

    Attributes
    ----------
    variance : float
    estimate, error : ndarray, shape (rows,)
        The fourth-order coefficient of each row as measured, and its standard error.
    """

    variance: float
    estimate: FloatArray
    error: FloatArray

    def beyond(self, errors: float) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Rows whose estimate is more than so many standard errors from zero."""
        return np.asarray(np.abs(self.estimate) > errors * self.error)

    @property
    def decided(self) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Rows of which Monte Carlo can say on which side of zero they are."""
        return self.beyond(3)


def sample_and_controls(p: FloatArray, variance: float, g: FloatArray) -> FloatArray:
    """KL of each draw and its mirror image less half its variance under p, and four controls.

    Parameters
    ----------
    p : ndarray, shape (tokens,)
    variance : float
    g : ndarray, shape (draws, tokens)
        Standard normal.

    Returns
    -------
    ndarray, shape (5, draws)
        The sample, then control variates of mean zero. Their means are moments of one Gaussian,
        whatever T12 says.
    """
    delta = np.sqrt(variance) * g
    square = delta * delta
    fourth = square * square
    under_p = square @ p - (delta @ p) ** 2
    even = (kl_of_errors(p, delta) + kl_of_errors(p, -delta)) / 2
    controls = [square @ p - variance, fourth @ p - 3 * variance**2]
    controls += [square @ p**2 - variance * (p @ p), fourth @ p**2 - 3 * variance**2 * (p @ p)]
    return np.array([even - under_p / 2, *controls])


def excess_of_row(
    p: FloatArray, variance: float, draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """E KL minus its first order, over the squared variance, with its standard error."""
    pieces = [sample_and_controls(p, variance, g) for g in normal_batches(draws, p.size, rng)]
    sample, *controls = np.concatenate(pieces, axis=1)
    design = np.stack([np.ones(draws), *(c / c.std() for c in controls)], axis=1)
    fit, *_ = np.linalg.lstsq(design, sample, rcond=None)
    spread = (sample - design @ fit).std(ddof=design.shape[1])
    return float(fit[0] / variance**2), float(spread / np.sqrt(draws) / variance**2)


def measure_excess(
    rows: Sequence[FloatArray], variance: float, draws: Sequence[int], rng: np.random.Generator
) -> Excess:
    """The fourth-order coefficient of each row, from so many draws of it."""
    found = [excess_of_row(p, variance, count, rng) for p, count in zip(rows, draws, strict=True)]
    estimate, error = np.array(found).T
    return Excess(variance, estimate, error)


def plain_kl(p: FloatArray, variance: float, g: FloatArray) -> FloatArray:
    """KL of a row for each draw of its errors."""
    return kl_of_errors(p, np.sqrt(variance) * g)


def weighted_kl(p: FloatArray, variance: float, g: FloatArray) -> FloatArray:
    """Draws of KL whose mean is E KL, for a row whose first key leads.

    Half of them have the top key's error shifted by minus the variance, which is where a peaked
    row's mean comes from, and weights that undo the shift.
    """
    delta = np.sqrt(variance) * g
    delta[::2, 0] -= variance
    return np.asarray(kl_of_errors(p, delta) * 2 / (1 + np.exp(-delta[:, 0] - variance / 2)))


@dataclass(frozen=True, eq=False)
class PeakedSample:
    """Draws of the KL of one peaked row.

    Attributes
    ----------
    rest : float
        What the top key leaves to 1024 others.
    power : float
        The variance is where ``rest * exp(power * variance)`` is one hundredth.
    variance : float
    kl : ndarray, shape (draws,)
        Of mean E KL.
    """

    rest: float
    power: float
    variance: float
    kl: FloatArray


def measure_peaked(
    rests: Sequence[float],
    rng: np.random.Generator,
    *,
    powers: Sequence[float] = (1.0, 1.5),
    draws: int = 12_000,
    tokens: int = 1025,
    kl: RowKL = weighted_kl,
) -> list[PeakedSample]:
    """KL of peaked rows where ``rest * exp(power * variance)`` is one hundredth.

    All powers of a row have the same draws: enough for a law that is 13% off to be seen as more
    than 10% off.
    """
    samples = []
    for rest in rests:
        p, variances = needle(rest, tokens), [float(np.log(0.01 / rest) / x) for x in powers]
        # Pieces of even size: weighted_kl shifts every second draw.
        pieces = [
            [kl(p, s, g) for s in variances]
            for g in (
                rng.standard_normal((min(100, draws - i), tokens)) for i in range(0, draws, 100)
            )
        ]
        for power, s, of_power in zip(powers, variances, zip(*pieces, strict=True), strict=True):
            samples.append(PeakedSample(rest, power, s, np.concatenate(of_power)))
    return samples


def measure_exponents(
    p: FloatArray,
    variances: Sequence[float],
    draws: int,
    rng: np.random.Generator,
    *,
    kl: RowKL,
    step: float = 1.1,
) -> list[Interval]:
    """Local exponents d log KL / d log variance of a row, from common draws, in 20 batches."""
    g, found = rng.standard_normal((draws, p.size)), []
    for s in variances:
        high, low = (kl(p, s * x, g).reshape(20, -1).mean(axis=1) for x in (step, 1 / step))
        found.append(stats.mean_interval(np.log(high / low) / (2 * np.log(step))))
    return found


def measure_examples(
    rows: Mapping[str, FloatArray],
    variances: Sequence[float],
    seed: np.random.SeedSequence,
    *,
    draws: int = 20_000,
) -> dict[str, list[Interval]]:
    """Mean KL of each row at each variance."""
    rng, found = np.random.default_rng(seed), {}
    for name, p in rows.items():
        g = rng.standard_normal((draws, p.size))
        found[name] = [stats.mean_interval(plain_kl(p, s, g)) for s in variances]
    return found


@dataclass(frozen=True, eq=False)
class NoisyRow:
    """A row, and what noise makes of it.

    Attributes
    ----------
    before, after : ndarray, shape (tokens,)
        The row, and the draw of the noisy row whose S2 is nearest to the mean.
    S2_before, S2_after : float
        Sums of squares: of the row, and the mean over draws.
    """

    before: FloatArray
    after: FloatArray
    S2_before: float
    S2_after: float


def shake_row(
    p: FloatArray, variance: float, seed: np.random.SeedSequence, *, draws: int = 20_000
) -> NoisyRow:
    """Shake the logits of a row by independent errors, many times."""
    g = np.random.default_rng(seed).standard_normal((draws, p.size))
    noisy = p * np.exp(np.sqrt(variance) * g)
    noisy /= noisy.sum(axis=1, keepdims=True)
    S2 = (noisy**2).sum(axis=1)
    typical = noisy[np.argmin(np.abs(S2 - S2.mean()))]
    return NoisyRow(p, typical, float((p**2).sum()), float(S2.mean()))
