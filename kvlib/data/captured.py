"""Queries, keys and values captured from models, as files.

A captured cache is an ``.npz`` file with float arrays ``q``, ``k``, ``v`` of axes (layer, head,
[window,] token, dim), the integer vectors ``layers`` and ``heads`` that say which ones these
are, optionally the token ``ids``, their ``positions``, the padding ``mask`` and ``query_tokens``,
and ``meta``, a JSON object whose ``causal`` is a boolean; a model's own scale, cap, sliding window
and sinks are the object ``model_attention`` in it. A window is a piece of text, captured by itself;
that of a model's attention is always called sliding. Files are read without pickle and only after
their declared sizes have been checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvlib import files
from kvlib.checks import (
    FloatArray,
    as_array,
    as_booleans,
    as_integers,
    as_vectors,
    check_bool,
    check_int,
    check_positive,
    keep_checked,
    refuse_masked,
)

_REQUIRED = ("q", "k", "v", "layers", "heads", "meta")
_OPTIONAL = ("ids", "positions", "mask", "query_tokens")
_OWN_KEY = "model_attention"
_ATTENTION = ("scale", "softcap", "sliding_window", "sinks")


# Captured caches -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class KVCache:
    """Queries, keys and values of some layers and heads of a model.

    Parameters
    ----------
    q : ndarray, shape (layers, query heads, [windows,] queries, d)
    k : ndarray, shape (layers, heads, [windows,] tokens, d)
    v : ndarray, shape (layers, heads, [windows,] tokens, d_v)
        float16, float32 or float64, finite, stored as given; :meth:`heads_iter` widens float16.
        bfloat16 is stored as float32, torch tensors in the CPU's memory as their numpy view.
        Query heads i * group to (i + 1) * group - 1 share key head i, as in all models with grouped
        queries: pass keys and values as they are, repeated ones would be counted and weighed
        repeatedly.
    causal : bool
        Whether a query sees only the keys up to its own.
    name : str
        What to call the cache on a page.
    layers, heads : tuple of int
        Indices in the model of the entries of the first two axes of k; 0, 1, 2, ... by default.
    meta : mapping
        Origin, in JSON types.
    ids : ndarray of int, optional
        Token ids.
    scale, softcap : float, optional
        The model's own factor on inner products, ``1/sqrt(d)`` by default, and the cap on its
        logits, see :func:`kvlib.measure.attention.attention_weights`.
    sliding_window : int or sequence of (int or None), optional
        Last keys that a query sees, its own among them: for all layers, or for each, None where a
        layer sees all. Kept as a tuple of one entry a layer.
    sinks : int
        Tokens of a position below this one are seen whatever the sliding window.
    positions : ndarray of int, shape ([windows,] tokens), optional
        Positions as the model counts them, rising from token to token; by default the tokens that
        are no padding are counted from zero.
    mask : ndarray of bool, shape ([windows,] tokens), optional
        False where a token is padding, which no query sees; given to ``encode``, no mean takes it
        in.
    query_tokens : ndarray of int, shape (queries,), optional
        Index of the token of each query, rising; needed where not every token has its query.

    Raises
    ------
    TypeError, ValueError
        If one of these rules is broken; the message names the array.

    Examples
    --------
    >>> q, k = np.ones((2, 9, 5, 8)), np.ones((2, 3, 5, 8))
    >>> cache = KVCache(q, k, k, name="tiny", sliding_window=[4, None])
    >>> cache.group, cache.layers, cache.sliding_window
    (3, (0, 1), (4, None))
    """

    q: FloatArray
    k: FloatArray
    v: FloatArray
    causal: bool = True
    name: str = "cache"
    layers: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    ids: NDArray[Any] | None = None
    scale: float | None = None
    softcap: float | None = None
    sliding_window: int | Sequence[int | None] | None = None
    sinks: int = 0
    positions: NDArray[Any] | None = None
    mask: NDArray[np.bool_] | None = None
    query_tokens: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        keep_checked(self, causal=check_bool(self.causal, "causal"))
        for name in ("q", "k", "v"):
            keep_checked(self, **{name: _captured(getattr(self, name), name)})
        _check_shapes(self.q, self.k, self.v)
        for name, size in zip(("layers", "heads"), self.k.shape[:2], strict=True):
            keep_checked(self, **{name: _indices(getattr(self, name), name, size)})
        if self.ids is not None:
            keep_checked(self, ids=as_integers(self.ids, "ids"))
        for name in ("scale", "softcap"):
            if getattr(self, name) is not None:
                keep_checked(self, **{name: check_positive(getattr(self, name), name)})
        keep_checked(
            self,
            sliding_window=_sliding(self.sliding_window, len(self.layers), self.causal),
            sinks=check_int(self.sinks, "sinks", low=0),
            mask=self._checked_mask(),
            query_tokens=self._checked_query_tokens(),
        )
        keep_checked(self, positions=self._checked_positions())

    def _checked_mask(self) -> NDArray[np.bool_] | None:
        if self.mask is None:
            return None
        mask = as_booleans(self.mask, "mask")
        self._check_per_token(mask, "mask")
        if not mask.any(-1).all():
            raise ValueError("mask must be True for at least one token of each window, got none")
        return mask

    def _checked_query_tokens(self) -> NDArray[Any] | None:
        count = self.q.shape[-2]
        if self.query_tokens is None:
            if count != self.tokens:
                raise ValueError(
                    "query_tokens must say which token each query belongs to where q has not all "
                    f"the tokens of k, got {count} queries, {self.tokens} tokens and no "
                    "query_tokens"
                )
            return None
        tokens = as_integers(self.query_tokens, "query_tokens")
        in_order = tokens.shape == (count,) and (np.diff(tokens.astype(np.int64)) > 0).all()
        if not in_order or tokens[0] < 0 or tokens[-1] >= self.tokens:
            raise ValueError(
                f"query_tokens must be {count} rising indices from 0 to {self.tokens - 1}, one a "
                f"query, got shape {tokens.shape}: {np.array2string(tokens, threshold=8)}"
            )
        return tokens

    def _checked_positions(self) -> NDArray[Any] | None:
        if self.positions is None:
            return None
        positions = as_integers(self.positions, "positions")
        self._check_per_token(positions, "positions")
        windows = np.broadcast_to(positions, (self.windows, self.tokens)).astype(np.int64)
        for window, real in zip(windows, self.mask_of_tokens(), strict=True):
            found = window[real]
            if found[0] < 0 or (np.diff(found) <= 0).any():
                raise ValueError(
                    "positions must be >= 0 and rise from token to token, padding left out, got "
                    f"{np.array2string(found, threshold=8)}"
                )
        return positions

    def _check_per_token(self, x: NDArray[Any], name: str) -> None:
        allowed = {(self.tokens,), self.k.shape[2:-1]}
        if x.shape not in allowed:
            shapes = " or ".join(map(str, sorted(allowed, key=len)))
            raise ValueError(f"{name} must have shape {shapes}, got {x.shape}")

    def __repr__(self) -> str:
        """Shapes and metadata: what fits a line of a notebook."""
        shapes = ", ".join(f"{name} {getattr(self, name).shape}" for name in ("q", "k", "v"))
        parts = [repr(self.name), f"{shapes} {self.k.dtype}", "causal" if self.causal else "full"]
        parts += [f"group={self.group}"] if self.group > 1 else []
        parts += [f"layers={_shortened(self.layers)}", f"heads={_shortened(self.heads)}"]
        for name in _ATTENTION:
            value = getattr(self, name)
            if value:
                parts.append(f"{name}={_shortened(value) if name == 'sliding_window' else value}")
        parts += [name for name in _OPTIONAL if getattr(self, name) is not None]
        return f"KVCache({', '.join(parts)})"

    @property
    def dim(self) -> int:
        """Coordinates of a key."""
        return int(self.k.shape[-1])

    @property
    def value_dim(self) -> int:
        """Coordinates of a value."""
        return int(self.v.shape[-1])

    @property
    def tokens(self) -> int:
        """Tokens of a window."""
        return int(self.k.shape[-2])

    @property
    def windows(self) -> int:
        """Windows of text; one where the arrays have no such axis."""
        return int(self.k.shape[2]) if self.k.ndim == 5 else 1

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return int(self.q.shape[1] // self.k.shape[1])

    def mask_of_tokens(self) -> NDArray[np.bool_]:
        """True where a token is no padding, shape (windows, tokens)."""
        shape = (self.windows, self.tokens)
        return np.broadcast_to(True if self.mask is None else self.mask, shape)

    def positions_of_tokens(self) -> NDArray[np.int64]:
        """The position of each token, shape (windows, tokens); of padding it means nothing."""
        if self.positions is None:
            return np.asarray(self.mask_of_tokens().cumsum(-1) - 1)
        return np.broadcast_to(self.positions.astype(np.int64), (self.windows, self.tokens))

    def heads_iter(self) -> Iterator[tuple[str, FloatArray, FloatArray, FloatArray]]:
        """Yield ``(label, q, k, v)`` of every key head.

        Arrays of shape ([windows,] tokens, d); where query heads are grouped, q of shape
        ([windows,] group, queries, d) and k and v of shape ([windows,] 1, tokens, d), which
        broadcast in attention.
        """
        for i, layer in enumerate(self.layers):
            for j, head in enumerate(self.heads):
                q, k, v = (as_vectors(x, "x") for x in self._head(i, j))
                yield f"layer {layer} head {head}", q, k, v

    def _head(self, i: int, j: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        if self.group == 1:
            return self.q[i, j], self.k[i, j], self.v[i, j]
        q = np.moveaxis(self.q[i, j * self.group : (j + 1) * self.group], 0, -3)
        return q, self.k[i, j][..., None, :, :], self.v[i, j][..., None, :, :]


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
        If the file is damaged or too large, or an array is missing, of the wrong shape, empty
        or not finite. The message names file and array.
    """
    path = Path(path)
    arrays = files.read_npz(path, _REQUIRED, _OPTIONAL, max_bytes=max_bytes)
    with files.naming(path):
        meta = _parse_meta(arrays["meta"])
        own: dict[str, Any] = _parse_attention(meta)
        own |= {name: arrays.get(name) for name in _OPTIONAL}
        return KVCache(
            q=arrays["q"],
            k=arrays["k"],
            v=arrays["v"],
            causal=meta.pop("causal"),
            name=meta.pop("name", path.stem),
            layers=_labels(arrays["layers"], "layers"),
            heads=_labels(arrays["heads"], "heads"),
            meta=meta,
            **own,
        )


