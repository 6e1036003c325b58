"""Figures and tables of chapter 3, given what its experiments returned."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from kvbook import plotting
from kvbook.experiments import ch03
from kvbook.experiments.ch03 import Books, HeadErrors, Isotropic, LloydRuns, SpikeErrors
from kvbook.page import shown, table
from kvlib import laws
from kvlib.laws import sphere
from kvlib.quantize.codebooks import Codebook
from kvlib.stats import Interval, mean_interval

_KQV = plotting.SCHEME_COLORS["KQV"]
_NAMES = ("1 − cos θ", "θ / π", "tan² θ")


def _bit_columns(bits: Sequence[int]) -> list[str]:
    return [f"n = {n}" for n in bits]


# Exact codebooks -------------------------------------------------------------------------------


def codebooks(books: Books, *, dims: Sequence[int] = (2, 8, 128), bits: Sequence[int]) -> Figure:
    """Density, cells and levels of Lloyd-Max codebooks: a column a dimension, a row a budget."""
    fig, axes = plt.subplots(
        len(bits), len(dims), figsize=(7.2, 6.6), sharex=True, sharey="col", squeeze=False
    )
    for column, d in zip(axes.T, dims, strict=True):
        for ax, n in zip(column, bits, strict=True):
            _draw_cells(ax, books[d, n])
        column[0].set_title(f"d = {d}")
        column[-1].set_xlabel(r"$\sqrt{d}\,x$")
    for ax, n in zip(axes[:, 0], bits, strict=True):
        ax.set_ylabel(f"n = {n}")
    return fig


def _draw_cells(ax: Any, book: Codebook) -> None:
    """One codebook under its density, in standard deviations."""
    unit = 1 / np.sqrt(book.dim)
    edge = min(1.0, 3.6 * unit)
    x = np.linspace(-edge, edge, 1201)[1:-1]
    density = unit * sphere.coordinate_pdf(x, book.dim)
    ax.plot(x / unit, density, color=plotting.INK, linewidth=1.4)
    cells = itertools.pairwise([-edge, *book.edges, edge])
    for i, (a, b) in enumerate(cells):
        inside = (x >= a) & (x <= b)
        shade = plotting.SCHEME_COLORS["WHT"] if i % 2 else "#BFBFBF"
        ax.fill_between(x[inside] / unit, density[inside], color=shade, alpha=0.45, linewidth=0)
    height = unit * sphere.coordinate_pdf(book.levels, book.dim)
    ax.vlines(book.levels / unit, 0, height, color=_KQV, linewidth=1.1)
    dots = {"color": _KQV, "markersize": 4, "clip_on": False, "zorder": 5}
    ax.plot(book.levels / unit, 0 * height, "o", **dots)
    ax.grid(False)
    ax.spines["left"].set_visible(False)
    top = 1.0 if book.dim == 2 else 1.06 * density.max()
    ax.set(xlim=(-3.6, 3.6), ylim=(0, top), yticks=[])


def distortion(distortions: Mapping[tuple[int, int], float]) -> Figure:
    """4^n D(n) by bits and by dimension, between Shannon's line and the high-rate constant."""
    dims = tuple(dict.fromkeys(d for d, _ in distortions))
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.3), sharey=True)
    _draw_by_bits(left, distortions)
    _draw_by_dimension(right, distortions, dims)
    for ax, ends in ((left, (0, 8)), (right, (2, 1024))):
        high_rate = [laws.GAUSSIAN_PANTER_DITE] * 2
        plotting.theory_line(ax, ends, [1, 1], label=None)
        ax.plot(ends, high_rate, color=plotting.MUTED, linestyle=":", linewidth=1.4)
    return fig


