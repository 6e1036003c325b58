"""Figures and tables of the appendix on speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from kvbook import plotting
from kvbook.bench.aims import AIMS, PEERS, Aim, Reading
from kvbook.experiments import a1
from kvbook.experiments.a1 import BITS, Timings, seconds, times
from kvbook.page import table
from kvlib import bench
from kvlib.bench import Ratio, Row
from kvlib.quantize import codebooks

DIM = 128
WORKS = {
    "encode": "encode",
    "decode": "decode",
    "encode_sketch": "encode with a sketched sign",
}
"""What was compared, and how its panel is called."""
STYLE = {
    "kvlib": ("#0072B2", "o"),
    bench.GIVEN_MEMORY: ("#3F8FC4", "o"),
    "kvlib numpy": ("#6BAED6", "o"),
    "dense matrix": ("#8C8C8C", "s"),
    "turbovec": ("#D55E00", "^"),
    "faiss-cpu": ("#009E73", "D"),
    "faiss-cpu dense": ("#5DB89B", "D"),
    "turboquant-space": ("#AA4499", "v"),
    "turboquant-torch": ("#B8860B", "P"),
    "kvlib gaussian": ("#0072B2", "s"),
    "kvlib hadamard": ("#0072B2", "^"),
    "kvlib, two rounds": ("#6BAED6", "o"),
    "kvlib, no rotation": ("#777777", "x"),
}
"""Colour and marker of an implementation."""
INPUT_LABELS = {
    "kvlib": "kvlib, one round",
    "kvlib, two rounds": "kvlib, two rounds",
    "kvlib, no rotation": "kvlib, no rotation",
    "dense matrix": "dense matrix",
    "turbovec": "turbovec",
    "faiss-cpu": "faiss-cpu",
    "turboquant-torch": "turboquant-torch",
}
INPUT_COLUMNS = (
    "kvlib",
    "kvlib, two rounds",
    "kvlib, Haar",
    "kvlib, no rotation",
    "turbovec",
    "faiss-cpu",
    "faiss-cpu dense",
    "turboquant-torch",
    "dense matrix",
)
TEST_STYLE = {
    "kvlib": ("#0072B2", "o"),
    "scipy": ("#8C8C8C", "s"),
    "scipy indexed": ("#5B5B5B", "s"),
    "dcor": ("#D55E00", "^"),
    "hyppo": ("#009E73", "D"),
}
"""Colour and marker of a permutation test."""
KL_STYLE = {
    "kvlib, float32 keys": ("#0072B2", "o"),
    "kvlib, float64 keys": ("#6BAED6", "s"),
    "log_softmax, float32": ("#D55E00", "^"),
    "log_softmax, float64": ("#8C8C8C", "D"),
}
"""Colour and marker of a way to compute a KL divergence."""
IDEAL: dict[str, Any] = {"color": plotting.INK, "linestyle": (0, (5, 2)), "linewidth": 1.2}


def three_digits(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def machine_table(timings: Timings) -> Any:
    """Where the numbers come from."""
    machine = timings.machine
    about = {
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "memory": f"{machine['memory_gib']:.0f} GiB",
        "system": f"{machine['system']}, Python {machine['python']}",
        "measured": machine["date"],
        "packages": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "left out": ", ".join(machine["missing"]) or "none",
    }
    return table(["", ""], list(about.items()), "Where the numbers of this appendix come from")


# The aims --------------------------------------------------------------------------------------


def aims_table(timings: Timings) -> Any:
    """Every aim with what was measured, and whether it was met."""
    return table(
        ["ratio of times", "aim", "measured, with the spread of single runs", ""],
        [
            _aim_row(aim, a1.largest_of_each_budget(aim, timings.rows))
            for aim in AIMS
            if aim.readings(timings.rows)
        ],
        "What was aimed at, and what came out",
    )


def _aim_row(aim: Aim, readings: Sequence[Reading]) -> list[str]:
    limit = f"≥ {aim.least:g}" if aim.least is not None else f"≤ {aim.most:g}"
    unit = "" if aim.unit == "times" else f" {aim.unit}"
    against = dict.fromkeys(r.against for r in readings if r.against in PEERS)
    who = f" ({', '.join(against)})" if against else ""
    values = "<br>".join((f"n = {r.bits}: " if r.bits else "") + _spread(r.value) for r in readings)
    return [aim.text + who, limit + unit, values, _said([aim.met(r) for r in readings])]


def _spread(value: Ratio, digits: int = 3) -> str:
    """A ratio with the spread of single runs, where there is one."""
    text = f"{value.median:.{digits}g}"
    if value.low == value.high:
        return text
    return f"{text} [{value.low:.{digits}g}, {value.high:.{digits}g}]"


def _said(met: Sequence[bool]) -> str:
    """Whether an aim was met; bold where it was not always."""
    if all(met):
        return "met"
    return f"<b>missed {met.count(False)} of {len(met)}</b>" if any(met) else "<b>missed</b>"


# Speed -----------------------------------------------------------------------------------------


def rates(timings: Timings) -> Any:
    """Vectors a second of every implementation, a panel a work."""
    fig, axes = plt.subplots(3, 1, figsize=(7.2, 7.6), sharex=True, height_ratios=(7, 6, 5))
    for ax, (work, title) in zip(axes, WORKS.items(), strict=True):
        _draw_rates(ax, timings, work)
        ax.set_title(title)
    axes[-1].set_xlabel("million vectors a second")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig


def _draw_rates(ax: Any, timings: Timings, work: str) -> None:
    """A line of dots an implementation, the fastest first, and the rate of a memory copy."""
    order = timings.compared(work)
    for y, impl in enumerate(reversed(order)):
        color, _ = STYLE[impl]
        for n, marker, shift in zip(BITS, "osD", (0.2, 0, -0.2), strict=True):
            low, mid, high = _million_a_second(timings.timed(work, impl, n))
            ax.plot([low, high], [y + shift] * 2, color=color, lw=1.4)
            ax.plot(mid, y + shift, marker, color=color, ms=5.5, mec="white", mew=0.5)
    for n, marker in zip(BITS, "osD", strict=True):
        ax.plot([], [], marker, color=plotting.MUTED, ms=5.5, label=f"n = {n}")
    copies = [_million_a_second(timings.timed("copy", "memory", n))[1] for n in BITS]
    ax.axvline(np.median(copies), label="memory copy", **IDEAL)
    ax.set(xscale="log", yticks=range(len(order)), yticklabels=order[::-1])
    ax.grid(axis="y", visible=False)


def _million_a_second(row: Row) -> tuple[float, float, float]:
    """Vectors a second: one run in ten is slower, median, one run in ten is faster."""
    if row.seconds_low is None or row.seconds_high is None:
        raise ValueError(f"{row.work} by {row.impl} was not timed")
    low, mid, high = (row.rows / s / 1e6 for s in (row.seconds_high, seconds(row), row.seconds_low))
    return low, mid, high


def comparison_table(timings: Timings) -> Any:
    """Times in units of kvlib's, errors and bytes of every implementation."""
    rows = timings.timed("encode", "kvlib", 4).rows
    return table(
        [
            "work",
            "whose",
            *(f"time, n={n}" for n in BITS),
            "ms, n=4",
            *(f"error, n={n}" for n in BITS),
            "bytes a vector",
        ],
        [_comparison_row(timings, work, impl) for work in WORKS for impl in timings.compared(work)],
        "Time in units of kvlib's (with a sketch: of kvlib's Hadamard sketch), and relative "
        f"squared error of what was stored; {rows:,} vectors of {DIM} coordinates",
    )


