"""A grid of trials to one tidy table: paired draws, any number of workers, resumable.

A *cell* is one head: keys, values and queries drawn from a family, or a captured head. Every
scheme, budget and logit scale of the grid is measured on it, one row of the table each, so that
rows of a cell are paired; so are the families of a shape, which share rotation and sketch within a
repetition. The random numbers of a cell derive from its own coordinates and the seed, and from
nothing else: order, number of workers, backend and the rest of the grid do not matter.

>>> grid = Grid(schemes=("KV", "QKQV"), bits=(2, 4), dims=(64,), tokens=(128,), repetitions=3)
>>> grid.cell_count, grid.row_count
(3, 12)

:func:`run` computes it, :func:`read` gives the table back, :func:`plot` draws it.
:func:`measure` does a small grid without a file.
"""

from kvlib.sweeps.backends import WorkerLost
from kvlib.sweeps.grid import (
    COORDINATES,
    DEFAULT_METRICS,
    QUERY_LAWS,
    Cell,
    Grid,
    Treatment,
    load_cache,
)
from kvlib.sweeps.plot import plot
from kvlib.sweeps.sweep import Outcome, measure, read, run

__all__ = [
    "COORDINATES",
    "DEFAULT_METRICS",
    "QUERY_LAWS",
    "Cell",
    "Grid",
    "Outcome",
    "Treatment",
    "WorkerLost",
    "load_cache",
    "measure",
    "plot",
    "read",
    "run",
]
