"""What each choice does: effects on KL, and schemes by every measure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.ch07.cells import (
    C_EDEN,
    EDEN,
    HAAR,
    MATCHED,
    MIN_MAX,
    NONE,
    QJL_GAUSSIAN,
    QJL_HAAR,
    QJL_HADAMARD,
    WHT,
    Cell,
)
from kvbook.experiments.ch07.factorial import KL_STATISTICS, OUTPUT_DIM, Factorial
from kvbook.experiments.ch07.inference import ratio_interval
from kvbook.experiments.ch07.rows import MODERATE
from kvlib.checks import FloatArray
from kvlib.stats import Interval

SCHEMES = {
    "KV": (NONE, NONE),
    "WHT": (WHT, WHT),
    "vLLM": (MATCHED, MIN_MAX),
    "matched": (MATCHED, MATCHED),
    "KQV, Gaussian": (WHT, QJL_GAUSSIAN),
    "KQV, Hadamard": (WHT, QJL_HADAMARD),
    "QKV, Gaussian": (QJL_GAUSSIAN, WHT),
    "QKV, Hadamard": (QJL_HADAMARD, WHT),
    "QKQV, Gaussian": (QJL_GAUSSIAN, QJL_GAUSSIAN),
    "QKQV, Hadamard": (QJL_HADAMARD, QJL_HADAMARD),
    "EDEN": (EDEN, EDEN),
    "C-EDEN": (C_EDEN, C_EDEN),
}
"""Cells of keys and of values by the name of the scheme."""

Overview = Mapping[str, Mapping[str, FloatArray]]
"""Scheme to measure to (repetition, regime)."""

# Effects on KL ---------------------------------------------------------------------------------

MATCHED_EFFECT = "scale: norm → matched"
SCALE_EFFECT = "scale: norm → unbiased"
ROTATION_EFFECT = "rotation: none → WHT"
HAAR_EFFECT = "rotation: WHT → Haar"


def cell_effect(factorial: Factorial, low: Cell, high: Cell) -> NDArray[np.float64]:
    """Log KL of ``high`` less that of ``low``, mean over n=2..6: (repetition, regime).

    At d=128 and moderate spread.
    """
    logs = factorial.log_kl(OUTPUT_DIM, high) - factorial.log_kl(OUTPUT_DIM, low)
    return np.asarray(logs[:, 1:, :, MODERATE].mean(axis=1))


def choice_effects(factorial: Factorial) -> dict[str, NDArray[np.float64]]:
    """Effects of single choices: log factors on KL, (repetition, regime)."""

    changes = {
        ROTATION_EFFECT: (NONE, WHT),
        HAAR_EFFECT: (WHT, HAAR),
        "QJL on K: none → Gaussian": (WHT, QJL_GAUSSIAN),
        "QJL on K: none → Hadamard": (WHT, QJL_HADAMARD),
        "sketch: Hadamard → Haar": (QJL_HADAMARD, QJL_HAAR),
        MATCHED_EFFECT: (WHT, MATCHED),
        SCALE_EFFECT: (WHT, EDEN),
    }
    return {name: cell_effect(factorial, *cells) for name, cells in changes.items()}


# Schemes by every measure ----------------------------------------------------------------------


def _errors(factorial: Factorial, scheme: str, bits: int) -> tuple[FloatArray, ...]:
    """Squared error and angle of K, V and T, (repetition, regime, 2) each."""
    key, value = SCHEMES[scheme]
    return (
        factorial.keys[OUTPUT_DIM, key, bits][..., :2],
        factorial.values[value, bits],
        factorial.outputs[key, value, bits],
    )


def scheme_measures(factorial: Factorial, scheme: str, bits: int) -> dict[str, FloatArray]:
    """Every measure of a scheme, (repetition, regime) each; all are bad when large."""
    at = (OUTPUT_DIM, SCHEMES[scheme][0], bits)
    kl = factorial.kl[at][:, :, MODERATE]
    found = {f"KL, {name}": kl[..., i] for i, name in enumerate(KL_STATISTICS)}
    for letter, errors in zip("KVT", _errors(factorial, scheme, bits), strict=True):
        found |= {f"MSE of {letter}": errors[..., 0], f"angle of {letter}": errors[..., 1]}
    return found | {"top-1 missed": factorial.keys[at][..., 2]}


def overview_of_schemes(factorial: Factorial, bits: int) -> dict[str, dict[str, FloatArray]]:
    """Every measure of every scheme."""
    return {name: scheme_measures(factorial, name, bits) for name in SCHEMES}


def factor_against(overview: Overview, scheme: str, measure: str, base: str = "WHT") -> Interval:
    """Factor of a scheme's measure on another's, geometric mean over the regimes."""
    logs = np.log(overview[scheme][measure] / overview[base][measure])
    return ratio_interval(logs.mean(axis=-1))
