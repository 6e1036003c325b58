"""Captured keys and values under one rotation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kvbook.experiments.ch02.law import FloatArray, coordinate_law, directions
from kvlib.data.captured import KVCache
from kvlib.data.heads import heads as heads_of
from kvlib.quantize import codebooks
from kvlib.quantize.rotations import Rotation
from kvlib.stats import ks_distance, ks_distances


@dataclass(frozen=True)
class CapturedHead:
    """The keys or the values of one captured head, means over a few Hadamard rotations.

    Attributes
    ----------
    cache, which, label : str
        Name of the cache, "K" or "V", layer and head.
    dim : int
    share : float
        The mean vector's share of energy.
    kurtosis, largest_kurtosis : float
        Of the coordinates as captured: mean over tokens, and of the worst token.
    pooled, channel : float
        KS distance pooled and per coordinate, as captured.
    pooled_centred, channel_centred : float
        The same after subtracting the mean vector.
    distortion : float
        Mean squared error of the codebook, in units of what the law predicts.
    haar : float
        Pooled distance under Haar rotations instead.
    """

    cache: str
    which: str
    label: str
    dim: int
    share: float
    kurtosis: float
    largest_kurtosis: float
    pooled: float
    channel: float
    pooled_centred: float
    channel_centred: float
    distortion: float
    haar: float


def law_distances(x: FloatArray, rotation: Rotation) -> tuple[float, float]:
    """Pooled and mean per-coordinate KS distance of directions x under one rotation."""
    y, law = rotation.apply(x), coordinate_law(rotation.dim)
    return ks_distance(y, law), float(ks_distances(y.T, law).mean())


def distortion_ratio(x: FloatArray, rotation: Rotation, bits: int) -> float:
    """Mean squared error of the Lloyd-Max codebook, in units of what the law predicts."""
    y = rotation.apply(x)
    book = codebooks.lloyd_max(rotation.dim, bits)
    error = np.square(y - book.dequantize(book.quantize(y))).sum(-1).mean()
    return float(error / book.distortion)


def measure_captured(
    caches: Mapping[str, KVCache], *, bits: int, seeds: Sequence[int]
) -> list[CapturedHead]:
    """Keys and values of every head of the caches, all under the same rotations."""
    return [
        _captured_head(x, bits, seeds, cache=name, which=which, label=head.label)
        for name, cache in caches.items()
        for head in heads_of(cache)
        for which, x in (("K", head.k), ("V", head.v))
    ]


def _captured_head(
    windows: FloatArray, bits: int, seeds: Sequence[int], **names: str
) -> CapturedHead:
    """One head's vectors, shape (windows, tokens, d)."""
    dim = windows.shape[-1]
    x = windows.reshape(-1, dim)
    mean = x.mean(axis=0)
    raw, centred = directions(x), directions(x - mean)
    peaks = dim * (raw**4).sum(-1)
    chosen = [Rotation("hadamard", dim, seed) for seed in seeds]
    pooled, channel = np.mean([law_distances(raw, r) for r in chosen], axis=0).tolist()
    without_mean = np.mean([law_distances(centred, r) for r in chosen], axis=0).tolist()
    turned = (Rotation("haar", dim, seed).apply(raw) for seed in seeds)
    return CapturedHead(
        **names,
        dim=dim,
        share=float(np.square(mean).sum() / np.square(x).sum(-1).mean()),
        kurtosis=float(peaks.mean()),
        largest_kurtosis=float(peaks.max()),
        pooled=pooled,
        channel=channel,
        pooled_centred=without_mean[0],
        channel_centred=without_mean[1],
        distortion=float(np.mean([distortion_ratio(raw, r, bits) for r in chosen])),
        haar=float(np.mean([ks_distance(y, coordinate_law(dim)) for y in turned])),
    )


def select(
    heads: Iterable[CapturedHead], cache: str | None = None, which: str | None = None
) -> Iterator[CapturedHead]:
    """The heads of a cache, or of its keys or values."""
    for head in heads:
        if cache in (None, head.cache) and which in (None, head.which):
            yield head


def over_heads(heads: Iterable[CapturedHead], attribute: str) -> tuple[float, float, float]:
    """Mean of one number over heads, and their 16th and 84th percentile: a spread, no interval."""
    values = [getattr(head, attribute) for head in heads]
    low, high = np.percentile(values, (16, 84)).tolist()
    return float(np.mean(values)), low, high
