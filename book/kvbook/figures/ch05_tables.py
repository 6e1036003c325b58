"""Tables of chapter 5: what was measured and what is derived, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvbook.experiments import ch05
from kvbook.page import shown, table

STAGES = {"alone": "(D, p) alone", "shrunk": "with shrinkage", "full": "with radial gain"}


def radial_gain(bits: Sequence[int], dim: int) -> Any:
    """Variance of the gain of Lloyd-Max codebooks beside an even share of the error."""
    body = []
    for n in bits:
        error, variance = ch05.relative_error_law("KQV", n, dim), ch05.gain_law("KQV", n, dim)[1]
        share = variance / (error / dim)
        body.append([str(n), f"{error:.5f}", f"{variance:.2e}", f"{share:.2f}"])
    return table(
        ["n", "D", "v", "v over D/d"],
        body,
        f"Variance v of the radial gain beside an even share of the error, D/d: Lloyd-Max "
        f"codebooks at d = {dim}, by quadrature",
    )


def heads(
    kl: ch05.HeadKL, law: Mapping[ch05.Cell, ch05.PredictedKL], model: str = "rope-lm"
) -> Any:
    """KL of captured heads over the three predictions, a row for each arm and its bits."""
    body = []
    for arm, bits in kl.cells:
        found = [ch05.head_ratio(kl, law, arm, bits, stage) for stage in STAGES]
        own = ch05.head_ratio(kl, law, arm, bits, "full", model)
        cells = (f"{found[0].estimate:.2f}", f"{found[1].estimate:.2f}", shown(found[2]))
        body.append([f"{arm}, n = {bits}", str(found[0].n), *cells, f"{own.estimate:.2f}"])
    return table(
        ["keys", "heads", *STAGES.values(), f"of {model}"],
        body,
        f"KL measured over predicted, captured heads with σ² ≤ {ch05.SMALL_NOISE:g}: geometric "
        "mean [95% interval over rotations, for these heads]",
    )


def models(summaries: Mapping[str, ch05.RowSummary], heads: ch05.HeadKL) -> Any:
    """How concentrated the rows of each model are, and what softmax makes of their noise."""
    exponents = ch05.head_exponents(heads)
    header = ["model", "top weight > 1/3", "T12 holds", "median σ²", "exact / first order, n = 2"]
    return table(
        [*header, "exponent of KL in D"],
        [
            [
                f"{name} ({(heads.model == name).sum()} heads)",
                f"{x.led:.0%}",
                f"{x.superlinear:.0%}",
                f"{x.sigma2:.3f}",
                f"{x.over_first_order_2:.2f}",
                shown(ch05.spread_of_heads(exponents[heads.model == name])),
            ]
            for name, x in summaries.items()
        ],
        "Attention rows of three models, σ² at n = 4. Exact / first order: what independent errors "
        "of each row's own size would do. Exponent: measured with KQV from n = 4 to n = 2, mean "
        "[16th to 84th percentile of heads]",
    )


def concordance(bridge: ch05.Bridge) -> Any:
    """Pairs in order along the bridge, lowest of the logit scales, a column for each budget."""
    links = {**ch05.LINKS, "direction error to output error": ch05.ENDS}
    found = {name: ch05.concordance(bridge, pair) for name, pair in links.items()}
    budgets = list(next(iter(found.values())))
    return table(
        ["pairs in the same order", *(f"n = {bits}" for bits in budgets)],
        [
            [name, *(f"{min(i.estimate for i in of[bits]):.0%}" for bits in budgets)]
            for name, of in found.items()
        ],
        f"Within a budget: {len(bridge.cells) // len(budgets)} cases (family × scheme), lowest of "
        "four logit scales",
    )
