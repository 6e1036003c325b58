"""Predictions, the rules that judge them, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kvbook.ledger import render
from kvbook.ledger.claims import CLAIMS
from kvbook.ledger.words import INCONCLUSIVE, NOT_SUPPORTED, PARTIAL, SUPPORTED

MIME_TYPE = "application/vnd.kvlib.verdict+json"
"""Of the record that the output of a verdict's cell carries."""

# Worst first: the check that decides a verdict is the first of these that occurs.
_SEVERITY = (NOT_SUPPORTED, INCONCLUSIVE, SUPPORTED)


class Estimate(Protocol):
    """A measured value with its interval; ``low == high == estimate`` for an exact one."""

    @property
    def estimate(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class Rule(Protocol):
    """Decides from an interval, never from a point."""

    def judge(self, low: float, high: float) -> str:
        """SUPPORTED, NOT SUPPORTED or INCONCLUSIVE."""

    def margin(self, low: float, high: float) -> float:
        """Distance from the interval's nearer end to the rule's boundary; negative outside."""

    def describe(self) -> str:
        """The predicted region in words."""


@dataclass(frozen=True)
class Within:
    """The value lies within ``tolerance`` of ``target``."""

    target: float
    tolerance: float

    def __post_init__(self) -> None:
        _check_finite(target=self.target, tolerance=self.tolerance)
        if self.tolerance < 0:
            raise ValueError(f"tolerance must be non-negative, got {self.tolerance}")

    def judge(self, low: float, high: float) -> str:
        """Supported when the whole interval lies inside, refuted when all of it lies outside."""
        bottom, top = self.target - self.tolerance, self.target + self.tolerance
        if bottom <= low and high <= top:
            return SUPPORTED
        return NOT_SUPPORTED if high < bottom or low > top else INCONCLUSIVE

    def margin(self, low: float, high: float) -> float:
        """Tolerance left over by the worse end of the interval."""
        return self.tolerance - max(abs(low - self.target), abs(high - self.target))

    def describe(self) -> str:
        """Target and tolerance."""
        return f"{render.number(self.target)} ± {render.number(self.tolerance)}"


@dataclass(frozen=True)
class Below:
    """The value is at most ``bound``."""

    bound: float

    def __post_init__(self) -> None:
        _check_finite(bound=self.bound)

    def judge(self, low: float, high: float) -> str:
        """Supported when the whole interval lies at or below the bound."""
        if high <= self.bound:
            return SUPPORTED
        return NOT_SUPPORTED if low > self.bound else INCONCLUSIVE

    def margin(self, low: float, high: float) -> float:
        """Bound minus the upper end."""
        return self.bound - high

    def describe(self) -> str:
        """The bound."""
        return f"≤ {render.number(self.bound)}"


@dataclass(frozen=True)
class Above:
    """The value is at least ``bound``."""

    bound: float

    def __post_init__(self) -> None:
        _check_finite(bound=self.bound)

    def judge(self, low: float, high: float) -> str:
        """Supported when the whole interval lies at or above the bound."""
        if low >= self.bound:
            return SUPPORTED
        return NOT_SUPPORTED if high < self.bound else INCONCLUSIVE

    def margin(self, low: float, high: float) -> float:
        """Lower end minus the bound."""
        return low - self.bound

    def describe(self) -> str:
        """The bound."""
        return f"≥ {render.number(self.bound)}"


@dataclass(frozen=True)
class Prediction:
    """One number foretold: what is measured, the rule for it, and what would falsify it."""

    label: str
    rule: Rule
    falsifier: str

    def check(self, measured: Estimate) -> Check:
        """Judge a measurement by this prediction's rule."""
        _check_finite(estimate=measured.estimate, low=measured.low, high=measured.high)
        if not measured.low <= measured.estimate <= measured.high:
            raise ValueError(
                f"measured[{self.label!r}] must have low <= estimate <= high, got {measured}"
            )
        verdict = self.rule.judge(measured.low, measured.high)
        return Check(self, measured.estimate, measured.low, measured.high, verdict)


@dataclass(frozen=True)
class Check:
    """A prediction with its measurement and the verdict of its rule."""

    prediction: Prediction
    measured: float
    low: float
    high: float
    verdict: str

    def interval(self) -> str:
        """The measurement in words."""
        return render.interval(self.measured, self.low, self.high)

    def record(self) -> dict[str, Any]:
        """JSON-ready, numbers to four significant digits (so that machines agree)."""
        return {
            "label": self.prediction.label,
            "prediction": self.prediction.rule.describe(),
            "rule": type(self.prediction.rule).__name__.lower(),
            "falsifier": self.prediction.falsifier,
            "measured": _round(self.measured),
            "low": _round(self.low),
            "high": _round(self.high),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Predictions:
    """All predictions a chapter makes for one claim, stated before the run.

    Raises
    ------
    ValueError
        If ``claim_id`` is not in the claims' table, or labels are missing or repeated.
    """

    claim_id: str
    predictions: Sequence[Prediction]

    def __post_init__(self) -> None:
        if self.claim_id not in CLAIMS:
            raise ValueError(f"claim_id must be one of {', '.join(CLAIMS)}, got {self.claim_id!r}")
        # What is stated before the run stays as it is, whatever becomes of the caller's list.
        object.__setattr__(self, "predictions", tuple(self.predictions))
        labels = [p.label for p in self.predictions]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"predictions must have distinct labels, got {labels}")

    def verdict(self, measured: Mapping[str, Estimate], *, note: str = "") -> Verdict:
        """Judge every prediction; each must be measured, and nothing else may be.

        Parameters
        ----------
        measured : mapping from prediction label to an estimate with its interval
        note : str
            A sentence shown with the verdict, for instance the corrected statement.
        """
        labels = [p.label for p in self.predictions]
        if set(labels) != set(measured):
            raise ValueError(
                f"measured must have exactly the predicted labels {labels}, got {list(measured)}"
            )
        checks = tuple(p.check(measured[p.label]) for p in self.predictions)
        return Verdict(self.claim_id, checks, note)

    def __repr__(self) -> str:
        lines = [f"{self.claim_id} predicts:"]
        lines += [f"  {p.label}: {p.rule.describe()}" for p in self.predictions]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [(p.label, p.rule.describe(), p.falsifier) for p in self.predictions]
        return render.prediction_box(self.claim_id, rows)


@dataclass(frozen=True)
class Verdict:
    """The checks of one claim and what they amount to."""

    claim_id: str
    checks: tuple[Check, ...]
    note: str = ""

    @property
    def verdict(self) -> str:
        """SUPPORTED, PARTIAL, NOT SUPPORTED or INCONCLUSIVE (see :func:`overall`)."""
        return overall([check.verdict for check in self.checks])

    @property
    def decisive(self) -> Check:
        """The check the verdict hangs on: the worst kind that occurs, then the least margin."""
        return min(
            self.checks,
            key=lambda c: (
                _SEVERITY.index(c.verdict),
                c.prediction.rule.margin(c.low, c.high),
            ),
        )

    @property
    def anchor(self) -> str:
        """Identifier of the verdict's box in its page."""
        return f"verdict-{self.claim_id.lower()}"

    def record(self) -> dict[str, Any]:
        """JSON-ready record, as the ledger stores it."""
        decisive = self.decisive.record()
        return {
            "id": self.claim_id,
            "verdict": self.verdict,
            "prediction": f"{decisive['label']}: {decisive['prediction']}",
            "falsifier": decisive["falsifier"],
            "rule": decisive["rule"],
            "measured": decisive["measured"],
            "low": decisive["low"],
            "high": decisive["high"],
            "anchor": self.anchor,
            "note": self.note,
            "checks": [check.record() for check in self.checks],
        }

    def __repr__(self) -> str:
        lines = [f"{self.claim_id}: {self.verdict}"]
        for check in self.checks:
            lines.append(
                f"  {check.prediction.label}: {check.interval()}, "
                f"predicted {check.prediction.rule.describe()}: {check.verdict}"
            )
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {
            "text/plain": repr(self),
            "text/html": self._html(),
            MIME_TYPE: self.record(),
        }

    def _html(self) -> str:
        rows = [
            (c.prediction.label, c.prediction.rule.describe(), c.interval(), c.verdict)
            for c in self.checks
        ]
        return render.verdict_box(
            self.claim_id, self.verdict, rows, anchor=self.anchor, note=self.note
        )


def overall(verdicts: Sequence[str]) -> str:
    """Verdict of a claim from those of its checks.

    All alike: that one. Some supported and some refuted: PARTIAL. Otherwise some interval is too
    wide to decide: INCONCLUSIVE.
    """
    kinds = set(verdicts)
    if not kinds or not kinds <= set(_SEVERITY):
        raise ValueError(f"verdicts must be one or more of {_SEVERITY}, got {list(verdicts)}")
    if {SUPPORTED, NOT_SUPPORTED} <= kinds:
        return PARTIAL
    return kinds.pop() if len(kinds) == 1 else INCONCLUSIVE


def _check_finite(**numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")


def _round(number: float) -> float:
    return float(f"{number:.4g}")
