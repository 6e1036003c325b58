"""What a chapter foretells for a claim, check by check, before it measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvbook.ledger import render
from kvbook.ledger.checks import Prediction
from kvbook.ledger.claims import CLAIMS
from kvbook.ledger.rules import Estimate
from kvbook.ledger.verdicts import Verdict
from kvbook.ledger.words import CLAIM, NUMBER, STATEMENT


@dataclass(frozen=True)
class Predictions:
    """All predictions a chapter makes for one claim, stated before the run.

    Parameters
    ----------
    claim_id : str
    predictions : sequence of Prediction
        The claim's main check first.
    missing : str
        What would be needed to test the claim, or the rest of it, and is not available here. A
        claim without any check of its own is NOT TESTABLE HERE for this reason.
    pilots : str
        What of these rules was settled after a pilot run; empty where nothing was.

    Raises
    ------
    ValueError
        If ``claim_id`` is not in the claims' table, labels are missing or repeated, a check is of
        a published number where the claim has none, or no check decides and nothing is missing.
    """

    claim_id: str
    predictions: Sequence[Prediction]
    missing: str = ""
    pilots: str = ""

    def __post_init__(self) -> None:
        if self.claim_id not in CLAIMS:
            raise ValueError(f"claim_id must be one of {', '.join(CLAIMS)}, got {self.claim_id!r}")
        # What is stated before the run stays as it is, whatever becomes of the caller's list.
        object.__setattr__(self, "predictions", tuple(self.predictions))
        labels = [p.label for p in self.predictions]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"predictions must have distinct labels, got {labels}")
        self._check_parts()

    def _check_parts(self) -> None:
        """Refuse checks that no verdict could be made of."""
        claim = CLAIMS[self.claim_id]
        numbers = [p.label for p in self.predictions if p.part == NUMBER]
        if numbers and not (claim.published and claim.of_paper):
            raise ValueError(f"{self.claim_id} has no published number, got checks {numbers} of it")
        deciding = [p for p in self.predictions if p.scope == CLAIM and p.part == STATEMENT]
        if not deciding and not self.missing:
            raise ValueError(
                f"{self.claim_id} needs a check of its statement with scope {CLAIM!r}, or missing="
                " to say what it cannot be tested without"
            )
        if not claim.of_paper and any(p.readings for p in self.predictions):
            raise ValueError(f"{self.claim_id} is a result of the book: it has one reading")

    def verdict(
        self, measured: Mapping[str, Estimate], *, what_is_true: str, note: str = ""
    ) -> Verdict:
        """Judge every prediction; each must be measured, and nothing else may be.

        Parameters
        ----------
        measured : mapping from prediction label to an estimate with its interval
        what_is_true : str
            The corrected statement, one sentence: what a reader may take away.
        note : str
            Remarks on the checks, shown below them.
        """
        labels = [p.label for p in self.predictions]
        if set(labels) != set(measured):
            raise ValueError(
                f"measured must have exactly the predicted labels {labels}, got {list(measured)}"
            )
        if not what_is_true.strip():
            raise ValueError("what_is_true must say in a sentence what is true, got an empty text")
        checks = tuple(p.check(measured[p.label]) for p in self.predictions)
        return Verdict(self.claim_id, checks, what_is_true, note, self.missing, self.pilots)

    def __repr__(self) -> str:
        lines = [f"{self.claim_id} predicts:"]
        lines += [f"  {p.label}: {p.rule.describe()}" for p in self.predictions]
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        rows = [(p.label, p.rule.describe(), p.falsifier) for p in self.predictions]
        box = render.prediction_box(self.claim_id, rows)
        return {"text/plain": repr(self), "text/html": box}
