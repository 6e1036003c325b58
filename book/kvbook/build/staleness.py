"""When a chapter's result is out of date: the one notion of it, for the book and for other seeds.

A result depends on the code of the notebook, on the modules of kvlib and kvbook that it reaches by
import, on the data that they may load, and on the pinned packages. What counts is what is
executed: comments, docstrings, the text of the page and times of change do not.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from kvbook.build.chapters import ChapterProblem, code_cells, read, tags
from kvbook.build.storing import unfinished
from kvlib import sources
from kvlib.files import sha256, write_atomically

# A chapter that reaches this module may load any captured cache.
DATA_MODULE = "kvlib.data.captured"
RECORD = "executed.json"


def packages(root: Path) -> dict[str, Path]:
    """The packages whose modules a chapter may reach, each with its folder."""
    return {"kvlib": root / "kvlib", "kvbook": root / "book" / "kvbook"}


def python_source(notebook: NotebookNode) -> str:
    """The notebook's code as one piece of plain Python, magics translated."""
    transform = TransformerManager().transform_cell  # type: ignore[no-untyped-call]
    own = [c for c in code_cells(notebook) if "injected-parameters" not in tags(c)]
    return "\n".join(transform(cell.source) for cell in own)


def dependencies(path: Path, root: Path) -> set[Path]:
    """Every file whose change makes a chapter's results out of date.

    Returns
    -------
    set of Path
        The notebook, the modules of kvlib and kvbook it reaches, the data it may load and the pins.

    Raises
    ------
    ChapterProblem
        If its code or a module's is not valid Python.
    """
    text = python_source(read(path))
    try:
        reached = sources.closure(sources.imported(text, packages(root)), packages(root))
    except SyntaxError as error:
        file = Path(error.filename or "")
        name = file.name if file.is_file() else path.name
        raise ChapterProblem(f"{name} is not valid Python: {error}") from error
    texts = [text, *(file.read_text(encoding="utf-8") for file in reached.values())]
    files = {path, *reached.values()} | _data_files(root, reached, "\n".join(texts))
    pins = root / "requirements.txt"
    return files | ({pins} if pins.exists() else set())


def _data_files(root: Path, modules: Mapping[str, Path], text: str) -> set[Path]:
    """Captured caches, if the module that loads them is reached, and files named in the sources."""
    data = [p for p in sorted((root / "book" / "data").glob("**/*")) if p.is_file()]
    caches = {p for p in data if DATA_MODULE in modules and p.suffix == ".npz"}
    return caches | {p for p in data if p.name in text}


def digest(path: Path) -> str:
    """Hash of what a file contributes to a result.

    Of Python the code without comments and docstrings, of a notebook its code cells, of anything
    else every byte.
    """
    if path.suffix == ".ipynb":
        # A page that begins with a string shows it.
        return _digest_of_code(python_source(read(path)), docstring=False)
    if path.suffix == ".py":
        return _digest_of_code(path.read_text(encoding="utf-8"), docstring=True)
    return sha256(path)


@lru_cache(maxsize=1024)  # chapters share most of what they reach
def _digest_of_code(source: str, *, docstring: bool) -> str:
    """Hash of what code does; its first string is a docstring or not, others always are."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]) and (docstring or node != tree):
            del body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def digest_of_result(path: Path) -> str:
    """Hash of what came out of a notebook, cell by cell."""
    cells = [[c.execution_count, c.outputs] for c in code_cells(read(path))]
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()


def snapshot(path: Path, root: Path) -> dict[str, Any]:
    """The state of everything a chapter depends on."""
    files = sorted(dependencies(path, root))
    state = {file.relative_to(root).as_posix(): digest(file) for file in files}
    return {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "inputs": state}


def load_record(folder: Path) -> dict[str, Any]:
    """What was executed under which state; empty where nothing readable is stored."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def save_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Store the record in one step."""
    write_atomically(folder / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")


def why_stale(
    path: Path,
    result: Path,
    root: Path,
    record: Mapping[str, Any],
    now: Mapping[str, Any] | None = None,
) -> str | None:
    """Why a chapter must be executed, or None where its result is current.

    Parameters
    ----------
    path, result : Path
        The chapter's source and where its executed form is kept (the same file, except in
        runs with parameters of one's own).
    root : Path
        The repository.
    record : dict
        As from `load_record`.
    now : dict, optional
        The chapter's `snapshot`, where it has been taken already.
    """
    entry = record.get(path.name)
    if entry is None:
        return "never executed here"
    if not result.exists():
        return "no result"
    now = snapshot(path, root) if now is None else now
    if entry.get("python") != now["python"]:
        return "another Python"
    before = entry.get("inputs", {})
    changed = [k for k in sorted(before | now["inputs"]) if before.get(k) != now["inputs"].get(k)]
    if changed:
        return f"{changed[0]} changed" + (f" and {len(changed) - 1} more" if changed[1:] else "")
    if entry.get("result") != digest_of_result(result):
        return "its result changed"
    problems = unfinished(read(result))
    return problems[0] if problems else None
