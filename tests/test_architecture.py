"""Data flows one way through kvlib, and theory and experiment never meet."""

import ast
from pathlib import Path

import pytest

import kvlib

PACKAGE = Path(kvlib.__file__).parent
# Each room imports only from rooms before it.
STREAM = (
    "_validation",
    "_runtime",
    "sphere",
    "rotations",
    "codebooks",
    "packing",
    "sketches",
    "_kernels",
    "_compiled",
    "schemes",
    "_attention_kernels",
    "attention",
    "metrics",
    "_intervals",
    "_pvalues",
    "_effects",
    "_energy",
    "_permutation",
    "inference",
    "caches",
    "_shards",
    "sweeps",
    "theory",
    "splitting",
    "_claims_table",
    "_stability",
    "claims",
    "plotting",
    "_timing",
    "bench",
    "__main__",
)
CLOSED_FORMS = ("theory", "splitting")
HEAVY = ("matplotlib", "seaborn")


def imports(source):
    """Names of the kvlib modules, and of the packages, that some Python source imports."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            others |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            package, _, module = node.module.partition(".")
            if package != "kvlib":
                others.add(package)
            elif module:
                ours.add(module)
            else:
                ours |= {name.name for name in node.names}
    return ours, others


def violations(name, source):
    """What a module imports against the stream."""
    ours, _ = imports(source)
    rank = {module: place for place, module in enumerate(STREAM)}
    wrong = {module for module in ours if rank[module] >= rank[name]}
    if name in CLOSED_FORMS:
        wrong |= ours - {"_validation", "sphere"}
    elif name != "__main__":
        wrong |= ours & set(CLOSED_FORMS)
    return wrong


def test_every_module_has_a_place_in_the_stream():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set(STREAM)


@pytest.mark.parametrize("name", STREAM)
def test_imports_follow_the_stream(name):
    assert violations(name, (PACKAGE / f"{name}.py").read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("sphere", "from kvlib import codebooks", {"codebooks"}),
        ("theory", "from kvlib.schemes import named", {"schemes"}),
        ("theory", "from kvlib import sphere, codebooks", {"codebooks"}),
        ("plotting", "from kvlib import theory", {"theory"}),
        ("metrics", "from kvlib import metrics", {"metrics"}),
    ],
)
def test_an_import_against_the_stream_is_seen(name, source, wrong):
    assert violations(name, source) == wrong


@pytest.mark.parametrize("name", [n for n in STREAM if n != "plotting"])
def test_only_plotting_needs_a_plotting_library(name):
    _, others = imports((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    assert not others & set(HEAVY)
