"""Where theory and experiment meet: ratios of measured to predicted, and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from kvbook import ledger
from kvbook.experiments.ch05.bridge import (
    Bridge,
    ValueDependence,
    rank_correlations,
    scale_ratio,
)
from kvbook.experiments.ch05.heads import Cell, HeadKL, ModelRows
from kvbook.experiments.ch05.keys import (
    FAMILIES,
    SCALES,
    ByFamily,
    CommonError,
    LogitErrors,
    Shrinkage,
    Tails,
)
from kvbook.experiments.ch05.noise import Excess, IndependentNoise, PeakedSample
from kvbook.experiments.ch05.predicted import (
    PredictedKL,
    relative_error_law,
    shrinkage_law,
    tails_law,
)
from kvbook.experiments.ch05.predictions import (
    ARMS,
    FAMILY_NAMES,
    arm_in_words,
    peaked_label,
)
from kvbook.experiments.ch05.rows import Panel
from kvbook.experiments.ch05.theory import (
    NEVER,
    ThresholdSearch,
    coefficient_law,
    exact_over_first_order,
    superlinear_law,
)
from kvlib import laws, stats
from kvlib.checks import FloatArray
from kvlib.stats import Interval

UNBIASED = "KQV, unbiased"
SMALL_NOISE = 0.1
"""Mean variance of a logit's error up to which a cell or a head is counted in T14."""

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def farthest(intervals: Sequence[Interval], target: float = 1.0) -> Interval:
    """The interval whose estimate lies farthest from the target."""
    return max(intervals, key=lambda i: abs(i.estimate - target))


def share(hits: Mask, among: Mask | None = None) -> Interval:
    """Share of rows that are hits, among all or among some, with its exact interval."""
    if among is None:
        return stats.proportion_interval(int(hits.sum()), hits.size)
    return stats.proportion_interval(int((hits & among).sum()), int(among.sum()))


# T11 ----------------------------------------------------------------------------------------------


def first_order_ratios(panel: Panel, noise: IndependentNoise) -> FloatArray:
    """KL of each row over its first order, at the small variance."""
    return np.asarray(noise.kl_small / laws.small_noise_kl(noise.small, panel.S2))


def variance_ratio(errors: LogitErrors, arm: str, bits: int = 4, dim: int = 128) -> Interval:
    """Variance of the logits' errors over c D."""
    return stats.mean_interval(errors.variance[arm] / relative_error_law(arm, bits, dim))


def first_order_ratio(errors: LogitErrors, arm: str, bits: int = 4, dim: int = 128) -> Interval:
    """KL over its first order at variance c D."""
    law = laws.small_noise_kl(relative_error_law(arm, bits, dim), errors.S2)
    return stats.mean_interval(errors.kl[arm] / law.mean(axis=-1))


def judge_t11(
    predictions: ledger.Predictions, panel: Panel, noise: IndependentNoise, errors: LogitErrors
) -> ledger.Verdict:
    """First order: independent errors on the panel's rows, and quantized keys at n = 4."""
    ratios = first_order_ratios(panel, noise)
    measured = {
        "independent errors, σ² = 0.01: KL over first order, mean of rows": (
            stats.mean_interval(ratios)
        ),
        "control: the same over σ²/2, without 1 − S2": (
            stats.mean_interval(noise.kl_small / (noise.small / 2))
        ),
    }
    for arm in ARMS:
        name = f"{arm_in_words(arm)}, n = 4"
        measured[f"{name}: variance of logit errors over c D"] = variance_ratio(errors, arm)
        measured[f"{name}: KL over c D/2 (1 − S2)"] = first_order_ratio(errors, arm)
    return predictions.verdict(measured)


# T12 and C07 --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Classification:
    """Each row of a panel, by the condition, by Monte Carlo and by quadrature; bool, (rows,).

    Attributes
    ----------
    superlinear : ndarray
        The condition of T12 holds.
    decided : ndarray
        Monte Carlo is more than three standard errors from zero.
    wrong : ndarray
        It is, and on the other side than the condition says.
    wrong_exact : ndarray
        Quadrature is on the other side.
    """

    superlinear: Mask
    decided: Mask
    wrong: Mask
    wrong_exact: Mask

    @property
    def open(self) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
        """Indices of the rows that Monte Carlo leaves open, or where a check disagrees."""
        return np.flatnonzero(~self.decided | self.wrong | self.wrong_exact)


def classify(panel: Panel, excess: Excess, quadrature: FloatArray) -> Classification:
    """Hold the condition against both measurements."""
    superlinear, decided = superlinear_law(panel), excess.decided
    wrong = decided & ((excess.estimate > 0) != superlinear)
    return Classification(superlinear, decided, wrong, (quadrature > 0) != superlinear)


