"""Figures and tables of chapter 6."""

from kvbook.figures.ch06.plots import (
    damaged_codebook,
    dead_levels,
    error_ratios,
    improvement_by_dimension,
    winning_set_map,
)
from kvbook.figures.ch06.tables import (
    binding_table,
    chosen_table,
    codebook_table,
    kl_table,
    law_table,
    ratio_table,
    set_table,
    split_table,
)

__all__ = [
    "binding_table",
    "chosen_table",
    "codebook_table",
    "damaged_codebook",
    "dead_levels",
    "error_ratios",
    "improvement_by_dimension",
    "kl_table",
    "law_table",
    "ratio_table",
    "set_table",
    "split_table",
    "winning_set_map",
]
