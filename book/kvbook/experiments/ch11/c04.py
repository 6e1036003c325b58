"""C04: the catastrophe of low rank at d=1024, with one logit spread and with lengths as drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvbook import ledger
from kvbook.experiments.ch07.cells import SKETCHED, WHT, reconstruction_errors
from kvbook.experiments.ch07.inference import ratio_interval
from kvbook.experiments.ch07.regimes import EXTREME, GAUSSIAN, HEAVY
from kvbook.experiments.ch11.c03 import LOW_RANK, PANELS, Boxes
from kvbook.experiments.ch11.errors import Floats
from kvbook.experiments.common import children
from kvlib import stats
from kvlib.data import synthetic
from kvlib.measure import attention
from kvlib.stats import Interval

WIDE = 1024
BITS_OF_LENGTHS = 4
PRODUCT = "rank 128, product of unscaled factors"
UNIT = "rank 128, unit mean square"
AS_LONG = "Gaussian, as long as the product"
LENGTHS = {
    GAUSSIAN: (synthetic.GAUSSIAN, 1.0),
    HEAVY: (synthetic.student_t(3), 1.0),
    EXTREME: (synthetic.student_t(1.05), 1.0),
    UNIT: (synthetic.low_rank(128), 1.0),
    PRODUCT: (synthetic.low_rank(128), math.sqrt(128)),
    AS_LONG: (synthetic.GAUSSIAN, math.sqrt(128)),
}
"""Law of the keys, and of the queries, and the factor on it."""
_CELLS = (WHT, *SKETCHED.values())

ONE_SPREAD = "rank 32, one logit spread, against ν=3"
AS_DRAWN = "rank 128, product of factors scaled to unit mean square, against ν=3"
GROWING = "rank 128, product of unscaled factors, against ν=3"
GROWING_EXTREME = "rank 128, product of unscaled factors, against ν=1.05"
READINGS = (ONE_SPREAD, AS_DRAWN, GROWING, GROWING_EXTREME)

OVER_HEAVY = "{}: KL of low rank over heavy tail"
NATS = "{}: KL of low rank, nats"
OVER_FULL = "rank 128, product of unscaled factors: KL over full-rank Gaussian keys of equal length"
SKETCH = "heavy tail {}: KL of 3+1 bits over 4 bits, Gaussian sketch"
MISSING = (
    'the end of the caption, which breaks off after "heavy tail is the only case where MSE+QJL"'
)


def predict_c04() -> ledger.Predictions:
    """Ten to a hundred times the heavy tail and 1 to 10 nats, by some reading of the lengths."""
    order = [
        ledger.Prediction(
            OVER_HEAVY.format(reading),
            ledger.Within(55, 45),
            "less than one order of magnitude, or more than two",
            reading=reading,
        )
        for reading in READINGS
    ]
    size = [
        ledger.Prediction(
            NATS.format(reading),
            ledger.Within(5.5, 4.5),
            "outside 1 to 10 nats",
            part="number",
            reading=reading,
        )
        for reading in READINGS
    ]
    cause = ledger.Prediction(
        OVER_FULL, ledger.Above(2), "full rank does the same: length, not rank", scope="ours"
    )
    guesses = [
        ledger.Prediction(
            SKETCH.format(name), ledger.Below(1.1), "MSE ahead by more than 10%", scope="shown"
        )
        for name in (HEAVY, EXTREME)
    ]
    pilots = "That the factors are left unscaled, and their rank of 128, were chosen by a pilot"
    checks = [*order, *size, cause, *guesses]
    return ledger.Predictions("C04", checks, missing=MISSING, pilots=pilots)


@dataclass(frozen=True, eq=False)
class Lengths:
    """KL at four bits with lengths as drawn, keys and queries of one law.

    Attributes
    ----------
    kl : array, shape (draw, cell, keys)
        Mean over queries, nats. Cells: all four bits in the codebook, three and a Gaussian
        sketch, three and a Hadamard sketch; keys as in :data:`LENGTHS`.
    """

    kl: Floats

    def nats(self, keys: str) -> Interval:
        """KL of four bits."""
        return stats.mean_interval(self.kl[:, 0, _place(keys)])

    def sketch_ratio(self, keys: str, sketch: str) -> Interval:
        """KL of three bits and a sketch over that of four bits."""
        kl = self.kl[:, :, _place(keys)]
        return stats.geometric_mean_interval(kl[:, 1 + list(SKETCHED).index(sketch)] / kl[:, 0])

    def keys_ratio(self, high: str, low: str) -> Interval:
        """KL of four bits on some keys over that on others."""
        kl = self.kl[:, 0]
        return stats.geometric_mean_interval(kl[:, _place(high)] / kl[:, _place(low)])


def _place(keys: str) -> int:
    return list(LENGTHS).index(keys)


def measure_lengths(
    stream: np.random.SeedSequence, *, draws: int, tokens: int, queries: int
) -> Lengths:
    """Measure KL at d=1024 and the usual scale 1/sqrt(d), no length changed but by the factor."""
    return Lengths(
        np.array(
            [_draw(tokens, queries, np.random.default_rng(c)) for c in children(stream, draws)]
        )
    )


def _draw(tokens: int, queries: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """KL of one head a law: (cell, keys)."""
    k, q = _as_drawn(tokens, rng), _as_drawn(queries, rng)
    at, seed = (BITS_OF_LENGTHS,), int(rng.integers(2**31))
    errors = dict(reconstruction_errors(k, _CELLS, at, seed=seed))
    k_hat = k + np.stack([errors[cell, BITS_OF_LENGTHS] for cell in _CELLS])
    return np.asarray(attention.attention_kl(q, k, k_hat).mean(axis=-1))


def _as_drawn(count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Vectors of every law, shape (law, count, d)."""
    drawn = [factor * synthetic.draw(law, count, WIDE, rng=rng) for law, factor in LENGTHS.values()]
    return np.array(drawn, dtype=np.float32)


