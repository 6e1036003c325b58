"""What a chapter is: where it lies, what it depends on, how it is stored, when it is stale."""

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from kvlib import sources
from kvlib.files import sha256, write_atomically

ROOT = Path(__file__).resolve().parents[3]
# A chapter that reaches this module may load any captured cache.
DATA_MODULE = "kvlib.data.captured"
RECORD = "executed.json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}


class ChapterProblem(Exception):
    """Something wrong with a chapter or a request for one; the message is for the user."""


def chapters(root):
    """Paths of the chapters' notebooks, in order: 01_x, 07_y, its continuation 07b_z, A1_w."""
    paths = sorted((root / "notebooks").glob("*_*.ipynb"))
    return [path for path in paths if re.fullmatch(r"[0-9]{2}[a-z]?|A[0-9]", prefix(path))]


def prefix(path):
    """What a chapter's file name starts with: "07", "07b", "A1"."""
    return path.stem.split("_")[0]


def label(path):
    """A chapter as it is called on the pages: "7", "7b", "A1"."""
    return prefix(path).lstrip("0")


def find_chapter(root, number):
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


def read(path):
    """A notebook as nbformat 4 with unique cell ids.

    Raises
    ------
    ChapterProblem
        If the file is not a notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        raise ChapterProblem(f"{path.name} is not a readable notebook: {error}") from error


def code_cells(notebook):
    """The notebook's code cells that hold any code."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


# ---------------------------------------------------------------- dependencies


def packages(root):
    """The packages whose modules a chapter may reach, each with its folder."""
    return {"kvlib": root / "kvlib", "kvbook": root / "book" / "kvbook"}


def python_source(notebook):
    """The notebook's code as one piece of plain Python, magics translated."""
    transform = TransformerManager().transform_cell
    return "\n".join(transform(cell.source) for cell in code_cells(notebook))


def dependencies(path, root):
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
    try:
        text = python_source(read(path))
        reached = sources.closure(sources.imported(text, packages(root)), packages(root))
    except SyntaxError as error:
        name = Path(error.filename).name if Path(error.filename or "").is_file() else path.name
        raise ChapterProblem(f"{name} is not valid Python: {error}") from error
    texts = [text, *(file.read_text(encoding="utf-8") for file in reached.values())]
    files = {path, *reached.values()} | data_files(root, reached, "\n".join(texts))
    pins = root / "requirements.txt"
    return files | ({pins} if pins.exists() else set())


def data_files(root, modules, text):
    """Captured caches, if the module that loads them is reached, and files named in the sources."""
    data = [p for p in sorted((root / "book" / "data").glob("**/*")) if p.is_file()]
    caches = {p for p in data if DATA_MODULE in modules and p.suffix == ".npz"}
    return caches | {p for p in data if p.name in text}


# ------------------------------------------------------------------- staleness


def fingerprint(path):
    """Content hash and time of change: either one differing means "changed", as with make."""
    return {
        "sha256": sha256(path),
        "mtime_ns": path.stat().st_mtime_ns,
    }


def snapshot(path, root):
    """The state of everything a chapter depends on."""
    files = sorted(dependencies(path, root))
    state = {file.relative_to(root).as_posix(): fingerprint(file) for file in files}
    return {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "inputs": state}


def load_record(folder):
    """What was executed under which state; empty where nothing readable is stored."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def save_record(folder, record):
    """Store the record in one step."""
    write_atomically(folder / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")


def why_stale(path, result, root, record):
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
    """
    entry = record.get(path.name)
    if entry is None:
        return "never executed here"
    if not result.exists():
        return "no result"
    now = snapshot(path, root)
    if entry.get("python") != now["python"]:
        return "another Python"
    before = entry.get("inputs", {})
    changed = [k for k in sorted(before | now["inputs"]) if before.get(k) != now["inputs"].get(k)]
    if changed:
        return f"{changed[0]} changed" + (f" and {len(changed) - 1} more" if changed[1:] else "")
    if entry.get("result") != fingerprint(result)["sha256"]:
        return "its result changed"
    problems = unfinished(read(result))
    return problems[0] if problems else None


# --------------------------------------------------------------------- storage


def unfinished(notebook):
    """What shows that a notebook was not executed from top to bottom without complaint."""
    problems = []
    for number, cell in enumerate(code_cells(notebook), start=1):
        if cell.execution_count != number:
            problems.append(f"code cell {number} has execution count {cell.execution_count}")
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(f"code cell {number} ends in {output.ename}: {output.evalue}")
            if output.output_type == "stream" and output.name == "stderr":
                line = (output.text.strip().splitlines() or [""])[0]
                problems.append(f"code cell {number} writes to stderr: {line}")
    return problems


def normalise(notebook):
    """Drop from an executed notebook what differs from run to run or from machine to machine.

    Execution counts become 1..N, neighbouring pieces of one stream are joined, and only the
    stable part of the metadata stays. The notebook is changed in place and returned.
    """
    notebook.metadata.pop("papermill", None)
    notebook.metadata["kernelspec"] = dict(KERNEL)
    notebook.metadata["language_info"] = dict(LANGUAGE)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    count = 0
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type != "code":
            continue
        ran = cell.execution_count is not None
        count += ran
        cell.execution_count = count if ran else None
        cell.outputs = join_streams(cell.outputs)
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = cell.execution_count
    return notebook


def join_streams(outputs):
    """Merge neighbouring pieces of the same stream: where it is cut is a matter of timing."""
    joined = []
    for output in outputs:
        last = joined[-1] if joined else None
        if (
            last is not None
            and output.output_type == last.output_type == "stream"
            and output.name == last.name
        ):
            last.text += output.text
        else:
            joined.append(output)
    return joined


def serialise(notebook):
    """The one text form in which a notebook is stored."""
    return nbformat.writes(notebook, indent=1, ensure_ascii=False).rstrip("\n") + "\n"


# ------------------------------------------------------------------ parameters


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
    parameters: dict

    @property
    def folder(self):
        """Folder of the book this run makes: the repository, or one below `_build/runs`."""
        if not self.parameters:
            return self.root
        text = ",".join(f"{key}={value!r}" for key, value in sorted(self.parameters.items()))
        plain = "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in text)
        if plain != text or len(plain) > 80:
            plain = f"{plain[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return self.root / "_build" / "runs" / plain

    @property
    def record_folder(self):
        """Folder of the record of what was executed."""
        return self.folder if self.parameters else self.root / "_build"

    def result(self, path):
        """Where the executed form of a chapter is kept."""
        return self.folder / "notebooks" / path.name
