"""The tables of chapter 6: numbers to text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kvbook.experiments import ch06
from kvbook.experiments.ch06 import (
    BUDGETS,
    CONSTANTS,
    Budgets,
    KeyErrors,
    Setting,
    Training,
)
from kvbook.experiments.common import distortion
from kvbook.models import MODELS
from kvbook.page import table
from kvlib.checks import FloatArray
from kvlib.laws import splitting

_BUDGET_HEADS = [f"n={n}" for n in BUDGETS]
_BITS = range(1, 7)


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


def codebook_table(training: Training, iterations: int) -> Any:
    """A damaged codebook beside the best one, and what the rule makes of it."""
    dim, damaged = training.dim, training.distortions(iterations)
    ratios = ch06.exhibit_ratios(training, iterations)
    rows = [
        ["levels", *(str(2**n) for n in _BITS)],
        ["live levels", *map(str, training.live_levels(iterations))],
        ["D̃(n)", *(f"{error:.4f}" for error in damaged)],
        ["D(n)", *(f"{distortion(dim, n):.4f}" for n in _BITS)],
        ["c D̃(n−1) / D̃(n)", "—", *(f"{ratio:.3f}" for ratio in ratios.values())],
    ]
    return table(
        ["n", *map(str, _BITS)],
        rows,
        f"The codebook of the exhibit: d={dim}, 2^14 samples, start [−1, 1], {iterations:,} "
        "iterations",
    )


def ratio_table(errors: KeyErrors) -> Any:
    """Squared error of QKQV over KQV on synthetic keys, mean over the kinds, for each sketch."""
    rows = [
        [sketch.label, *(f"{ratio:.2f}" for ratio in ch06.mean_over_kinds(errors, sketch).values())]
        for sketch in errors.sketched
    ]
    return table(
        ["sketch", *_BUDGET_HEADS],
        rows,
        f"Squared error of QKQV over KQV, mean over {errors.count} kinds of keys, d=128",
    )


def set_table(settings: Sequence[Setting]) -> Any:
    """How many settings have no winning budget, neighbours, a gap, or the published set."""
    kinds = {
        "no budget": ("none",),
        "neighbouring budgets, as {3,4}": ("run",),
        "budgets with a gap": ("gap", "{2,3,5}"),
        "of these exactly {2,3,5}": ("{2,3,5}",),
    }
    rows = []
    for name, patterns in kinds.items():
        by_sketch = Counter(s.sketch for s in settings if s.pattern in patterns)
        rows.append([name, *(str(by_sketch[sketch]) for sketch in CONSTANTS)])
    return table(
        ["QKQV ahead at", *CONSTANTS],
        rows,
        f"Settings by the budgets that QKQV wins, for three sketches; {len(settings)} in all",
    )


def law_table(settings: Sequence[Setting], dim: int, steps: Sequence[int]) -> Any:
    """Winning sets of the least-error sketch after so many iterations on the exact law."""
    sets = {
        (s.family.start, s.family.iterations): ch06.set_name(s.winning)
        for s in settings
        if s.family.dim == dim and s.sketch == "MMSE"
    }
    starts = dict.fromkeys(start for start, _ in sets)
    rows = [[start.replace(" ", ""), *(sets[start, step] for step in steps)] for start in starts]
    return table(
        ["start", *(f"{step} it." for step in steps)],
        rows,
        f"Budgets that QKQV (MMSE) wins after so many iterations on the exact law, d={dim}",
    )


def chosen_table(chosen: Mapping[int, Sequence[Budgets]], most: int = 5) -> Any:
    """The most common winning sets at the chosen setting, by number of iterations."""
    found = {total: Counter(sets) for total, sets in chosen.items()}
    common = [budgets for budgets, _ in found[max(found)].most_common(most)]
    rows = [
        [f"{total:,}", *(f"{count[budgets] / count.total():.0%}" for budgets in common)]
        for total, count in found.items()
    ]
    return table(
        ["iterations", *map(ch06.set_name, common)],
        rows,
        "Share of fresh samples with each winning set, d=256, 2^14 samples, start [−1, 1]",
    )


def kl_table(ratios: Mapping[int, float], exhibit: Mapping[int, float]) -> Any:
    """What a damaged codebook does to the keys' error and to the attention."""
    rows = [
        ["squared error of the keys", *(f"{exhibit[n]:.2f}" for n in BUDGETS)],
        ["KL of the attention", *(f"{ratios[n]:.2f}" for n in BUDGETS)],
    ]
    return table(["QKQV over KQV", *_BUDGET_HEADS], rows, "With the codebook of the exhibit")


def binding_table(
    kinds: Sequence[str],
    synthetic: Mapping[str, FloatArray],
    captured: Mapping[str, Mapping[str, FloatArray]],
) -> Any:
    """Share of attention rows where the condition holds, on exact keys and on KQV's."""
    exact = synthetic[ch06.EXACT][:, 0].mean(axis=0)
    quantized = synthetic["KQV"].mean(axis=0).T
    lines = [*zip(kinds, exact, quantized, strict=True)]
    for name, shares in captured["quantized"].items():
        whole = captured[ch06.EXACT][name].mean()
        lines.append((f"{MODELS[name].label}, {len(shares)} heads", whole, shares.mean(axis=0)))
    rows = [
        [name, f"{share:.2f}", *(f"{s:.2f}" for s in by_budget)] for name, share, by_budget in lines
    ]
    return table(
        ["keys", "exact", *(f"KQV, n={n}" for n in BUDGETS)],
        rows,
        "Share of attention rows where the condition holds",
    )
