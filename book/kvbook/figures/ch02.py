"""Figures and longer tables of chapter 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.stats import norm

from kvbook import plotting
from kvbook.experiments.ch02 import (
    DIMS,
    EYE,
    RANKS,
    REPAIRED,
    ROTATIONS,
    VECTOR_DIMS,
    CapturedHead,
    CoordinateMoments,
    Curve,
    Histograms,
    Subspace,
    VectorByVector,
    effective_directions,
    over_heads,
    select,
)
from kvbook.page import table
from kvlib.laws import sphere
from kvlib.stats import Interval

DIM_NAMES = [f"d = {d}" for d in DIMS]
KINDS = {
    "none": ("s", "none"),
    "hadamard": ("o", "Hadamard, 1 round"),
    "haar": ("D", "Haar"),
}
"""Marker and label of each rotation of a histogram."""
FAMILY_COLORS = {
    "gaussian": plotting.FAMILY_COLORS["gaussian"],
    "Student-t ν=3": plotting.FAMILY_COLORS["student_t"],
    "Student-t ν=1.05": plotting.FAMILY_COLORS["student_t"],
    "rank 1": plotting.FAMILY_COLORS["low_rank"],
    "rank 4": plotting.FAMILY_COLORS["low_rank"],
    "rank 32": plotting.FAMILY_COLORS["low_rank"],
}

# Tables ----------------------------------------------------------------------------------------


def first_order_table(curves: Mapping[str, Curve]) -> Any:
    """First-order distance of families by dimension."""
    rows = [[name, *(f"{x:.4f}" for x in curve.values())] for name, curve in curves.items()]
    return table(["first-order distance", *DIM_NAMES], rows)


def distance_table(
    measured: Histograms, families: Sequence[str], ceiling: Mapping[int, float]
) -> Any:
    """Mean distance of every family, dimension and rotation."""
    rows = [["99% of the null", "", *(f"{ceiling[d]:.4f}" for d in DIMS)]]
    for name in families:
        for kind in KINDS:
            cells = [
                f"{measured.interval(name, d, kind).estimate:.4f}" if (name, d) in measured else ""
                for d in DIMS
            ]
            rows.append([name, kind, *cells])
    return table(["mean distance", "rotation", *DIM_NAMES], rows)


def subspace_table(
    subspaces: Mapping[tuple[int, int], Subspace],
    histograms: Histograms,
    pooled_laws: Mapping[int, Curve],
    channel_laws: Mapping[int, Curve],
) -> Any:
    """Distances pooled and per coordinate, theory beside measurement, and effective directions."""
    rows = []
    for (rank, d), found in subspaces.items():
        pooled = pooled_laws[rank].get(d)
        rows.append(
            [
                str(rank),
                str(d),
                "" if pooled is None else f"{pooled:.4f}",
                f"{histograms.interval(f'rank {rank}', d).estimate:.4f}",
                f"{channel_laws[rank][d]:.3f}",
                f"{found.interval.estimate:.3f}",
                *(f"{effective_directions(x):.2f}" for x in (found.before, found.after)),
            ]
        )
    pooled_columns = ["pooled: theory", "measured"]
    channel_columns = ["per coordinate: theory", "measured"]
    direction_columns = ["directions: before", "after"]
    header = ["rank", "d", *pooled_columns, *channel_columns, *direction_columns]
    return table(header, rows)


def vector_table(measured: VectorByVector) -> Any:
    """Mean KS ratio of every input, dimension and rotation."""
    rows = [
        [name, str(d), *(f"{measured.ratio_interval(name, d, r).estimate:.2f}" for r in ROTATIONS)]
        for name in measured.inputs
        for d in VECTOR_DIMS
    ]
    return table(["KS ratio", "d", *ROTATIONS], rows)


def captured_table(heads: Sequence[CapturedHead], caches: Sequence[str]) -> Any:
    """Means and spread over the heads of each cache, keys and values apart."""
    columns = {
        "mean's share": ("share", 2),
        "pooled": ("pooled", 3),
        "centred": ("pooled_centred", 3),
        "per coordinate": ("channel", 2),
        "centred ": ("channel_centred", 2),
        "distortion / law": ("distortion", 2),
    }
    rows = []
    for cache in caches:
        for which in "KV":
            row = [cache, which]
            for attribute, digits in columns.values():
                mean, *ends = over_heads(select(heads, cache, which), attribute)
                low, high = (f"{end:.{digits}f}" for end in ends)
                row.append(f"{mean:.{digits}f}<br><small>{low} to {high}</small>")
            rows.append(row)
    return table(
        ["cache", "", *columns],
        rows,
        "Mean over the heads of each cache, below it their spread (16th to 84th percentile). "
        "KS distances as captured, and centred: after subtracting the mean vector",
    )


# Figures ---------------------------------------------------------------------------------------


def coordinate_law(measured: CoordinateMoments) -> Figure:
    """Densities of one coordinate, and the kurtosis of Haar-rotated axes on its law."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4), width_ratios=(1.25, 1))
    x = np.linspace(-3.2, 3.2, 1601)
    shades = plt.get_cmap("viridis")(np.linspace(0.05, 0.8, 4))
    for d, color in zip((2, 3, 8, 128), shades, strict=True):
        density = sphere.coordinate_pdf(x / np.sqrt(d), d) / np.sqrt(d)
        inside = np.abs(x) < np.sqrt(d) * (1 - 1e-4)
        left.plot(x[inside], density[inside], color=color, label=f"$d={d}$")
    plotting.theory_line(left, x, norm.pdf(x), label="normal")
    left.set(xlabel=r"$\sqrt{d}\,x$", ylabel="density", ylim=(0, 0.75), title="Coordinate law")
    left.legend(ncols=1, loc="upper right", handlelength=1.4, fontsize=10, borderaxespad=0)
    left.set_xlim(-3.2, 4.6)
    grid = np.geomspace(2, 1024, 200)
    plotting.theory_line(right, grid, [sphere.kurtosis(d) for d in grid], label="$3d/(d+2)$")
    points = [measured.kurtosis[d] for d in DIMS]
    plotting.measured_points(
        right, DIMS, points, color=plotting.ROTATION_COLORS["haar"], label="Haar, axes $e_j$"
    )
    right.set(xlabel="$d$", ylabel="kurtosis", title="Kurtosis", ylim=(1.3, 3.15))
    _dimension_axis(right, DIMS)
    right.legend(loc="lower right")
    return fig


