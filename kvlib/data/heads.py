"""A captured cache cut up for an experiment: windows, heads, rows of queries, tokens.

Done here and nowhere else, so that every experiment means the same by "a head", "a window" and
"evenly spaced rows".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvlib.checks import check_choice, check_int
from kvlib.data.captured import KVCache


@dataclass(frozen=True, eq=False)
class Head:
    """One attention head of a captured cache.

    Attributes
    ----------
    label : str
        Such as ``"layer 0 head 3"``.
    q : ndarray, shape (windows, rows, d)
        Queries of the chosen rows.
    k, v : ndarray, shape (windows, tokens, d)
    causal : bool
        Whether a query sees only the keys up to its own; the rows are then the last ones of the
        window, which is what ``attention_kl(..., causal=True)`` takes them for.
    """

    label: str
    q: NDArray[Any]
    k: NDArray[Any]
    v: NDArray[Any]
    causal: bool

    @property
    def dim(self) -> int:
        """Coordinates of a vector."""
        return int(self.k.shape[-1])


def with_windows(
    cache: KVCache, dtype: DTypeLike = np.float32
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """``q, k, v`` of a cache with axes (layer, head, window, token, d), one window if it has none.

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
    """Every head of a cache, layer by layer.

    Parameters
    ----------
    cache : KVCache
    rows : int, optional
        Queries of each window: the last ones of a causal cache, every ``tokens // rows``-th of
        another. All of them by default.
    dtype : dtype
        Of the arrays.

    Raises
    ------
    ValueError
        If ``rows`` is not from 1 to the number of tokens.
    """
    count = cache.tokens if rows is None else check_int(rows, "rows", low=1, high=cache.tokens)
    for label, *arrays in cache.heads_iter():
        q, k, v = (x.reshape(-1, *x.shape[-2:]).astype(dtype) for x in arrays)
        chosen = q[:, -count:] if cache.causal else q[:, :: cache.tokens // count]
        yield Head(label, chosen, k, v, cache.causal)


def vectors(
    cache: KVCache, which: str, *, count: int | None = None, dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """Vectors of every head, windows joined: shape (layers * heads, tokens, d).

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
