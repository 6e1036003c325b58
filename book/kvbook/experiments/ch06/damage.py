"""T10: codebooks made by Lloyd iterations, and the sets of budgets they give the sketch.

Every codebook is judged under the exact law of a coordinate. The rule then says at which budgets a
sketch with constant c is ahead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from kvbook.experiments.ch06.rule import (
    BUDGETS,
    CONSTANTS,
    ORTHOGONAL_MMSE,
    PUBLISHED,
    Budgets,
    Sketch,
    sketch_constant,
    winning_set,
)
from kvbook.experiments.common import distortion
from kvlib.checks import FloatArray
from kvlib.laws import sphere
from kvlib.quantize import codebooks
from kvlib.quantize.codebooks import Codebook

Books = Mapping[int, Codebook]
"""Codebooks of 1 to 6 bits, by bits."""

BITS = range(1, 7)
"""Bits of the codebooks that one comparison needs."""

FULL_RANGE = "[−1, 1]"
"""The start on the range of the law, which leaves levels dead."""

Start = Callable[[FloatArray, int, int, np.random.Generator], FloatArray]
"""Sorted sample, number of levels, dimension and generator to the levels that iterations begin
with."""

STARTS: dict[str, Start] = {
    FULL_RANGE: lambda u, k, d, rng: np.linspace(-1, 1, k),
    "±6σ": lambda u, k, d, rng: np.linspace(-6, 6, k) / math.sqrt(d),
    "±3σ": lambda u, k, d, rng: np.linspace(-3, 3, k) / math.sqrt(d),
    "range": lambda u, k, d, rng: np.linspace(u[0], u[-1], k),
    "quantiles": lambda u, k, d, rng: np.quantile(u, (np.arange(k) + 0.5) / k),
    "random": lambda u, k, d, rng: np.sort(rng.choice(u, k, replace=False)),
}

LAW_STARTS = {FULL_RANGE: None, "±6σ": 6, "±1σ": 1}
"""Reach in standard deviations of the starts on the exact law; None for the whole range."""


# Training ----------------------------------------------------------------------------------------


def training_sample(dim: int, log_size: int, rng: np.random.Generator) -> FloatArray:
    """About 2**log_size coordinates of random unit vectors, sorted."""
    return np.sort(sphere.sample(max(1, 2**log_size // dim), dim, rng=rng).ravel())


def train(
    sample: FloatArray,
    dim: int,
    start: str,
    iterations: Sequence[int],
    rng: np.random.Generator,
) -> dict[int, dict[int, Codebook]]:
    """Codebooks of 1 to 6 bits after each number of iterations: {iterations: {bits: codebook}}.

    An empty cell keeps its level, as in common code. Each run continues the one before.
    """
    levels = {n: STARTS[start](sample, 2**n, dim, rng) for n in BITS}
    found: dict[int, dict[int, Codebook]] = {}
    done = 0
    for total in iterations:
        found[total] = {
            n: codebooks.lloyd_iterations(sample, dim, n, start=levels[n], iterations=total - done)
            for n in BITS
        }
        levels, done = {n: book.levels for n, book in found[total].items()}, total
    return found


def distortions_of(books: Books) -> tuple[float, ...]:
    """Distortion of the codebooks of 1 to 6 bits under the exact law."""
    return tuple(books[n].distortion for n in BITS)


# The space searched ------------------------------------------------------------------------------


@dataclass(frozen=True)
class CodebookFamily:
    """Codebooks of 1 to 6 bits made in one way.

    Attributes
    ----------
    dim : int
    log_size : int or None
        log2 of the number of training coordinates; None for iterations on the exact law.
    start : str
    iterations : int
    distortions : tuple of 6 floats
    """

    dim: int
    log_size: int | None
    start: str
    iterations: int
    distortions: tuple[float, ...]

    @property
    def excess(self) -> float:
        """Geometric mean over the bits of the error over that of the best codebook, minus one."""
        best = [distortion(self.dim, n) for n in BITS]
        return float(np.exp(np.log(np.array(self.distortions) / best).mean()) - 1)


@dataclass(frozen=True)
class Setting:
    """A family of codebooks with a sketch, by its name, and the budgets that the sketch wins."""

    family: CodebookFamily
    sketch: str
    winning: Budgets

    @property
    def is_published(self) -> bool:
        """Whether the winning set is the paper's."""
        return self.winning == PUBLISHED

    @property
    def pattern(self) -> str:
        """See :func:`pattern`."""
        return pattern(self.winning)


