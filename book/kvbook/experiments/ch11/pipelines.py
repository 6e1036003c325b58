"""Whole pipelines against several published facts, and how much of a match is luck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from kvbook.experiments.ch11.baselines import DAMAGED_DIM, Books, damaged_codebooks
from kvbook.experiments.ch11.c08 import ReadingC08
from kvbook.experiments.ch11.c14 import ReadingC14
from kvbook.experiments.ch11.c15 import KqvReading, ReadingC15, kqv_alone
from kvbook.experiments.ch11.errors import BUDGETS, Floats
from kvbook.experiments.ch11.readings import Search
from kvlib import laws

PIPELINES = tuple(
    product(("Lloyd-Max", "dead levels"), ("gaussian", "hadamard"), ("unbiased", "mmse"))
)


@dataclass(frozen=True)
class Pipeline:
    """What one choice of codebook, sketch and scale gives for five published facts, d = 256.

    Attributes
    ----------
    book, sketch, scale : str
    crossover : tuple of int
        C10, derived: the budgets at which QKQV has the smaller error.
    ratio, r : float
        C08, measured.
    by_budget : array, shape (5,)
        C14, measured: r of KQV against KV at n = 2..6.
    angle, cosine : float
        C15, measured: direction error of KQV as angle/π and as 1 - cos.
    """

    book: str
    sketch: str
    scale: str
    crossover: tuple[int, ...]
    ratio: float
    r: float
    by_budget: Floats
    angle: float
    cosine: float


def sketch_error_law(sketch: str, scale: str, dim: int) -> float:
    """Relative squared error c of a sketched vector."""
    error = laws.gaussian_sketch_error if sketch == "gaussian" else laws.orthogonal_sketch_error
    return laws.mmse_error(error(dim)) if scale == "mmse" else error(dim)


def crossover_law(
    distortions: Mapping[int, float], sketch: str, scale: str, dim: int
) -> tuple[int, ...]:
    """Budgets at which c D(n-1) is less than D(n)."""
    c = sketch_error_law(sketch, scale, dim)
    return tuple(n for n in BUDGETS if c * distortions[n - 1] < distortions[n])


def assemble_pipelines(
    books: Books,
    c08: Search[ReadingC08],
    c14: Search[ReadingC14],
    c15: Search[ReadingC15],
    *,
    queries: int,
) -> list[Pipeline]:
    """The readings of each pipeline in the three searches, beside its derived crossover.

    Parameters
    ----------
    books : mapping
        Codebooks of d = 256.
    c08, c14, c15 : Search
    queries : int
        A draw, for C08.
    """
    dim, kqv, found = DAMAGED_DIM, kqv_alone(c15), []
    for book, sketch, scale in PIPELINES:
        distortions = {n: of_bits.distortion for n, of_bits in books[book].items()}
        unit = f"unit vector, {book}"
        light = ReadingC08(
            dim, book, sketch, scale, "as drawn", "mean", queries, "light tails", "means"
        )
        ratio, r = c08.value(light)
        both = ReadingC14(
            dim, unit, book, sketch, scale, "root error", "angle/π", "standardised sum"
        )
        angle, cosine = (
            float(kqv.value(KqvReading(dim, "independent", "one round", unit, of, "mean"))[0])
            for of in ("θ/π", "1 − cos")
        )
        crossover = crossover_law(distortions, sketch, scale, dim)
        pipeline = Pipeline(
            book, sketch, scale, crossover, ratio, r, c14.value(both), angle, cosine
        )
        found.append(pipeline)
    return found


def damaged_ratios(stream: np.random.SeedSequence, count: int) -> Floats:
    """c D(3) / D(4), least-squares orthogonal sketch, of more codebooks with the pattern {2,3,5}.

    Each is of another training sample.
    """
    rng = np.random.default_rng(stream)
    c = sketch_error_law("hadamard", "mmse", DAMAGED_DIM)
    samples = [damaged_codebooks(DAMAGED_DIM, rng) for _ in range(count)]
    return np.array([c * of_bits[3].distortion / of_bits[4].distortion for of_bits in samples])
