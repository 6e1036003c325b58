"""What each claim predicts, stated before the run."""

from __future__ import annotations

from kvbook import ledger
from kvbook.experiments.ch07.regimes import GAUSSIAN, HEAVY
from kvbook.experiments.ch07.theory import first_order_ratio_law

LOW_RANK = {2: "rank 1", 8: "rank 1", 128: "rank 4", 1024: "rank 32"}
"""The low-rank regime of the paper's panels, by dimension."""


def trio(dim: int) -> tuple[str, str, str]:
    """Regimes of the paper's panel at ``dim``: Gaussian, heavy tail, low rank."""
    return GAUSSIAN, HEAVY, LOW_RANK[dim]


def predict_t16() -> ledger.Predictions:
    """The effect of each choice: from eq-schemes-first where there is a formula, else a bound."""
    gaussian, hadamard = (first_order_ratio_law(kind, 4) for kind in ("gaussian", "hadamard"))
    unbiased, aligned = (
        first_order_ratio_law("unbiased", bits, kappa) for bits, kappa in ((2, 1.0), (4, 4 / 128))
    )
    return ledger.Predictions(
        "T16",
        [
            ledger.Prediction(
                "QJL on K, Gaussian, n=4, Gaussian keys, diffuse: KL ratio",
                ledger.Within(gaussian, 0.1 * gaussian),
                "an interval more than 10% off c·D(3)/D(4)",
            ),
            ledger.Prediction(
                "QJL on K, Hadamard, n=4, Gaussian keys, diffuse: KL ratio",
                ledger.Within(hadamard, 0.1 * hadamard),
                "an interval more than 10% off c·D(3)/D(4)",
            ),
            ledger.Prediction(
                "unbiased scale, n=2, Gaussian keys, diffuse: KL ratio",
                ledger.Within(unbiased, 0.05 * unbiased),
                "an interval more than 5% off 1/(1 - D(2))",
            ),
            ledger.Prediction(
                "unbiased scale, n=4, rank 4 aligned, diffuse: KL ratio",
                ledger.Within(aligned, 0.2 * aligned),
                "an interval more than 20% off the first-order formula",
            ),
            *_predict_rotation(),
            ledger.Prediction(
                "best key quantizer, or tied, rotates and has no QJL: "
                "share of regimes × budgets (n ≥ 2)",
                ledger.Above(0.75),
                "an unrotated or a sketched key ahead in a quarter of the cells",
            ),
        ],
    )


def _predict_rotation() -> list[ledger.Prediction]:
    """Where a rotation matters, where not, and where one Hadamard round is too little."""
    return [
        ledger.Prediction(
            "WHT against no rotation, n=4, t ν=3: KL ratio",
            ledger.Below(0.5),
            "less than half of the KL removed",
        ),
        ledger.Prediction(
            "WHT against no rotation, n=4, Gaussian keys: KL ratio",
            ledger.Within(1, 0.1),
            "a rotation that matters where the law is isotropic",
        ),
        ledger.Prediction(
            "Haar against WHT, n=2, spikes: KL ratio",
            ledger.Below(0.7),
            "no harm from spikes under one Hadamard round",
        ),
    ]


def predict_c03() -> ledger.Predictions:
    """As claimed: four bits of MSE below three and a sketch."""
    one_by_one = [
        f"d={dim}, {name}: KL of 3+1 bits over 4 bits, Gaussian sketch"
        for dim in (2, 8, 128)
        for name in trio(dim)
    ]
    means = [
        f"d={dim}, mean of the three: KL of 3+1 bits over 4 bits, Hadamard sketch"
        for dim in (2, 8, 128)
    ]
    rule = ledger.Above(1)
    return ledger.Predictions(
        "C03",
        [ledger.Prediction(label, rule, "MSE + QJL ahead") for label in one_by_one + means],
    )


