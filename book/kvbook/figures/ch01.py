"""Figures and longer tables of chapter 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from kvbook import plotting
from kvbook.experiments.ch01 import (
    CAUSAL,
    COMMON_ERRORS,
    SKETCHED,
    TARGETS,
    AttentionRow,
    FloatArray,
    HeadsKL,
    KLAccuracy,
)
from kvbook.page import shown, table
from kvlib.quantize.codebooks import Codebook

ARM_COLORS = {
    "KV": plotting.SCHEME_COLORS["KV"],
    "KQV": plotting.SCHEME_COLORS["KQV"],
    "QKQV, Gaussian": plotting.SCHEME_COLORS["QKQV"],
    "QKQV, orthogonal": plotting.SCHEME_COLORS["QKQV"],
}
ARM_MARKERS = {"KV": "s", "KQV": "o", "QKQV, Gaussian": "^", "QKQV, orthogonal": "^"}
HOLLOW = "QKQV, orthogonal"

# Tables ----------------------------------------------------------------------------------------


def ratio_table(measured: HeadsKL) -> Any:
    """Ratios of KL within heads, a row for each sketch and budget: all models, and one alone."""
    rows = []
    for kind, arm in SKETCHED.items():
        for n in measured.bits:
            between, causal = measured.ratio(arm, n), measured.ratio_in(CAUSAL, arm, n)
            row = [
                kind,
                str(n),
                shown(between.interval),
                "{:.1f} to {:.1f}".format(*between.spread),
            ]
            rows.append([*row, str(between.worse_on), shown(causal.interval)])
    heads = measured.per_head().shape[-1]
    return table(
        ["sketch", "n", "three models", "heads", f"worse on, of {heads}", "causal model"],
        rows,
        "KL of QKQV over KL of KQV. Three models: geometric mean [95% interval between models, two "
        "degrees of freedom]; heads: 16th to 84th percentile; causal model: the 8 heads of "
        "rope-lm [95% interval over rotations, for these heads]",
    )


# Figures ---------------------------------------------------------------------------------------


def schemes() -> Figure:
    """Block diagrams of the paper's three schemes."""
    fig, ax = plt.subplots(figsize=(7.2, 4.5))
    plotting.draw_schemes(ax)
    return fig


def key_and_codes(
    direction: FloatArray,
    restored: FloatArray,
    rotated: FloatArray,
    levels: FloatArray,
    codebook: Codebook,
) -> Figure:
    """A key of unit length and its rotation, each shape (d,), with what the codes restore."""
    fig, axes = plt.subplots(2, 1, figsize=(7.2, 5.2), sharex=True)
    for level in codebook.levels:
        axes[1].axhline(level, color="#D9B4AF", linewidth=0.8, zorder=1)
    axes[1].grid(False)
    coordinate = np.arange(len(direction))
    titles = ("As the model made it", "After the rotation, with the 16 levels of the codebook")
    pairs = ((direction, restored), (rotated, levels))
    for ax, title, (exact, approximate) in zip(axes, titles, pairs, strict=True):
        ax.vlines(coordinate, 0, exact, color=plotting.MUTED, linewidth=2.2, label="key")
        style = {"color": plotting.SCHEME_COLORS["KQV"], "markersize": 4.5}
        ax.plot(coordinate, approximate, "o", **style, label="restored from 4-bit codes")
        ax.set(title=title, ylabel="coordinate", xlim=(-1, len(direction)))
    axes[0].legend(loc="lower right", ncols=2)
    axes[1].set(xlabel="index of the coordinate")
    return fig


