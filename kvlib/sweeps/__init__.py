"""A grid of trials to one tidy table: paired draws, any number of workers, resumable.

A *cell* is one draw of keys, values and queries: a family, rank, dimension, number of tokens and
repetition. Every scheme, budget and logit scale of the grid is measured on that same draw, one
row of the table each, so that rows of a cell are paired. The random numbers of a cell derive
from its own coordinates and the seed, and from nothing else: order, number of workers, backend
and the rest of the grid do not matter.

>>> grid = Grid(schemes=("KV", "QKQV"), bits=(2, 4), dims=(64,), tokens=(128,), repetitions=3)
>>> grid.cell_count, grid.row_count
(3, 12)

:func:`run` computes it, and :func:`read` gives the table back.
"""

from kvlib.sweeps.backends import WorkerLost
from kvlib.sweeps.cell import MEASURES
from kvlib.sweeps.grid import COORDINATES, QUERY_LAWS, Cell, Grid, Treatment
from kvlib.sweeps.sweep import Outcome, read, run

__all__ = [
    "COORDINATES",
    "MEASURES",
    "QUERY_LAWS",
    "Cell",
    "Grid",
    "Outcome",
    "Treatment",
    "WorkerLost",
    "read",
    "run",
]
