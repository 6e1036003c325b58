"""The build: when a chapter is executed, what happens when it fails, what the book refuses."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import small_book
from kvbook.build import (
    book as whole,
)
from kvbook.build import (
    chapters,
    command,
    execute,
    isolation,
    pages,
    parameters,
    progress,
    render,
    staleness,
    storing,
    verdicts,
)
from kvbook.build.chapters import ChapterProblem
from kvbook.ledger import rows
from kvbook.ledger.words import NOT_YET_TESTED
from small_book import alive, notebook, put, tool

from kvlib import files

ROOT = Path(__file__).resolve().parents[3]
TOOLS = ROOT / "book" / "kvbook" / "build"


@pytest.fixture
def book(tmp_path):
    """A small repository with two chapters."""
    small_book.make(tmp_path)
    put(tmp_path, "01_plain", "print(seed * 2)")
    put(tmp_path, "02_alpha", "from kvlib import alpha\nprint(alpha.number)")
    return tmp_path


@pytest.fixture(autouse=True)
def same_signals():
    """Commands that are called here change what SIGTERM does."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(root, *options, **variables):
    """The executor as the Makefile calls it."""
    return tool(root, "execute", *options, **variables)


def executed(done):
    """Names of the chapters a run executed."""
    return sorted(re.findall(r"^(\w+)(?: seed \d+)?: done in", done.stdout, flags=re.MULTILINE))


def touch(path):
    """Change the time of a file and nothing else."""
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))


# ------------------------------------------------------------------ dependencies


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import kvlib.alpha", {"", "alpha", "_base"}),
        ("import kvlib.alpha as a, os", {"", "alpha", "_base"}),
        ("from kvlib import alpha, lonely", {"", "alpha", "_base", "lonely"}),
        ("from kvlib.alpha import number", {"", "alpha", "_base"}),
        ("from kvlib import beta", {"", "beta", "alpha", "_base"}),
        ("%matplotlib inline\nfrom kvlib import lonely", {"", "lonely"}),
        ("import kvlibrary, numpy", set()),
        ("# from kvlib import alpha", set()),
    ],
)
def test_dependencies_follow_imports(book, source, modules):
    path = put(book, "03_case", source)
    found = staleness.dependencies(path, book)
    names = {p.stem for p in found if p.parent.name == "kvlib"}
    assert names == {name or "__init__" for name in modules}
    assert {path, book / "requirements.txt"} <= found


def test_data_is_a_dependency_where_it_can_be_loaded(book):
    def data(source):
        found = staleness.dependencies(put(book, "03_case", source), book)
        return {p.name for p in found if p.suffix == ".npz"}

    assert data("from kvlib.data import captured") == {"keys.npz", "other.npz"}
    assert data("open('../book/data/keys.npz')") == {"keys.npz"}
    assert data("from kvlib import alpha") == set()


def test_invalid_code_is_named(book):
    (book / "kvlib" / "alpha.py").write_text("def broken(:\n", encoding="utf-8")
    with pytest.raises(ChapterProblem, match=r"alpha\.py is not valid Python"):
        staleness.dependencies(book / "notebooks" / "02_alpha.ipynb", book)


# --------------------------------------------------------------------- staleness


def pretend_executed(book):
    """A record as if every chapter had just been executed."""
    record = {}
    for path in chapters.chapters(book):
        stored = chapters.read(path)
        for number, cell in enumerate(chapters.code_cells(stored), start=1):
            cell.execution_count = number
        path.write_text(storing.serialise(stored), encoding="utf-8")
        state = staleness.snapshot(path, book)
        record[path.name] = {**state, "result": staleness.digest_of_result(path)}
    return record


def stale(book, record):
    """Stems of the chapters that are out of date."""
    return [
        path.stem
        for path in chapters.chapters(book)
        if staleness.why_stale(path, path, book, record)
    ]


