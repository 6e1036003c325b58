"""Parameters given on the command line, checked against each chapter's `parameters` cell."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvbook.build.chapters import ChapterProblem, read, tags


def parse(text: str | None) -> dict[str, Any]:
    """Values from a string such as ``seed=7 trials=100``.

    Parameters
    ----------
    text : str or None
        Pairs name=value parted by blanks; each value a Python literal.

    Returns
    -------
    dict

    Raises
    ------
    ChapterProblem
        If a pair has no name, no value, a value that is no literal, or a name given twice.
    """
    values: dict[str, Any] = {}
    for pair in split(text or ""):
        name, equals, literal = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ChapterProblem(f"P: {pair!r} is not of the form name=value")
        if name in values:
            raise ChapterProblem(f"P: {name} is given twice")
        try:
            values[name] = ast.literal_eval(literal)
        except (ValueError, SyntaxError) as error:
            raise ChapterProblem(
                f"P: the value of {name}, {literal!r}, is not a Python literal "
                "(a number, a quoted string, a list or a tuple)"
            ) from error
    return values


def split(text: str) -> list[str]:
    """Cut at the blanks before each ``name=``, so that values may hold blanks themselves."""
    return re.split(r"\s+(?=[A-Za-z_]\w*=)", text.strip()) if text.strip() else []


def known(path: Path) -> dict[str, Any]:
    """A chapter's parameters and their default values.

    Returns
    -------
    dict
        Name to default; a default that is no literal (an expression) stands as None.
    """
    # Not papermill.inspect_notebook: it misses a parameter whose comment holds "=".
    cells = [c.source for c in read(path).cells if "parameters" in tags(c)]
    statements = [node for source in cells for node in ast.parse(source).body]
    return {
        node.targets[0].id: _literal(node.value)
        for node in statements
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def check(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that reach one chapter; one without parameters takes none.

    Raises
    ------
    ChapterProblem
        If the chapter has parameters but not one of these names, or a value's type is not
        that of the default.
    """
    if not values:
        return {}
    defaults = known(path)
    if not defaults:
        return {}
    unknown = sorted(set(values) - set(defaults))
    if unknown:
        raise ChapterProblem(
            f"{path.name} has no parameter {', '.join(unknown)}; it knows {', '.join(defaults)}"
        )
    for name, value in values.items():
        if not same_kind(value, defaults[name]):
            raise ChapterProblem(
                f"{path.name}: {name}={value!r} is of type {type(value).__name__}; the default "
                f"{defaults[name]!r} is of type {type(defaults[name]).__name__}"
            )
    return dict(values)


def same_kind(value: Any, default: Any) -> bool:
    """Whether a value may stand where the default stands (an int may stand for a float)."""
    if default is None or type(value) is type(default):
        return True
    if isinstance(value, bool) or isinstance(default, bool):
        return False
    if isinstance(default, float):
        return isinstance(value, int)
    return isinstance(default, (list, tuple)) and isinstance(value, (list, tuple))
