"""The figures of chapter 6."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kvbook import plotting
from kvbook.experiments import ch06
from kvbook.experiments.ch06 import BUDGETS, Budgets, KeyErrors, Setting, Sketch, Training
from kvbook.experiments.common import distortion

KQV, QKQV = plotting.SCHEME_COLORS["KQV"], plotting.SCHEME_COLORS["QKQV"]
_BUDGET_LABEL = "budget n (bits a coordinate)"
_SMALL: dict[str, Any] = {"fontsize": 10.5}

BANDS = {
    Sketch("gaussian", "unbiased"): "#8E6BBF",
    Sketch("hadamard", "unbiased"): QKQV,
    Sketch("hadamard", "mmse"): "#2E1A4A",
}
"""Shades of QKQV's colour, by sketch."""

PATTERN_COLORS = {"none": "#C9CDD1", "run": "#8FB7D6", "gap": "#E0A458", "{2,3,5}": "#AA1F10"}
PATTERN_NAMES = {"none": "no budget", "run": "neighbours", "gap": "with a gap"}


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
    ax.annotate("c, orthogonal sketch, unbiased", (60, 0.575), color=QKQV)
    ax.annotate("c, orthogonal sketch, MMSE", (60, 0.375), color=QKQV)
    ax.annotate("c of a Gaussian sketch: above 1", (60, 0.645), color=plotting.MUTED)
    ax.axvspan(1.8, 3.2, color=plotting.MUTED, alpha=0.12, linewidth=0)
    ax.annotate("exceptions", (1.84, 0.645), color=plotting.MUTED, **_SMALL)
    ax.set(xscale="log", xlim=(1.8, 1700), ylim=(0.15, 0.68))
    ax.set(xlabel="dimension d", ylabel="D(n) / D(n−1)")
    _log_ticks(ax.xaxis, [2, 3, 4, 8, 16, 64, 128, 256, 1024])
    return fig


def error_ratios(cells: KeyErrors, heads: Mapping[str, KeyErrors]) -> Figure:
    """Squared error of QKQV over KQV by budget: kinds of synthetic keys, and captured heads."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.6), sharey=True)
    for sketch, color in BANDS.items():
        for ax, dim in ((left, 128), (right, 64)):
            law = [ch06.error_ratio_law(sketch, dim, n) for n in BUDGETS]
            plotting.theory_line(ax, list(BUDGETS), law, label=None)
        _draw_kinds(left, cells.mean_ratios(sketch), color, special=ch06.SPIKY)
        by_head = np.concatenate([errors.mean_ratios(sketch) for errors in heads.values()], axis=1)
        jitter = np.linspace(-0.25, 0.25, by_head.shape[1])
        for n, values in zip(BUDGETS, by_head, strict=True):
            right.plot(n + jitter, values, "o", color=color, markersize=3, alpha=0.7)
    for ax in (left, right):
        _mark_tie(ax, 0.6)
        ax.set(yscale="log", ylim=(0.66, 8), xlabel=_BUDGET_LABEL, xticks=list(BUDGETS))
        _log_ticks(ax.yaxis, [0.7, 1, 1.5, 2, 3, 4, 6, 8])
    left.set(title=f"{cells.count} kinds of keys, d=128", ylabel="squared error, QKQV / KQV")
    right.set_title(f"{sum(errors.count for errors in heads.values())} captured heads")
    for (text, place), color in zip(
        (
            ("Gaussian sketch", (3.1, 3.9)),
            ("orthogonal", (3.1, 2.45)),
            ("orthogonal, MMSE", (3.3, 1.06)),
        ),
        BANDS.values(),
        strict=True,
    ):
        left.annotate(text, place, color=color, **_SMALL)
    heavy = plotting.FAMILY_COLORS["student_t"]
    left.annotate("ν=1.05, full rank", (2.4, 0.755), color=heavy, **_SMALL)
    right.annotate("QKQV ahead", (3.2, 0.8), color=plotting.MUTED, **_SMALL)
    return fig


def _draw_kinds(ax: Any, ratios: Any, color: str, *, special: int) -> None:
    """A dot for each budget and kind of keys, a star for the special kind."""
    spread = np.linspace(-0.22, 0.22, ratios.shape[1])
    for kind, values in enumerate(ratios.T):
        star = kind == special
        ax.plot(
            np.array(BUDGETS) + spread[kind],
            values,
            "*" if star else "o",
            color=plotting.FAMILY_COLORS["student_t"] if star else color,
            markersize=9 if star else 4,
            alpha=1 if star else 0.75,
            zorder=4 if star else 3,
        )


def spike_errors(
    arms: Mapping[str, KeyErrors], energies: Sequence[float], *, share: float, dim: int
) -> Figure:
    """Errors on keys of one spike: by budget at one share of the energy, and by share at n = 2.

    Parameters
    ----------
    arms : mapping
        Errors for "one Hadamard round", "two rounds" and "Haar"; the kinds are the energies.
    energies : sequence of float
    share : float
        The one of them that the left panel shows.
    dim : int
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.2))
    _draw_spike_by_budget(left, arms, energies.index(share), share, dim)
    left.set(yscale="log", xlabel=_BUDGET_LABEL, xticks=list(BUDGETS))
    left.set(ylabel="relative squared error", title=f"A spike of {share:.0%}")
    _draw_spike_by_energy(right, arms, energies)
    _mark_tie(right, 0.05)
    right.set(xscale="log", yscale="log", ylim=(0.05, 2), title="At two bits")
    right.set(xlabel="energy of the spike / rest", ylabel="error at n=2, QKQV / KQV")
    _log_ticks(right.xaxis, [1, 4, 19, 99, 999])
    _log_ticks(right.yaxis, [0.1, 0.3, 1])
    right.annotate("QKQV ahead", (35, 0.62), color=plotting.MUTED, **_SMALL)
    return fig


