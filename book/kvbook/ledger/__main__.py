"""``python -m kvbook.ledger``: every claim with its verdicts, what is true, and the evidence."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvbook import ledger
from kvbook.ledger import render, stability
from kvbook.ledger.rows import counts
from kvlib import cli


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        number = f"; number: {row['number_verdict']}" if row["number_verdict"] else ""
        print(f"{row['id']}  {row['verdict']}{number}  {row['notebook'] or 'no chapter'}")
        _print_part("claim", row["statement"])
        _print_part("true", row["what_is_true"])
        _print_part("checks", counts(row))
        for key, word in (("example_that_holds", "holds"), ("example_that_fails", "fails")):
            if row[key]:
                interval = render.interval(*(row[key][k] for k in ("measured", "low", "high")))
                _print_part(word, f"{row[key]['label']}: {interval}")
        if row["stability"] is not None:
            _print_part("seeds", row["stability"]["summary"])


def _print_part(name: str, text: str) -> None:
    """One labelled paragraph, if there is anything to say."""
    if text:
        lines = textwrap.fill(text, 100, initial_indent=f"     {name + ':':<8}")
        print(lines.replace("\n", "\n" + " " * 13))


def _print_ledger(options: argparse.Namespace) -> int:
    rows = ledger.read_ledger(options.notebooks, options.stability)
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        _print_table(rows)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the ledger; returns the exit status, as :func:`kvlib.cli.run` does."""
    parser = argparse.ArgumentParser(
        prog="python -m kvbook.ledger",
        description="Print the ledger, read from executed notebooks and held against other seeds.",
    )
    parser.add_argument(
        "--notebooks",
        type=Path,
        default=Path("notebooks"),
        help="folder of executed chapters (default: %(default)s)",
    )
    parser.add_argument(
        "--stability",
        type=Path,
        default=Path("book") / stability.FILE,
        help="verdicts under other seeds, from `make verdicts` (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects instead")
    parser.set_defaults(run=_print_ledger)
    return cli.run(lambda: parser.parse_args(arguments), "kvbook.ledger")


if __name__ == "__main__":
    sys.exit(main())
