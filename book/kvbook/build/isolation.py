"""What of the user's surroundings must not reach the chapters, their tests and the pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kvbook.build.chapters import ChapterProblem

# Beginnings of the variables that could bring packages, kernels, options or figures of the user's.
_FOREIGN = (
    "IPYTHON",
    "JUPYTER",
    "KVLIB_",
    "MATPLOTLIB",
    "MPL",
    "MYPY",
    "NUMBA_",
    "PYTEST_",
    "PYTHON",
)
# Where compiled code is kept says nothing of what it computes.
_ALLOWED = ("NUMBA_CACHE_DIR",)


def isolated(root: Path) -> dict[str, str]:
    """The variables of a process of the book: one thread, fixed hashing, nothing of the user's."""
    fixed = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUTF8": "1",
        "IPYTHONDIR": str(root / "_build" / "ipython"),
        "MPLCONFIGDIR": str(root / "_build" / "matplotlib"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        # The chapters must meet this tree's packages and nobody else's.
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "book")]),
    }
    own = {
        name: value
        for name, value in os.environ.items()
        if name in _ALLOWED or not name.startswith(_FOREIGN)
    }
    return own | fixed


def prepare(root: Path) -> None:
    """Folders and caches the kernels share, made before they race for them."""
    for name in ("ipython", "matplotlib", "logs"):
        (root / "_build" / name).mkdir(parents=True, exist_ok=True)
    if not list((root / "_build" / "matplotlib").glob("fontlist*.json")):
        # Building the font list takes seconds and writes to stderr, in whichever chapter is first.
        subprocess.run(
            [sys.executable, "-c", "import matplotlib.font_manager"],
            env=isolated(root),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


def refuse_foreign_kernel(name: str) -> None:
    """Refuse a kernel of another environment, whose packages are not the pinned ones.

    Raises
    ------
    ChapterProblem
        If the kernel's interpreter has another `sys.prefix` than this one.
    """
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name=name)
    spec, interpreter = manager.kernel_spec, manager.format_kernel_cmd()[0]
    assert spec is not None  # or it would have raised
    try:
        done = subprocess.run(
            [interpreter, "-c", "import sys; print(sys.prefix)"],
            env={**os.environ, **spec.env},
            capture_output=True,
            text=True,
            check=False,
        )
        prefix = done.stdout.strip()
    except OSError:  # there is no such interpreter
        prefix = ""
    if not prefix or Path(prefix).resolve() != Path(sys.prefix).resolve():
        raise ChapterProblem(
            f"the kernel {name!r} of {spec.resource_dir} runs in {prefix or interpreter}, not in "
            f"the book's environment {sys.prefix}; remove that kernel or make environment again"
        )
