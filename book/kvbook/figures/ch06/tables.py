"""The tables of chapter 6: numbers to text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from kvbook.experiments import ch06
from kvbook.experiments.ch06 import BUDGETS, CONSTANTS, KeyErrors, Setting, Sketch, Training
from kvbook.experiments.common import distortion
from kvbook.models import MODELS
from kvbook.page import table
from kvlib.checks import FloatArray
from kvlib.laws import splitting

_BUDGET_HEADS = [f"n={n}" for n in BUDGETS]
_BITS = range(1, 7)


_SPIKE_ROWS = (
    ("one Hadamard round", ch06.GAUSSIAN),
    ("one Hadamard round", ch06.ORTHOGONAL),
    ("one Hadamard round", ch06.ORTHOGONAL_MMSE),
    ("one Hadamard round", Sketch("hadamard", "mmse")),
    ("two rounds", ch06.ORTHOGONAL_MMSE),
    ("Haar", ch06.ORTHOGONAL_MMSE),
)


def _digits(budgets: ch06.Budgets) -> str:
    """A set of budgets in little space."""
    return "".join(map(str, budgets)) or "∅"


def split_table(dim: int) -> Any:
    """How much one more bit helps single cells of the coordinate law."""
    sigma, starts, widths = 1 / math.sqrt(dim), (0, 1, 2, 4, 6), (0.5, 1, 2, 5)
    rows = [
        [f"{a}σ"]
        + [f"{splitting.split_ratio(a * sigma, (a + w) * sigma, dim):.4f}" for w in widths]
        for a in starts
    ]
    return table(
        ["cell starts at", *(f"{w}σ wide" for w in widths[:-1]), "to the end"],
        rows,
        f"V₂/V₁ of cells at d={dim} (σ = 1/√d); the whole law has D(1) = {distortion(dim, 1):.4f}",
    )


def improvement_table(dims: Iterable[int], budgets: Sequence[int]) -> Any:
    """D(n)/D(n-1) by dimension and budget, beside the constants of the sketches."""
    rows = [
        [
            str(d),
            *(f"{ch06.improvement(d, n):.3f}" for n in budgets),
            *(f"{ch06.sketch_constant(sketch, d):.3f}" for sketch in CONSTANTS.values()),
        ]
        for d in dims
    ]
    return table(
        ["d", *(f"n={n}" for n in budgets), "c MMSE", "c orth.", "c Gauss"],
        rows,
        "D(n)/D(n−1), and the constants c that it would have to exceed",
    )


def norm_price_table(budgets: Sequence[int]) -> Any:
    """The exception d = 2 by what the norm of the residual costs."""
    mmse = ch06.ORTHOGONAL_MMSE
    rows = [
        ["QKQV (MMSE) over KQV, norm free"]
        + [f"{ch06.error_ratio_law(mmse, 2, n):.3f}" for n in budgets],
        ["norm costs one bit a vector"] + [f"{ch06.ratio_at_one_bit(n):.3f}" for n in budgets],
        ["norm not stored"] + [f"{ch06.ratio_without_norm(n):.3f}" for n in budgets],
        ["break-even price, bits a vector"]
        + [f"{ch06.break_even_price(n, mmse):.2f}" for n in budgets],
    ]
    return table(
        ["d=2", *(f"n={n}" for n in budgets)],
        rows,
        "Error of QKQV over error of KQV at d=2, by what the residual norm costs",
    )


def direction_error_table(arms: Mapping[str, FloatArray]) -> Any:
    """Direction error of the keys of full rank, in the reading of the angle.

    Parameters
    ----------
    arms : mapping
        What a scheme is called to its errors, shape (draw, budget, measure, kind of keys).
    """
    angle = ch06.MEASURES.index("angle/π")
    rows = [
        [tail, label, *(f"{error:.4f}" for error in errors[:, :, angle, kind].mean(axis=0))]
        for tail, kind in zip(ch06.TAILS, ch06.FULL_RANK, strict=True)
        for label, errors in arms.items()
    ]
    caption = "Direction error θ/π of the keys, d=128, full rank"
    return table(["keys", "scheme", *_BUDGET_HEADS], rows, caption)


def tally_table(errors: KeyErrors) -> Any:
    """Who is ahead by the interval, for each sketch and measure of error."""
    measures = range(len(ch06.MEASURES))
    rows = [
        [sketch.label, *("{} / {} / {}".format(*errors.tally(sketch, m)) for m in measures)]
        for sketch in errors.sketched
    ]
    cells = len(BUDGETS) * errors.count
    return table(
        ["sketch", *ch06.MEASURES],
        rows,
        f"QKQV ahead / undecided / KQV ahead, of {cells} (kind of keys, budget)",
    )


def head_table(heads: Mapping[str, KeyErrors]) -> Any:
    """Squared error on captured keys for three sketches, mean over heads with the lowest head."""
    sketches = (ch06.GAUSSIAN, Sketch("hadamard", "unbiased"), Sketch("hadamard", "mmse"))
    rows = []
    for (name, errors), sketch in product(heads.items(), sketches):
        logs = errors.log_ratios(sketch).mean(axis=0)
        shown = [f"{np.exp(row.mean()):.2f} ({np.exp(row.min()):.2f})" for row in logs]
        rows.append([MODELS[name].label, sketch.label, *shown])
    return table(
        ["model", "sketch", *_BUDGET_HEADS],
        rows,
        "Squared error of QKQV over KQV on captured keys: mean over heads (lowest head)",
    )


def spike_law_table(errors: KeyErrors, kind: int, *, dim: int, share: float) -> Any:
    """KQV's error on a spike under one round: the laws for all and part of the energy, measured.

    Parameters
    ----------
    errors : KeyErrors
    kind : int
        Position of the kind of keys whose spike holds ``share`` of the energy.
    dim, share
    """
    measured = errors.plain[:, :, 0, kind].mean(axis=0)

    def law(energy: float) -> list[str]:
        return [f"{ch06.spike_error_law(dim, n, energy):.4f}" for n in _BITS]

    rows = [
        ["one-hot key, closed form", *law(1.0)],
        [f"{share:.0%} spike, predicted", *law(share)],
        [f"{share:.0%} spike, KQV measured", "—", *(f"{error:.4f}" for error in measured)],
        ["D(n)", *(f"{distortion(dim, n):.4f}" for n in _BITS)],
    ]
    caption = f"Relative squared error of a spike under one Hadamard round, d={dim}"
    return table(["n", *map(str, _BITS)], rows, caption)


def spike_set_table(arms: Mapping[str, KeyErrors], energies: Sequence[float]) -> Any:
    """Budgets that QKQV wins by its interval, by the spike's share of the energy."""
    rows = []
    for arm, sketch in _SPIKE_ROWS:
        high = arms[arm].ends(sketch).high
        sets = [ch06.set_name(ch06.winning(column)) for column in high.T]
        rows.append([f"{arm}; {sketch.label}", *sets])
    return table(
        ["share of energy", *(f"{energy:.1%}" for energy in energies)],
        rows,
        "Budgets at which QKQV is ahead (95% intervals below a tie), by the spike's share of the "
        "energy, d=64",
    )


