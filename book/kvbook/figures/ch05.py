"""Figures of chapter 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from kvbook import plotting
from kvbook.experiments import ch05
from kvbook.models import MODELS
from kvlib import laws, stats
from kvlib.checks import FloatArray
from kvlib.stats import Interval

ABOVE, BELOW = "#B45F06", "#3D5A80"  # superlinear, sublinear
LIGHT_TO_DARK = ("#A9BDD6", "#6C8CB5", "#3F6495", "#1E3A60")
DASHED: Any = (0, (5, 2))


def two_panels(height: float, **options: Any) -> tuple[Figure, Any, Any]:
    """A figure of full width and its two axes."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, height), **options)
    return fig, left, right


def shaken(rows: Mapping[str, ch05.NoisyRow]) -> Figure:
    """Two rows before and after noise, a bar a key, with the sum of squares of each."""
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), sharey=True)
    for ax, (name, row), color in zip(axes, rows.items(), (ABOVE, BELOW), strict=True):
        keys = np.arange(1, row.before.size + 1)
        ax.bar(keys - 0.2, row.before, 0.38, color="#C9CDD3", label="exact")
        ax.bar(keys + 0.2, row.after, 0.38, color=color, label="noisy, one draw")
        change = f"$1-S_2$: {1 - row.S2_before:.2f} → {1 - row.S2_after:.2f} on average"
        ax.text(0.97, 0.62, change, transform=ax.transAxes, ha="right", color=color)
        ax.set(title=name, xlabel="key", ylim=(0, 1))
        ax.set_xticks(keys)
        ax.legend(loc="upper right", borderpad=0)
    axes[0].set_ylabel("attention weight")
    return fig


def condition(panel: ch05.Panel, excess: ch05.Excess) -> Figure:
    """The fourth-order coefficient measured against predicted, and against the top weight."""
    fig, left, right = two_panels(4.3)
    coefficient, margin = ch05.coefficient_law(panel), ch05.margin_law(panel)
    holds = ch05.superlinear_law(panel)
    for side, color, name in ((holds, ABOVE, "condition holds"), (~holds, BELOW, "fails")):
        left.errorbar(
            coefficient[side],
            excess.estimate[side],
            yerr=2 * excess.error[side],
            fmt="o",
            color=color,
            markersize=3.5,
            elinewidth=0.8,
            capsize=0,
            label=name,
        )
        right.plot(panel.top[side], margin[side], "o", color=color, markersize=3.5)
    for ax in (left, right):
        ax.axhline(0, color=plotting.MUTED, linewidth=1)
    _finish_coefficient(left)
    _finish_margin(right)
    return fig


def _finish_coefficient(ax: Any) -> None:
    ends, ticks = np.array([-0.07, 0.07]), [-1e-2, 0, 1e-2]
    plotting.theory_line(ax, ends, ends, label="T12")
    ax.set_xscale("symlog", linthresh=1e-4, linscale=0.6)
    ax.set_yscale("symlog", linthresh=1e-4, linscale=0.6)
    ax.set(xlabel="coefficient of $\\sigma^4$, predicted", ylabel="measured")
    ax.set(xticks=ticks, yticks=ticks)
    ax.legend(loc="upper left", handletextpad=0.2)


def _finish_margin(ax: Any) -> None:
    for threshold in (ch05.NEVER, ch05.ALWAYS):
        ax.axvline(threshold, color=plotting.INK, linewidth=1.4, linestyle=DASHED)
    ax.set(xlabel="top weight", ylabel="next order over first, at $\\sigma^2=1$", xlim=(0, 1.02))
    ax.text(0.31, 0.44, "never", ha="right", color=BELOW, fontsize=11)
    ax.text(0.76, 0.44, "always", ha="right", color=ABOVE, fontsize=11)
    ax.set_xticks([0, 1 / 3, 0.79, 1], ["0", "1/3", "0.79", "1"])


