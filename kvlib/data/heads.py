"""A captured cache cut up for an experiment: windows, heads, rows of queries, tokens.

Done here and nowhere else, so that every experiment means the same by "a head", "a window" and
"evenly spaced rows". A head is a key head with its values and the queries of all query heads that
share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvlib.checks import check_choice, check_int
from kvlib.data.captured import KVCache


@dataclass(frozen=True, eq=False)
class Head:
    """One key head of a captured cache, its values and its queries.

    Attributes
    ----------
    label : str
        Such as ``"layer 0 head 3"``.
    q : ndarray, shape (windows, [group,] rows, d)
        Queries of the chosen rows; the axis is there where query heads are grouped.
    k : ndarray, shape (windows, [1,] tokens, d)
    v : ndarray, shape (windows, [1,] tokens, d_v)
    causal : bool
        Whether a query sees only the keys up to its own.
    rules : mapping
        What else :func:`kvlib.measure.attention.attention_weights` must be told, by name: where the
        rows are not the last of a causal window, whose they are; the model's own scale, cap and
        sliding window; what is padding.
    mask : ndarray of bool, shape (windows, [1,] tokens), or None
        False where a token is padding: what ``encode`` must be told where it takes means.

    Examples
    --------
    >>> from kvlib import attention_output
    >>> x = np.random.default_rng(0).standard_normal((1, 2, 5, 4))
    >>> (head,) = heads(KVCache(x, x[:, :1], x[:, :1], scale=0.3), rows=3)
    >>> attention_output(head.q, head.k, head.v, **head.options).shape
    (1, 2, 3, 4)
    """

    label: str
    q: NDArray[Any]
    k: NDArray[Any]
    v: NDArray[Any]
    causal: bool
    rules: Mapping[str, Any] = field(default_factory=dict)
    mask: NDArray[np.bool_] | None = None

    @property
    def dim(self) -> int:
        """Coordinates of a key."""
        return int(self.k.shape[-1])

    @property
    def options(self) -> dict[str, Any]:
        """All that the attention functions must be told of this head, by name."""
        return {"causal": self.causal, **self.rules}


def with_windows(
    cache: KVCache, dtype: DTypeLike = np.float32
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """``q, k, v`` of a cache with axes (layer, head, window, token, d), one window if it has none.

    Grouped queries have more heads than the keys.

    >>> import numpy as np
    >>> x = np.ones((2, 3, 5, 4))
    >>> cache = KVCache(x, x, x, causal=True, name="ones", layers=(0, 1), heads=(0, 1, 2))
    >>> with_windows(cache)[0].shape
    (2, 3, 1, 5, 4)
    """
    arrays = (np.asarray(x, dtype=dtype) for x in (cache.q, cache.k, cache.v))
    q, k, v = (x if x.ndim == 5 else x[:, :, None] for x in arrays)
    return q, k, v


def heads(
    cache: KVCache, *, rows: int | None = None, dtype: DTypeLike = np.float64
) -> Iterator[Head]:
    """Every key head of a cache, layer by layer.

    Parameters
    ----------
    cache : KVCache
    rows : int, optional
        Queries of each window and query head: the last ones of a causal cache, every
        ``tokens // rows``-th of another. All of them by default. Queries of a token that pads some
        window are left out.
    dtype : dtype
        Of the arrays.

    Raises
    ------
    ValueError
        If ``rows`` is not from 1 to the number of queries, or padding leaves no query.
    """
    chosen, own = _chosen(cache, rows)
    real = None if cache.mask is None else cache.mask_of_tokens()
    if real is not None and cache.group > 1:
        real = real[:, None]
    for number, (label, *arrays) in enumerate(cache.heads_iter()):
        sliding = cache.sliding_window
        width = sliding[number // len(cache.heads)] if isinstance(sliding, tuple) else None
        rules = _rules(cache, own, width)
        q, k, v = (_windows_first(x, cache).astype(dtype) for x in arrays)
        yield Head(label, q[..., chosen, :], k, v, cache.causal, rules, real)


def _windows_first(x: NDArray[Any], cache: KVCache) -> NDArray[Any]:
    """An array of :meth:`KVCache.heads_iter` with an axis of windows."""
    return x if cache.k.ndim == 5 else x[None]


def _chosen(cache: KVCache, rows: int | None) -> tuple[Any, NDArray[np.intp]]:
    """Index of the chosen queries, and the token of each."""
    own = np.arange(cache.tokens) if cache.query_tokens is None else cache.query_tokens
    own = own.astype(np.intp)
    real = np.asarray(cache.mask_of_tokens().all(0))
    usable = np.flatnonzero(real[own])
    if not usable.size:
        raise ValueError(
            "cache must have a query of a token that is no padding in any window, got none: take "
            "the windows apart"
        )
    count = usable.size if rows is None else check_int(rows, "rows", low=1, high=usable.size)
    kept = slice(-count, None) if cache.causal else slice(None, None, usable.size // count)
    if usable.size == cache.q.shape[-2]:
        return kept, own[kept]
    return usable[kept], own[usable[kept]]


def _rules(cache: KVCache, own: NDArray[np.intp], width: int | None) -> dict[str, Any]:
    """What attention must be told besides causal, for queries of the tokens ``own``."""
    rules: dict[str, Any] = {}
    for name in ("scale", "softcap"):
        if getattr(cache, name) is not None:
            rules[name] = getattr(cache, name)
    at_end = np.arange(len(own)) + cache.tokens - len(own)
    if cache.causal and not np.array_equal(own, at_end):
        rules["query_tokens"] = own
    if width is not None and cache.mask is None and cache.positions is None:
        return {**rules, "window": width, "sinks": cache.sinks}
    if width is None and cache.mask is None:
        return rules
    mask = cache.mask_of_tokens()[:, None]
    if width is not None:
        positions = cache.positions_of_tokens()
        back = positions[:, own, None] - positions[:, None]
        mask = mask & ((back < width) | (positions[:, None] < cache.sinks))
    rules["mask"] = mask[:, None] if cache.group > 1 else mask
    return rules


def vectors(
    cache: KVCache, which: str, *, count: int | None = None, dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """Vectors of every head, windows joined: shape (layers * heads, tokens, d).

    Padding is left in: ``cache.mask_of_tokens()`` says where it is.

    Parameters
    ----------
    cache : KVCache
    which : {"q", "k", "v"}
    count : int, optional
        Take every so-manieth token, that about ``count`` are left (at least so many).
    dtype : dtype
    """
    check_choice(which, "which", ("q", "k", "v"))
    x = np.asarray(getattr(cache, which), dtype=dtype)
    x = x.reshape(x.shape[0] * x.shape[1], -1, x.shape[-1])
    if count is None:
        return x
    return x[:, :: x.shape[1] // check_int(count, "count", low=1, high=x.shape[1])]
