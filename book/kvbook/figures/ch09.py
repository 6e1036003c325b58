"""Figures and tables of chapter 9."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from kvbook import plotting
from kvbook.experiments import ch09
from kvbook.experiments.ch09 import KQV, Damage, HeadDamage, RealHeads, ValueFacts
from kvbook.experiments.varying import by_model, over_rotations
from kvbook.models import MODELS
from kvbook.page import shown, table
from kvlib import laws
from kvlib.quantize import codebooks, named
from kvlib.stats import Interval, geometric_mean_interval

FloatArray = NDArray[np.float64]

BUDGET_COLORS = {2: "#7A0177", 3: "#B45F06", 4: "#0A6853"}
BUDGET_MARKERS = {2: "s", 3: "o", 4: "^"}
STEPS = {
    "WHT": "norm",
    "matched": "matched scale",
    "EDEN": "unbiased scale",
    "C-WHT": "mean removed, norm",
    "C-matched": "mean removed, matched scale",
    "C-EDEN": "mean removed, unbiased scale",
    "mix": "the same for keys; values with their mean",
    "mix, matched keys": "advised: matched for keys; values with their mean",
    "C-grid": "C-EDEN on a uniform grid",
}
"""What each scheme of the ablation has."""
QKQV = "QKQV, orthogonal"


def schemes() -> Any:
    """KQV, C-EDEN and what the page advises as block diagrams."""
    advised = {"KQV": named("KQV", 4), "C-EDEN": named("C-EDEN", 4), "advised": ch09.mixed(4)}
    fig, ax = plt.subplots(figsize=(7.2, 4.5))
    plotting.draw_schemes(ax, names=advised)
    return fig


def cost_table() -> Any:
    """Stored bits a coordinate at four bits."""
    schemes = [*(named(name, 4) for name in ("EDEN", "KQV", "QKQV", "C-EDEN")), ch09.mixed(4)]
    rows = []
    for dim, tokens in ((32, 512), (64, 256), (128, 256), (128, 4096)):
        found = [ch09.stored_bits(scheme, dim, tokens) for scheme in schemes]
        together, alone = [f"{x[0]:.3f}" for x in found], [f"{found[i][1]:.3f}" for i in (0, -1)]
        rows.append([f"{dim}, {tokens}", *together, *alone])
    return table(
        ["d, N", "KV, EDEN, matched", "KQV", "QKQV", "C-EDEN", "advised", "keys", "keys, advised"],
        rows,
        "Bits a coordinate at n = 4, everything counted: keys and values together, then keys alone "
        "without and with their mean",
    )


def isotropic_gain_table(dim: int) -> Any:
    """The derived KL of each scale on isotropic keys, and where one passes another."""

    def row(n: int) -> list[str]:
        norm = ch09.key_error_law(n, dim, "norm")
        D = 1 - norm.gain
        over = [
            f"{ch09.isotropic_gain_law(n, dim, 1, over=scale, under='norm'):.3f}"
            for scale in ("matched", "unbiased")
        ]
        pairs = (("norm", "matched"), ("norm", "unbiased"), ("matched", "unbiased"))
        borders = [f"{ch09.scale_border_law(n, dim, *pair):.2f}" for pair in pairs]
        return [str(n), f"{D:.4f}", f"{norm.variance * dim / D:.2f}", *over, *borders]

    heading = ["n", "D", "v d / D", "matched", "unbiased"]
    return table(
        [*heading, "κ: norm / matched", "norm / unbiased", "matched / unbiased"],
        [row(n) for n in (1, 2, 3, 4, 5)],
        "Derived, d = 128. Left: KL over that of the norm on isotropic keys (κ = 1) with logits of "
        "standard deviation one. Right: the κ above which the first of two scales has the lower "
        "KL, for β towards zero",
    )


def scales_table(heads: HeadDamage, gaussian: Damage, dim: int) -> Any:
    """The three scales of keys, measured: on isotropic draws and on captured heads."""

    def row(n: int) -> list[str]:
        isotropic = [
            shown(geometric_mean_interval(gaussian.gains("matched", n, over="WHT"))),
            f"{ch09.isotropic_gain_law(n, dim, 1, over='matched', under='norm'):.2f}",
        ]
        found = [shown(heads.gain(x, n, over="WHT")) for x in ("matched", "EDEN")]
        regret = [
            f"{np.exp(np.log(x).mean()):.2f}, {x.max():.2f}"
            for x in ch09.scale_regrets(heads, n).values()
        ]
        return [str(n), *isotropic, *found, *regret]

    return table(
        [
            "n",
            "isotropic: matched",
            "derived",
            "heads: matched",
            "heads: unbiased",
            *(f"{scale}: mean, worst" for scale in ch09.SCALES),
        ],
        [row(n) for n in heads.budgets],
        "Left: KL over that of the norm, no mean removed; intervals over draws, and over rotations "
        "for these heads. Right: KL over that of the best of the three scales, head by head",
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
        ["n", *names, "captured heads", "of small noise", "number of these"],
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
    """Gain over KQV against the spread of the logits, and on captured heads against its prediction.

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
    right.set(xscale="log", yscale="log", xlabel="predicted", title="Captured heads, n = 4")
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