def predict_c04() -> ledger.Predictions:
    """As claimed: a catastrophe of low rank at d=1024, and heavy tails that favour the sketch."""
    return ledger.Predictions(
        "C04",
        [
            ledger.Prediction(
                "d=1024, equal logit spread: KL of low rank over heavy tail",
                ledger.Above(10),
                "less than one order of magnitude",
            ),
            ledger.Prediction(
                "d=1024, product of two rank-128 factors, as drawn: KL, nats",
                ledger.Within(5.5, 4.5),
                "outside 1 to 10 nats",
            ),
            ledger.Prediction(
                "the same: KL over that of t ν=3, as drawn",
                ledger.Above(10),
                "less than one order of magnitude",
            ),
            ledger.Prediction(
                "the same: KL over that of full-rank Gaussian keys of equal length",
                ledger.Above(2),
                "full rank does the same: length, not rank",
            ),
            ledger.Prediction(
                "heavy tail ν=3: KL of 3+1 bits over 4 bits, Gaussian sketch",
                ledger.Below(1.1),
                "MSE ahead by more than 10%",
            ),
            ledger.Prediction(
                "heavy tail ν=1.05: KL of 3+1 bits over 4 bits, Gaussian sketch",
                ledger.Below(1.1),
                "MSE ahead by more than 10%",
            ),
        ],
    )


def predict_c09() -> ledger.Predictions:
    """As claimed: QKQV above KQV everywhere."""
    cells = {
        "n=2..6, d ≥ 8, mean of all regimes, Gaussian sketch": "QKQV ahead",
        "n=2..6, d ≥ 8, mean of all regimes, Hadamard sketch": "QKQV ahead",
        "d=128, n=4, lowest regime, Gaussian sketch": "QKQV ahead at n=4 in some regime",
        "d=128, n=2, spikes, Gaussian sketch": "QKQV ahead on spikes",
        "d=128, n=2, rank 4 aligned, Hadamard sketch": (
            "QKQV ahead where queries lie along the keys"
        ),
        "d=128, n=1, rank 4 aligned, Gaussian sketch": "QKQV ahead at one bit",
        "d=2, n=4, Gaussian keys, Hadamard sketch": "QKQV ahead at d=2",
        "d=128, n=2, Gaussian keys, saturated, Hadamard sketch": (
            "QKQV ahead in saturated attention"
        ),
    }
    return ledger.Predictions(
        "C09",
        [
            ledger.Prediction(f"{cell}: KL ratio QKQV/KQV", ledger.Above(1), falsifier)
            for cell, falsifier in cells.items()
        ],
    )


def predict_c18() -> ledger.Predictions:
    """What the claims around the missing table imply: most cells each."""
    best_of_three = "another of the three ahead in a quarter of the cells"
    rows = {
        "KL: KQV is the best of KV, KQV, QKQV, or tied: "
        "share of regimes × budgets (n ≥ 2)": best_of_three,
        "KL: a rotated key without QJL is the best of all cells, or tied: share": (
            "QJL or no rotation ahead in a quarter of the cells"
        ),
        "output: KQV is the best of KV, KQV, QKQV, or tied: share": best_of_three,
        "output: no QJL anywhere is best of all 25 pairs, or tied: share": (
            "QJL somewhere ahead in a quarter of the cells"
        ),
    }
    return ledger.Predictions(
        "C18",
        [
            ledger.Prediction(label, ledger.Above(0.75), falsifier)
            for label, falsifier in rows.items()
        ],
    )


def predict_t17() -> ledger.Predictions:
    """Tests that keep their level, and two broken rules that are caught."""
    levels = [
        f"{test}, {kind}: rejections at 0.05 under the null"
        for test in ("Mann-Whitney", "Wilcoxon paired", "energy distance")
        for kind in ("continuous", "signs")
    ]
    return ledger.Predictions(
        "T17",
        [
            *(
                ledger.Prediction(label, ledger.Below(0.1), "more than twice the nominal level")
                for label in levels
            ),
            ledger.Prediction(
                "energy distance, signs, ties not counted: rejections",
                ledger.Above(0.05),
                "a broken rule that goes unnoticed",
            ),
            ledger.Prediction(
                "queries taken for repetitions: rejections under the null",
                ledger.Above(0.05),
                "no harm from counting queries",
            ),
            ledger.Prediction(
                "10 repetitions, unbiased scale against norm: power, paired less unpaired",
                ledger.Above(0),
                "pairing does not help",
            ),
        ],
    )
