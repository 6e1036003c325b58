"""The page on quantizers of one's own does what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kvlib import KVCache, save

PAGE = Path(__file__).resolve().parents[2] / "book" / "own.md"


def blocks():
    """The files of the page: name to what its code blocks make of it."""
    found = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        name = re.match(r"# (\w+\.py)", code)[1]
        found[name] = found.get(name, "") + code
    return found


@pytest.fixture
def folder(tmp_path):
    """A folder with the page's files and a small captured cache."""
    for name, code in blocks().items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    x = np.random.default_rng(1).standard_normal((3, 1, 2, 24, 64)).astype(np.float32)
    cache = KVCache(*x, causal=True, name="mine", layers=(0,), heads=(0, 1))
    save(tmp_path / "cache.npz", cache)
    return tmp_path


def python(folder, *arguments):
    """Run Python there, with that folder's modules."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_page_runs(folder):
    assert set(blocks()) == {"mymodule.py", "run.py"}
    done = python(folder, "run.py")
    assert done.returncode == 0, done.stderr
    assert "HALVES" in done.stdout
    assert (folder / "mine.png").read_bytes().startswith(b"\x89PNG")
    check = (
        "import mymodule, numpy as np; from kvlib import named, quantize\n"
        "x = np.ones((5, 8), np.float32); e = named('HALVES', 4).encode(x, x)\n"
        "e.save('e.npz'); assert (quantize.load('e.npz').decode()[0] == e.decode()[0]).all()\n"
        "assert isinstance(mymodule.Halves(), quantize.Quantizer)\n"
        "assert isinstance(e.key, quantize.Encoded)"
    )
    done = python(folder, "-c", check)
    assert done.returncode == 0, done.stderr


def test_the_command_of_the_page_runs(folder):
    (command,) = re.findall(r"```\npython (.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    arguments = command.replace("\\\n", " ").split()
    done = python(folder, *arguments, "--metrics", "kl_mean", "mymodule:worst_row")
    assert done.returncode == 0, done.stderr
    done = python(folder, "-m", "kvlib", "plot", "mine.parquet", "again.png")
    assert done.returncode == 0, done.stderr