INPUTS = [
    ("notebooks/01_plain.ipynb", ["01_plain"]),
    ("kvlib/alpha.py", ["02_alpha", "03_late", "04_data"]),
    ("kvlib/_base.py", ["02_alpha", "03_late", "04_data"]),
    ("kvlib/beta.py", ["03_late"]),
    ("kvlib/lonely.py", []),
    ("book/data/keys.npz", ["04_data"]),
    ("requirements.txt", ["01_plain", "02_alpha", "03_late", "04_data"]),
]


@pytest.fixture
def shelf(book):
    """A repository of four chapters that reach different files, and the record of a full run."""
    put(book, "03_late", "from kvlib.beta import late")
    put(book, "04_data", "from kvlib.data import captured")
    record = pretend_executed(book)
    assert stale(book, record) == []
    return book, record


def edit(path, code, text):
    """Change what a file does (`code`) or what it says (`text`)."""
    if path.suffix == ".ipynb":
        stored = chapters.read(path)
        stored.cells[0].source += "\n\nMore prose." * text
        stored.cells[2].source += "\n# why" * text + "\nseed += 1" * code
        path.write_text(storing.serialise(stored), encoding="utf-8")
    else:
        doc = '"""What it is for."""\n# why\n' * text
        path.write_bytes(doc.encode() + path.read_bytes() + b"\nextra = 2\n" * code)