def _draw_spike_by_budget(
    ax: Any, arms: Mapping[str, KeyErrors], kind: int, share: float, dim: int
) -> None:
    """Both schemes under one round with their laws, and KQV under two rounds."""
    budgets, sketch = list(BUDGETS), ch06.ORTHOGONAL_MMSE
    one, two = arms["one Hadamard round"], arms["two rounds"]
    ax.plot(budgets, one.plain[:, :, 0, kind].mean(axis=0), "o", color=KQV)
    ax.plot(budgets, one.sketched[sketch][:, :, 0, kind].mean(axis=0), "^", color=QKQV)
    ax.plot(budgets, two.plain[:, :, 0, kind].mean(axis=0), "o", color=KQV, fillstyle="none")
    plain = [ch06.spike_error_law(dim, n, share) for n in budgets]
    sketched = [ch06.sketched_spike_law(sketch, dim, n, share) for n in budgets]
    for law in (plain, sketched):
        plotting.theory_line(ax, budgets, law, label=None)
    ax.annotate("KQV", (2.15, 0.2), color=KQV, fontweight="bold")
    ax.annotate("QKQV, MMSE", (3.15, 0.075), color=QKQV, fontweight="bold")
    ax.annotate("open: KQV, two rounds", (2.1, 0.0006), color=KQV, **_SMALL)


def _draw_spike_by_energy(
    ax: Any, arms: Mapping[str, KeyErrors], energies: Sequence[float]
) -> None:
    """QKQV over KQV at two bits, with bands over draws, one line a rotation."""
    odds = np.array([energy / (1 - energy) for energy in energies])
    hadamard, haar = (plotting.ROTATION_COLORS[name] for name in ("hadamard", "haar"))
    looks = {
        "one Hadamard round": (hadamard, "o"),
        "two rounds": ("#56B4E9", "s"),
        "Haar": (haar, "D"),
    }
    for arm, (color, mark) in looks.items():
        ratios = ch06.two_bit_ratios(arms[arm])
        plotting.interval_band(ax, odds, ratios, color=color)
        ax.plot(odds, [ratio.estimate for ratio in ratios], mark, color=color, markersize=5)
    ax.annotate("two rounds, Haar", (1.2, 1.35), color=plotting.INK, **_SMALL)
    ax.annotate("one Hadamard\nround", (1.15, 0.11), color=hadamard, **_SMALL)


