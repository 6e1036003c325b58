"""Arms of a comparison: named schemes with options, measured on captured heads by a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from kvlib import named, sweeps
from kvlib.quantize import Scheme

_AXES = {
    "rotation": "rotations",
    "sketch": "sketches",
    "sketch_scale": "sketch_scales",
    "scale": "scales",
}


@dataclass(frozen=True)
class Arm:
    """A scheme by name, with the options that make the arm.

    Parameters
    ----------
    scheme : str
        A registered name.
    options : mapping
        Of :func:`kvlib.named`: rotation, sketch, sketch_scale, scale.

    Examples
    --------
    >>> arm = Arm("QKQV", {"sketch": "hadamard"})
    >>> arm(4).key.sketch
    'hadamard'
    >>> arm.axes
    {'schemes': ('QKQV',), 'sketches': ('hadamard',)}
    """

    scheme: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, bits: int) -> Scheme:
        """The scheme at a budget."""
        return named(self.scheme, bits, **self.options)

    @property
    def axes(self) -> dict[str, Any]:
        """The same as axes of a :class:`kvlib.sweeps.Grid`."""
        options = {_AXES[name]: (value,) for name, value in self.options.items()}
        return {"schemes": (self.scheme,), **options}


def measure_arms(arms: Mapping[str, Arm], **axes: Any) -> pd.DataFrame:
    """One sweep an arm, all on the same draws; the table has the column ``arm`` besides.

    Parameters
    ----------
    arms : mapping from name to Arm
    **axes
        The other axes of :class:`kvlib.sweeps.Grid`.
    """
    tables = [
        sweeps.measure(sweeps.Grid(**arm.axes, **axes)).assign(arm=name)
        for name, arm in arms.items()
    ]
    return pd.concat(tables, ignore_index=True)


def measure_captured(
    arms: Mapping[str, Arm],
    caches: Mapping[str, Path],
    *,
    bits: Sequence[int],
    rotations: int,
    rows: int,
    metrics: Sequence[str],
    seed: int,
    dtype: str = "float64",
) -> pd.DataFrame:
    """Arms on every head of captured caches, paired by head, window and rotation.

    Parameters
    ----------
    arms : mapping from name to Arm
    caches : mapping from name to path
    bits : sequence of int
    rotations : int
        Draws of rotation and sketch a head; they take turns on the windows of the cache.
    rows : int
        The last rows of a window of a causal model, half as many, evenly spaced, of another.
    metrics : sequence of str
        Of :mod:`kvlib.measure.registry`.
    seed : int
    dtype : {"float64", "float32"}

    Returns
    -------
    DataFrame
        A row for arm, budget, head and rotation (``repetition``); ``cache`` is the name given.
    """
    tables = []
    for name, path in caches.items():
        causal = sweeps.load_cache(path).causal
        table = measure_arms(
            arms,
            bits=bits,
            families=(),
            caches=(path,),
            repetitions=rotations,
            queries=rows if causal else rows // 2,
            metrics=metrics,
            seed=seed,
            dtype=dtype,
        )
        tables.append(table.assign(cache=name))
    return pd.concat(tables, ignore_index=True)