def pattern(budgets: Budgets) -> str:
    """What kind of set it is: "none", "{2,3,5}", a "run" of neighbours, or one with a "gap"."""
    if not budgets:
        return "none"
    if budgets == PUBLISHED:
        return "{2,3,5}"
    return "run" if budgets[-1] - budgets[0] == len(budgets) - 1 else "gap"


def measure_codebooks(
    *,
    dims: Sequence[int],
    log_sizes: Sequence[int],
    starts: Iterable[str],
    iterations: Sequence[int],
    repeats: int,
    seed: np.random.SeedSequence,
) -> list[CodebookFamily]:
    """Train codebooks in every combination of the arguments; ``repeats`` samples for each."""
    rng = np.random.default_rng(seed)
    families = []
    for dim, log_size, _ in product(dims, log_sizes, range(repeats)):
        sample = training_sample(dim, log_size, rng)
        for start in starts:
            for total, books in train(sample, dim, start, iterations, rng).items():
                errors = distortions_of(books)
                families.append(CodebookFamily(dim, log_size, start, total, errors))
    return families


def settings_of(
    families: Iterable[CodebookFamily], sketches: Mapping[str, Sketch] = CONSTANTS
) -> list[Setting]:
    """Every family with every sketch, and the budgets that the sketch wins by the rule."""
    return [
        Setting(f, name, winning_set(f.distortions, sketch_constant(sketch, f.dim)))
        for f in families
        for name, sketch in sketches.items()
    ]


def lloyd_max_wins(dims: Iterable[int]) -> int:
    """Winning budgets with the best codebooks, over dimensions and sketches: T09 says none."""
    kinds = [Sketch(*pair) for pair in product(("gaussian", "haar"), ("unbiased", "mmse"))]
    return sum(
        len(winning_set([distortion(d, n) for n in BITS], sketch_constant(sketch, d)))
        for d, sketch in product(dims, kinds)
    )


def search_numbers(settings: Sequence[Setting]) -> dict[str, float]:
    """Numbers for the text: how often which winning set occurs, and where it comes from."""
    hits = [s for s in settings if s.is_published]
    gapped = [s for s in settings if s.pattern in ("gap", "{2,3,5}")]
    dead = [s for s in gapped if s.family.start in (FULL_RANGE, "±6σ")]
    counts = {
        "settings": len(settings),
        "distinct": len({s.winning for s in settings}),
        "hits": len(hits),
        "hits-mmse": sum(s.sketch == "MMSE" for s in hits),
        "hits-start": sum(s.family.start == FULL_RANGE for s in hits),
    }
    starts = {"3sigma": "±3σ", "quantiles": "quantiles", "range": FULL_RANGE}
    return {name: float(count) for name, count in counts.items()} | {
        "gapped-dead": 100 * len(dead) / max(len(gapped), 1),
        **{f"clean-{name}": clean_percent(settings, start) for name, start in starts.items()},
    }


def clean_percent(settings: Iterable[Setting], start: str) -> float:
    """Percent of the MMSE settings after 300 iterations from a start that lose no budget."""
    last = [
        not s.winning
        for s in settings
        if s.family.start == start and s.family.iterations == 300 and s.sketch == "MMSE"
    ]
    return 100 * float(np.mean(last))


# Iterations on the exact law ---------------------------------------------------------------------