def attention_row(row: AttentionRow) -> Figure:
    """The largest weights of one attention row, and its KL in every draw."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.4), width_ratios=(1.15, 1))
    _draw_largest_weights(left, row, count=6)
    _draw_kl_of_draws(right, row)
    return fig


def _draw_largest_weights(ax: Any, row: AttentionRow, count: int) -> None:
    """Bars of the exact weights, largest first, and markers for each arm's."""
    largest = np.argsort(-row.exact)[:count]
    place = np.arange(count)
    ax.bar(place, row.exact[largest], color="#D8D8D8", width=0.86, label="exact")
    for j, (arm, weights) in enumerate(row.quantized.items()):
        style = {"color": ARM_COLORS[arm], "marker": ARM_MARKERS[arm], "linestyle": "none"}
        style |= {"fillstyle": "none"} if arm == HOLLOW else {}
        ax.plot(place + 0.2 * (j - 1.5), weights[largest], label=arm, **style)
    ax.set(yscale="log", xlabel="key, by exact weight", ylabel="attention weight")
    ax.set(title="One row, first draw")
    ax.set_xticks(place, [f"{i + 1}" for i in place])
    ax.legend(loc="upper right", fontsize=10.5, handletextpad=0.3, borderpad=0)


def _draw_kl_of_draws(ax: Any, row: AttentionRow) -> None:
    """A dot for the KL of the row in each draw, a line for the mean, one column an arm."""
    draws = pd.DataFrame(
        [(arm, x) for arm, kl in row.kl.items() for x in kl], columns=["arm", "KL"]
    )
    dots = {"size": 2.6, "alpha": 0.6, "legend": False}
    sns.swarmplot(
        draws, x="arm", y="KL", hue="arm", palette=ARM_COLORS, log_scale=(None, 10), ax=ax, **dots
    )
    place, means = np.arange(len(row.kl)), [kl.mean() for kl in row.kl.values()]
    ax.hlines(means, place - 0.36, place + 0.36, color=plotting.INK, linewidth=2, zorder=3)
    ax.set(xlabel="", ylabel="KL of this row (nats)", title="All draws, and mean")
    ax.set_xticks(place, ["KV", "KQV", "QKQV\nGauss.", "QKQV\northog."])


def kl_of_heads(measured: HeadsKL, titles: Mapping[str, str]) -> Figure:
    """Mean KL against budget, a panel for each cache (with its title), a line for each arm."""
    fig, axes = plt.subplots(1, len(titles), figsize=(7.2, 4.6), sharey=True)
    for ax, (cache, title) in zip(axes, titles.items(), strict=True):
        sns.pointplot(
            _by_rotation(measured, cache),
            x="bits",
            y="KL",
            hue="arm",
            errorbar=plotting.mean_ends,
            ax=ax,
            **_ARM_LINES,
        )
        for line in ax.lines:
            if line.get_linestyle() == "--":
                line.set(markerfacecolor="white", markeredgecolor=line.get_color())
        ax.set(title=title, xlabel="", ylabel="mean KL of attention rows (nats)")
        ax.set(xticks=measured.bits, xlim=(1.6, 6.4))
    # Logarithmic only now, for all panels: seaborn averages in the scale of the axis.
    axes[0].set_yscale("log")
    _label_line_ends(axes[-1], measured, list(titles)[-1])
    axes[1].set_xlabel("budget n (bits a coordinate)")
    return fig


_ARM_LINES: dict[str, Any] = {
    "palette": ARM_COLORS,
    "markers": list(ARM_MARKERS.values()),
    "linestyles": ["--" if arm == HOLLOW else "-" for arm in ARM_MARKERS],
    "linewidth": 1.2,
    "markersize": 6.5,
    "markeredgewidth": 1.2,
    "capsize": 0.15,
    "err_kws": {"linewidth": 1.2},
    "dodge": 0.21,
    "native_scale": True,
    "legend": False,
}


def _by_rotation(measured: HeadsKL, cache: str) -> pd.DataFrame:
    """Mean over the heads of a cache, one row for arm, budget and rotation.

    An arm without a random part has one row a budget, the mean over windows: nothing varies.
    """
    rows = []
    for arm, random in zip(measured.arms, measured.random, strict=True):
        for n, of_rotations in zip(measured.bits, measured.by_rotation(cache, arm), strict=True):
            values = of_rotations if random else [of_rotations.mean()]
            rows += [(arm, n, x) for x in values]
    return pd.DataFrame(rows, columns=["arm", "bits", "KL"])


