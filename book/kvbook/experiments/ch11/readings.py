"""Searches over readings: what was tried, what matches, and what a match is worth."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvbook.experiments.ch11.errors import Floats

Label = TypeVar("Label", bound=Hashable)
Other = TypeVar("Other", bound=Hashable)


def matching(values: Floats, target: ArrayLike, width: ArrayLike) -> NDArray[np.bool_]:
    """Which readings, rows of ``values``, are within ``width`` of all the target's numbers."""
    distance = np.abs(values - np.asarray(target))
    return np.asarray((distance <= width).all(axis=-1))


def chance_of_match(
    values: Floats,
    tolerance: ArrayLike,
    *,
    relative: bool,
    stream: np.random.SeedSequence,
    count: int = 400,
) -> float:
    """Share of made-up targets that at least one reading reproduces.

    Parameters
    ----------
    values : array, shape (readings, numbers)
    tolerance : float or array, shape (numbers,)
    relative : bool
        Whether the tolerance is a share of the target's numbers.
    stream : SeedSequence
    count : int
        How many targets are made up. Each takes each of its numbers from a random reading.
    """
    rng = np.random.default_rng(stream)
    hits = 0
    for _ in range(count):
        target = np.array([rng.choice(column) for column in values.T])
        width = np.asarray(tolerance) * (np.abs(target) if relative else 1)
        hits += bool(matching(values, target, width).any())
    return hits / count


@dataclass(frozen=True)
class Search(Generic[Label]):
    """What a search tried, beside the published numbers.

    Attributes
    ----------
    labels : sequence of tuple
        The choices of each reading.
    values : array, shape (readings, numbers)
        What each reading gives for the published numbers.
    published : array, shape (numbers,)
    tolerance : array, shape (numbers,)
    relative : bool
        Whether the tolerance is a share of the published numbers.
    """

    labels: Sequence[Label]
    values: Floats
    published: Floats
    tolerance: Floats
    relative: bool

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> Floats:
        """Tolerance in the unit of the numbers."""
        return self.tolerance * np.abs(self.published) if self.relative else self.tolerance

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Which readings give all the published numbers."""
        return matching(self.values, self.published, self.width)

    @property
    def found(self) -> int:
        """How many do."""
        return int(self.hits.sum())

    @property
    def different(self) -> int:
        """How many readings there are that differ in a number, to nine digits."""
        return len(np.unique(self.values.round(9), axis=0))

    @property
    def worst_miss(self) -> Floats:
        """How far each reading is off in its worst number: (readings,).

        A difference, or where the tolerance is relative the logarithm of a factor (then all
        numbers must be of one sign).
        """
        if not self.relative:
            return np.asarray(np.abs(self.values - self.published).max(axis=1))
        with np.errstate(divide="ignore"):
            return np.asarray(np.abs(np.log(self.values / self.published)).max(axis=1))

    @property
    def nearest(self) -> list[int]:
        """Indices of the readings, from the least worst miss on."""
        return [int(i) for i in np.argsort(self.worst_miss)]

    def chance(self, stream: np.random.SeedSequence) -> float:
        """Share of made-up targets that some reading would have matched as well."""
        return chance_of_match(self.values, self.tolerance, relative=self.relative, stream=stream)

    def value(self, label: Label) -> Floats:
        """What one reading gives."""
        return np.asarray(self.values[self.labels.index(label)])

    def marginal(self, columns: list[int], label: Callable[[Label], Other]) -> Search[Other]:
        """The search for some of the numbers alone, every reading that differs in them once."""
        first: dict[Other, int] = {}
        for i, reading in enumerate(self.labels):
            first.setdefault(label(reading), i)
        rows = list(first.values())
        return Search(
            list(first),
            self.values[np.ix_(rows, columns)],
            self.published[columns],
            self.tolerance[columns],
            self.relative,
        )


def distinct(
    order: Sequence[int], labels: Sequence[Label], aspect: Callable[[Label], Hashable], count: int
) -> list[int]:
    """The first readings of an order that differ in an aspect."""
    seen: set[Hashable] = set()
    found: list[int] = []
    for i in order:
        if aspect(labels[i]) not in seen:
            seen.add(aspect(labels[i]))
            found.append(i)
        if len(found) == count:
            break
    return found