def _dimension_axis(ax: Any, dims: Sequence[int]) -> None:
    """A logarithmic x axis that names some dimensions."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(dims, dims)


def histograms(measured: Histograms, families: Sequence[str]) -> Figure:
    """Histograms of one rotation each, in standard units, on the density of the law.

    A row for each dimension, a column for each of three families; empty where there is none.
    """
    fig, axes = plt.subplots(len(DIMS), len(families), figsize=(7.2, 8.2), sharex="row")
    for row, d in zip(axes, DIMS, strict=True):
        for ax, name in zip(row, families, strict=True):
            if (name, d) not in measured:
                ax.axis("off")
                continue
            _draw_histogram(ax, measured.first[name, d], FAMILY_COLORS[name])
            distance = f"KS {measured.distances[name, d]['hadamard'][0]:.3f}"
            place = {"transform": ax.transAxes, "ha": "center", "va": "top"}
            backing = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}
            ax.text(0.5, 0.98, distance, fontsize=10.5, bbox=backing, **place)
        reach = min(np.sqrt(d) * 1.05, 4)
        row[0].set_xlim(-reach, reach)
        row[0].set_ylabel(f"$d={d}$", fontsize=12)
    for ax, name in zip(axes[0], families, strict=True):
        ax.set_title(name, loc="center")
    for ax in axes[-1]:
        ax.set_xlabel(r"$\sqrt{d}\,y$")
    return fig


def _draw_histogram(ax: Any, y: Any, color: str) -> None:
    """All coordinates of rotated directions y, shape (tokens, d), on the law's density."""
    d = y.shape[-1]
    edge = min(np.sqrt(d), 4)
    bins = np.linspace(-edge, edge, 49)
    filled = {"element": "step", "color": color, "alpha": 0.5, "linewidth": 0}
    sns.histplot(np.sqrt(d) * y.ravel(), bins=bins, stat="density", ax=ax, **filled)
    ax.set(ylabel="", yticks=[])
    ax.grid(False)
    ax.spines["left"].set_visible(False)
    reach = min(np.sqrt(d) * 1.05, 4)
    x = np.linspace(-reach, reach, 801)
    x = x[np.abs(x) < min(0.999 * np.sqrt(d), 4)]
    plotting.theory_line(ax, x, sphere.coordinate_pdf(x / np.sqrt(d), d) / np.sqrt(d), label=None)
    ax.set_ylim(0, {2: 1.3, 8: 0.8}.get(d, 0.55))


