"""Figures and tables of chapter 8b."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from numpy.typing import NDArray

from kvbook import plotting
from kvbook.experiments import ch09
from kvbook.experiments.ch09 import PAPERS, Damage, RealHeads, ValueFacts
from kvbook.models import MODELS
from kvbook.page import shown, table
from kvlib.quantize import codebooks
from kvlib.stats import Interval, geometric_mean_interval

FloatArray = NDArray[np.float64]

BUDGET_COLORS = {2: "#7A0177", 3: "#B45F06", 4: "#0A6853"}
BUDGET_MARKERS = {2: "s", 3: "o", 4: "^"}
STEPS = {
    "WHT": "norm, no mean removed",
    "C-WHT": "mean removed",
    "EDEN": "unbiased scale",
    "C-grid": "both, uniform grid",
    "C-EDEN, 2 rounds": "both, 2 rounds",
}
"""What a scheme has of C-EDEN's parts."""
KQV, QKQV = "KQV, orthogonal", "QKQV, orthogonal"


def schemes() -> Any:
    """KQV and C-EDEN as block diagrams."""
    fig, ax = plt.subplots(figsize=(7.2, 3.1))
    plotting.draw_schemes(ax, names=("KQV", "C-EDEN"))
    return fig


def cost_table() -> Any:
    """Stored bits a coordinate at four bits."""
    names, shapes = (
        ("EDEN", "KQV", "QKQV", "C-EDEN"),
        ((32, 512), (64, 256), (128, 256), (128, 4096)),
    )
    return table(
        ["d, tokens", "KV, EDEN", "KQV", "QKQV", "C-EDEN"],
        [
            [
                f"{dim}, {tokens}",
                *(f"{ch09.stored_bits(name, 4, dim, tokens):.4f}" for name in names),
            ]
            for dim, tokens in shapes
        ],
        "Bits a coordinate at n = 4, everything counted",
    )


def isotropic_gain_table(dim: int) -> Any:
    """The derived gain on isotropic keys, and the logit spread from which it is one."""

    def row(n: int) -> list[str]:
        error, beta2 = ch09.key_error_law(n, dim, unbiased=False), ch09.break_even_law(n, dim)
        D = 1 - error.gain
        gains = [ch09.isotropic_gain_law(n, dim, beta) for beta in (0, 1, 2)]
        pays = f"{np.sqrt(beta2):.2f}" if beta2 > 0 else "any"
        parts = [str(n), f"{D:.4f}", f"{error.variance * dim / D:.2f}"]
        return [*parts, *(f"{gain:.3f}" for gain in gains), pays]

    return table(
        ["n", "D", "v d / D", "gain, β = 0", "β = 1", "β = 2", "pays from β"],
        [row(n) for n in (1, 2, 3, 4, 5)],
        "Isotropic keys without a mean, d = 128: KL of plain codes over unbiased ones",
    )


def foretold_table(
    families: Mapping[tuple[str, int], float],
    heads: Mapping[int, FloatArray],
    quiet: Mapping[int, NDArray[np.bool_]],
) -> Any:
    """Foretold gains over KQV by family and budget, of all heads and of those of small noise."""
    names = list(dict.fromkeys(name for name, _ in families))
    rows = []
    for n, gains in heads.items():
        means = [geometric_mean_interval(x).estimate for x in (gains, gains[quiet[n]])]
        cells = [f"{families[name, n]:.3f}" for name in names] + [f"{mean:.2f}" for mean in means]
        rows.append([str(n), *cells, f"{quiet[n].sum()} of {gains.size}"])
    return table(
        ["n", *names, "real heads", "of small noise", "number of these"],
        rows,
        "Predicted KL of KQV over KL of C-EDEN (synthetic: d = 128, logits of unit spread)",
    )


