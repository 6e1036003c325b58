"""A figure from the table of a sweep: one line a scheme, with intervals over the repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kvlib import quantize
from kvlib.checks import check_choice
from kvlib.measure.registry import metric_of
from kvlib.sweeps.grid import COORDINATES

if TYPE_CHECKING:
    import pandas as pd


def plot(
    table: pd.DataFrame,
    *,
    x: str = "bits",
    y: str = "kl_mean",
    by: str = "scheme",
    facets: str | None = None,
    log: bool = True,
) -> Any:
    """Draw a metric of a sweep against a coordinate.

    Parameters
    ----------
    table : DataFrame
        As from :func:`kvlib.sweeps.read`. Rows that failed are left out.
    x, by, facets : str
        Coordinates of the table: the axis, one line for each value of ``by``, one panel for each
        value of ``facets``. Schemes have the colour and marker of their format.
    y : str
        A metric. Points are means over all other coordinates that vary, geometric ones if
        ``log``, with 95% intervals that take its rows for independent: average over heads or
        repetitions yourself where they are not.
    log : bool
        Logarithmic y axis.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        Without seaborn (the ``plot`` extra).
    ValueError
        If a column is not there.
    """
    sns: Any = _seaborn()
    for name, column in (("x", x), ("by", by), ("facets", facets)):
        if column is not None:
            check_choice(column, name, [c for c in COORDINATES if c in table])
    check_choice(y, "y", [c for c in table if c not in (*COORDINATES, "error")])
    rows = table[table[y].notna() & ((table[y] > 0) if log else True)]
    values = list(rows[by].unique())
    colors, markers = _looks(values, by, sns)
    grid = sns.catplot(
        rows,
        kind="point",
        x=x,
        y=y,
        hue=by,
        hue_order=values,
        col=facets,
        palette=colors,
        markers=markers,
        estimator=_geometric_mean if log else "mean",
        errorbar=_ends_of_geometric if log else _ends_of_mean,
        dodge=0.25 if len(values) > 1 else False,
        err_kws={"linewidth": 1.2},
    )
    if log:
        grid.set(yscale="log")
    unit = metric_of(y).unit
    grid.set_axis_labels(x.replace("_", " "), f"{y} ({unit})" if unit else y)
    return grid.figure


def _seaborn() -> Any:
    try:
        import seaborn
    except ImportError as error:
        raise ImportError(
            "figures need seaborn: in kvlib's checkout, python -m pip install -e '.[plot]'"
        ) from error
    return seaborn


def _looks(values: Sequence[Any], by: str, sns: Any) -> tuple[list[Any], list[str]]:
    """Colours and markers of the lines: a scheme's own, else a sequential palette."""
    if by == "scheme":
        entries = [quantize.format_of(str(value)) for value in values]
        return [e.color for e in entries], [e.marker for e in entries]
    return sns.color_palette("viridis", len(values)), ["o"] * len(values)


def _geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.log(values).mean()))


def _ends_of_geometric(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return (float(np.mean(values)),) * 2
    from kvlib.stats import geometric_mean_interval

    interval = geometric_mean_interval(values)
    return interval.low, interval.high


def _ends_of_mean(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return (float(np.mean(values)),) * 2
    from kvlib.stats import mean_interval

    interval = mean_interval(values)
    return interval.low, interval.high
