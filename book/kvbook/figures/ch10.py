"""Figures and tables of chapter 10."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kvbook import plotting
from kvbook.experiments import ch10
from kvbook.experiments.ch10 import (
    BUDGETS,
    CODES,
    MATCHED,
    NORM,
    QJL,
    CodeErrors,
    ShareErrors,
)
from kvbook.page import shown, table
from kvlib.checks import FloatArray
from kvlib.quantize import codebooks
from kvlib.quantize.rotations import Rotation
from kvlib.stats import Interval

BUDGET_COLORS = {1: "#2B2B2B", 2: "#7A0177", 3: "#B45F06", 4: "#0A6853"}
BUDGET_MARKERS = {1: "D", 2: "s", 3: "o", 4: "^"}
SHORT = {NORM: "norm", MATCHED: "matched", ch10.UNBIASED: "unbiased", QJL: "QJL"}
"""What the map's columns call the codes."""
_SMALL: dict[str, Any] = {"fontsize": 10, "color": plotting.MUTED}


# What a rotation does ----------------------------------------------------------------------------


def rounds_picture(dim: int = 64, seed: int = 2) -> Figure:
    """Three vectors before any rotation, after one Hadamard round and after two.

    Grey lines are the levels of the two-bit codebook; between them, dotted, its edges.
    """
    vectors = _three_vectors(dim, np.random.default_rng(seed))
    fig, axes = plt.subplots(3, 3, figsize=(7.2, 5.6), sharex=True)
    for row, (name, x) in zip(axes, vectors.items(), strict=True):
        for rounds, ax in enumerate(row):
            turned = (
                x if rounds == 0 else Rotation("hadamard", dim, seed=seed, rounds=rounds).apply(x)
            )
            _draw_coordinates(ax, math.sqrt(dim) * turned.ravel(), levels=rounds > 0, dim=dim)
        row[0].set_ylabel(name)
    for ax, title in zip(axes[0], ("as it is", "after one round", "after two"), strict=True):
        ax.set_title(title)
    axes[-1][1].set_xlabel("coordinate")
    return fig


def _three_vectors(dim: int, rng: np.random.Generator) -> dict[str, FloatArray]:
    """Unit vectors, shape (1, d): one-hot, a spike of 60%, and a dense one."""
    dense = rng.standard_normal((1, dim))
    dense /= np.linalg.norm(dense)
    one_hot, rest = np.zeros((1, dim)), dense.copy()
    one_hot[0, dim // 3], rest[0, dim // 3] = 1, 0
    spike = math.sqrt(0.6) * one_hot + math.sqrt(0.4) * rest / np.linalg.norm(rest)
    return {"one-hot": one_hot, "60% spike": spike, "dense": dense}


def _draw_coordinates(ax: Any, y: FloatArray, *, levels: bool, dim: int) -> None:
    """One vector's coordinates as stems, in units of the standard deviation of a uniform one."""
    if levels:
        book = codebooks.lloyd_max(dim, 2)
        for level in math.sqrt(dim) * book.levels:
            ax.axhline(level, color="#B9B9B9", linewidth=1, zorder=1)
        for edge in math.sqrt(dim) * book.edges:
            if math.isfinite(edge):
                ax.axhline(edge, color="#B9B9B9", linewidth=0.9, linestyle=":", zorder=1)
    color = plotting.ROTATION_COLORS["hadamard" if levels else "none"]
    ax.vlines(np.arange(len(y)), 0, y, color=color, linewidth=1, alpha=0.6)
    ax.plot(np.arange(len(y)), y, "o", color=color, markersize=2.6)
    ax.grid(False)
    ax.set(ylim=(-3.3, 3.3) if levels else (-3.3, 9), xticks=[])
    ax.set_yticks((-2, 0, 2) if levels else (0, 4, 8))


# Spikes and rounds -------------------------------------------------------------------------------


def share_curves(shares: ShareErrors) -> Figure:
    """Error after one round over that after many, by the spike's share, norm and matched scale."""
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 4.2), sharey=True)
    for ax, scale in zip(axes, (NORM, MATCHED), strict=True):
        for n in BUDGETS:
            _draw_budget(ax, shares, n, scale)
        ax.axhline(1, color=plotting.MUTED, linewidth=1)
        ax.set(
            xscale="log",
            yscale="log",
            ylim=(0.08, 3),
            title=f"{scale} stored" if scale == NORM else f"{scale} scale stored",
        )
        ax.set_xlabel("share of the energy in one coordinate")
        ticks = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
        ax.set_xticks([_odds(t) for t in ticks], [f"{t:g}" for t in ticks], fontsize=9.5)
        ax.minorticks_off()
    plotting.plain_ticks(axes[0].set_yticks, (0.1, 0.2, 0.5, 1, 2))
    axes[0].set_ylabel("squared error, one round over many")
    axes[0].legend(loc="lower left", title="bits a coordinate", ncols=2)
    axes[1].annotate("a second round\nhelps above 1", (_odds(0.52), 1.25), **_SMALL)
    return fig


