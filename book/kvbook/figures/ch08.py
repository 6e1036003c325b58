"""Figures and tables of chapter 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from numpy.typing import NDArray

from kvbook import plotting
from kvbook.experiments import ch08
from kvbook.experiments.ch08 import Cell, ContextErrors, HeadErrors, SplitErrors
from kvbook.models import MODELS
from kvbook.page import shown, table
from kvlib.quantize import codebooks
from kvlib.stats import Interval, mean_interval

FloatArray = NDArray[np.float64]

WAYS = {
    "plain": ("MSE-only", plotting.SCHEME_COLORS["WHT"], "D"),
    "unbiased": ("unbiased scale", plotting.SCHEME_COLORS["EDEN"], "P"),
    "gaussian": ("QJL, Gaussian", plotting.SCHEME_COLORS["QKV"], "v"),
    "orthogonal": ("QJL, orthogonal", plotting.SCHEME_COLORS["KQV"], "o"),
    "centred plain": ("mean removed", plotting.SCHEME_COLORS["C-EDEN"], "s"),
}
"""Label, colour and marker of a way to store values."""
TABLE_LABELS = {
    "unbiased": "unbiased scale",
    "orthogonal": "QJL, orthogonal",
    "gaussian": "QJL, Gaussian",
    "centred plain": "mean removed",
    "centred unbiased": "mean removed, unbiased",
    "centred orthogonal": "mean removed, QJL orthogonal",
}
BUDGET_SHADES = {2: "#E2806C", 3: "#CF4A33", 4: "#AA1F10", 5: "#5E0C04"}
SPREAD_SHADES = ("#A9BDD6", "#7F9CC2", "#56799F", "#35567F", "#1A3154")
ERROR_LAW = {"linewidth": 1.2, "linestyle": (0, (5, 2)), "zorder": 2}


def output_curves(
    measured: Mapping[tuple[str, int], FloatArray], *, groups: Sequence[int], share: float
) -> Any:
    """Output error against effective tokens, a panel a budget, with the derived lines."""
    budgets = sorted({n for _, n in measured})
    fig, axes = plt.subplots(1, len(budgets), figsize=(7.2, 4.6), sharex=True)
    tokens = np.geomspace(1, 2048, 60)
    for ax, n in zip(axes, budgets, strict=True):
        for way, (label, color, marker) in WAYS.items():
            single, shared = ch08.errors_law(way, n, share)
            ax.plot(tokens, shared + (single - shared) / tokens, color=color, **ERROR_LAW)
            intervals = [mean_interval(column) for column in measured[way, n].T]
            plotting.measured_points(ax, groups, intervals, color=color, marker=marker, label=label)
        ax.axvline(ch08.threshold_law(n, share), color=plotting.MUTED, linewidth=1, linestyle=":")
        ax.set(xscale="log", yscale="log", xlabel=r"effective tokens $N_{\mathrm{eff}}$")
        ax.set_title(f"n = {n}")
        plotting.plain_ticks(ax.set_xticks, (1, 10, 100, 1000))
        ax.minorticks_off()
    axes[0].set_ylabel(r"squared output error / $E$")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def thresholds(errors: Mapping[Cell, FloatArray]) -> Any:
    """Derived and measured thresholds against the share of the mean, a shade a budget."""
    shares = np.linspace(0.06, 0.9, 17)
    fig, ax = plt.subplots(figsize=(7.2, 4.2))
    for n, color in BUDGET_SHADES.items():
        ax.plot(shares, [ch08.threshold_law(n, float(s)) for s in shares], color=color, lw=1.6)
        height = ch08.threshold_law(n, 0.9) * (0.85 if n == 2 else 1.05)  # two and three lie close
        ax.text(0.912, height, f"n = {n}", color=color, va="center", fontsize=11)
        for suffix, marker, shift in (("", "o", -0.006), (", Haar", "s", 0.006)):
            ways = {"first": f"plain{suffix}", "second": f"orthogonal{suffix}"}
            cells = [c for c in errors if c.way == ways["second"] and c.bits == n and c.share]
            found = [ch08.measured_threshold(errors, n, c.share, **ways) for c in cells]
            if cells:
                places = [c.share + shift for c in cells]
                plotting.measured_points(ax, places, found, color=color, marker=marker)
    for label, marker in (("Hadamard", "o"), ("Haar", "s")):
        ax.plot([], [], marker=marker, color=plotting.INK, linestyle="none", label=label)
    ax.plot([], [], color=plotting.INK, linewidth=1.6, label="derived")
    ax.set(yscale="log", xlim=(0, 0.99), ylim=(3, 4e4))
    ax.set(xlabel="share of the energy in the common mean", ylabel=r"threshold $N^*$")
    ax.legend()
    return fig


def mean_in_one_channel_table(measured: Mapping[tuple[str, int], Interval], share: float) -> Any:
    """Shared errors over the derived one for a mean in a random direction."""
    rotations = list(dict.fromkeys(name for name, _ in measured))
    rows = []
    for n in sorted({n for _, n in measured}):
        unit = ch08.errors_law("plain", n, share).shared
        found = [measured[name, n] for name in rotations]
        cells = [f"{i.estimate / unit:.2f} ± {i.half_width / unit:.2f}" for i in found]
        rows.append([str(n), *cells, f"{ch08.flat_mean_law(n, share) / unit:.2f}"])
    return table(
        ["n", *rotations, "one round, derived"],
        rows,
        "Shared error of MSE-only values whose common mean (share 1/2) lies in one channel, over "
        "the derived error for a mean in a random direction; d = 128",
    )


def captured_thresholds(
    heads: HeadErrors, foretold: Mapping[tuple[str, str, int], FloatArray], *, dim: int
) -> Any:
    """Heads in the plane of both thresholds' numbers; ratio of errors, foretold and measured."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.5), width_ratios=(1.1, 1))
    _draw_heads_and_thresholds(left, heads, dim)
    frame = pd.concat(
        pd.DataFrame(
            {
                "predicted": foretold[name, "orthogonal", n] / foretold[name, "plain", n],
                "measured": heads.over_plain("orthogonal", n, [name]),
                "model": MODELS[name].label,
                "n": n,
            }
        )
        for name in heads.facts
        for n in (2, 3, 4)
    )
    _scatter_by_model(right, frame, size="n", sizes={2: 49, 3: 30, 4: 16})
    ends = [0.35, 2.5]
    plotting.theory_line(right, ends, ends, label=None)
    right.axhline(1, color=plotting.MUTED, linewidth=1)
    right.axvline(1, color=plotting.MUTED, linewidth=1)
    right.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    right.set(xlabel="predicted", ylabel="measured", title="Error, QJL over MSE-only")
    for set_ticks in (right.set_xticks, right.set_yticks):
        plotting.plain_ticks(set_ticks, (0.5, 1, 2))
    right.minorticks_off()
    return fig


