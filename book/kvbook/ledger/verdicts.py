"""What the checks of a claim amount to: a verdict on its statement, one on its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvbook.ledger import render
from kvbook.ledger.checks import Check
from kvbook.ledger.claims import CLAIMS
from kvbook.ledger.words import (
    CLAIM,
    FAILS,
    HOLDS,
    HOLDS_WITH_EXCEPTIONS,
    IN_TERMS_OF_NUMBERS,
    IN_TERMS_OF_RESULTS,
    INCONCLUSIVE,
    MET,
    MISSED,
    NOT_TESTABLE,
    NUMBER,
    ONE_READING,
    OURS,
    SOME_READINGS,
    STATEMENT,
    UNDECIDED,
)

MIME_TYPE = "application/vnd.kvlib.verdict+json"
"""Of the record that the output of a verdict's cell carries."""

HOLDING = (HOLDS, HOLDS_WITH_EXCEPTIONS)


@dataclass(frozen=True)
class Judgement:
    """What the deciding checks of a statement, or of a number, amount to.

    Attributes
    ----------
    verdict : str
    exceptions : tuple of str
        Names of the instances in which a statement that holds does not.
    tried, holding : tuple of str
        The readings tried, and those that hold; both empty where there is one reading only.
    """

    verdict: str
    exceptions: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    holding: tuple[str, ...] = ()


def all_of(checks: Sequence[Check]) -> Judgement:
    """What the checks of one reading amount to, joined by "all".

    A check without a name for its exception is essential: if it fails the statement FAILS. The
    others are instances: the statement HOLDS WITH EXCEPTIONS, named, while fewer than half of them
    fail or stay undecided.
    """
    essential = [c.verdict for c in checks if not c.prediction.exception]
    instances = [c for c in checks if c.prediction.exception]
    failing = [c for c in instances if c.verdict == MISSED]
    lost = [c for c in instances if c.verdict != MET]
    if MISSED in essential or 2 * len(failing) >= max(len(instances), 1):
        return Judgement(FAILS)
    if UNDECIDED in essential or 2 * len(lost) >= max(len(instances), 1):
        return Judgement(INCONCLUSIVE)
    names = tuple(_named(check) for check in lost)
    return Judgement(HOLDS_WITH_EXCEPTIONS if names else HOLDS, names)


def any_of(checks: Sequence[Check]) -> Judgement:
    """What checks with several readings amount to: one reading that holds is enough.

    Checks without a reading belong to all of them.
    """
    readings = tuple(dict.fromkeys(r for c in checks for r in c.prediction.readings))
    if not readings:
        return all_of(checks)
    outcomes = {
        reading: all_of([c for c in checks if _belongs(c, reading)]) for reading in readings
    }
    holding = tuple(r for r, outcome in outcomes.items() if outcome.verdict in HOLDING)
    exceptions = tuple(dict.fromkeys(e for r in holding for e in outcomes[r].exceptions))
    return Judgement(_over_readings(outcomes, holding), exceptions, readings, holding)


def _belongs(check: Check, reading: str) -> bool:
    return not check.prediction.readings or reading in check.prediction.readings


def _over_readings(outcomes: dict[str, Judgement], holding: Sequence[str]) -> str:
    """The verdict over all readings, from that of each."""
    kinds = {outcome.verdict for outcome in outcomes.values()}
    if not holding:
        return INCONCLUSIVE if INCONCLUSIVE in kinds else FAILS
    if len(holding) < len(outcomes):
        return ONE_READING if len(holding) == 1 else SOME_READINGS
    return HOLDS if kinds == {HOLDS} else HOLDS_WITH_EXCEPTIONS


def _named(check: Check) -> str:
    undecided = " (undecided)" if check.verdict == UNDECIDED else ""
    return check.prediction.exception + undecided


