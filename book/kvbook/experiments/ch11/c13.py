"""C13, the Jensen bridge: three clouds of direction error and KL, and one curve down the chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from kvbook import ledger
from kvbook.experiments.ch11.errors import (
    ANGLE,
    SQUARED,
    Floats,
    errors,
    random_draws,
    rank_correlation,
)
from kvlib import stats
from kvlib.data import synthetic
from kvlib.measure import attention
from kvlib.quantize import Scheme

LOGIT_SCALES = (1, 2, 4, 8)
CURVE_BUDGETS = range(1, 5)
"""Through these budgets KQV's curve can be drawn; the claim's own start at two bits."""
QUANTITIES = ("direction", "KL", "routing", "output")

# The links of the chain: where the three clouds should lie on one curve.
LINKS = {"KL to routing": ("KL", "routing"), "KL to output": ("KL", "output")}
LEFT_PANEL = ("direction", "KL")

APART = "K direction error, {} against {}: r"
APART_IN_KL = "KL, {} against {}: r"
FAR = "K direction error, KV over QKQV"
TOP = "largest KL of a query, KV, in 72 draws (nats)"
BETWEEN = "{}, three clouds: rank correlation"
INSIDE = "{}, inside the worst cloud: rank correlation"
EQUAL = "{}, {} over KQV at equal KL"
LEFT_EQUAL = "KL at equal direction error, {} over KQV"
FROM_ONE_BIT = "{}, KV over KQV at equal KL, KQV's curve continued to one bit"

A_QUARTER = 0.25
"""How far two schemes may be apart at equal abscissa and still be on one curve."""


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
    """Clouds apart and one curve in both links; 4 nats; of the left panel what we derive."""
    apart = [
        ledger.Prediction(
            APART.format(*pair),
            ledger.Below(-0.75),
            "clouds that overlap",
            exception=f"{pair[0]} and {pair[1]} apart in direction error",
        )
        for pair in (("KQV", "QKQV"), ("KQV", "KV"), ("QKQV", "KV"))
    ]
    apart += [
        ledger.Prediction(
            APART_IN_KL.format(*pair),
            ledger.Below(-0.75),
            "clouds that overlap",
            exception=f"{pair[0]} and {pair[1]} apart in KL",
        )
        for pair in (("KQV", "QKQV"), ("KQV", "KV"), ("QKQV", "KV"))
    ]
    far = ledger.Prediction(
        FAR,
        ledger.Above(1 + A_QUARTER),
        "KV hardly to the right of QKQV",
        exception="KV far to the right of QKQV",
    )
    links = [check for link in LINKS for check in _predict_one_curve(link)]
    top = ledger.Prediction(
        TOP, ledger.Within(4, 2), "off by more than a maximum scatters", part="number"
    )
    return ledger.Predictions(
        "C13",
        [*links, *apart, far, top, *_predict_left_panel(), *_predict_from_one_bit()],
        pilots="The bound of -0.75 (one of -0.95 could not be met with 72 draws); how KQV's curve "
        "is drawn, and the number of draws, from the spread of the ratios and the overlap.",
    )


def _predict_one_curve(link: str) -> list[ledger.Prediction]:
    """What "one monotone curve" asks of a link."""
    within = ledger.Within(1, A_QUARTER)
    return [
        ledger.Prediction(BETWEEN.format(link), ledger.Above(0.8), "no common order"),
        ledger.Prediction(INSIDE.format(link), ledger.Above(0.5), "no curve inside a cloud"),
        *(
            ledger.Prediction(EQUAL.format(link, name), within, "two curves a quarter apart")
            for name in ("QKQV", "KV")
        ),
    ]


def _predict_left_panel() -> list[ledger.Prediction]:
    """Where no collapse is claimed: rotated schemes share T11's curve, KV lies above it."""
    rules: dict[str, tuple[ledger.Rule, str]] = {
        "QKQV": (ledger.Within(1, A_QUARTER), "two rotated schemes on two curves"),
        "KV": (ledger.Above(1 + A_QUARTER), "KV on the curve of the rotated schemes"),
    }
    return [
        ledger.Prediction(LEFT_EQUAL.format(name), *rule, scope="ours")
        for name, rule in rules.items()
    ]