@pytest.mark.parametrize(("file", "expected"), INPUTS)
def test_a_changed_input_makes_stale_what_depends_on_it(shelf, file, expected):
    book, record = shelf
    times = (book / file).stat()
    edit(book / file, code=True, text=False)
    os.utime(book / file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stale(book, record) == expected


@pytest.mark.parametrize("file", [file for file, _ in INPUTS])
def test_touching_a_file_makes_nothing_stale(shelf, file):
    book, record = shelf
    touch(book / file)
    assert stale(book, record) == []


@pytest.mark.parametrize("file", [file for file, _ in INPUTS if file.endswith(("py", "ipynb"))])
def test_comments_docstrings_and_prose_make_nothing_stale(shelf, file):
    book, record = shelf
    edit(book / file, code=False, text=True)
    assert stale(book, record) == []


def test_a_changed_output_is_stale(shelf):
    book, record = shelf
    path = book / "notebooks" / "01_plain.ipynb"
    stored = chapters.read(path)
    stored.cells[2].outputs = [nbformat.v4.new_output("stream", name="stdout", text="typed")]
    path.write_text(storing.serialise(stored), encoding="utf-8")
    assert stale(book, record) == ["01_plain"]


def test_clean_clone_executes_everything(book):
    pretend_executed(book)
    assert stale(book, {}) == ["01_plain", "02_alpha"]


def test_unfinished_or_failed_results_are_stale(book):
    path = book / "notebooks" / "01_plain.ipynb"
    for broken in (None, 7):
        record = pretend_executed(book)
        stored = chapters.read(path)
        stored.cells[1].execution_count = broken
        path.write_text(storing.serialise(stored), encoding="utf-8")
        state = staleness.snapshot(path, book)
        record[path.name] = {**state, "result": staleness.digest_of_result(path)}
        assert "execution count" in staleness.why_stale(path, path, book, record)


def test_another_python_makes_stale(book):
    record = pretend_executed(book)
    record["01_plain.ipynb"]["python"] = "3.9"
    assert stale(book, record) == ["01_plain"]


# --------------------------------------------------------------------- execution


def test_only_what_changed_is_executed_and_results_are_stable(book):
    first = run(book)
    assert executed(first) == ["01_plain", "02_alpha"], first.stdout + first.stderr
    stored = {path: path.read_bytes() for path in chapters.chapters(book)}

    second = run(book)
    assert executed(second) == []
    assert "nothing to execute" in second.stdout

    edit(book / "kvlib" / "_base.py", code=True, text=False)
    third = run(book)
    assert executed(third) == ["02_alpha"]
    assert "same result as before" in third.stdout
    assert {path: path.read_bytes() for path in stored} == stored

    result = chapters.read(book / "notebooks" / "01_plain.ipynb")
    assert storing.unfinished(result) == []
    assert result.cells[2].outputs[0].text == "2\n"
    assert set(result.metadata) == {"kernelspec", "language_info"}
    assert all(set(cell.metadata) <= {"tags"} for cell in result.cells)


def test_failing_chapter_is_named_and_left_alone(book):
    good = book / "notebooks" / "02_alpha.ipynb"
    bad = put(book, "01_plain", "print(1)", "# why\nraise ValueError('too few keys')")
    before = bad.read_bytes()
    done = run(book, "--jobs", "1")
    assert done.returncode == 1
    assert "01_plain failed" in done.stderr
    assert "code cell 3, `# why`" in done.stderr
    assert "ValueError: too few keys" in done.stderr
    assert bad.read_bytes() == before
    # One job at a time: the build stopped before the second chapter.
    assert storing.unfinished(chapters.read(good)) != []


def test_warning_on_stderr_fails(book):
    bad = put(book, "01_plain", "import warnings\nwarnings.warn('slow')")
    before = bad.read_bytes()
    done = run(book, "--chapter", "1")
    assert done.returncode == 1
    assert "code cell 2 writes to stderr" in done.stderr
    assert bad.read_bytes() == before


def test_parameters_go_elsewhere(book):
    path = book / "notebooks" / "01_plain.ipynb"
    before = path.read_bytes()
    done = run(book, "--chapter", "01", "--parameters", "seed=21")
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before
    result = chapters.read(book / "_build" / "runs" / "seed=21" / "notebooks" / path.name)
    assert result.cells[-1].outputs[0].text == "42\n"
    again = run(book, "--parameters", "seed=21")
    assert executed(again) == ["02_alpha"]


def test_one_chapter_is_executed_whatever_its_state(book):
    assert executed(run(book, "--chapter", "1")) == ["01_plain"]
    assert executed(run(book, "--chapter", "01")) == ["01_plain"]
    unknown = run(book, "--chapter", "9")
    assert unknown.returncode == 1
    assert "there is no chapter 9; chapters are 1, 2" in unknown.stderr


def test_a_chapter_may_go_on_in_a_second_notebook(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("A1_speed", "10_use", "07b_more", "07_schemes", "draft_x", "7_x"):
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    found = chapters.chapters(tmp_path)
    assert [chapters.label(path) for path in found] == ["7", "7b", "10", "A1"]
    assert chapters.find_chapter(tmp_path, "07b") == chapters.find_chapter(tmp_path, "7b")
    assert sorted(["A1", "10", "7b", "7"], key=rows.reading_order) == ["7", "7b", "10", "A1"]


def test_interrupt_keeps_finished_chapters_and_ends_the_others(book):
    marker = book / "kernel.pid"
    put(
        book,
        "02_alpha",
        f"import os, pathlib, time\npathlib.Path({str(marker)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)",
    )
    line = small_book.command("execute", "--root", str(book), "--jobs", "2")
    child = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = book / "notebooks" / "01_plain.ipynb"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        kept = staleness.load_record(book / "_build")
        if marker.exists() and marker.read_text() and first.name in kept:
            break
        time.sleep(0.1)
    child.send_signal(2)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "what is finished is kept" in errors
    assert storing.unfinished(chapters.read(first)) == []
    kernel = int(marker.read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and alive(kernel):
        time.sleep(0.1)
    assert not alive(kernel)


def idle_worker(book, path):
    """A worker without its process."""
    worker = object.__new__(execute.Worker)
    worker.path, worker.run = path, chapters.Run(book, {})
    worker.state = staleness.snapshot(path, book)
    return worker


def test_an_edit_made_during_the_run_is_kept(book):
    path = book / "notebooks" / "01_plain.ipynb"
    worker = idle_worker(book, path)
    put(book, "01_plain", "print('edited')")
    with pytest.raises(ChapterProblem, match="edited while it ran"):
        worker.store("the old result")
    assert "edited" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "its kernel died"),
        ("print('x' * 2_100_000)", "its outputs are 2.1 MB, allowed are 2 MB"),
    ],
    ids=["dead kernel", "2 MB"],
)
def test_what_cannot_be_stored_is_one_line(book, cell, message):
    bad = put(book, "01_plain", cell)
    before = bad.read_bytes()
    done = run(book, "--chapter", "1")
    assert done.returncode == 1
    assert re.fullmatch(rf"error: 01_plain failed after \d+ s: {message}.*\n", done.stderr)
    assert bad.read_bytes() == before


