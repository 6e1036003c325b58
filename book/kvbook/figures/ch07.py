"""Figures of chapter 7."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kvbook import plotting
from kvbook.experiments import ch07
from kvbook.models import MODELS
from kvlib.checks import FloatArray

REGIME_COLORS = dict(
    zip(
        ch07.REGIMES,
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
REGIME_MARKERS = dict(zip(ch07.REGIMES, "osDv^<>Pd*", strict=True))
BUDGET_COLORS = {2: "#5F3B91", 3: "#9A7BC4", 4: "#C9A227"}
BOX_COLORS = {"4 bits": "#AA1F10", "3 + QJL, Gaussian": "#5F3B91", "3 + QJL, Hadamard": "#B9A0DA"}


def effects(found: Mapping[str, FloatArray]) -> Figure:
    """Factors of the choices on KL, a row each; interactions below the line."""
    fig, ax = plt.subplots(figsize=(7.6, 8.2))
    for row, logs in enumerate(found.values()):
        for f, name in enumerate(ch07.REGIMES):
            i = ch07.ratio_interval(logs[:, f])
            y = row + (f - 4.5) * 0.078
            ax.plot([i.low, i.high], [y, y], color=REGIME_COLORS[name], linewidth=1.3)
            ax.plot(i.estimate, y, REGIME_MARKERS[name], color=REGIME_COLORS[name], markersize=5)
    ax.axvline(1, color=plotting.INK, linewidth=1)
    ax.axhline(5.5, color=plotting.MUTED, linewidth=0.8)
    for row in range(1, len(found)):
        ax.axhline(row - 0.5, color="#DDDDDD", linewidth=0.6)
    ax.set_xscale("log")
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="factor on the mean KL (below 1: better)", yticks=range(len(found)))
    ax.set_yticklabels(list(found))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    handles = [
        Line2D([], [], color=REGIME_COLORS[n], marker=REGIME_MARKERS[n], label=n, linestyle="")
        for n in ch07.REGIMES
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
    return fig


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
    for ax, sketch in zip(axes, ch07.SKETCHED, strict=True):
        _draw_win_map(fig, ax, factorial, family, sketch)
    axes[1].set_xlabel("budget n, at each logit spread")
    return fig


def _draw_win_map(
    fig: Figure, ax: Any, factorial: ch07.Factorial, family: ch07.Family, sketch: str
) -> None:
    mean = ch07.penalty(factorial, 128, sketch).mean(axis=0) / math.log(2)
    grid = np.concatenate([mean[..., i].T for i in range(len(ch07.SPREADS))], axis=1)
    image = ax.imshow(grid, cmap="PuOr_r", norm=TwoSlopeNorm(0, -4, 4), aspect="auto")
    for f, name in enumerate(ch07.REGIMES):
        for i, n in product(range(len(ch07.SPREADS)), ch07.BUDGETS):
            column = 6 * i + n - 1
            side = family.side(ch07.Comparison(128, sketch, n, name, i))
            ink = "white" if abs(grid[f, column]) > 2.4 else plotting.INK
            if side == 0:
                ax.plot(column, f, "x", color=ink, markersize=6)
            elif side < 0:
                ax.plot(column, f, "o", markerfacecolor="none", color=ink, markersize=8)
    for line in (5.5, 11.5):
        ax.axvline(line, color="white", linewidth=4)
    ax.set_xticks(range(18), [str(n) for n in ch07.BUDGETS] * 3)
    ax.set_yticks(range(len(ch07.REGIMES)), list(ch07.REGIMES))
    ax.grid(visible=False)
    ax.set_title(f"{sketch.capitalize()} sketch", pad=24)
    for i, label in enumerate(ch07.SPREADS):
        ax.text(6 * i + 2.5, -0.72, label, ha="center", va="bottom", fontsize=11)
    bar = fig.colorbar(image, ax=ax, ticks=[-4, -2, 0, 2, 4])
    bar.ax.set_yticklabels(["1/16", "1/4", "1", "4", "16"])


def boxes(factorial: ch07.Factorial) -> Figure:
    """The paper's boxplots: four bits against three and a sketch, a panel a dimension."""
    cells = dict(zip(BOX_COLORS, (ch07.WHT, *ch07.SKETCHED.values()), strict=True))
    fig, axes = plt.subplots(2, 2, figsize=(7.6, 6.4), sharey=True)
    for ax, (dim, low) in zip(axes.flat, ch07.LOW_RANK.items(), strict=True):
        for j, (label, cell) in enumerate(cells.items()):
            kl = factorial.kl[dim, cell, 4][:, :, ch07.MODERATE, 0]
            data = kl[:, [ch07.regime_index(dim, name) for name in ch07.trio(dim)]]
            drawn = ax.boxplot(
                list(data.T),
                positions=np.arange(3) + (j - 1) * 0.27,
                widths=0.22,
                patch_artist=True,
                flierprops={"marker": ".", "markersize": 4},
                medianprops={"color": "black"},
            )
            for box in drawn["boxes"]:
                box.set(facecolor=BOX_COLORS[label], alpha=0.85)
        ax.set_yscale("log")
        ax.set_xticks(range(3), ["Gaussian", "heavy tail", f"low rank ({low.split()[1]})"])
        ax.set_title(f"d={dim}")
    for ax in axes[:, 0]:
        ax.set_ylabel("mean KL of a head, nats")
    handles = [Patch(facecolor=c, alpha=0.85) for c in BOX_COLORS.values()]
    fig.legend(handles, list(BOX_COLORS), loc="outside lower center", ncols=3)
    return fig
