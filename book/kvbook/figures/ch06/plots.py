"""The figures of chapter 6."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from kvbook import plotting
from kvbook.experiments import ch06
from kvbook.experiments.ch06 import BUDGETS, Budgets, KeyErrors, Setting, Sketch, Training
from kvbook.experiments.common import distortion
from kvlib.laws import sphere
from kvlib.quantize import codebooks

KQV, QKQV = plotting.SCHEME_COLORS["KQV"], plotting.SCHEME_COLORS["QKQV"]
_BUDGET_LABEL = "budget n (bits a coordinate)"
_SMALL: dict[str, Any] = {"fontsize": 10.5}

BANDS = {
    Sketch("gaussian", "unbiased"): "#8E6BBF",
    Sketch("hadamard", "unbiased"): QKQV,
    Sketch("hadamard", "mmse"): "#2E1A4A",
}
"""Shades of QKQV's colour, by sketch."""

_HEAVY = "ν=1.05, full rank"
"""The kind of keys that a star marks."""

_GROUP_COLORS = {
    **{sketch.label: color for sketch, color in BANDS.items()},
    ch06.ORTHOGONAL_MMSE.label: QKQV,
    _HEAVY: plotting.FAMILY_COLORS["student_t"],
}

PATTERN_COLORS = {"none": "#C9CDD1", "run": "#8FB7D6", "gap": "#E0A458", "{2,3,5}": "#AA1F10"}


def _log_ticks(axis: Any, values: Sequence[float]) -> None:
    """Ticks at these values of a log axis and no others."""
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def _mark_tie(ax: Any, low: float) -> None:
    """A line where the schemes tie, and a shade below it, where QKQV is ahead."""
    ax.axhline(1, color=plotting.INK, linewidth=1)
    ax.axhspan(low, 1, color=plotting.MUTED, alpha=0.12, linewidth=0)


def improvement_by_dimension(dims: Sequence[int]) -> Figure:
    """D(n)/D(n-1) against the dimension, one line a budget, and the constants of the sketches."""
    fig, ax = plt.subplots(figsize=(7.2, 4.8))
    shades = plt.get_cmap("cividis")(np.linspace(0.0, 0.62, len(BUDGETS)))
    shifts = {5: -4, 6: -13}  # points, where two labels would meet
    for n, shade in zip(BUDGETS, shades, strict=True):
        ax.plot(dims, [ch06.improvement(d, n) for d in dims], color=shade)
        ax.annotate(
            f"n={n}",
            (dims[-1], ch06.improvement(dims[-1], n)),
            (5, shifts.get(n, 0)),
            textcoords="offset points",
            color=shade,
            va="center",
            **_SMALL,
        )
    dashes = {ch06.ORTHOGONAL_MMSE: (0, (5, 2)), ch06.ORTHOGONAL: (0, (1, 1.5))}
    for sketch, dash in dashes.items():
        constants = [ch06.sketch_constant(sketch, d) for d in dims]
        ax.plot(dims, constants, color=QKQV, linestyle=dash, linewidth=2.2)
    ax.annotate("c, orthogonal sketch, unbiased", (5.2, 0.575), color=QKQV)
    ax.annotate("c, orthogonal sketch, MMSE", (5.2, 0.375), color=QKQV)
    ax.annotate("c of a Gaussian sketch: above 1", (5.2, 0.645), color=plotting.MUTED)
    ax.axvspan(1.8, 3.2, color=plotting.MUTED, alpha=0.12, linewidth=0)
    ax.annotate("exceptions", (1.84, 0.645), color=plotting.MUTED, **_SMALL)
    ax.set(xscale="log", xlim=(1.8, 1700), ylim=(0.15, 0.68))
    ax.set(xlabel="dimension d", ylabel="D(n) / D(n−1)")
    _log_ticks(ax.xaxis, [2, 3, 4, 8, 16, 64, 128, 256, 1024])
    return fig


