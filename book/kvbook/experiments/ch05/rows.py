"""Attention rows, errors of their logits, and the seeds of the chapter's experiments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from kvlib.checks import FloatArray


def streams(seed: int) -> dict[str, np.random.SeedSequence]:
    """A seed for each experiment of the chapter, all from one root.

    ``families``, ``tails`` and ``bridge`` are one stream, each from where the one before it stops.
    """
    keys = {
        "panel": (0,),
        "noise": (1,),
        "excess": (2,),
        "examples": (2, 0),
        "shaken": (2, 1),
        "peaked": (3,),
        "logits": (4,),
        "cancellation": (4, 48),
        "values": (4, 49),
        "families": (5,),
        "heads": (6,),
        "context": (7,),
        "positions": (7, 6),
        "thresholds": (8,),
    }
    found = {name: np.random.SeedSequence(seed, spawn_key=key) for name, key in keys.items()}
    for name, given in (("tails", 4), ("bridge", 28)):
        found[name] = np.random.SeedSequence(seed, spawn_key=(5,), n_children_spawned=given)
    return found


@dataclass(frozen=True, eq=False)
class Panel:
    """Attention rows, each of its own length.

    Attributes
    ----------
    rows : tuple of ndarray, each of shape (tokens,)
        Weights of sum one.
    S2, S3, top : ndarray, shape (rows,)
        Sums of squares and of cubes of the weights, and the largest weight.
    """

    rows: tuple[FloatArray, ...]
    S2: FloatArray
    S3: FloatArray
    top: FloatArray

    @classmethod
    def of(cls, rows: Sequence[FloatArray]) -> Panel:
        """The panel of some rows."""
        S2, S3 = np.array([power_sums(p) for p in rows]).T
        return cls(tuple(rows), S2, S3, np.array([p.max() for p in rows]))

    def __len__(self) -> int:
        return len(self.rows)


def power_sums(p: FloatArray) -> tuple[FloatArray, FloatArray]:
    """S2 and S3: sums of squares and of cubes over the last axis."""
    return (p**2).sum(axis=-1), (p**3).sum(axis=-1)


def softmax(logits: FloatArray) -> FloatArray:
    """The attention row of some logits, shape (tokens,)."""
    p = np.exp(logits - logits.max())
    return np.asarray(p / p.sum())


def draw_panel(sizes: Sequence[int], rows_per_size: int, seed: np.random.SeedSequence) -> Panel:
    """Rows of every size: Gaussian logits, their standard deviation between 1/4 and 16."""
    rng, rows = np.random.default_rng(seed), []
    for tokens in np.repeat(sizes, rows_per_size):
        spread = np.exp(rng.uniform(np.log(0.25), np.log(16)))
        rows.append(softmax(spread * rng.standard_normal(tokens)))
    return Panel.of(rows)


def needle(rest: float, tokens: int) -> FloatArray:
    """A row whose first key holds ``1 - rest``; the others share the rest evenly."""
    p = np.full(tokens, rest / (tokens - 1))
    p[0] = 1 - rest
    return p


def gaussian_row(spread: float, tokens: int) -> FloatArray:
    """Softmax of the quantiles of a Gaussian with standard deviation ``spread``, ascending."""
    quantiles = norm.ppf((np.arange(tokens) + 0.5) / tokens)
    p = np.exp(spread * (quantiles - quantiles[-1]))
    return np.asarray(p / p.sum())


def kl_of_errors(p: FloatArray, delta: FloatArray) -> FloatArray:
    """KL of the row ``p`` for each row of logit errors, in the accurate form of chapter 1.

    ``p`` has shape (tokens,), ``delta`` (draws, tokens), the result (draws,).
    """
    eta = delta - (delta @ p)[:, None]
    return np.asarray(np.log1p((np.expm1(eta) - eta) @ p))


def normal_batches(draws: int, tokens: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Standard normal errors of shape (draws, tokens), in pieces that fit a processor's cache."""
    step = max(1, 2**16 // tokens)
    return (rng.standard_normal((min(step, draws - i), tokens)) for i in range(0, draws, step))


def on_sphere(shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Vectors of random direction and squared length d, the last entry of the shape."""
    x = rng.standard_normal(shape)
    return np.asarray(x * np.sqrt(shape[-1]) / np.linalg.norm(x, axis=-1, keepdims=True))


def logits(q: FloatArray, k: FloatArray) -> FloatArray:
    """Scaled inner products, shape (..., queries, tokens)."""
    return np.asarray(q @ k.swapaxes(-1, -2) / np.sqrt(k.shape[-1]))


def norm_product(q: FloatArray, k: FloatArray) -> FloatArray:
    """|q| |k|, shape (..., queries, tokens)."""
    q_norm, k_norm = (np.linalg.norm(x, axis=-1) for x in (q, k))
    return np.asarray(q_norm[..., :, None] * k_norm[..., None, :])