def resolved(panel: Panel) -> Mask:
    """Rows with more than 1e-9 off the top key: on others 1 - S2 and quadrature lose all digits."""
    return np.asarray(1 - panel.S2 > 1e-9)


def spread_in_errors(panel: Panel, excess: Excess, quadrature: FloatArray) -> Interval:
    """Standard deviation of Monte Carlo minus quadrature in standard errors; interval by chi^2."""
    z = ((excess.estimate - quadrature) / excess.error)[resolved(panel)]
    spread = float(z.std(ddof=1))
    low, high = np.sqrt((z.size - 1) / chi2.ppf([0.975, 0.025], z.size - 1)) * spread
    return Interval(spread, float(low), float(high), z.size)


def example_excess(excess: Excess, draws: int) -> Interval:
    """KL minus first order of the one row measured, in nats, two standard errors either way."""
    (estimate,), (error,) = excess.estimate, excess.error
    low, middle, high = (excess.variance**2 * (estimate + x * error) for x in (-2, 0, 2))
    return Interval(float(middle), float(low), float(high), draws)


def judge_t12(
    predictions: ledger.Predictions,
    panel: Panel,
    excess: Excess,
    quadrature: FloatArray,
    *,
    search: ThresholdSearch,
    example: Interval,
    rng: np.random.Generator,
) -> ledger.Verdict:
    """The condition against Monte Carlo and quadrature; ``rng`` is for a bootstrap."""
    found = classify(panel, excess, quadrature)
    clear = excess.decided & excess.beyond(10)
    ratio = excess.estimate[clear] / coefficient_law(panel)[clear]
    median = stats.bootstrap_interval(
        ratio, np.median, method="percentile", resamples=2000, rng=rng
    )
    shorter_condition = 4 * panel.S3 > panel.S2
    labels = [p.label for p in predictions.predictions]
    measured = (
        share(found.wrong, found.decided),
        share(found.wrong_exact),
        share((quadrature > 0) != shorter_condition),
        median,
        spread_in_errors(panel, excess, quadrature),
        example,
        Interval.exactly(search.found),
    )
    return predictions.verdict(
        dict(zip(labels, measured, strict=True)),
        note=f"{int((~found.decided).sum())} of {len(panel)} rows stay within three standard "
        "errors of zero and are not counted in the first line; quadrature decides them in the "
        f"second. {int((~resolved(panel)).sum())} rows are one-hot to nine digits, too much so for "
        "quadrature, and not counted in the line on standard errors.",
    )


def head_exponents(heads: HeadKL) -> FloatArray:
    """Exponent of the KL of each head in D, KQV from n = 4 to n = 2."""
    fall = [
        np.log(relative_error_law("KQV", 2, int(d)) / relative_error_law("KQV", 4, int(d)))
        for d in heads.dim
    ]
    return np.asarray(np.log(heads.of("KQV", 2) / heads.of("KQV", 4)) / np.array(fall))


@dataclass(frozen=True)
class RowSummary:
    """The attention rows of a model and what independent errors would do to them.

    Attributes
    ----------
    entropy : float
        Median, in nats.
    led, superlinear : float
        Shares of rows with a key of more than a third of the weight, and with T12's condition.
    sigma2 : float
        Median variance of a logit's error under KQV at n = 4.
    over_first_order_4, over_first_order_2 : float
        Exact E KL over its first order at n = 4 and n = 2, for 48 rows.
    """

    entropy: float
    led: float
    superlinear: float
    sigma2: float
    over_first_order_4: float
    over_first_order_2: float


def summarize_rows(rows: ModelRows, dim: int) -> RowSummary:
    """Condense the rows of a model whose heads have so many coordinates."""
    D = {n: relative_error_law("KQV", n, dim) for n in (2, 4)}
    some = np.linspace(0, len(rows.p) - 1, 48).astype(int)
    four, two = (
        exact_over_first_order(rows.p[some], D[n] * rows.unit_noise[some], rows.S2[some])
        for n in (4, 2)
    )
    return RowSummary(
        entropy=float(np.median(rows.entropy)),
        led=float(np.mean(rows.top > NEVER)),
        superlinear=float(np.mean(laws.is_superlinear(rows.S2, rows.S3))),
        sigma2=float(np.median(rows.unit_noise) * D[4]),
        over_first_order_4=four,
        over_first_order_2=two,
    )