def save(path: str | os.PathLike[str], cache: KVCache) -> None:
    """Write a cache as compressed ``.npz``, completely or not at all.

    Arrays keep their values and dtypes. The file appears under its name only once it is
    complete, and the same cache always gives the same bytes.

    Raises
    ------
    ValueError
        If ``meta`` has a key ``model_attention``, which the file needs itself.
    """
    if _OWN_KEY in cache.meta:
        raise ValueError(
            f"meta must not have the key {_OWN_KEY!r}, where the file keeps {', '.join(_ATTENTION)}"
        )
    meta = {**cache.meta, "causal": cache.causal, "name": cache.name}
    attention = {name: getattr(cache, name) for name in _ATTENTION if getattr(cache, name)}
    if attention:
        meta[_OWN_KEY] = attention
    arrays: dict[str, NDArray[Any]] = {
        **{name: getattr(cache, name) for name in ("q", "k", "v")},
        "layers": np.array(cache.layers, dtype=np.int64),
        "heads": np.array(cache.heads, dtype=np.int64),
        "meta": files.json_array(meta),
    }
    for name in _OPTIONAL:
        if getattr(cache, name) is not None:
            arrays[name] = getattr(cache, name)
    files.write_npz(path, arrays)


def _captured(x: Any, name: str) -> FloatArray:
    refuse_masked(x, name)
    x = as_array(x, name) if hasattr(x, "dtype") else x
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float16, np.float32, np.float64):
        given = f"dtype {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise TypeError(f"{name} must be an array of float16, float32 or float64, got {given}")
    if x.ndim not in (4, 5):
        raise ValueError(
            f"{name} must have axes (layer, head, [window,] token, dim), got shape {x.shape}"
        )
    as_vectors(x, name)
    return x


