"""Whether a verdict survives another seed: the committed record and what it does to a row.

``make verdicts`` executes the chapters under further root seeds and stores, for every claim, both
verdicts under each: on its statement and on its published number. A verdict that is not the same
under all of them is INCONCLUSIVE in the ledger; one that only moves between holding and holding
with exceptions is the weaker of the two. The record also stores a fingerprint of what it was
measured on, so that an old record is shown as old and decides nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvbook.ledger.words import (
    CONFIRMED,
    CONFIRMED_WITH_EXCEPTIONS,
    HOLDS,
    HOLDS_WITH_EXCEPTIONS,
    INCONCLUSIVE,
    NO_RESULT,
    ONE_READING,
    SOME_READINGS,
)

FILE = "verdict_stability.json"
"""Name of the committed record."""

_CHECKED = (
    *("label", "part", "scope", "readings", "exception"),
    *("prediction", "rule", "measured", "low", "high", "verdict"),
)
_GRADES = (
    (HOLDS, HOLDS_WITH_EXCEPTIONS),
    (CONFIRMED, CONFIRMED_WITH_EXCEPTIONS),
    (SOME_READINGS, ONE_READING),
)
"""Verdicts that differ in degree only, the stronger first."""


@dataclass(frozen=True)
class Stability:
    """The verdicts of one claim under further root seeds.

    Attributes
    ----------
    seeds : sequence of int
    verdicts : sequence of str
        On the statement, one for each seed.
    number_verdicts : sequence of str
        On the published number, one for each seed; empty where none is judged.
    fingerprint : str
        What they were measured on, see :func:`fingerprint`.
    moved : mapping
        Checks that do not come out alike under all seeds: label to verdicts, one for each seed.
    """

    seeds: Sequence[int]
    verdicts: Sequence[str]
    number_verdicts: Sequence[str]
    fingerprint: str
    moved: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        lengths = {len(self.seeds), len(self.verdicts), *map(len, self.moved.values())}
        lengths |= {len(self.number_verdicts)} if self.number_verdicts else set()
        if len(lengths) > 1 or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds must be distinct, with one verdict for each, got seeds {self.seeds}, "
                f"verdicts {self.verdicts}, number_verdicts {self.number_verdicts} and moved "
                f"checks {dict(self.moved)}"
            )

    @classmethod
    def measured(
        cls, document: Mapping[str, Any], own: Mapping[str, Any], others: Mapping[int, Any]
    ) -> Stability:
        """What the records of one claim under several seeds amount to.

        Parameters
        ----------
        document : mapping
            The committed notebook, as JSON.
        own : mapping
            Its record of the claim.
        others : mapping
            Seed to the record under that seed, None where there is none.
        """
        records = list(others.values())
        moved = {}
        for label, verdict in _checks(own).items():
            under = [_checks(record).get(label, NO_RESULT) for record in records]
            if set(under) != {verdict}:
                moved[label] = under
        verdicts, numbers = ([_said(r, key) for r in records] for key in _KEYS)
        if own["number_verdict"] is None:
            numbers = []
        return cls(list(others), verdicts, numbers, fingerprint(document, own), moved)

    def stale(self, document: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
        """Whether the notebook or its record is no longer what the seeds were tried on."""
        return self.fingerprint != fingerprint(document, own)


def fingerprint(document: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Hash of a verdict's checks (label, rule and numbers) and of the chapter's parameters.

    A change that moves no number of this verdict leaves it alone: of the page's text and figures,
    of the code that the chapter runs, of another claim's checks.
    """
    checks = [[check.get(key) for key in _CHECKED] for check in record["checks"]]
    text = json.dumps([_parameters(document), checks], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parameters(document: Mapping[str, Any]) -> str:
    """The cell tagged ``parameters``, without its comments."""
    sources = [
        "".join(cell["source"])
        for cell in document["cells"]
        if "parameters" in cell.get("metadata", {}).get("tags", [])
    ]
    return ast.unparse(ast.parse("\n".join(sources)))


def read_stability(path: Path | str) -> dict[str, Stability]:
    """Claim id to its stability, as :func:`dump_stability` wrote them.

    Raises
    ------
    ValueError
        If the file is there and not such a record; a missing one is an empty one.
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {name: Stability(**entry) for name, entry in stored["claims"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"stability must be a record of `make verdicts`: {error}") from error


def dump_stability(entries: Mapping[str, Stability]) -> str:
    """The text form of such a record."""
    # One claim a line: a difference between two records can be read.
    lines = [
        f"  {json.dumps(name)}: {json.dumps(vars(entry), ensure_ascii=False)}"
        for name, entry in sorted(entries.items())
    ]
    return '{\n "claims": {\n' + ",\n".join(lines) + "\n }\n}\n"


def with_stability(
    row: Mapping[str, Any], entry: Stability, document: Mapping[str, Any]
) -> dict[str, Any]:
    """A row of the ledger whose verdicts have been held against other seeds."""
    stale = entry.stale(document, row)
    own = {key: row[key] for key in _KEYS}
    under = dict(zip(_KEYS, (entry.verdicts, entry.number_verdicts), strict=True))
    summaries = {
        key: _summary(Counter([own[key], *under[key]]), stale) if own[key] else "" for key in _KEYS
    }
    judged = {key: own[key] if stale else _over_seeds([own[key], *under[key]]) for key in _KEYS}
    moved = [key for key in _KEYS if judged[key] != own[key]]
    notes = [f"The {_KEYS[key]} depends on the seed: {summaries[key]}." for key in moved]
    return {
        **row,
        **judged,
        "note": " ".join([*notes, row["note"]]).strip(),
        "stability": {
            **vars(entry),
            "page": own["verdict"],
            "number_page": own["number_verdict"],
            "stale": stale,
            "summary": summaries["verdict"],
            "number_summary": summaries["number_verdict"],
        },
    }


def _over_seeds(verdicts: Sequence[str | None]) -> str | None:
    """One verdict for all seeds: theirs, the weaker of two degrees, or INCONCLUSIVE."""
    kinds = set(verdicts)
    if len(kinds) == 1:
        return verdicts[0]
    for grades in _GRADES:
        if kinds == set(grades):
            return grades[-1]
    return INCONCLUSIVE


def _summary(counts: Mapping[str, int], stale: bool) -> str:
    if stale:
        return "other seeds were tried on an earlier version"
    total = sum(counts.values())
    first, *rest = counts.items()
    text = f"{first[0]} on {first[1]} of {total} seeds"
    return text + "".join(f", {verdict} on {count}" for verdict, count in rest)


_KEYS = {"verdict": "verdict", "number_verdict": "verdict on the number"}
"""Where a record keeps its verdicts, and what they are called."""


def _said(record: Mapping[str, Any] | None, key: str) -> str:
    """One of the verdicts of a record."""
    return NO_RESULT if record is None else record[key] or NO_RESULT


def _checks(record: Mapping[str, Any] | None) -> dict[str, str]:
    """What a record says of each check."""
    return {} if record is None else {c["label"]: c["verdict"] for c in record["checks"]}