def error_ratios(cells: KeyErrors, heads: Mapping[str, KeyErrors]) -> Figure:
    """Squared error of QKQV over KQV by budget: kinds of synthetic keys, and captured heads."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.6), sharey=True)
    frame = ratio_frame([cells], BANDS)
    frame.loc[frame["kind"] == ch06.SPIKY, "group"] = _HEAVY
    _draw_ratios(left, frame, size=22)
    _draw_ratios(right, ratio_frame(heads.values(), BANDS), size=13)
    for sketch in BANDS:
        for ax, dim in ((left, 128), (right, 64)):
            law = [ch06.error_ratio_law(sketch, dim, n) for n in BUDGETS]
            plotting.theory_line(ax, list(BUDGETS), law, label=None)
    for ax in (left, right):
        _mark_tie(ax, 0.6)
        ax.set(yscale="log", ylim=(0.66, 8), xlabel=_BUDGET_LABEL, xticks=list(BUDGETS))
        _log_ticks(ax.yaxis, [0.7, 1, 1.5, 2, 3, 4, 6, 8])
    left.set(title=f"{cells.count} kinds of keys, d=128", ylabel="squared error, QKQV / KQV")
    right.set_title(f"{sum(errors.count for errors in heads.values())} captured heads")
    for group, place in {
        "Gaussian, unbiased": ("Gaussian sketch", (3.1, 3.9)),
        "Hadamard, unbiased": ("orthogonal", (3.1, 2.45)),
        "Hadamard, MMSE": ("orthogonal, MMSE", (3.3, 1.06)),
        _HEAVY: (_HEAVY, (2.4, 0.755)),
    }.items():
        left.annotate(*place, color=_GROUP_COLORS[group], **_SMALL)
    right.annotate("QKQV ahead", (3.2, 0.8), color=plotting.MUTED, **_SMALL)
    return fig


def ratio_frame(parts: Iterable[KeyErrors], sketches: Iterable[Sketch]) -> pd.DataFrame:
    """Squared error of QKQV over KQV, geometric mean over draws, as a tidy table.

    Columns are the position of the ``kind`` (or head, counted through all parts), ``budget``,
    ``group`` (the sketch) and ``ratio``; ``place`` is the budget with a small shift by kind.
    """
    whole = list(parts)
    rows = []
    for sketch in sketches:
        ratios = np.concatenate([errors.mean_ratios(sketch) for errors in whole], axis=1)
        shifts = np.linspace(-0.24, 0.24, ratios.shape[1])
        rows += [
            (kind, n, n + shifts[kind], sketch.label, ratio)
            for n, by_kind in zip(BUDGETS, ratios, strict=True)
            for kind, ratio in enumerate(by_kind)
        ]
    return pd.DataFrame(rows, columns=["kind", "budget", "place", "group", "ratio"])


def _draw_ratios(ax: Any, frame: pd.DataFrame, *, size: float) -> None:
    """A dot a budget and kind of keys or head in the colour of its group."""
    sns.scatterplot(
        frame,
        x="place",
        y="ratio",
        hue="group",
        palette=_GROUP_COLORS,
        style="group",
        markers=dict.fromkeys(_GROUP_COLORS, "o") | {_HEAVY: "*"},
        size="group",
        sizes=dict.fromkeys(_GROUP_COLORS, size) | {_HEAVY: 110},
        alpha=0.85,
        linewidth=0,
        legend=False,
        ax=ax,
        zorder=3,
    )


def dead_levels(training: Training, bits: int, iterations: int) -> Figure:
    """Where the levels of a codebook start and end on the range of the law; below, the best ones.

    Parameters
    ----------
    training : Training
        Started on [-1, 1].
    bits, iterations : int
    """
    fig, axes = plt.subplots(2, 1, figsize=(7.2, 4.2), sharex=True)
    damaged = training.books[iterations][bits]
    live = np.isin(np.arange(2**bits), damaged.quantize(training.sample))
    best = codebooks.lloyd_max(training.dim, bits)
    x = np.linspace(-1, 1, 2001)
    density = sphere.coordinate_pdf(x, training.dim)
    for ax in axes:
        ax.fill_between(x, density / density.max(), color=plotting.MUTED, alpha=0.3, linewidth=0)
        ax.set(ylim=(-0.32, 1.15), yticks=[])
    top, bottom = axes
    top.plot(np.linspace(-1, 1, 2**bits), np.full(2**bits, -0.18), "v", color=plotting.INK)
    top.vlines(damaged.levels[live], 0, 1, color=KQV, linewidth=2)
    top.vlines(
        damaged.levels[~live], 0, 1, color=plotting.MUTED, linewidth=2, linestyle=(0, (3, 2))
    )
    bottom.vlines(best.levels, 0, 1, color=KQV, linewidth=2)
    top.annotate(
        f"dead: {int((~live).sum())} levels", (-0.98, 1.03), color=plotting.MUTED, **_SMALL
    )
    top.annotate(f"alive: {int(live.sum())}", (0.17, 0.62), color=KQV, **_SMALL)
    top.annotate("▼ start", (0.17, 0.3), color=plotting.INK, **_SMALL)
    bottom.annotate(f"the best {2**bits} levels", (0.2, 0.62), color=KQV, **_SMALL)
    bottom.annotate("law of a coordinate", (0.2, 0.3), color=plotting.MUTED, **_SMALL)
    top.set_title(f"Started on [−1, 1], after {iterations:,} iterations (n={bits})")
    bottom.set_title("Lloyd–Max")
    bottom.set(xlabel=f"coordinate of a unit vector, d={training.dim}", xlim=(-1.04, 1.04))
    return fig


def damaged_codebook(training: Training, iterations: int, exhibit: KeyErrors) -> Figure:
    """A codebook with dead levels: its errors with those of QKQV, and ratios on kinds of keys."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.3))
    errors = np.array(training.distortions(iterations))
    sketched = ch06.sketch_constant(ch06.ORTHOGONAL_MMSE, training.dim) * errors[:-1]
    _draw_damage(left, training.dim, errors, sketched, training.live_levels(iterations))
    _draw_ratios(right, ratio_frame([exhibit], [ch06.ORTHOGONAL_MMSE]), size=22)
    plotting.theory_line(right, list(BUDGETS), sketched / errors[1:], label=None)
    _mark_tie(right, 0.2)
    right.set(yscale="log", ylim=(0.3, 3.2), xlabel=_BUDGET_LABEL, xticks=list(BUDGETS))
    right.set(ylabel="squared error, QKQV / KQV", title=f"{exhibit.count} kinds of keys")
    _log_ticks(right.yaxis, [0.3, 0.5, 0.7, 1, 1.5, 2, 3])
    right.annotate("QKQV ahead", (4.3, 0.5), color=plotting.MUTED, **_SMALL)
    return fig


