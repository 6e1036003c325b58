"""Softmax attention on exact and quantized keys: rows, output, and an accurate KL divergence.

Shapes everywhere: queries ``q`` (..., queries, d), keys ``k`` and values ``v`` (..., tokens, d).
The leading axes broadcast. For grouped-query attention, where several query heads share one key
head, insert an axis: ``q`` (key heads, group, queries, d) against ``k[:, None]``, as
:func:`kvlib.data.heads.heads` does.

A logit is ``scale * <q, k>``, capped to ``softcap * tanh(logit / softcap)`` where the model does so
(Gemma 2). Which keys a query sees is said by ``causal``, ``window``, ``sinks``, ``query_tokens``
and ``mask``, see :func:`attention_weights`.

Everything is accumulated in float64, whatever the input's precision. Work is cut into blocks that
depend on the arrays' shapes only, and blocks go to threads: results do not depend on how many
there are. Memory beside the output is a block a thread and, for the heads at hand, keys and errors
in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import (
    FloatArray,
    as_real,
    as_vectors,
    check_int,
    check_positive,
)
from kvlib.measure.visibility import Visibility, visibility
from kvlib.quantize.kernels import runtime

BLOCK_BYTES = 1 << 23
"""Default working memory of a thread in the blocked functions: 8 MiB."""

# Number of (queries x tokens) float64 matrices alive at once: logits and their errors, or what
# numpy needs besides where the KL kernel is not to be had.
_MATRICES, _MATRICES_OF_NUMPY = 2, 8

# Above this a logit error is exponentiated in the log domain; exp overflows at 709.
_LARGE = 500.0


@dataclass(frozen=True)
class RowStatistics:
    """Concentration of attention rows, each field of shape (..., queries).

    Attributes
    ----------
    S2, S3 : ndarray
        Sums of squares and of cubes of the row's probabilities.
    entropy : ndarray
        Shannon entropy in nats.
    effective_tokens : ndarray
        ``1 / S2``: the number of equally weighted tokens with the same S2.
    """

    S2: NDArray[np.float64]
    S3: NDArray[np.float64]
    entropy: NDArray[np.float64]
    effective_tokens: NDArray[np.float64]


def attention_weights(
    q: ArrayLike,
    k: ArrayLike,
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    sinks: int = 0,
    query_tokens: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Attention rows ``softmax(scale * q k^T)``.

    Parameters
    ----------
    q : array, shape (..., queries, d)
    k : array, shape (..., tokens, d)
        Leading axes broadcast against those of ``q``.
    causal : bool
        Let query i see the keys ``j <= i + tokens - queries`` only, so that the last query is
        aligned with the last key; or those up to its own, where ``query_tokens`` are given.
    scale : float, optional
        Factor on the inner products, ``1/sqrt(d)`` by default.
    softcap : float, optional
        Replace each scaled logit x by ``softcap * tanh(x / softcap)``. Not capped by default.
    window : int, optional
        With ``causal``: let a query see the last ``window`` keys only, its own among them.
    sinks : int
        First keys that stay visible whatever the window.
    query_tokens : array of int, shape (queries,), optional
        Index of each query's own key, where the queries are not those of the last tokens.
    mask : array of bool, optional
        True where a query may see a key; broadcasts to (..., queries, tokens), so that shape
        (tokens,) or (windows, 1, tokens) hides padded keys from all queries.

    Returns
    -------
    ndarray, shape (..., queries, tokens)
        Probabilities in float64. The whole matrix is held in memory; :func:`attention_output`
        and :func:`attention_kl` work in blocks instead.

    Raises
    ------
    TypeError, ValueError
        If the shapes do not match, an entry is not finite, or a causal order or a mask would leave
        a query without keys.

    Examples
    --------
    >>> attention_weights(np.zeros((1, 4)), np.zeros((8, 4)), causal=True, window=2, sinks=1)
    array([[0.33333333, 0.        , 0.        , 0.        , 0.        ,
            0.        , 0.33333333, 0.33333333]])
    """
    arrays = {"q": q, "k": k}
    rules: dict[str, Any] = {
        "causal": causal, "window": window, "sinks": sinks, "query_tokens": query_tokens,
        "mask": mask,
    }  # fmt: skip
    (q, k), shape, logit = _prepare(arrays, scale, softcap, rules)
    heads, rows = (slice(None),) * len(shape.grid), slice(0, shape.queries)
    logits = logit.of(q.astype(np.float64), k.astype(np.float64))
    p = _softmax(shape.visible.hide(logits, heads, rows))
    return p.reshape(*shape.lead, shape.queries, shape.tokens)