def gain(
    gaussian: Damage,
    foretold: Mapping[int, FloatArray],
    heads: RealHeads,
    *,
    dim: int,
    head_foretold: FloatArray,
    head_measured: FloatArray,
    quiet: NDArray[np.bool_],
) -> Any:
    """Gain over KQV against the spread of the logits, and on real heads against its prediction.

    ``foretold``: KL foretold of KQV and of C-EDEN by budget, shape (2, draws, scales).
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.4), width_ratios=(1.05, 1))
    _draw_isotropic_gain(left, gaussian, foretold, dim)
    for name, model in MODELS.items():
        for chosen, fill in ((quiet, "full"), (~quiet, "none")):
            of = chosen & (heads.models == name)
            style = {"color": model.color, "fillstyle": fill, "markersize": 5.5}
            only = fill == "full" or not (quiet & (heads.models == name)).any()
            label = model.label if only else None
            right.plot(head_foretold[of], head_measured[of], model.marker, label=label, **style)
    ends = np.array([0.9, 3.6])
    plotting.theory_line(right, ends, ends, label="as predicted")
    right.axhline(1, color=plotting.MUTED, linewidth=1)
    right.set(xscale="log", yscale="log", xlabel="predicted", title="Real heads, n = 4")
    plotting.plain_ticks(right.set_xticks, (1, 1.5, 2, 3))
    plotting.plain_ticks(right.set_yticks, (1, 1.5, 2, 3, 5, 8))
    right.minorticks_off()
    right.legend(loc="upper left", borderpad=0, handletextpad=0.4)
    return fig


def _draw_isotropic_gain(
    ax: Any, gaussian: Damage, foretold: Mapping[int, FloatArray], dim: int
) -> None:
    """Measured gain on isotropic keys by spread, with the rows' own prediction and the law."""
    spreads, fine = np.array(gaussian.scales), np.geomspace(0.4, 5, 80)
    for i, (n, kl) in enumerate(foretold.items()):
        by_rows = np.exp(np.log(kl[0] / kl[1]).mean(axis=0))
        plotting.theory_line(ax, spreads, by_rows, label=None if i else "predicted, these rows")
        endless = [ch09.isotropic_gain_law(n, dim, beta) for beta in fine]
        label = None if i else "predicted, endless rows"
        ax.plot(fine, endless, ":", color=plotting.MUTED, linewidth=1.4, label=label)
        plotting.measured_points(
            ax,
            spreads * (1 + 0.05 * (i - 1)),
            [gaussian.gain(KQV, n, scale=beta) for beta in gaussian.scales],
            color=BUDGET_COLORS[n],
            marker=BUDGET_MARKERS[n],
            label=f"n = {n}",
        )
    ax.axhline(1, color=plotting.MUTED, linewidth=1)
    ax.set(xscale="log", xlabel="standard deviation of the logits", title="Isotropic keys, d = 128")
    ax.set(ylabel="KL of KQV over KL of C-EDEN", ylim=(0.82, 1.45))
    ax.set_xticks(gaussian.scales, ["½", "1", "2", "4"])
    ax.minorticks_off()
    ax.legend(loc="upper left", fontsize=10, borderpad=0)


def kl_table(families: Mapping[str, Damage], heads: Damage, models: NDArray[np.str_]) -> Any:
    """KL over that of C-EDEN by family, by model and over all heads."""
    others = (KQV, QKQV, "QKQV, Gaussian")
    of_models = {name: heads.where(models == name) for name in MODELS}
    rows = {**families, **of_models, "all heads": heads}
    draws = len(next(iter(families.values())).values)
    return table(
        ["keys", "n", "KQV", "QKQV, orthogonal", "QKQV, Gaussian"],
        [
            [name, str(n), *(shown(damage.gain(scheme, n)) for scheme in others)]
            for name, damage in rows.items()
            for n in damage.budgets
        ],
        "KL over that of C-EDEN: geometric mean [95% interval] over "
        f"{draws} draws (logits of unit spread) or over heads",
    )


