"""T10: what can draw the published pattern. The verdict, and the two hypotheses' other marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product

import numpy as np

from kvbook import ledger
from kvbook.experiments.ch06.damage import Setting, Training
from kvbook.experiments.ch06.keys import KINDS, MEASURES, KeyErrors, draw_keys
from kvbook.experiments.ch06.rule import (
    BUDGETS,
    ORTHOGONAL_MMSE,
    PUBLISHED,
    Budgets,
    Sketch,
    set_name,
    sketch_constant,
)
from kvbook.experiments.common import distortion
from kvlib.checks import FloatArray
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer
from kvlib.stats import Interval, proportion_interval

_TRIAL = "{{2,3,5}} at the trial's setting, {} iterations, share of samples"
_SEARCH = "{2,3,5} in the whole search, number of settings"
_LIVE = "set explained by live levels, d ≥ 256, ≥ 2^14 samples, 300 iterations, share"
_KINDS = "kinds of keys that show {2,3,5} with one such codebook, share"
_CONVERGED = "control, Lloyd-Max codebooks: winning budgets"
_ON_LAW = "control, iterations on the exact law: settings with {2,3,5}"
GAUSSIAN_CONTROL = "control, Gaussian sketch: settings with {2,3,5}"
"""Label of the check that holds where the set is never found at all."""


def predict_t10() -> ledger.Predictions:
    """The pattern is no rare accident of damaged codebooks; three controls do not show it."""
    rows: list[tuple[str, ledger.Rule, str]] = [
        (_TRIAL.format(100), ledger.Above(0.1), "rarer than one sample in ten"),
        (_TRIAL.format(300), ledger.Above(0.1), "rarer than one in ten"),
        (_SEARCH, ledger.Above(1), "it does not occur"),
        (_LIVE, ledger.Above(0.8), "explains less than four in five"),
        (_KINDS, ledger.Above(0.5), "less than half of the kinds"),
        (_CONVERGED, ledger.Below(0), "any"),
        (_ON_LAW, ledger.Below(0), "any"),
        (GAUSSIAN_CONTROL, ledger.Below(0), "any"),
    ]
    return ledger.Predictions("T10", [ledger.Prediction(*row) for row in rows])


def kinds_with_pattern(exhibit: KeyErrors, sketch: Sketch = ORTHOGONAL_MMSE) -> dict[str, int]:
    """Kinds of keys with exactly the published set, by measure of error."""
    return {
        name: exhibit.winning_sets(sketch, i).count(PUBLISHED) for i, name in enumerate(MEASURES)
    }


def kinds_without_pattern(exhibit: KeyErrors, sketch: Sketch = ORTHOGONAL_MMSE) -> list[str]:
    """Kinds of keys with another set in some measure of error, and that set."""
    found = {
        f"{', '.join(kind)}: {set_name(budgets)}"
        for measure in range(len(MEASURES))
        for kind, budgets in zip(KINDS, exhibit.winning_sets(sketch, measure), strict=True)
        if budgets != PUBLISHED
    }
    return sorted(found)


def exhibit_numbers(
    fitting: Sequence[Training], iterations: int, exhibit: KeyErrors
) -> dict[str, float]:
    """Numbers for the text.

    Parameters
    ----------
    fitting : sequence of Training
        The trainings with the published set; the first is the exhibit.
    iterations : int
    exhibit : KeyErrors
        Of its codebook on the kinds of keys.
    """
    tally = exhibit.tally(ORTHOGONAL_MMSE)
    at_four = [
        sketch_constant(ORTHOGONAL_MMSE, t.dim) * errors[2] / errors[3]
        for t in fitting
        for errors in [t.distortions(iterations)]
    ]
    return {
        "exhibit-cells": float(min(kinds_with_pattern(exhibit).values())),
        "exhibit-decided": float(sum(tally) - tally.undecided),
        "exhibit-n4": at_four[0],
        "four-low": min(at_four),
        "four-high": max(at_four),
    }


def judge_t10(
    predictions: ledger.Predictions,
    *,
    trial: Mapping[int, Sequence[Budgets]],
    search: Sequence[Setting],
    explained: Sequence[bool],
    exhibit: KeyErrors,
    converged: int,
    on_law: Sequence[Setting],
) -> ledger.Verdict:
    """Hold the evidence on damaged codebooks against the predictions.

    Parameters
    ----------
    predictions : Predictions
    trial : mapping
        {iterations: winning set of each sample} at the setting of the trial.
    search, on_law : sequence of Setting
        Of the space searched, and of iterations on the exact law.
    explained : sequence of bool
        Whether live levels explain the set, one a sample.
    exhibit : KeyErrors
        Of one damaged codebook on the kinds of keys.
    converged : int
        Winning budgets with the best codebooks.
    """
    hits = [setting for setting in search if setting.is_published]
    gaussian = sum(setting.sketch == "Gaussian" for setting in hits)
    kinds = min(kinds_with_pattern(exhibit).values())
    measured = {
        _TRIAL.format(total): proportion_interval(list(sets).count(PUBLISHED), len(sets))
        for total, sets in trial.items()
    } | {
        _SEARCH: Interval.exactly(len(hits)),
        _LIVE: proportion_interval(int(sum(explained)), len(explained)),
        _KINDS: proportion_interval(kinds, exhibit.count),
        _CONVERGED: Interval.exactly(converged),
        _ON_LAW: Interval.exactly(sum(setting.is_published for setting in on_law)),
        GAUSSIAN_CONTROL: Interval.exactly(gaussian),
    }
    return predictions.verdict(
        measured,
        note="It is dead levels, not missing iterations, that leave a gap: 300 iterations give "
        "what 100 gave, and slow convergence alone gives runs of neighbouring budgets.",
    )


def measure_kl_ratios(
    sketched: Mapping[int, RotatedQuantizer],
    plain: Mapping[int, RotatedQuantizer],
    *,
    dim: int,
    draws: int,
    seed: np.random.SeedSequence,
    tokens: int = 32,
    queries: int = 24,
) -> dict[int, float]:
    """Attention KL of sketched over plain keys at each budget.

    Geometric mean over queries, kinds of keys and draws; keys are scaled to norm sqrt(d).

    Parameters
    ----------
    sketched, plain : mapping
        Quantizers of the keys, by budget.
    """
    logs = []
    for rng in np.random.default_rng(seed).spawn(draws):
        keys = draw_keys(list(KINDS.values()), tokens, dim, rng) * np.float32(np.sqrt(dim))
        q = rng.standard_normal((len(KINDS), queries, dim)).astype(np.float32)
        key_seed = int(rng.integers(2**31))
        kl, kl_plain = (
            np.stack([_mean_kl(q, keys, arm[n], key_seed) for n in BUDGETS])
            for arm in (sketched, plain)
        )
        logs.append(np.log(kl / kl_plain).mean(axis=-1))
    ratios = np.exp(np.mean(logs, axis=0)).tolist()
    return dict(zip(BUDGETS, ratios, strict=True))


def _mean_kl(q: FloatArray, keys: FloatArray, quantizer: RotatedQuantizer, seed: int) -> FloatArray:
    """KL of attention on quantized keys, mean over the queries: one number a kind of keys."""
    decoded = quantizer.encode(keys, seed=seed).decode()
    return np.asarray(attention.attention_kl(q, keys, decoded).mean(axis=-1))


# The other hypothesis: code widths that are powers of two ----------------------------------------


def round_up(bits: int) -> int:
    """The least power of two that is not below."""
    return 1 << (bits - 1).bit_length()


def round_down(bits: int) -> int:
    """The largest power of two that is not above."""
    return 1 << (bits.bit_length() - 1)


ROUNDING: dict[str, Callable[[int], int]] = {
    "exact": int,
    "rounded up": round_up,
    "rounded down": round_down,
}
"""Conventions for the width in which a code is stored."""


def width_set(key_rule: str, sketch_rule: str, sketch: Sketch, dim: int) -> Budgets:
    """Winning set when KQV's and QKQV's codes use the levels of a rounded width."""
    c = sketch_constant(sketch, dim)
    widths, coarse = ROUNDING[key_rule], ROUNDING[sketch_rule]
    return tuple(
        n for n in BUDGETS if c * distortion(dim, coarse(n - 1)) < distortion(dim, widths(n))
    )


def width_sets(sketches: Iterable[Sketch], dim: int) -> list[Budgets]:
    """The winning sets of all pairs of conventions and all sketches."""
    return [width_set(*rules, dim) for rules in product(ROUNDING, ROUNDING, sketches)]


def stored_bits(budget: int) -> tuple[int, int]:
    """Bits a coordinate of KQV and of QKQV when codes are padded to a power of two."""
    return round_up(budget), round_up(budget - 1) + 1
