"""Queries along the keys: ranks that both share, the spread of the gain, and captured heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.ch07.cells import (
    EDEN,
    MATCHED,
    QJL_GAUSSIAN,
    QJL_HADAMARD,
    WHT,
    Cell,
    reconstruction_errors,
)
from kvbook.experiments.ch07.factorial import OUTPUT_DIM as DIM
from kvbook.experiments.ch07.inference import ratio_interval
from kvbook.experiments.ch07.regimes import dots
from kvbook.experiments.ch07.rows import DIFFUSE, SPREADS, AttentionRows
from kvbook.experiments.common import children
from kvbook.models import MODELS
from kvlib.data import heads, synthetic
from kvlib.measure import attention
from kvlib.quantize import RotatedQuantizer
from kvlib.stats import Interval

KINDS = {"matched": MATCHED, "unbiased": EDEN, "hadamard": QJL_HADAMARD, "gaussian": QJL_GAUSSIAN}
"""Cells that are compared with WHT, by the kind that the closed forms call them."""


LANGUAGE_MODEL = MODELS["rope-lm"].label
"""The captured causal language model that was trained as one should."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """KL where queries lie in the keys' subspace, d=128, diffuse.

    Attributes
    ----------
    ranks : tuple of int
        Dimensions that keys and queries of a head share.
    log_kl : mapping
        (cell, bits) to the log of the mean KL, shape (repetition, rank).
    """

    ranks: tuple[int, ...]
    log_kl: Mapping[tuple[Cell, int], NDArray[np.float64]]

    def ratios(self, kind: str, bits: int) -> list[Interval]:
        """KL over that of WHT with the norm, at each rank; ``kind`` as in :data:`KINDS`."""
        logs = self.log_kl[KINDS[kind], bits] - self.log_kl[WHT, bits]
        return [ratio_interval(column) for column in logs.T]


def measure_alignment(
    ranks: Sequence[int],
    *,
    bits: Sequence[int],
    repetitions: int,
    tokens: int,
    queries: int,
    seed: np.random.SeedSequence,
) -> Alignment:
    """Measure KL of WHT and of the cells of ``KINDS``, on draws that all cells share."""
    cells = (WHT, *KINDS.values())
    drawn: list[dict[tuple[Cell, int], NDArray[Any]]] = []
    for child in children(seed, repetitions):
        rng = np.random.default_rng(child)
        families = [synthetic.low_rank(rank) for rank in ranks]
        both = np.stack(
            [synthetic.draw(family, tokens + queries, DIM, rng=rng) for family in families]
        ).astype(np.float32)
        k, q = both[:, :tokens], both[:, tokens:]
        rows = AttentionRows.of(k, q, tuple(SPREADS.values()))
        errors = reconstruction_errors(k, cells, bits, seed=int(rng.integers(2**31)))
        drawn.append(
            {at: np.log(rows.kl(rows.logit_errors(e), DIFFUSE).mean(axis=-1)) for at, e in errors}
        )
    log_kl = {at: np.stack([draw[at] for draw in drawn]) for at in drawn[0]}
    return Alignment(tuple(ranks), log_kl)


def measure_gain_variance(
    bits: Sequence[int], *, seed: np.random.SeedSequence, vectors: int = 4096
) -> list[float]:
    """Variance over Gaussian vectors of the gain under WHT with the norm, d=128."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((vectors, DIM)).astype(np.float32)
    gains = [dots(x, WHT.quantizer(n).encode(x).decode()) / dots(x, x) for n in bits]
    return [float(gain.var()) for gain in gains]


# Captured heads --------------------------------------------------------------------------------


class HeadRatio(NamedTuple):
    """A captured head: its kappa, and KL of QKQV (Hadamard) over that of KQV.

    The interval of ``ratio`` is over rotations: it is about this head in this cache.
    """

    kappa: float
    ratio: Interval
    dim: int
    model: str
    label: str


def head_kappa(q: NDArray[Any], k: NDArray[Any], *, causal: bool) -> float:
    """eq-schemes-kappa of a head with its attention weights.

    Variance over a row that an isotropic error as long as the key would put on a logit, over the
    variance of the logits; both are means over the rows, with their attention for weights.
    """
    dim = k.shape[-1]
    p = attention.attention_weights(q, k, causal=causal)
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(dim)
    centred = logits - dots(p, logits)[..., None]
    lengths = np.broadcast_to(dots(k, k)[..., None, :], p.shape)
    noise = dots(p * (1 - p), lengths) * dots(q, q) / dim**2
    return float(noise.mean() / dots(p, centred**2).mean())


def measure_heads(
    plain: RotatedQuantizer, sketched: RotatedQuantizer, *, rotations: int
) -> list[HeadRatio]:
    """Compare two key quantizers on the first window of every captured head, by kappa."""
    found = []
    for model in MODELS.values():
        for head in heads.heads(model.load(), dtype=np.float32):
            q, k = head.q[:1], head.k[:1]
            logs = []
            for seed in range(rotations):
                low, high = (
                    attention.attention_kl(
                        q, k, quantizer.encode(k, seed=seed).decode(), causal=head.causal
                    ).mean()
                    for quantizer in (plain, sketched)
                )
                logs.append(np.log(high / low))
            kappa = head_kappa(q.astype(float), k.astype(float), causal=head.causal)
            ratio = ratio_interval(logs)
            found.append(HeadRatio(kappa, ratio, head.dim, model.label, head.label))
    return sorted(found, key=lambda head: head.kappa)


def reversed_heads(found: Sequence[HeadRatio]) -> list[HeadRatio]:
    """Heads whose whole interval says that QKQV has the lower KL."""
    return [head for head in found if head.ratio.high < 1]
