"""Tables of chapter 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvbook.experiments import ch07
from kvbook.page import shown, table
from kvlib.checks import FloatArray

FEW_BITS = range(2, 7)
SKETCH_NAMES = {"gaussian": "Gaussian sketch", "hadamard": "Hadamard sketch"}
KIND_NAMES = {
    "unbiased": "unbiased scale",
    "hadamard": "QJL, orthogonal",
    "gaussian": "QJL, Gaussian",
}


def first_order(kappas: Mapping[str, float], budgets: Sequence[int]) -> Any:
    """First-order KL over that of WHT with the plain norm, by kappa (as shown) and budget."""
    return table(
        ["κ", *(f"n={n}" for n in budgets)],
        [
            [
                f"{text}, {name}",
                *(f"{ch07.first_order_ratio_law(kind, n, kappa):.2f}" for n in budgets),
            ]
            for text, kappa in kappas.items()
            for kind, name in KIND_NAMES.items()
        ],
        "First-order KL over that of WHT with the plain norm, d=128",
    )


def overview(measures: ch07.Overview) -> Any:
    """Every measure of every scheme at four bits."""
    return table(
        ["scheme", *measures["KV"]],
        [
            [name, *(f"{np.exp(np.log(x.mean(axis=0)).mean()):.2g}" for x in found.values())]
            for name, found in measures.items()
        ],
        "n=4, d=128, moderate spread: geometric mean over the ten regimes of each measure",
    )


def effects(found: Mapping[str, FloatArray]) -> Any:
    """Factor of each choice on KL, by regime."""
    return table(
        ["effect on KL, as a factor", *ch07.REGIMES],
        [
            [label, *(f"{ch07.ratio_interval(x).estimate:.2f}" for x in logs.T)]
            for label, logs in found.items()
        ],
        "Factors on the mean KL, d=128, moderate spread, mean over n=2..6 "
        "(intervals in the figure)",
    )


def alignment(measured: ch07.Alignment, budgets: Sequence[int]) -> Any:
    """KL ratios where queries lie in the keys' subspace, with what the formula foretells."""
    names = {
        "unbiased": "unbiased scale",
        "hadamard": "QKQV, Hadamard",
        "gaussian": "QKQV, Gaussian",
    }
    rows = []
    for kind, name in names.items():
        for n in budgets:
            pairs = zip(measured.ranks, measured.ratios(kind, n), strict=True)
            cells = [
                f"{ratio.estimate:.2f} ({ch07.second_order_ratio_law(kind, n, rank):.2f})"
                for rank, ratio in pairs
            ]
            rows.append([f"{name}, n={n}", *cells])
    return table(
        ["KL ratio to WHT, norm", *(f"rank {rank}" for rank in measured.ranks)],
        rows,
        "Queries in the keys' subspace, d=128, diffuse: measured (foretold by the second formula)",
    )


def tallies(family: ch07.Family) -> Any:
    """Who is ahead, by parts of the family."""
    wide = {"dim": ch07.DIMS[1:], "bits": FEW_BITS}
    parts: dict[str, dict[str, Any]] = {
        "all": {},
        **{f"n={n}": {"bits": [n]} for n in (1, 2, 3, 4)},
        "n=5, 6": {"bits": [5, 6]},
        "d=2": {"dim": [2]},
        "d ≥ 8, n ≥ 2": wide,
        "of these: spikes and t ν=1.05": {**wide, "regime": [ch07.SPIKE, ch07.EXTREME]},
        "of these: rank 4 aligned": {**wide, "regime": [ch07.ALIGNED]},
        "of these: all other regimes": {**wide, "regime": ch07.ORDINARY},
        "diffuse, d ≥ 8, n ≥ 2": {**wide, "spread": [ch07.DIFFUSE]},
        "saturated, d ≥ 8, n ≥ 2": {**wide, "spread": [ch07.SATURATED]},
    }
    return table(
        ["cells", *SKETCH_NAMES.values()],
        [
            [
                label,
                *(
                    " / ".join(map(str, family.tally(**chosen, sketch=[sketch])))
                    for sketch in SKETCH_NAMES
                ),
            ]
            for label, chosen in parts.items()
        ],
        "KL: QKQV ahead / undecided / KQV ahead, after Holm over the whole family",
    )