def example_rows(
    rows: Mapping[str, FloatArray],
    variances: Sequence[float],
    measured: Mapping[str, Sequence[Interval]],
) -> Figure:
    """E KL over its first order of some rows: by quadrature, T12 and Monte Carlo."""
    fig, ax = plt.subplots(figsize=(7.2, 4.2))
    s = np.linspace(0.01, 2.5, 26)
    start = s[s < 0.8]
    colors = ("#27466E", "#6C8CB5", "#B45F06", "#7A3E02")
    for (name, p), color in zip(rows.items(), colors, strict=True):
        S2, S3 = (p**2).sum(), (p**3).sum()
        exact = laws.gaussian_noise_kl(p, s) / laws.small_noise_kl(s, S2)
        ax.plot(s, exact, color=color, label=name)
        series = laws.second_order_kl(start, S2, S3) / laws.small_noise_kl(start, S2)
        plotting.theory_line(ax, start, series, label=None)
        first = laws.small_noise_kl(np.array(variances), S2)
        points = [_over(i, float(c)) for i, c in zip(measured[name], first, strict=True)]
        plotting.measured_points(ax, variances, points, color=color)
    ax.axhline(1, color=plotting.MUTED, linewidth=1)
    ax.set(xlabel="noise $\\sigma^2$ of each logit", ylabel="E KL over its first order")
    ax.set(ylim=(0.5, 2.4))
    ax.legend(loc="upper left", title="attention row")
    return fig


def _over(i: Interval, unit: float) -> Interval:
    return Interval(i.estimate / unit, i.low / unit, i.high / unit, i.n)


def regimes(peaked: Sequence[ch05.PeakedSample]) -> Figure:
    """Peaked rows with their law, and the uniform row with its freezing."""
    fig, left, right = two_panels(4.4)
    _draw_peaked(left, peaked)
    _draw_diffuse(right)
    return fig


def _draw_peaked(ax: Any, peaked: Sequence[ch05.PeakedSample]) -> None:
    s = np.geomspace(0.05, 20, 40)
    rests = (1e-2, *sorted({sample.rest for sample in peaked}, reverse=True))
    for rest, color in zip(rests, ("#7A3E02", "#B45F06", "#D98E3F", "#E8B98A"), strict=True):
        name = f"ε = $10^{{{np.log10(rest):.0f}}}$"
        ax.plot(s, laws.gaussian_noise_kl(ch05.needle(rest, 1025), s), color=color, label=name)
        reach = s[s < 2 / 3 * np.log(1 / rest)]
        plotting.theory_line(ax, reach, laws.peaked_kl(reach, rest), label=None)
    ax.plot(s, s / 2, color=plotting.MUTED, linewidth=1)
    ax.text(0.06, 0.07, "$\\sigma^2/2$", color=plotting.MUTED)
    for sample in peaked:
        law = float(laws.peaked_kl(sample.variance, sample.rest))
        mean = ch05.over_peaked_law(sample).estimate * law
        ax.plot(sample.variance, mean, "o", color=plotting.INK, markersize=4)
    ax.set(xscale="log", yscale="log", ylim=(3e-7, 12))
    ax.set(xlabel="noise $\\sigma^2$", ylabel="E KL (nats)")
    ax.set_title("Peaked: one key, 1024 others")
    ax.legend(loc="lower right", fontsize=10.5, borderpad=0, labelspacing=0.3)


def _draw_diffuse(ax: Any) -> None:
    ratio = np.geomspace(0.03, 8, 24)
    for tokens, color in ((16, "#A9BDD6"), (256, "#6C8CB5"), (4096, "#27466E")):
        s = ratio * 2 * np.log(tokens)
        kl = laws.gaussian_noise_kl(np.full(tokens, 1 / tokens), s)
        ax.plot(ratio, kl / (s / 2), color=color, label=f"N = {tokens}")
    limit = laws.diffuse_kl(s, tokens) / (s / 2)
    plotting.theory_line(ax, ratio, limit, label="$N\\to\\infty$")
    ax.axvline(1, color=plotting.MUTED, linewidth=1)
    ax.set(xscale="log", xlabel="noise $\\sigma^2 / (2\\log N)$", ylabel="E KL over $\\sigma^2/2$")
    ax.set(xticks=[0.1, 1], xticklabels=["0.1", "1"], ylim=(0, 1.08))
    ax.set_title("Diffuse: uniform row")
    ax.legend(loc="lower left")


