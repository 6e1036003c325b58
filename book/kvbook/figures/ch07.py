"""Figures of chapter 7."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kvbook import plotting
from kvbook.experiments import ch07
from kvbook.models import MODELS
from kvlib import stats
from kvlib.checks import FloatArray

REGIMES = list(ch07.REGIMES)
INTERACTIONS = 6
"""Rows of the effects from here on are interactions."""
REGIME_COLORS = dict(
    zip(
        REGIMES,
        (
            "#2B2B2B",
            "#A01F1A",
            "#E07B72",
            "#254296",
            "#3F6FD1",
            "#7FA3E8",
            "#259ED7",
            "#7B3FA0",
            "#AE8700",
            "#037766",
        ),
        strict=True,
    )
)
REGIME_MARKERS = dict(zip(REGIMES, "osDv^<>Pd*", strict=True))
BUDGET_COLORS = {2: plotting.SCHEME_COLORS["QKQV"], 3: "#9A7BC4", 4: "#C9A227"}
BOX_COLORS = {
    "4 bits": plotting.SCHEME_COLORS["KQV"],
    "3 + QJL, Gaussian": plotting.SCHEME_COLORS["QKQV"],
    "3 + QJL, Hadamard": "#B9A0DA",
}


def effects(found: Mapping[str, FloatArray]) -> Figure:
    """Factors of the choices on KL, a row each; interactions below the line."""
    fig, ax = plt.subplots(figsize=(7.6, 8.2))
    sns.pointplot(
        _factors(found),
        x="factor",
        y="choice",
        hue="regime",
        palette=REGIME_COLORS,
        markers=list(REGIME_MARKERS.values()),
        linestyle="none",
        dodge=0.7,
        # seaborn averages what is on a logarithmic axis as logs: a geometric mean and its interval.
        log_scale=(True, False),
        errorbar=_mean_ends,
        markersize=7,
        markeredgewidth=0,
        err_kws={"linewidth": 1.3},
        ax=ax,
    )
    ax.axvline(1, color=plotting.INK, linewidth=1)
    ax.axhline(INTERACTIONS - 0.5, color=plotting.MUTED, linewidth=0.8)
    for row in range(1, len(found)):
        ax.axhline(row - 0.5, color="#DDDDDD", linewidth=0.6)
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="factor on the mean KL (below 1: better)", ylabel=None)
    ax.grid(axis="y", visible=False)
    handles, labels = _take_legend(ax)
    fig.legend(handles, labels, loc="outside lower center", ncols=4)
    return fig


def _factors(found: Mapping[str, FloatArray]) -> pd.DataFrame:
    """A row for each choice, regime and repetition."""
    wide = {choice: pd.DataFrame(np.exp(logs), columns=REGIMES) for choice, logs in found.items()}
    long = pd.concat(wide, names=["choice", "repetition"]).melt(
        var_name="regime", value_name="factor", ignore_index=False
    )
    return long.reset_index()


def _take_legend(ax: Any) -> tuple[list[Any], list[str]]:
    """Handles and labels of the legend of an axis, which loses it."""
    handles, labels = ax.get_legend_handles_labels()
    ax.get_legend().remove()
    return handles, labels


def _mean_ends(sample: pd.Series) -> tuple[float, float]:
    """Ends of the interval of a mean, as seaborn asks for them."""
    interval = stats.mean_interval(sample)
    return interval.low, interval.high


def alignment(
    measured: ch07.Alignment, budgets: Sequence[int], heads: Sequence[ch07.HeadRatio]
) -> Figure:
    """QKQV over KQV by the rank that keys and queries share, and by the kappa of captured heads."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 4.6), sharey=True, width_ratios=(1.25, 1))
    _draw_ranks(left, measured, budgets)
    _draw_heads(right, heads)
    for ax in (left, right):
        ax.axhline(1, color=plotting.INK, linewidth=1)
        ax.set_yscale("log")
        ax.set_yticks([0.2, 0.5, 1, 2, 4], ["0.2", "0.5", "1", "2", "4"])
        ax.minorticks_off()
    return fig


def _draw_ranks(ax: Any, measured: ch07.Alignment, budgets: Sequence[int]) -> None:
    ranks = np.geomspace(2, 128, 60)
    for n in budgets:
        law = [ch07.second_order_ratio_law("hadamard", n, rank) for rank in ranks]
        ax.plot(ranks, law, color=BUDGET_COLORS[n], linestyle=(0, (5, 2)), linewidth=1.4)
        plotting.measured_points(
            ax,
            np.array(measured.ranks),
            measured.ratios("hadamard", n),
            color=BUDGET_COLORS[n],
            marker="^",
            label=f"n={n}",
        )
    ax.set_xscale("log", base=2)
    ax.set_xticks(measured.ranks, [str(rank) for rank in measured.ranks])
    ax.set(xlabel="rank r of keys and queries, d=128", ylabel="KL of QKQV over KQV")
    ax.set_title("synthetic, aligned")
    ax.legend()