def test_two_notebooks_of_one_number_are_refused(book):
    put(book, "1_other", "print(1)")  # no chapter: its number has one digit
    assert [path.stem for path in chapters.chapters(book)] == ["01_plain", "02_alpha"]
    put(book, "02_other", "print(1)")
    for options in ([], ["--chapter", "1"]):
        done = run(book, *options)
        assert done.returncode == 1
        message = "error: two notebooks have the number 2: 02_alpha.ipynb, 02_other.ipynb\n"
        assert done.stderr == message


@pytest.mark.parametrize("main", [execute.main, pages.main, render.main, verdicts.main, whole.main])
def test_of_two_builds_at_once_the_second_is_refused(book, capsys, main):
    held = files.lock(book / "_build" / "build.lock")
    assert main(["--root", str(book)]) == 1
    assert capsys.readouterr().err.startswith("error: another build of this book is under way")
    held.close()
    with command.building(book):
        pass


def test_the_book_is_made_in_three_steps_under_one_lock(book, monkeypatch):
    steps = []

    def step(name):
        def work(run, *_):
            assert files.lock(book / "_build" / "build.lock") is None
            steps.append((name, run.parameters))

        return work

    monkeypatch.setattr(execute, "update", step("execute"))
    monkeypatch.setattr(pages, "write", step("pages"))
    monkeypatch.setattr(render, "render", step("render"))
    assert whole.main(["--root", str(book), "--parameters", "seed=7"]) == 0
    assert steps == [(name, {"seed": 7}) for name in ("execute", "pages", "render")]


def refuse(*arguments):
    raise PermissionError(13, "Permission denied", str(arguments[0]))


@pytest.mark.parametrize(
    ("module", "name", "options"),
    [(execute, "write_if_changed", ["--chapter", "1"]), (pages, "write_if_changed", [])],
)
def test_what_the_system_refuses_is_one_line(book, capsys, monkeypatch, module, name, options):
    before = (book / "notebooks" / "01_plain.ipynb").read_bytes()
    monkeypatch.setattr(module, name, refuse)
    assert module.main(["--root", str(book), *options]) == 3
    assert re.fullmatch(r"error: \[Errno 13\] Permission denied: .*\n", capsys.readouterr().err)
    assert (book / "notebooks" / "01_plain.ipynb").read_bytes() == before


# ------------------------------------------------------------------ the user's surroundings

PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"