def lloyd_step_on_law(levels: FloatArray, dim: int) -> FloatArray:
    """One Lloyd step on the exact law, for levels symmetric about zero; no level can die."""
    half = levels[levels.size // 2 :]
    edges = np.minimum(np.concatenate([[0.0], (half[1:] + half[:-1]) / 2, [1.0]]), 1)
    mass, first, _ = sphere.upper_cell_moments(edges, dim)
    half = np.divide(first, mass, out=half.copy(), where=mass > 0)
    return np.concatenate([-half[::-1], half])


def iterate_on_law(
    *, dims: Sequence[int], steps: Sequence[int], starts: Mapping[str, int | None] = LAW_STARTS
) -> list[CodebookFamily]:
    """Codebooks after so many Lloyd steps on the exact law, for every dimension and start."""
    families = []
    for dim, (start, reach) in product(dims, starts.items()):
        edge = 1 if reach is None else reach / math.sqrt(dim)
        levels = {n: np.linspace(-edge, edge, 2**n) for n in BITS}
        done = 0
        for total in steps:
            for _ in range(total - done):
                levels = {n: lloyd_step_on_law(array, dim) for n, array in levels.items()}
            done = total
            books = {n: Codebook(dim, n, array, "law") for n, array in levels.items()}
            families.append(CodebookFamily(dim, None, start, total, distortions_of(books)))
    return families


# Live levels -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """A sample and the codebooks that iterations on it gave.

    Attributes
    ----------
    dim : int
    sample : array
    books : mapping
        {iterations: {bits: codebook}}.
    """

    dim: int
    sample: FloatArray
    books: Mapping[int, Books]

    def distortions(self, iterations: int) -> tuple[float, ...]:
        """Of the codebooks of 1 to 6 bits."""
        return distortions_of(self.books[iterations])

    def winning_set(self, iterations: int, sketch: Sketch = ORTHOGONAL_MMSE) -> Budgets:
        """Budgets that a sketch wins with these codebooks."""
        return winning_set(self.distortions(iterations), sketch_constant(sketch, self.dim))

    def is_fixed(self, iterations: int, later: int) -> bool:
        """Whether no level of any codebook moved between two numbers of iterations."""
        early, late = self.books[iterations], self.books[later]
        return all(np.array_equal(early[n].levels, late[n].levels) for n in BITS)

    def live_levels(self, iterations: int) -> list[int]:
        """Levels that are nearest to at least one sample, for 1 to 6 bits."""
        books = self.books[iterations]
        return [int(np.unique(books[n].quantize(self.sample)).size) for n in BITS]


def measure_trainings(
    dim: int,
    log_size: int,
    *,
    count: int,
    iterations: Sequence[int],
    rng: np.random.Generator,
    start: str = FULL_RANGE,
) -> list[Training]:
    """Train codebooks on ``count`` fresh samples of 2**log_size coordinates."""
    found = []
    for _ in range(count):
        sample = training_sample(dim, log_size, rng)
        found.append(Training(dim, sample, train(sample, dim, start, iterations, rng)))
    return found


def best_distortion(dim: int, levels: int, *, steps: int = 150) -> float:
    """D*(L): distortion of the best codebook with any number of levels, under the exact law."""
    q = sphere.coordinate_ppf((np.arange(levels) + 0.5) / levels, sphere.companding_dim(dim))
    for _ in range(steps):
        cuts = np.concatenate([[-1.0], (q[1:] + q[:-1]) / 2, [1.0]])
        mass = np.diff(sphere.coordinate_cdf(cuts, dim))
        first = -np.diff((1 - cuts**2) * sphere.coordinate_pdf(cuts, dim)) / (dim - 1)
        q = first / mass
    return float(1 - dim * (first**2 / mass).sum())


@dataclass(frozen=True)
class LiveLevelLaw:
    """What the numbers of live levels say about the winning set at one dimension.

    Parameters
    ----------
    dim : int
    most : int
        Largest number of levels considered; more count as so many.
    """

    dim: int
    most: int = 40

    @cached_property
    def best(self) -> dict[int, float]:
        """Least distortion by number of levels, from 2 on."""
        return {k: best_distortion(self.dim, k) for k in range(2, self.most + 1)}

    def winning_set(self, live: Sequence[int], sketch: Sketch = ORTHOGONAL_MMSE) -> Budgets:
        """Budgets a sketch wins if the codebooks were the best with so many levels each."""
        distortions = [self.best[min(k, self.most)] for k in live]
        return winning_set(distortions, sketch_constant(sketch, self.dim))

    def explains(self, training: Training, iterations: int) -> bool:
        """Whether the live levels alone give the winning set of a training."""
        live = training.live_levels(iterations)
        return self.winning_set(live) == training.winning_set(iterations)

    def sequences(self, sketch: Sketch = ORTHOGONAL_MMSE) -> list[tuple[int, ...]]:
        """All numbers of live levels, even and not decreasing, that give the published set."""
        c = sketch_constant(sketch, self.dim)
        even = {k: error for k, error in self.best.items() if k % 2 == 0}
        found: list[tuple[int, ...]] = [(2,)]
        for n in BUDGETS:
            found = [
                (*levels, k)
                for levels in found
                for k in even
                if levels[-1] <= k <= 2**n and (c * even[levels[-1]] < even[k]) == (n in PUBLISHED)
            ]
        return found