def _odds(share: float) -> float:
    return share / (1 - share)


def _draw_budget(ax: Any, shares: ShareErrors, bits: int, scale: str) -> None:
    """The law of one budget as a line, and what was measured of one round over it."""
    grid = 1 - np.geomspace(0.5, 0.001, 120)
    many = ch10.uniform_error_law(shares.dim, bits, scale)
    law = [ch10.spike_error_law(shares.dim, bits, s, scale) / many for s in grid]
    color = BUDGET_COLORS[bits]
    ax.plot([_odds(s) for s in grid], law, color=color, linewidth=1.5)
    measured = shares.errors(bits, scale).mean(axis=0) / many
    ax.plot(
        [_odds(s) for s in shares.shares],
        measured,
        BUDGET_MARKERS[bits],
        color=color,
        label=str(bits),
        markersize=6,
    )


def kl_map(found: Mapping[str, CodeErrors]) -> Figure:
    """KL of every code over that of the rule, a panel a budget; blue: lower than the rule."""
    fig, axes = plt.subplots(2, 2, figsize=(7.2, 6.6), sharey=True)
    for ax, n in zip(axes.flat, BUDGETS, strict=True):
        frame = _map_frame(found, n)
        sns.heatmap(
            np.log2(frame),
            annot=frame.map(_short),
            fmt="",
            annot_kws={"fontsize": 7.5},
            cmap="RdBu_r",
            vmin=-4,
            vmax=4,
            cbar=False,
            linewidths=0.6,
            ax=ax,
        )
        ax.set(title=f"n = {n}", xlabel="", ylabel="")
        ax.grid(False)
        ax.tick_params(axis="x", labelsize=8.5, rotation=60)
        ax.tick_params(axis="y", labelsize=9)
    return fig


def _map_frame(found: Mapping[str, CodeErrors], bits: int) -> pd.DataFrame:
    """KL over that of the rule: kinds of keys by code and rounds (one and two)."""
    columns = [(c, r) for c in SHORT for r in (1, 2)]
    present = ch10.cells(bits)
    return pd.DataFrame(
        {
            f"{SHORT[c[0]]} × {c[1]}": [
                errors.ratio(s, bits, c).estimate if c in present else np.nan
                for s, errors in found.items()
            ]
            for c in columns
        },
        index=[_row_name(s) for s in found],
    )


def _row_name(subject: str) -> str:
    """A kind of keys in few letters."""
    return {ch10.RARE: "1 in 16 a 99% spike", ch10.HEAVY: "t, ν = 1.05"}.get(
        subject, subject.replace("language model", "LM")
    )


def _short(ratio: float) -> str:
    """A ratio in at most four characters."""
    if not math.isfinite(ratio):
        return ""
    return f"{ratio:.2f}" if ratio < 9.95 else f"{ratio:.0f}"