def phases(needles: ch05.PhaseMap, gaussians: ch05.PhaseMap, spreads: FloatArray) -> Figure:
    """Local exponent over entropy and noise for two families of rows of 1024 keys.

    ``spreads`` are the standard deviations of the logits of the second.
    """
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 4.8), sharey=True)
    norm, freeze = TwoSlopeNorm(1, vmin=0.5, vmax=5), 2 * np.log(1024)
    titles = ("one key above an even crowd", "Gaussian logits")
    for ax, of_map, title in zip(axes, (needles, gaussians), titles, strict=True):
        mesh = _draw_phase(ax, of_map, norm)
        _mark_top_weights(ax, of_map)
        ax.set_title(title)
    rest = 1 - needles.top
    small = rest < 0.2
    end = 2 / 3 * np.log(1 / rest[small])
    axes[0].plot(needles.entropy[small], end, color="white", linewidth=2.6)
    plotting.theory_line(axes[0], needles.entropy[small], end, label=None)
    dotted: dict[str, Any] = {"color": plotting.INK, "linewidth": 1.2, "linestyle": ":"}
    axes[0].axhline(freeze, **dotted)
    axes[0].text(1.1e-3, 1.125 * freeze, "$2\\log N$", fontsize=11)
    warm = spreads**2 < freeze
    axes[1].plot(gaussians.entropy[warm], freeze - spreads[warm] ** 2, **dotted)
    s = needles.variances
    axes[0].set(ylabel="noise $\\sigma^2$", ylim=(s[0], s[-1]))
    bar = fig.colorbar(mesh, ax=axes, orientation="horizontal", aspect=40, pad=0.02)
    bar.set_label("local exponent d log KL / d log $\\sigma^2$")
    bar.set_ticks([0.5, 0.75, 1, 2, 3, 4, 5])
    return fig


def _mark_top_weights(ax: Any, of_map: ch05.PhaseMap) -> None:
    """Ticks on the upper edge where the top weight passes the two thresholds of T12."""
    for threshold, name in ((ch05.NEVER, "1/3"), (ch05.ALWAYS, "0.79")):
        at = of_map.entropy[of_map.top > threshold].max()
        ax.plot([at] * 2, [0.86, 1], color=plotting.INK, transform=ax.get_xaxis_transform())
        text = ax.text(at * 0.9, 0.93, name, transform=ax.get_xaxis_transform(), ha="right")
        text.set(fontsize=11, path_effects=[withStroke(linewidth=3, foreground="white")])


def _draw_phase(ax: Any, of_map: ch05.PhaseMap, norm: TwoSlopeNorm) -> Any:
    order = np.argsort(of_map.entropy)
    h, s, z = of_map.entropy[order], of_map.variances, of_map.exponent[order].T
    mesh = ax.pcolormesh(h, s, z, cmap="PuOr_r", norm=norm, shading="gouraud", rasterized=True)
    ax.contour(h, s, z, levels=[1], colors=plotting.INK, linewidths=1.6)
    at = of_map.boundary
    ax.plot([at] * 2, [s[0], 0.4], color=plotting.INK, linestyle=(0, (4, 2)))
    ax.text(at * 0.86, 0.0125, "T12", ha="right", fontsize=11)
    ax.set(xscale="log", yscale="log", xlabel="entropy of the row (nats)")
    ax.grid(False)
    return mesh


def predicted_kl(
    families: tuple[ch05.ByFamily, ch05.ByFamily],
    heads: tuple[ch05.HeadKL, Mapping[ch05.Cell, ch05.PredictedKL]],
) -> Figure:
    """KL measured over predicted: synthetic keys by logit scale, captured heads by scheme.

    Both arguments are pairs: what was measured, and what was foretold.
    """
    fig, left, right = two_panels(4.5, width_ratios=(1, 1.25))
    _draw_families(left, *families)
    _draw_heads(right, *heads)
    for ax in (left, right):
        ax.axhline(1, color=plotting.INK, linewidth=1.4, linestyle=DASHED)
    return fig


def _geometric_mean(ratios: pd.Series[float]) -> float:
    return stats.geometric_mean_interval(ratios).estimate


def _geometric_ends(ratios: pd.Series[float]) -> tuple[float, float]:
    interval = stats.geometric_mean_interval(ratios)
    return interval.low, interval.high


