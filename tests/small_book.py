"""A small repository on which the build is tried: a package, data, and chapters that use them."""

import os
import subprocess
import sys
from pathlib import Path

from kvbook.build import storing
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
# A package of the same name as the real one, so that the import rules are tried out as they are.
MODULES = {
    "__init__": "",
    "alpha": "from ._base import number\n",
    "_base": "number = 1\n",
    "beta": "def late():\n    from kvlib import alpha\n    return alpha\n",
    "data/__init__": "",
    "data/captured": "import kvlib.alpha\n",
    "lonely": "",
}


def make(root):
    """Lay out the repository; returns its folder."""
    for folder in ("kvlib/data", "notebooks", "book/data"):
        (root / folder).mkdir(parents=True)
    for name, source in MODULES.items():
        (root / "kvlib" / f"{name}.py").write_text(source, encoding="utf-8")
    (root / "requirements.txt").write_text("numpy==2\n", encoding="utf-8")
    (root / "book" / "data" / "keys.npz").write_bytes(b"keys")
    (root / "book" / "data" / "other.npz").write_bytes(b"other")
    return root


def notebook(*cells, parameters="seed = 1\nscale = 0.5", title="# Title"):
    """A notebook of code cells, the first of which holds the parameters."""
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    made = new_notebook(
        cells=[new_markdown_cell(title), first, *(new_code_cell(source) for source in cells)],
        metadata={"kernelspec": dict(storing.KERNEL)},
    )
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"
    return made


def put(root, name, *cells, **options):
    """Write a chapter into a book; cells are sources, or one notebook."""
    made = cells[0] if cells and not isinstance(cells[0], str) else notebook(*cells, **options)
    path = root / "notebooks" / f"{name}.ipynb"
    path.write_text(storing.serialise(made), encoding="utf-8")
    return path


# As the Makefile starts a tool: what PYTHON... variables name is not the tool's.
_START = (
    "import runpy, sys; sys.path[:0] = [{root!r}, {book!r}]; name = sys.argv[1];"
    "del sys.argv[1]; runpy.run_module('kvbook.build.' + name, run_name='__main__')"
)


def command(name, *options):
    """The command of one of the build's tools."""
    start = _START.format(root=str(ROOT), book=str(ROOT / "book"))
    return [sys.executable, "-E", "-c", start, name, *options]


def tool(root, name, *options, **variables):
    """Run one of the build's tools on a repository, as the Makefile calls it."""
    return subprocess.run(
        command(name, "--root", str(root), *options),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **variables},
    )


def write_program(path, text):
    """Lay down a shell program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def alive(pid):
    """Whether a process still runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def ledger_record(**changes):
    """A record of the ledger as a verdict's cell carries it, with what a test changes."""
    empty = {"statement": [], "number": []}
    plain = {
        "id": "T03",
        "verdict": "CONFIRMED",
        "number_verdict": None,
        "what_is_true": "It is so.",
        "held": 1,
        "total": 2,
        "ours_held": 0,
        "ours_total": 0,
        "exceptions": empty,
        "readings_tried": empty,
        "readings_holding": empty,
        "missing": "",
        "pilots": "",
        "prediction": "first: 1 ± 2",
        "falsifier": "outside",
        "rule": "within",
        "measured": 1.0,
        "low": 0.9,
        "high": 1.1,
        "example_that_holds": None,
        "example_that_fails": None,
        "anchor": "verdict-t03",
        "note": "",
        "checks": [],
    }
    return plain | changes