def _draw_heads(ax: Any, heads: Sequence[ch07.HeadRatio]) -> None:
    for model in MODELS.values():
        chosen = [head for head in heads if head.model == model.label]
        plotting.measured_points(
            ax,
            np.array([head.kappa for head in chosen]),
            [head.ratio for head in chosen],
            color=model.color,
            marker=model.marker,
            label=model.label,
        )
    kappas = np.geomspace(0.1, 300, 60)
    law = [ch07.first_order_ratio_law("hadamard", 2, kappa, 64) for kappa in kappas]
    plotting.theory_line(ax, kappas, law, label=None)
    ax.set_xscale("log")
    ax.set(xlabel="κ of the head")
    ax.set_title("captured heads, n=2")
    ax.legend(loc="lower right")


def win_map(factorial: ch07.Factorial, family: ch07.Family) -> Figure:
    """KL of QKQV over KQV by regime, budget and spread, and where it is decided which is lower."""
    fig, axes = plt.subplots(2, 1, figsize=(7.6, 8.4))
    columns = list(product(range(len(ch07.SPREADS)), ch07.BUDGETS))
    for ax, sketch in zip(axes, ch07.SKETCHED, strict=True):
        mean = ch07.penalty(factorial, 128, sketch).mean(axis=0) / math.log(2)
        ratios = np.stack([mean[ch07.BUDGETS.index(n), :, spread] for spread, n in columns], axis=1)
        labels = [str(n) for _, n in columns]
        sns.heatmap(
            pd.DataFrame(ratios, index=REGIMES, columns=labels),
            cmap="PuOr_r",
            vmin=-4,
            vmax=4,
            cbar=False,
            ax=ax,
        )
        for (f, name), (column, (spread, n)) in product(enumerate(REGIMES), enumerate(columns)):
            side = family.side(ch07.Comparison(128, sketch, n, name, spread))
            if side <= 0:
                _mark_decision(ax, column + 0.5, f + 0.5, side, float(ratios[f, column]))
        _finish_win_map(ax, f"{sketch.capitalize()} sketch")
    axes[1].set_xlabel("budget n, at each logit spread")
    bar = fig.colorbar(axes[0].collections[0], ax=axes, ticks=[-4, -2, 0, 2, 4], aspect=40)
    bar.ax.set_yticklabels(["1/16", "1/4", "1", "4", "16"])
    bar.outline.set_visible(False)
    return fig


def _mark_decision(ax: Any, x: float, y: float, side: int, ratio: float) -> None:
    """A circle where QKQV is ahead, a cross where it is undecided."""
    marker, size = ("x", 6) if side == 0 else ("o", 8)
    ink = "white" if abs(ratio) > 2.4 else plotting.INK
    ax.plot(x, y, marker, fillstyle="none", color=ink, markersize=size)


def _finish_win_map(ax: Any, title: str) -> None:
    """Part the spreads, and name them."""
    width = len(ch07.BUDGETS)
    for i, spread in enumerate(ch07.SPREADS):
        if i:
            ax.axvline(width * i, color="white", linewidth=4)
        ax.text(width * (i + 0.5), -0.22, spread, ha="center", va="bottom", fontsize=11)
    ax.tick_params(left=False, bottom=False, rotation=0)
    ax.set_title(title, pad=24)


def boxes(factorial: ch07.Factorial) -> Figure:
    """The paper's boxplots: four bits against three and a sketch, a panel a dimension."""
    fig, axes = plt.subplots(2, 2, figsize=(7.6, 6.4), sharey=True)
    for ax, (dim, low) in zip(axes.flat, ch07.LOW_RANK.items(), strict=True):
        sns.boxplot(
            _head_kl(factorial, dim),
            x="keys",
            y="KL",
            hue="bits",
            palette=BOX_COLORS,
            saturation=1,
            gap=0.15,
            legend=dim == 2,
            boxprops={"alpha": 0.85},
            linewidth=1,
            linecolor="black",
            flierprops={"marker": ".", "markersize": 4},
            ax=ax,
        )
        ax.set_xticks(range(3), ["Gaussian", "heavy tail", f"low rank ({low.split()[1]})"])
        ax.set(title=f"d={dim}", xlabel=None, ylabel=None)
    # Only now: on a logarithmic axis seaborn would take whiskers and fliers of the logs.
    axes[0, 0].set_yscale("log")
    for ax in axes[:, 0]:
        ax.set_ylabel("mean KL of a head, nats")
    handles, labels = _take_legend(axes[0, 0])
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    return fig


def _head_kl(factorial: ch07.Factorial, dim: int) -> pd.DataFrame:
    """KL of a head at four bits in all, moderate spread: a row a cell, regime and repetition."""
    cells = dict(zip(BOX_COLORS, (ch07.WHT, *ch07.SKETCHED.values()), strict=True))
    columns = [ch07.regime_index(dim, name) for name in ch07.trio(dim)]
    found = {
        bits: pd.DataFrame(
            factorial.kl[dim, cell, 4][:, columns, ch07.MODERATE, 0], columns=ch07.trio(dim)
        )
        for bits, cell in cells.items()
    }
    long = pd.concat(found, names=["bits", "repetition"]).melt(
        var_name="keys", value_name="KL", ignore_index=False
    )
    return long.reset_index()
