"""Compressed vectors in files: arrays and a JSON header in one ``.npz``, no pickle.

A class of compressed vectors is stored if it is decorated with :func:`storable`, which says how
its files are called, and has the two methods of :class:`Storable`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from kvlib import files

FORMAT, VERSION = "kvlib.encoded", 1

Arrays = dict[str, NDArray[Any]]


class Storable(Protocol):
    """Compressed vectors that can be taken apart and put together again."""

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """A JSON-ready header, and arrays by name; empty arrays may be left out."""

    @classmethod
    def from_state(cls, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Any:
        """The same again; raises TypeError, ValueError or KeyError where the parts do not fit."""


_Class = TypeVar("_Class", bound=type[Storable])
_KINDS: dict[str, type[Storable]] = {}


def storable(kind: str) -> Callable[[_Class], _Class]:
    """Let files of a class be known as ``kind``; for a class of one's own, too.

    Raises
    ------
    ValueError
        If another class has that name.
    """

    def enter(cls: _Class) -> _Class:
        if _KINDS.setdefault(kind, cls).__qualname__ != cls.__qualname__:
            raise ValueError(f"kind {kind!r} is taken by {_KINDS[kind].__qualname__}")
        _KINDS[kind] = cls
        return cls

    return enter


def kind_of(encoded: object) -> str:
    """What files of an object's class are called.

    Raises
    ------
    TypeError
        If its class is not storable.
    """
    for kind, cls in _KINDS.items():
        if type(encoded) is cls:
            return kind
    raise TypeError(
        f"{type(encoded).__name__} cannot be stored: its class must have the methods state and "
        "from_state and be decorated with kvlib.quantize.storage.storable"
    )


def save(path: str | os.PathLike[str], encoded: Any) -> None:
    """Write compressed vectors to an ``.npz`` file, completely or not at all."""
    kind = kind_of(encoded)
    header, arrays = encoded.state()
    header = {**header, "format": FORMAT, "version": VERSION, "kind": kind}
    stored = {name: array for name, array in arrays.items() if array.size}
    files.write_npz(path, {**stored, "header": files.json_array(header)})


def load(path: str | os.PathLike[str], *, max_bytes: int = files.MAX_BYTES) -> Any:
    """Read what :func:`save` wrote: it decodes to the same values.

    Parameters
    ----------
    path : path-like
    max_bytes : int
        Refuse files that declare more than this many unpacked bytes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError, ValueError
        If it is damaged, too large or of something else; nothing in it is executed.
    """
    arrays = files.read_npz(path, ("header",), None, max_bytes=max_bytes)
    with files.naming(Path(path)):
        header = files.json_object(arrays.pop("header"), "header")
        if header.get("format") != FORMAT or header.get("version") != VERSION:
            raise ValueError(f"header must say {FORMAT} version {VERSION}, got {header!r:.200}")
        return restore(str(header.get("kind")), header, arrays)


def restore(kind: str, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Put together what :meth:`Storable.state` took apart."""
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, _KINDS))}, got {kind!r}")
    return _KINDS[kind].from_state(header, arrays)


def state_of(encoded: Any, prefix: str) -> tuple[dict[str, Any], Arrays]:
    """Header with its kind, and arrays under ``prefix.name``: a part of something larger."""
    kind = kind_of(encoded)
    header, arrays = encoded.state()
    return {**header, "kind": kind}, {f"{prefix}.{name}": a for name, a in arrays.items() if a.size}


def part(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], prefix: str) -> Any:
    """The part that :func:`state_of` took apart under a prefix."""
    own = {n.removeprefix(f"{prefix}."): a for n, a in arrays.items() if n.startswith(f"{prefix}.")}
    return restore(str(header[prefix].get("kind")), header[prefix], own)
