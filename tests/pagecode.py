"""Run a chapter's own code on data that were made up: as much of it as a verdict needs.

A verdict cell of a notebook uses samples, helper functions and predictions of earlier cells.
`judge` runs that cell after replacing some of those names, typically the samples or a module the
experiment draws from. Of the earlier cells it executes only the statements that the verdict still
needs then, so that a doctored result costs milliseconds where the experiment costs seconds. What
is tested is the page's own chain from there on: estimator, interval, rule and verdict.
"""

import ast
import json
import os
import symtable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
from kvbook import ledger

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
# Methods that change what they are called on.
CHANGING = {"append", "extend", "add", "update", "setdefault", "insert"}
COMPOUND = (ast.For, ast.While, ast.If, ast.With, ast.Try)
# What the text needs, and no verdict.
SILENT = {"glue": lambda *args, **keywords: None, "print": lambda *args, **keywords: None}


def altered(module, **changes):
    """A module with some of its functions replaced, for one page only."""
    return SimpleNamespace(**{**vars(module), **changes})


@cache
def verdict_cells():
    """Claim id to (path of the notebook, index of its verdict's cell)."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for index, cell in enumerate(cells(path)):
            for output in cell["outputs"]:
                if ledger.MIME_TYPE in output.get("data", {}):
                    found[output["data"][ledger.MIME_TYPE]["id"]] = (path, index)
    return found


@cache
def cells(path):
    """The code cells of a notebook."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


@cache
def statements(path, count):
    """The top-level statements of a notebook's first code cells."""
    sources = ["".join(cell["source"]) for cell in cells(path)[:count]]
    return [node for source in sources for node in ast.parse(source).body]


@cache
def names(node):
    """(names that a statement binds or changes, names it needs beforehand).

    A function needs what its body reads; what is local to a function or a comprehension counts
    for nothing, nor does what a loop binds itself before it reads it.
    """
    binds, reads = flat(node)
    if isinstance(node, COMPOUND):
        reads = exposed([node], set())
    return binds, reads


def flat(node):
    """The names that some code binds, and those that it reads, in whichever order."""
    table = symtable.symtable(ast.unparse(node), "page", "exec")
    symbols = table.get_symbols()
    binds = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    reads = {s.get_name() for s in symbols if s.is_referenced()}
    waiting = list(table.get_children())
    while waiting:
        inner = waiting.pop()
        reads |= {symbol.get_name() for symbol in inner.get_symbols() if symbol.is_global()}
        waiting += inner.get_children()
    changed = changes(node)
    return binds | changed, reads | (changed & binds) | augmented(node)


def augmented(node):
    """Names in `name += ...`, which are read before they are bound."""
    parts = [part for part in ast.walk(node) if isinstance(part, ast.AugAssign)]
    return {root(part.target) for part in parts} - {None}


def exposed(body, bound):
    """Names that statements, executed in order, read before they bind them."""
    found, bound = set(), set(bound)
    for node in body:
        if isinstance(node, ast.For):
            targets = flat(ast.Assign([node.target], ast.Constant(0), lineno=0))[0]
            found |= flat(node.iter)[1] - bound
            bound |= targets
            found |= exposed(node.body, bound)
            bound |= {
                n for part in node.body if not isinstance(part, COMPOUND) for n in fixed(part)
            }
        elif isinstance(node, COMPOUND):
            whole = flat(node)[1]
            inside = getattr(node, "body", []) + getattr(node, "orelse", [])
            heads = [v for k, v in ast.iter_fields(node) if isinstance(v, ast.expr)]
            heads = set().union(*(flat(head)[1] for head in heads)) if heads else whole
            found |= (heads | exposed(inside, bound)) - bound
        else:
            found |= names(node)[1] - bound
            bound |= fixed(node)
    return found


def fixed(node):
    """Names that a simple statement binds whatever they were before."""
    binds, reads = flat(node)
    return binds - reads - changes(node)


def changes(node):
    """Names of what a statement changes in place."""
    found = set()
    for part in ast.walk(node):
        stored = isinstance(part, (ast.Subscript, ast.Attribute)) and isinstance(
            part.ctx, ast.Store
        )
        called = isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute)
        if stored:
            found.add(root(part))
        elif called and part.func.attr in CHANGING:
            found.add(root(part.func))
    for part in ast.walk(node):
        # What a loop runs over changes with its variable: `for log in (first, second): log.append`.
        if isinstance(part, ast.For):
            targets = {n.id for n in ast.walk(part.target) if isinstance(n, ast.Name)}
            if targets & found:
                found |= {n.id for n in ast.walk(part.iter) if isinstance(n, ast.Name)}
    return found - {None}


def root(node):
    """The name that a chain of attributes and subscripts starts from."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def needed(body, wanted, given):
    """The statements without which some names would not be what they are, in order.

    Parameters
    ----------
    body : list of ast.stmt
        In order of execution.
    wanted : set of str
    given : set of str
        Names that somebody else provides.
    """
    definitions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    now, always, kept = set(), set(), []

    def want(more):
        # A function needs its globals when it is called, wherever those are bound.
        fresh = set(more) - given - now - always
        now.update(fresh)
        for name in fresh & set(definitions):
            always.add(name)
            inner = names(definitions[name])[1] - given - always
            want(inner)
            always.update(inner)

    want(wanted)
    for node in reversed(body):
        binds, reads = names(node)
        if binds & (now | always):
            kept.append(node)
            if not isinstance(node, COMPOUND):
                now.difference_update(fixed(node))
            want(reads)
    return kept[::-1]


def judge(claim, **given):
    """The verdict that a page reaches when some of its names are replaced.

    Parameters
    ----------
    claim : str
        Its id.
    **given
        Values by name. A name that the notebook does not bind is an error: the page has changed,
        and the control with it.

    Returns
    -------
    kvlib.claims.Verdict
    """
    path, last, run = prepared(claim, set(given))
    return execute(path, run, last, given)


def value(claim, name):
    """What a name means on the page that judges a claim, before the verdict's cell."""
    path, index = verdict_cells()[claim]
    run = needed(statements(path, index), {name}, set(SILENT))
    return execute(path, run, ast.parse(name, mode="eval").body, {})


def execute(path, run, last, given):
    """Run statements of a page, holding some names fixed, and evaluate an expression."""
    space = {"__name__": path.stem, **SILENT, **given}
    here = Path.cwd()
    try:
        os.chdir(path.parent)
        for node in run:
            exec(compile(ast.Module([node], []), path.name, "exec"), space)
            # A statement that is needed for another name may bind a given one as well.
            space.update(given)
        return eval(compile(ast.Expression(last), path.name, "eval"), space)
    finally:
        os.chdir(here)
        plt.close("all")


def prepared(claim, given):
    """Path of the page, the expression that is its verdict, and the statements to run before."""
    path, index = verdict_cells()[claim]
    body = statements(path, index + 1)
    unknown = given - set().union(*(names(node)[0] for node in body))
    assert not unknown, f"{path.name} does not bind {sorted(unknown)} before it judges {claim}"
    *body, last = body
    assert isinstance(last, ast.Expr), f"the verdict of {claim} is not its cell's last line"
    return path, last.value, needed(body, names(last)[1], given | set(SILENT))


def plan(claim, *given):
    """What `judge` would execute, as text: for whoever writes a control."""
    _, last, run = prepared(claim, set(given))
    return "\n".join(ast.unparse(node) for node in [*run, last])
