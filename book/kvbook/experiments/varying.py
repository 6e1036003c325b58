"""Intervals over captured heads that say what varies: the rotations, or the models.

Heads of a model are no independent draws of anything. What can be repeated on given heads is the
rotation; what can be asked beyond them is whether another model would say the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvlib.stats import Interval, geometric_mean_interval, mean_interval

FloatArray = NDArray[np.float64]


def over_rotations(top: FloatArray, bottom: FloatArray) -> Interval:
    """Ratio of mean errors, geometric mean over the heads given; what varies is the rotation.

    Parameters
    ----------
    top, bottom : ndarray, shape (heads, rotations)
        Errors under the same rotations; at least two of them.

    Notes
    -----
    Delete-one jackknife over rotations of the mean logarithm, with Student's t. The interval is
    for these heads, whatever others may do.
    """
    over, under = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    count = over.shape[-1]
    whole = float(np.log(over.mean(axis=-1) / under.mean(axis=-1)).mean())
    rest = [x.sum(axis=-1, keepdims=True) - x for x in (over, under)]
    without = np.log(rest[0] / rest[1]).mean(axis=0)
    half = mean_interval(count * whole - (count - 1) * without).half_width
    low, estimate, high = np.exp([whole - half, whole, whole + half]).tolist()
    return Interval(estimate, low, high, count)


def over_models(ratios: FloatArray, models: NDArray[np.str_]) -> Interval:
    """Geometric mean over models of each model's geometric mean; t interval over the models.

    Parameters
    ----------
    ratios : ndarray, shape (heads,)
    models : ndarray of str, shape (heads,)
        The model of each head; at least two different ones.
    """
    return geometric_mean_interval(list(by_model(ratios, models).values()))


def by_model(ratios: FloatArray, models: NDArray[np.str_]) -> dict[str, float]:
    """Geometric mean of the heads of each model, in the order of the models."""
    names = dict.fromkeys(models.tolist())
    return {name: float(np.exp(np.log(ratios[models == name]).mean())) for name in names}