def _predict_from_one_bit() -> list[ledger.Prediction]:
    """The links where most of KV's draws are: at a KL that KQV has with less than two bits."""
    within = ledger.Within(1, A_QUARTER)
    return [
        ledger.Prediction(
            FROM_ONE_BIT.format(link), within, "two curves a quarter apart", scope="ours"
        )
        for link in LINKS
    ]


@dataclass(frozen=True)
class Bridge:
    """Three clouds of figure 3, keys quantized and values exact.

    Attributes
    ----------
    clouds : sequence of str
        KQV, QKQV, KV.
    points : array, shape (4, cloud, draw)
        QUANTITIES at n = 4 and logit scale one: direction error of K as angle/π, KL (nats),
        misrouted weight and relative squared error of the output, means over queries.
    curve : array, shape (4, budget, draw)
        The same of KQV at CURVE_BUDGETS.
    tops : array, shape (cloud, logit scale, draw)
        Largest KL of a query, n = 4.
    unconcentrated : array, shape (draw,)
        1 - S2 of the exact attention weights, mean over queries.
    """

    clouds: Sequence[str]
    points: Floats
    curve: Floats
    tops: Floats
    unconcentrated: Floats

    def of(self, quantity: str) -> Floats:
        """One of QUANTITIES at n = 4: (cloud, draw)."""
        return np.asarray(self.points[QUANTITIES.index(quantity)])

    def ratios_at_equal(self, cloud: str, pair: tuple[str, str], lowest: int = 2) -> Floats:
        """y of a cloud over KQV's curve at the same x, for the draws in which the curve reaches it.

        Parameters
        ----------
        cloud : str
        pair : tuple of str
            The quantities x and y.
        lowest : int
            The budget that KQV's curve starts at. Between budgets it is a monotone cubic in the
            logarithms.
        """
        i, first = self.clouds.index(cloud), CURVE_BUDGETS.index(lowest)
        x, y = (np.log(self.of(name)[i]) for name in pair)
        xs, ys = (np.log(self.curve[QUANTITIES.index(name), first:]) for name in pair)
        found = []
        for j in range(x.size):
            order = np.argsort(xs[:, j])
            if xs[:, j].min() <= x[j] <= xs[:, j].max():
                there = PchipInterpolator(xs[order, j], ys[order, j])(x[j])
                found.append(y[j] - float(there))
        return np.exp(found)

    def at_equal(self, cloud: str, pair: tuple[str, str], lowest: int = 2) -> stats.Interval:
        """Geometric mean of these ratios over draws."""
        return stats.geometric_mean_interval(self.ratios_at_equal(cloud, pair, lowest))

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
    """The four quantities of each scheme at n = 4, and along KQV's curve; Student t, ν = 3."""
    points, curve, tops, unconcentrated = [], [], [], []
    for rng, seed in random_draws(stream, draws):
        k, v = (
            synthetic.draw(synthetic.student_t(3), tokens, dim, rng=rng).astype(np.float32)
            for _ in range(2)
        )
        q = rng.standard_normal((queries, dim))
        at_four = [_decoded_keys(make(4), k, seed) for make in schemes.values()]
        along = [_decoded_keys(schemes["KQV"](n), k, seed) for n in CURVE_BUDGETS]
        points.append([_chain(q, k, v, k_hat) for k_hat in at_four])
        curve.append([_chain(q, k, v, k_hat) for k_hat in along])
        scaled = np.stack([s * q for s in LOGIT_SCALES])
        tops.append([attention.attention_kl(scaled, k, x).max(axis=-1) for x in at_four])
        rows = attention.row_statistics(attention.attention_weights(q, k))
        unconcentrated.append(1 - rows.S2.mean())
    # Axes (quantity, cloud or budget, draw).
    at_four_bits, along_curve = (np.array(x).transpose(2, 1, 0) for x in (points, curve))
    of_queries = np.array(tops).transpose(1, 2, 0)
    return Bridge(tuple(schemes), at_four_bits, along_curve, of_queries, np.array(unconcentrated))