def output_table(families: Mapping[str, Damage], heads: Damage) -> Any:
    """Output errors over that of C-EDEN by family and over all heads."""
    return table(
        ["data", "n", "KV", "KQV, Gauss.", "KQV, orth.", "QKQV, Gauss.", "QKQV, orth."],
        [
            [name, str(n), *(shown(damage.gain(scheme, n, "output")) for scheme in PAPERS)]
            for name, damage in {**families, "all heads": heads}.items()
            for n in damage.budgets
        ],
        "Squared output error over that of C-EDEN, as above",
    )


RATIO_LINES = {
    "QKQV, Gaussian": "QKQV",
    "QKQV, orthogonal": "QKQV",
    "KQV, orthogonal": "KQV",
    "KV": "KV",
    "EDEN": "EDEN",
}
"""Schemes shown against C-EDEN, and whose colour and marker each has."""


def ratios(heads: Damage) -> Any:
    """KL and output error on real heads over those of C-EDEN, by budget."""
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 4.6), sharey=True)
    _draw_ratios(axes[0], heads, "kl")
    _draw_ratios(axes[1], heads, "output")
    ours = plotting.SCHEME_COLORS["C-EDEN"]
    for ax, title in zip(axes, ("KL of attention", "Output error"), strict=True):
        ax.axhline(1, color=ours, linewidth=2, zorder=1)
        ax.set(yscale="log", title=title, ylim=(0.8, 17), xlabel="budget n (bits a coordinate)")
        plotting.plain_ticks(ax.set_yticks, (1, 1.5, 2, 3, 5, 8))
        ax.minorticks_off()
    axes[0].set_ylabel("times that of C-EDEN")
    axes[0].text(0.98, 0.93, "C-EDEN", color=ours, ha="right", va="top", transform=_across(axes[0]))
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].legend(handles[:3], labels[:3], loc="upper left", fontsize=10.5, borderpad=0)
    axes[1].legend(handles[3:], labels[3:], loc="upper left", fontsize=10.5, borderpad=0)
    return fig


def _across(ax: Any) -> Any:
    """Coordinates that are a share of the width in x and data in y."""
    return ax.get_yaxis_transform()


def _draw_ratios(ax: Any, heads: Damage, what: ch09.What) -> None:
    """Geometric means over heads with their intervals; an orthogonal QKQV has open markers."""
    frame = pd.concat(
        pd.DataFrame({"n": n, "scheme": scheme, "gain": heads.gains(scheme, n, what)})
        for scheme in RATIO_LINES
        for n in heads.budgets
    )
    frame["scheme"] = frame["scheme"].str.replace("KQV, orthogonal", "KQV, orthog.")
    sns.pointplot(
        frame,
        x="n",
        y="gain",
        hue="scheme",
        palette=[plotting.SCHEME_COLORS[look] for look in RATIO_LINES.values()],
        markers=[plotting.SCHEME_MARKERS[look] for look in RATIO_LINES.values()],
        linestyles=["--" if scheme == QKQV else "-" for scheme in RATIO_LINES],
        estimator=lambda gains: geometric_mean_interval(gains).estimate,
        errorbar=_geometric_ends,
        dodge=0.36,
        capsize=0.08,
        markersize=6.5,
        linewidth=1.2,
        err_kws={"linewidth": 1.2},
        ax=ax,
    )
    for line in (line for line in ax.lines if line.get_linestyle() == "--"):
        line.set(markerfacecolor="white", markeredgewidth=1.5)


def _geometric_ends(gains: Any) -> tuple[float, float]:
    """Both ends of the interval of a geometric mean, as an error bar of seaborn's."""
    interval = geometric_mean_interval(gains)
    return interval.low, interval.high