def histogram_distances(
    measured: Histograms,
    families: Sequence[str],
    ceiling: Mapping[int, float],
    heavy_tails: Mapping[str, Curve],
) -> Figure:
    """Distance of pooled histograms against dimension, a panel for each of six families.

    ``heavy_tails`` is the first-order distance of those families that have one.
    """
    fig, axes = plt.subplots(2, 3, figsize=(7.2, 5.2), sharex=True, sharey=True)
    _dimension_axis(axes[0, 0], DIMS)
    for ax, name in zip(axes.flat, families, strict=True):
        draws = _draws_of(measured, name)
        sns.pointplot(draws, x="d", y="KS distance", hue="rotation", ax=ax, **_KIND_POINTS)
        ax.axhline(EYE, color=plotting.INK, linewidth=1)
        ax.fill_between(DIMS, 1e-3, [ceiling[d] for d in DIMS], color="#DDDDDD", linewidth=0)
        if name in heavy_tails:
            curve = heavy_tails[name]
            plotting.theory_line(ax, list(curve), list(curve.values()), label=None)
        ax.set(title=name, xlabel="$d$", xlim=(1.2, 1900))
    # Logarithmic only now: seaborn averages in the scale of the axis.
    axes[0, 0].set(yscale="log", ylim=(1.5e-3, 0.7))
    axes[0, 0].set_xticks(DIMS, DIMS)
    _legend_above(fig, axes[0, 0], columns=3)
    return fig


_KIND_POINTS: dict[str, Any] = {
    "palette": {label: plotting.ROTATION_COLORS[kind] for kind, (_, label) in KINDS.items()},
    "markers": [marker for marker, _ in KINDS.values()],
    "errorbar": plotting.mean_ends,
    "native_scale": True,
    "dodge": 0.24,
    "linestyle": "none",
    "markersize": 6.5,
    "markeredgecolor": "white",
    "markeredgewidth": 0.7,
    "err_kws": {"linewidth": 1.2},
}


def _draws_of(measured: Histograms, family: str) -> pd.DataFrame:
    """Distances of one family, a row for each dimension, rotation and draw."""
    rows = [
        (d, KINDS[kind][1], distance)
        for d in DIMS
        if (family, d) in measured
        for kind, distances in measured.distances[family, d].items()
        for distance in distances
    ]
    return pd.DataFrame(rows, columns=["d", "rotation", "KS distance"])


def _legend_above(fig: Figure, ax: Any, columns: int) -> None:
    """One legend above all panels, of what one panel names; every panel's own goes."""
    handles, labels = ax.get_legend_handles_labels()
    for panel in fig.axes:
        if (legend := panel.get_legend()) is not None:
            legend.remove()
    spacing = {"columnspacing": 1.5, "handletextpad": 0.1}
    fig.legend(handles, labels, loc="outside upper center", ncols=columns, **spacing)


RANK_STYLES = {1: ("#254296", "o"), 4: ("#259ED7", "s"), 32: ("#037766", "D")}


