"""Attention rows at fixed logit spreads, and the KL that errors of their logits cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.ch07.regimes import dots

SPREADS = {"diffuse": 0.5, "moderate": 2.0, "sharp": 8.0}
"""Standard deviation of a head's logits."""
DIFFUSE, MODERATE, SHARP = range(3)

# Above this exp(eta) is summed in the log domain; float32 overflows at 88.
_LARGE = 30


@dataclass(frozen=True, eq=False)
class AttentionRows:
    """Attention rows of heads whose logits are scaled to one spread each.

    Attributes
    ----------
    q : array, shape (..., query, d)
        Queries, scaled so that the logits ``q k^T`` of a head have standard deviation one.
    logits : array, shape (..., query, token)
        Centred in each row.
    top : array, shape (..., query)
        The key with the largest logit.
    spreads : tuple of float
        Factors on the logits.
    log_p, p : tuple of array, shape (..., query, token)
        Log-probabilities and probabilities at each spread.
    """

    q: NDArray[Any]
    logits: NDArray[Any]
    top: NDArray[np.intp]
    spreads: tuple[float, ...]
    log_p: tuple[NDArray[Any], ...]
    p: tuple[NDArray[Any], ...]

    @classmethod
    def of(cls, k: NDArray[Any], q: NDArray[Any], spreads: Sequence[float]) -> AttentionRows:
        """The rows of queries (..., query, d) on keys (..., token, d)."""
        logits = q @ k.swapaxes(-1, -2)
        logits -= logits.mean(axis=-1, keepdims=True)
        unit = 1 / np.sqrt((logits**2).mean(axis=(-1, -2), keepdims=True))
        logits = logits * unit
        log_p = tuple(_log_softmax(spread * logits) for spread in spreads)
        p = tuple(np.exp(x) for x in log_p)
        return cls(q * unit, logits, logits.argmax(axis=-1), tuple(spreads), log_p, p)

    def logit_errors(self, key_error: NDArray[Any]) -> NDArray[Any]:
        """Errors (..., query, token) of the unscaled logits, from errors of the keys."""
        return np.asarray(self.q @ key_error.swapaxes(-1, -2))

    def kl(self, delta: NDArray[Any], spread: int) -> NDArray[Any]:
        """KL of each row (..., query) at a spread, by its index, from errors of its logits.

        The formula of :func:`kvlib.measure.attention.attention_kl`, from probabilities that are
        computed once for all errors; in float32 it is within 0.2% of it.
        """
        p, log_p = self.p[spread], self.log_p[spread]
        eta = self.spreads[spread] * delta
        eta -= dots(p, eta)[..., None]
        bounded = np.minimum(eta, _LARGE)
        kl = np.log1p(dots(p, np.exp(bounded) - 1 - bounded))
        large = eta.max(axis=-1) > _LARGE
        kl[large] = np.logaddexp.reduce(log_p[large] + eta[large], axis=-1)
        return np.asarray(kl)

    def perturbed(self, delta: NDArray[Any], spread: int) -> NDArray[Any]:
        """Probabilities at a spread, by its index, of the logits with errors."""
        return np.asarray(np.exp(_log_softmax(self.spreads[spread] * (self.logits + delta))))

    def top_missed(self, delta: NDArray[Any]) -> NDArray[np.float64]:
        """Share of the queries of a head whose top key changes, shape (...)."""
        return np.asarray(((self.logits + delta).argmax(axis=-1) != self.top).mean(axis=-1))


def _log_softmax(z: NDArray[Any]) -> NDArray[Any]:
    z = z - z.max(axis=-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)))
