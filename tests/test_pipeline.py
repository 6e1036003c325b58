"""The build: when a chapter is executed, what happens when it fails, what the book refuses."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from kvbook.build import chapters, environment, execute, pages, parameters, render, serve
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "book" / "kvbook" / "build"

# A package of the same name as the real one, so that the import rules are tried out as they are.
MODULES = {
    "__init__": "",
    "alpha": "from ._base import number\n",
    "_base": "number = 1\n",
    "beta": "def late():\n    from kvlib import alpha\n    return alpha\n",
    "data/__init__": "",
    "data/captured": "import kvlib.alpha\n",
    "lonely": "",
}


def notebook(*cells, title="# Title"):
    """A notebook of code cells, the first of which holds the parameters."""
    first = new_code_cell("seed = 1\nscale = 0.5", metadata={"tags": ["parameters"]})
    made = new_notebook(
        cells=[new_markdown_cell(title), first, *(new_code_cell(source) for source in cells)],
        metadata={"kernelspec": dict(chapters.KERNEL)},
    )
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"
    return made


def put(root, name, *cells, **options):
    """Write a chapter into a book."""
    path = root / "notebooks" / f"{name}.ipynb"
    path.write_text(chapters.serialise(notebook(*cells, **options)), encoding="utf-8")
    return path


@pytest.fixture
def book(tmp_path):
    """A small repository: a package, data, and chapters that use parts of them."""
    for folder in ("kvlib/data", "notebooks", "book/data"):
        (tmp_path / folder).mkdir(parents=True)
    for name, source in MODULES.items():
        (tmp_path / "kvlib" / f"{name}.py").write_text(source, encoding="utf-8")
    (tmp_path / "requirements.txt").write_text("numpy==2\n", encoding="utf-8")
    (tmp_path / "book" / "data" / "keys.npz").write_bytes(b"keys")
    (tmp_path / "book" / "data" / "other.npz").write_bytes(b"other")
    put(tmp_path, "01_plain", "print(seed * 2)")
    put(tmp_path, "02_alpha", "from kvlib import alpha\nprint(alpha.number)")
    return tmp_path


def run(root, *options):
    """The executor as the Makefile calls it."""
    command = [sys.executable, str(TOOLS / "execute.py"), "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def executed(done):
    """Names of the chapters a run executed."""
    return sorted(re.findall(r"^(\w+): done in", done.stdout, flags=re.MULTILINE))


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
    found = chapters.dependencies(path, book)
    names = {p.stem for p in found if p.parent.name == "kvlib"}
    assert names == {name or "__init__" for name in modules}
    assert {path, book / "requirements.txt"} <= found


def test_data_is_a_dependency_where_it_can_be_loaded(book):
    def data(source):
        found = chapters.dependencies(put(book, "03_case", source), book)
        return {p.name for p in found if p.parent.name == "data"}

    assert data("from kvlib.data import captured") == {"keys.npz", "other.npz"}
    assert data("open('../book/data/keys.npz')") == {"keys.npz"}
    assert data("from kvlib import alpha") == set()


def test_invalid_code_is_named(book):
    (book / "kvlib" / "alpha.py").write_text("def broken(:\n", encoding="utf-8")
    with pytest.raises(chapters.ChapterProblem, match=r"alpha\.py is not valid Python"):
        chapters.dependencies(book / "notebooks" / "02_alpha.ipynb", book)


# --------------------------------------------------------------------- staleness


def pretend_executed(book):
    """A record as if every chapter had just been executed."""
    record = {}
    for path in chapters.chapters(book):
        stored = chapters.read(path)
        for number, (_, cell) in enumerate(
            [(None, c) for c in stored.cells if c.cell_type == "code"], start=1
        ):
            cell.execution_count = number
        path.write_text(chapters.serialise(stored), encoding="utf-8")
        state = chapters.snapshot(path, book)
        record[path.name] = {**state, "result": chapters.fingerprint(path)["sha256"]}
    return record


def stale(book, record):
    """Stems of the chapters that are out of date."""
    return [
        path.stem
        for path in chapters.chapters(book)
        if chapters.why_stale(path, path, book, record)
    ]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("notebooks/01_plain.ipynb", ["01_plain"]),
        ("kvlib/alpha.py", ["02_alpha", "03_late", "04_data"]),
        ("kvlib/_base.py", ["02_alpha", "03_late", "04_data"]),
        ("kvlib/beta.py", ["03_late"]),
        ("kvlib/lonely.py", []),
        ("book/data/keys.npz", ["04_data"]),
        ("requirements.txt", ["01_plain", "02_alpha", "03_late", "04_data"]),
    ],
)
@pytest.mark.parametrize("how", ["touched", "changed"])
def test_touching_a_file_makes_stale_what_depends_on_it(book, file, expected, how):
    put(book, "03_late", "from kvlib.beta import late")
    put(book, "04_data", "from kvlib.data import captured")
    record = pretend_executed(book)
    assert stale(book, record) == []
    path = book / file
    if how == "touched":
        touch(path)
    else:
        times = path.stat()
        path.write_bytes(path.read_bytes().replace(b"\n", b" \n", 1) + b"\n")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stale(book, record) == expected


def test_clean_clone_executes_everything(book):
    pretend_executed(book)
    assert stale(book, {}) == ["01_plain", "02_alpha"]


def test_unfinished_or_failed_results_are_stale(book):
    path = book / "notebooks" / "01_plain.ipynb"
    for broken in (None, 7):
        record = pretend_executed(book)
        stored = chapters.read(path)
        stored.cells[1].execution_count = broken
        path.write_text(chapters.serialise(stored), encoding="utf-8")
        state = chapters.snapshot(path, book)
        record[path.name] = {**state, "result": chapters.fingerprint(path)["sha256"]}
        assert "execution count" in chapters.why_stale(path, path, book, record)


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

    touch(book / "kvlib" / "_base.py")
    third = run(book)
    assert executed(third) == ["02_alpha"]
    assert "same result as before" in third.stdout
    assert {path: path.read_bytes() for path in stored} == stored

    result = chapters.read(book / "notebooks" / "01_plain.ipynb")
    assert chapters.unfinished(result) == []
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
    assert chapters.unfinished(chapters.read(good)) != []


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
    assert sorted(["A1", "10", "7b", "7"], key=pages.reading_order) == ["7", "7b", "10", "A1"]


def test_interrupt_keeps_finished_chapters_and_ends_the_others(book):
    marker = book / "kernel.pid"
    put(
        book,
        "02_alpha",
        f"import os, pathlib, time\npathlib.Path({str(marker)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)",
    )
    command = [sys.executable, str(TOOLS / "execute.py"), "--root", str(book), "--jobs", "2"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = book / "notebooks" / "01_plain.ipynb"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if marker.exists() and not chapters.unfinished(chapters.read(first)):
            break
        time.sleep(0.1)
    child.send_signal(2)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "finished chapters are kept" in errors
    assert chapters.unfinished(chapters.read(first)) == []
    assert "01_plain.ipynb" in chapters.load_record(book / "_build")
    kernel = int(marker.read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and alive(kernel):
        time.sleep(0.1)
    assert not alive(kernel)


def alive(pid):
    """Whether a process still runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_an_edit_made_during_the_run_is_kept(book):
    path = book / "notebooks" / "01_plain.ipynb"
    worker = object.__new__(execute.Worker)
    worker.path, worker.run = path, chapters.Run(book, {})
    worker.state = chapters.snapshot(path, book)
    put(book, "01_plain", "print('edited')")
    with pytest.raises(chapters.ChapterProblem, match="edited while it ran"):
        worker.store("the old result")
    assert "edited" in path.read_text(encoding="utf-8")


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
    with pytest.raises(chapters.ChapterProblem, match=message):
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
    with pytest.raises(chapters.ChapterProblem, match=message):
        parameters.check(book / "notebooks" / "01_plain.ipynb", values)


