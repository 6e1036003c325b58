"""Figures and tables of chapter 4, given what its experiments returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from kvbook import plotting
from kvbook.experiments import ch04
from kvbook.experiments.ch04 import (
    Coverage,
    FailureRates,
    Gains,
    Grid,
    KeyErrors,
    RealKeys,
    ResidualErrors,
    Variances,
)
from kvbook.page import table
from kvlib import laws
from kvlib.stats import Interval, mean_interval

_LOOK = {
    "unquantised": (plotting.MUTED, "s"),
    "gaussian": (plotting.SCHEME_COLORS["QKQV"], "^"),
    "haar": (plotting.ROTATION_COLORS["haar"], "D"),
    "hadamard": (plotting.ROTATION_COLORS["hadamard"], "o"),
}
_GRID_NAMES = {
    "gaussian": "Gaussian",
    "haar": "Haar",
    "hadamard": "Hadamard, isotropic pairs",
    "unquantised": "Gaussian, not quantised",
}
_KIND_NAMES = {
    "gaussian": "Gaussian",
    "haar": "Haar",
    "hadamard": "Hadamard",
    "hadamard mmse": "Hadamard, least error",
}


def _bit_columns(bits: Sequence[int]) -> list[str]:
    return [f"n = {n}" for n in bits]


def _write(ax: Any, text: str, place: tuple[float, float], kind: str) -> None:
    """A line's name in its colour."""
    ax.text(*place, text, color=_LOOK[kind][0], fontsize=11, fontweight="bold")


def _over(found: Interval, truth: float) -> Interval:
    return Interval(found.estimate / truth, found.low / truth, found.high / truth, found.n)


# The grid of dimensions and angles -------------------------------------------------------------


def coverage_table(found: Coverage) -> Any:
    """In how many cells the intervals of mean and variance contain the closed form."""
    rows: list[list[Any]] = [
        [name, found.means[kind], found.variances[kind]] for kind, name in _GRID_NAMES.items()
    ]
    rows += [
        ["control: Gaussian variance without ρ²", "", found.no_angle],
        ["control: Hadamard, scale √d too small", found.wrong_scale, ""],
        ["control: sketch dropped on decode", found.dropped, ""],
    ]
    of = f"of {found.cells}"
    return table(["sketch", f"means, {of}", f"variances, {of}"], rows)


def grid(found: Grid) -> Figure:
    """Measured variance over the closed form: a panel a kind, nine angles at each dimension."""
    fig, axes = plt.subplots(4, 1, figsize=(7.2, 7.6), sharex=True, sharey=True)
    points: dict[str, Any] = {"x": "d", "y": "ratio", "hue": "cosine", "legend": False}
    points |= {"dodge": 0.72, "linestyle": "none", "markersize": 4, "markeredgecolor": "white"}
    points |= {"markeredgewidth": 0.5, "errorbar": plotting.mean_ends, "err_kws": {"linewidth": 1}}
    for ax, (kind, law) in zip(axes, ch04.VARIANCE_LAWS.items(), strict=True):
        color, marker = _LOOK[kind]
        deviations = _deviations_frame(found, kind, law)
        colors = [color] * len(found.cosines)
        sns.pointplot(deviations, **points, palette=colors, markers=marker, ax=ax)
        ax.axhline(1, color=plotting.INK, linestyle=(0, (5, 2)), linewidth=1.2, zorder=1)
        ax.set_title(_GRID_NAMES[kind], fontsize=12)
        ax.set(ylim=(0.74, 1.26), yticks=[0.8, 1, 1.2], ylabel="")
    axes[-1].set_xlabel("dimension d (within each: ρ from −1 to 1, left to right)")
    fig.supylabel("measured variance / closed form", fontsize=12)
    return fig


def _deviations_frame(found: Grid, kind: str, law: ch04.Law) -> pd.DataFrame:
    """A row a dimension, angle and repetition: squared deviation over the variance derived."""
    parts = []
    for d in found.dims:
        for rho, x in zip(found.cosines, found.estimates[kind, d], strict=True):
            square = (x - x.mean()) ** 2 * x.size / (x.size - 1)
            parts.append(pd.DataFrame({"d": d, "cosine": rho, "ratio": square / law(rho, d)}))
    return pd.concat(parts, ignore_index=True)