def second_order_table(gaussian: Damage, dim: int) -> Any:
    """Output error over that of C-EDEN on isotropic data: first order, second order, measured."""

    def row(n: int, beta: float) -> list[str]:
        first = f"{ch09.output_gain_law(n, dim):.2f}" if beta == 1 else ""
        second = f"{ch09.second_order_output_gain_law(n, dim, beta):.2f}"
        found = [shown(gaussian.gain(x, n, "output", scale=beta)) for x in ("KV", "WHT")]
        return [str(n), f"{beta:g}", first, second, *found]

    return table(
        ["n", "β", "errors added", "second order", "measured, KV", "measured, WHT"],
        [row(n, beta) for n in gaussian.budgets for beta in (0.5, 1)],
        "Output error over that of C-EDEN, isotropic keys and values",
    )


def ablation_table(heads: Damage, foretold: Mapping[str, FloatArray]) -> Any:
    """Schemes with some of C-EDEN's parts; ``foretold``: KL at n = 4, by scheme."""

    def foretold_text(scheme: str) -> str:
        if scheme not in foretold:
            return ""
        ratio = foretold[scheme] / foretold["C-EDEN"]
        return f"{geometric_mean_interval(ratio).estimate:.2f}"

    header = ["scheme", "what it has", *(f"KL, n = {n}" for n in heads.budgets)]
    return table(
        [*header, "foretold, n = 4", "output, n = 4"],
        [
            [
                scheme,
                what,
                *(shown(heads.gain(scheme, n)) for n in heads.budgets),
                foretold_text(scheme),
                shown(heads.gain(scheme, 4, "output")),
            ]
            for scheme, what in STEPS.items()
        ],
        f"Error over that of C-EDEN, {len(heads.values)} real heads; foretold without quantizing",
    )


def squared_error_table(measured: Mapping[int, tuple[Interval, Interval]], dim: int) -> Any:
    """Squared error with the norm and with the unbiased scale, measured and derived."""
    rows = []
    for n, (plain, unbiased) in measured.items():
        D = codebooks.lloyd_max(dim, n).distortion
        U = ch09.key_error_law(n, dim, unbiased=True).across
        numbers = (plain.estimate, D, unbiased.estimate, U, D / (1 - D))
        rows.append([str(n), *(f"{1e3 * x:.3f}" for x in numbers)])
    return table(
        ["n", "norm", "D", "unbiased", "U", "D / (1 − D)"],
        rows,
        "Relative squared error × 1000, measured and predicted, d = 128",
    )


def values_table(
    scale: Mapping[int, FloatArray],
    scale_foretold: Mapping[int, FloatArray],
    centring: Mapping[int, FloatArray],
    facts: ValueFacts,
) -> Any:
    """Output errors of values: norm over unbiased scale, mean kept over mean removed, foretold."""
    removed = geometric_mean_interval(1 / facts.attended).estimate
    return table(
        ["n", "norm / unbiased", "predicted", "not centred / centred", "predicted"],
        [
            [
                str(n),
                shown(geometric_mean_interval(scale[n])),
                f"{geometric_mean_interval(scale_foretold[n]).estimate:.2f}",
                shown(geometric_mean_interval(centring[n])),
                f"{removed:.2f}",
            ]
            for n in scale
        ],
        "Output error with exact attention rows and quantized values, ratios over "
        f"{facts.attended.size} heads",
    )


