"""C13, the Jensen bridge: are three clouds of direction error and KL on one curve?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvbook import ledger
from kvbook.experiments.ch11.errors import (
    ANGLE,
    BUDGETS,
    SQUARED,
    Floats,
    errors,
    random_draws,
    rank_correlation,
)
from kvlib import stats
from kvlib.data import synthetic
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer, Scheme

LOGIT_SCALES = (1, 2, 4, 8)
AT4 = BUDGETS.index(4)

APART = "K direction error, {} against {}: r"
TOP = "largest KL of a query, KV, in 12 draws (nats)"
BETWEEN = "{}, three clouds: rank correlation"
INSIDE = "{}, inside the worst cloud: rank correlation"
BRIDGES = ("direction error to KL", "KL to output error")
EQUAL = "KL at equal direction error, {} over KQV"


def bridge_kl_law(angle: ArrayLike, unconcentrated: ArrayLike) -> Floats:
    """T11's KL of keys with independent Student-t entries, ν = 3, at logit scale one.

    Parameters
    ----------
    angle : array
        Direction error ε = θ/π.
    unconcentrated : array
        1 - S2, the chance that two keys drawn by the attention weights differ.
    """
    squared_key = 3  # E|k|^2 / d is the variance ν / (ν - 2); E|q|^2 / d is one
    return np.asarray(
        squared_key * np.sin(np.pi * np.asarray(angle)) ** 2 / 2 * np.asarray(unconcentrated)
    )


def predict_c13() -> ledger.Predictions:
    """Clouds apart, KV's worst query near 4 nats, and one curve in each of three tests."""
    apart = [
        ledger.Prediction(APART.format(*pair), ledger.Below(-0.75), "clouds that overlap")
        for pair in (("KQV", "QKQV"), ("QKQV", "KV"))
    ]
    top = ledger.Prediction(TOP, ledger.Within(4, 2), "a scale off by half or more")
    equal = [
        ledger.Prediction(EQUAL.format(name), ledger.Within(1, 0.25), "two curves a quarter apart")
        for name in ("QKQV", "KV")
    ]
    first, second = (_predict_common_order(bridge) for bridge in BRIDGES)
    return ledger.Predictions("C13", [*apart, top, *first, *equal, *second])


def _predict_common_order(bridge: str) -> list[ledger.Prediction]:
    return [
        ledger.Prediction(BETWEEN.format(bridge), ledger.Above(0.8), "no common order"),
        ledger.Prediction(INSIDE.format(bridge), ledger.Above(0.5), "no curve inside a cloud"),
    ]


@dataclass(frozen=True)
class Bridge:
    """Three clouds of figure 3.

    Attributes
    ----------
    clouds : sequence of str
        KQV, QKQV, KV.
    angles, kls, outputs : array, shape (cloud, budget 2..6, draw)
        Direction error of K, KL (nats) and relative squared output error, at logit scale one.
    tops : array, shape (cloud, logit scale, draw)
        Largest KL of a query, n = 4.
    unconcentrated : array, shape (draw,)
        1 - S2 of the exact attention weights, mean over queries.
    """

    clouds: Sequence[str]
    angles: Floats
    kls: Floats
    outputs: Floats
    tops: Floats
    unconcentrated: Floats

    def at_four_bits(self) -> tuple[Floats, Floats, Floats]:
        """Direction error, KL and output error at n = 4: (cloud, draw) each."""
        return self.angles[:, AT4], self.kls[:, AT4], self.outputs[:, AT4]

    def at_equal_direction(self, cloud: str) -> stats.Interval:
        """KL of a cloud at n = 4 over KQV's curve through n = 2..6 at the same direction error."""
        i, curve = self.clouds.index(cloud), self.clouds.index("KQV")
        x, y = np.log(self.angles[i, AT4]), np.log(self.kls[i, AT4])
        # np.interp wants rising abscissas: from six bits to two.
        angles, kls = (np.log(z[curve, ::-1]) for z in (self.angles, self.kls))
        there = [np.interp(x[j], angles[:, j], kls[:, j]) for j in range(x.size)]
        return stats.geometric_mean_interval(np.exp(y - there))

    def largest_kl(self, scale: int = 1) -> float:
        """Largest KL of any query of KV at a logit scale, n = 4 (nats)."""
        return float(self.tops[self.clouds.index("KV"), LOGIT_SCALES.index(scale)].max())