def test_a_figure_is_stored_whatever_backend_the_user_has(book):
    made = notebook(PLOT)
    made.cells[2].metadata["mystnb"] = {"figure": {"name": "fig-line"}}
    path = put(book, "01_plain", made)
    done = run(book, "--chapter", "1", MPLBACKEND="Agg")
    assert done.returncode == 0, done.stderr
    assert len(storing.images(chapters.read(path).cells[2])) == 1

    made.cells[2].source = "1"
    put(book, "01_plain", made)
    done = run(book, "--chapter", "1")
    assert done.returncode == 1
    assert "code cell 2 is a figure and has no image" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTHONWARNINGS", "error"),
        ("PYTHONDEVMODE", "1"),
        ("PYTHONOPTIMIZE", "2"),
        ("JUPYTER_DATA_DIR", "/elsewhere"),
        ("IPYTHON_KERNEL", "1"),
        ("MATPLOTLIBRC", "/elsewhere"),
        ("KVLIB_KERNELS", "numpy"),
        ("NUMBA_DISABLE_JIT", "1"),
        ("PYTEST_ADDOPTS", "-k nothing"),
        ("MYPYPATH", "/elsewhere"),
    ],
)
def test_the_user_s_variables_stay_out(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/cache")
    found = isolation.isolated(ROOT)
    assert name not in found
    assert found["NUMBA_CACHE_DIR"] == "/cache"
    assert found["PATH"] == os.environ["PATH"]
    assert found["PYTHONPATH"] == os.pathsep.join([str(ROOT), str(ROOT / "book")])


def test_the_user_s_modules_and_kernels_stay_out(book, tmp_path_factory):
    foreign = tmp_path_factory.mktemp("foreign")
    for name in ("numpy", "json", "kvlib"):
        (foreign / f"{name}.py").write_text("raise ImportError('foreign')\n", encoding="utf-8")
    kernelspec(foreign, "/bin/false")
    put(book, "01_plain", "import numpy, json, kvlib.alpha\nprint(numpy.arange(3).sum())")
    done = run(
        book,
        "--chapter",
        "1",
        PYTHONPATH=str(foreign),
        PYTHONSTARTUP=str(foreign / "numpy.py"),
        JUPYTER_PATH=str(foreign),
        JUPYTER_PREFER_ENV_PATH="0",
    )
    assert done.returncode == 0, done.stderr
    result = chapters.read(book / "notebooks" / "01_plain.ipynb")
    assert result.cells[2].outputs[0].text == "3\n"


def kernelspec(folder, interpreter):
    """Lay down a kernel called python3 on a folder of the JUPYTER_PATH."""
    place = folder / "kernels" / "python3"
    place.mkdir(parents=True)
    spec = {"argv": [interpreter, "-m", "ipykernel", "-f", "{connection_file}"]}
    spec |= {"display_name": "foreign", "language": "python"}
    (place / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


@pytest.mark.parametrize("answer", ["echo /elsewhere", "exit 1", None])
def test_a_foreign_kernel_is_refused(tmp_path, monkeypatch, answer):
    isolation.refuse_foreign_kernel("python3")
    interpreter = tmp_path / "interpreter"
    if answer:
        small_book.write_program(interpreter, answer)
    kernelspec(tmp_path, str(interpreter))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    where = "/elsewhere" if answer == "echo /elsewhere" else str(interpreter)
    with pytest.raises(ChapterProblem, match=rf"the kernel 'python3' .* runs in {where}"):
        isolation.refuse_foreign_kernel("python3")


# ---------------------------------------------------------------------- the terminal


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_a_terminal_sees_what_is_left(book):
    paths = chapters.chapters(book)
    here = chapters.Run(book, {})
    shown = Terminal()
    bar = progress.Progress(shown, [(path, here) for path in paths], {paths[0].name: 5.0})
    for path in paths:
        bar.started(path, here)
        bar.cell(path, here, 2, 2)
        bar.finished(path, here, 1.25, path == paths[0])
    bar.close()
    assert "01_plain 2/2" in shown.getvalue()
    lines = re.findall(r"\w+: done in [^\r\n]+", shown.getvalue())
    assert lines == [
        "01_plain: done in 1.2 s, written",
        "02_alpha: done in 1.2 s, same result as before",
    ]


def test_of_several_seeds_each_is_a_line(book):
    path, *_ = chapters.chapters(book)
    runs = [chapters.Run(book, {"seed": seed}) for seed in (101, 102)]
    shown = io.StringIO()
    bar = progress.Progress(shown, [(path, run) for run in runs], {})
    for run in runs:
        bar.started(path, run)
        bar.finished(path, run, 1.0, True)
    bar.close()
    lines = shown.getvalue().splitlines()
    assert lines == ["seed 101: done, 1 more to execute", "seed 102: done, no more to execute"]


# -------------------------------------------------------------------- parameters


def test_parameters_are_python_literals():
    text = " seed=7  dims=[64, 128] name='a b' half=0.5 on=True"
    values = {"seed": 7, "dims": [64, 128], "name": "a b", "half": 0.5, "on": True}
    assert parameters.parse(text) == values
    assert parameters.parse("") == {}
    assert parameters.parse(None) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "not of the form name=value"),
        ("=7", "not of the form name=value"),
        ("2x=7", "not of the form name=value"),
        ("seed=os.getcwd()", "not a Python literal"),
        ("seed=", "not a Python literal"),
        ("seed=1 seed=2", "given twice"),
        ("name='a", "not a Python literal"),
        ("seed=7 trials", "not a Python literal"),
    ],
)
def test_malformed_parameters_are_refused(text, message):
    with pytest.raises(ChapterProblem, match=message):
        parameters.parse(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sede": 7}, r"01_plain\.ipynb has no parameter sede; it knows seed, scale"),
        ({"seed": "7"}, "seed='7' is of type str"),
        ({"seed": 7.5}, "seed=7.5 is of type float"),
        ({"seed": True}, "seed=True is of type bool"),
    ],
)
def test_unknown_or_unfit_parameters_are_refused(book, values, message):
    with pytest.raises(ChapterProblem, match=message):
        parameters.check(book / "notebooks" / "01_plain.ipynb", values)


