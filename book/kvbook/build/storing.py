"""How an executed notebook is stored: whole, in one form, and only where something changed."""

from __future__ import annotations

import base64
import copy
import io

import nbformat
import numpy as np
from nbformat import NotebookNode
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from kvbook.build.chapters import code_cells

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}
MOST_BYTES = 2_000_000
"""Largest notebook that is stored: what comes out of a page shall be read, not scrolled."""

# Anti-aliasing differs between processors: a pixel on the edge of a line may take any value
# between those around it. Anything else differs by rounding, below this (of one).
_ROUNDING = 0.02


def unfinished(notebook: NotebookNode) -> list[str]:
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
        if "figure" in cell.metadata.get("mystnb", {}) and not images(cell):
            problems.append(f"code cell {number} is a figure and has no image")
    return problems


def images(cell: NotebookNode) -> list[str]:
    """PNG images of a code cell's outputs, in base64."""
    found = (output.get("data", {}).get("image/png") for output in cell.outputs)
    return [image for image in found if image]


def normalise(notebook: NotebookNode) -> NotebookNode:
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


def join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Merge neighbouring pieces of the same stream: where it is cut is a matter of timing."""
    joined: list[NotebookNode] = []
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


def serialise(notebook: NotebookNode) -> str:
    """The one text form in which a notebook is stored."""
    text: str = nbformat.writes(notebook, indent=1, ensure_ascii=False)  # type: ignore[no-untyped-call]
    return text.rstrip("\n") + "\n"


# The same result -------------------------------------------------------------------------------


def same_result(stored: NotebookNode, executed: NotebookNode) -> bool:
    """Whether two executions give the same page: all but images alike, images to the eye."""
    first, second = _without_images(stored), _without_images(executed)
    if serialise(first[0]) != serialise(second[0]) or len(first[1]) != len(second[1]):
        return False
    return all(a == b or same_image(a, b) for a, b in zip(first[1], second[1], strict=True))


def _without_images(notebook: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """A notebook with a mark for each PNG image, and the images."""
    bare, found = copy.deepcopy(notebook), []
    for cell in code_cells(bare):
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                found.append(data["image/png"])
                data["image/png"] = "an image"
    return bare, found


def same_image(first: str, second: str) -> bool:
    """Whether two PNG images, in base64, show the same.

    They do if they are of one size and no pixel of either leaves the range of the other's pixels
    around it (3 x 3) by more than rounding: that is how anti-aliasing differs between processors,
    while a line that moves by its width, or another colour, does leave it.
    """
    try:
        a, b = decoded(first), decoded(second)
    except (OSError, SyntaxError, ValueError):  # one of them is no PNG
        return False
    return a.shape == b.shape and _within_reach(a, b) and _within_reach(b, a)


def decoded(image: str) -> NDArray[np.float32]:
    """Pixels of a PNG image in base64, shape (rows, columns, channels), from zero to one."""
    with Image.open(io.BytesIO(base64.b64decode(image))) as opened:
        return np.asarray(opened.convert("RGBA"), dtype=np.float32) / np.float32(255)


def _within_reach(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    low = ndimage.minimum_filter(b, size=(3, 3, 1)) - _ROUNDING
    high = ndimage.maximum_filter(b, size=(3, 3, 1)) + _ROUNDING
    return bool(((a >= low) & (a <= high)).all())
