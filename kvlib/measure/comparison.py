"""A scheme held against the exact queries, keys and values of some heads, lazily.

Heads are stacked on the first axis and measured together: what one has computed (decoded keys, the
divergence of each row) the next measure finds there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvlib.checks import FloatArray
from kvlib.measure import attention, metrics
from kvlib.measure.visibility import visibility
from kvlib.quantize import Encoded, Scheme, bits_per_coordinate


@dataclass(frozen=True, eq=False)
class Exact:
    """Queries, keys and values of some heads, and what attention makes of them.

    Attributes
    ----------
    q : array, shape (heads, [group,] rows, d)
        The axis is there where query heads share a key head; its rows are counted as one head's.
    k : array, shape (heads, tokens, d)
    v : array, shape (heads, tokens, d_v)
    causal : bool
        Whether the rows are the last of the tokens and see only the keys up to their own.
    rules : mapping
        What else attention must be told, see :class:`kvlib.data.heads.Head`.
    """

    q: FloatArray
    k: FloatArray
    v: FloatArray
    causal: bool = False
    rules: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the attention functions."""
        return {"causal": self.causal, **self.rules}

    def against(self, x: FloatArray) -> FloatArray:
        """Keys or values, shape (..., tokens, d), with the axes of the queries."""
        return x[:, None] if self.q.ndim > 3 else x

    @cached_property
    def output(self) -> NDArray[np.float64]:
        """Attention output with exact keys and values, shape (heads, [group,] rows, d_v)."""
        k, v = self.against(self.k), self.against(self.v)
        return attention.attention_output(self.q, k, v, **self.options)

    @cached_property
    def top_keys(self) -> NDArray[np.intp]:
        """Index of the key with the largest logit, shape (heads, rows), groups joined."""
        return self.largest(self.k)

    def largest(self, k: FloatArray) -> NDArray[np.intp]:
        """The same for other keys, in blocks of rows."""
        *lead, rows, _ = self.q.shape
        tokens = k.shape[-2]
        order = {n: x for n, x in self.options.items() if n not in ("scale", "softcap")}
        visible = visibility(rows, tokens, tuple(lead), **order)
        step = max(1, attention.BLOCK_BYTES // (8 * tokens))
        out = np.empty(self.q.shape[:-1], dtype=np.intp)
        for head in np.ndindex(*lead):
            for start in range(0, rows, step):
                block = slice(start, min(start + step, rows))
                logits = self.q[(*head, block)] @ k[head[0]].T
                out[(*head, block)] = visible.hide(logits, head, block).argmax(-1)
        return out.reshape(len(out), -1)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Keys and values as a scheme gives them back; each is encoded when it is first asked for.

    Attributes
    ----------
    scheme : Scheme
    exact : Exact
    seed : int
        Root of the rotation and the sketch, as in :meth:`kvlib.quantize.Scheme.encode`.
    """

    scheme: Scheme
    exact: Exact
    seed: int

    @cached_property
    def encoded_k(self) -> Encoded:
        """The compressed keys."""
        return self.scheme.key.encode(self.exact.k, seed=2 * self.seed)

    @cached_property
    def encoded_v(self) -> Encoded:
        """The compressed values."""
        return self.scheme.value.encode(self.exact.v, seed=2 * self.seed + 1)

    @cached_property
    def k(self) -> FloatArray:
        """Reconstructed keys."""
        return self.encoded_k.decode()

    @cached_property
    def v(self) -> FloatArray:
        """Reconstructed values."""
        return self.encoded_v.decode()

    @cached_property
    def k_errors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean relative squared error and mean angle over pi of the keys of each head."""
        return _errors(self.exact.k, self.k)

    @cached_property
    def v_errors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The same of the values."""
        return _errors(self.exact.v, self.v)

    @cached_property
    def bits(self) -> float:
        """Stored bits a coordinate, keys and values together."""
        return bits_per_coordinate(self.encoded_k, self.encoded_v)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a metric is given: exact heads at one logit scale, and a reconstruction of them.

    Attributes
    ----------
    exact : Exact
        With queries at the logit scale.
    decoded : Reconstruction
        Of the same keys and values; shared between logit scales.
    """

    exact: Exact
    decoded: Reconstruction

    @cached_property
    def kl(self) -> NDArray[np.float64]:
        """Divergence of each attention row in nats, shape (heads, rows), groups joined."""
        exact = self.exact
        k, k_hat = exact.against(exact.k), exact.against(self.decoded.k)
        return attention.attention_kl(exact.q, k, k_hat, **exact.options).reshape(len(k), -1)

    @cached_property
    def output(self) -> NDArray[np.float64]:
        """The same with reconstructed keys and values."""
        exact = self.exact
        k, v = exact.against(self.decoded.k), exact.against(self.decoded.v)
        return attention.attention_output(exact.q, k, v, **exact.options)

    @cached_property
    def t_errors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean relative squared error and mean angle over pi of the outputs of each head."""
        return _errors(self.exact.output, self.output)


def _errors(x: Any, x_hat: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sizes, angles = metrics.relative_mse(x, x_hat), metrics.direction_error(x, x_hat)
    return sizes.reshape(len(x), -1).mean(-1), angles.reshape(len(x), -1).mean(-1)
