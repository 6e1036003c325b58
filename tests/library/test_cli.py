"""The command line: what it lists, and one line and one exit status for what goes wrong."""

import errno
import json
import os
import subprocess
import sys

import pytest

from kvlib import bench, quantize, sweeps
from kvlib.cli import main

PYTHON = [sys.executable, "-m", "kvlib"]


def run(*arguments, **variables):
    """The command in a process of its own."""
    return subprocess.run(
        [*PYTHON, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        check=False,
        timeout=120,
    )


def test_every_format_is_listed_with_the_bits_it_stores(capsys):
    assert main(["formats", "--dim", "64", "--tokens", "256", "--bits", "3", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(quantize.formats())
    assert rows["WHT"]["key_bits"] == 3 + 16 / 64
    assert rows["KQV"]["value_bits"] == 3 + 32 / 64
    assert rows["C-EDEN"]["key_bits"] == 3 + 16 / 64 + 16 / 256
    assert rows["KIVI"]["key_bits"] == rows["KIVI"]["value_bits"] == 4
    assert rows["QKQV"]["traits"] == ["rotated", "sketched"]
    assert main(["formats", "--tokens", "64"]) == 0
    shown = capsys.readouterr().out
    assert all(entry.summary in shown for entry in quantize.formats().values())
    assert "kl_mean" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["formats", "--dim", "1"], "dim must be an integer >= 2"),
        (["formats", "--tokens", "0"], "tokens must be an integer >= 1"),
        (["formats", "--bits", "9"], "bits must be an integer from 1 to 8"),
    ],
)
def test_refusals_are_one_line_and_status_two(arguments, words, capsys):
    assert main(arguments) == 2
    report = capsys.readouterr().err
    assert report.startswith("kvlib: ")
    assert report.count("\n") == 1
    assert words in report


@pytest.mark.parametrize("arguments", [["--what"], ["formats", "--what"], ["nothing"], []])
def test_unknown_arguments_are_refused(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_what_the_system_refuses_is_one_line_and_status_three(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sweeps, "run", full)
    assert main(["sweep", str(tmp_path / "t.parquet")]) == 3
    assert capsys.readouterr().err.endswith("kvlib: [Errno 28] No space left on device\n")
    (tmp_path / "t.parquet.parts").write_text("in the way", encoding="utf-8")
    monkeypatch.undo()
    small = ["--dims", "8", "--tokens", "8", "--queries", "2", "--bits", "2", "--workers", "1"]
    assert main(["sweep", str(tmp_path / "t.parquet"), *small]) == 3
    assert "t.parquet.parts" in capsys.readouterr().err


def test_an_impossible_output_is_refused_before_anything_is_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "own_rows", lambda **_: pytest.fail("timed for nothing"))
    assert main(["bench", "--output", str(tmp_path)]) == 2
    assert "output must be a file to write" in capsys.readouterr().err
    assert main(["bench", "--output", str(tmp_path / "no" / "b.json")]) == 2
    assert "existing folder" in capsys.readouterr().err


def test_interruption_is_status_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize, "named", interrupted)
    assert main(["formats"]) == 130
    assert capsys.readouterr().err == "kvlib: interrupted\n"


def test_terminals_that_know_ascii_only_get_what_they_can_show():
    code = (
        "import sys; sys.argv = ['kvlib']; from kvlib import cli\n"
        "print_it = lambda options: print('\\u2264 \\u03c0') or 0\n"
        "from argparse import Namespace\n"
        "sys.exit(cli.run(lambda: Namespace(run=print_it)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"? ?\n")


def test_a_reader_that_goes_away_ends_it_quietly():
    process = subprocess.Popen(
        [*PYTHON, "formats", "--tokens", "64"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_it_works_without_docstrings_and_says_its_version():
    done = run("--version", PYTHONOPTIMIZE="2")
    assert done.returncode == 0
    assert done.stdout.startswith(b"kvlib ")
    assert run("--help", PYTHONOPTIMIZE="2").returncode == 0