def measure_bridge(
    schemes: Mapping[str, Callable[[int], Scheme]],
    stream: np.random.SeedSequence,
    *,
    draws: int,
    tokens: int,
    queries: int,
    dim: int,
) -> Bridge:
    """Direction error, KL and output error of schemes at each budget, Student-t keys, ν = 3."""
    trials, unconcentrated = [], []
    for rng, seed in random_draws(stream, draws):
        k, v = (
            synthetic.draw(synthetic.student_t(3), tokens, dim, rng=rng).astype(np.float32)
            for _ in range(2)
        )
        q = rng.standard_normal((queries, dim))
        trials.append(
            [[_trial(make(n), q, k, v, seed) for n in BUDGETS] for make in schemes.values()]
        )
        rows = attention.row_statistics(attention.attention_weights(q, k))
        unconcentrated.append(1 - rows.S2.mean())
    # Axes (cloud, budget, quantity, draw).
    found = np.array(trials).transpose(1, 2, 3, 0)
    angles, outputs, kls = (found[:, :, i] for i in range(3))
    return Bridge(tuple(schemes), angles, kls, outputs, found[:, AT4, 3:], np.array(unconcentrated))


def _trial(
    scheme: Scheme, q: Floats, k: NDArray[np.float32], v: NDArray[np.float32], seed: int
) -> list[float]:
    """Direction error, output error, mean KL, then the largest KL at each logit scale."""
    assert isinstance(scheme.key, RotatedQuantizer)
    k_hat, v_hat = scheme.encode(k, v, seed=seed).decode()
    # Other scales than one are looked at with four bits only.
    scales = LOGIT_SCALES if scheme.key.bits == 4 else LOGIT_SCALES[:1]
    kl = attention.attention_kl(np.stack([s * q for s in scales]), k, k_hat)
    t, t_hat = (attention.attention_output(q, *pair) for pair in ((k, v), (k_hat, v_hat)))
    tops = np.full(len(LOGIT_SCALES), np.nan)
    tops[: len(scales)] = kl.max(axis=-1)
    return [errors(k, k_hat)[ANGLE], errors(t, t_hat)[SQUARED], kl.mean(axis=-1)[0], *tops]


def over_the_law(bridge: Bridge) -> dict[str, stats.Interval]:
    """KL at n = 4 over T11's, without fitting, by cloud: geometric means of the draws."""
    angles, kls, _ = bridge.at_four_bits()
    expected = bridge_kl_law(angles, bridge.unconcentrated)
    return {
        name: stats.geometric_mean_interval(kls[i] / expected[i])
        for i, name in enumerate(bridge.clouds)
    }


def lowest_inside(x: Floats, y: Floats) -> stats.Interval:
    """Rank correlation inside the cloud where it is lowest; x and y are (cloud, draw)."""
    inside = [rank_correlation(*pair) for pair in zip(x, y, strict=True)]
    return min(inside, key=lambda i: i.estimate)


def judge_c13(predictions: ledger.Predictions, bridge: Bridge) -> ledger.Verdict:
    """Judge the clouds at four bits, KV's worst query in groups of 12 draws, and the curves."""
    angles, kls, outputs = bridge.at_four_bits()
    worst_of_12 = bridge.tops[bridge.clouds.index("KV"), 0].reshape(-1, 12).max(axis=1)
    found = {
        APART.format("KQV", "QKQV"): stats.rank_biserial(angles[0], angles[1]).interval,
        APART.format("QKQV", "KV"): stats.rank_biserial(angles[1], angles[2]).interval,
        TOP: stats.mean_interval(worst_of_12),
    }
    for bridge_name, x, y in zip(BRIDGES, (angles, kls), (kls, outputs), strict=True):
        found[BETWEEN.format(bridge_name)] = rank_correlation(x.ravel(), y.ravel())
        found[INSIDE.format(bridge_name)] = lowest_inside(x, y)
    for name in ("QKQV", "KV"):
        found[EQUAL.format(name)] = bridge.at_equal_direction(name)
    return predictions.verdict(
        found,
        note="Three clouds, yes; 4 nats, yes, for the worst query. KQV and QKQV share a curve in "
        "direction error, KV lies above it. From KL to output error all three share one.",
    )
