"""Data flows one way through kvlib, kvbook builds on it and not the reverse, and theory and
experiment never meet."""

import ast
from pathlib import Path

import kvbook
import pytest

import kvlib
from kvlib import sources

PACKAGES = {"kvlib": Path(kvlib.__file__).parent, "kvbook": Path(kvbook.__file__).parent}
# Each room imports only from rooms before it. Inside a room, modules are ordered by their imports,
# which must not form a circle.
ROOMS = (
    "kvlib.lazy",
    "kvlib.catalogue",
    "kvlib.checks",
    "kvlib.files",
    "kvlib.sources",
    "kvlib.laws",
    "kvlib.quantize",
    "kvlib.measure",
    "kvlib.stats",
    "kvlib.data",
    "kvlib.sweeps",
    "kvlib.timing",
    "kvlib.bench",
    "kvlib.cli",
    "kvlib.__main__",
    "kvbook.ledger",
    "kvbook.plotting",
    "kvbook.page",
    "kvbook.models",
    "kvbook.bench",
    "kvbook.experiments",
    "kvbook.figures",
    "kvbook.build",
)
# What is derived must not reach what measures, and the reverse. The law of the sphere is what
# codebooks are made for.
CLOSED_FORMS = {"kvlib.laws", "kvlib.checks", "kvlib.lazy"}
MEASURING = ("kvlib.quantize", "kvlib.measure", "kvlib.stats", "kvlib.data", "kvlib.sweeps")
HEAVY = ("matplotlib", "seaborn")
MAY_DRAW = (
    "kvbook.plotting",
    "kvbook.figures",
    "kvbook.page",
    "kvlib.sweeps.plot",
)


def modules():
    """Dotted name of every module of both packages."""
    found = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def room(module):
    """The room a module lies in: the longest that contains it."""
    return next((r for r in ROOMS if module == r or module.startswith(r + ".")), None)


def imports(module, source):
    """Modules of both packages that a module names, enclosing packages left out."""
    found = sources.imported(source, PACKAGES, package=module.rpartition(".")[0])
    return {name for name in found if room(name)}


def violations(module, source):
    """What a module imports against the stream."""
    here = room(module)
    wrong = {m for m in imports(module, source) if ROOMS.index(room(m)) > ROOMS.index(here)}
    if here == "kvlib.laws":
        wrong |= {m for m in imports(module, source) if room(m) not in CLOSED_FORMS}
    if module.startswith(MEASURING):
        laws = {m for m in imports(module, source) if room(m) == "kvlib.laws"}
        wrong |= laws - {"kvlib.laws", "kvlib.laws.sphere"}
    return wrong


def text(module):
    """The source of a module."""
    return sources.module_file(module, PACKAGES).read_text(encoding="utf-8")


def test_every_module_has_a_room():
    assert [m for m in modules() if m not in PACKAGES and room(m) is None] == []


def test_every_room_exists():
    assert [r for r in ROOMS if sources.module_file(r, PACKAGES) is None] == []


@pytest.mark.parametrize("module", [m for m in modules() if m not in PACKAGES])
def test_imports_follow_the_stream(module):
    assert violations(module, text(module)) == set()


def test_no_circle_inside_a_room():
    graph = {m: imports(m, text(m)) - {m} for m in modules() if m not in PACKAGES}
    # A package's own file gathers what its modules define: it comes last.
    graph = {m: {n for n in found if not m.startswith(n + ".")} for m, found in graph.items()}
    done, left = set(), dict(graph)
    while ready := [m for m, needs in left.items() if not needs & set(left) - {m}]:
        done |= set(ready)
        left = {m: needs for m, needs in left.items() if m not in done}
    assert left == {}


def test_what_measures_reaches_no_closed_form():
    reached = sources.closure({"kvlib.sweeps", "kvlib.measure.attention"}, PACKAGES)
    laws = {m for m in reached if m.startswith("kvlib.laws.")}
    assert laws == {"kvlib.laws.sphere"}


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("kvlib.laws.sphere", "from kvlib.quantize import codebooks", "kvlib.quantize.codebooks"),
        ("kvlib.laws.softmax", "from kvlib.quantize import named", "kvlib.quantize"),
        ("kvlib.measure.metrics", "from kvlib.laws import softmax", "kvlib.laws.softmax"),
        ("kvlib.measure.metrics", "from kvlib.laws import mmse_error", "kvlib.laws.sketch"),
        ("kvlib.stats.energy", "from kvbook import plotting", "kvbook.plotting"),
        ("kvlib.quantize.rotated", "from kvlib.measure.attention import x", "kvlib.measure"),
    ],
)
def test_an_import_against_the_stream_is_seen(module, source, wrong):
    assert wrong in violations(module, source)


@pytest.mark.parametrize("module", [m for m in modules() if not m.startswith(MAY_DRAW)])
def test_only_what_draws_needs_a_plotting_library(module):
    source = text(module)
    tree = ast.parse(source)
    named = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    named |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert not {name.split(".")[0] for name in named} & set(HEAVY)