def judge_c07(
    predictions: ledger.Predictions, panel: Panel, excess: Excess, heads: HeadKL
) -> ledger.Verdict:
    """Non-linear, amplified with the condition and without it, and in real heads."""
    up, decided, superlinear = excess.estimate > 0, excess.decided, superlinear_law(panel)
    return predictions.verdict(
        {
            "rows where E KL is not proportional to σ²: share": share(decided),
            "condition holds: share of decided rows amplified superlinearly": (
                share(up, decided & superlinear)
            ),
            "condition fails: share of decided rows amplified superlinearly": (
                share(up, decided & ~superlinear)
            ),
            "real heads, KQV from n = 4 to 2: exponent of KL in D": (
                stats.mean_interval(head_exponents(heads))
            ),
        },
        note="Non-linear, yes; superlinear under a condition, yes, and T12 gives the exact one. "
        "Unconditionally, no: where the condition fails softmax damps the variance.",
    )


# T13 ----------------------------------------------------------------------------------------------


def over_peaked_law(sample: PeakedSample) -> Interval:
    """KL of a peaked row over the peaked law."""
    return stats.mean_interval(sample.kl / laws.peaked_kl(sample.variance, sample.rest))


def above_bound(panel: Panel, noise: IndependentNoise, factor: float = 1) -> int:
    """Rows and variances whose mean KL is four standard errors above the bound times a factor."""
    bound = laws.kl_bound(np.array(noise.larger), 1 - panel.top[:, None])
    return int((noise.kl - 4 * noise.error > factor * bound).sum())


def judge_t13(
    predictions: ledger.Predictions,
    panel: Panel,
    noise: IndependentNoise,
    peaked: Sequence[PeakedSample],
    *,
    peaked_exponent: Interval,
    uniform_exponents: Sequence[Interval],
) -> ledger.Verdict:
    """The bound on the panel; the peaked law as it stood and corrected; the two local exponents.

    ``uniform_exponents`` are those of the uniform row at half of log N and at eight times log N.
    """
    corrected = [over_peaked_law(sample) for sample in peaked if sample.power == 1.5]
    before, after = uniform_exponents
    return predictions.verdict(
        {
            "rows and variances above the bound by four standard errors: count": (
                Interval.exactly(above_bound(panel, noise))
            ),
            "control: above half the bound: count": (
                Interval.exactly(above_bound(panel, noise, 0.5))
            ),
            **{peaked_label(x.rest): over_peaked_law(x) for x in peaked if x.power == 1},
            "corrected, ε exp(3σ²/2) = 0.01: KL over the peaked law, worst ε": farthest(corrected),
            "ε = 0.0001, σ² = 3: local exponent": peaked_exponent,
            "uniform, N = 4096, σ² = ½ log N: local exponent": before,
            "uniform, N = 4096, σ² = 8 log N: local exponent": after,
        },
        note="Bound, exponential law and freezing hold. The range given for the law does not: "
        "small ε exp(σ²) is not enough. Corrected statement: the law holds while ε exp(3σ²/2) is "
        "small (the rest spread over many keys), or ε exp(2σ²) (the rest on one key).",
    )


# T14 ----------------------------------------------------------------------------------------------


def common_change(common: CommonError) -> float:
    """Largest relative change of a KL by a common error; what is below 1e-9 counts as 1e-9."""
    return max(float(np.abs(common.kl_common / common.kl - 1).max()), 1e-9)


def temperature_ratio(case: Shrinkage) -> FloatArray:
    """KL of shrunk keys over what the temperature foretells, one number a query."""
    return np.asarray(case.kl / shrinkage_law(case.shrink, case.p, case.logits))


def temperature_share(case: Shrinkage, dim: int = 128) -> float:
    """Mean KL of the temperature over that of the code's noise at the same bits."""
    shrinkage = shrinkage_law(case.shrink, case.p, case.logits)
    sigma2 = relative_error_law("KQV", case.bits, dim) * case.scale**2
    noise = laws.small_noise_kl(sigma2, (case.p**2).sum(axis=-1))
    return float(shrinkage.mean() / noise.mean())


def log_ratios(
    kl: ByFamily, law: ByFamily, key: tuple[str, int], arm: str, scales: Sequence[int] | None = None
) -> FloatArray:
    """Log of KL over prediction at n = 4, one number a draw.

    The mean over some of the logit scales (indices), or over all at which the noise is small.
    """
    error = relative_error_law(arm, 4, key[1])
    small = [i for i, scale in enumerate(SCALES) if error * scale**2 <= SMALL_NOISE]
    of_arm = np.log(kl[key] / law[key])[:, ARMS.index(arm)]
    return np.asarray(of_arm[:, small if scales is None else scales].mean(axis=-1))


def family_ratio(
    kl: ByFamily, law: ByFamily, key: tuple[str, int], arm: str, scales: Sequence[int] | None = None
) -> Interval:
    """KL over prediction of one family (label, d) and arm: geometric mean over draws."""
    return stats.geometric_mean_interval(np.exp(log_ratios(kl, law, key, arm, scales)))


