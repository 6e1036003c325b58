"""T15: what is predicted, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kvbook import ledger
from kvbook.experiments.ch08.sharing import (
    Cell,
    UnequalWeights,
    measured_threshold,
)
from kvbook.experiments.ch08.storing import FloatArray
from kvbook.experiments.ch08.theory import errors_law, threshold_law
from kvlib import laws
from kvlib.stats import Interval, geometric_mean_interval, mean_interval

TOLERANCE = {2: 0.1, 3: 0.15, 4: 0.3}
"""Relative tolerance of a derived threshold by budget: the overload term is a leading order."""


def predict_t15() -> ledger.Predictions:
    """Thresholds and shared errors at d = 128, from closed forms."""
    zero_mean = errors_law("orthogonal", 2, 0.0).single / errors_law("plain", 2, 0.0).single
    rows: list[tuple[str, ledger.Rule, str]] = [
        (
            "no common mean, n = 2: error of one value, QJL over MSE-only",
            ledger.Within(zero_mean, 0.05 * zero_mean),
            "off by more than 5%",
        ),
        *(
            (
                f"mean share 1/2, n = {n}: derived threshold {threshold_law(n, 0.5):.3g} over the "
                "measured",
                ledger.Within(1, tolerance),
                f"off by more than {tolerance:.0%}",
            )
            for n, tolerance in TOLERANCE.items()
        ),
        (
            "the same with Haar rotation and sketch, n = 2",
            ledger.Within(1, TOLERANCE[2]),
            f"off by more than {TOLERANCE[2]:.0%}",
        ),
        (
            "unbiased scale in place of MSE-only, n = 2: derived threshold "
            f"{threshold_law(2, 0.5, first='unbiased'):.3g} over the measured",
            ledger.Within(1, 0.15),
            "off by more than 15%, or no threshold",
        ),
        (
            "Gaussian sketch, n = 4: shared error over that of the bare 3-bit codes",
            ledger.Within(1, 0.05),
            "a shared error that one more bit lowers by more than 5%",
        ),
        (
            "unequal weights, n = 3: output error over the formula in N_eff",
            ledger.Within(1, 0.05),
            "depends on the weights otherwise than through N_eff",
        ),
        (
            "mean removed, n = 2 to 5: shared error over MSE-only's, largest",
            ledger.Below(0.1),
            "a tenth of the shared error stays",
        ),
        (
            "captured heads, n = 2: QJL over MSE-only, measured over predicted, mean of heads",
            ledger.Within(1, 0.2),
            "off by more than 20%",
        ),
    ]
    return ledger.Predictions("T15", [ledger.Prediction(*row) for row in rows])


def unequal_weights_law(measured: UnequalWeights) -> FloatArray:
    """Output error by the formula in N_eff, from the errors of the values: shape (draws,)."""
    pairs = zip(measured.effective_tokens, measured.errors, strict=True)
    return np.array([np.mean(laws.output_error(tokens, *errors)) for tokens, errors in pairs])


def ratio_of_means(top: FloatArray, bottom: FloatArray) -> Interval:
    """Ratio of the means of two quantities of the same draws, with the delta method's interval."""
    ratio = float(top.mean() / bottom.mean())
    i = mean_interval((top - ratio * bottom) / bottom.mean())
    return Interval(ratio, ratio + i.low, ratio + i.high, i.n)


def judge_t15(
    predictions: ledger.Predictions,
    errors: Mapping[Cell, FloatArray],
    *,
    unequal: UnequalWeights,
    heads_over_foretold: FloatArray,
) -> ledger.Verdict:
    """Verdict on T15; errors of :func:`measure_shared_errors`, ratios of :func:`over_foretold`."""

    def over_measured(bits: int, first: str = "plain", second: str = "orthogonal") -> Interval:
        target = threshold_law(bits, 0.5, first=first.removesuffix(", Haar"))
        i = measured_threshold(errors, bits, 0.5, first=first, second=second)
        return Interval(target / i.estimate, target / i.high, target / i.low, i.n)

    def ratio(top: Cell, bottom: Cell, column: int) -> Interval:
        return ratio_of_means(errors[top][:, column], errors[bottom][:, column])

    left_over = [
        ratio(Cell("centred plain", n, 0.5), Cell("plain", n, 0.5), 1) for n in range(2, 6)
    ]
    found = [
        ratio(Cell("orthogonal", 2, 0.0), Cell("plain", 2, 0.0), 0),
        *(over_measured(n) for n in TOLERANCE),
        over_measured(2, first="plain, Haar", second="orthogonal, Haar"),
        over_measured(2, first="unbiased"),
        ratio(Cell("gaussian", 4, 0.5), Cell("plain", 3, 0.5), 1),
        ratio_of_means(unequal.output, unequal_weights_law(unequal)),
        max(left_over, key=lambda i: i.high),
        geometric_mean_interval(heads_over_foretold),
    ]
    labels = [prediction.label for prediction in predictions.predictions]
    return predictions.verdict(
        dict(zip(labels, found, strict=True)),
        note="Corrected on the way: unbiased scales do not average out either, because the "
        "rotation is shared; and without the overload of single coordinates the threshold at five "
        "bits comes out too low.",
    )
