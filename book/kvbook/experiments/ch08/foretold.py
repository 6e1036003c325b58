"""What is foretold of captured heads, and how far it comes true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.ch08.heads import (
    HeadErrors,
    exact_rows,
    head_total,
    output_energy,
    worst_centred,
)
from kvbook.experiments.ch08.storing import FloatArray
from kvbook.experiments.ch08.theory import threshold_law
from kvlib import laws
from kvlib.data.captured import KVCache
from kvlib.quantize import codebooks
from kvlib.stats import Interval, geometric_mean_interval

_COSINES = np.linspace(-1, 1, 8001)


def predict_heads(
    caches: Mapping[str, KVCache], bits: Iterable[int]
) -> dict[tuple[str, str, int], FloatArray]:
    """Output errors foretold from rows, lengths and cosines of the values alone.

    By (model, way, bits) for "plain", "unbiased" and "orthogonal", each of shape (heads,).
    """
    budgets, foretold = tuple(bits), {}
    for model, cache in caches.items():
        p, v = exact_rows(cache)
        signal = output_energy(p, v)
        norms = np.linalg.norm(v, axis=-1)
        u = v / norms[..., None]
        cosines = np.clip(u @ u.swapaxes(-1, -2), -1, 1)
        place = np.rint((cosines + 1) * (_COSINES.size // 2)).astype(np.int16)
        weighted = p * norms[..., None, :]
        for n in budgets:
            for way, values in shared_error_laws(n, cache.dim).items():
                kernel = values.astype(np.float32)[place]
                foretold[model, way, n] = head_total((weighted @ kernel) * weighted) / signal
    return foretold


def shared_error_laws(bits: int, dim: int) -> dict[str, FloatArray]:
    """Error that two unit vectors share, at 8001 evenly spaced cosines from -1 to 1, by way."""
    fine, coarse = codebooks.lloyd_max(dim, bits), codebooks.lloyd_max(dim, bits - 1)
    rescale = 1 / (1 - fine.distortion)
    residual = laws.shared_error(_COSINES, coarse.levels, dim) / coarse.distortion
    sketched = laws.sketched_shared_error(np.clip(residual, -1, 1), dim, "orthogonal")
    return {
        "plain": np.asarray(laws.shared_error(_COSINES, fine.levels, dim)),
        "unbiased": np.asarray(laws.shared_error(_COSINES, fine.levels, dim, rescale=rescale)),
        "orthogonal": np.asarray(coarse.distortion * sketched),
    }


def passes_threshold(heads: HeadErrors, bits: int, share: str) -> NDArray[np.bool_]:
    """Whether a head's effective tokens pass the derived threshold at its share.

    ``share`` names the fact to use, "mean_share" or "attended_share".
    """
    shares = np.clip(heads.fact(share), 1e-6, 0.999)
    pairs = zip(shares, heads.dims, strict=True)
    limits = [threshold_law(bits, float(s), dim=int(d)) for s, d in pairs]
    return np.asarray(heads.fact("effective_tokens") > limits)


def gram_calibration(
    heads: HeadErrors, foretold: Mapping[tuple[str, str, int], FloatArray], model: str
) -> Interval:
    """Error of the orthogonal sketch over its prediction, heads and budgets of a model pooled."""
    keys = [key for key in foretold if key[:2] == (model, "orthogonal")]
    ratios = [heads.errors[key].mean(axis=-1) / foretold[key] for key in keys]
    return geometric_mean_interval(np.concatenate(ratios))


def over_foretold(
    heads: HeadErrors, foretold: Mapping[tuple[str, str, int], FloatArray], bits: int
) -> Interval:
    """Ratio of the orthogonal sketch to plain codes, measured over foretold, mean of the heads."""
    plain, sketched = (
        np.concatenate([foretold[model, way, bits] for model in heads.facts])
        for way in ("plain", "orthogonal")
    )
    return heads.ratio("orthogonal", bits, foretold=sketched / plain)


def sketch_counts(heads: HeadErrors, bits: int) -> dict[str, int]:
    """On how many heads a sketch wins at a budget, foretold and measured.

    ``passes``: past the threshold by the share of their mean; ``wins``: measured; ``calls``: told
    right by attended share; ``best-sketch`` and ``best-cure``: one with a sketch, or one with the
    mean removed or the unbiased scale, is the best of all ways.
    """
    won = heads.over_plain("orthogonal", bits) < 1
    sketches = ("orthogonal", "gaussian", "centred orthogonal")
    cures = ("unbiased", "centred plain", "centred unbiased")
    best = heads.best(("plain", *cures, *sketches), bits)
    return {
        "wins": int(won.sum()),
        "passes": int(passes_threshold(heads, bits, "mean_share").sum()),
        "calls": int((passes_threshold(heads, bits, "attended_share") == won).sum()),
        "best-sketch": sum(way in sketches for way in best),
        "best-cure": sum(way in cures for way in best),
    }


def head_numbers(
    heads: HeadErrors,
    foretold: Mapping[tuple[str, str, int], FloatArray],
    *,
    language: Sequence[str],
) -> dict[str, float]:
    """What the text says about captured heads, by the names it uses.

    ``language`` are the models that are not encoders.
    """
    budgets, worst = (2, 3, 4), worst_centred(heads, 4)
    ways = dict.fromkeys(way for _, way, _ in heads.errors)
    of_language = [heads.over_plain("orthogonal", n, language) for n in budgets]
    found = {
        "heads": float(heads.dims.size),
        "worst-centred": worst.ratio,
        "worst-left": worst.left,
        "worst-unbiased": float(heads.over_plain("unbiased", 4).max()),
        "wins-language": float((np.concatenate(of_language) < 1).sum()),
    }
    for n in budgets:
        found |= {f"{name}-{n}": float(x) for name, x in sketch_counts(heads, n).items()}
        for way in (w for w in ways if w not in ("plain", "uniform", "min-max")):
            found[f"ratio-{way.replace(' ', '-')}-{n}"] = heads.ratio(way, n).estimate
    for model in heads.facts:
        found[f"gram-{model}"] = gram_calibration(heads, foretold, model).estimate
    return found
