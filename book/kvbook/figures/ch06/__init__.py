"""Figures and tables of chapter 6."""

from kvbook.figures.ch06.plots import (
    damaged_codebook,
    error_ratios,
    improvement_by_dimension,
    spike_errors,
    winning_set_map,
)
from kvbook.figures.ch06.tables import (
    binding_table,
    codebook_table,
    direction_error_table,
    head_table,
    improvement_table,
    law_table,
    norm_price_table,
    set_table,
    spike_law_table,
    spike_set_table,
    split_table,
    tally_table,
    width_table,
)

__all__ = [
    "binding_table",
    "codebook_table",
    "damaged_codebook",
    "direction_error_table",
    "error_ratios",
    "head_table",
    "improvement_by_dimension",
    "improvement_table",
    "law_table",
    "norm_price_table",
    "set_table",
    "spike_errors",
    "spike_law_table",
    "spike_set_table",
    "split_table",
    "tally_table",
    "width_table",
    "winning_set_map",
]