def variances(found: Variances) -> Figure:
    """Variance against the angle, and its ratio to unquantised projections."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.4))
    fine, shown = np.linspace(0, 1, 101), np.linspace(0, 1, 9)
    plain = 1 + fine**2
    for kind in ("unquantised", "gaussian", "haar"):
        color, marker = _LOOK[kind]
        law = ch04.VARIANCE_LAWS[kind]
        curve = np.array([found.dim * law(float(rho), found.dim) for rho in fine])
        points = [mean_interval(found.dim * found.at(kind, rho)) for rho in shown]
        plotting.theory_line(left, fine, curve)
        plotting.measured_points(left, shown, points, color=color, marker=marker)
        if kind != "unquantised":
            ratios = [found.ratio(kind, rho) for rho in shown]
            plotting.theory_line(right, fine, curve / plain)
            plotting.measured_points(right, shown, ratios, color=color, marker=marker)
    _name_variances(left, right)
    return fig


def _name_variances(left: Any, right: Any) -> None:
    """Names, axes and the crossing."""
    _write(left, "not quantised", (0.42, 1.9), "unquantised")
    _write(left, "Gaussian signs", (0.02, 1.68), "gaussian")
    _write(left, "orthogonal signs", (0.02, 0.25), "haar")
    _write(right, "Gaussian signs", (0.36, 1.33), "gaussian")
    _write(right, "orthogonal signs", (0.02, 0.2), "haar")
    right.axhline(1, color=plotting.MUTED, linewidth=1)
    crossing = {"color": plotting.INK, "zorder": 5, "markersize": 5}
    right.plot([laws.inflation_crossing()], [1], "o", **crossing)
    left.set(ylabel="m × variance of the inner product", ylim=(0, 2.15), title="Variance")
    right.set(ylabel="ratio to not quantised", ylim=(0, 1.75), title="Inflation")
    right.set_yticks([0, 0.5, 1, 1.5, np.pi / 2], ["0", "0.5", "1", "", "π/2"])
    for ax in (left, right):
        ax.set(xlabel="|ρ|", xticks=[0, 0.25, 0.5, 0.75, 1], xticklabels=["0", "¼", "½", "¾", "1"])


# Failure rates ---------------------------------------------------------------------------------


def failure_table(*found: FailureRates) -> Any:
    """Failure rates by rows, at every other angle."""
    cosines = found[0].cosines[::2]
    rows = [
        [f"m = {rates.rows}", *(f"{r.estimate:.4f}" for r in rates.rates[::2])] for rates in found
    ]
    return table(["failure rate", *(f"ρ = {rho:.1g}" for rho in cosines)], rows)


def failures(
    lemma: FailureRates, corrected: FailureRates, *, epsilon: float, delta: float
) -> Figure:
    """Failure rates against the angle, with the normal law and the rate promised."""
    fig, ax = plt.subplots(figsize=(7.2, 4.2))
    fine = np.linspace(0, 1, 101)
    for found, kind, marker, label in (
        (lemma, "gaussian", "^", "QJL's Lemma 3.5"),
        (corrected, "hadamard", "o", "corrected"),
    ):
        law = ch04.normal_failure_law(epsilon, found.rows, fine)
        name, color = f"m = {found.rows} ({label})", _LOOK[kind][0]
        plotting.theory_line(ax, fine, law, label=None)
        plotting.measured_points(
            ax, found.cosines, found.rates, color=color, marker=marker, label=name
        )
    ax.axhline(delta, color=plotting.INK, linewidth=1.2)
    ax.text(1.01, delta * 1.12, "promised", ha="right", fontsize=11)
    ax.set(yscale="log", ylim=(1e-5, 6e-2), xlabel="|ρ|", ylabel="P(error > ε)")
    ax.set(xticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    ax.legend(loc="lower left")
    return fig


# Errors of the residual ------------------------------------------------------------------------


def gain_table(found: Gains, *, dim: int) -> Any:
    """Mean gain of sketches of residuals of k equal coordinates."""
    derived = [f"{ch04.hadamard_gain_law(k, dim):.3f}" for k in found.counts]
    rows: list[list[Any]] = [["Hadamard, derived", *derived]]
    for kind in ("hadamard", "haar", "gaussian"):
        cells = [f"{g.estimate:.3f} ± {g.half_width:.3f}" for g in found.intervals(kind)]
        rows.append([f"{_KIND_NAMES[kind]}, measured", *cells])
    return table(["equal coordinates", *(str(k) for k in found.counts)], rows)


def residual_errors(found: ResidualErrors, dims: Sequence[int]) -> Figure:
    """Relative error of the residual against the dimension, with both scales."""
    fig, ax = plt.subplots(figsize=(7.2, 4.4))
    fine = np.unique(np.round(np.geomspace(dims[0], dims[-1], 60)).astype(int))
    for sketch in ("gaussian", "gaussian mmse", "orthogonal", "orthogonal mmse"):
        curve = [ch04.sketch_error_law(sketch, int(d)) for d in fine]
        plotting.theory_line(ax, fine, curve, label=None)
    for kind, shift in (("gaussian", 1.0), ("haar", 0.96), ("hadamard", 1.04)):
        color, marker = _LOOK[kind]
        for estimate in (found.unbiased, found.least):
            points = [estimate(kind, d) for d in dims]
            place = np.array(dims) * shift
            plotting.measured_points(ax, place, points, color=color, marker=marker)
    ax.axhline(1, color=plotting.MUTED, linewidth=1)
    _write(ax, "Gaussian", (45, 1.42), "gaussian")
    _write(ax, "no sketch", (45, 1.03), "unquantised")
    _write(ax, "Gaussian, least-error scale", (45, 0.655), "gaussian")
    _write(ax, "Haar and Hadamard", (45, 0.46), "hadamard")
    _write(ax, "Haar and Hadamard, least-error scale = D(1)", (45, 0.25), "hadamard")
    ax.set(xscale="log", ylim=(0, 1.72), xlabel="dimension d", yticks=[0, 0.5, 1, 1.5])
    ax.set_ylabel("error of the residual, relative")
    ax.set_xticks(dims, [str(d) for d in dims])
    ax.minorticks_off()
    return fig


# Equal budget ----------------------------------------------------------------------------------


def penalty_law_table(dims: Sequence[int], bits: Sequence[int]) -> Any:
    """Equal-budget penalties from the closed forms, and their limits."""
    limits = {"gaussian": "2π", "orthogonal": "2π − 4", "orthogonal mmse": "4 − 8/π"}
    rows: list[list[Any]] = []
    for sketch, label in ch04.SKETCH_NAMES.items():
        for i, d in enumerate(dims):
            cells = [f"{ch04.penalty_law(sketch, d, n):.2f}" for n in bits]
            rows.append([label if i == 0 else "", d, *cells, ""])
        limit = f"{laws.HIGH_RATE_PENALTY[sketch]:.3f} = {limits[sketch]}"
        rows.append(["", "∞", *([""] * len(bits)), limit])
    return table(["sketch", "d", *_bit_columns(bits), "limit"], rows)


def penalty_table(found: KeyErrors, bits: Sequence[int]) -> Any:
    """Measured penalties of isotropic keys."""
    rows = []
    for kind, label in _KIND_NAMES.items():
        penalties = [found.penalty(kind, n) for n in bits]
        rows.append([label, *(f"{p.estimate:.3f} ± {p.half_width:.3f}" for p in penalties)])
    return table(["measured penalty", *_bit_columns(bits)], rows)


def penalties(found: KeyErrors, bits: Sequence[int]) -> Figure:
    """Penalties against the budget: closed forms at d = 128 and from 8 to 1024, and measured."""
    fig, ax = plt.subplots(figsize=(7.2, 4.6))
    styles = {
        "gaussian": ("gaussian", "gaussian", "$2\\pi$"),
        "orthogonal": ("hadamard", "hadamard", "$2\\pi-4$"),
        "orthogonal mmse": ("hadamard mmse", "hadamard", "$4-8/\\pi$"),
    }
    axis = np.array(bits)
    for sketch, (kind, look, name) in styles.items():
        color, marker = _LOOK[look]
        low, middle, high = ([ch04.penalty_law(sketch, d, n) for n in bits] for d in (8, 128, 1024))
        ax.fill_between(axis, low, high, color=color, alpha=0.15, linewidth=0)
        plotting.theory_line(ax, axis, middle)
        points = [found.penalty(kind, n) for n in bits]
        plotting.measured_points(ax, axis, points, color=color, marker=marker)
        limit = laws.HIGH_RATE_PENALTY[sketch]
        ax.plot([6.15, 6.5], [limit, limit], color=color, linewidth=2.5)
        ax.text(6.55, limit, name, color=color, va="center", fontsize=12)
    ax.axhline(1, color=plotting.INK, linewidth=1)
    _write(ax, "Gaussian", (2.05, 4.35), "gaussian")
    _write(ax, "orthogonal", (2.05, 2.1), "hadamard")
    _write(ax, "orthogonal, least error", (2.05, 1.35), "hadamard")
    ax.text(7.25, 0.97, "plain", fontsize=11, ha="right", va="top")
    ax.set(yscale="log", xlim=(1.8, 7.3), ylim=(0.85, 7.2), xticks=axis)
    ax.set_yticks([1, 2, 3, 4, 5, 6], ["1", "2", "3", "4", "5", "6"])
    ax.minorticks_off()
    ax.set(xlabel="budget n (bits a coordinate)", ylabel="error of sketched / plain key")
    return fig


_BITS_BOUGHT = {
    "plain": ("one more code bit", plotting.SCHEME_COLORS["KQV"]),
    "hadamard mmse": ("orthogonal, least error", _LOOK["hadamard"][0]),
    "hadamard": ("orthogonal", _LOOK["hadamard"][0]),
    "gaussian mmse": ("Gaussian, least error", _LOOK["gaussian"][0]),
    "wrong scale": ("bug: scale √d too small", plotting.MUTED),
    "dropped": ("bug: sketch dropped", plotting.MUTED),
    "gaussian": ("Gaussian", _LOOK["gaussian"][0]),
}


def one_more_bit(found: KeyErrors, derived: Mapping[str, float]) -> Figure:
    """What the fourth bit does to the error of a key, measured and derived."""
    fig, ax = plt.subplots(figsize=(7.2, 4.2))
    colors = dict(_BITS_BOUGHT.values())
    bars: dict[str, Any] = {"x": "ratio", "y": "bit", "hue": "bit", "palette": colors}
    bars |= {"width": 0.62, "saturation": 1, "linewidth": 0, "errorbar": None}
    sns.barplot(_bits_frame(found), ax=ax, **bars)
    for place, kind in enumerate(_BITS_BOUGHT):
        measured, law = found.buys(kind, 4).estimate, derived[kind]
        ax.plot([law, law], [place - 0.38, place + 0.38], color=plotting.INK, linewidth=2)
        spot = max(measured, law) + 0.025
        label = ax.text(spot, place, f"{measured:.3f}", va="center", zorder=5)
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    ax.axvline(1, color=plotting.INK, linewidth=1, linestyle=(0, (5, 2)), zorder=1)
    ax.set(xlim=(0, 1.8), xlabel="error of the 4-bit key / error of the 3-bit key", ylabel="")
    return fig


def _bits_frame(found: KeyErrors) -> pd.DataFrame:
    """A row a kind of fourth bit and draw that has it: error over that of the 3-bit key."""
    rows = [
        (name, draw[kind, 4] / draw["plain", 3])
        for kind, (name, _) in _BITS_BOUGHT.items()
        for draw in found.geometric
        if (kind, 4) in draw
    ]
    return pd.DataFrame(rows, columns=["bit", "ratio"])


# Real keys -------------------------------------------------------------------------------------


def real_table(found: RealKeys, bits: Sequence[int]) -> Any:
    """Penalties of captured keys, with the closed form for isotropic ones in brackets."""
    rows = []
    for model, dim in found.dims.items():
        for kind, label in _KIND_NAMES.items():
            first = kind == "gaussian"
            name = f"{model}, d = {dim}" if first else ""
            angle = f"{found.alignment(model):.2f}" if first else ""
            cells = [_real_cell(found, model, kind, n) for n in bits]
            rows.append([name, label, *cells, angle])
    columns = [f"n = {n} (isotropic)" for n in bits]
    return table(["cache", "sketch", *columns, "d · mean ρ² (random: 1)"], rows)


def _real_cell(found: RealKeys, model: str, kind: str, bits: int) -> str:
    """A penalty, its interval and the closed form."""
    measured = found.penalties[model, kind, bits]
    sketch = {"gaussian": "gaussian", "hadamard mmse": "orthogonal mmse"}.get(kind, "orthogonal")
    derived = ch04.penalty_law(sketch, found.dims[model], bits)
    return f"{measured.estimate:.2f} ± {measured.half_width:.2f} ({derived:.2f})"