def _label_line_ends(ax: Any, measured: HeadsKL, cache: str) -> None:
    """Names of the arms to the right of their last points, moved apart where they would touch."""
    ends = [measured.mean_of(cache, arm, measured.bits[-1]) for arm in measured.arms]
    for arm, end, shift in zip(measured.arms, ends, (0.52, 0.88, 1.0, 1.05), strict=True):
        ax.annotate(
            arm.replace(", ", "\n"),
            (measured.bits[-1] + 0.45, end * shift),
            color=ARM_COLORS[arm],
            fontsize=11,
            va="center",
            fontweight="bold",
            linespacing=1.1,
            annotation_clip=False,
        )


METHOD_STYLES = {
    "float32 log-softmax": ("#B45F06", "v"),
    "float64 log-softmax": ("#3D5A80", "D"),
    "unshifted": ("#8A5A83", "s"),
    "shifted": ("#0A6853", "o"),
}


def kl_accuracy(measured: KLAccuracy) -> Figure:
    """Relative error of each way to compute a KL against its size and against a common error."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.6), sharey=True, width_ratios=(1.3, 1))
    sizes, commons = slice(0, len(TARGETS)), slice(len(TARGETS), None)
    x = measured.truth[:, sizes]
    for method, label, spot in (
        ("float32 log-softmax", "log-softmax, float32", (4e-10, 3e3)),
        ("float64 log-softmax", "log-softmax, float64", (3e-10, 9e-6)),
        ("shifted", "shifted form", (6e-13, 2e-14)),
    ):
        _draw_errors(left, measured, method, x, sizes, label, spot)
    x = np.broadcast_to(COMMON_ERRORS, (len(measured.truth), len(COMMON_ERRORS)))
    for method, label, spot in (
        ("float64 log-softmax", "log-softmax, float64", (1.2e-3, 4e-7)),
        ("unshifted", "not shifted", (2e-1, 1.2e-11)),
        ("shifted", "shifted", (1.2e-3, 2e-15)),
    ):
        _draw_errors(right, measured, method, x, commons, label, spot)
    for ax in (left, right):
        ax.axhline(1, color=plotting.INK, linewidth=1)
        ax.axhline(1e-4, color=plotting.INK, linewidth=1.6, linestyle=(0, (5, 2)))
        ax.set(xscale="log", yscale="log", ylim=(1e-17, 1e6))
        ax.set(yticks=[1e-16, 1e-12, 1e-8, 1e-4, 1, 1e4])
    left.text(1.5, 2.2, "100% wrong", fontsize=10.5, ha="right")
    right.text(1.2e-3, 2.5e-4, "T18 asks for this", fontsize=10.5)
    left.set(xlabel="true KL (nats)", ylabel="relative error of the KL")
    left.set(title="No common error", xticks=[1e-12, 1e-8, 1e-4, 1])
    right.set(xlabel="common error (nats)", title="KL near $10^{-8}$")
    return fig


def _draw_errors(
    ax: Any,
    measured: KLAccuracy,
    method: str,
    x: FloatArray,
    columns: slice,
    label: str,
    spot: tuple[float, float],
) -> None:
    """One method's errors: heads as dots over x, shape (heads, columns), geometric mean as line."""
    color, marker = METHOD_STYLES[method]
    # The truth is rounded, too.
    errors = np.maximum(measured.relative_error[method][:, columns], 1e-16)
    ax.plot(x.T, errors.T, marker, color=color, markersize=3.5, alpha=0.5)
    ax.plot(np.exp(np.log(x).mean(0)), np.exp(np.log(errors).mean(0)), color=color)
    ax.annotate(label, spot, color=color, fontsize=11, fontweight="bold")
