"""One check: a number foretold, and the same number measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvbook.ledger import render
from kvbook.ledger.rules import Estimate, Rule, check_finite
from kvbook.ledger.words import CLAIM, NUMBER, OURS, SHOWN, STATEMENT


@dataclass(frozen=True)
class Prediction:
    """One number foretold: what is measured, the rule for it, and what would falsify it.

    Parameters
    ----------
    label : str
        What is measured, in words; distinct within a claim.
    rule : Rule
        The predicted region.
    falsifier : str
        What would falsify it, in words.
    part : {"statement", "number"}
        What of the claim the check is about: what it says, or the number that it prints.
    scope : {"claim", "ours", "shown"}
        "claim": inside the claim's own scope, so that it decides. "ours": an extension of the
        book, judged and shown beside the verdict. "shown": true by construction, a count or a
        guess at unseen text; it is shown and decides nothing.
    reading : str or tuple of str
        Of several ways to read the claim, the one, or those, that this check belongs to; none
        for all of them. Readings are joined by "any", the checks of one by "all".
    exception : str
        The name of this instance of a general statement: where it fails, or stays undecided, the
        statement may still hold with this exception. Without a name the statement falls with
        the check.
    """

    label: str
    rule: Rule
    falsifier: str
    part: str = STATEMENT
    scope: str = CLAIM
    reading: str | tuple[str, ...] = ""
    exception: str = ""

    def __post_init__(self) -> None:
        if self.part not in (STATEMENT, NUMBER):
            raise ValueError(f"part must be {STATEMENT!r} or {NUMBER!r}, got {self.part!r}")
        if self.scope not in (CLAIM, OURS, SHOWN):
            known = f"{CLAIM!r}, {OURS!r} or {SHOWN!r}"
            raise ValueError(f"scope must be {known}, got {self.scope!r}")

    @property
    def readings(self) -> tuple[str, ...]:
        """The readings it belongs to; empty where it belongs to all."""
        return (
            (self.reading,) * bool(self.reading) if isinstance(self.reading, str) else self.reading
        )

    def check(self, measured: Estimate) -> Check:
        """Judge a measurement by this prediction's rule."""
        check_finite(estimate=measured.estimate, low=measured.low, high=measured.high)
        if not measured.low <= measured.estimate <= measured.high:
            raise ValueError(
                f"measured[{self.label!r}] must have low <= estimate <= high, got {measured}"
            )
        verdict = self.rule.judge(measured.low, measured.high)
        return Check(self, measured.estimate, measured.low, measured.high, verdict)


@dataclass(frozen=True)
class Check:
    """A prediction with its measurement and what its rule says of it."""

    prediction: Prediction
    measured: float
    low: float
    high: float
    verdict: str

    @property
    def decides(self) -> bool:
        """Whether the claim's verdict depends on it."""
        return self.prediction.scope == CLAIM

    def interval(self) -> str:
        """The measurement in words."""
        return render.interval(self.measured, self.low, self.high)

    def record(self) -> dict[str, Any]:
        """JSON-ready, numbers to four significant digits (so that machines agree)."""
        foretold = self.prediction
        return {
            "label": foretold.label,
            "part": foretold.part,
            "scope": foretold.scope,
            "readings": list(foretold.readings),
            "exception": foretold.exception,
            "prediction": foretold.rule.describe(),
            **foretold.rule.record(),
            "falsifier": foretold.falsifier,
            "measured": _round(self.measured),
            "low": _round(self.low),
            "high": _round(self.high),
            "verdict": self.verdict,
        }


def _round(number: float) -> float:
    return float(f"{number:.4g}")