def test_an_int_may_stand_for_a_float(book):
    path = book / "notebooks" / "01_plain.ipynb"
    assert parameters.check(path, {"scale": 1}) == {"scale": 1}


def test_comments_hide_no_parameter(book):
    path = book / "notebooks" / "01_plain.ipynb"
    stored = chapters.read(path)
    stored.cells[1].source = "seed = 1  # of all, at d = 128\nsizes = [2, 4]\nhalf = 2**-1  # 0.5"
    path.write_text(chapters.serialise(stored), encoding="utf-8")
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
    stored = chapters.normalise(made)
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
        path.write_text(chapters.serialise(stored_outputs(**change)), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-rf", "-p"]
    command += ["no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    failed = re.findall(r"^FAILED .*?(\w+)\.ipynb::Cell (\d+)", done.stdout, flags=re.MULTILINE)
    assert sorted(failed) == [("glued", "2"), ("judged", "3"), ("printed", "1")], done.stdout


# ------------------------------------------------------------------- generated pages


def row(**changes):
    """One row of the ledger."""
    plain = {
        "id": "C01",
        "kind": "paper",
        "chapter": 2,
        "statement": "A | B is <c> and 2*3",
        "place": "fig 1",
        "published": "",
        "verdict": pages.NOT_TESTED,
        "prediction": "small",
        "measured": None,
        "low": None,
        "high": None,
        "anchor": None,
        "notebook": None,
    }
    return plain | changes


def test_claims_page_links_verdicts_to_their_cells():
    judged = row(
        id="C02",
        verdict="NOT SUPPORTED",
        measured=0.12345,
        low=0.1,
        high=0.2,
        anchor="verdict-c02",
        notebook="notebooks/02_alpha.ipynb",
    )
    text = pages.claims_page([row(), judged], {2: ("notebooks/02_alpha.ipynb", "Alpha")})
    assert "2 in all: 1 not supported, 1 not yet tested." in text
    assert '<a href="../notebooks/02_alpha.html#verdict-c02">' in text
    assert "kv-badge not-supported" in text
    assert "0.1235 \\[0.1, 0.2\\]" in text
    assert "A \\| B is \\<c\\> and 2\\*3" in text
    assert "kv-badge not-tested" in text


def test_generated_parts_need_their_markers():
    text = "a\n<!-- generated: x -->\nold\n<!-- end of generated: x -->\nb\n"
    filled = pages.fill(text, "x", "new")
    assert filled == text.replace("old", "new")
    assert pages.fill(filled, "x", "new") == filled
    with pytest.raises(chapters.ChapterProblem, match="markers"):
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
    path.write_text(chapters.serialise(made), encoding="utf-8")
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
    with pytest.raises(chapters.ChapterProblem, match=message):
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
    with pytest.raises(chapters.ChapterProblem, match="nowhere"):
        render.build(site)
    assert page.read_bytes() == good


# --------------------------------------------------------------------- environment


def test_supported_interpreters():
    assert [environment.supported((3, minor)) for minor in (10, 11, 12, 13, 14)] == [
        False,
        True,
        True,
        True,
        False,
    ]


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


def test_missing_venv_module_gets_one_clear_message(tmp_path):
    fake = tmp_path / "python3"
    fake.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    with pytest.raises(environment.EnvironmentProblem, match="python3-venv"):
        environment.require_venv(fake)
    environment.require_venv(sys.executable)


def test_unfinished_or_moved_environment_is_made_anew(tmp_path):
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    (tmp_path / "requirements.txt").write_text("a==1\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    wanted = environment.fingerprint(tmp_path)
    stamp = venv / environment.STAMP

    assert environment.needed(venv, wanted) == "everything"
    stamp.write_text(json.dumps(wanted)[:-5], encoding="utf-8")
    assert environment.needed(venv, wanted) == "everything"
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    assert environment.needed(venv, wanted) == "nothing"
    assert environment.needed(venv, {**wanted, "place": "elsewhere"}) == "everything"

    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\n", encoding="utf-8")
    assert environment.needed(venv, environment.fingerprint(tmp_path)) == "package"
    (tmp_path / "requirements.txt").write_text("a==2\n", encoding="utf-8")
    assert environment.needed(venv, environment.fingerprint(tmp_path)) == "everything"
    (venv / "bin" / "python").unlink()
    assert environment.needed(venv, wanted) == "everything"


# -------------------------------------------------------------------------- serving


def test_server_listens_on_this_machine_alone(tmp_path):
    with serve.server(tmp_path, 0) as first:
        address, port = first.server_address
        assert address == "127.0.0.1"
        with serve.server(tmp_path, port) as second:
            assert second.server_address[1] not in (0, port)


def test_serving_needs_a_book(tmp_path, capsys):
    assert serve.main(["--html", str(tmp_path)]) == 1
    assert "make book" in capsys.readouterr().err