def _draw_damage(ax: Any, dim: int, errors: Any, sketched: Any, live: Sequence[int]) -> None:
    """Errors of a damaged codebook with its live levels, beside the best one's and QKQV's."""
    bits = np.arange(1, 7)
    best = [distortion(dim, n) for n in bits.tolist()]
    ax.plot(bits, best, color=plotting.MUTED, linestyle=(0, (5, 2)))
    ax.plot(bits, errors, "o-", color=KQV)
    ax.plot(bits[1:], sketched, "^", color=QKQV, markersize=8)
    for n, error, levels in zip(bits, errors, live, strict=True):
        ax.annotate(
            str(levels), (n, error), (5, 6), textcoords="offset points", color=KQV, **_SMALL
        )
    ax.annotate("KQV and its number of live levels", (1.05, 0.95), color=KQV, **_SMALL)
    ax.annotate("QKQV", (4.15, 0.15), color=QKQV, **_SMALL)
    ax.annotate("best\ncodebook", (1.8, 0.009), color=plotting.MUTED, **_SMALL)
    ax.set(yscale="log", ylim=(5e-4, 1.8), xlabel=_BUDGET_LABEL, xticks=bits)
    ax.set(ylabel="relative squared error", title="A codebook with dead levels")


def winning_set_map(
    settings: Sequence[Setting], by_sample: Mapping[tuple[int, int], Sequence[Budgets]]
) -> Figure:
    """What draws which kind of winning set: the damage, and dimension and sample size.

    Parameters
    ----------
    settings : sequence of Setting
        Of the space searched; those with the MMSE sketch are shown.
    by_sample : mapping
        (dimension, log2 of the training coordinates) to the winning set of each sample.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.8), width_ratios=(1, 1.15))
    _draw_patterns_by_damage(left, [s for s in settings if s.sketch == "MMSE"])
    names = {"none": "no budget", "run": "neighbours", "gap": "with a gap"}
    fig.legend(
        [Patch(color=color) for color in PATTERN_COLORS.values()],
        [names.get(pattern, pattern) for pattern in PATTERN_COLORS],
        loc="outside lower center",
        ncols=4,
        columnspacing=1.4,
        handlelength=1,
    )
    _draw_most_common_sets(right, by_sample)
    return fig


def _draw_patterns_by_damage(ax: Any, settings: Sequence[Setting]) -> None:
    """Share of the settings with each pattern, stacked, by the excess error of the codebook."""
    bins = pd.cut(
        [setting.family.excess for setting in settings],
        [-np.inf, 0.03, 0.1, 0.3, 1, np.inf],
        labels=["<3%", "3–10%", "10–30%", "30–100%", ">100%"],
    )
    frame = pd.DataFrame({"excess": bins, "pattern": [setting.pattern for setting in settings]})
    sns.histplot(
        frame,
        x="excess",
        hue="pattern",
        hue_order=list(PATTERN_COLORS)[::-1],  # the last lies at the bottom
        palette=PATTERN_COLORS,
        multiple="fill",
        shrink=0.85,
        alpha=1,
        legend=False,
        ax=ax,
    )
    ax.set(ylim=(0, 1), xlabel="error above the best codebook", ylabel="settings (%)")
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    ax.tick_params(axis="x", labelsize=9.5, rotation=25)
    ax.set_title("By codebook quality")
    ax.grid(visible=False)


def _draw_most_common_sets(ax: Any, by_sample: Mapping[tuple[int, int], Sequence[Budgets]]) -> None:
    """The most common set and its share, in a field for each dimension and sample size."""
    order = list(PATTERN_COLORS)
    rows = []
    for (dim, size), sets in by_sample.items():
        found, number = Counter(sets).most_common(1)[0]
        text = f"{ch06.set_name(found)}\n{number / len(sets):.0%}"
        rows.append((dim, size, order.index(ch06.pattern(found)), text))
    frame = pd.DataFrame(rows, columns=["dimension", "size", "pattern", "text"])
    fields = frame.pivot(index="size", columns="dimension").sort_index(ascending=False)
    sns.heatmap(
        fields["pattern"].astype(int),
        annot=fields["text"],
        fmt="",
        annot_kws={"fontsize": 10, "linespacing": 1.5},
        cmap=ListedColormap(list(PATTERN_COLORS.values())),
        vmin=-0.5,
        vmax=len(order) - 0.5,
        cbar=False,
        linewidths=3,
        yticklabels=[f"$2^{{{size}}}$" for size in fields.index],
        ax=ax,
    )
    ax.set(xlabel="dimension d", ylabel="training coordinates")
    ax.tick_params(axis="y", rotation=0)
    ax.set_title("Start [−1, 1], most common set")