def values(
    scale: Mapping[int, FloatArray],
    centring: FloatArray,
    facts: ValueFacts,
    models: NDArray[np.str_],
) -> Any:
    """Scale and mean of values, a mark a head, against what foretells them."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.2))
    for name, model in MODELS.items():
        of = models == name
        style: dict[str, Any] = {"marker": model.marker, "color": model.color}
        style |= {"linestyle": "none", "markersize": 5.5}
        left.plot(facts.coherence[of], scale[2][of], fillstyle="none", **style)
        left.plot(facts.coherence[of], scale[4][of], label=model.label, **style)
        right.plot(1 / facts.attended[of], centring[of], **style)
    g = np.geomspace(0.95, 14, 60)
    plotting.theory_line(left, g, ch09.value_scale_law(2, 32, g), label="theory, d = 32")
    plotting.theory_line(left, g, ch09.value_scale_law(4, 32, g), label=None)
    left.annotate("n = 2\n(open)", (11.5, 1.48), ha="center", fontsize=10.5)
    left.annotate("n = 4 (filled)", (13.6, 1.25), ha="right", fontsize=10.5)
    left.axhline(1, color=plotting.MUTED, linewidth=1)
    left.set(xscale="log", xlabel="coherence g", title="Scale: norm over unbiased")
    plotting.plain_ticks(left.set_xticks, (1, 2, 4, 8))
    left.minorticks_off()
    left.legend(loc="upper left", fontsize=10, borderpad=0, handletextpad=0.4)
    left.set(ylabel="ratio of output errors", ylim=(0.78, 1.62))
    ends = np.array([0.38, 1.3])
    plotting.theory_line(right, ends, ends)
    right.axhline(1, color=plotting.MUTED, linewidth=1)
    right.set(xscale="log", yscale="log", title="Mean: kept over removed, n = 4")
    right.set(xlabel="attended energy, kept over removed")
    for set_ticks in (right.set_xticks, right.set_yticks):
        plotting.plain_ticks(set_ticks, (0.4, 0.6, 0.8, 1, 1.25))
    right.minorticks_off()
    return fig


def prefix_table(means: Mapping[str, FloatArray], full: FloatArray, kqv: FloatArray) -> Any:
    """KL and output error with other means than the whole cache's; arrays (heads, 2)."""

    def ratio(over: FloatArray, under: FloatArray) -> list[str]:
        return [shown(geometric_mean_interval(over[:, i] / under[:, i])) for i in (0, 1)]

    return table(
        [
            "mean of",
            "KL / full mean",
            "output / full mean",
            "KQV's KL / this",
            "KQV's output / this",
        ],
        [[label, *ratio(found, full), *ratio(kqv, found)] for label, found in means.items()],
        f"{len(full)} real heads, n = 3, orthogonal sketch for KQV",
    )


def spikes_table(spiky: Mapping[str, Damage]) -> Any:
    """Errors on spiky data over those of C-EDEN with one round."""
    faced = (KQV, QKQV, "C-EDEN, 2 rounds")
    heading = [f"{scheme.replace('orthogonal', 'orth.')}: KL" for scheme in faced]
    draws = len(next(iter(spiky.values())).values)
    return table(
        ["data", "n", *heading, "2 rounds: output"],
        [
            [
                name,
                str(n),
                *(shown(damage.gain(scheme, n)) for scheme in faced),
                shown(damage.gain(faced[-1], n, "output")),
            ]
            for name, damage in spiky.items()
            for n in damage.budgets
        ],
        "Error over that of C-EDEN with one round, d = 64: geometric mean [95% interval] of "
        f"{draws}",
    )


def small_table(small: Mapping[tuple[int, int], Damage], one_bit: Damage) -> Any:
    """One bit, and small dimensions, against C-EDEN."""

    def row(label: str, n: int, damage: Damage) -> list[str]:
        whats: tuple[ch09.What, ...] = ("kl", "output")
        gains = [damage.gain(scheme, n, what) for what in whats for scheme in (KQV, QKQV)]
        return [label, str(n), *(shown(i) for i in gains)]

    gaussian = [(f"Gaussian, d = {dim}", n, damage) for (dim, n), damage in small.items()]
    rows = [
        *(row(*case) for case in gaussian if case[1] == 1),
        row("real heads", 1, one_bit),
        *(row(*case) for case in gaussian if case[1] == 2),
        row("Gaussian, d = 2", 3, small[2, 3]),
    ]
    heading = [
        f"{x.replace('orthogonal', 'orth.')}: {w}" for w in ("KL", "output") for x in (KQV, QKQV)
    ]
    return table(["data", "n", *heading], rows, "Error over that of C-EDEN")
