"""What each choice does: effects on KL, schemes by every measure, and their comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.ch07.cells import (
    C_EDEN,
    EDEN,
    HAAR,
    NONE,
    QJL_GAUSSIAN,
    QJL_HAAR,
    QJL_HADAMARD,
    WHT,
    Cell,
)
from kvbook.experiments.ch07.factorial import KL_STATISTICS, OUTPUT_DIM, Factorial
from kvbook.experiments.ch07.inference import LEVEL, ratio_interval
from kvbook.experiments.ch07.regimes import regimes_at
from kvbook.experiments.ch07.rows import MODERATE
from kvlib import stats
from kvlib.checks import FloatArray
from kvlib.stats import Interval, RankBiserial

SCHEMES = {
    "KV": (NONE, NONE),
    "WHT": (WHT, WHT),
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
    """Effects of single choices, then interactions: log factors on KL, (repetition, regime)."""

    def effect(low: Cell, high: Cell) -> NDArray[np.float64]:
        return cell_effect(factorial, low, high)

    raw, raw_sketched = NONE, replace(NONE, sketch="hadamard")
    sketched_unbiased = QJL_HADAMARD.with_unbiased_scale()
    scale = effect(WHT, EDEN)
    return {
        ROTATION_EFFECT: effect(raw, WHT),
        HAAR_EFFECT: effect(WHT, HAAR),
        "QJL on K: none → Gaussian": effect(WHT, QJL_GAUSSIAN),
        "QJL on K: none → Hadamard": effect(WHT, QJL_HADAMARD),
        "sketch: Hadamard → Haar": effect(QJL_HADAMARD, QJL_HAAR),
        SCALE_EFFECT: scale,
        "rotation × QJL (Hadamard)": effect(WHT, QJL_HADAMARD) - effect(raw, raw_sketched),
        "scale × QJL (Hadamard)": effect(QJL_HADAMARD, sketched_unbiased) - scale,
        "rotation × scale": scale - effect(raw, raw.with_unbiased_scale()),
    }


# Schemes by every measure ----------------------------------------------------------------------


def error_vectors(factorial: Factorial, scheme: str, bits: int) -> NDArray[np.float64]:
    """Shannon rate and angle of K, V and T: (repetition, regime, 6), d=128, moderate spread."""
    columns = []
    for errors in _errors(factorial, scheme, bits):
        columns += [-np.log2(errors[..., 0]) / 2, errors[..., 1]]
    return np.stack(columns, axis=-1)


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


# Comparisons of schemes ------------------------------------------------------------------------


def count_sides(overview: Overview, sketches: Sequence[str]) -> dict[tuple[str, str], list[int]]:
    """In how many regimes KQV is ahead of QKQV, undecided, behind: by (measure, sketch).

    By the paired test, after Holm's correction over measures, sketches and regimes.
    """
    found: list[tuple[tuple[str, str], RankBiserial]] = []
    for measure, sketch in product(overview["KV"], sketches):
        pair = (overview[f"{scheme}, {sketch}"][measure].T for scheme in ("QKQV", "KQV"))
        for sketched, plain in zip(*pair, strict=True):
            test = stats.rank_biserial(sketched, plain, paired=True)
            found.append(((measure, sketch), test))
    corrected = stats.holm([test.pvalue for _, test in found])
    sides: dict[tuple[str, str], list[int]] = {at: [0, 0, 0] for at, _ in found}
    for (at, test), p in zip(found, corrected, strict=True):
        sides[at][1 - int(np.sign(test.r)) if p <= LEVEL else 1] += 1
    return sides


class SchemeComparison(NamedTuple):
    """Two schemes on one regime.

    Attributes
    ----------
    regime, first, second : str
    ratio : Interval
        KL of the second over that of the first.
    paired, unpaired : RankBiserial
        Of the same.
    energy : float
        Root of the energy distance of their six-dimensional error vectors.
    pvalues : tuple of float
        Paired, unpaired, energy: after Holm's correction over all comparisons.
    """

    regime: str
    first: str
    second: str
    ratio: Interval
    paired: RankBiserial
    unpaired: RankBiserial
    energy: float
    pvalues: tuple[float, ...]


def compare_schemes(
    factorial: Factorial,
    pairs: Sequence[tuple[str, str]],
    *,
    bits: int,
    seed: np.random.SeedSequence,
    permutations: int = 999,
) -> list[SchemeComparison]:
    """Compare the KL and the error vectors of pairs of schemes in every regime at d=128."""
    rng = np.random.default_rng(seed)
    names = {name for pair in pairs for name in pair}
    kl = {name: scheme_measures(factorial, name, bits)["KL, mean"] for name in names}
    vectors = {name: error_vectors(factorial, name, bits) for name in names}
    found, pvalues = [], []
    for (f, regime), (first, second) in product(enumerate(regimes_at(OUTPUT_DIM)), pairs):
        x, y = kl[second][:, f], kl[first][:, f]
        paired, unpaired = (stats.rank_biserial(x, y, paired=p) for p in (True, False))
        points = vectors[first][:, f], vectors[second][:, f]
        energy = stats.energy_test(*points, permutations=permutations, rng=rng)
        pvalues += [paired.pvalue, unpaired.pvalue, energy.pvalue]
        root = float(np.sqrt(max(energy.statistic, 0)))
        found.append((regime, first, second, ratio_interval(np.log(x / y)), paired, unpaired, root))
    adjusted = stats.holm(pvalues).reshape(-1, 3)
    return [
        SchemeComparison(*row, pvalues=tuple(p.tolist()))
        for row, p in zip(found, adjusted, strict=True)
    ]
