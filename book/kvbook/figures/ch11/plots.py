"""Figures of chapter 11."""

from __future__ import annotations

from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from kvbook import plotting
from kvbook.experiments.ch07.regimes import REGIMES
from kvbook.experiments.ch11 import (
    BOXES,
    BUDGETS,
    PANELS,
    BestSchemes,
    Boxes,
    Bridge,
    Planes,
    Ranking,
    ReadingC08,
    ReadingC14,
    ReadingC15,
    Search,
    bridge_kl_law,
    kv_alone,
    lloyd_max_line,
)
from kvbook.experiments.ch11.c13 import LEFT_PANEL, LINKS, QUANTITIES
from kvbook.experiments.ch11.c18 import MEASURES, SKETCHES, THREE
from kvbook.experiments.ch11.errors import ANGLE, SQUARED
from kvbook.experiments.ch11.planes import FAT, RANK_32
from kvlib.measure import metrics

GREY = "#B5B5B5"
DASHES = (0, (5, 2))

BOX_COLORS = dict(
    zip(
        BOXES,
        (plotting.SCHEME_COLORS["KQV"], plotting.SCHEME_COLORS["QKQV"], "#B9A0DA"),
        strict=True,
    )
)


def boxes(measured: Boxes) -> Figure:
    """The paper's boxplots: four bits against three and a sketch, a panel a dimension."""
    fig, axes = plt.subplots(2, 2, figsize=(7.6, 6.2), sharey=True)
    for ax, dim in zip(axes.flat, measured.kl, strict=True):
        sns.boxplot(
            _box_frame(measured, dim),
            x="keys",
            y="KL",
            hue="bits",
            palette=BOX_COLORS,
            saturation=1,
            gap=0.15,
            legend=ax is axes[0, 0],
            boxprops={"alpha": 0.85},
            linewidth=1,
            linecolor="black",
            flierprops={"marker": ".", "markersize": 4},
            ax=ax,
        )
        low = PANELS[dim][-1].split()[1]
        ax.set_xticks(range(3), ["Gaussian", "heavy tail", f"low rank ({low})"])
        ax.set(title=f"d={dim}", xlabel=None, ylabel=None)
    # Only now: on a logarithmic axis seaborn would take whiskers and fliers of the logs.
    axes[0, 0].set_yscale("log")
    for ax in axes[:, 0]:
        ax.set_ylabel("mean KL of a head, nats")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[0, 0].get_legend().remove()
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    return fig


def _box_frame(measured: Boxes, dim: int) -> pd.DataFrame:
    """KL of a head: a row a box, law of keys and draw."""
    found = {
        bits: pd.DataFrame(measured.kl[dim][:, i], columns=PANELS[dim])
        for i, bits in enumerate(BOXES)
    }
    long = pd.concat(found, names=["bits", "draw"])
    return long.melt(var_name="keys", value_name="KL", ignore_index=False).reset_index()


OUTCOME_COLORS = {
    **{name: plotting.SCHEME_COLORS[name] for name in THREE},
    "tie": "#D9D9D9",
    "open": "#FFFFFF",
}
OUTCOME_NAMES = {"tie": "tied within 5%", "open": "open"}


def best_schemes(best: BestSchemes) -> Figure:
    """Best of the paper's three by regime and budget: colour who, number by what factor."""
    fig, axes = plt.subplots(2, 2, figsize=(7.6, 8), sharex=True, sharey=True)
    for ax, (measure, sketch) in zip(axes.flat, product(MEASURES, SKETCHES), strict=True):
        _winners(ax, best.ranking(measure, sketch))
        ax.set_title(f"{measure}, {sketch} sketch", fontsize=12)
    for ax in axes[1]:
        ax.set_xlabel("budget n")
    handles = [
        Patch(facecolor=color, edgecolor=GREY, label=OUTCOME_NAMES.get(name, name))
        for name, color in OUTCOME_COLORS.items()
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=5)
    return fig


def _winners(ax: Any, ranking: Ranking) -> None:
    """One heat map: regimes down, budgets across."""
    kinds = list(OUTCOME_COLORS)
    places = ranking.places()
    shape = max(b for b, _ in places) + 1, max(f for _, f in places) + 1
    codes, labels = np.zeros(shape), np.empty(shape, dtype=object)
    for at in places:
        codes[at] = kinds.index(ranking.outcome(at))
        margin = ranking.margin(at)
        digits = 1 if margin < 10 else 0
        labels[at] = f"{margin:.{digits}f}" if np.isfinite(margin) else ""
    sns.heatmap(
        pd.DataFrame(codes.T, index=list(REGIMES), columns=list(BUDGETS)),
        annot=labels.T,
        fmt="",
        annot_kws={"size": 9.5},
        cmap=ListedColormap(list(OUTCOME_COLORS.values())),
        vmin=-0.5,
        vmax=len(kinds) - 0.5,
        linewidths=0.8,
        linecolor="#E8E8E8",
        cbar=False,
        ax=ax,
    )
    ax.tick_params(left=False, bottom=False, rotation=0, labelsize=10)


