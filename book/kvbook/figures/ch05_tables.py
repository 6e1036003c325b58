"""Tables of chapter 5: what was measured and what is derived, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from kvbook.experiments import ch05
from kvbook.page import shown, table
from kvlib import stats

STAGES = {"alone": "(D, p) alone", "shrunk": "with shrinkage", "full": "with radial gain"}


def open_rows(panel: ch05.Panel, excess: ch05.Excess, found: ch05.Classification) -> Any:
    """The rows of a panel that are not plainly on the side where the condition puts them."""
    margin, errors = ch05.margin_law(panel), excess.estimate / excess.error

    def decided(i: int) -> str:
        return "yes, wrongly" if found.wrong[i] else "yes" if found.decided[i] else "no"

    return table(
        ["N", "top weight", "margin", "estimate in s.e.", "decided", "quadrature agrees"],
        [
            [
                str(panel.rows[i].size),
                f"{panel.top[i]:.3f}",
                f"{margin[i]:+.4f}",
                f"{errors[i]:+.1f}",
                decided(i),
                "no" if found.wrong_exact[i] else "yes",
            ]
            for i in found.open
        ],
        "Rows that Monte Carlo leaves open, or where any check disagrees with the condition",
    )


def reaches(found: Sequence[ch05.Reach]) -> Any:
    """How far the peaked law reaches, a row for each weight of the rest."""
    return table(
        ["ε", "⅔ log 1/ε", "spread", "proven", "½ log 1/ε", "on one key", "proven"],
        [[f"{x.rest:g}", *(f"{value:.1f}" for value in astuple(x)[1:])] for x in found],
        "σ² up to which the peaked law is right within 10%: exact, and by the lower bound; rest "
        "spread over 1024 keys, and all on one key",
    )


def phases(maps: Mapping[str, ch05.PhaseMap], tokens: int) -> Any:
    """Ends of the map's exponents, and the entropy at which the condition changes."""
    variances = next(iter(maps.values())).variances
    return table(
        ["rows", "T12 holds below", "least exponent", "largest exponent"],
        [
            [name, f"{x.boundary:.2f} nats", f"{x.exponent.min():.2f}", f"{x.exponent.max():.2f}"]
            for name, x in maps.items()
        ],
        f"The map: N = {tokens}, noise from {variances[0]:g} to {variances[-1]:g}",
    )


def shrinkage(cases: Sequence[ch05.Shrinkage]) -> Any:
    """Shrunk keys: KL over the temperature's, and its size beside the noise."""
    return table(
        ["n", "std of logits", "KL over D²/2 Var(logit)", "of the KL of noise"],
        [
            [
                str(case.bits),
                str(case.scale),
                f"{ch05.temperature_ratio(case).mean():.3f}",
                f"{100 * ch05.temperature_share(case):.1f}%",
            ]
            for case in cases
        ],
        "Keys shrunk by 1 − D and otherwise exact",
    )


def radial_gain(bits: Sequence[int], dim: int) -> Any:
    """Variance of the gain of Lloyd-Max codebooks beside an even share of the error."""
    body = []
    for n in bits:
        error, variance = ch05.relative_error_law("KQV", n, dim), ch05.gain_law("KQV", n, dim)[1]
        share = variance / (error / dim)
        body.append([str(n), f"{error:.5f}", f"{variance:.2e}", f"{share:.2f}"])
    return table(
        ["n", "D", "variance of the gain", "over D/d"],
        body,
        f"Lloyd-Max codebooks at d = {dim}, by quadrature",
    )


def families(kl: ch05.ByFamily, law: ch05.ByFamily) -> Any:
    """KL of synthetic keys over prediction, a row for each family and dimension."""
    draws = len(next(iter(kl.values())))
    return table(
        ["keys", "d", *ch05.ARMS],
        [
            [key[0], str(key[1]), *(shown(ch05.family_ratio(kl, law, key, x)) for x in ch05.ARMS)]
            for key in kl
        ],
        f"KL measured over predicted with radial gain, n = 4: geometric mean over {draws} draws "
        f"and the logit scales with σ² ≤ {ch05.SMALL_NOISE:g} [95% interval over draws]",
    )


def heads(kl: ch05.HeadKL, law: Mapping[ch05.Cell, ch05.PredictedKL]) -> Any:
    """KL of real heads over the three predictions, a row for each arm and its bits."""
    body = []
    for arm, bits in kl.cells:
        found = [ch05.head_ratio(kl, law, arm, bits, stage) for stage in STAGES]
        body.append([f"{arm}, n = {bits}", str(found[0].n), *(shown(i) for i in found)])
    return table(
        ["keys", "heads", *STAGES.values()],
        body,
        f"KL measured over predicted on real heads with σ² ≤ {ch05.SMALL_NOISE:g}: geometric mean "
        "[95% interval]",
    )


def models(summaries: Mapping[str, ch05.RowSummary], heads: ch05.HeadKL) -> Any:
    """How concentrated the rows of each model are, and what softmax makes of their noise."""
    exponents = ch05.head_exponents(heads)
    header = ["model", "median entropy", "top weight > 1/3", "T12 holds", "median σ², n = 4"]
    return table(
        [*header, "exact / first order, n = 4", "n = 2", "exponent of KL in D"],
        [
            [
                name,
                f"{x.entropy:.2g}",
                f"{x.led:.0%}",
                f"{x.superlinear:.0%}",
                f"{x.sigma2:.3f}",
                f"{x.over_first_order_4:.2f}",
                f"{x.over_first_order_2:.2f}",
                shown(stats.mean_interval(exponents[heads.model == name])),
            ]
            for name, x in summaries.items()
        ],
        "Rows of attention of three models; exact / first order is for independent Gaussian errors "
        "of each row's own σ², the exponent is measured with KQV from n = 4 to n = 2",
    )


def correlations(bridge: ch05.Bridge) -> Any:
    """Rank correlations along the bridge, at each logit scale."""
    pooled = ch05.pooled_correlation(bridge)
    return table(
        ["rank correlation", *(f"logit scale {s:g}" for s in ch05.SCALES)],
        [
            [name, *(f"{i.estimate:.3f}" for i in found)]
            for name, found in ch05.rank_correlations(bridge).items()
        ],
        f"Over {len(bridge.cells)} cells: family × scheme × budget. All logit scales pooled, "
        f"direction error and KL: {pooled:.2f}",
    )
