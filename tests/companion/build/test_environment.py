"""The environment: which interpreter, what makes it anew, and what is installed into it."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kvbook.build import environment, lock
from small_book import write_program

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "book" / "kvbook" / "build" / "environment.py"
HERE = ".".join(map(str, sys.version_info[:2]))


def test_supported_interpreters():
    found = [environment.supported((3, minor)) for minor in (10, 11, 12, 13, 14)]
    assert found == [False, True, True, True, False]


def test_wrong_interpreter_is_named_or_replaced():
    with pytest.raises(environment.EnvironmentProblem, match=r"needs Python 3\.11.*is 3\.9"):
        environment.choose_interpreter((3, 9, 2), which=lambda name: None)
    found = environment.choose_interpreter(
        (3, 14), which=lambda name: f"/bin/{name}", usable=lambda path: path.endswith("3.12")
    )
    assert found == "/bin/python3.12"
    assert environment.works(sys.executable)
    assert not environment.works("/bin/false")
    assert not environment.works("/nowhere/python3.12")
    assert environment.choose_interpreter((3, 12, 1)) == sys.executable


def test_old_interpreters_can_read_it_and_say_what_is_missing():
    ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 6))
    imported = [
        alias.name
        for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    assert set(imported) <= {
        "argparse",
        "hashlib",
        "json",
        "os",
        "shutil",
        "subprocess",
        "sys",
        "time",
    }


def test_missing_venv_module_gets_one_clear_message(tmp_path):
    fake = tmp_path / "python3"
    write_program(fake, "exit 1")
    with pytest.raises(environment.EnvironmentProblem, match="python3-venv"):
        environment.require_venv(fake)
    environment.require_venv(sys.executable)


# What is due -----------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    """A repository with pins, and an environment that says it has this interpreter's version."""
    (tmp_path / "requirements.txt").write_text("a==1\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    return tmp_path


def interpreter(path, version):
    """Lay down a program that answers as an interpreter of some version does."""
    write_program(path, f"echo {version.replace('.', ' ')}")


@pytest.fixture
def calls(monkeypatch):
    """What is called in place of pip and venv."""
    made = []

    def call(line, what):
        made.append([str(part) for part in line])
        if "venv" in line:
            interpreter(Path(line[-1]) / "bin" / "python", HERE)
            (Path(line[-1]) / "pyvenv.cfg").touch()

    monkeypatch.setattr(environment, "call", call)
    return made


def test_an_environment_is_made_once_and_pinned_packages_have_hashes(repository, calls):
    assert environment.ensure(repository) == "everything"
    assert [line[-1] for line in calls if "venv" in line] == [str(repository / ".venv")]
    (install,) = [line for line in calls if "-r" in line]
    assert "--require-hashes" in install
    (editable,) = [line for line in calls if "--editable" in line]
    assert "--no-deps" in editable
    calls.clear()
    assert environment.ensure(repository) == "nothing"
    assert calls == []


def test_changes_are_installed(repository, calls):
    venv = repository / ".venv"
    environment.ensure(repository)
    (repository / "pyproject.toml").write_text("[project]\nname='x'\n", encoding="utf-8")
    calls.clear()
    assert environment.ensure(repository) == "package"
    assert len(calls) == 1
    (repository / "requirements.txt").write_text("a==2\n", encoding="utf-8")
    assert environment.ensure(repository) == "everything"
    (venv / environment.STAMP).write_text("{", encoding="utf-8")  # its making was interrupted
    assert environment.ensure(repository) == "everything"
    (venv / "bin" / "python").unlink()
    assert environment.ensure(repository) == "everything"
    stamp = json.loads((venv / environment.STAMP).read_text(encoding="utf-8"))
    assert environment.needed(venv, stamp) == "nothing"
    assert environment.needed(venv, {**stamp, "place": "elsewhere"}) == "everything"


def test_another_version_is_made_anew_only_where_it_is_named(repository, calls):
    venv = repository / ".venv"
    environment.ensure(repository)
    stamp = json.loads((venv / environment.STAMP).read_text(encoding="utf-8"))
    other = "3.12" if HERE != "3.12" else "3.13"
    interpreter(venv / "bin" / "python", other)
    # The interpreter behind the environment was replaced: its packages are for the old one.
    assert environment.ensure(repository) == "everything"
    interpreter(venv / "bin" / "python", other)
    (venv / environment.STAMP).write_text(json.dumps({**stamp, "python": other}), encoding="utf-8")
    assert environment.ensure(repository) == "nothing"
    assert environment.ensure(repository, named=True) == "everything"


def test_two_environments_stand_side_by_side(repository, calls):
    environment.ensure(repository)
    assert environment.ensure(repository, repository / ".venv-other") == "everything"
    assert environment.ensure(repository) == "nothing"
    assert environment.ensure(repository, repository / ".venv-other") == "nothing"


def test_a_folder_that_is_no_environment_is_not_cleared(repository, calls):
    (repository / "notes").mkdir()
    (repository / "notes" / "mine.txt").touch()
    for folder in (repository / "notes", repository):
        with pytest.raises(environment.EnvironmentProblem, match="is no environment of this book"):
            environment.ensure(repository, folder)
    assert calls == []


def test_an_environment_of_somebody_else_is_not_cleared(repository, calls, tmp_path_factory):
    foreign = tmp_path_factory.mktemp("foreign")
    (foreign / "pyvenv.cfg").touch()
    with pytest.raises(environment.EnvironmentProblem, match="is no environment of this book"):
        environment.ensure(repository, foreign)
    assert calls == []
    # Half made in the repository, it is this book's own.
    (repository / ".venv-half").mkdir()
    (repository / ".venv-half" / "pyvenv.cfg").touch()
    environment.require_own(repository / ".venv-half", repository)


@pytest.mark.parametrize("main", [environment.main, lock.main])
def test_unknown_arguments_are_refused(main, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--colour"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --colour" in capsys.readouterr().err


def test_what_the_system_refuses_is_one_line(monkeypatch, capsys):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", ".venv")

    monkeypatch.setattr(environment, "ensure", refuse)
    assert environment.main([]) == 3
    assert capsys.readouterr().err == "error: [Errno 13] Permission denied: '.venv'\n"


# The pins --------------------------------------------------------------------------------------


def test_every_pin_has_a_hash():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    pins = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(pins) > 100
    assert [pin.split()[0] for pin in pins if "--hash=sha256:" not in pin] == []


def test_integration_takes_no_arguments():
    done = subprocess.run(
        [str(ROOT / ".ci" / "run"), "--fast"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: .ci/run takes no arguments, got: --fast\n"
