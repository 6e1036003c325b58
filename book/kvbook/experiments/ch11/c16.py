"""C16: do both caches of values move toward the Lloyd-Max line?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvbook import ledger
from kvbook.experiments.ch11.baselines import Quantize
from kvbook.experiments.ch11.errors import (
    ANGLE,
    BUDGETS,
    SQUARED,
    Floats,
    errors,
    highest_reaching,
    jackknife_interval,
)
from kvbook.experiments.ch11.planes import FAT, Planes
from kvlib import stats
from kvlib.measure import metrics

# What is judged, to the scheme whose values it is.
JUDGED_VALUES = {
    "KV": "KV",
    "KQV, orthogonal sketch": "KQV",
    "KQV, Gaussian sketch": "KQV, Gaussian",
}
TWO_BITS = "V of {}, distance at n=4 over n=2"
WORST_STEP = "V of {}, distance at the worst step n to n+1, ratio"


def lloyd_max_line(rate: ArrayLike) -> Floats:
    """Angle/π of a Lloyd-Max code by its rate in bits; nothing worse than a right angle."""
    return np.asarray(np.arcsin(np.minimum(1.0, 2.0 ** -np.asarray(rate))) / np.pi)


def predict_c16() -> ledger.Predictions:
    """A smaller distance from the line at n = 4 than at n = 2, and at every step."""
    labels = [label.format(name) for name in JUDGED_VALUES for label in (TWO_BITS, WORST_STEP)]
    return ledger.Predictions(
        "C16", [ledger.Prediction(label, ledger.Below(1), "a step away") for label in labels]
    )


def distance_to_line(points: Floats) -> float:
    """Distance in angle/π of the mean point of draws, from their errors (4, draw)."""
    rate = metrics.shannon_rate(points[SQUARED].mean(axis=-1))
    return float(abs(points[ANGLE].mean(axis=-1) - lloyd_max_line(rate)))


def distance_ratio(planes: Planes, scheme: str, low: int, high: int) -> stats.Interval:
    """Distance of V at n = high over that at n = low, with a jackknife over the draws."""
    far, near = (planes.of_cache(FAT, scheme, n, "V") for n in (low, high))
    return jackknife_interval(lambda x, y: distance_to_line(x) / distance_to_line(y), near, far)


def approaching(methods: Mapping[str, Quantize], values: Floats) -> NDArray[np.bool_]:
    """Whether the values of each baseline come nearer to the line from n = 2 to 4.

    Returns
    -------
    ndarray, shape (methods, 2)
        In angle, and in rate.
    """
    return np.array([_approaches(method, values) for method in methods.values()])


def _approaches(method: Quantize, values: Floats) -> tuple[Any, Any]:
    points = [errors(values, method(values, n)).mean(axis=-1) for n in (2, 4)]
    rates = [metrics.shannon_rate(p[SQUARED]) for p in points]
    pairs = list(zip(points, rates, strict=True))
    angle_off = [abs(p[ANGLE] - lloyd_max_line(rate)) for p, rate in pairs]
    rate_off = [abs(rate + np.log2(np.sin(np.pi * p[ANGLE]))) for p, rate in pairs]
    return angle_off[1] < angle_off[0], rate_off[1] < rate_off[0]


def judge_c16(predictions: ledger.Predictions, planes: Planes) -> ledger.Verdict:
    """Judge the distance at n = 4 over that at n = 2, and the worst single step."""
    found = {}
    for name, scheme in JUDGED_VALUES.items():
        found[TWO_BITS.format(name)] = distance_ratio(planes, scheme, 2, 4)
        steps = [distance_ratio(planes, scheme, n, n + 1) for n in BUDGETS[:-1]]
        found[WORST_STEP.format(name)] = highest_reaching(steps)
    return predictions.verdict(
        found,
        note="KQV's values approach the line, KV's with a clipping Lloyd-Max code leave it: their "
        "direction improves, their length does not. Distance to the line measures a wrong length, "
        "not quality.",
    )