def _comparison_row(timings: Timings, work: str, impl: str) -> list[str]:
    ours = "kvlib hadamard" if work == "encode_sketch" else "kvlib"
    found = [timings.timed(work, impl, n) for n in BITS]
    return [
        work.replace("_", ", "),
        impl,
        *(
            three_digits(times(row, timings.timed(work, ours, n)))
            for row, n in zip(found, BITS, strict=True)
        ),
        three_digits(1e3 * seconds(found[-1])),
        *(f"{row.rel_mse:.3g}" for row in found),
        " / ".join(f"{row.extra['bytes_per_vector']:.0f}" for row in found),
    ]


# Inputs and sizes ------------------------------------------------------------------------------


def inputs(timings: Timings) -> Any:
    """Error over D(n) on every kind of input, a panel a budget."""
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 5.0), sharey=True)
    for ax, n in zip(axes, (2, 4), strict=True):
        _draw_inputs(ax, timings, n)
        ax.axvline(1, **IDEAL)
        ax.set(xscale="log", title=f"n = {n}", xlabel="relative error / D(n)", ylabel="")
        ticks = (0.5, 1, 2, 5, 10) if n == 2 else (0.5, 1, 2, 5, 10, 20, 50)
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.grid(axis="y")
    handles, labels = axes[0].get_legend_handles_labels()
    options = {"ncols": 3, "handletextpad": 0.3, "columnspacing": 1.2}
    fig.legend(handles, labels, loc="outside lower center", **options)
    for ax in axes:
        ax.get_legend().remove()
    return fig


