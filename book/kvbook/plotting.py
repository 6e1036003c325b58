"""One look for every figure: a colour and a marker a scheme, one style for theory lines.

Needs the ``plot`` extra; matplotlib is imported only when a function is called. Figures have a
white background, which the book inverts in dark mode, and the same bytes on every run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kvlib import quantize
from kvlib.checks import check_choice
from kvlib.quantize import RotatedQuantizer
from kvlib.stats import Interval, mean_interval

SCHEME_COLORS = {name: entry.color for name, entry in quantize.formats().items()}
SCHEME_MARKERS = {name: entry.marker for name, entry in quantize.formats().items()}
"""Of the formats that kvlib names; :func:`kvlib.quantize.format_of` knows those of one's own."""

FAMILY_COLORS = {
    "gaussian": "#2B2B2B",
    "student_t": "#A01F1A",
    "low_rank": "#254296",
    "low_rank_t": "#259ED7",
    "spike": "#AE8700",
    "common_mean": "#037766",
}
ROTATION_COLORS = {"none": "#777777", "hadamard": "#0072B2", "haar": "#D55E00"}

INK = "#222222"
MUTED = "#6E6E6E"

_STYLE: dict[str, Any] = {
    "figure.figsize": (7.2, 4.2),
    "figure.dpi": 144,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.dpi": 144,
    "savefig.facecolor": "white",
    "svg.hashsalt": "kvlib",
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 6.5,
    "errorbar.capsize": 3,
}


def style() -> AbstractContextManager[None]:
    """Context manager under which figures have the book's look."""
    import matplotlib as mpl
    import seaborn as sns

    context: AbstractContextManager[None] = mpl.rc_context(
        {**sns.axes_style("whitegrid"), **sns.plotting_context("notebook"), **_settings()}
    )
    return context


def use_style() -> None:
    """Give every figure from here on the book's look; for the first cell of a notebook."""
    import seaborn as sns

    sns.set_theme(context="notebook", style="whitegrid", rc=_settings())


