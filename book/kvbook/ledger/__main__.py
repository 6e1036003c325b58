"""``python -m kvbook.ledger``: every claim with prediction, measurement and verdict."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvbook import ledger
from kvbook.ledger import stability
from kvlib import cli


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        print(f"{row['id']}  {row['verdict']:<14}  ch. {row['chapter']}  {row['notebook'] or ''}")
        print(textwrap.indent(textwrap.fill(row["statement"], 88), "     "))
        print(textwrap.indent(textwrap.fill(f"predicted: {row['prediction']}", 88), "     "))
        if row["measured"] is not None:
            print(f"     measured:  {row['measured']} [{row['low']}, {row['high']}]")
        if row["stability"] is not None:
            print(f"     seeds:     {row['stability']['summary']}")


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
