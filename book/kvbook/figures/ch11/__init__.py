"""Figures and tables of chapter 11: each is given what the experiment returned."""

from kvbook.figures.ch11 import tables
from kvbook.figures.ch11.plots import (
    best_schemes,
    boxes,
    bridge,
    readings_of_c08,
    readings_of_c14,
    readings_of_c15,
    shannon_plane,
)

__all__ = [
    "best_schemes",
    "boxes",
    "bridge",
    "readings_of_c08",
    "readings_of_c14",
    "readings_of_c15",
    "shannon_plane",
    "tables",
]