def set_table(settings: Sequence[Setting]) -> Any:
    """Every winning set that occurs, most frequent first, in two columns."""
    total = Counter(setting.winning for setting in settings)
    by_sketch = Counter((setting.winning, setting.sketch) for setting in settings)
    ranked = sorted(total, key=lambda budgets: (-total[budgets], budgets))
    cells = [
        [ch06.set_name(budgets), str(total[budgets])]
        + [str(by_sketch[budgets, sketch]) for sketch in ("MMSE", "orthogonal")]
        for budgets in ranked
    ]
    half = (len(cells) + 1) // 2
    cells += [["", "", "", ""]] * (2 * half - len(cells))
    return table(
        2 * ["set", "settings", "MMSE", "orthogonal"],
        [left + right for left, right in zip(cells[:half], cells[half:], strict=True)],
        f"Every winning set that occurs among the {len(settings)} settings, and how often",
    )


def law_table(settings: Sequence[Setting], dim: int) -> Any:
    """Winning sets after so many iterations on the exact law."""
    sets = {
        (s.family.start, s.sketch, s.family.iterations): _digits(s.winning)
        for s in settings
        if s.family.dim == dim
    }
    starts = dict.fromkeys(start for start, _, _ in sets)
    steps = dict.fromkeys(iterations for _, _, iterations in sets)
    rows = [
        [start.replace(" ", ""), short, *(sets[start, sketch, s] for s in steps)]
        for start, (sketch, short) in product(starts, (("MMSE", "MMSE"), ("orthogonal", "orth.")))
    ]
    return table(
        ["start", "sketch", *map(str, steps)],
        rows,
        f"Winning sets (digits are budgets) after so many iterations on the exact law, d={dim}",
    )


def codebook_table(training: Training, iterations: int) -> Any:
    """A damaged codebook beside the best one, and what the rule makes of it."""
    dim, damaged = training.dim, training.distortions(iterations)
    c = ch06.sketch_constant(ch06.ORTHOGONAL_MMSE, dim)
    rows = [
        ["levels", *(str(2**n) for n in _BITS)],
        ["live levels", *map(str, training.live_levels(iterations))],
        ["D̃(n)", *(f"{error:.4f}" for error in damaged)],
        ["D(n)", *(f"{distortion(dim, n):.4f}" for n in _BITS)],
        ["c D̃(n−1) / D̃(n)", "—"] + [f"{c * damaged[n - 2] / damaged[n - 1]:.3f}" for n in BUDGETS],
    ]
    return table(
        ["n", *map(str, _BITS)],
        rows,
        f"The codebook of the exhibit: d={dim}, 2^14 samples, start [−1, 1], {iterations} "
        "iterations",
    )


def width_table(dim: int) -> Any:
    """Winning sets when codes use the levels of a width that is a power of two."""
    rows = [
        [keys, sketched]
        + [
            ch06.set_name(ch06.width_set(keys, sketched, sketch, dim))
            for sketch in CONSTANTS.values()
        ]
        for keys, sketched in product(ch06.ROUNDING, ch06.ROUNDING)
    ]
    return table(
        ["KQV's n bits", "QKQV's n − 1 bits", *CONSTANTS],
        rows,
        "Winning set of QKQV when codes use the levels of a width that is a power of two "
        f"(d={dim})",
    )


def binding_table(
    kinds: Sequence[str], synthetic: Mapping[str, FloatArray], captured: Mapping[str, FloatArray]
) -> Any:
    """Share of attention rows where the condition holds, on exact keys and on KQV's."""
    exact = synthetic[ch06.EXACT][:, 0].mean(axis=0)
    quantized = synthetic["KQV"].mean(axis=0).T
    lines = [*zip(kinds, exact, quantized, strict=True)]
    heads = captured[ch06.EXACT].mean(), captured["quantized"].mean(axis=0)
    rows = [
        [name, f"{share:.2f}", *(f"{s:.2f}" for s in by_budget)]
        for name, share, by_budget in [*lines, ("captured heads", *heads)]
    ]
    return table(
        ["keys", "exact", *(f"KQV, n={n}" for n in BUDGETS)],
        rows,
        "Share of attention rows where the condition holds",
    )
