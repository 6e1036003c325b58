"""Whether a verdict survives another seed: the committed record and what it does to a row.

``make verdicts`` executes the chapters under further root seeds and stores, for every claim, the
verdict under each. A verdict that is not the same under all of them is INCONCLUSIVE in the
ledger. The record also stores a fingerprint of what it was measured on, so that an old record is
shown as old and decides nothing.
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

from kvbook.ledger.words import INCONCLUSIVE, NO_RESULT

FILE = "verdict_stability.json"
"""Name of the committed record."""

_CHECKED = ("label", "prediction", "rule", "measured", "low", "high", "verdict")


@dataclass(frozen=True)
class Stability:
    """The verdicts of one claim under further root seeds.

    Attributes
    ----------
    seeds : sequence of int
    verdicts : sequence of str
        One for each seed.
    fingerprint : str
        What they were measured on, see :func:`fingerprint`.
    moved : mapping
        Checks that do not come out alike under all seeds: label to verdicts, one for each seed.
    """

    seeds: Sequence[int]
    verdicts: Sequence[str]
    fingerprint: str
    moved: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        lengths = {len(self.seeds), len(self.verdicts), *map(len, self.moved.values())}
        if len(lengths) > 1 or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds must be distinct, with one verdict for each, got seeds {self.seeds}, "
                f"verdicts {self.verdicts} and moved checks {dict(self.moved)}"
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
        by_seed = [_verdicts(record) for record in others.values()]
        moved = {}
        for label, verdict in _verdicts(own)[1].items():
            under = [checks.get(label, NO_RESULT) for _, checks in by_seed]
            if set(under) != {verdict}:
                moved[label] = under
        verdicts = [verdict for verdict, _ in by_seed]
        return cls(list(others), verdicts, fingerprint(document, own), moved)

    def stale(self, document: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
        """Whether the notebook or its record is no longer what the seeds were tried on."""
        return self.fingerprint != fingerprint(document, own)

    def counts(self, own: str) -> dict[str, int]:
        """How many seeds give which verdict, the notebook's own first and counted in."""
        return dict(Counter([own, *self.verdicts]))


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
    """A row of the ledger whose verdict has been held against other seeds."""
    own = row["verdict"]
    stale = entry.stale(document, row)
    counts = entry.counts(own)
    summary = _summary(counts, stale)
    known = {**vars(entry), "page": own, "stale": stale, "summary": summary}
    flips = len(counts) > 1 and not stale
    note = f"The verdict depends on the seed: {summary}. {row['note']}".strip()
    return {
        **row,
        "verdict": INCONCLUSIVE if flips else own,
        "note": note if flips else row["note"],
        "stability": known,
    }


def _summary(counts: Mapping[str, int], stale: bool) -> str:
    if stale:
        return "other seeds were tried on an earlier version"
    total = sum(counts.values())
    first, *rest = counts.items()
    text = f"{first[0]} on {first[1]} of {total} seeds"
    return text + "".join(f", {verdict} on {count}" for verdict, count in rest)


def _verdicts(record: Mapping[str, Any] | None) -> tuple[str, dict[str, str]]:
    """The verdict of a record and those of its checks."""
    if record is None:
        return NO_RESULT, {}
    return record["verdict"], {check["label"]: check["verdict"] for check in record["checks"]}