def kl_table(families: Mapping[str, Damage], heads: HeadDamage) -> Any:
    """KL over that of C-EDEN by family, over all heads, and by model."""
    others = (KQV, QKQV, "QKQV, Gaussian")
    of_models = {label: heads.where(heads.models == name) for name, label in LABELS.items()}
    draws = len(next(iter(families.values())).values)

    def row(name: str, n: int, damage: Damage | HeadDamage) -> list[str]:
        return [name, str(n), *(shown(damage.gain(scheme, n)) for scheme in others)]

    def over_models(n: int) -> list[str]:
        found = [heads.gain_of_models(scheme, n) for scheme in others]
        return ["mean of the three models", str(n), *map(shown, found)]

    rows = [row(name, n, damage) for name, damage in families.items() for n in damage.budgets]
    rows += [row("32 heads", n, heads) for n in heads.budgets]
    rows += [over_models(n) for n in heads.budgets]
    rows += [row(label, 4, damage) for label, damage in of_models.items()]
    return table(
        ["keys", "n", "KQV", "QKQV, orthogonal", "QKQV, Gaussian"],
        rows,
        f"KL over that of C-EDEN: geometric mean [95% interval]. Families: over {draws} draws, "
        "logits of unit spread. Heads: over rotations, for these heads. Three models: over "
        "models, 2 degrees of freedom",
    )


LABELS = {name: model.label for name, model in MODELS.items()}
OUTPUT = {
    "KV": "KV",
    KQV: "KQV, orth.",
    "KQV, Gaussian": "KQV, Gauss.",
    QKQV: "QKQV, orth.",
    "mix": "advised",
    "mix, matched keys": "advised, matched",
}
"""Columns of the table of output errors."""


def output_table(families: Mapping[str, Damage], heads: HeadDamage) -> Any:
    """Output errors over that of C-EDEN by family and over all heads."""

    def cell(damage: Damage | HeadDamage, scheme: str, n: int) -> str:
        return shown(damage.gain(scheme, n, "output")) if scheme in damage.schemes else ""

    every: dict[str, Damage | HeadDamage] = {**families, "32 heads": heads}
    return table(
        ["data", "n", *OUTPUT.values()],
        [
            [name, str(n), *(cell(damage, scheme, n) for scheme in OUTPUT)]
            for name, damage in every.items()
            for n in damage.budgets
        ],
        "Squared output error over that of C-EDEN, as above. Advised: C-EDEN's keys (or their "
        "matched scale) and EDEN's values",
    )


RATIO_LINES = {
    QKQV: ("QKQV, orthogonal", plotting.SCHEME_COLORS["QKQV"], "^"),
    KQV: ("KQV, orthogonal", plotting.SCHEME_COLORS["KQV"], "o"),
    "KV": ("KV", plotting.SCHEME_COLORS["KV"], "s"),
    "EDEN": ("EDEN (no mean)", plotting.SCHEME_COLORS["EDEN"], "P"),
    "matched": ("matched scale (no mean)", "#8C6D1F", "X"),
    "mix, matched keys": ("advised", "#C2185B", "D"),
}
"""Schemes shown against C-EDEN: label, colour, marker."""