def _family_frame(kl: ch05.ByFamily, law: ch05.ByFamily) -> pd.DataFrame:
    """KL of KQV at d = 128 over prediction, a row for each family, logit scale and draw."""
    parts = []
    for family in ch05.FAMILIES:
        for index, scale in enumerate(ch05.SCALES):
            logs = ch05.log_ratios(kl, law, (family.label, 128), "KQV", scales=[index])
            parts.append(pd.DataFrame({"ratio": np.exp(logs), "scale": scale, "keys": family.kind}))
    return pd.concat(parts)


def _draw_families(ax: Any, kl: ch05.ByFamily, law: ch05.ByFamily) -> None:
    sns.pointplot(
        _family_frame(kl, law),
        x="scale",
        y="ratio",
        hue="keys",
        palette=plotting.FAMILY_COLORS,
        estimator=_geometric_mean,
        errorbar=_geometric_ends,
        dodge=0.4,
        linewidth=1.2,
        markersize=5,
        capsize=0.08,
        ax=ax,
    )
    ax.set(xlabel="logit scale", ylabel="KL measured over predicted", title="Synthetic")
    ax.set_xticks(range(len(ch05.SCALES)), ["½", "1", "2", "4"])
    ax.set(ylim=(0.6, 1.6))
    handles, _ = ax.get_legend_handles_labels()
    names = [family.kind.replace("_", " ") for family in ch05.FAMILIES]
    ax.legend(handles, names, loc="upper left", fontsize=10.5, borderpad=0)


CASES = {("KQV", 4): "KQV, n = 4", ("QKQV, Gaussian", 4): "QKQV, n = 4"}
# Where the marks of a stage lie about the middle of their case.
OFFSETS = {"shrunk": -0.2, "full": 0.2}


def _head_frame(heads: ch05.HeadKL, law: Mapping[ch05.Cell, ch05.PredictedKL]) -> pd.DataFrame:
    """KL over prediction, a row for each case, stage and head, and where its mark lies."""
    parts = []
    # Marks of one column are set apart by a rule, so that every run draws the same.
    jitter = 0.1 * np.sin(2.4 * np.arange(len(heads.model)))
    for column, cell in enumerate(CASES):
        for stage, offset in OFFSETS.items():
            ratio = heads.of(*cell) / getattr(law[cell], stage)
            at = column + offset + jitter
            model = [MODELS[str(name)].label for name in heads.model]
            parts.append(pd.DataFrame({"at": at, "ratio": ratio, "model": model, "stage": stage}))
    return pd.concat(parts)


def _draw_heads(ax: Any, heads: ch05.HeadKL, law: Mapping[ch05.Cell, ch05.PredictedKL]) -> None:
    frame = _head_frame(heads, law)
    looks: dict[str, Any] = {
        "palette": {model.label: model.color for model in MODELS.values()},
        "markers": {model.label: model.marker for model in MODELS.values()},
        "s": 26,
    }
    for stage in OFFSETS:
        sns.scatterplot(
            frame[frame.stage == stage],
            x="at",
            y="ratio",
            hue="model",
            style="model",
            alpha=0.75,
            legend=stage == "full",
            ax=ax,
            **looks,
        )
        if stage == "shrunk":  # open marks
            marks = ax.collections[-1]
            marks.set(edgecolor=marks.get_facecolor(), facecolor="none", linewidth=1)
    for column, cell in enumerate(CASES):
        for stage, offset in OFFSETS.items():
            mean = ch05.head_ratio(heads, law, *cell, stage).estimate
            ax.plot(column + offset + np.array([-0.15, 0.15]), [mean] * 2, color=plotting.INK)
    ax.set(yscale="log", ylim=(0.4, 4.6), title="Captured heads", xlim=(-0.6, len(CASES) - 0.4))
    ax.set(xlabel=None, ylabel=None)
    ax.set_yticks([0.5, 0.7, 1, 1.4, 2, 2.8], ["0.5", "0.7", "1", "1.4", "2", "2.8"])
    ax.minorticks_off()
    ax.set_xticks(range(len(CASES)), CASES.values())
    ax.legend(loc="upper right", fontsize=10.5, handletextpad=0.1, borderpad=0)


