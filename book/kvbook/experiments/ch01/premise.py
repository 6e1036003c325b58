"""A first look at the premise that the paper's reviewer asks about (C19)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kvbook import ledger
from kvbook.experiments.ch01.heads import CAUSAL, SKETCHED, FloatArray, HeadsKL
from kvbook.experiments.ch02 import EYE, directions, distortion_ratio, law_distances
from kvbook.ledger.words import OURS
from kvlib.data.captured import KVCache
from kvlib.data.heads import heads as heads_of
from kvlib.quantize.rotations import Rotation
from kvlib.stats import Interval, mean_interval

POOLED = "keys of a head under one rotation, all coordinates: KS distance to the law"
CHANNEL = "keys of a head under one rotation, one coordinate: KS distance to the law"
ERROR = "squared error of these keys at n=4, in units of the law's D(4)"
NOISE = 0.04
"""KS distance of some 500 numbers to their own law, the tokens behind one coordinate."""


@dataclass(frozen=True, eq=False)
class KeysUnderRotation:
    """Keys of every captured head under the same Hadamard rotations, one round each.

    Attributes
    ----------
    pooled, channel : ndarray, shape (rotations, heads)
        KS distance of a head's normalised keys to the law of the sphere: of all coordinates
        together, and of each by itself, in the mean.
    error : ndarray, shape (rotations, heads)
        Squared error of the codebook in units of what the law predicts.
    """

    pooled: FloatArray
    channel: FloatArray
    error: FloatArray

    def interval(self, what: FloatArray) -> Interval:
        """Mean over these heads, interval over rotations."""
        return mean_interval(what.mean(axis=1))


def measure_keys(
    caches: Mapping[str, KVCache], *, bits: int, rotations: int, stream: np.random.SeedSequence
) -> KeysUnderRotation:
    """Whether keys follow the law, and what the codebook made for it loses on them.

    Parameters
    ----------
    caches : mapping from name to KVCache
    bits : int
        Of the codebook.
    rotations : int
        The same for all heads, which share their accidents: the rotation is the unit.
    stream : SeedSequence
    """
    keys = [
        directions(head.k.reshape(-1, head.k.shape[-1]))
        for cache in caches.values()
        for head in heads_of(cache)
    ]
    pooled, channel, error = np.empty((3, rotations, len(keys)))
    for r, seed in enumerate(stream.generate_state(rotations).tolist()):
        for h, x in enumerate(keys):
            rotation = Rotation("hadamard", x.shape[-1], seed)
            pooled[r, h], channel[r, h] = law_distances(x, rotation)
            error[r, h] = distortion_ratio(x, rotation, bits)
    return KeysUnderRotation(pooled, channel, error)


def _ratio_labels(arm: str) -> tuple[str, str]:
    """Labels of the KL of an arm over that of KQV: between models, and of the causal heads."""
    start = f"KL of {arm}, over KQV, n=4: "
    return start + "between three models", start + "causal language model, over rotations"


def predict_c19() -> ledger.Predictions:
    """What the reviewer asks, on the heads that we have: none of it decides."""
    ahead = [
        ledger.Prediction(label, ledger.Above(1), "the sketched keys do no worse", scope=OURS)
        for arm in SKETCHED.values()
        for label in _ratio_labels(arm)
    ]
    off = "off the law to the eye"
    laws = [
        ledger.Prediction(POOLED, ledger.Below(EYE), off, scope=OURS),
        ledger.Prediction(CHANNEL, ledger.Below(EYE + NOISE), off, scope=OURS),
    ]
    error = ledger.Prediction(ERROR, ledger.tie(0.05), "off D(4) by more than 5%", scope=OURS)
    return ledger.Predictions(
        "C19",
        [*ahead, *laws, error],
        missing="caches of language models that people use",
    )


def judge_c19(
    predictions: ledger.Predictions, heads: HeadsKL, keys: KeysUnderRotation
) -> ledger.Verdict:
    """Verdict on C19, from the KL of all heads and from their keys under single rotations."""
    measured = {POOLED: keys.pooled, CHANNEL: keys.channel, ERROR: keys.error}
    found = {label: keys.interval(what) for label, what in measured.items()}
    for arm in SKETCHED.values():
        between, causal = _ratio_labels(arm)
        found[between] = heads.ratio(arm, 4).interval
        found[causal] = heads.ratio_in(CAUSAL, arm, 4).interval
    factors = [heads.ratio(arm, 4).interval.estimate for arm in SKETCHED.values()]
    return predictions.verdict(
        found,
        what_is_true="A first look at the 32 captured heads of three small models (d = 32 and 64, "
        f"whole windows, n = 4): keys with a sketch have {factors[0]:.1f} (Gaussian) or "
        f"{factors[1]:.1f} (orthogonal) times the KL of keys without; under one rotation the keys "
        f"miss the Beta law by a KS distance of {found[CHANNEL].estimate:.2f} coordinate by "
        f"coordinate, yet their squared error is {found[ERROR].estimate:.2f} times what the law "
        "predicts. Language models that people use are not tested here.",
        note="Intervals between models have two degrees of freedom; those over rotations are for "
        "these heads. An eye may see a distance of 0.02 in a histogram (chapter 2); one "
        "coordinate has 512 to 1024 tokens, whose sampling noise is allowed for.",
    )
