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
from matplotlib.patches import Patch, Rectangle

from kvbook import plotting
from kvbook.experiments import ch07
from kvbook.models import MODELS
from kvlib.checks import FloatArray

REGIMES = list(ch07.REGIMES)
MOVING = {
    ch07.EXTREME: ("#A01F1A", "D"),
    ch07.SPIKE: ("#AE8700", "*"),
    ch07.ALIGNED: ("#7B3FA0", "P"),
}
"""Colour and marker of the regimes that depart from the others."""
CODEBOOK, SKETCH, STEPS = plotting.SCHEME_COLORS["KQV"], plotting.SCHEME_COLORS["QKQV"], "#9A9A9A"
ROTATION_NAMES = {"none": "none", "hadamard": "WHT", "haar": "Haar"}
BUDGET_COLORS = {2: plotting.SCHEME_COLORS["QKQV"], 3: "#9A7BC4", 4: "#C9A227"}
BOX_COLORS = {
    "4 bits": plotting.SCHEME_COLORS["KQV"],
    "3 + QJL, Gaussian": plotting.SCHEME_COLORS["QKQV"],
    "3 + QJL, Hadamard": "#B9A0DA",
}


def cells(schemes: Mapping[str, tuple[ch07.Cell, ch07.Cell]], bits: int) -> Figure:
    """The cells that keys and values of each scheme are quantized by: a square a bit."""
    fig, ax = plt.subplots(figsize=(7.6, 0.5 * len(schemes) + 1.5))
    columns = {"rotation": 0.0, "keys": 1.5, "scale of keys": 4.0, "values": 6.6}
    for row, (name, (key, value)) in enumerate(schemes.items()):
        ax.text(-0.3, row, name.split(",")[0], ha="right", va="center")
        ax.text(columns["rotation"], row, ROTATION_NAMES[key.rotation], va="center")
        ax.text(columns["scale of keys"], row, _scale_name(key), va="center")
        _draw_bits(ax, columns["keys"], row, key, bits)
        _draw_bits(ax, columns["values"], row, value, bits)
    for title, x in columns.items():
        ax.text(x, -0.85, title, va="center", weight="bold")
    ax.set(xlim=(-2.6, 8.7), ylim=(len(schemes) - 0.4, -1.3))
    ax.axis("off")
    kinds = {
        "codebook bit": CODEBOOK,
        "sign of the sketch": SKETCH,
        "equal steps, no rotation": STEPS,
    }
    handles = [Patch(color=color, label=label) for label, color in kinds.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def _scale_name(cell: ch07.Cell) -> str:
    return f"{cell.scale}, centred" if cell.center else cell.scale


def _draw_bits(ax: Any, x: float, row: int, cell: ch07.Cell, bits: int) -> None:
    """A square for each bit of a coordinate, the sketch's last."""
    for place in range(bits):
        last = place == bits - 1
        color = STEPS if cell.levels == "min-max" else SKETCH if cell.sketch and last else CODEBOOK
        ax.add_patch(Rectangle((x + 0.48 * place, row - 0.3), 0.42, 0.6, color=color, linewidth=0))


def effects(found: Mapping[str, FloatArray]) -> Figure:
    """Factors of the choices on KL: the regimes that depart, and a band of all others."""
    fig, ax = plt.subplots(figsize=(7.6, 5.2))
    rest = [i for i, name in enumerate(REGIMES) if name not in MOVING]
    offsets = dict(zip(MOVING, (-0.22, 0.0, 0.22), strict=True))
    for row, logs in enumerate(found.values()):
        means = [ch07.ratio_interval(logs[:, i]).estimate for i in rest]
        ax.plot(
            [0.985 * min(means), 1.015 * max(means)],
            [row, row],
            color="#BBBBBB",
            linewidth=16,
            solid_capstyle="butt",
            zorder=1,
            label="range of the other seven" if row == 0 else None,
        )
        for name, (color, marker) in MOVING.items():
            interval = ch07.ratio_interval(logs[:, REGIMES.index(name)])
            y = row + offsets[name]
            ax.plot([interval.low, interval.high], [y, y], color=color, linewidth=1.5, zorder=2)
            ax.plot(interval.estimate, y, marker, color=color, markersize=8, zorder=3)
            if row == 0:
                ax.plot([], [], marker, color=color, markersize=8, label=name)
    ax.axvline(1, color=plotting.INK, linewidth=1, zorder=1)
    ax.set_xscale("log")
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_yticks(range(len(found)), list(found))
    ax.set(xlabel="factor on the mean KL (below 1: better)", ylim=(len(found) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    fig.legend(loc="outside lower center", ncols=4)
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
        law = [ch07.first_order_ratio_law("hadamard", n, ch07.shared_kappa(rank)) for rank in ranks]
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
    ax.set(xlabel="shared dimensions r, d=128", ylabel="KL of QKQV over KQV")
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