def save_figure(fig: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure without time stamps, so that equal figures are equal bytes.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
    path : path-like
        Ending in ``.png``, ``.svg`` or ``.pdf``.
    """
    kind = check_choice(Path(path).suffix, "path suffix", (".png", ".svg", ".pdf"))
    stamps = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    fig.savefig(path, metadata=stamps[kind])


def theory_line(ax: Any, x: ArrayLike, y: ArrayLike, *, label: str | None = "theory") -> Any:
    """Draw a prediction: dark and dashed, above the data it is compared with.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    x, y : array
    label : str, optional
        For the legend; None for a second line of the same theory.

    Returns
    -------
    matplotlib.lines.Line2D
    """
    dashes = (0, (5, 2))
    return ax.plot(x, y, color=INK, linestyle=dashes, linewidth=1.6, label=label, zorder=4)[0]


def measured_points(
    ax: Any,
    x: ArrayLike,
    intervals: Sequence[Interval],
    *,
    color: str,
    marker: str = "o",
    label: str | None = None,
    connect: bool = False,
) -> Any:
    """Draw measurements as markers with their confidence intervals.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    x : array, shape (n,)
    intervals : sequence of Interval
        One a point, as from :mod:`kvlib.stats`.
    color, marker, label
        Usually from :data:`SCHEME_COLORS` and :data:`SCHEME_MARKERS`.
    connect : bool
        Join the points by a thin line.

    Returns
    -------
    matplotlib.container.ErrorbarContainer
    """
    estimate, low, high = _columns(x, intervals)
    # Bars of zero length, not negative ones, where rounding puts an end past the estimate.
    lengths = np.maximum([estimate - low, high - estimate], 0)
    return ax.errorbar(
        x,
        estimate,
        yerr=lengths,
        color=color,
        marker=marker,
        linestyle="-" if connect else "none",
        linewidth=1.2,
        markeredgecolor="white",
        markeredgewidth=0.7,
        label=label,
        zorder=3,
    )


def interval_band(
    ax: Any, x: ArrayLike, intervals: Sequence[Interval], *, color: str, label: str | None = None
) -> Any:
    """Draw measurements along an axis as a line in the band of its confidence intervals.

    Parameters are those of :func:`measured_points`; returns the matplotlib line.
    """
    estimate, low, high = _columns(x, intervals)
    ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0, zorder=2)
    return ax.plot(x, estimate, color=color, label=label, zorder=3)[0]


def mean_ends(samples: ArrayLike) -> tuple[float, float]:
    """Ends of the t interval of a mean, for seaborn's ``errorbar``.

    seaborn averages in the scale of the axis: make an axis logarithmic after drawing on it.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 1:  # a single value has no interval
        return float(values[0]), float(values[0])
    interval = mean_interval(values)
    return interval.low, interval.high


def plain_ticks(set_ticks: Callable[..., Any], places: Iterable[float]) -> None:
    """Ticks written as plain numbers, also on a logarithmic axis.

    Parameters
    ----------
    set_ticks : callable
        ``set_xticks`` or ``set_yticks`` of an axes.
    places : iterable of float
    """
    ticks = list(places)
    set_ticks(ticks, [f"{tick:g}" for tick in ticks])


def draw_schemes(
    ax: Any,
    *,
    names: Sequence[str] | Mapping[str, quantize.Scheme] = ("KV", "KQV", "QKQV"),
    sketch_label: str = "QJL of residual",
) -> None:
    """Draw schemes as block diagrams: what happens to a key and to a value, and what is stored.

    The boxes are read off :func:`kvlib.quantize.named`, so that the drawing cannot differ from
    what is computed. A figure of (7.2, 1.5 per scheme) inches fits it.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Its axes are switched off.
    names : sequence of str, or mapping from str to Scheme
        Schemes, from top to bottom; one that is given itself has the colour of C-EDEN.
    sketch_label : str
        What to call the one-bit stage.
    """
    ax.set(xlim=(0, 100), ylim=(-20.5 * len(names) + 2, 5))
    ax.axis("off")
    for name, heading in _COLUMNS.items():
        ax.text(heading, 1.2, name, color=MUTED, fontsize=11, ha="center", va="bottom")
    for i, name in enumerate(names):
        if isinstance(names, Mapping):
            scheme, color = names[name], SCHEME_COLORS.get(name, SCHEME_COLORS["C-EDEN"])
        else:
            color = SCHEME_COLORS[check_choice(name, "names", quantize.NAMES)]
            scheme = quantize.named(name, 4)
        top = -20.5 * i
        _box(ax, (50, top - 8.7), (99, 17.4), "", edge="none", face=color, alpha=0.07)
        ax.text(2.5, top - 8.7, name, color=color, fontsize=14, fontweight="bold", va="center")
        for letter, quantizer, y in (("K", scheme.key, 4.6), ("V", scheme.value, 12.8)):
            assert isinstance(quantizer, RotatedQuantizer)
            _draw_row(ax, letter, quantizer, top - y, color, sketch_label)


# Centre of each column of the diagram, in hundredths of its width.
_COLUMNS = {"rotate": 28.5, "quantize": 48, "sketch": 71, "store": 92.5}


def _draw_row(
    ax: Any, letter: str, quantizer: RotatedQuantizer, y: float, color: str, sketch_label: str
) -> None:
    """One vector, its boxes from left to right, what is stored; a bare line where none acts."""
    sketched = quantizer.sketch is not None
    arrow = {"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (86, y), (20, y), arrowprops=arrow, zorder=1)
    ax.text(17.5, y, f"${letter}$", fontsize=14, ha="center", va="center")
    if quantizer.rotation != "none":
        text = "$-$ mean\nWHT" if quantizer.center else "WHT"
        _box(ax, (_COLUMNS["rotate"], y), (11.5, 6.6), text, edge=color)
    bits = "$n-1$ bits" if sketched else "$n$ bits"
    _box(ax, (_COLUMNS["quantize"], y), (18.5, 6.6), f"Lloyd–Max\n{bits}", edge=color)
    if sketched:
        text = f"{sketch_label}\n1 bit"
        _box(ax, (_COLUMNS["sketch"], y), (20, 6.6), text, edge=color, face=color, ink="white")
    number = "norm" if quantizer.scale == "norm" else "scale"
    stored = "$n$ bits\n+ 2 norms" if sketched else f"$n$ bits\n+ {number}"
    ax.text(_COLUMNS["store"], y, stored, **_BOX_TEXT)


_BOX_TEXT: dict[str, Any] = {"fontsize": 10.5, "ha": "center", "va": "center", "linespacing": 1.25}


def _box(
    ax: Any,
    center: tuple[float, float],
    size: tuple[float, float],
    text: str,
    *,
    edge: str,
    face: str = "white",
    ink: str = INK,
    alpha: float = 1,
) -> None:
    """A rounded box with centred text."""
    from matplotlib.patches import FancyBboxPatch

    corner = (center[0] - size[0] / 2, center[1] - size[1] / 2)
    rounding = "round,pad=0,rounding_size=1"
    box = FancyBboxPatch(
        corner, *size, boxstyle=rounding, linewidth=1.3, edgecolor=edge, facecolor=face, alpha=alpha
    )
    ax.add_patch(box).set_zorder(0 if alpha < 1 else 2)
    ax.text(*center, text, color=ink, **_BOX_TEXT)


def _columns(x: ArrayLike, intervals: Sequence[Interval]) -> tuple[Any, Any, Any]:
    """Estimates, lower and upper ends as arrays, one entry for each x."""
    if np.shape(x) != (len(intervals),):
        raise ValueError(
            f"intervals must hold one Interval for each x, got {len(intervals)} for x of shape "
            f"{np.shape(x)}"
        )
    table = np.array([(i.estimate, i.low, i.high) for i in intervals]).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _settings() -> Any:
    """Matplotlib's settings, with the scheme colours for lines that name none."""
    from cycler import cycler

    order = ("KQV", "WHT", "KV", "QKV", "QKQV", "C-EDEN", "EDEN")
    return {**_STYLE, "axes.prop_cycle": cycler(color=[SCHEME_COLORS[name] for name in order])}