def test_an_int_may_stand_for_a_float(book):
    path = book / "notebooks" / "01_plain.ipynb"
    assert parameters.check(path, {"scale": 1}) == {"scale": 1}


def test_comments_hide_no_parameter(book):
    path = book / "notebooks" / "01_plain.ipynb"
    stored = chapters.read(path)
    stored.cells[1].source = "seed = 1  # of all, at d = 128\nsizes = [2, 4]\nhalf = 2**-1  # 0.5"
    path.write_text(storing.serialise(stored), encoding="utf-8")
    assert parameters.known(path) == {"seed": 1, "sizes": [2, 4], "half": None}


def test_unknown_parameter_stops_the_whole_book(book):
    done = run(book, "--parameters", "sede=7")
    assert done.returncode == 1
    assert "no parameter sede" in done.stderr
    assert executed(done) == []


def test_runs_with_different_parameters_do_not_meet(tmp_path):
    def folder(**values):
        return chapters.Run(tmp_path, values).folder

    assert folder() == tmp_path
    assert folder(seed=7) == tmp_path / "_build" / "runs" / "seed=7"
    assert len({folder(name=n) for n in ("a/b", "a b", "a_b", "../b")}) == 4
    assert all("runs" in folder(name=n).parts for n in ("a/b", "../../b"))
    assert folder(name="../x").parent == tmp_path / "_build" / "runs"


# ----------------------------------------------------------------- stored notebooks


def test_normalise_joins_streams_and_renumbers():
    made = notebook("print(1)")
    cell = made.cells[2]
    cell.execution_count = 9
    cell.metadata = {"papermill": {"duration": 1}, "execution": {"a": 1}, "tags": []}
    out = nbformat.v4.new_output
    cell.outputs = [
        out("stream", name="stdout", text="1"),
        out("stream", name="stdout", text="2\n"),
        out("execute_result", {"text/plain": "3"}, execution_count=9),
    ]
    made.cells[1].execution_count = 4
    stored = storing.normalise(made)
    assert [c.execution_count for c in stored.cells[1:]] == [1, 2]
    assert [o.output_type for o in stored.cells[2].outputs] == ["stream", "execute_result"]
    assert stored.cells[2].outputs[0].text == "12\n"
    assert stored.cells[2].outputs[1].execution_count == 2
    assert stored.cells[2].metadata == {}


REPORT = """\
class Report:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": "T03", "application/vnd.kvlib.verdict+json": {"measured": 0.36089}}
Report()"""


def stored_outputs(printed="0.36089", glued="0.36089", judged=0.36089):
    """A notebook with a printed, a glued and a judged number, and what was stored for them."""
    made = notebook(
        "print('D = 0.36089')",
        "from myst_nb import glue\nglue('d', 0.36089, display=False)",
        REPORT,
    )
    out = nbformat.v4.new_output
    prefix = "application/papermill.record/"
    outputs = [
        [out("stream", name="stdout", text=f"D = {printed}\n")],
        [
            out(
                "display_data",
                {prefix + "text/plain": glued},
                metadata={"scrapbook": {"name": "d", "mime_prefix": prefix}},
            )
        ],
        [
            out(
                "execute_result",
                {"text/plain": "T03", "application/vnd.kvlib.verdict+json": {"measured": judged}},
                execution_count=4,
            )
        ],
    ]
    for number, cell in enumerate(made.cells[1:], start=1):
        cell.execution_count = number
        cell.outputs = outputs[number - 2] if number > 1 else []
    return made