def low_rank_by_reading(boxes: Boxes, lengths: Lengths) -> dict[str, tuple[Interval, Interval]]:
    """Reading to the KL of low rank over that of the heavy tail, and to the former in nats."""
    panel = boxes.kl[WIDE][:, 0]
    low, heavy = (panel[:, PANELS[WIDE].index(name)] for name in (LOW_RANK[WIDE], HEAVY))
    return {
        ONE_SPREAD: (ratio_interval(np.log(low / heavy)), stats.mean_interval(low)),
        AS_DRAWN: (lengths.keys_ratio(UNIT, HEAVY), lengths.nats(UNIT)),
        GROWING: (lengths.keys_ratio(PRODUCT, HEAVY), lengths.nats(PRODUCT)),
        GROWING_EXTREME: (lengths.keys_ratio(PRODUCT, EXTREME), lengths.nats(PRODUCT)),
    }


def judge_c04(predictions: ledger.Predictions, boxes: Boxes, lengths: Lengths) -> ledger.Verdict:
    """Low rank at d=1024 against heavy tails, in nats, and against full rank of equal length."""
    found = low_rank_by_reading(boxes, lengths)
    full = lengths.keys_ratio(PRODUCT, AS_LONG)
    measured = {OVER_HEAVY.format(reading): ratio for reading, (ratio, _) in found.items()}
    measured |= {NATS.format(reading): found[reading][1] for reading in READINGS}
    measured[OVER_FULL] = full
    for name in (HEAVY, EXTREME):
        measured[SKETCH.format(name)] = lengths.sketch_ratio(name, "gaussian")
    return predictions.verdict(
        measured,
        what_is_true=(
            "At d = 1024 and four bits, rank-128 keys and queries made as a product of unscaled "
            f"Gaussian factors have a KL of {found[GROWING][1].estimate:.1f} nats, "
            f"{found[GROWING][0].estimate:.0f} times that of Student-t keys with ν = 3, and "
            f"full-rank Gaussian keys of the same length have about the same ({full.estimate:.2f} "
            f"times, {full.low:.2f} to {full.high:.2f}): it is the length of the logits, not rank; "
            "at one logit spread, and rank 32, the ratio is "
            f"{found[ONE_SPREAD][0].estimate:.2f}."
        ),
        note="The two readings with unscaled factors have the same keys: their size in nats is "
        "one number.",
    )
