"""The ledger as it stands in the executed notebooks, one row for every claim."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvbook.ledger.claims import CLAIMS, Claim
from kvbook.ledger.verdicts import MIME_TYPE
from kvbook.ledger.stability import read_stability, with_stability
from kvbook.ledger.words import NOT_YET_TESTED, NUMBER, STATEMENT


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
        Of the claim: keys id, kind, chapter, statement, place, published. Of its verdicts, as
        :meth:`kvbook.ledger.Verdict.record` gives them: verdict (of the statement),
        number_verdict (None without one), what_is_true, held and total (of the claim's own
        checks), ours_held, ours_total, exceptions, readings_tried, readings_holding, missing,
        pilots, the main check (prediction, falsifier, rule, measured, low, high),
        example_that_holds, example_that_fails, anchor, note, checks. Further notebook (folder
        and file name) and stability. Claims that no notebook judges say NOT YET TESTED, with the
        book's expectation as prediction and None for numbers. Where other seeds were tried,
        stability has the keys seeds, verdicts and number_verdicts (one for each), moved (the
        checks that flip), fingerprint, page and number_page (the notebook's own verdicts), stale
        (measured on an earlier version: shown, but it decides nothing), summary and
        number_summary (in words); otherwise it is None.

    Raises
    ------
    ValueError
        If the folder holds no notebook, a file is none, a verdict is of no claim in the table or
        of one that is judged already, or `stability` is no such record.
    """
    paths = sorted(Path(notebooks).glob("*.ipynb"))
    if not paths:
        raise ValueError(f"notebooks must be a folder of .ipynb files, got {str(notebooks)!r}")
    seeds = {} if stability is None else read_stability(stability)
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        document = read_document(path)
        for record in verdict_records(document):
            name = record.get("id")
            if not isinstance(name, str) or name not in CLAIMS:
                raise ValueError(f"{path.name} judges {name!r}, which is not in the claims' table")
            if name in found:
                other = found[name]["notebook"]
                raise ValueError(f"{name} is judged twice: in {other} and in {path.name}")
            place = {"notebook": f"{path.parent.name}/{path.name}", "stability": None}
            found[name] = record | place
            if name in seeds:
                found[name] = with_stability(found[name], seeds[name], document)
    return [_row(claim, found.get(claim.id)) for claim in CLAIMS.values()]


def read_document(path: Path) -> dict[str, Any]:
    """A notebook as JSON.

    Raises
    ------
    ValueError
        If the file is no notebook.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not a readable notebook: {error}") from error
    cells = document.get("cells") if isinstance(document, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ValueError(f"{path.name} is not a readable notebook: it has no list of cells")
    return dict(document)


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
    return row | (_untested(claim) if record is None else record)


def _untested(claim: Claim) -> dict[str, Any]:
    """What a row says of a claim that no notebook judges."""
    nothing: dict[str, list[str]] = {STATEMENT: [], NUMBER: []}
    numbers = ("held", "total", "ours_held", "ours_total")
    texts = ("what_is_true", "falsifier", "missing", "pilots", "note")
    absent = ("number_verdict", "rule", "measured", "low", "high", "anchor", "notebook")
    examples = ("example_that_holds", "example_that_fails", "stability")
    lists = ("exceptions", "readings_tried", "readings_holding")
    return {
        "verdict": NOT_YET_TESTED,
        "prediction": claim.expectation,
        "checks": [],
        **dict.fromkeys(numbers, 0),
        **dict.fromkeys(texts, ""),
        **dict.fromkeys((*absent, *examples), None),
        **{name: dict(nothing) for name in lists},
    }