def ratios(heads: HeadDamage) -> Any:
    """KL and output error on captured heads over those of C-EDEN, by budget.

    Markers: means of all heads; bars: from the lowest to the highest mean of a model.
    """
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 4.8), sharey=True)
    _draw_ratios(axes[0], heads, "kl")
    _draw_ratios(axes[1], heads, "output")
    ours = plotting.SCHEME_COLORS["C-EDEN"]
    for ax, title in zip(axes, ("KL of attention", "Output error"), strict=True):
        ax.axhline(1, color=ours, linewidth=2, zorder=1)
        ax.set(yscale="log", title=title, ylim=(0.82, 4.2), xlabel="budget n (bits a coordinate)")
        ax.set(xticks=heads.budgets, xlim=(1.55, 4.55))
        plotting.plain_ticks(ax.set_yticks, (1, 1.5, 2, 3))
        ax.minorticks_off()
    axes[0].set_ylabel("times that of C-EDEN")
    axes[0].text(1.6, 0.93, "C-EDEN", color=ours, va="top")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def _draw_ratios(ax: Any, heads: HeadDamage, what: ch09.What) -> None:
    """Mean of all heads of each scheme, and the range of the models' means."""
    for i, (scheme, (label, color, marker)) in enumerate(RATIO_LINES.items()):
        found = []
        for n in heads.budgets:
            of_models = by_model(heads.gains(scheme, n, what), heads.models).values()
            mean = heads.gain(scheme, n, what).estimate
            found.append(Interval(mean, min(of_models), max(of_models), len(of_models)))
        places = np.array(heads.budgets) + 0.12 * (i - 2.5)
        plotting.measured_points(ax, places, found, color=color, marker=marker, label=label)


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


def ablation_table(heads: HeadDamage, foretold: Mapping[str, FloatArray]) -> Any:
    """Schemes with some of the parts; ``foretold``: KL at n = 4, by scheme."""

    def foretold_text(scheme: str) -> str:
        if scheme not in foretold:
            return ""
        ratio = foretold[scheme] / foretold["C-EDEN"]
        return f"{geometric_mean_interval(ratio).estimate:.2f}"

    def cell(scheme: str, n: int, what: ch09.What) -> str:
        return shown(heads.gain(scheme, n, what)) if scheme != "C-EDEN" else "1"

    header = ["what it has", *(f"KL, n = {n}" for n in heads.budgets), "foretold, n = 4"]
    return table(
        [*header, "output, n = 4"],
        [
            [
                what,
                *(cell(scheme, n, "kl") for n in heads.budgets),
                foretold_text(scheme),
                cell(scheme, 4, "output"),
            ]
            for scheme, what in STEPS.items()
        ],
        "Error over that of C-EDEN, 32 captured heads, intervals over rotations for these heads; "
        "foretold without quantizing",
    )


def growing_table(heads: HeadDamage, prefixes: Mapping[int, FloatArray]) -> Any:
    """KQV's errors over those of schemes that a growing cache can have, n = 3."""
    none = {"EDEN": "none: unbiased scale alone", "matched": "none: matched scale alone"}
    whats: tuple[ch09.What, ...] = ("kl", "output")

    def row(label: str, errors: Sequence[FloatArray]) -> list[str]:
        found = [
            over_rotations(heads.each(KQV, 3, what), error)
            for what, error in zip(whats, errors, strict=True)
        ]
        gains = heads.of(KQV, 3) / errors[0].mean(axis=-1)
        models = by_model(gains, heads.models).values()
        return [label, shown(found[0]), _slashed(models), shown(found[1])]

    full = [heads.each("C-EDEN", 3, what) for what in whats]
    rows = [row("all tokens (finished window)", full)]
    rows += [row(label, [heads.each(x, 3, what) for what in whats]) for x, label in none.items()]
    rows += [row(f"first {prefix} tokens", list(found)) for prefix, found in prefixes.items()]
    return table(
        ["mean of", "KQV's KL over this", " / ".join(LABELS.values()), "KQV's output over this"],
        rows,
        "n = 3, 32 captured heads, orthogonal sketch for KQV; intervals over rotations for these "
        "heads; prefix means with the unbiased scale, subtracted from keys and values",
    )