def _draw_inputs(ax: Any, timings: Timings, bits: int) -> None:
    """A marker an implementation and kind of input, those of one kind below each other."""
    best = codebooks.lloyd_max(DIM, bits).distortion
    frame = pd.DataFrame(
        [
            (family, label, timings.input_error(impl, bits, family) / best)
            for family in timings.families
            for impl, label in INPUT_LABELS.items()
        ],
        columns=["input", "whose", "error"],
    )
    sns.pointplot(
        frame,
        x="error",
        y="input",
        hue="whose",
        palette=[STYLE[impl][0] for impl in INPUT_LABELS],
        markers=[STYLE[impl][1] for impl in INPUT_LABELS],
        linestyle="none",
        errorbar=None,
        dodge=0.6,
        markersize=5.5,
        markeredgewidth=1,
        ax=ax,
    )


def inputs_table(timings: Timings) -> Any:
    """Relative squared error of every implementation on every kind of input."""
    return table(
        ["input", "n", *INPUT_COLUMNS],
        [
            [
                family,
                str(n),
                *(f"{timings.input_error(impl, n, family):.3g}" for impl in INPUT_COLUMNS),
            ]
            for family in timings.families
            for n in (2, 4)
        ],
        "Relative squared error",
    )


def sizes(timings: Timings) -> Any:
    """Time a coordinate against the number of vectors; time of the permutation tests."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.0))
    _draw_sizes(left, timings)
    for impl, (color, marker) in TEST_STYLE.items():
        found = timings.find(work="permutation_test", impl=impl)
        full = not any(row.extra["extrapolated"] for row in found)
        style = {"color": color, "marker": marker, "mfc": color if full else "white"}
        x, y = [row.rows for row in found], [seconds(row) for row in found]
        right.plot(x, y, lw=1.4, ms=6, label=impl, **style)
    right.set(xscale="log", yscale="log", xlabel="points in all", ylabel="seconds")
    right.set_title("energy test, 999 permutations")
    right.set_xticks([500, 1000, 2000, 4000], ["500", "1000", "2000", "4000"])
    right.minorticks_off()
    right.legend(fontsize=9)
    return fig


def _draw_sizes(ax: Any, timings: Timings) -> None:
    """Nanoseconds a coordinate of encoding, a line a dimension."""
    dims = sorted({r.dim for r in timings.rows if r.extra.get("run", "").startswith("sizes")})
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(dims)))
    for dim, shade in zip(dims, shades, strict=True):
        found = timings.find(work="size_encode", run=f"sizes, d = {dim}")
        low, mid, high = np.array(
            [[1e3 / (rate * dim) for rate in reversed(_million_a_second(row))] for row in found]
        ).T
        line = {"marker": "o", "ms": 5, "lw": 1.4, "capsize": 2, "color": shade}
        x = [row.rows for row in found]
        ax.errorbar(x, mid, [mid - low, high - mid], label=f"d = {dim}", **line)
    ax.set(xscale="log", xlabel="vectors", ylabel="ns a coordinate", title="encode, n = 4")
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])
    ax.legend(ncols=2, fontsize=9, loc="upper right", columnspacing=1)


# Small divergences -----------------------------------------------------------------------------


def kl_accuracy(timings: Timings) -> Any:
    """Relative error of a KL divergence against its size, median and worst."""
    fig, ax = plt.subplots(figsize=(7.2, 3.9))
    for impl, (color, marker) in KL_STYLE.items():
        found = timings.find(work="kl_accuracy", impl=impl)
        found = sorted(found, key=lambda row: float(row.extra["kl"]))
        x = [row.extra["kl"] for row in found]
        mid, worst = (
            np.maximum([row.extra[name] for row in found], 3e-17)
            for name in ("error_median", "error_worst")
        )
        ax.plot(x, mid, marker=marker, color=color, label=impl)
        ax.plot(x, worst, color=color, lw=1, ls=":")
    ax.axhline(1, **IDEAL)
    ax.set(xscale="log", yscale="log", xlabel="KL divergence (nats)", ylabel="relative error")
    ax.legend(loc="upper right", fontsize=9.5)
    return fig


def kl_table(timings: Timings) -> Any:
    """Error at a divergence near 1e-8, and time on one thread."""
    base = timings.one(work="kl", impl="log_softmax, float64")
    size = timings.one(work="kl", impl="kvlib, float32 keys", threads=1)
    rows = []
    for impl in KL_STYLE:
        small = a1.at_kl(timings, impl, 1e-8).extra
        speed = timings.one(work="kl", impl=impl, threads=1)
        errors = [small["error_median"], small["error_worst"]]
        texts = [f"{error:.1e}" if error else "0" for error in errors]
        numbers = [f"{1e3 * seconds(speed):.3g}", f"{times(speed, base):.2f}"]
        rows.append([impl, f"{small['kl']:.1e}", *texts, *numbers])
    return table(
        ["method", "KL", "median relative error", "worst", "ms", "time / log_softmax, float64"],
        rows,
        f"Error at a divergence near 1e-8, and the time of {size.extra['queries']} queries on "
        f"{size.rows:,} keys of {size.dim} coordinates, one thread",
    )


# The permutation test, and sweeps --------------------------------------------------------------


def tests_table(timings: Timings) -> Any:
    """Time of the permutation tests, and how often they reject a true null hypothesis."""
    rows = []
    for impl in TEST_STYLE:
        for row in timings.find(work="permutation_test", impl=impl, rows=4000):
            rejected = [_rejected(timings, impl, law) for law in ("continuous", "signs")]
            rows.append([impl, *_test_time(timings, row), *rejected])
    level = timings.one(work="null", impl="kvlib", law="signs").extra
    return table(
        ["whose", "time / kvlib", "seconds", "", "rejects at 5%: normal numbers", "signs"],
        rows,
        "2000 + 2000 points in six dimensions, 999 permutations; and how often a true null "
        f"hypothesis is rejected ({level['trials']} trials of 20 + 20 numbers, "
        f"{level['permutations']} permutations; 95% interval; bold where it excludes 5% from "
        "above)",
    )


def _test_time(timings: Timings, row: Row) -> list[str]:
    """Time over kvlib's, seconds, and how they were measured."""
    base, made = (
        timings.one(work="permutation_test", impl="kvlib", rows=4000),
        row.extra["measured"],
    )
    how = f"from {made[0]} and {made[1]} permutations" if row.extra["extrapolated"] else "measured"
    return [three_digits(times(row, base)), three_digits(seconds(row)), how]


def _rejected(timings: Timings, impl: str, law: str) -> str:
    """Share of true null hypotheses rejected; bold where its interval lies above the level."""
    row = timings.one(work="null", impl=impl, law=law).extra
    text = f"{row['share']:.1%} [{row['share_low']:.1%}, {row['share_high']:.1%}]"
    return text if row["share_low"] <= 0.05 else f"<b>{text}</b>"


def sweeps_table(timings: Timings) -> Any:
    """One sweep by one process, by two, on a cluster, and killed and resumed."""
    sweeps = timings.find(work="sweep")
    first = timings.one(work="sweep", impl="one worker")
    rows = []
    for row in sweeps:
        found, kept = row.extra, ""
        if "pieces" in found:
            kept = (
                f"{found['pieces_kept']} of {found['pieces']} pieces were kept, "
                f"{found['draws_after']:,} draws computed after the kill"
            )
        speed = [f"{seconds(row):.1f}", f"{times(first, row):.2f}"]
        rows.append([row.impl, *speed, found["sha256"], kept])
    return table(["how", "seconds", "times as fast", "SHA-256 of the table begins", ""], rows)