def _draw_by_bits(ax: Any, distortions: Mapping[tuple[int, int], float]) -> None:
    """A line a dimension, named at its end."""
    shown = (2, 3, 4, 8, 16, 32, 128, 1024)
    for d, shade in zip(shown, np.linspace(0.05, 0.72, len(shown)), strict=True):
        color = plt.get_cmap("viridis")(shade)
        values = [4**n * distortions[d, n] for n in range(9)]
        ax.plot(range(9), values, "o-", color=color, markersize=4)
        rise = 0.1 if d == 1024 else 0.0
        ax.text(8.25, values[-1] + rise, f"{d}", color=color, va="center", fontsize=10.5)
    ax.text(8.25, 2.95, "d", fontsize=10.5)
    ax.text(4.9, 1.03, "Shannon, $4^{-n}$", ha="left", va="bottom", fontsize=10.5)
    height = laws.GAUSSIAN_PANTER_DITE + 0.03
    ax.text(0, height, r"$\sqrt{3}\pi/2$", va="bottom", fontsize=10.5, color=plotting.MUTED)
    ax.set(xlabel="bits n", ylabel=r"$4^n D(n)$", title="by bits", xlim=(-0.2, 9.6), ylim=(0, 3.1))


def _draw_by_dimension(
    ax: Any, distortions: Mapping[tuple[int, int], float], dims: Sequence[int]
) -> None:
    """A line a budget, named at its end, with the limits at finite d."""
    chosen = (1, 2, 3, 4, 8)
    for n, shade in zip(chosen, np.linspace(0.15, 0.65, len(chosen)), strict=True):
        color = plt.get_cmap("plasma")(shade)
        values = [4**n * distortions[d, n] for d in dims]
        ax.plot(dims, values, "o-", color=color, markersize=4)
        ax.text(1200, values[-1], f"{n}", color=color, va="center", fontsize=10.5)
    ax.text(1200, 2.95, "n", fontsize=10.5)
    high = [laws.panter_dite(0, d) for d in dims]
    floor = [laws.shannon_lower_bound(0, d) for d in dims]
    ax.plot(dims, high, "-.", color=plotting.MUTED, linewidth=1.4, label="high rate, finite d")
    ax.plot(dims, floor, ":", color=plotting.INK, linewidth=1.6, label="lower bound, finite d")
    ax.set(xscale="log", xlabel="dimension d", xlim=(1.8, 2300), title="by dimension")
    ax.set_xticks([2, 8, 32, 128, 1024], ["2", "8", "32", "128", "1024"])
    ax.minorticks_off()
    ax.legend(loc="lower right", bbox_to_anchor=(1.02, 0.02))


def distortion_table(distortions: Mapping[tuple[int, int], float]) -> Any:
    """D(n) by dimension, with the constants of the high-rate limit and of the lower bound."""
    rows: list[list[Any]] = [
        [
            d,
            *(f"{distortions[d, n]:.5f}" for n in range(1, 5)),
            *(f"{1e6 * distortions[d, n]:.4g}" for n in range(5, 9)),
            f"{laws.panter_dite(0, d):.3f}",
            f"{laws.shannon_lower_bound(0, d):.3f}",
        ]
        for d in dict.fromkeys(d for d, _ in distortions)
    ]
    coarse, fine = [f"D({n})" for n in range(1, 5)], [f"10⁶ D({n})" for n in range(5, 9)]
    return table(
        ["d", *coarse, *fine, "high", "floor"],
        rows,
        "Lloyd-Max distortion of the coordinate law (D(0) = 1), and the constants before 4⁻ⁿ of "
        "the high-rate limit and of the lower bound at that d",
    )


def stored_rate_table(rates: Sequence[ch03.StoredRate]) -> Any:
    """Distance from Shannon's line without the norm and with it."""
    rows: list[list[Any]] = [
        [
            r.dim,
            r.bits,
            f"{r.distortion * 4**r.bits:.3f}",
            f"{r.rate:.3f}",
            f"{r.stored_bits:.3f}",
            f"{r.margin:.4g}",
        ]
        for r in rates
    ]
    return table(
        ["d", "n", "4ⁿ D", "R = n + 16/d", "bits stored, whole bytes", "4ᴿ D"],
        rows,
        "Distance from Shannon's line without the norm (4ⁿ D) and with it (4ᴿ D)",
    )