def damaged_codebook(training: Training, iterations: int, exhibit: KeyErrors) -> Figure:
    """A codebook with dead levels: its errors with those of QKQV, and ratios on kinds of keys."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.3))
    errors = np.array(training.distortions(iterations))
    sketched = ch06.sketch_constant(ch06.ORTHOGONAL_MMSE, training.dim) * errors[:-1]
    _draw_damage(left, training.dim, errors, sketched, training.live_levels(iterations))
    ratios = exhibit.mean_ratios(ch06.ORTHOGONAL_MMSE)
    for values, jitter in zip(ratios.T, np.linspace(-0.25, 0.25, exhibit.count), strict=True):
        right.plot(np.array(BUDGETS) + jitter, values, "o", color=QKQV, markersize=4, alpha=0.8)
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
    fig.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        columnspacing=1.4,
        handlelength=1,
    )
    _draw_most_common_sets(right, by_sample)
    return fig


def _draw_patterns_by_damage(ax: Any, settings: Sequence[Setting]) -> None:
    """Share of the settings with each pattern, stacked, by the excess error of the codebook."""
    edges = (0.03, 0.1, 0.3, 1.0)
    bins = ["<3%", "3–10%", "10–30%", "30–100%", ">100%"]
    counts = np.zeros((len(PATTERN_COLORS), len(bins)))
    for setting in settings:
        place = int(np.searchsorted(edges, setting.family.excess))
        counts[list(PATTERN_COLORS).index(setting.pattern), place] += 1
    shares = 100 * counts / np.maximum(counts.sum(axis=0), 1)
    bottom = np.zeros(len(bins))
    for (name, color), share in zip(PATTERN_COLORS.items(), shares, strict=True):
        label = PATTERN_NAMES.get(name, name)
        ax.bar(range(len(bins)), share, bottom=bottom, color=color, width=0.85, label=label)
        bottom += share
    ax.set(ylim=(0, 100), xlabel="error above the best codebook", ylabel="settings (%)")
    ax.set_xticks(range(len(bins)), bins, fontsize=9.5, rotation=25)
    ax.set_title("By codebook quality")
    ax.grid(visible=False)


def _draw_most_common_sets(ax: Any, by_sample: Mapping[tuple[int, int], Sequence[Budgets]]) -> None:
    """The most common set and its share, in a field for each dimension and sample size."""
    dims, sizes = (sorted({place[i] for place in by_sample}) for i in (0, 1))
    for (dim, size), sets in by_sample.items():
        found, number = Counter(sets).most_common(1)[0]
        i, j = dims.index(dim), sizes.index(size)
        color = PATTERN_COLORS[ch06.pattern(found)]
        ax.add_patch(Rectangle((i - 0.48, j - 0.46), 0.96, 0.92, color=color, linewidth=0))
        middle: dict[str, Any] = {"ha": "center", "va": "center"}
        middle["color"] = "white" if found == ch06.PUBLISHED else plotting.INK
        digits = "".join(map(str, found)) or "none"
        ax.text(i, j + 0.13, digits, fontsize=12, fontweight="bold", **middle)
        ax.text(i, j - 0.22, f"{number / len(sets):.0%}", fontsize=9.5, **middle)
    ax.set(xlim=(-0.5, len(dims) - 0.5), ylim=(-0.5, len(sizes) - 0.5))
    ax.set(xlabel="dimension d", ylabel="training coordinates")
    ax.set_xticks(range(len(dims)), map(str, dims))
    ax.set_yticks(range(len(sizes)), [f"$2^{{{size}}}$" for size in sizes])
    ax.grid(visible=False)
    ax.set_title("Start [−1, 1], most common set")