def better_table(found: Mapping[str, CodeErrors]) -> Any:
    """Where leaving the rule is worth it: the code that is better, its KL over the rule's."""
    rows = []
    for subject, errors in found.items():
        cells = [errors.better(subject, n) for n in BUDGETS]
        rows.append([subject, *("the rule" if c is None else _leaves(*c) for c in cells)])
    return table(
        ["keys", *(f"n = {n}" for n in BUDGETS)],
        rows,
        "The code of the lowest KL, and its KL over that of the rule (matched scale, one round) "
        "where the whole 95% interval lies below 0.95",
    )


def _leaves(cell: tuple[str, int], ratio: Interval) -> str:
    code, rounds = cell
    turned = "" if rounds == 1 else f", {rounds} rounds"
    return f"<b>{code}{turned}</b><br>{shown(ratio)}"


# One bit, two dimensions -------------------------------------------------------------------------


def one_bit_table(found: Mapping[str, FloatArray], heads: CodeErrors, dim: int) -> Any:
    """KL at one bit over that of the norm, derived and measured."""
    ranks: dict[str, int | None] = {ch10.ISOTROPIC: None, **ch10.RANKS}
    rows = []
    for name, errors in found.items():
        over = ch10.over_norm(errors)
        law = [f"{ch10.one_bit_kl_law(dim, code, ranks[name]):.2f}" for code in CODES[1:]]
        rows.append([f"{name}: derived", *law])
        rows.append([f"{name}: measured", *(shown(over[code]) for code in CODES[1:])])
    for subject in heads.subjects:
        ratios = [heads.ratio(subject, 1, (code, 1), (NORM, 1)) for code in CODES[1:]]
        rows.append([subject, *map(shown, ratios)])
    return table(["keys", *CODES[1:]], rows, "KL at one bit a coordinate, over that of the norm")


def plane_table(
    budgets: Sequence[int], measured: Mapping[int, Sequence[tuple[Interval, Interval]]]
) -> Any:
    """The lead of QKQV at d = 2 by what the residual's norm costs, and at d = 3."""
    price = [f"{ch10.break_even_price(n):.2f}" for n in budgets]
    rows = [
        ["error, norm for nothing", *_digits(ch10.ratio_for_free, budgets)],
        ["the same, measured", *(shown(ratio[1]) for ratio in measured[2])],
        ["KL, norm for nothing, measured", *(shown(ratio[0]) for ratio in measured[2])],
        ["error, norm at one bit a vector", *_digits(ch10.ratio_at_one_bit, budgets)],
        ["error, norm not stored", *_digits(ch10.ratio_without_norm, budgets)],
        ["price at which both are level, bits a vector", *price],
        ["d = 3: error, norm for nothing, measured", *(shown(ratio[1]) for ratio in measured[3])],
    ]
    return table(
        ["QKQV over KQV, d = 2", *(f"n = {n}" for n in budgets)],
        rows,
        "Squared error and KL of QKQV (orthogonal sketch, MMSE scale) over KQV, Haar rotation",
    )


def _digits(law: Any, budgets: Sequence[int]) -> list[str]:
    return [f"{law(n):.2f}" for n in budgets]


def stretch_table(found: Mapping[float, tuple[float, float]], dim: int) -> Any:
    """Squared error at two bits on spikes: matched code, the same with a stretch, the sketch."""
    rows = [
        [
            f"{share:.1%}",
            f"{plain:.4f}",
            f"{best:.4f}",
            f"{ch10.sketched_spike_law(dim, 2, share):.4f}",
            f"{ch10.uniform_error_law(dim, 2, MATCHED):.4f}",
        ]
        for share, (plain, best) in found.items()
    ]
    header = ["share", "matched", "with a stretch", "QJL, derived", "matched, many rounds"]
    return table(header, rows, f"Squared error at two bits after one round, d = {dim}")