def second_order_table(
    second_order: Mapping[int, ch03.SingleVectorErrors],
    distortions: Mapping[int, float],
    dim: int,
) -> Any:
    """First-order errors of single vectors, and their relative corrections in units of 1/d."""
    rows: list[list[Any]] = []
    for n, corrected in second_order.items():
        plain = ch03.first_order_law(distortions[n])
        shifts = [dim * (c / p - 1) for c, p in zip(corrected, plain, strict=True)]
        rows.append([n, *(f"{p:.3g}" for p in plain), *(f"{s:.2f}" for s in shifts)])
    return table(
        ["n", *_NAMES, *(f"correction of {name}" for name in _NAMES)],
        rows,
        f"First order at d = {dim}, and the relative correction for single vectors in units of 1/d",
    )


def turboquant_table(
    distortions: Mapping[tuple[int, int], float], limit: Mapping[int, float]
) -> Any:
    """TurboQuant's quoted D_mse beside D(b), rounded to as many decimals."""
    dims = (64, 128, 256, 1024)
    rows: list[list[Any]] = []
    for n, (value, digits) in ch03.QUOTED_MSE.items():
        rounded = [f"{distortions[d, n]:.{digits}f}" for d in dims]
        rows.append([n, value, *rounded, f"{limit[n]:.{digits}f}", f"{limit[n]:.5f}"])
    return table(
        ["b", "quoted", *(f"d = {d}" for d in dims), "d → ∞", "d → ∞, digits"],
        rows,
        "TurboQuant's D_mse, and D(b) rounded to as many decimals as quoted",
    )


def product_table(limit: Mapping[int, float]) -> Any:
    """TurboQuant's quoted D_prod beside what rounded and exact D_mse give."""
    rows: list[list[Any]] = []
    for b, quoted in ch03.QUOTED_PRODUCT.items():
        before = ch03.QUOTED_MSE[b - 1][0] if b > 1 else 1.0
        rounded, exact = np.pi / 2 * before, np.pi / 2 * limit[b - 1]
        rows.append([b, quoted, f"{rounded:.4f}", f"{exact:.4f}", f"{exact / quoted:.3f}"])
    return table(
        ["b", "quoted d·D_prod", "π/2 × quoted D(b−1)", "π/2 × exact D(b−1)", "exact / quoted"],
        rows,
        "TurboQuant's D_prod inherits the rounding of D_mse (limit of large d)",
    )


def witness_table(witness: Mapping[int, ch03.GaussianLloyd], limit: Mapping[int, float]) -> Any:
    """Max's constants, an independent iteration, and this book's codebooks."""
    rows: list[list[Any]] = [
        [2**n, ch03.MAX_1960[n][0], f"{w.distortion:.7f}", f"{limit[n]:.7f}", w.steps]
        for n, w in witness.items()
    ]
    return table(
        ["levels", "Max (1960)", "Lloyd on N(0, 1)", "this book, d = 10⁹", "iterations"],
        rows,
        "Distortion of the best quantizer of a normal variable, three ways",
    )


def levels_table(books: Books, *, dim: int = 128, bits: Sequence[int] = (1, 2, 3, 4)) -> Any:
    """The positive levels of Lloyd-Max codebooks, for copying."""
    rows: list[list[Any]] = []
    for n in bits:
        levels = books[dim, n].levels[2 ** (n - 1) :] * np.sqrt(dim)
        listed = ", ".join(f"{level:.4f}" for level in levels)
        rows.append([n, listed, f"{books[dim, n].distortion:.5f}"])
    return table(
        ["n", "positive half of the levels, in units of 1/√d", "D(n)"],
        rows,
        f"Lloyd-Max codebooks at d = {dim}",
    )


# Isotropic vectors -----------------------------------------------------------------------------


def isotropic_table(found: Isotropic, second_order: Mapping[int, ch03.SingleVectorErrors]) -> Any:
    """What isotropic vectors have lost, over the laws."""
    rows: list[list[Any]] = []
    for n in found.bits:
        D, mse, law = found.distortion[n], found.relative_error(n), second_order[n]
        first = [laws.direction_error_of(D, reading) for reading in ("angle", "chord")]
        angle, chord = (
            found.interval(reading, n, f).estimate
            for reading, f in zip(("angle", "chord"), first, strict=True)
        )
        cosine = found.controlled("one-minus-cosine", n, law.one_minus_cosine).estimate
        unbiased = found.controlled("unbiased mse", n, law.unbiased_mse).estimate
        rows.append(
            [
                n,
                f"{D:.5f}",
                shown(mse, 4),
                f"{found.interval('alignment', n).estimate:.4f}",
                f"{1 - D:.4f}",
                f"{cosine:.4f}",
                f"{angle:.3f}",
                f"{chord:.3f}",
                f"{unbiased:.4f}",
            ]
        )
    header = ["n", "D(n)", "MSE / D(n)", "⟨x, x̂⟩/‖x‖²", "1 − D(n)"]
    return table(
        [*header, "1 − cos θ ²", "angle ¹", "chord ¹", "unbiased MSE ²"],
        rows,
        "Isotropic vectors through the bytes; ¹ over the first order, ² over the second order",
    )