def lengths(measured: ch07.Lengths) -> Any:
    """KL with lengths as drawn, for both laws of queries."""
    rows = []
    for keys in ch07.LENGTHS:
        row = [keys]
        for law in range(len(ch07.QUERY_LAWS)):
            mean = measured.mean(keys, law)
            row.append(f"{mean.estimate:.2g} [{mean.low:.2g}, {mean.high:.2g}]")
            row += [shown(measured.sketch_ratio(keys, sketch, law)) for sketch in SKETCH_NAMES]
        rows.append(row)
    columns = [(f"{law}: KL, 4 bits", "3+G over 4", "3+H over 4") for law in ch07.QUERY_LAWS]
    return table(
        ["keys, as drawn", *(column for part in columns for column in part)],
        rows,
        "d=1024, 32 keys, scale 1/√d: KL in nats, mean over repetitions",
    )


def best(ranking: ch07.Ranking, caption: str) -> Any:
    """The best by regime and budget, its ties, its margin over the first rival that is none."""
    return table(
        ["keys", *(f"n={n}" for n in FEW_BITS)],
        [
            [name, *(_winner(ranking, (b, f)) for b in range(len(FEW_BITS)))]
            for f, name in enumerate(ch07.REGIMES)
        ],
        caption,
    )


def _winner(ranking: ch07.Ranking, at: tuple[int, int]) -> str:
    rivals, tied = ranking.rivals[at], ranking.tied[at]
    names = [ranking.best[at], *(name for name in rivals if name in tied)]
    text = " ≈ ".join(names[:3])
    clear = [logs for name, logs in rivals.items() if name not in tied]
    return f"{text}<br>×{shown(ch07.ratio_interval(clear[0]))}" if clear else text


def sides(counts: Mapping[tuple[str, str], Sequence[int]], sketches: Sequence[str]) -> Any:
    """KQV ahead of QKQV, undecided, behind: regimes by measure and sketch."""
    measures = dict.fromkeys(measure for measure, _ in counts)
    return table(
        ["measure", *(f"{sketch} sketch" for sketch in sketches)],
        [
            [measure, *(" / ".join(map(str, counts[measure, sketch])) for sketch in sketches)]
            for measure in measures
        ],
        "n=4, d=128: regimes of ten in which KQV is ahead of QKQV / undecided / behind, after Holm",
    )


def comparisons(found: Sequence[ch07.SchemeComparison]) -> Any:
    """Effect sizes, then p-values."""
    header = ["keys", "comparison", "KL ratio", "r paired", "r unpaired"]
    return table(
        [
            *header,
            "energy distance in 6-D (root)",
            "Holm p: paired / unpaired / energy",
        ],
        [
            [
                c.regime,
                f"{c.first.split(',')[0]} against {c.second}",
                shown(c.ratio),
                f"{c.paired.r:+.2f}",
                shown(c.unpaired.interval),
                f"{c.energy:.2f}",
                " / ".join(f"{p:.2g}" if p >= 1e-4 else "&lt;1e-4" for p in c.pvalues),
            ]
            for c in found
        ],
        "n=4, d=128, moderate spread: effect sizes, then p-values",
    )


def shipped(measures: ch07.Overview) -> Any:
    """The cells that people run, against vLLM's."""
    who = (
        ("vLLM", "WHT", "WHT"),
        ("kvpress, SGLang ports", "QKV", "QKV, Gaussian"),
        ("the same with orthogonal rows", "QKV", "QKV, Hadamard"),
        ("the paper's choice", "KQV", "KQV, Gaussian"),
        ("the same with orthogonal rows", "KQV", "KQV, Hadamard"),
        ("TurboQuant's prod on both", "QKQV", "QKQV, Gaussian"),
        ("the same with orthogonal rows", "QKQV", "QKQV, Hadamard"),
        ("EDEN on both", "EDEN", "EDEN"),
        ("the book's, chapter 8", "C-EDEN", "C-EDEN"),
    )
    chosen = ("KL, mean", "MSE of V", "MSE of T")
    return table(
        ["who", "cell", "KL", "MSE of V", "MSE of the output T"],
        [
            [name, cell, *(shown(ch07.factor_against(measures, scheme, m)) for m in chosen)]
            for name, cell, scheme in who
        ],
        "n=4, d=128, moderate spread: factor against vLLM's cell, mean over the ten regimes",
    )