def attention_output(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    sinks: int = 0,
    query_tokens: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> NDArray[np.float64]:
    """Attention output ``T = softmax(scale * q k^T) v``, in blocks of queries.

    Parameters
    ----------
    q, k, causal, scale, softcap, window, sinks, query_tokens, mask
        As in :func:`attention_weights`.
    v : array, shape (..., tokens, d_v)
    block_bytes : int
        Working memory of a thread; a block never holds less than one query.

    Returns
    -------
    ndarray, shape (..., queries, d_v)
        In float64.
    """
    arrays = {"q": q, "k": k, "v": v}
    rules: dict[str, Any] = {
        "causal": causal, "window": window, "sinks": sinks, "query_tokens": query_tokens,
        "mask": mask,
    }  # fmt: skip
    (q, k, v), shape, logit = _prepare(arrays, scale, softcap, rules)
    out = np.empty((*shape.grid, shape.queries, v.shape[-1]))

    def take(heads: _Index) -> tuple[FloatArray, ...]:
        return _take(k, heads), _take(v, heads)

    def compute(heads: _Index, rows: slice, keys: FloatArray, values: FloatArray) -> None:
        seen = shape.visible.seen(rows)
        logits = logit.of(_take(q, heads, rows), keys[:, :seen])
        p = _softmax(shape.visible.hide(logits, heads, rows))
        out[(*heads, rows)] = p @ values[:, :seen]

    _run_blocks(_blocks(shape, block_bytes, _MATRICES), take, compute)
    return out.reshape(*shape.lead, shape.queries, v.shape[-1])


def attention_kl(
    q: ArrayLike,
    k: ArrayLike,
    k_hat: ArrayLike,
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    sinks: int = 0,
    query_tokens: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> NDArray[np.float64]:
    """KL divergence KL(p || p_hat) between attention on ``k`` and on ``k_hat``, per query.

    Parameters
    ----------
    q, k, causal, scale, softcap, window, sinks, query_tokens, mask
        As in :func:`attention_weights`.
    k_hat : array, shape (..., tokens, d)
        Reconstructed keys; leading axes broadcast, so that several reconstructions of the same
        keys can be passed at once.
    block_bytes : int
        Working memory of a thread, whatever the number of queries; a block never holds less than
        one query.

    Returns
    -------
    ndarray, shape (..., queries)
        Divergence in nats, float64, never negative.

    Raises
    ------
    TypeError, ValueError
        As in :func:`attention_weights`, and when the logits overflow float64.

    Notes
    -----
    With logit errors ``delta = scale * q (k_hat - k)^T`` and ``eta = delta - sum(p * delta)``,

        KL = log(sum(p * exp(eta))) = log1p(sum(p * (exp(eta) - 1 - eta)))

    because ``sum(p * eta) = 0``. Every summand is non-negative, hence nothing cancels: the
    difference of two log-softmax rows, by contrast, loses all digits once KL falls below the
    rounding error of a logit (about 1e-6 in float32). An error common to all keys drops out in
    ``eta``. Errors above 500 nats are summed in the log domain. Where logits are capped, the errors
    are those of the capped ones, by ``tanh(x + y) - tanh(x) = tanh(y) (1 - tanh(x) tanh(x + y))``.
    """
    arrays = {"q": q, "k": k, "k_hat": k_hat}
    rules: dict[str, Any] = {
        "causal": causal, "window": window, "sinks": sinks, "query_tokens": query_tokens,
        "mask": mask,
    }  # fmt: skip
    (q, k, k_hat), shape, logit = _prepare(arrays, scale, softcap, rules)
    out = np.empty((*shape.grid, shape.queries))
    compiled = runtime.kernels("attention_rows") if shape.visible.kernel_knows else None

    def take(heads: _Index) -> tuple[FloatArray, ...]:
        keys, errors = _take(k, heads), _take(k_hat, heads)
        errors -= keys
        return keys, errors

    def compute(heads: _Index, rows: slice, keys: FloatArray, errors: FloatArray) -> None:
        seen = shape.visible.seen(rows)
        logits, delta = logit.with_errors(_take(q, heads, rows), keys[:, :seen], errors[:, :seen])
        kl = None
        if compiled is not None:
            kl = _kl_compiled(compiled, logits, delta, rows, shape)
        if kl is None:
            _refuse_overflow(logits)
            # Masked keys keep their delta: it only ever meets a weight of zero.
            kl = _kl_from_errors(shape.visible.hide(logits, heads, rows), delta)
        out[(*heads, rows)] = kl

    matrices = _MATRICES_OF_NUMPY if compiled is None else _MATRICES
    _run_blocks(_blocks(shape, block_bytes, matrices), take, compute)
    _refuse_overflow(out)
    return out.reshape(*shape.lead, shape.queries)


def row_statistics(p: ArrayLike) -> RowStatistics:
    """Concentration measures S2, S3, entropy and effective tokens of probability rows.

    Parameters
    ----------
    p : array, shape (..., queries, tokens)
        Rows that sum to one, as from :func:`attention_weights`.

    Raises
    ------
    ValueError
        If an entry is negative or not finite, or a row does not sum to one within 1e-4.
    """
    rows = np.asarray(as_real(p, "p"), dtype=np.float64)
    if rows.ndim < 1 or rows.size == 0:
        raise ValueError(f"p must have shape (..., tokens) and not be empty, got {rows.shape}")
    total = rows.sum(-1)
    if not (rows.min() >= 0 and np.abs(total - 1).max() <= 1e-4):
        raise ValueError(
            "p must hold probability rows: non-negative and of sum one along the last axis, "
            f"got entries from {rows.min():.6g} and sums from {total.min():.6g} to "
            f"{total.max():.6g}"
        )
    squares = rows * rows
    S2 = squares.sum(-1)
    surprise = np.log(rows, out=np.zeros_like(rows), where=rows > 0)
    # + 0.0 turns the -0.0 of a one-token row into 0.0.
    entropy = -(rows * surprise).sum(-1) + 0.0
    return RowStatistics(S2, (squares * rows).sum(-1), entropy, 1 / S2)


@dataclass(frozen=True, eq=False)
class _Shape:
    """Broadcast leading axes, the two token counts, and what a query sees."""

    lead: tuple[int, ...]
    queries: int
    tokens: int
    dim: int
    visible: Visibility

    @property
    def grid(self) -> tuple[int, ...]:
        """The leading axes, or one axis of length one, so that a head always has an index."""
        return self.lead or (1,)


@dataclass(frozen=True)
class _Logit:
    """What a model makes of an inner product of query and key."""

    scale: float
    softcap: float | None

    def of(self, q: NDArray[Any], k: NDArray[Any]) -> NDArray[Any]:
        """Logits of a block of queries with the first keys."""
        with np.errstate(over="ignore", invalid="ignore"):  # refused by name further down
            logits: NDArray[Any] = (q * self.scale) @ k.swapaxes(-1, -2)
        if self.softcap is None:
            return logits
        _refuse_overflow(logits)  # which the cap would hide
        return np.asarray(self.softcap * np.tanh(logits / self.softcap))

    def with_errors(
        self, q: NDArray[Any], k: NDArray[Any], errors: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The same, and by how much errors of the keys change them."""
        queries, cap = q * self.scale, self.softcap
        with np.errstate(over="ignore", invalid="ignore"):  # refused by name further down
            logits, delta = (queries @ x.swapaxes(-1, -2) for x in (k, errors))
        if cap is None:
            return logits, delta
        _refuse_overflow(logits)
        _refuse_overflow(delta)
        exact, noisy = np.tanh(logits / cap), np.tanh((logits + delta) / cap)
        return cap * exact, cap * np.tanh(delta / cap) * (1 - exact * noisy)


def _prepare(
    arrays: dict[str, ArrayLike],
    scale: float | None,
    softcap: float | None,
    rules: dict[str, Any],
) -> tuple[list[FloatArray], _Shape, _Logit]:
    """Check q, k and whatever belongs to the same tokens as k; broadcast the leading axes."""
    checked = {name: as_vectors(x, name) for name, x in arrays.items()}
    q, k = checked["q"], checked["k"]
    dim = k.shape[-1]
    for name, x in checked.items():
        if name != "v" and x.shape[-1] != dim:
            raise ValueError(
                f"{name} must have {dim} coordinates on its last axis as k has, got {x.shape}"
            )
        if name != "q" and x.shape[-2] != k.shape[-2]:
            raise ValueError(f"{name} must have {k.shape[-2]} tokens as k has, got {x.shape}")
    try:
        lead = np.broadcast_shapes(*(x.shape[:-2] for x in checked.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in checked.items())
        raise ValueError(f"leading axes must broadcast, got {shapes}") from None
    queries, tokens = q.shape[-2], k.shape[-2]
    visible = visibility(queries, tokens, lead or (1,), **rules)
    shape = _Shape(lead, queries, tokens, dim, visible)
    factor = 1 / math.sqrt(dim) if scale is None else check_positive(scale, "scale")
    cap = None if softcap is None else check_positive(softcap, "softcap")
    return [_on_grid(x, shape) for x in checked.values()], shape, _Logit(factor, cap)


def _on_grid(x: FloatArray, shape: _Shape) -> FloatArray:
    """A view of ``x`` with the common leading axes."""
    full = (*shape.grid, *x.shape[-2:])
    # Broadcasting costs several microseconds, which count for small heads.
    return x.reshape(full) if x.shape[:-2] == shape.lead else np.broadcast_to(x, full)


_Index = tuple[Any, ...]
"""Index of one or more heads into the leading axes."""

_Loop = Callable[[Callable[[Any], None], list[Any]], object]


def _blocks(shape: _Shape, block_bytes: int, matrices: int) -> tuple[list[_Index], list[slice]]:
    """Split (leading axes, queries) so that a block's matrices stay within ``block_bytes``.

    Returns the groups of heads, and the slices of queries to run through for each. Heads are
    grouped only when whole heads fit a quarter of it: more would save no time, leave less to
    share between threads, and drop out of the second-level cache.
    """
    budget = check_int(block_bytes, "block_bytes", low=1) // 8
    per_row = matrices * (shape.tokens + shape.dim)
    per_head = per_row * shape.queries + 2 * shape.tokens * shape.dim
    heads = max(1, budget // 4 // per_head)
    rows = shape.queries if heads > 1 else min(shape.queries, max(1, budget // per_row))
    row_blocks = [slice(i, min(i + rows, shape.queries)) for i in range(0, shape.queries, rows)]
    total = math.prod(shape.grid)
    flat = (np.arange(i, min(i + heads, total)) for i in range(0, total, heads))
    return [np.unravel_index(of_group, shape.grid) for of_group in flat], row_blocks


def _run_blocks(
    blocks: tuple[list[_Index], list[slice]],
    take: Callable[[_Index], tuple[FloatArray, ...]],
    compute: Callable[..., None],
) -> None:
    """``compute(heads, rows, *take(heads))`` for every block.

    Threads share the heads, or, where one head fills several blocks, its rows: so that what is
    taken of a large head is held once.
    """
    heads, row_blocks = blocks
    loops: tuple[_Loop, _Loop] = (runtime.run, _in_turn)
    over_heads, over_rows = loops if len(row_blocks) == 1 else loops[::-1]

    def of_heads(index: _Index) -> None:
        taken = take(index)
        over_rows(lambda rows: compute(index, rows, *taken), row_blocks)

    over_heads(of_heads, heads)


def _in_turn(work: Callable[[Any], None], items: list[Any]) -> None:
    for item in items:
        work(item)


def _take(x: FloatArray, heads: _Index, rows: slice = slice(None)) -> NDArray[Any]:
    """Copy the indexed heads as float64, shape (heads, rows, d)."""
    return np.asarray(x[(*heads, rows)].astype(np.float64, copy=False))


def _softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Softmax along the last axis, in place."""
    with np.errstate(invalid="ignore"):
        logits -= logits.max(-1, keepdims=True)
    np.exp(logits, out=logits)
    total = logits.sum(-1, keepdims=True)
    _refuse_overflow(total)
    logits /= total
    return logits


def _refuse_overflow(values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise ValueError("q, k and scale give logits beyond the range of float64")


def _kl_compiled(
    compiled: ModuleType,
    logits: NDArray[Any],
    delta: NDArray[Any],
    rows: slice,
    shape: _Shape,
) -> NDArray[Any] | None:
    """KL of a block from exact logits and logit errors; None if it holds a row for numpy."""
    heads, queries, seen = logits.shape
    kl = np.empty((heads, queries))
    causal = shape.visible.causal
    first = shape.tokens - shape.queries + rows.start + 1 if causal else seen
    left = compiled.kl_rows(
        logits.reshape(-1, seen), delta.reshape(-1, seen), queries, first, int(causal),
        _LARGE, np.empty(seen), kl.reshape(-1),
    )  # fmt: skip
    return None if left else kl


def _kl_from_errors(logits: NDArray[Any], delta: NDArray[Any]) -> NDArray[Any]:
    """KL of a block from exact logits and logit errors, both overwritten."""
    logits -= logits.max(-1, keepdims=True)
    p = np.exp(logits)
    total = p.sum(-1, keepdims=True)
    p /= total
    delta -= (p * delta).sum(-1, keepdims=True)
    large = delta > _LARGE
    if not large.any():
        p *= _exp_minus_two_terms(delta)
        return np.asarray(np.log1p(p.sum(-1)))
    log_terms = np.where(large, logits - np.log(total) + delta, -np.inf)
    delta[large] = 0
    p *= _exp_minus_two_terms(delta)
    # Beside exp(500) the terms 1 + eta of the large entries vanish.
    return np.asarray(np.logaddexp(np.log1p(p.sum(-1)), _log_sum_exp(log_terms)))


def _exp_minus_two_terms(x: NDArray[Any]) -> NDArray[Any]:
    """exp(x) - 1 - x without cancellation: Taylor's series to x^9 for \\|x\\| < 0.1."""
    result: NDArray[Any] = np.expm1(x)
    result -= x
    small = np.abs(x) < 0.1
    y = x[small]
    series = np.full_like(y, 1 / math.factorial(9))
    for order in range(8, 1, -1):
        series *= y
        series += 1 / math.factorial(order)
    result[small] = series * y * y
    return result


def _log_sum_exp(x: NDArray[Any]) -> NDArray[Any]:
    """log(sum(exp(x))) along the last axis; minus infinity for a row of minus infinities."""
    top = x.max(-1, keepdims=True)
    top[np.isneginf(top)] = 0
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(x - top).sum(-1)) + top[..., 0])