def _scatter_by_model(ax: Any, frame: pd.DataFrame, **options: Any) -> None:
    """Measured against predicted, a mark a row, in the colour and marker of its model.

    The frame has columns "predicted", "measured" and "model" (a label).
    """
    shown_models = [model for model in MODELS.values() if model.label in set(frame["model"])]
    sns.scatterplot(
        frame,
        x="predicted",
        y="measured",
        hue="model",
        palette={model.label: model.color for model in shown_models},
        style="model",
        markers={model.label: model.marker for model in shown_models},
        ax=ax,
        zorder=3,
        **options,
    )
    handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    labels = [model.label for model in shown_models]
    ax.legend([handles[label] for label in labels], labels, loc="upper left", fontsize=10)


def _draw_heads_and_thresholds(ax: Any, heads: HeadErrors, dim: int) -> None:
    """Effective tokens against attended share, filled where the sketch wins at two bits."""
    shares = np.linspace(0.02, 0.9, 18)
    for n in (2, 3, 4):
        heights = [ch08.threshold_law(n, float(s), dim=dim) for s in shares]
        ax.plot(shares, heights, color=BUDGET_SHADES[n], linewidth=1.6)
        ax.text(0.92, heights[-1], f"n = {n}", color=BUDGET_SHADES[n], va="center", fontsize=11)
    for name, facts in heads.facts.items():
        color, marker = MODELS[name].color, MODELS[name].marker
        wins = heads.over_plain("orthogonal", 2, [name]) < 1
        for chosen, face in ((wins, color), (~wins, "white")):
            x, y = facts.attended_share[chosen], facts.effective_tokens[chosen]
            ax.plot(x, y, marker, color=color, markerfacecolor=face, markersize=6)
    ax.set(yscale="log", ylim=(0.8, 500), xlim=(-0.14, 1.16))
    ax.set_xticks([0, 0.25, 0.5, 0.75])
    ax.set(xlabel=r"attended share $\mu_T$", ylabel=r"effective tokens $N_{\mathrm{eff}}$")
    ax.set_title("QJL wins above the line")


def _ratio_cell(heads: HeadErrors, way: str, bits: int, models: Sequence[str]) -> str:
    """Mean over heads with its interval over draws, and heads won."""
    ratio = heads.over_plain(way, bits, models)
    return f"{shown(heads.ratio(way, bits, models))}, {(ratio < 1).sum()}/{ratio.size}"


def ways_table(heads: HeadErrors, language: Sequence[str], encoder: Sequence[str]) -> Any:
    """Every way to store values against plain codes, on both kinds of model."""
    columns = [(kind, n) for kind in (language, encoder) for n in (2, 4)]
    return table(
        [
            "",
            *(f"language models, n = {n}" for n in (2, 4)),
            *(f"encoder, n = {n}" for n in (2, 4)),
        ],
        [
            [label, *(_ratio_cell(heads, way, n, models) for models, n in columns)]
            for way, label in TABLE_LABELS.items()
        ],
        "Squared output error over that of MSE-only: geometric mean over heads [95% interval over "
        "draws, for these heads], heads won",
    )