@dataclass(frozen=True)
class Verdict:
    """The checks of one claim and what they amount to.

    Attributes
    ----------
    claim_id : str
    checks : tuple of Check
    what_is_true : str
        The corrected statement.
    note : str
    missing, pilots : str
        As in :class:`kvbook.ledger.Predictions`.
    """

    claim_id: str
    checks: tuple[Check, ...]
    what_is_true: str
    note: str = ""
    missing: str = ""
    pilots: str = ""

    def judgement(self, part: str) -> Judgement | None:
        """On the statement or the number; None where there is nothing to judge."""
        deciding = [c for c in self.checks if c.decides and c.prediction.part == part]
        if deciding:
            return any_of(deciding)
        return Judgement(NOT_TESTABLE) if part == STATEMENT else None

    @property
    def verdict(self) -> str:
        """On the statement."""
        judged = self.judgement(STATEMENT)
        assert judged is not None
        words = {} if CLAIMS[self.claim_id].of_paper else IN_TERMS_OF_RESULTS
        return words.get(judged.verdict, judged.verdict)

    @property
    def number_verdict(self) -> str | None:
        """On the published number; None where none is judged."""
        judged = self.judgement(NUMBER)
        return IN_TERMS_OF_NUMBERS.get(judged.verdict, judged.verdict) if judged else None

    def tally(self, scope: str) -> tuple[int, int]:
        """(how many checks of a scope hold, how many there are)."""
        verdicts = [c.verdict for c in self.checks if c.prediction.scope == scope]
        return verdicts.count(MET), len(verdicts)

    @property
    def main(self) -> Check:
        """The claim's first own check, or the first of all where none decides."""
        return next((c for c in self.checks if c.decides), self.checks[0])

    def example(self, verdict: str) -> Check | None:
        """The first check that came out so: of the claim's own, or else of the book's."""
        found = [c for c in self.checks if c.verdict == verdict]
        for scope in (CLAIM, OURS):
            of_scope = [c for c in found if c.prediction.scope == scope]
            if of_scope:
                return of_scope[0]
        return None

    @property
    def anchor(self) -> str:
        """Identifier of the verdict's box in its page."""
        return f"verdict-{self.claim_id.lower()}"

    def record(self) -> dict[str, Any]:
        """JSON-ready record, as the ledger stores it."""
        main = self.main.record()
        held, total = self.tally(CLAIM)
        ours_held, ours_total = self.tally(OURS)
        judged = {part: self.judgement(part) or Judgement("") for part in (STATEMENT, NUMBER)}
        met, missed = self.example(MET), self.example(MISSED)
        return {
            "id": self.claim_id,
            "verdict": self.verdict,
            "number_verdict": self.number_verdict,
            "what_is_true": self.what_is_true,
            "held": held,
            "total": total,
            "ours_held": ours_held,
            "ours_total": ours_total,
            "exceptions": {part: list(judged[part].exceptions) for part in judged},
            "readings_tried": {part: list(judged[part].tried) for part in judged},
            "readings_holding": {part: list(judged[part].holding) for part in judged},
            "missing": self.missing,
            "pilots": self.pilots,
            "prediction": f"{main['label']}: {main['prediction']}",
            "falsifier": main["falsifier"],
            "rule": main["rule"],
            "measured": main["measured"],
            "low": main["low"],
            "high": main["high"],
            "example_that_holds": met and met.record(),
            "example_that_fails": missed and missed.record(),
            "anchor": self.anchor,
            "note": self.note,
            "checks": [check.record() for check in self.checks],
        }

    def title(self) -> str:
        """The verdicts in one line."""
        number = f" · published number: {self.number_verdict}" if self.number_verdict else ""
        return f"{self.claim_id}: {self.verdict}{number}"

    def __repr__(self) -> str:
        lines = [self.title(), f"  what is true: {self.what_is_true}"]
        for check in self.checks:
            mark = "" if check.decides else f" ({check.prediction.scope})"
            lines.append(
                f"  {check.prediction.label}{mark}: {check.interval()}, "
                f"predicted {check.prediction.rule.describe()}: {check.verdict}"
            )
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {
            "text/plain": repr(self),
            "text/html": render.verdict_box(self.record()),
            MIME_TYPE: self.record(),
        }