SKETCH_LOOKS = {
    "hadamard": (plotting.SCHEME_COLORS["WHT"], "s"),
    "haar": (plotting.SCHEME_COLORS["QKV"], "o"),
    "gaussian": (plotting.SCHEME_COLORS["QKQV"], "^"),
}


def readings_of_c08(search: Search[ReadingC08]) -> Figure:
    """KL ratio against r: readings faint, a large mark at the medians of each sketch and scale."""
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 5), sharey=True)
    for ax, book in zip(axes, ("Lloyd-Max", "dead levels"), strict=True):
        for (sketch, (color, marker)), (scale, fill) in product(
            SKETCH_LOOKS.items(), (("unbiased", "full"), ("mmse", "none"))
        ):
            wanted = (book, sketch, scale)
            at = [i for i, x in enumerate(search.labels) if (x.book, x.sketch, x.scale) == wanted]
            style: dict[str, Any] = {"color": color, "marker": marker, "fillstyle": fill}
            style |= {"linestyle": "none", "markeredgewidth": 0.8}
            label = f"{sketch}, {'least squares' if scale == 'mmse' else scale}"
            ax.plot(*search.values[at].T, **style, markersize=3, alpha=0.15)
            middle = np.median(search.values[at], axis=0)
            ax.plot(*middle, **style | {"markeredgewidth": 2}, markersize=9, label=label, zorder=4)
        _published_star(ax, *search.published)
        ax.set(xscale="log", xlim=(0.8, 14), ylim=(-1.06, 0.25), title=f"{book} codebook")
        ax.set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
        ax.minorticks_off()
        ax.set_xlabel("KL of QKQV over KL of KQV")
    axes[0].set_ylabel("rank-biserial r, KQV against QKQV")
    handles, names = axes[0].get_legend_handles_labels()
    legend: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "fontsize": 10.5}
    fig.legend(handles, names, handletextpad=0.2, **legend)
    return fig


def _published_star(ax: Any, x: float, y: float) -> None:
    """An open star at the published pair."""
    ax.plot(
        x,
        y,
        marker="*",
        color="white",
        markeredgecolor=plotting.INK,
        markersize=16,
        markeredgewidth=1.6,
        linestyle="none",
        label="published",
    )


def bridge(measured: Bridge, *, count: int = 72) -> Figure:
    """Three clouds at n = 4: direction error to KL with T11's curve, and the two links from KL.

    The first ``count`` draws are shown.
    """
    fig, axes = plt.subplots(1, 3, figsize=(9, 3.7))
    frame = pd.DataFrame({name: measured.of(name)[:, :count].ravel() for name in QUANTITIES})
    frame["scheme"] = np.repeat(measured.clouds, count)
    style: dict[str, Any] = {"data": frame, "hue": "scheme", "style": "scheme", "s": 18}
    style |= {"palette": plotting.SCHEME_COLORS, "markers": plotting.SCHEME_MARKERS}
    style |= {"alpha": 0.7, "linewidth": 0}
    for ax, (x, y) in zip(axes, (LEFT_PANEL, *LINKS.values()), strict=True):
        sns.scatterplot(x=x, y=y, ax=ax, legend=ax is axes[0], **style)
        ax.set(xscale="log", yscale="log", xlabel="KL (nats)")
    left, centre, right = axes
    angle = np.linspace(0.025, 0.095, 40)
    law = bridge_kl_law(angle, measured.unconcentrated.mean())
    plotting.theory_line(left, angle, law, label="T11")
    left.set(xlabel="direction error of K (angle / $\\pi$)", ylabel="KL (nats)")
    left.set_xticks([0.03, 0.05, 0.08], ["0.03", "0.05", "0.08"])
    left.legend(loc="upper left", fontsize=10, handletextpad=0.2)
    centre.set_ylabel("misrouted weight")
    centre.set_yticks([0.05, 0.1, 0.2, 0.4], ["0.05", "0.1", "0.2", "0.4"])
    right.set_ylabel("output error (relative)")
    right.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    for ax in axes:
        ax.minorticks_off()
    return fig


# Readings of direction error that are drawn in a colour of their own; all others are alike.
DIRECTION_NAMES = {"1 − cos": "1 − cos", "θ/π": "angle over π"}
DIRECTION_LOOKS = {
    "other readings": (GREY, "."),
    "1 − cos": (plotting.SCHEME_COLORS["WHT"], "D"),
    "angle over π": (plotting.SCHEME_COLORS["KQV"], "o"),
}


