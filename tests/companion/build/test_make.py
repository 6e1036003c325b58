"""The Makefile: which tool a target calls with what, which stages run, and what a signal ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import small_book
from kvbook.build import stage
from small_book import write_program

ROOT = Path(__file__).resolve().parents[3]
STAGES = ["lint", "types", "tests", "notebooks", "html", "pages"]


@pytest.fixture
def make(tmp_path):
    """Call make with an interpreter that only notes its arguments; a stage can be told to fail."""
    python = tmp_path / "venv" / "bin" / "python"
    log = tmp_path / "log"
    write_program(
        python,
        f'log="{log}"\n'
        """for word in "$@"; do printf '[%s]' "$word"; done >> "$log"; echo >> "$log"\n"""
        'case "$* " in *"stage $FAILS "*) exit 1;; esac',
    )

    def call(*arguments, fails=""):
        log.write_text("", encoding="utf-8")
        command = ["make", "-f", str(ROOT / "Makefile"), f"VENV={python.parents[1]}"]
        done = subprocess.run(
            [*command, f"PYTHON={python}", *arguments],
            cwd=tmp_path,
            env={**os.environ, "FAILS": fails, "MAKEFLAGS": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        lines = log.read_text(encoding="utf-8").splitlines()
        return done, [line for line in lines if "environment.py" not in line]

    return call


def stages_of(calls):
    """Names of the stages that were called."""
    words = [line.strip("[]").split("][") for line in calls]
    return [line[3] for line in words if line[2] == "kvbook.build.stage"]


def test_test_calls_every_stage_and_ends_with_the_summary(make):
    done, calls = make("test")
    assert stages_of(calls) == ["--forget", *STAGES, "--summary"]
    assert calls[-1].endswith("".join(f"[{name}]" for name in STAGES))
    assert done.returncode == 0
    for failing in STAGES:
        _, calls = make("test", fails=failing)
        left_out = ["pages"] if failing == "html" else []
        assert stages_of(calls)[1:-1] == [name for name in STAGES if name not in left_out]
    done, _ = make("test", fails="--summary")
    assert done.returncode != 0


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_is_a_target(make, name):
    done, calls = make(name)
    assert done.returncode == 0
    assert stages_of(calls) == (["html", "pages"] if name == "pages" else [name])
    assert make(name, fails=name)[0].returncode != 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["book", "P=name='a b' dims=[64, 128]"], ["--parameters", "name='a b' dims=[64, 128]"]),
        (["chapter", "N=2; echo", "P="], ["--chapter", "2; echo", "--parameters", ""]),
        (["bench", "STAGES=kl null; echo *"], ["--stages", "kl null; echo *"]),
        (["verdicts", "SEEDS=$$(echo 3)", "N=7b"], ["--seeds", "$(echo 3)", "--chapter", "7b"]),
    ],
)
def test_what_the_user_gives_arrives_as_it_is(make, arguments, words):
    done, calls = make(*arguments)
    assert done.returncode == 0
    assert calls[0].endswith("".join(f"[{word}]" for word in words))
    assert all(line.startswith("[-E]") for line in calls)


def test_serving_needs_a_book_and_a_port(make, tmp_path):
    done, calls = make("serve")
    assert done.returncode != 0
    assert "there is no built book yet; run `make book` first" in done.stderr
    (tmp_path / "_build" / "html").mkdir(parents=True)
    (tmp_path / "_build" / "html" / "index.html").touch()
    for port in ("70000", "80 80", "80;echo", "", "-1", "999999"):
        done, calls = make("serve", f"PORT={port}")
        assert calls == []
        assert "PORT must be a number up to 65535" in done.stderr
    done, calls = make("serve", "PORT=8001")
    assert done.returncode == 0
    assert calls == ["[-E][-m][http.server][--bind][127.0.0.1][--directory][_build/html][8001]"]


def test_an_interpreter_counts_as_named_where_the_user_names_it():
    line = ["make", "-n", "-C", str(ROOT), "environment"]
    bare = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    for options, variables, named in (
        ([], {}, False),
        (["PYTHON=python3"], {}, True),
        ([], {"PYTHON": "python3"}, True),
    ):
        done = subprocess.run(
            [*line, *options], env=bare | variables, capture_output=True, text=True, check=True
        )
        assert ("--named" in done.stdout) is named


# Stages ----------------------------------------------------------------------------------------


def test_a_stage_runs_all_its_commands_and_notes_what_became_of_them(tmp_path, capfd):
    commands = ["timeit -n1 -r1 'print(\"3 passed, 2 skipped in 1 s\")'", "no_such_module"]
    assert stage.perform("bad", [*reversed(commands)], tmp_path) == 1
    assert stage.perform("good", ["timeit -n1 -r1 'print({jobs})'"], tmp_path) == 0
    text = capfd.readouterr().out
    assert "=== bad: FAILED in" in text
    assert "=== good: passed in" in text
    stored = json.loads((tmp_path / "bad.json").read_text(encoding="utf-8"))
    assert (stored["good"], stored["skipped"]) == (False, 2)


def test_a_stage_keeps_the_user_s_variables_out(tmp_path):
    code = "import os; print(os.environ['MPLBACKEND'], os.environ['PYTHONPATH'])"
    (tmp_path / "numpy.py").write_text("raise ImportError('foreign')\n", encoding="utf-8")
    foreign = {"MPLBACKEND": "Agg", "PYTHONPATH": str(tmp_path), "PYTEST_ADDOPTS": "--none"}
    done = subprocess.run(
        small_book.command("stage", "probe", f'timeit -n1 -r1 "{code}"'),
        env=os.environ | foreign,
        capture_output=True,
        text=True,
        check=False,
    )
    (stage.RESULTS / "probe.json").unlink()
    assert done.returncode == 0, done.stderr
    assert f"matplotlib_inline.backend_inline {ROOT}{os.pathsep}{ROOT / 'book'}" in done.stdout


def note(folder, name, good=True, seconds=1.2, skipped=0):
    """Store what became of a stage."""
    result = {"good": good, "seconds": seconds, "skipped": skipped}
    (folder / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")


def test_the_summary_is_one_line(tmp_path):
    note(tmp_path, "lint")
    note(tmp_path, "tests", skipped=3, seconds=20)
    expected = "PASSED; 3 skipped in tests; 21 s (lint 1 s, tests 20 s)"
    assert stage.summary(["lint", "tests"], tmp_path) == (True, expected)
    note(tmp_path, "html", good=False)
    good, line = stage.summary(["lint", "html", "pages"], tmp_path)
    assert not good
    assert line == "FAILED: html, pages (not run); 2 s (lint 1 s, html 1 s)"


def test_a_stage_needs_commands(capsys):
    for arguments in ([], ["lint"], ["--colour", "lint", "ruff"]):
        with pytest.raises(SystemExit):
            stage.main(arguments)


# Signals ---------------------------------------------------------------------------------------


def wait_for(condition, seconds):
    """Whether a condition holds within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.1)
    return condition()


