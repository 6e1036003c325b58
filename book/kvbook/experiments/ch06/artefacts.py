"""T10: what can draw the published pattern. The verdict, and what else such codebooks do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    sketch_constant,
)
from kvlib.checks import FloatArray
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer
from kvlib.stats import Interval, proportion_interval

_SHARE = "{{2,3,5}} at the chosen setting, {:,} iterations, share of samples"
_FIXED = "of these, codebooks that one more iteration leaves as they are, share"
_LIVE = "set explained by live levels, d ≥ 256, ≥ 2^14 samples, share"
_KINDS = "kinds of keys that show {2,3,5} with one such codebook, share"
_SLOW = "missing iterations alone (exact law): settings with {2,3,5}, share"
_SEARCH = "{2,3,5} in the whole search, number of settings"
_CONVERGED = "Lloyd–Max codebooks: winning budgets"
_GAUSSIAN = "Gaussian sketch: settings with {2,3,5}"

FEW, MANY = 100, 1000
"""Iterations after which the codebooks of the chosen setting are looked at."""


def predict_t10() -> ledger.Predictions:
    """Fixed points with dead levels give the pattern, and no rare ones; slowness does not."""
    rows: list[tuple[str, ledger.Rule, str, str]] = [
        (_SHARE.format(MANY), ledger.Above(0.1), "rarer than one sample in ten", "claim"),
        (_FIXED, ledger.Above(0.8), "more than one in five still moves", "claim"),
        (_LIVE, ledger.Above(0.8), "explains less than four in five", "claim"),
        (_KINDS, ledger.Above(0.5), "less than half of the kinds", "claim"),
        (_SLOW, ledger.Below(0.05), "more than one setting in twenty", "claim"),
        (_SHARE.format(FEW), ledger.Above(0.1), "rarer than one sample in ten", "ours"),
        (_SEARCH, ledger.Above(1), "it does not occur", "shown"),
        (_CONVERGED, ledger.Below(0), "any", "shown"),
        (_GAUSSIAN, ledger.Below(0), "any", "shown"),
    ]
    return ledger.Predictions(
        "T10",
        [
            ledger.Prediction(label, rule, falsifier, scope=scope)
            for label, rule, falsifier, scope in rows
        ],
        pilots="the setting d = 256, 2^14 samples, start [−1, 1]: the pattern had been seen there",
    )


def kinds_with_pattern(exhibit: KeyErrors, sketch: Sketch = ORTHOGONAL_MMSE) -> dict[str, int]:
    """Kinds of keys with exactly the published set, by measure of error."""
    return {
        name: exhibit.winning_sets(sketch, i).count(PUBLISHED) for i, name in enumerate(MEASURES)
    }


def exhibit_ratios(training: Training, iterations: int) -> dict[int, float]:
    """Error of QKQV over error of KQV by the rule, least-error sketch, by budget."""
    c = sketch_constant(ORTHOGONAL_MMSE, training.dim)
    errors = training.distortions(iterations)
    return {n: c * errors[n - 2] / errors[n - 1] for n in BUDGETS}


def exhibit_numbers(training: Training, iterations: int, exhibit: KeyErrors) -> dict[str, float]:
    """Numbers for the text: kinds of keys with the pattern, and the ratios by the rule.

    Parameters
    ----------
    training : Training
        Whose codebook after so many iterations is the exhibit.
    iterations : int
    exhibit : KeyErrors
        Of that codebook on the kinds of keys.
    """
    ratios = exhibit_ratios(training, iterations)
    return {
        "exhibit-cells": float(min(kinds_with_pattern(exhibit).values())),
        **{f"exhibit-n{n}": ratio for n, ratio in ratios.items()},
    }


def judge_t10(
    predictions: ledger.Predictions,
    *,
    chosen: Mapping[int, Sequence[Budgets]],
    fixed: Sequence[bool],
    explained: Sequence[bool],
    exhibit: KeyErrors,
    on_law: Sequence[Setting],
    search: Sequence[Setting],
    converged: int,
) -> ledger.Verdict:
    """Hold the evidence on damaged codebooks against the predictions.

    Parameters
    ----------
    predictions : Predictions
    chosen : mapping
        {iterations: winning set of each sample} at the chosen setting.
    fixed : sequence of bool
        Whether another iteration changes nothing, one a sample with the published set.
    explained : sequence of bool
        Whether live levels explain the set, one a sample.
    exhibit : KeyErrors
        Of one damaged codebook on the kinds of keys.
    on_law, search : sequence of Setting
        Of iterations on the exact law, and of the space searched.
    converged : int
        Winning budgets with the best codebooks.
    """
    hits = [setting for setting in search if setting.is_published]
    slow = sum(setting.is_published for setting in on_law)
    kinds = min(kinds_with_pattern(exhibit).values())
    measured = {
        _SHARE.format(total): proportion_interval(list(sets).count(PUBLISHED), len(sets))
        for total, sets in chosen.items()
    } | {
        _FIXED: proportion_interval(int(sum(fixed)), len(fixed)),
        _LIVE: proportion_interval(int(sum(explained)), len(explained)),
        _KINDS: proportion_interval(kinds, exhibit.count),
        _SLOW: proportion_interval(slow, len(on_law)),
        _SEARCH: Interval.exactly(len(hits)),
        _CONVERGED: Interval.exactly(converged),
        _GAUSSIAN: Interval.exactly(sum(setting.sketch == "Gaussian" for setting in hits)),
    }
    share = measured[_SHARE.format(MANY)].estimate
    return predictions.verdict(
        measured,
        what_is_true="Lloyd iterations from equally spaced levels on [−1, 1] leave levels dead for "
        f"good, and the fixed points they reach give {{2,3,5}} against {{4,6}} in {share:.0%} of "
        "fresh samples at d = 256 with 2^14 training coordinates and the least-error sketch; "
        f"iterations that are merely too few gave it in {slow} of {len(on_law)} settings.",
        note="Shares come with 95% Clopper–Pearson intervals over fresh samples; for the kinds of "
        "keys and the settings on the exact law, which are chosen and not drawn, the interval "
        "only says how many were tried.",
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
