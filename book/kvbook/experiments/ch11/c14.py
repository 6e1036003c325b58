"""C14: which reading of "6D error space" gives the five published correlations?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from kvbook import ledger
from kvbook.experiments.ch11.baselines import Books, decoded, scalar_baselines
from kvbook.experiments.ch11.errors import (
    BUDGETS,
    DIRECTIONS,
    SIZES,
    Caches,
    Floats,
    coordinates,
    draw_caches,
)
from kvbook.experiments.ch11.planes import RANK_32, Planes
from kvbook.experiments.ch11.readings import Search
from kvlib import stats
from kvlib.data import synthetic
from kvlib.quantize import RotatedQuantizer

PUBLISHED_CORRELATIONS = {2: 1.0, 3: 0.7, 4: 0.145, 5: 0.958, 6: -0.923}
TOLERANCE = 0.15

NATURAL_R = "n={}, natural reading: r (positive: KQV ahead)"
COUNT = "readings within 0.15 at all five budgets, number"

SEARCH_DIMS = (128, 256)
KQV_BOOKS = ("Lloyd-Max", "uniform", "dead levels")
KQV_SKETCHES = tuple(product(("gaussian", "hadamard"), ("unbiased", "mmse")))

# Coordinates whose norm is one number: (size, direction) of K, of V and of T.
SUBSETS: dict[str, slice | list[int]] = {
    "norm": slice(None),
    "K": [0, 1],
    "V": [2, 3],
    "T": [4, 5],
    "K+T": [0, 1, 4, 5],
    "K+V": [0, 1, 2, 3],
    "directions": [1, 3, 5],
    "sizes": [0, 2, 4],
}


def predict_c14() -> ledger.Predictions:
    """The published r at each budget by the natural reading, and one reading of all five."""
    natural = [
        ledger.Prediction(
            NATURAL_R.format(n),
            ledger.Within(value, TOLERANCE),
            "more than 0.15 from the published r",
        )
        for n, value in PUBLISHED_CORRELATIONS.items()
    ]
    count = ledger.Prediction(COUNT, ledger.Above(1), "no reading gives the five together")
    return ledger.Predictions("C14", [*natural, count])


# ---------------------------------------------------------------------------------- search


class ReadingC14(NamedTuple):
    """What figure 5 leaves open about its correlations."""

    dim: int
    kv: str
    book: str
    sketch: str
    scale: str
    size: str
    direction: str
    one_number: str


def one_number(points: Floats) -> dict[str, Floats]:
    """Ways to reduce points (..., 6, draw) to numbers (..., draw) that grow with the error."""
    z = points - points.mean(axis=-1, keepdims=True)
    z = z / points.std(axis=-1, keepdims=True)
    total = z.sum(axis=-2)
    axis = np.linalg.eigh(z @ z.swapaxes(-1, -2))[1][..., -1]
    component = (axis[..., None, :] @ z)[..., 0, :]
    sign = np.sign((component * total).sum(axis=-1, keepdims=True))
    corner = z - z.min(axis=-1, keepdims=True)
    found = {
        "standardised sum": total,
        "rank sum": scipy.stats.rankdata(points, axis=-1).sum(axis=-2),
        "corner norm": np.sqrt(np.square(corner).sum(axis=-2)),
        "first component": component * sign,
    }
    return found | {
        name: np.sqrt(np.square(points[..., at, :]).sum(axis=-2)) for name, at in SUBSETS.items()
    }


def sign_rank(numbers: Floats, split: int) -> Floats:
    """Rank-biserial r of the first ``split`` draws against the rest, positive where smaller."""
    x, y = numbers[..., :split, None], numbers[..., None, split:]
    return np.asarray(np.sign(y - x).mean(axis=(-2, -1)))


def search_c14(
    books: Mapping[int, Books],
    stream: np.random.SeedSequence,
    *,
    draws: int,
    tokens: int,
    queries: int,
) -> Search[ReadingC14]:
    """The r of KQV against KV at n = 2..6 in every reading, rank 32."""
    labels: list[ReadingC14] = []
    values: list[Floats] = []
    for dim, child in zip(SEARCH_DIMS, stream.spawn(len(SEARCH_DIMS)), strict=True):
        caches = draw_caches(
            synthetic.low_rank(32), child, draws=draws, tokens=tokens, queries=queries, dim=dim
        )
        kqv_names = [(book, *pair) for book, pair in product(KQV_BOOKS, KQV_SKETCHES)]
        kv_names = list(scalar_baselines(books[dim]))
        for reduction, r in _correlations(caches, books[dim]).items():
            for (i, kqv), (j, kv) in product(enumerate(kqv_names), enumerate(kv_names)):
                values.append(r[:, i, j])
                labels.append(ReadingC14(dim, kv, *kqv, *reduction))
    published = np.array(list(PUBLISHED_CORRELATIONS.values()))
    return Search(labels, np.array(values), published, np.full(5, TOLERANCE), relative=False)


def _correlations(caches: Caches, books: Books) -> dict[tuple[str, str, str], Floats]:
    """r by (size, direction, reduction to one number): arrays (budget, KQV, KV)."""
    draws = len(caches.seeds)
    found: dict[tuple[str, str, str], list[Floats]] = {}
    for bits in BUDGETS:
        kqv, kv = _errors_of_kqv(caches, books, bits), _errors_of_kv(caches, books, bits)
        pairs = (len(kqv), len(kv))
        both = [np.broadcast_to(x, (*pairs, *x.shape[2:])) for x in (kqv[:, None], kv[None])]
        for size, (i, direction) in product(SIZES, enumerate(DIRECTIONS)):
            points = np.concatenate([coordinates(x, size, i, bits) for x in both], axis=-1)
            for name, numbers in one_number(points).items():
                r = sign_rank(numbers, draws)
                found.setdefault((size, direction, name), []).append(r)
    return {reading: np.array(r) for reading, r in found.items()}


def _errors_of_kv(caches: Caches, books: Books, bits: int) -> Floats:
    """Errors of every baseline: (baseline, 3, 4, draw)."""
    k, v, methods = caches.k, caches.v, scalar_baselines(books)
    return np.array([caches.errors_of(f(k, bits), f(v, bits)) for f in methods.values()])


def _errors_of_kqv(caches: Caches, books: Books, bits: int) -> Floats:
    """Errors of every KQV, in the order of KQV_BOOKS and KQV_SKETCHES: (KQV, 3, 4, draw)."""
    found = []
    for book in KQV_BOOKS:
        key = RotatedQuantizer(bits, codebook=books[book][bits], side_dtype="float32")
        k_hat = decoded(key, caches.k, 2 * caches.seeds)
        for sketch, scale in KQV_SKETCHES:
            value = RotatedQuantizer(
                bits,
                codebook=books[book][bits - 1],
                sketch=sketch,
                sketch_scale=scale,
                side_dtype="float32",
            )
            v_hat = decoded(value, caches.v, 2 * caches.seeds + 1)
            found.append(caches.errors_of(k_hat, v_hat))
    return np.array(found)


def dips(search: Search[ReadingC14]) -> NDArray[np.bool_]:
    """Readings with a dip of at least one half at four bits, and KV ahead at six."""
    r = search.values
    return np.asarray((r[:, [1, 3]].min(axis=1) > r[:, 2] + 0.5) & (r[:, 4] < 0))


# ---------------------------------------------------------------------------------- verdict


def natural_r(planes: Planes, bits: int) -> stats.RankBiserial:
    """r of KQV against KV in the norm of the six root errors and angles; positive: KQV ahead."""
    x, y = (np.linalg.norm(planes.points(RANK_32, s, bits), axis=1) for s in ("KV", "KQV"))
    return stats.rank_biserial(x, y)


def judge_c14(
    predictions: ledger.Predictions, planes: Planes, hits: NDArray[np.bool_]
) -> ledger.Verdict:
    """Judge the natural reading at each budget, and the search by its number of hits."""
    return predictions.verdict(
        {
            **{NATURAL_R.format(n): natural_r(planes, n).interval for n in BUDGETS},
            COUNT: stats.Interval.exactly(hits.sum()),
        },
        note="With good codebooks KV is ahead at every budget, because its values keep all their "
        f"bits. The five numbers come from {hits.sum()} of {len(hits)} readings; their order is "
        "that of C10, and a codebook with dead levels shows it.",
    )