def pooled_family_ratio(kl: ByFamily, law: ByFamily, label: str) -> Interval:
    """The same over all arms and dimensions."""
    keys = [key for key in kl if key[0] == label]
    means = [np.mean([log_ratios(kl, law, key, arm) for arm in ARMS], axis=0) for key in keys]
    return stats.geometric_mean_interval(np.exp(np.concatenate(means)))


def tail_ratios(tails: Tails, bits: int) -> tuple[Interval, Interval]:
    """Error of Student t keys over D, and their KL over prediction, geometric means over draws.

    The second is for all logit scales.
    """
    mse = tails.mse / relative_error_law("KQV", bits, tails.keys[0].k.shape[-1])
    kl = np.log(tails.kl / tails_law(tails, bits)).mean(axis=-1)
    return stats.geometric_mean_interval(mse), stats.geometric_mean_interval(np.exp(kl))


def head_ratio(
    heads: HeadKL, law: Mapping[Cell, PredictedKL], arm: str, bits: int, stage: str
) -> Interval:
    """KL over prediction: geometric mean of the heads where the noise is small.

    ``stage`` is ``"alone"``, ``"shrunk"`` or ``"full"``: what the prediction contains.
    """
    of_cell = law[arm, bits]
    small = of_cell.sigma2 <= SMALL_NOISE
    ratios = heads.of(arm, bits) / getattr(of_cell, stage)
    return stats.geometric_mean_interval(ratios[small])


def judge_t14(
    predictions: ledger.Predictions,
    common: CommonError,
    shrinkage: Sequence[Shrinkage],
    families: tuple[ByFamily, ByFamily],
    heads: tuple[HeadKL, Mapping[Cell, PredictedKL]],
) -> ledger.Verdict:
    """What cancels, the temperature, and KL over prediction.

    ``families`` and ``heads`` are pairs: what was measured, and what was foretold.
    """
    half = stats.mean_interval(np.abs(common.kl_half / common.kl - 1))
    at_four = [stats.mean_interval(temperature_ratio(x)) for x in shrinkage if x.bits == 4]
    with_gain, sketched = "KL over prediction with radial gain", ARMS[1:]
    return predictions.verdict(
        {
            "an error common to all keys: relative change of KL": (
                Interval.exactly(common_change(common))
            ),
            "control, the same error on every second key: relative change": half,
            "pure shrinkage by 1 − D, n = 4: KL over D²/2 Var(logit)": farthest(at_four),
            **{
                f"{FAMILY_NAMES[family.kind]} keys, n = 4: KL over prediction": (
                    pooled_family_ratio(*families, family.label)
                )
                for family in FAMILIES
            },
            "real heads, KQV n = 4: KL over prediction without radial gain": (
                head_ratio(*heads, "KQV", 4, "shrunk")
            ),
            f"real heads, KQV n = 4: {with_gain}": head_ratio(*heads, "KQV", 4, "full"),
            "real heads, QKQV n = 4, worst of two sketches: the same": (
                farthest([head_ratio(*heads, arm, 4, "full") for arm in sketched])
            ),
            "control, unbiased scale (no radial error): KL without radial term": (
                head_ratio(*heads, UNBIASED, 4, "shrunk")
            ),
        },
        note="Heavy tails fail. Corrected statement: the prediction holds where the rotated keys "
        "follow the coordinate law; under a single Hadamard round Student t keys do not, and the "
        "largest of them least of all.",
    )


# C12 ----------------------------------------------------------------------------------------------


def lowest(intervals: Sequence[Interval]) -> Interval:
    """The interval with the lowest estimate."""
    return min(intervals, key=lambda i: i.estimate)


def judge_c12(
    predictions: ledger.Predictions, values: ValueDependence, bridge: Bridge
) -> ledger.Verdict:
    """Keys only; the order of cases along the bridge; and its limit across logit scales."""
    found = {name: lowest(x) for name, x in rank_correlations(bridge).items()}
    return predictions.verdict(
        {
            "other values, or values sketched: largest change of KL": (
                Interval.exactly(values.value_change)
            ),
            "control, keys sketched: relative change of KL": values.key_change,
            "direction error and KL: rank correlation, lowest of four logit scales": (
                found["direction error and KL"]
            ),
            "KL and misrouted weight: rank correlation, lowest of four": (
                found["KL and misrouted weight"]
            ),
            "KL and error of the output: rank correlation, lowest of four": (
                found["KL and output error"]
            ),
            "limit: the same keys, logit scale 4 over 1/2: ratio of KL": scale_ratio(bridge),
        },
        note="A bridge at a given logit scale. Across scales the same direction error gives KL "
        "that differ by the square of the scale.",
    )
