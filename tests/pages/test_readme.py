"""The lines of Python in the README run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    bits, kl = map(float, done.stdout.split())
    assert 4 < bits < 5
    assert 0 < kl < 0.01
    assert (tmp_path / "cache.npz").is_file()