def _check_shapes(q: FloatArray, k: FloatArray, v: FloatArray) -> None:
    if k.shape[:-1] != v.shape[:-1]:
        raise ValueError(
            "k and v must have the same layers, heads, windows and tokens, got shapes "
            f"{k.shape} and {v.shape}"
        )
    same = q.ndim == k.ndim and q.shape[0] == k.shape[0] and q.shape[2:-2] == k.shape[2:-2]
    if not same or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            "q must have the layers, windows and coordinates of k, got shapes "
            f"{q.shape} and {k.shape}"
        )
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            "q must have a multiple of the heads of k, query heads in groups that share a key "
            f"head, got {q.shape[1]} and {k.shape[1]}"
        )


def _indices(labels: Sequence[int], name: str, size: int) -> tuple[int, ...]:
    if len(labels) == 0:
        return tuple(range(size))
    if len(labels) != size:
        raise ValueError(f"{name} must name the {size} entries of that axis of k, got {labels}")
    return tuple(check_int(i, name, low=0) for i in labels)


def _sliding(given: object, layers: int, causal: bool) -> tuple[int | None, ...] | None:
    """One width a layer, None where it sees everything; None where all layers do."""
    if given is None:
        return None
    each = given if isinstance(given, Sequence) else (given,) * layers
    name = "sliding_window"
    if len(each) != layers:
        raise ValueError(f"{name} must be one number, or one a layer ({layers}), got {given!r}")
    widths = tuple(None if w is None else check_int(w, name, low=1) for w in each)
    if not any(widths):
        return None
    if not causal:
        raise ValueError(f"{name} needs causal=True: it reaches back from each query's own key")
    return widths


def _shortened(labels: object) -> object:
    if not isinstance(labels, tuple) or len(labels) <= 6:
        return labels
    return f"({labels[0]}, {labels[1]}, ..., {labels[-1]})"


def _parse_meta(array: NDArray[Any]) -> dict[str, Any]:
    meta = files.json_object(array, "meta")
    if "causal" not in meta:
        raise ValueError("array 'meta' must be a JSON object with the key 'causal'")
    if not isinstance(meta.get("name", ""), str):
        raise TypeError(f"name in array 'meta' must be a string, got {meta['name']!r}")
    return meta


def _parse_attention(meta: dict[str, Any]) -> dict[str, Any]:
    """Take what the model's attention does out of ``meta``."""
    found = meta.pop(_OWN_KEY, {})
    if not isinstance(found, dict) or not set(found) <= set(_ATTENTION):
        raise ValueError(
            f"{_OWN_KEY} in array 'meta' must be an object with some of the keys "
            f"{', '.join(_ATTENTION)}, got {found!r:.100}"
        )
    return found


def _labels(array: NDArray[Any], name: str) -> tuple[int, ...]:
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise TypeError(
            f"array {name!r} must be a vector of integers, got {array.dtype} {array.shape}"
        )
    return tuple(int(label) for label in array)