def uniform_table(heads: HeadErrors, language: Sequence[str], encoder: Sequence[str]) -> Any:
    """Equal steps, rotated or of each token's range, against rotated Lloyd-Max."""
    budgets = (2, 3, 4)
    rows = (
        ("uniform, rotated; language models, d = 64", "uniform", language),
        ("uniform, rotated; encoder, d = 32", "uniform", encoder),
        ("each token's range; language models", "min-max", language),
        ("each token's range; encoder", "min-max", encoder),
    )
    return table(
        ["", *(f"n = {n}" for n in budgets)],
        [
            [label, *(_ratio_cell(heads, way, n, models) for n in budgets)]
            for label, way, models in rows
        ],
        "Squared output error over that of rotated Lloyd-Max: geometric mean over heads [95% "
        "interval over draws, for these heads], heads won",
    )


def split(synthetic: Mapping[float, SplitErrors], captured: Mapping[str, SplitErrors]) -> Any:
    """Output error against the split of eight bits; best splits, foretold and measured."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.3))
    for (spread, found), color in zip(synthetic.items(), SPREAD_SHADES, strict=True):
        differences = [2 * n - 8 for n in found.bits]
        intervals = [mean_interval(column) for column in found.of_sum(8)]
        label = f"{spread:g}"
        plotting.measured_points(left, differences, intervals, color=color, label=label)
        D = [codebooks.lloyd_max(ch08.DIM, n).distortion for n in found.bits]
        pairs = zip(D, D[::-1], strict=True)
        line = [found.key_term.mean() * a + found.value_term.mean() * b for a, b in pairs]
        left.plot(differences, line, color=color, linewidth=1.3, linestyle=(0, (5, 2)))
    left.set(yscale="log", xlabel=r"$n_K-n_V$ at $n_K+n_V=8$", ylabel="relative output error")
    left.set(xticks=[-4, -2, 0, 2, 4], title="Synthetic")
    left.legend(title="logit spread", fontsize=10, title_fontsize=10, ncols=2)
    ends = (-3.2, 1.8)
    frame = pd.concat(
        pd.DataFrame(
            {
                "predicted": found.predicted_difference(),
                "measured": found.measured_difference(),
                "model": MODELS[name].label,
            }
        )
        for name, found in captured.items()
    )
    _scatter_by_model(right, frame, s=42)
    plotting.theory_line(right, ends, ends, label=None)
    right.set(xlabel=r"predicted $\log_4(C_K/C_V)$", ylabel="measured", xlim=ends, ylim=ends)
    right.set_title("Captured: best $n_K-n_V$")
    return fig


def context_length(
    synthetic: Mapping[float, Mapping[int, ContextErrors]],
    by_position: Mapping[str, FloatArray],
    *,
    edges: Sequence[int],
    bits: int,
) -> Any:
    """Output error against context length, and on captured heads against the query's position.

    Bars: over draws on the left, from the 16th to the 84th percentile of heads on the right.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.2))
    for share, found in synthetic.items():
        _draw_context_length(left, found, share, bits)
    left.set(xscale="log", yscale="log", xlabel="context length N", ylabel="relative output error")
    plotting.plain_ticks(left.set_xticks, tuple(synthetic[0.0]))
    left.set_title("Synthetic")
    centres = np.sqrt(np.array(edges[:-1]) * (np.array(edges[1:]) - 1))
    for (name, errors), shift in zip(by_position.items(), (0.96, 1.04), strict=True):
        plotting.measured_points(
            right,
            centres * shift,
            [ch08.spread_of_heads(column) for column in errors.T],
            color=MODELS[name].color,
            marker=MODELS[name].marker,
            label=MODELS[name].label,
        )
    right.set(xscale="log", yscale="log", xlabel="position of the query", title="Captured")
    right.set(ylim=(0.003, 0.1))
    plotting.plain_ticks(right.set_xticks, (10, 20, 50, 100, 200))
    for ax in (left, right):
        ax.minorticks_off()
        ax.legend(loc="lower left", fontsize=10)
    return fig


def _draw_context_length(
    ax: Any, found: Mapping[int, ContextErrors], share: float, bits: int
) -> None:
    """Errors of one share by length, with their law; without a mean nothing can be removed."""
    lengths = list(found)
    words = "mean share 1/2" if share else "no common mean"
    for way in ("plain", "centred plain") if share else ("plain",):
        plotting.measured_points(
            ax,
            lengths,
            [x.interval(way) for x in found.values()],
            color=WAYS[way][1] if share else plotting.MUTED,
            marker="D" if share else "o",
            label=words + (", mean removed" if "centred" in way else ""),
        )
    line = [ch08.context_length_law(x, share, bits=bits) for x in found.values()]
    plotting.theory_line(ax, lengths, line, label=None)
