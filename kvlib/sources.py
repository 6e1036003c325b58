"""Which modules some Python code reaches by its import statements, and the files they lie in.

What a result was computed with is known by this: a stored result is out of date when one of these
files changed, and only then.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path


def module_file(name: str, packages: Mapping[str, Path]) -> Path | None:
    """The file of a module such as ``"kvlib.laws.sphere"``; None if there is none.

    Parameters
    ----------
    name : str
        Dotted name.
    packages : mapping
        Name of a package to its folder; modules of other packages have no file here.
    """
    package, *parts = name.split(".")
    if package not in packages:
        return None
    stem = packages[package].joinpath(*parts)
    files = [stem / "__init__.py", *([stem.with_suffix(".py")] if parts else [])]
    return next((file for file in files if file.is_file()), None)


def imported(source: str, packages: Mapping[str, Path], *, package: str = "") -> set[str]:
    """Modules of some packages that a piece of Python names in its import statements.

    Parameters
    ----------
    source : str
    packages : mapping
        Name of a package to its folder.
    package : str
        Package that the source belongs to, for its relative imports.

    Returns
    -------
    set of str
        Dotted names, those of the enclosing packages among them: importing a module runs the
        ``__init__`` of each.

    Raises
    ------
    SyntaxError
        If the source is not valid Python.
    """
    found: set[str] = set()
    for node in _imports(source):
        if isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names):
                found |= {name, *_lazy(name, packages).values()}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            lazy = _lazy(base, packages)
            for name in (alias.name for alias in node.names):
                target = lazy.get(name, f"{base}.{name}")
                found |= {base, target, *_lazy(target, packages).values()}
    parents = {name.rsplit(".", depth)[0] for name in found for depth in range(name.count(".") + 1)}
    return {name for name in found | parents if module_file(name, packages)}


def closure(names: set[str], packages: Mapping[str, Path]) -> dict[str, Path]:
    """Every module that some modules reach, themselves included, with its file.

    Raises
    ------
    SyntaxError
        If one of the files is not valid Python; ``filename`` says which.
    """
    reached: dict[str, Path] = {}
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        file = module_file(name, packages)
        if file is None or name in reached:
            continue
        reached[name] = file
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        try:
            waiting |= imported(file.read_text(encoding="utf-8"), packages, package=package)
        except SyntaxError as error:
            error.filename = str(file)
            raise
    return reached


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module that ``from ... import`` names, relative dots resolved."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *filter(None, [node.module])])


@lru_cache(maxsize=1024)
def _imports(source: str) -> tuple[ast.AST, ...]:
    """The import statements of a source; the modules of a package are asked for many times."""
    nodes = _executed(ast.parse(source))
    return tuple(node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)))


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from _executed(node)


def _lazy(name: str, packages: Mapping[str, Path]) -> dict[str, str]:
    """Names that a package imports when they are first used, from its table ``LAZY``."""
    file = module_file(name, packages)
    if file is None or file.name != "__init__.py":
        return {}
    return dict(_table(file.read_text(encoding="utf-8")))


@lru_cache(maxsize=64)
def _table(source: str) -> tuple[tuple[str, str], ...]:
    """The items of a package's ``LAZY``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAZY":
            return tuple(ast.literal_eval(node.value).items())
    return ()
