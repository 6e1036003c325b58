"""A scheme held against the exact queries, keys and values of some heads, lazily.

Heads are stacked on the first axis and measured together: what one has computed (decoded keys, the
divergence of each row) the next measure finds there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvlib.checks import FloatArray
from kvlib.measure import attention, metrics
from kvlib.quantize import Encoded, Scheme, bits_per_coordinate


@dataclass(frozen=True, eq=False)
class Exact:
    """Queries, keys and values of some heads, and what attention makes of them.

    Attributes
    ----------
    q : array, shape (heads, rows, d)
    k : array, shape (heads, tokens, d)
    v : array, shape (heads, tokens, d_v)
    causal : bool
        Whether the rows are the last of the tokens and see only the keys up to their own.
    """

    q: FloatArray
    k: FloatArray
    v: FloatArray
    causal: bool = False

    @cached_property
    def output(self) -> NDArray[np.float64]:
        """Attention output with exact keys and values, shape (heads, rows, d_v)."""
        return attention.attention_output(self.q, self.k, self.v, causal=self.causal)

    @cached_property
    def top_keys(self) -> NDArray[np.intp]:
        """Index of the key with the largest logit, shape (heads, rows)."""
        return self.largest(self.k)

    def largest(self, k: FloatArray) -> NDArray[np.intp]:
        """The same for other keys, in blocks of rows."""
        tokens, rows = k.shape[-2], self.q.shape[-2]
        step = max(1, attention.BLOCK_BYTES // (8 * tokens))
        out = np.empty(self.q.shape[:-1], dtype=np.intp)
        for head in range(len(self.q)):
            for start in range(0, rows, step):
                logits = self.q[head, start : start + step] @ k[head].T
                if self.causal:
                    seen = np.arange(start, start + len(logits))[:, None] + tokens - rows
                    logits = np.where(np.arange(tokens) <= seen, logits, -np.inf)
                out[head, start : start + step] = logits.argmax(-1)
        return out


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
        """Divergence of each attention row in nats, shape (heads, rows)."""
        exact = self.exact
        return attention.attention_kl(exact.q, exact.k, self.decoded.k, causal=exact.causal)

    @cached_property
    def output(self) -> NDArray[np.float64]:
        """Attention output with reconstructed keys and values, shape (heads, rows, d_v)."""
        exact, decoded = self.exact, self.decoded
        return attention.attention_output(exact.q, decoded.k, decoded.v, causal=exact.causal)

    @cached_property
    def t_errors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean relative squared error and mean angle over pi of the outputs of each head."""
        return _errors(self.exact.output, self.output)


def _errors(x: Any, x_hat: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return metrics.relative_mse(x, x_hat).mean(-1), metrics.direction_error(x, x_hat).mean(-1)