def _bridge_frame(found: ch05.Bridge) -> pd.DataFrame:
    """Means over draws, a row for each case and logit scale."""
    columns = {x: found.of(x).mean(axis=0).ravel() for x in ("direction", "kl", "output")}
    arms = [arm for _, arm, _ in found.cells]
    arm = np.repeat(arms, len(ch05.SCALES))
    return pd.DataFrame({**columns, "arm": arm, "scale": np.tile(ch05.SCALES, len(arms))})


def bridge(found: ch05.Bridge) -> Figure:
    """KL against the direction error at two logit scales, output error against KL at all."""
    fig, left, right = two_panels(4.5)
    frame, ends = _bridge_frame(found), (ch05.SCALES[0], ch05.SCALES[-1])
    looks: dict[str, Any] = {
        "hue": "arm",
        "style": "arm",
        "palette": {arm: plotting.SCHEME_COLORS[arm.split(",")[0]] for arm in frame.arm.unique()},
        "markers": {"KV": "s", "KQV": "o", "QKQV, Gaussian": "^", "QKQV, orthogonal": "v"},
        "s": 26,
        "alpha": 0.8,
        "linewidth": 0.3,
    }
    of_ends = frame[frame.scale.isin(ends)]
    sns.scatterplot(of_ends, x="direction", y="kl", legend=False, ax=left, **looks)
    sns.scatterplot(frame, x="kl", y="output", ax=right, **looks)
    angle = np.linspace(0.007, 0.21, 50)
    for scale in ends:
        plotting.theory_line(left, angle, ch05.bridge_law(angle, scale), label=None)
    _finish_bridge(left, right)
    return fig


def _finish_bridge(left: Any, right: Any) -> None:
    left.set(xscale="log", yscale="log", ylabel="KL (nats)")
    left.set(xlabel="direction error of K (angle / $\\pi$)")
    left.set_xticks([0.01, 0.03, 0.1], ["0.01", "0.03", "0.1"])
    left.text(0.0085, 0.3, "logit scale 4", fontsize=11)
    left.text(0.03, 3e-4, "logit scale ½", fontsize=11)
    right.set(xscale="log", yscale="log", xlabel="KL (nats)")
    right.set(ylabel="relative squared error of the output")
    right.legend(loc="lower right", fontsize=10.5, handletextpad=0.1)


def context(
    growth: ch05.ContextGrowth,
    law: FloatArray,
    positions: Mapping[str, FloatArray],
    edges: Sequence[int],
) -> Figure:
    """KL by context length with T11, and by position of the query in real heads."""
    fig, left, right = two_panels(4.2, width_ratios=(1.25, 1))
    for j, (spread, color) in enumerate(zip(growth.spreads, LIGHT_TO_DARK, strict=True)):
        intervals = [stats.mean_interval(x) for x in growth.kl[:, :, j].T]
        label = f"spread β = {spread}"
        plotting.measured_points(left, growth.lengths, intervals, color=color, label=label)
        plotting.theory_line(left, growth.lengths, law[:, j], label=None)
    left.set(xscale="log", yscale="log", xlabel="context length N")
    left.set(ylabel="mean KL at n = 4 (nats)")
    left.set_xticks([8, 64, 512, 4096], ["8", "64", "512", "4096"])
    left.minorticks_off()
    left.legend(loc="lower right", fontsize=10.5)
    left.set(title="Synthetic", ylim=(9e-4, 0.12))
    _draw_positions(right, positions, edges)
    return fig


def _draw_positions(ax: Any, positions: Mapping[str, FloatArray], edges: Sequence[int]) -> None:
    centres = np.array([np.sqrt(a * (b - 1)) for a, b in pairwise(edges)])[:-1]
    for (name, of_heads), shift in zip(positions.items(), (1.05, 0.95), strict=True):
        model = MODELS[name]
        spreads = [ch05.geometric_spread(x) for x in of_heads[:, :-1].T]
        plotting.measured_points(
            ax,
            centres * shift,
            spreads,
            color=model.color,
            marker=model.marker,
            label=model.label,
        )
    ax.axhline(1, color=plotting.INK, linewidth=1.4, linestyle=DASHED)
    ax.set(xscale="log", xlabel="position of the query", title="Captured heads")
    ax.set(yscale="log", ylim=(0.13, 3), ylabel="KL over that at positions ≥ 128")
    ax.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    ax.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
    ax.minorticks_off()
    ax.legend(loc="lower right", fontsize=10.5)