def _decoded_keys(scheme: Scheme, k: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    return np.asarray(scheme.key.encode(k, seed=seed).decode())


def _chain(
    q: Floats, k: NDArray[np.float32], v: NDArray[np.float32], k_hat: NDArray[np.float32]
) -> list[float]:
    """QUANTITIES of one draw, values exact."""
    p, p_hat = (attention.attention_weights(q, keys) for keys in (k, k_hat))
    kl = attention.attention_kl(q, k, k_hat)
    routing = np.abs(p_hat - p).sum(axis=-1) / 2
    output = errors(p @ v, p_hat @ v)[SQUARED]
    return [float(x) for x in (errors(k, k_hat)[ANGLE], kl.mean(), routing.mean(), output)]


def worst_queries(
    scheme: Scheme,
    stream: np.random.SeedSequence,
    *,
    runs: int,
    draws: int,
    tokens: int,
    queries: int,
    dim: int,
) -> Floats:
    """Largest KL of a query in each of some runs of the figure, in nats: (runs,).

    For a scheme without rotation, whose draws can be coded together.
    """
    found = []
    for child in stream.spawn(runs):
        rng = np.random.default_rng(child)
        drawn = synthetic.draw(synthetic.student_t(3), tokens, dim, rng=rng, heads=(draws,))
        k = drawn.astype(np.float32)
        k_hat = _decoded_keys(scheme, k, 0)
        q = rng.standard_normal((draws, queries, dim))
        found.append(attention.attention_kl(q, k, k_hat).max())
    return np.array(found)


def over_the_law(bridge: Bridge) -> dict[str, stats.Interval]:
    """KL at n = 4 over T11's, without fitting, by cloud: geometric means of the draws."""
    expected = bridge_kl_law(bridge.of("direction"), bridge.unconcentrated)
    return {
        name: stats.geometric_mean_interval(bridge.of("KL")[i] / expected[i])
        for i, name in enumerate(bridge.clouds)
    }


def lowest_inside(x: Floats, y: Floats) -> stats.Interval:
    """Rank correlation inside the cloud where it is lowest; x and y are (cloud, draw)."""
    inside = [rank_correlation(*pair) for pair in zip(x, y, strict=True)]
    return min(inside, key=lambda i: i.estimate)


def judge_c13(predictions: ledger.Predictions, bridge: Bridge, worst: Floats) -> ledger.Verdict:
    """Judge the clouds at four bits, the two links, and KV's worst query of each run."""
    angles = bridge.of("direction")
    kls, at = bridge.of("KL"), bridge.clouds.index
    found = {
        label.format(a, b): stats.rank_biserial(x[at(a)], x[at(b)]).interval
        for label, x in ((APART, angles), (APART_IN_KL, kls))
        for a, b in (("KQV", "QKQV"), ("KQV", "KV"), ("QKQV", "KV"))
    } | {
        FAR: stats.geometric_mean_interval(angles[2] / angles[1]),
        TOP: stats.mean_interval(worst),
    }
    for link, pair in LINKS.items():
        x, y = (bridge.of(name) for name in pair)
        found[BETWEEN.format(link)] = rank_correlation(x.ravel(), y.ravel())
        found[INSIDE.format(link)] = lowest_inside(x, y)
        for name in ("QKQV", "KV"):
            found[EQUAL.format(link, name)] = bridge.at_equal(name, pair)
        found[FROM_ONE_BIT.format(link)] = bridge.at_equal("KV", pair, lowest=1)
    for name in ("QKQV", "KV"):
        found[LEFT_EQUAL.format(name)] = bridge.at_equal(name, LEFT_PANEL)
    reached = len(bridge.ratios_at_equal("KV", LINKS[next(iter(LINKS))]))
    routing, output = (found[EQUAL.format(link, "KV")].estimate for link in LINKS)
    above = found[LEFT_EQUAL.format("KV")].estimate
    return predictions.verdict(
        found,
        what_is_true="With Student-t keys (ν=3, n=4, d=128, Gaussian sketch, Lloyd-Max KV) the "
        "three clouds follow nearly one curve from KL to misrouted weight and to output error (KV "
        f"at equal KL {routing:.2f} and {output:.2f} times KQV's). They lie apart in KL; in "
        f"direction error KV is {found[FAR].estimate:.2f} times QKQV, and above KQV's curve "
        f"({above:.1f} times).",
        note=f"KV's draws that decide are those whose KL KQV reaches with two bits or more: "
        f"{reached} of {angles.shape[1]}. The collapse is claimed for the centre and right panels, "
        "whose axes are not known: KL to misrouted weight and KL to output error are the natural "
        "reading of the caption's words.",
    )
