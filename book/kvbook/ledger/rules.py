"""The ledger: what is claimed, what was predicted, what was measured, and the verdict by rule.

A chapter states its predictions before it measures::

    predictions = claims.Predictions("T03", [claims.Prediction("D(2) at d=128", rule, falsifier)])
    predictions                      # shown on the page
    ...                              # the experiment
    predictions.verdict({"D(2) at d=128": interval})   # shown, and read back by the ledger

The verdict cell's output carries a machine-readable record. :func:`read_ledger` collects those
from executed notebooks and from nowhere else, so a verdict cannot be typed.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kvbook.ledger.claims import CLAIMS, Claim
from kvbook.ledger.stability import INCONCLUSIVE, read_stability, with_stability

__all__ = [
    "CLAIMS",
    "MIME_TYPE",
    "Above",
    "Below",
    "Check",
    "Claim",
    "Estimate",
    "Prediction",
    "Predictions",
    "Rule",
    "Verdict",
    "Within",
    "overall",
    "read_ledger",
    "verdict_records",
]

MIME_TYPE = "application/vnd.kvlib.verdict+json"

SUPPORTED = "SUPPORTED"
PARTIAL = "PARTIAL"
NOT_SUPPORTED = "NOT SUPPORTED"
NOT_YET_TESTED = "NOT YET TESTED"

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
        return f"{_show(self.target)} ± {_show(self.tolerance)}"


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
        return f"≤ {_show(self.bound)}"


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
        return f"≥ {_show(self.bound)}"


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
        If ``claim_id`` is not in :data:`CLAIMS`, or labels are missing or repeated.
    """

    claim_id: str
    predictions: Sequence[Prediction]

    def __post_init__(self) -> None:
        if self.claim_id not in CLAIMS:
            raise ValueError(f"claim_id must be one of {', '.join(CLAIMS)}, got {self.claim_id!r}")
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
        table = _html_table(("quantity", "predicted", "falsified by"), rows)
        title = f"{self.claim_id} — predicted before the run"
        return f'<div class="kv-prediction"><p class="kv-title">{title}</p>{table}</div>'


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
                f"  {check.prediction.label}: {_interval(check)}, "
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
            (
                check.prediction.label,
                check.prediction.rule.describe(),
                _interval(check),
                check.verdict,
            )
            for check in self.checks
        ]
        table = _html_table(("quantity", "predicted", "measured", "verdict"), rows)
        css = self.verdict.lower().replace(" ", "-")
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        return (
            f'<div class="kv-verdict {css}" id="{self.anchor}">'
            f'<p class="kv-title">{self.claim_id} — {self.verdict}</p>{table}{note}</div>'
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


def read_ledger(notebooks: Path | str, stability: Path | str | None = None) -> list[dict[str, Any]]:
    """One record for every claim and result, in order, from the executed notebooks.

    Parameters
    ----------
    notebooks : path
        Folder of executed ``.ipynb`` files.
    stability : path, optional
        Verdicts under other seeds, as ``make verdicts`` stores them; a missing file counts as
        none. A verdict that is not the same under all seeds is INCONCLUSIVE in the ledger.

    Returns
    -------
    list of dict
        Keys id, kind, chapter, statement, place, published, verdict, prediction, falsifier, rule,
        measured, low, high, anchor, note, checks, notebook (folder and file name), stability.
        Claims that no notebook judges say NOT YET TESTED, with the book's expectation as
        prediction and None for numbers. Where other seeds were tried, stability has the keys
        seeds, verdicts (one for each), moved (the checks that flip), fingerprint, page (the
        notebook's own verdict), stale (measured on an earlier version: shown, but it decides
        nothing) and summary (in words); otherwise it is None.

    Raises
    ------
    ValueError
        If the folder holds no notebook, two verdicts claim the same id, or `stability` is no
        such record.
    """
    paths = sorted(Path(notebooks).glob("*.ipynb"))
    if not paths:
        raise ValueError(f"notebooks must be a folder of .ipynb files, got {str(notebooks)!r}")
    seeds = {} if stability is None else read_stability(stability)
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        document = json.loads(path.read_text(encoding="utf-8"))
        for record in verdict_records(document):
            name = record["id"]
            if name in found:
                other = found[name]["notebook"]
                raise ValueError(f"{name} is judged twice: in {other} and in {path.name}")
            place = {"notebook": f"{path.parent.name}/{path.name}", "stability": None}
            found[name] = record | place
            if name in seeds:
                found[name] = with_stability(found[name], seeds[name], document)
    return [_row(claim, found.get(claim.id)) for claim in CLAIMS.values()]


def verdict_records(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdicts among the outputs of one executed notebook, given as JSON."""
    outputs = [output for cell in document["cells"] for output in cell.get("outputs", [])]
    return [output["data"][MIME_TYPE] for output in outputs if MIME_TYPE in output.get("data", {})]


def _row(claim: Claim, record: dict[str, Any] | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": claim.id,
        "kind": claim.kind,
        "chapter": claim.chapter,
        "statement": claim.statement,
        "place": claim.place,
        "published": claim.published,
    }
    untested: dict[str, Any] = {
        "verdict": NOT_YET_TESTED,
        "prediction": claim.expectation,
        "falsifier": "",
        "rule": None,
        "measured": None,
        "low": None,
        "high": None,
        "anchor": None,
        "note": "",
        "checks": [],
        "notebook": None,
        "stability": None,
    }
    return row | (untested if record is None else record)


def _check_finite(**numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")


def _round(number: float) -> float:
    return float(f"{number:.4g}")


def _show(number: float) -> str:
    return f"{number:.4g}"


def _interval(check: Check) -> str:
    if check.low == check.high:
        return f"{_show(check.measured)} (exact)"
    return f"{_show(check.measured)} [{_show(check.low)}, {_show(check.high)}]"


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