def isotropic(found: Isotropic, second_order: Mapping[int, ch03.SingleVectorErrors]) -> Figure:
    """Squared error over D(n), and the relative deviation of directions from first order."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.2))
    bits = np.array(found.bits)
    left.axhspan(0.99, 1.01, color="#EDEDED", linewidth=0)
    plotting.theory_line(left, [0.6, 6.4], [1, 1], label=None)
    plotting.measured_points(left, bits, [found.relative_error(n) for n in found.bits], color=_KQV)
    left.set(xlabel="bits n", ylabel="measured MSE / D(n)", ylim=(0.985, 1.015), xlim=(0.6, 6.4))
    left.set_title("squared error")
    _draw_directions(right, found)
    first = [ch03.first_order_law(D).one_minus_cosine for D in found.distortion.values()]
    second = [second_order[n].one_minus_cosine for n in found.bits]
    deviation = found.dim * (np.divide(second, first) - 1)
    plotting.theory_line(right, bits, deviation, label="1 − cos θ, second order")
    right.legend(loc="upper right")
    return fig


def _draw_directions(ax: Any, found: Isotropic) -> None:
    """Three readings of the direction error, as deviations from first order times d."""
    styles = {
        "one-minus-cosine": ("1 − cos θ", "#254296", "o", -0.12),
        "angle": ("angle", "#AE8700", "s", 0.0),
        "chord": ("chord", "#A01F1A", "^", 0.12),
    }
    for reading, (label, color, marker, shift) in styles.items():
        estimate = found.controlled if reading == "one-minus-cosine" else found.interval
        first = {n: laws.direction_error_of(D, reading) for n, D in found.distortion.items()}
        over = [estimate(reading, n, f) for n, f in first.items()]
        scaled = [_deviation(i, found.dim) for i in over]
        place = np.array(found.bits) + shift
        plotting.measured_points(ax, place, scaled, color=color, marker=marker, label=label)
    ax.axhline(0, color=plotting.MUTED, linewidth=1)
    ax.axhline(-3, color=plotting.MUTED, linewidth=1, linestyle=":")
    ax.text(0.65, -2.95, "−3/d: high rate", color=plotting.MUTED, fontsize=10.5, va="bottom")
    ax.set(xlabel="bits n", ylabel="relative deviation × d", xlim=(0.6, 6.4), ylim=(-4.2, 2.6))
    ax.set_title(r"direction, against $\sqrt{1-D}$")


def _deviation(over: Interval, dim: int) -> Interval:
    """A ratio's distance from one, times d."""
    low, estimate, high = (dim * (v - 1) for v in (over.low, over.estimate, over.high))
    return Interval(estimate, low, high, over.n)


def shrinkage(found: Isotropic) -> Figure:
    """Logits after one bit against exact ones, at the stored norm and at the unbiased scale."""
    if found.logits is None:
        raise ValueError("found must hold the logits of a draw")
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.9), sharex=True, sharey=True)
    panels = (
        ("stored norm", found.logits.norm, 1 - found.distortion[1], "slope $1-D(1)$"),
        ("unbiased scale", found.logits.unbiased, 1.0, "slope 1"),
    )
    dots = {"color": _KQV, "alpha": 0.35, "markersize": 4, "markeredgewidth": 0}
    ends = np.array([-1.35, 1.35])
    for ax, (title, values, slope, name) in zip(axes, panels, strict=True):
        ax.plot(found.logits.exact, values, ".", **dots)
        ax.plot(ends, ends, color=plotting.MUTED, linewidth=1, linestyle=":")
        plotting.theory_line(ax, ends, slope * ends, label=None)
        ax.text(1.25, -1.35, name, ha="right", fontsize=11)
        ax.set(title=title, xlabel=r"$\langle q, x\rangle/d$", xlim=ends, ylim=(-1.5, 1.5))
    axes[0].set_ylabel(r"$\langle q, \hat x\rangle/d$")
    return fig


