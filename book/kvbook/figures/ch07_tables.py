"""Tables of chapter 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvbook.experiments import ch07
from kvbook.page import shown, table

FEW_BITS = range(2, 7)
SKETCH_NAMES = {"gaussian": "Gaussian sketch", "hadamard": "orthogonal sketch"}
KIND_NAMES = {
    "matched": "matched scale",
    "unbiased": "unbiased scale",
    "hadamard": "QJL, orthogonal",
    "gaussian": "QJL, Gaussian",
}


def first_order(kappas: Mapping[str, float], budgets: Sequence[int]) -> Any:
    """First-order KL over that of WHT with the norm, by kappa (as shown) and budget."""
    return table(
        ["κ", "keys", *(f"n={n}" for n in budgets)],
        [
            [
                text,
                name,
                *(f"{ch07.first_order_ratio_law(kind, n, kappa):.2f}" for n in budgets),
            ]
            for text, kappa in kappas.items()
            for kind, name in KIND_NAMES.items()
        ],
        "KL over that of rotated keys with the norm, by the formula, d=128",
    )


def tallies(family: ch07.Family) -> Any:
    """Who is ahead, by parts of the family."""
    wide = {"dim": ch07.DIMS[1:], "bits": FEW_BITS}
    parts: dict[str, dict[str, Any]] = {
        "all": {},
        "n=1": {"bits": [1]},
        "d=2": {"dim": [2]},
        "d ≥ 8, n ≥ 2": wide,
        "of these: the paper's families": {**wide, "regime": ch07.PAPER_LAWS},
        "of these: spikes and t ν=1.05": {**wide, "regime": [ch07.SPIKE, ch07.EXTREME]},
        "of these: rank 4 aligned": {**wide, "regime": [ch07.ALIGNED]},
        "of these: all other regimes": {**wide, "regime": ch07.ORDINARY},
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


def shipped(measures: ch07.Overview, bits: int, tokens: int) -> Any:
    """The cells that people run, against rotated codes with the norm on both."""
    who = {
        "TurboQuant without sketch": "WHT",
        "vLLM, _nc presets": "vLLM",
        "the same codes on values": "matched",
        "EDEN": "EDEN",
        "C-EDEN (chapter 9)": "C-EDEN",
        "QKV, Gaussian (ports)": "QKV, Gaussian",
        "QKV, orthogonal": "QKV, Hadamard",
        "KQV, Gaussian (the paper)": "KQV, Gaussian",
        "KQV, orthogonal": "KQV, Hadamard",
        "QKQV, Gaussian": "QKQV, Gaussian",
        "QKQV, orthogonal": "QKQV, Hadamard",
        "KV (no rotation)": "KV",
    }
    rows = []
    for name, scheme in who.items():
        stored = (
            f"{cell.stored_bits(bits, ch07.OUTPUT_DIM, tokens):.4g}"
            for cell in ch07.SCHEMES[scheme]
        )
        factors = (
            shown(ch07.factor_against(measures, scheme, measure))
            for measure in ("KL, mean", "MSE of T")
        )
        rows.append([name, " / ".join(stored), *factors])
    return table(
        ["scheme", "bits K / V", "KL", "error of the output"],
        rows,
        f"n={bits}, d=128, moderate spread: factors against the first row, mean over ten regimes",
    )
