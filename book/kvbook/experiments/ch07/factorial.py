"""The factorial's result: every cell at every budget on the same draws.

All that is concluded from the factorial is concluded from :class:`Factorial`; how it is measured
is the matter of ``measuring`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kvbook.experiments.ch07.cells import BUDGETS, WHT, Cell
from kvbook.experiments.ch07.regimes import regime_index, regimes_at
from kvbook.experiments.ch07.rows import SPREADS
from kvlib.checks import FloatArray

KL_STATISTICS = ("mean", "median", "95%")
KEY_MEASURES = ("MSE", "angle", "top-1 missed")
VECTOR_MEASURES = ("MSE", "angle")
OUTPUT_DIM = 128
"""Where values and the attention output are measured, too."""
PROBED = (WHT, 4)
"""The cell and budget whose KL is kept query by query."""


@dataclass(frozen=True, eq=False)
class Factorial:
    """Measures of every cell; cells of one repetition share data, rotation and sketch.

    Regimes are in the order of :func:`regimes_at`, logit spreads in that of :data:`SPREADS`.

    Attributes
    ----------
    kl : mapping
        (d, key cell, bits) to statistics of the KL over the queries of a head, in nats: shape
        (repetition, regime, spread, statistic), see :data:`KL_STATISTICS`.
    keys : mapping
        (d, key cell, bits) to errors of the keys, shape (repetition, regime, measure), see
        :data:`KEY_MEASURES`: relative squared error, angle over pi, share of changed top keys.
    values : mapping
        (value cell, bits) to errors of the values at ``OUTPUT_DIM``, shape (repetition, regime,
        measure), see :data:`VECTOR_MEASURES`.
    outputs : mapping
        (key cell, value cell, bits) to the same of the attention output, at moderate spread.
    by_query : array, shape (repetition, regime, query)
        KL of each query under the cell and budget of ``PROBED``, at ``OUTPUT_DIM`` and moderate
        spread.
    """

    kl: Mapping[tuple[int, Cell, int], FloatArray]
    keys: Mapping[tuple[int, Cell, int], FloatArray] = field(default_factory=dict)
    values: Mapping[tuple[Cell, int], FloatArray] = field(default_factory=dict)
    outputs: Mapping[tuple[Cell, Cell, int], FloatArray] = field(default_factory=dict)
    by_query: FloatArray = field(default_factory=lambda: np.empty((0, 0, 0)))

    @property
    def repetitions(self) -> int:
        """Number of draws."""
        return len(next(iter(self.kl.values())))

    @property
    def combinations(self) -> int:
        """Number of combinations of d, cell, budget, regime and spread."""
        return sum(found[0, ..., 0].size for found in self.kl.values())

    def log_kl(self, dim: int, cell: Cell) -> NDArray[np.float64]:
        """Log of the mean KL: (repetition, budget, regime, spread), NaN where there is no cell."""
        shape = (self.repetitions, len(regimes_at(dim)), len(SPREADS))
        absent = np.full(shape, np.nan)
        found = [self.kl.get((dim, cell, bits)) for bits in BUDGETS]
        return np.stack([absent if x is None else np.log(x[..., 0]) for x in found], axis=1)

    def log_ratio(
        self, dim: int, cell: Cell, base: Cell, bits: int, regime: str, spread: int
    ) -> NDArray[np.float64]:
        """Log of the mean KL of one cell over another's, one number a repetition."""
        logs = self.log_kl(dim, cell) - self.log_kl(dim, base)
        return np.asarray(logs[:, BUDGETS.index(bits), regime_index(dim, regime), spread])

    def log_output_error(self, key: Cell, value: Cell) -> NDArray[np.float64]:
        """Log of the output's squared error: (repetition, budget from two bits on, regime)."""
        errors = [self.outputs[key, value, bits][..., 0] for bits in BUDGETS[1:]]
        return np.stack([np.log(x) for x in errors], axis=1)
