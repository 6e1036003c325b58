"""Queries, keys and values captured from models, as files.

A captured cache is an ``.npz`` file with float arrays ``q``, ``k``, ``v`` of axes (layer, head,
[window,] token, dim), the integer vectors ``layers`` and ``heads`` that say which ones these
are, optionally the token ``ids``, and ``meta``, a JSON object whose ``causal`` is a boolean.
Files are read without pickle and only after their declared sizes have been checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvlib import files
from kvlib.checks import (
    FloatArray,
    as_integers,
    as_vectors,
    check_bool,
    check_int,
    check_nonzero_norms,
    keep_checked,
)

_REQUIRED = ("q", "k", "v", "layers", "heads", "meta")


# Captured caches -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class KVCache:
    """Queries, keys and values of some layers and heads of a model.

    Parameters
    ----------
    q, k, v : ndarray, shape (layers, heads, [windows,] tokens, d)
        Of one shape, in float16, float32 or float64, finite, without zero vectors. Stored as
        given; :meth:`heads_iter` widens float16.
    causal : bool
        Whether a query sees only the keys up to its own.
    name : str
        What to call the cache on a page.
    layers, heads : tuple of int
        Indices in the model of the entries of the first two axes.
    meta : mapping
        Origin, in JSON types.
    ids : ndarray of int, optional
        Token ids.

    Raises
    ------
    TypeError, ValueError
        If one of these rules is broken; the message names the array.
    """

    q: FloatArray
    k: FloatArray
    v: FloatArray
    causal: bool
    name: str
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    ids: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        keep_checked(self, causal=check_bool(self.causal, "causal"))
        for name in ("q", "k", "v"):
            _check_captured(getattr(self, name), name)
        if not self.q.shape == self.k.shape == self.v.shape:
            raise ValueError(
                "q, k and v must have the same shape (repeat the key heads first where several "
                f"query heads share one), got {self.q.shape}, {self.k.shape}, {self.v.shape}"
            )
        for name, labels, size in zip(
            ("layers", "heads"), (self.layers, self.heads), self.k.shape[:2], strict=True
        ):
            if len(labels) != size:
                raise ValueError(
                    f"{name} must name the {size} entries of that axis of k, got {labels}"
                )
            keep_checked(self, **{name: tuple(check_int(i, name, low=0) for i in labels)})
        if self.ids is not None:
            keep_checked(self, ids=as_integers(self.ids, "ids"))

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""
        return int(self.k.shape[-1])

    @property
    def tokens(self) -> int:
        """Tokens of a window."""
        return int(self.k.shape[-2])

    def heads_iter(self) -> Iterator[tuple[str, FloatArray, FloatArray, FloatArray]]:
        """Yield ``(label, q, k, v)`` of every head, arrays of shape ([windows,] tokens, d)."""
        for i, layer in enumerate(self.layers):
            for j, head in enumerate(self.heads):
                q, k, v = (as_vectors(x[i, j], "x") for x in (self.q, self.k, self.v))
                yield f"layer {layer} head {head}", q, k, v


def load(path: str | os.PathLike[str], *, max_bytes: int = files.MAX_BYTES) -> KVCache:
    """Read a captured cache from an ``.npz`` file.

    Parameters
    ----------
    path : path-like
    max_bytes : int
        Refuse files that declare more than this many unpacked bytes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If an array has the wrong type: objects (which would need pickle), integers for q.
    ValueError
        If the file is damaged or too large, or an array is missing, of the wrong shape, empty,
        not finite, or holds zero vectors. The message names file and array.
    """
    path = Path(path)
    arrays = files.read_npz(path, _REQUIRED, ("ids",), max_bytes=max_bytes)
    with files.naming(path):
        meta = _parse_meta(arrays["meta"])
        return KVCache(
            q=arrays["q"],
            k=arrays["k"],
            v=arrays["v"],
            causal=meta.pop("causal"),
            name=meta.pop("name", path.stem),
            layers=_labels(arrays["layers"], "layers"),
            heads=_labels(arrays["heads"], "heads"),
            meta=meta,
            ids=arrays.get("ids"),
        )


def save(path: str | os.PathLike[str], cache: KVCache) -> None:
    """Write a cache as compressed ``.npz``, completely or not at all.

    Arrays keep their values and dtypes. The file appears under its name only once it is
    complete, and the same cache always gives the same bytes.
    """
    meta = {**cache.meta, "causal": cache.causal, "name": cache.name}
    arrays: dict[str, NDArray[Any]] = {
        **{name: getattr(cache, name) for name in ("q", "k", "v")},
        "layers": np.array(cache.layers, dtype=np.int64),
        "heads": np.array(cache.heads, dtype=np.int64),
        "meta": files.json_array(meta),
    }
    if cache.ids is not None:
        arrays["ids"] = cache.ids
    files.write_npz(path, arrays)


def _check_captured(x: object, name: str) -> None:
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float16, np.float32, np.float64):
        given = f"dtype {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise TypeError(f"{name} must be an array of float16, float32 or float64, got {given}")
    if x.ndim not in (4, 5):
        raise ValueError(
            f"{name} must have axes (layer, head, [window,] token, dim), got shape {x.shape}"
        )
    wide = as_vectors(x, name)
    check_nonzero_norms(np.abs(wide).max(-1), name)


def _parse_meta(array: NDArray[Any]) -> dict[str, Any]:
    meta = files.json_object(array, "meta")
    if "causal" not in meta:
        raise ValueError("array 'meta' must be a JSON object with the key 'causal'")
    if not isinstance(meta.get("name", ""), str):
        raise TypeError(f"name in array 'meta' must be a string, got {meta['name']!r}")
    return meta


def _labels(array: NDArray[Any], name: str) -> tuple[int, ...]:
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise TypeError(
            f"array {name!r} must be a vector of integers, got {array.dtype} {array.shape}"
        )
    return tuple(int(label) for label in array)