def readings_of_c15(search: Search[ReadingC15]) -> Figure:
    """KV's direction error at two and at four bits in every reading."""
    fig, ax = plt.subplots(figsize=(7.2, 4.2))
    kv = kv_alone(search)
    frame = pd.DataFrame(kv.values, columns=["two", "four"])
    frame["reading"] = [DIRECTION_NAMES.get(x.direction, "other readings") for x in kv.labels]
    # Seaborn draws rows in their order: the named readings come last, above the others.
    order = list(DIRECTION_LOOKS)
    frame = frame.sort_values("reading", key=lambda column: column.map(order.index), kind="stable")
    sns.scatterplot(
        frame,
        x="two",
        y="four",
        hue="reading",
        style="reading",
        palette={name: color for name, (color, _) in DIRECTION_LOOKS.items()},
        markers={name: marker for name, (_, marker) in DIRECTION_LOOKS.items()},
        size="reading",
        sizes={"other readings": 36, "1 − cos": 18, "angle over π": 18},
        alpha=0.75,
        linewidth=0,
        ax=ax,
    )
    star: dict[str, Any] = {"marker": "*", "markersize": 17, "linestyle": "none", "zorder": 9}
    ax.plot(*kv.published, color=plotting.INK, label="published", **star)
    ax.axvline(0.5, color=plotting.SCHEME_COLORS["KQV"], linewidth=1.2, linestyle=DASHES)
    ax.set(xscale="log", yscale="log", xlim=(0.02, 4), ylim=(0.003, 4))
    ax.set(xlabel="KV's reading at n = 2", ylabel="KV's reading at n = 4")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.legend(loc="upper left", fontsize=11)
    return fig


CACHE_MARKERS = {"K": "o", "V": "^", "T": "s"}


def shannon_plane(planes: Planes) -> Figure:
    """Rate against angle of K, V and T at n = 2 and 4, with light and with heavy tails."""
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 4.6), sharey=True)
    panels = {RANK_32: "Rank 32, light tails", FAT: "Student t, ν = 1.05"}
    for ax, (family, title) in zip(axes, panels.items(), strict=True):
        rate = np.linspace(0, 4.2, 200)
        plotting.theory_line(ax, rate, lloyd_max_line(rate), label="Lloyd–Max line")
        for scheme, cache in product(("KV", "KQV"), CACHE_MARKERS):
            _plane_points(ax, planes, family, scheme, cache)
        ax.set(title=title, xlabel="Shannon rate (bits)", xlim=(-1.1, 4.3), ylim=(0, 0.44))
    axes[0].set_ylabel("φ = angle / π")
    handles = [
        Line2D([], [], color=plotting.SCHEME_COLORS[scheme], linewidth=6, label=scheme)
        for scheme in ("KV", "KQV")
    ]
    handles.append(Line2D([], [], linestyle="none", label=" "))
    handles += [
        Line2D([], [], color=plotting.MUTED, marker=marker, linestyle="none", label=cache)
        for cache, marker in CACHE_MARKERS.items()
    ]
    legend: dict[str, Any] = {"loc": "upper right", "fontsize": 11, "ncols": 2}
    axes[0].legend(handles=handles, columnspacing=1, handletextpad=0.5, **legend)
    return fig


def _plane_points(ax: Any, planes: Planes, family: str, scheme: str, cache: str) -> None:
    """Draws of one cache, open at n = 2 and filled at n = 4; an arrow joins the means."""
    color = plotting.SCHEME_COLORS[scheme]
    style: dict[str, Any] = {"color": color, "marker": CACHE_MARKERS[cache], "linestyle": "none"}
    path = []
    for bits, fill in ((2, "none"), (4, "full")):
        points = planes.of_cache(family, scheme, bits, cache)
        at = metrics.shannon_rate(points[SQUARED]), points[ANGLE]
        ax.plot(*at, markersize=3.8, alpha=0.55, fillstyle=fill, markeredgewidth=0.6, **style)
        path.append([x.mean() for x in at])
    if cache != "T":
        arrow = {"arrowstyle": "->", "color": color, "linewidth": 1}
        ax.annotate("", path[1], path[0], arrowprops=arrow)


def readings_of_c14(
    search: Search[ReadingC14], intact: int, damaged: int, nearest: int, *, count: int = 300
) -> Figure:
    """r by budget of three readings given by index, of ``count`` others, and as published."""
    fig, ax = plt.subplots(figsize=(7.2, 4.2))
    bits = np.array(BUDGETS)
    others = np.random.default_rng(0).choice(len(search), count, replace=False)
    ax.plot(bits, search.values[others].T, color="#BBBBBB", linewidth=0.5, alpha=0.35, zorder=1)
    for i, scheme, marker, label in (
        (intact, "KV", "s", "Lloyd–Max in both"),
        (damaged, "KQV", "o", "one damaged codebook in both"),
        (nearest, "QKV", "D", "nearest reading"),
    ):
        color = plotting.SCHEME_COLORS[scheme]
        ax.plot(bits, search.values[i], color=color, marker=marker, label=label, zorder=3)
    star: dict[str, Any] = {"marker": "*", "markersize": 13, "linewidth": 1, "linestyle": DASHES}
    ax.plot(bits, search.published, color=plotting.INK, label="published", zorder=4, **star)
    ax.axhline(0, color=plotting.MUTED, linewidth=0.8)
    ax.set(xlabel="budget n (bits a coordinate)", ylim=(-1.08, 1.55))
    ax.set_ylabel("r, KQV against KV (positive: KQV ahead)")
    ax.set_xticks(bits)
    ax.set_yticks([-1, -0.5, 0, 0.5, 1])
    ax.legend(loc="upper right", fontsize=10.5, ncols=2)
    return fig