def channel_table(heads: HeadDamage, bits: Mapping[tuple[str, int], float]) -> Any:
    """Per-channel keys against rotated ones: bits and KL; ``bits`` of keys by (scheme, n)."""
    rows = []
    for n in heads.budgets:
        for scheme, label in CHANNEL_ROWS.items():
            found = heads.gain(scheme, n)
            extra = bits[scheme, n] - bits["C-EDEN", n]
            models = by_model(heads.gains(scheme, n), heads.models).values()
            text = ["1", ""] if scheme == "C-EDEN" else [shown(found), _slashed(models)]
            priced = f"{found.estimate * 4**extra:.2f}"
            rows.append([str(n), label, f"{bits[scheme, n]:.2f}", *text, priced])
    return table(
        ["n", "keys", "bits a coordinate", "KL", " / ".join(LABELS.values()), "at equal bytes"],
        rows,
        "KL over that of C-EDEN, 32 captured heads; intervals over rotations for these heads; at "
        "equal bytes: a factor of four for each bit",
    )


CHANNEL_ROWS = {
    "C-EDEN": "C-EDEN",
    "matched": "matched scale, no mean",
    "KIVI, 64": "per channel, groups of 64 tokens",
    "KIVI, 128": "per channel, groups of 128 tokens",
}


def _slashed(numbers: Iterable[float]) -> str:
    return " / ".join(f"{x:.2f}" for x in numbers)


def squared_error_table(measured: Mapping[int, Sequence[Interval]], dim: int) -> Any:
    """Squared error with the norm, the matched and the unbiased scale, measured and derived."""
    rows = []
    for n, (plain, matched, unbiased) in measured.items():
        D = codebooks.lloyd_max(dim, n).distortion
        U = ch09.key_error_law(n, dim, "unbiased").across
        derived = (D, laws.matched_distortion(D), U)
        pairs = zip((plain, matched, unbiased), derived, strict=True)
        rows.append([str(n), *(f"{1e3 * x:.2f}" for i, law in pairs for x in (i.estimate, law))])
    return table(
        ["n", "norm", "D", "matched", "2 − 2√(1 − D)", "unbiased", "U"],
        rows,
        "Relative squared error × 1000, measured and derived, d = 128",
    )


def values_table(
    errors: Mapping[tuple[str, int], FloatArray],
    scale_foretold: Mapping[int, FloatArray],
    facts: ValueFacts,
) -> Any:
    """Output errors of values: one scale over another, mean kept over mean removed, foretold."""
    removed = geometric_mean_interval(1 / facts.attended).estimate
    budgets = list(dict.fromkeys(n for _, n in errors))
    return table(
        ["n", "norm", "matched", "norm / unbiased, no mean", "foretold", "mean kept", "foretold"],
        [
            [
                str(n),
                shown(over_rotations(errors["WHT", n], errors["EDEN", n])),
                shown(over_rotations(errors["matched", n], errors["EDEN", n])),
                shown(over_rotations(errors["C-WHT", n], errors["C-EDEN", n])),
                f"{geometric_mean_interval(scale_foretold[n]).estimate:.2f}",
                shown(over_rotations(errors["EDEN", n], errors["C-EDEN", n])),
                f"{removed:.2f}",
            ]
            for n in budgets
        ],
        "Output error of quantized values with exact attention rows, "
        f"{facts.attended.size} heads: first two, over the unbiased scale, all with their mean; "
        "then the norm over the unbiased scale, means removed; last, mean kept over removed",
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
    left.set(xscale="log", xlabel="coherence χ", title="Scale: norm over unbiased")
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