def end_by_term(process, marker):
    """TERM make alone once its work has begun; returns what still runs of all it had started."""
    started = []
    try:
        assert wait_for(lambda: marker.exists() and marker.read_text(), 60)
        started = psutil.Process(process.pid).children(recursive=True)
        pids = [child.pid for child in started]
        assert int(marker.read_text()) in pids
        process.terminate()
        wait_for(lambda: not any(map(small_book.alive, pids)), 20)
        return [pid for pid in pids if small_book.alive(pid)]
    finally:
        for one in [*started, process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate(timeout=10)


def start_make(folder, program, *arguments):
    """Start make with a shell program as the tools' interpreter."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "book"), str(folder)])
    begin = 'case "$*" in *environment.py*|*--forget*) exit 0;; esac'
    program = f'{begin}\nPYTHON="{sys.executable}"\nexport PYTHONPATH="{path}"\n{program}'
    python = folder / "venv" / "bin" / "python"
    write_program(python, program)
    command = ["make", "-f", str(ROOT / "Makefile")]
    return subprocess.Popen(
        [*command, f"VENV={folder / 'venv'}", f"PYTHON={python}", *arguments],
        cwd=folder,
        env={**os.environ, "MAKEFLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


SLEEP = """\
import os, pathlib, time
pathlib.Path({marker!r}).write_text(str(os.getpid()))
time.sleep(60)
"""


def test_no_process_survives_a_term_to_make_book(tmp_path):
    root = small_book.make(tmp_path / "book")
    marker = tmp_path / "kernel.pid"
    small_book.put(root, "01_slow", SLEEP.format(marker=str(marker)))
    small_book.put(root, "02_slow", "import time\ntime.sleep(60)")
    program = f'shift\nexec "$PYTHON" "$@" --root "{root}"'  # -E would hide the packages
    assert end_by_term(start_make(tmp_path, program, "book"), marker) == []


def test_no_process_survives_a_term_to_make_test(tmp_path):
    marker = tmp_path / "child.pid"
    (tmp_path / "sleeper.py").write_text(SLEEP.format(marker=str(marker)), encoding="utf-8")
    # In place of a stage's commands, one that starts another process and waits for it.
    (tmp_path / "starter.py").write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'sleeper'])\n",
        encoding="utf-8",
    )
    (tmp_path / "one_stage.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom kvbook.build import command, stage\n"
        "work = lambda: stage.perform('lint', ['starter'], Path('results'))\n"
        "sys.exit(command.obey(work))\n",
        encoding="utf-8",
    )
    program = 'exec "$PYTHON" -m one_stage'
    assert end_by_term(start_make(tmp_path, program, "test"), marker) == []


def test_a_command_that_ignores_signals_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_PATIENCE", ((signal.SIGINT, 0.5), (signal.SIGKILL, 2.0)))
    marker = tmp_path / "pid"
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    code = deaf + SLEEP.format(marker=str(marker))
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    assert wait_for(marker.exists, 20)
    stage._end(process)
    assert not small_book.alive(process.pid)