def subspace_distances(
    subspaces: Mapping[tuple[int, int], Subspace],
    histograms: Histograms,
    pooled_laws: Mapping[int, Curve],
    channel_laws: Mapping[int, Curve],
    ceiling: Mapping[int, float],
) -> Figure:
    """Distance of low-rank tokens against dimension, pooled and per coordinate."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.9))
    for rank in RANKS:
        for ax, curve in ((left, pooled_laws[rank]), (right, channel_laws[rank])):
            plotting.theory_line(ax, list(curve), list(curve.values()), label=None)
        found = {d: subspace.interval for (r, d), subspace in subspaces.items() if r == rank}
        pooled = {d: histograms.interval(f"rank {rank}", d) for d in found}
        _draw_rank(left, rank, pooled)
        _draw_rank(right, rank, found)
    left.fill_between([4, 2048], 1e-3, ceiling[128], color="#DDDDDD", linewidth=0)
    left.axhline(EYE, color=plotting.INK, linewidth=1)
    left.set(ylabel="KS distance", title="Pooled histogram")
    right.set(title="Per coordinate")
    for ax in (left, right):
        _dimension_axis(ax, (8, 128, 1024))
        ax.set_yscale("log")
        ax.set(xlabel="$d$", ylim=(2e-3, 0.7))
    right.legend(loc="lower left")
    return fig


def _draw_rank(ax: Any, rank: int, intervals: Mapping[int, Interval]) -> None:
    """Measurements of one rank over dimension."""
    color, marker = RANK_STYLES[rank]
    dims, values = list(intervals), list(intervals.values())
    plotting.measured_points(ax, dims, values, color=color, marker=marker, label=f"rank {rank}")


ROTATION_STYLES = {
    "none": ("s", plotting.ROTATION_COLORS["none"]),
    "1 round": ("o", "#0072B2"),
    "2 rounds": ("^", "#5BA3CF"),
    "3 rounds": ("v", "#003B5C"),
    "Haar": ("D", plotting.ROTATION_COLORS["haar"]),
}


def vector_distances(measured: VectorByVector) -> Figure:
    """KS ratio of single vectors by input and rotation, a panel for each dimension."""
    fig, axes = plt.subplots(2, 2, figsize=(7.2, 6.4), sharex=True, sharey=True)
    for ax, d in zip(axes.flat, VECTOR_DIMS, strict=True):
        ax.axvspan(1, REPAIRED, color="#DDDDDD", linewidth=0)
        rows = _ratios_of(measured, d)
        sns.pointplot(rows, x="ratio", y="input", hue="rotation", ax=ax, **_ROTATION_POINTS)
        ax.grid(axis="y")  # which seaborn takes away
        ax.set(title=f"$d={d}$", xlabel="", ylabel="")
    # Logarithmic only now: seaborn averages in the scale of the axis.
    axes[0, 0].set(xscale="log", xlim=(0.8, 25))
    axes[0, 0].set_xticks((1, 2, 5, 10, 20), (1, 2, 5, 10, 20))
    axes[0, 0].minorticks_off()
    fig.supxlabel("KS distance of a vector / mean of uniform vectors", fontsize=12)
    _legend_above(fig, axes[0, 0], columns=5)
    return fig


_ROTATION_POINTS: dict[str, Any] = {
    "palette": {rotation: color for rotation, (_, color) in ROTATION_STYLES.items()},
    "markers": [marker for marker, _ in ROTATION_STYLES.values()],
    "errorbar": plotting.mean_ends,
    "orient": "h",
    "dodge": 0.6,
    "linestyle": "none",
    "markersize": 6.5,
    "markeredgecolor": "white",
    "markeredgewidth": 0.6,
    "err_kws": {"linewidth": 1.8},
}


def _ratios_of(measured: VectorByVector, dim: int) -> pd.DataFrame:
    """KS ratios at one dimension, a row for each input, kind of rotation and rotation drawn."""
    rows = [
        (name, rotation, ratio)
        for name in measured.inputs
        for rotation in ROTATIONS
        for ratio in measured.ratio[name, dim, rotation]
    ]
    return pd.DataFrame(rows, columns=["input", "rotation", "ratio"])


CACHE_STYLES = {
    "minilm": ("o", "#0072B2"),
    "rope-lm": ("s", "#D17F04"),
    "rope-lm-saturated": ("^", "#5F3B91"),
}


def captured_heads(heads: Sequence[CapturedHead]) -> Figure:
    """Distance per coordinate against the mean's share, one marker a head, keys and values."""
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 4.0), sharex=True, sharey=True)
    for ax, which in zip(axes, "KV", strict=True):
        for cache, (marker, color) in CACHE_STYLES.items():
            chosen = list(select(heads, cache, which))
            share = [h.share for h in chosen]
            for state, face, distances in (
                ("raw", color, [h.channel for h in chosen]),
                ("centred", "white", [h.channel_centred for h in chosen]),
            ):
                style = {"marker": marker, "color": color, "markerfacecolor": face}
                ax.plot(share, distances, linestyle="none", markeredgewidth=1.3, **style)
                ax.lines[-1].set_label(f"{cache}, {state}")
        ax.set(xlabel="mean vector's share of energy", title={"K": "Keys", "V": "Values"}[which])
    axes[0].set(ylabel="KS distance per coordinate", ylim=(0, None))
    handles, labels = axes[1].get_legend_handles_labels()
    spacing = {"fontsize": 10, "columnspacing": 1}
    fig.legend(handles, labels, loc="outside upper center", ncols=3, **spacing)
    return fig
