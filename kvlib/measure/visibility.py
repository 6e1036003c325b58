"""Which keys a query sees: causal order, a sliding window with its sinks, any mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import as_booleans, as_integers, check_bool, check_int


@dataclass(frozen=True, eq=False)
class Visibility:
    """The keys that each of some queries sees, as rules; made by :func:`visibility`.

    Attributes
    ----------
    queries, tokens : int
        Numbers of queries and of keys.
    causal : bool
    window : int or None
        None where no query is far enough from the first key to notice.
    sinks : int
    last : ndarray of int, shape (queries,)
        Index of each query's own key.
    mask : bool ndarray, shape (*lead, queries, tokens), or None
    kernel_knows : bool
        Whether the queries are the last of the tokens and nothing but order hides a key: what the
        compiled kernel takes.
    """

    queries: int
    tokens: int
    causal: bool
    window: int | None
    sinks: int
    last: NDArray[np.intp]
    mask: NDArray[np.bool_] | None
    kernel_knows: bool

    def seen(self, rows: slice) -> int:
        """Number of first keys among which are all that some query of ``rows`` sees."""
        return int(self.last[rows].max()) + 1 if self.causal else self.tokens

    def hide(self, logits: NDArray[Any], heads: tuple[Any, ...], rows: slice) -> NDArray[Any]:
        """Minus infinity, in place, where a query must not see a key.

        Parameters
        ----------
        logits : array, shape (..., rows, keys)
            Of the first keys.
        heads : tuple
            Index of their heads into the leading axes of the mask.
        rows : slice
            Of the queries.

        Raises
        ------
        ValueError
            If a query sees no key.
        """
        if not self.causal and self.mask is None:
            return logits
        np.copyto(logits, -np.inf, where=self._hidden(logits.shape[-1], heads, rows))
        return logits

    def _hidden(self, keys: int, heads: tuple[Any, ...], rows: slice) -> NDArray[np.bool_]:
        index, last = np.arange(keys), self.last[rows][:, None]
        hidden = index > last if self.causal else np.zeros((1, 1), dtype=bool)
        if self.window is not None:
            hidden = hidden | ((index <= last - self.window) & (index >= self.sinks))
        if self.mask is None:
            return hidden
        hidden = hidden | ~self.mask[(*heads, rows)][..., :keys]
        blind = int(hidden.all(-1).sum())
        if blind:
            raise ValueError(
                f"mask must leave every query a key to see, got {blind} queries without one"
            )
        return hidden


def visibility(
    queries: int,
    tokens: int,
    lead: tuple[int, ...] = (),
    *,
    causal: bool = False,
    window: int | None = None,
    sinks: int = 0,
    query_tokens: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Visibility:
    """Check and gather the rules; arguments as in :func:`~kvlib.measure.attention_weights`.

    ``lead`` are the leading axes of queries and keys, to which those of ``mask`` broadcast.

    >>> rules = visibility(2, 4, causal=True, window=2)
    >>> rules.hide(np.zeros((2, 4)), (), slice(0, 2))
    array([[-inf,   0.,   0., -inf],
           [-inf, -inf,   0.,   0.]])
    """
    causal = check_bool(causal, "causal")
    last = _last(queries, tokens, causal, query_tokens)
    width, first = _window(causal, window, sinks)
    if width is not None and width >= tokens:
        width = None
    hides = _on_lead(mask, (*lead, queries, tokens))
    at_end = bool((last == np.arange(queries) + tokens - queries).all())
    plain = width is None and hides is None and (at_end or not causal)
    return Visibility(queries, tokens, causal, width, first, last, hides, plain)


def _last(
    queries: int, tokens: int, causal: bool, query_tokens: ArrayLike | None
) -> NDArray[np.intp]:
    if query_tokens is None:
        if causal and tokens < queries:
            raise ValueError(
                f"causal=True needs at least as many keys as queries, got {queries} queries and "
                f"{tokens} keys: the first queries would see nothing (query_tokens can say which "
                "token each belongs to)"
            )
        return np.arange(queries) + tokens - queries
    last = as_integers(query_tokens, "query_tokens").astype(np.intp)
    if last.shape != (queries,) or last.min() < 0 or last.max() >= tokens:
        given = f"shape {last.shape}"
        if last.size:
            given += f" and values from {last.min()} to {last.max()}"
        raise ValueError(
            f"query_tokens must name a token from 0 to {tokens - 1} for each of the {queries} "
            f"queries, got {given}"
        )
    return last


def _window(causal: bool, window: int | None, sinks: int) -> tuple[int | None, int]:
    first = check_int(sinks, "sinks", low=0)
    if window is None:
        return None, first  # every sink is seen anyway
    if not causal:
        raise ValueError("window needs causal=True: it reaches back from each query's own key")
    return check_int(window, "window", low=1), first


def _on_lead(mask: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    given = as_booleans(mask, "mask")
    if given.all():
        return None
    try:
        return np.broadcast_to(given, shape)
    except ValueError:
        raise ValueError(
            f"mask must broadcast to {shape}, the leading axes, queries and tokens, got shape "
            f"{given.shape}"
        ) from None