# Codebooks that are not optimal ----------------------------------------------------------------


def zoo_table(excess: Mapping[int, Mapping[str, float]]) -> Any:
    """Distortion relative to Lloyd-Max by codebook and bits, the best at 4 bits first."""
    order = sorted(excess[4], key=lambda name: excess[4][name])
    rows: list[list[Any]] = [[name, *(f"{excess[n][name]:.4g}" for n in excess)] for name in order]
    header = ["codebook", *_bit_columns(tuple(excess))]
    return table(header, rows, "Distortion relative to Lloyd-Max, exact, d = 128")


def lloyd_table(runs: LloydRuns) -> Any:
    """Where Lloyd's iteration stands at the last step, and the codes it uses."""
    bits, last = tuple(runs.best), runs.steps[-1]
    rows: list[list[Any]] = []
    for start in runs.starts:
        rows.append([start, *(f"{runs.median(start, n, last):.4g}" for n in bits)])
        used = [f"{_spanned(runs.codes_used[start, n])} of {2**n}" for n in bits]
        rows.append(["codes used", *used])
    return table(
        ["start", *_bit_columns(bits)],
        rows,
        f"D / D(n) after {last} Lloyd iterations, median over samples, d = 256",
    )


def _spanned(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def lloyd_ratio_table(runs: LloydRuns, picked: Mapping[str, Sequence[int]]) -> Any:
    """D(n)/D(n-1) of Lloyd-Max and of stopped iterations; ``picked`` samples of each start."""
    bits, last = tuple(runs.best), runs.steps[-1]
    exact = (f"{runs.best[n] / runs.best[n - 1]:.4f}" for n in bits[1:])
    rows: list[list[Any]] = [["Lloyd-Max", *exact]]
    for start, samples in picked.items():
        for i in samples:
            stopped = {n: runs.excess[start, n, last][i] * runs.best[n] for n in bits}
            values = (f"{stopped[n] / stopped[n - 1]:.4f}" for n in bits[1:])
            rows.append([f"{start}, {last} steps, sample {i + 1}", *values])
    return table(
        ["codebook", *_bit_columns(bits[1:])],
        rows,
        "What one more bit leaves of the error: D(n) / D(n−1), d = 256",
    )


def lloyd(runs: LloydRuns, *, bits: Sequence[int] = (2, 3, 4, 6)) -> Figure:
    """Excess distortion against Lloyd iterations: a panel a budget, a line a start."""
    shades = ("#A01F1A", "#AE8700", "#254296", "#259ED7", "#037766")
    lines: dict[str, Any] = {"hue": "start", "palette": dict(zip(runs.starts, shades, strict=True))}
    lines |= {"estimator": "median", "errorbar": None}
    lines |= {"marker": "o", "markersize": 4.5, "markeredgewidth": 0}
    fig, axes = plt.subplots(2, 2, figsize=(7.2, 6.4), sharex=True)
    excess = _excess_frame(runs)
    for ax, n in zip(axes.flat, bits, strict=True):
        panel = excess[excess["bits"] == n]
        sns.lineplot(panel, x="step + 1", y="excess", ax=ax, legend=n == bits[0], **lines)
        ax.set(xscale="log", yscale="log", ylim=(2e-4, 400), ylabel="", title=f"n = {n}")
        ax.set_xticks([1, 11, 101, 301], ["0", "10", "100", "300"])
        ax.minorticks_off()
        ax.set_xlabel("Lloyd iterations")
        ax.label_outer()
    fig.supylabel("excess distortion, D / D(n) − 1", fontsize=12)
    _legend_below(fig, axes[0, 0], columns=2)
    return fig


def _excess_frame(runs: LloydRuns) -> pd.DataFrame:
    """A row a start, budget, step and sample; excesses below 1e-4 are drawn there."""
    rows = [
        (start, n, step + 1, max(excess - 1, 1e-4))
        for (start, n, step), samples in runs.excess.items()
        for excess in samples
    ]
    return pd.DataFrame(rows, columns=["start", "bits", "step + 1", "excess"])


def _legend_below(fig: Figure, ax: Any, *, columns: int) -> None:
    """Move the legend of a panel below all of them."""
    handles, labels = ax.get_legend_handles_labels()
    ax.get_legend().remove()
    fig.legend(handles, labels, loc="outside lower center", ncols=columns)


# Real heads ------------------------------------------------------------------------------------


def heads_table(found: HeadErrors) -> Any:
    """Relative error over D(n), mean over heads with its interval over rotations."""
    rows: list[list[Any]] = []
    for letter in "KV":
        for turn in found.turns:
            means = found.over_heads(letter, turn).mean(0)  # (rotations, bits)
            average = [f"{m:.3f}" for m in means[0]]
            if len(means) > 1:
                by_rotation = [mean_interval(m) for m in means.T]
                average = [f"{i.estimate:.3f} ± {i.half_width:.3f}" for i in by_rotation]
            rows.append([letter, turn, *average])
    return table(
        ["", "rotation", *_bit_columns(found.bits)],
        rows,
        "Relative error over D(n), mean over all heads ± half of its 95% interval over rotations",
    )


def spread_table(
    found: HeadErrors, *, turns: Sequence[str] = ("none", "Hadamard", "Haar"), bits: int = 4
) -> Any:
    """Relative error over D(n) over heads, over rotations of a head, and of single rotations."""
    rows: list[list[Any]] = [
        [model, letter, turn, *_spread(found.at(bits, letter, turn, model))]
        for model in found.models
        for letter in "KV"
        for turn in turns
    ]
    header = ["model", "", "rotation", "heads", "mean", "means of heads", "± of a head"]
    return table(
        [*header, "single rotations"],
        rows,
        f"Relative error over D({bits}): over heads, over rotations of a head (median half-width "
        "of the 95% interval), and the range of single draws",
    )


def _spread(found: Any) -> list[str]:
    """Cells of one row from errors of shape (heads, rotations)."""
    means = found.mean(1)
    cells = [f"{len(means)}", f"{means.mean():.3f}", f"{means.min():.3f} to {means.max():.3f}"]
    if found.shape[1] == 1:
        return [*cells, "–", "–"]
    width = np.median([mean_interval(head).half_width for head in found])
    return [*cells, f"{width:.3f}", f"{found.min():.2f} to {found.max():.2f}"]


_TURN_NAMES = {"Hadamard": "Hadamard", "none": "no rotation", "Haar": "Haar"}
_TURN_COLORS = {
    "Hadamard": plotting.ROTATION_COLORS["hadamard"],
    "no rotation": plotting.ROTATION_COLORS["none"],
    "Haar": plotting.ROTATION_COLORS["haar"],
}


def heads(found: HeadErrors, *, bits: int = 4) -> Figure:
    """Relative error over D(n) of every head: single rotations, and their mean with interval."""
    fig, axes = plt.subplots(
        2, len(found.models), figsize=(7.2, 6.0), sharey=True, sharex="col", width_ratios=(8, 8, 16)
    )
    errors = _heads_frame(found, bits)
    for column, model in zip(axes.T, found.models, strict=True):
        for ax, letter in zip(column, "KV", strict=True):
            panel = errors[(errors["model"] == model) & (errors["letter"] == letter)]
            _draw_heads(ax, panel, legend=ax is axes[0, 0])
        column[0].set_title(model.replace("rope-lm-saturated", "saturated"))
    # Logarithmic only now: seaborn averages in the scale of the axis.
    axes[0, 0].set(yscale="log", ylim=(0.8, 2.7))
    ticks = (0.8, 1, 1.2, 1.5, 2, 2.5)
    for ax, label in zip(axes[:, 0], ("keys", "values"), strict=True):
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_ylabel(label)
    fig.supylabel(f"relative error / D({bits})", fontsize=12)
    _legend_below(fig, axes[0, 0], columns=3)
    return fig


def _heads_frame(found: HeadErrors, bits: int) -> pd.DataFrame:
    """A row a model, keys or values, head and single rotation."""
    rows = [
        (model, letter, head, name, error)
        for model in found.models
        for letter in "KV"
        for turn, name in _TURN_NAMES.items()
        for head, errors in enumerate(found.at(bits, letter, turn, model))
        for error in errors
    ]
    return pd.DataFrame(rows, columns=["model", "letter", "head", "rotation", "error"])


def _draw_heads(ax: Any, errors: pd.DataFrame, *, legend: bool) -> None:
    """One model's keys or values."""
    beside: dict[str, Any] = {"x": "head", "y": "error", "hue": "rotation", "ax": ax}
    beside |= {"hue_order": list(_TURN_COLORS), "palette": _TURN_COLORS}
    drawn = errors[errors["rotation"] != "no rotation"]
    dots = {"dodge": True, "jitter": False, "size": 2.2, "alpha": 0.45, "zorder": 1}
    sns.stripplot(drawn, **beside, **dots, legend=False)
    means: dict[str, Any] = {"dodge": 0.8 * 2 / 3, "markers": ["o", "X", "D"], "markersize": 5}
    means |= {"linestyle": "none", "errorbar": plotting.mean_ends, "err_kws": {"linewidth": 1.2}}
    means |= {"capsize": 0.25, "markeredgewidth": 0, "zorder": 3}
    sns.pointplot(errors, **beside, **means, legend=legend)
    if legend:
        ax.get_legend().set_title("")
    ax.axhline(1, color=plotting.INK, linestyle=(0, (5, 2)), linewidth=1.2, zorder=1)
    ax.grid(axis="x", visible=False)
    count = errors["head"].nunique()
    ax.set_xticks(range(0, count, 5 if count > 8 else 2))
    ax.set_xlim(-0.6, count - 0.4)


# Spikes ----------------------------------------------------------------------------------------


def spike_table(
    found: SpikeErrors, books: Mapping[int, Codebook], predicted: Mapping[int, float]
) -> Any:
    """Relative MSE of spiked vectors beside D(n), the codebook's error at 1/√d and the law."""
    rows: list[list[Any]] = [
        ["Lloyd-Max, D(n)", *(f"{book.distortion:.4f}" for book in books.values())]
    ]
    at_point = [
        ch03.errors_at(book, np.array([1 / np.sqrt(book.dim)]))[0] for book in books.values()
    ]
    rows.append(["codebook at 1/√d, w", *(f"{w:.4f}" for w in at_point)])
    rows.append(["spike 99%, predicted, 1 round", *(f"{p:.4f}" for p in predicted.values())])
    for family, turn in dict.fromkeys((family, turn) for family, turn, _ in found.samples):
        means = [f"{found.mean(family, turn, n):.4f}" for n in books]
        rows.append([f"{family}, {turn}", *means])
    header = ["", *_bit_columns(tuple(books))]
    return table(header, rows, "Relative MSE of spiked vectors, d = 64")


def spikes(
    found: SpikeErrors, family: str, books: Mapping[int, Codebook], predicted: Mapping[int, float]
) -> Figure:
    """Relative MSE of one family by bits and rotation, with D(n) and the law of one round."""
    looks = {
        "Hadamard": (plotting.ROTATION_COLORS["hadamard"], "o"),
        "Hadamard × 2": ("#56B4E9", "s"),
        "Haar": (plotting.ROTATION_COLORS["haar"], "D"),
    }
    fig, ax = plt.subplots(figsize=(7.2, 4.2))
    ax.set(yscale="log")
    bits = np.array(tuple(books))
    plotting.theory_line(ax, bits, [book.distortion for book in books.values()], label="D(n)")
    law, color = list(predicted.values()), looks["Hadamard"][0]
    ax.plot(bits, law, ":", color=color, label="predicted, one round")
    for shift, (turn, (color, marker)) in zip((0, -0.08, 0.08), looks.items(), strict=True):
        intervals = [mean_interval(found.samples[family, turn, n]) for n in books]
        plotting.measured_points(
            ax, bits + shift, intervals, color=color, marker=marker, label=turn
        )
    ax.set(xlabel="bits n", ylabel="relative MSE")
    ax.legend(ncols=2)
    return fig
