"""Command line: ``python -m kvlib claims`` prints the ledger of the executed chapters."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvlib import claims


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        print(f"{row['id']}  {row['verdict']:<14}  ch. {row['chapter']}  {row['notebook'] or ''}")
        print(textwrap.indent(textwrap.fill(row["statement"], 88), "     "))
        print(textwrap.indent(textwrap.fill(f"predicted: {row['prediction']}", 88), "     "))
        if row["measured"] is not None:
            print(f"     measured:  {row['measured']} [{row['low']}, {row['high']}]")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kvlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    ledger = commands.add_parser(
        "claims",
        help="every claim with prediction, measurement and verdict",
        description="Print the ledger, read from executed notebooks only.",
    )
    ledger.add_argument(
        "--notebooks",
        type=Path,
        default=Path("notebooks"),
        help="folder of executed chapters (default: %(default)s)",
    )
    ledger.add_argument("--json", action="store_true", help="print a list of JSON objects instead")
    options = parser.parse_args(arguments)
    try:
        rows = claims.read_ledger(options.notebooks)
    except ValueError as error:
        print(f"kvlib: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        _print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
