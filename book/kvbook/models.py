"""The book's captured models, a row each; to add one, add its file and a row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kvlib.checks import check_choice
from kvlib.data import captured
from kvlib.data.captured import KVCache

DATA = Path(__file__).resolve().parents[1] / "data"


@dataclass(frozen=True)
class Model:
    """A captured model as the pages show it.

    Attributes
    ----------
    name : str
        Stem of its file in ``book/data``.
    label : str
        What figures and tables call it.
    color, marker : str
        The same on every page.
    """

    name: str
    label: str
    color: str
    marker: str

    @property
    def path(self) -> Path:
        """Its file."""
        return DATA / f"{self.name}.npz"

    def load(self) -> KVCache:
        """Its captured cache."""
        return load(self.name)


MODELS = {
    model.name: model
    for model in (
        Model("rope-lm", "RoPE LM", "#0072B2", "o"),
        Model("rope-lm-saturated", "saturated LM", "#D55E00", "s"),
        Model("minilm", "MiniLM", "#037766", "^"),
    )
}
"""In the order of the pages."""


@lru_cache(maxsize=4)
def load(name: str) -> KVCache:
    """The captured cache of a model by its name."""
    return captured.load(MODELS[check_choice(name, "name", tuple(MODELS))].path)


def load_all() -> dict[str, KVCache]:
    """Every captured cache, by name."""
    return {name: load(name) for name in MODELS}


def paths() -> dict[str, Path]:
    """The file of every captured cache, by name: what a sweep takes."""
    return {name: model.path for name, model in MODELS.items()}
