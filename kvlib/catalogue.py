"""Names for things that others may add to: formats, metrics."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar


class Entry(Protocol):
    """A row of a catalogue: it knows its name and the module that entered it."""

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> str: ...


Row = TypeVar("Row", bound=Entry)


class Catalogue(Generic[Row]):
    """Rows by name; a function named ``"module:function"`` is imported and made into one.

    Parameters
    ----------
    function : callable
        The function that a row stands for.
    row : callable
        A row from a name, a function and its module, for functions that nobody entered.
    """

    def __init__(
        self, function: Callable[[Row], Callable[..., Any]], row: Callable[[str, Any, str], Row]
    ) -> None:
        self._function, self._row = function, row
        self.rows: dict[str, Row] = {}

    def enter(self, row: Row) -> None:
        """Add a row.

        A module that is imported again (a notebook's cell, a reload) may enter its name again.

        Raises
        ------
        ValueError
            If another function has the name.
        """
        there = self.rows.get(row.name)
        if there and self._origin(there) != self._origin(row):
            raise ValueError(f"name must not be taken, got {row.name!r} of {there.module}")
        self.rows[row.name] = row

    def _origin(self, row: Row) -> tuple[str, str]:
        return row.module, self._function(row).__qualname__

    def find(self, name: str) -> Row:
        """The row of a name.

        Raises
        ------
        TypeError, ValueError
            If nothing has that name, or the module or its function is not there.
        """
        if isinstance(name, str) and ":" in name:
            return self._imported(name)
        if not isinstance(name, str) or name not in self.rows:
            known = ", ".join(repr(known) for known in self.rows)
            raise ValueError(f"name must be one of {known}, or 'module:function', got {name!r}")
        return self.rows[name]

    def _imported(self, name: str) -> Row:
        module, _, function = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), function)
        except Exception as error:  # whatever another's module may raise when it is imported
            raise ValueError(
                f"name must be of a function that can be imported, got {name!r} ({error!r})"
            ) from error
        if not callable(found):
            raise TypeError(f"{name} must be a function, got {found!r}")
        for row in self.rows.values():  # importing may have entered it
            if self._function(row) is found:
                return row
        return self._row(name, found, module)


def check_name(name: object) -> str:
    """Return a name that a row may have.

    Raises
    ------
    ValueError
        If it is no string, empty, or holds a colon.
    """
    if not isinstance(name, str) or not name or ":" in name:
        raise ValueError(f"name must be a string without a colon, got {name!r}")
    return name