def test_nbval_fails_on_a_changed_last_digit(tmp_path):
    changes = {
        "good": {},
        "printed": {"printed": "0.36088"},
        "glued": {"glued": "0.36088"},
        "judged": {"judged": 0.36088},
    }
    for name, change in changes.items():
        path = tmp_path / f"{name}.ipynb"
        path.write_text(storing.serialise(stored_outputs(**change)), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-rf", "-p"]
    command += ["no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    failed = re.findall(r"^FAILED .*?(\w+)\.ipynb::Cell (\d+)", done.stdout, flags=re.MULTILINE)
    assert sorted(failed) == [("glued", "2"), ("judged", "3"), ("printed", "1")], done.stdout


# ------------------------------------------------------------------- generated pages


def row(**changes):
    """One row of the ledger, of a claim that is not tested yet unless a test says so."""
    plain = {
        **small_book.ledger_record(verdict=NOT_YET_TESTED, what_is_true="", measured=None),
        "id": "C01",
        "kind": "paper",
        "chapter": "2",
        "statement": "A | B is <c> and 2*3",
        "place": "fig 1",
        "published": "",
        "prediction": "small",
        "held": 0,
        "total": 0,
        "notebook": None,
        "stability": None,
    }
    return plain | changes


def check(verdict, **changes):
    """One check of a record."""
    plain = {"label": "a | b", "scope": "claim", "readings": [], "prediction": "≤ 0.2"}
    return {**plain, "measured": 0.12345, "low": 0.1, "high": 0.2, "verdict": verdict, **changes}


def judged_row():
    """A claim with both verdicts and all that may stand beside them."""
    return row(
        id="C02",
        verdict="HOLDS WITH EXCEPTIONS",
        number_verdict="NOT REPRODUCED",
        what_is_true="So | it is.",
        held=2,
        total=3,
        ours_held=1,
        ours_total=1,
        exceptions={"statement": ["rank 1"], "number": []},
        readings_tried={"statement": [], "number": ["angle", "cosine"]},
        pilots="the tolerance was settled after a pilot run",
        example_that_holds=check("holds"),
        example_that_fails=check("fails", scope="ours", readings=["angle"]),
        anchor="verdict-c02",
        notebook="notebooks/02_alpha.ipynb",
    )


def test_claims_page_shows_verdicts_truth_and_evidence():
    titles = {"2": ("notebooks/02_alpha.ipynb", "Alpha")}
    text = pages.claims_page([row(), judged_row()], titles)
    assert "2 in all: 1 holds with exceptions, 1 not yet tested; numbers: 1 in all: 1 not" in text
    assert '<a href="../notebooks/02_alpha.html#verdict-c02">' in text
    for badge in ("holds-with-exceptions", "not-reproduced", "not-yet-tested"):
        assert f"kv-badge {badge}" in text
    assert "A \\| B is \\<c\\> and 2\\*3" in text
    assert "So \\| it is." in text
    assert "2 of 3 checks hold; 1 of 1 of ours" in text
    assert "*Holds:* a \\| b: 0.1235 \\[0.1, 0.2\\], predicted ≤ 0.2" in text
    assert "*Fails:* angle: a \\| b (ours): 0.1235" in text
    assert "Exceptions: rank 1." in text
    assert "The number: 2 readings tried (angle, cosine); it holds by none." in text
    assert "† the tolerance was settled" in text
    assert "We expect: small" in text


def test_the_front_page_carries_the_same_evidence():
    text = rows.front_table([row(), judged_row(), row(id="T01", kind="result")])
    assert "T01" not in text
    assert "Published numbers: 1 in all: 1 not reproduced." in text
    for part in ("So \\| it is.", "2 of 3 checks hold", "*Holds:*", "*Fails:*", " †"):
        assert part in text


def test_generated_parts_need_their_markers():
    text = "a\n<!-- generated: x -->\nold\n<!-- end of generated: x -->\nb\n"
    filled = pages.fill(text, "x", "new")
    assert filled == text.replace("old", "new")
    assert pages.fill(filled, "x", "new") == filled
    with pytest.raises(ChapterProblem, match="markers"):
        pages.fill("no markers", "x", "new")


def glueing_book(book):
    """A book whose chapter glues a number and draws a figure, and a README that shows both."""
    path = put(book, "03_result", "glue(1)", "plot()")
    made = chapters.read(path)
    out = nbformat.v4.new_output
    scrap = {"scrapbook": {"name": "width", "mime_prefix": ""}}
    made.cells[2].outputs = [out("display_data", {pages.RECORD: "0.12345"}, metadata=scrap)]
    made.cells[3].metadata["mystnb"] = {"figure": {"name": "fig-law"}}
    made.cells[3].outputs = [out("display_data", {"image/png": "aGVsbG8="})]
    path.write_text(storing.serialise(made), encoding="utf-8")
    readme = book / "README.md"
    readme.write_text(
        "It is <!-- glue: 03_result::width:.2f -->9<!-- /glue --> wide, see\n"
        "![law](book/figures/fig-law.png)\n"
        "<!-- generated: chapters -->\n<!-- end of generated: chapters -->\n",
        encoding="utf-8",
    )
    return readme


def test_readme_shows_the_numbers_and_figures_of_the_chapters(book):
    readme = glueing_book(book)
    picture = book / "book" / "figures" / "fig-law.png"
    assert set(pages.outdated(book)) == {readme, picture, book / "book" / "claims.md"}
    assert pages.main(["--root", str(book)]) == 0
    assert "-->0.12<!-- /glue -->" in readme.read_text(encoding="utf-8")
    assert "[Title](notebooks/01_plain.ipynb)" in readme.read_text(encoding="utf-8")
    assert picture.read_bytes() == b"hello"
    assert pages.outdated(book) == []
    assert pages.main(["--root", str(book), "--check"]) == 0

    readme.write_text(readme.read_text("utf-8").replace("-->0.12<", "-->0.13<"), encoding="utf-8")
    assert pages.outdated(book) == [readme]
    assert pages.main(["--root", str(book), "--check"]) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("::width", "::length", "no value 'length'"), ("fig-law", "fig-lost", "no chapter draws")],
)
def test_unknown_numbers_and_figures_are_refused(book, old, new, message):
    readme = glueing_book(book)
    readme.write_text(readme.read_text("utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ChapterProblem, match=message):
        pages.generated(book)


# --------------------------------------------------------------------------- build


@pytest.fixture
def site(tmp_path):
    """A book of two pages with the real settings."""
    shutil.copy2(ROOT / "_config.yml", tmp_path)
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "book" / "_static")
    shutil.copytree(TOOLS, tmp_path / "book" / "kvbook" / "build")
    shutil.copy2(ROOT / "book" / "references.bib", tmp_path / "book")
    toc = "format: jb-book\nroot: book/index\nchapters:\n- file: book/second\n"
    (tmp_path / "_toc.yml").write_text(toc, encoding="utf-8")
    second = "(there)=\n# Second\n\nText.\n\n```{bibliography}\n:all:\n```\n"
    (tmp_path / "book" / "second.md").write_text(second, encoding="utf-8")
    (tmp_path / "book" / "index.md").write_text("# First\n\nSee {ref}`there`.\n", encoding="utf-8")
    return tmp_path


def test_book_builds_and_a_broken_reference_fails(site):
    index = render.build(site)
    assert index == site / "_build" / "html" / "index.html"
    page = site / "_build" / "html" / "book" / "index.html"
    good = page.read_bytes()

    (site / "book" / "index.md").write_text("# First\n\nSee {ref}`nowhere`.\n", encoding="utf-8")
    with pytest.raises(ChapterProblem, match="nowhere"):
        render.build(site)
    assert page.read_bytes() == good
    assert list((site / "_build").glob("fresh-*")) == []
