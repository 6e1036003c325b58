"""What a chapter is: where it lies, what it is called, and where the results of a run go."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[3]


class ChapterProblem(Exception):
    """Something wrong with a chapter or a request for one; the message is for the user."""


def chapters(root: Path) -> list[Path]:
    """Paths of the chapters' notebooks, in order: 01_x, 07_y, its continuation 07b_z, A1_w.

    Raises
    ------
    ChapterProblem
        If two have one number: which of them is meant by it?
    """
    paths = sorted((root / "notebooks").glob("*_*.ipynb"))
    found = [path for path in paths if re.fullmatch(r"[0-9]{2}[a-z]?|A[0-9]", prefix(path))]
    twice = [number for number, count in Counter(map(label, found)).items() if count > 1]
    if twice:
        names = [path.name for path in found if label(path) == twice[0]]
        raise ChapterProblem(f"two notebooks have the number {twice[0]}: {', '.join(names)}")
    return found


def prefix(path: Path) -> str:
    """What a chapter's file name starts with: "07", "07b", "A1"."""
    return path.stem.split("_")[0]


def label(path: Path) -> str:
    """A chapter as it is called on the pages: "7", "7b", "A1"."""
    return prefix(path).lstrip("0")


def find_chapter(root: Path, number: str) -> Path:
    """The notebook of a chapter given as "2" or "02", "7b" or "07b", "A1".

    Raises
    ------
    ChapterProblem
        If no notebook has that number.
    """
    known = {label(path): path for path in chapters(root)}
    wanted = str(number).strip().lstrip("0")
    if wanted not in known:
        given = f"there is no chapter {number}" if number else "which chapter is not said"
        raise ChapterProblem(
            f"{given}; chapters are {', '.join(known) or 'none yet'} (example: make chapter N=2)"
        )
    return known[wanted]


def read(path: Path) -> NotebookNode:
    """A notebook as nbformat 4 with unique cell ids.

    Raises
    ------
    ChapterProblem
        If the file is not a notebook.
    """
    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ChapterProblem(f"{path.name} is not a readable notebook: {error}") from error
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The notebook's code cells that hold any code."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def tags(cell: Mapping[str, Any]) -> list[str]:
    """Tags of a cell."""
    return list(cell.get("metadata", {}).get("tags", []))


@dataclass(frozen=True)
class Run:
    """Where the results of one set of parameters go.

    Attributes
    ----------
    root : Path
        The repository.
    parameters : dict
        Values given on the command line; empty for the committed book.
    """

    root: Path
    parameters: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Folder of the book this run makes: the repository, or one below `_build/runs`."""
        if not self.parameters:
            return self.root
        text = ",".join(f"{key}={value!r}" for key, value in sorted(self.parameters.items()))
        plain = "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in text)
        if plain != text or len(plain) > 80:
            plain = f"{plain[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return self.root / "_build" / "runs" / plain

    @property
    def record_folder(self) -> Path:
        """Folder of the record of what was executed."""
        return self.folder if self.parameters else self.root / "_build"

    def result(self, path: Path) -> Path:
        """Where the executed form of a chapter is kept."""
        return self.folder / "notebooks" / path.name
