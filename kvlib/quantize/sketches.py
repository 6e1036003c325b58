"""The 1-bit sign sketch of a vector (QJL) and the scales that make its decoder exact.

The sketch of r is sign(S r) with |r| beside it; the decoder returns
alpha |r| S^T sign(S r). The right alpha depends on the law of S: using the Gaussian one with
orthonormal rows is too small by sqrt(d), a bug found in several public ports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kvlib.checks import (
    FloatArray,
    as_real,
    check_choice,
    check_dim,
    check_int,
    keep_checked,
    refuse_masked,
)
from kvlib.laws import sphere
from kvlib.quantize.rotations import Rotation

KINDS = ("gaussian", "haar", "hadamard")
SCALES = ("unbiased", "mmse")

# Keep the sketch independent of a rotation that was given the same seed.
_SKETCH_STREAM = 3


@lru_cache(maxsize=8)
def _gaussian_matrix(rows: int, dim: int, seed: int) -> FloatArray:
    matrix = np.random.default_rng([_SKETCH_STREAM, seed]).standard_normal((rows, dim))
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=32)
def _orthogonal(kind: str, dim: int, seed: int) -> Rotation:
    derived = int(np.random.SeedSequence([_SKETCH_STREAM, seed]).generate_state(1)[0])
    return Rotation(kind, dim, seed=derived)


@dataclass(frozen=True)
class SignSketch:
    """Signs of ``rows`` random projections of a vector in R^dim, and its linear decoder.

    Parameters
    ----------
    kind : {"gaussian", "haar", "hadamard"}
        Law of S: independent N(0, 1) entries; the first rows of a Haar-random orthogonal matrix;
        the first rows of a randomised Hadamard matrix H D, in blocks where d is no power of two,
        see :class:`kvlib.quantize.rotations.Rotation`.
    dim : int
        d >= 2.
    rows : int, optional
        Signs stored a vector, by default ``dim``; at most ``dim`` for the orthogonal kinds.
    scale : {"unbiased", "mmse"}
        "unbiased": E[decoded | r] = r. "mmse": the multiple of it with least squared error.
        Both are exact averages over S for Gaussian and Haar sketches. For Hadamard they take r to
        point in a uniformly random direction (for a fixed r, |H D r|_1 varies about that mean).
    seed : int
        Equal seeds give equal S, for every token that the sketch is used on.

    Notes
    -----
    Gaussian S: QJL (arXiv:2406.03482, Lemma 3.2), alpha = sqrt(pi/2) / rows. Orthonormal rows:
    each sign(<s, r>) s has mean E|u_1| r/|r|, so alpha = 1 / (rows E|u_1|), with E|u_1| from
    :func:`kvlib.laws.sphere.mean_absolute`; close to sqrt(pi/2) sqrt(d) / rows.
    """

    kind: str
    dim: int
    rows: int | None = None
    scale: str = "unbiased"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.kind, "kind", KINDS)
        check_choice(self.scale, "scale", SCALES)
        keep_checked(self, dim=check_dim(self.dim), seed=check_int(self.seed, "seed", low=0))
        if self.rows is not None:
            most = None if self.kind == "gaussian" else self.dim
            keep_checked(self, rows=check_int(self.rows, "rows", low=1, high=most))

    @property
    def row_count(self) -> int:
        """Number of signs a vector."""
        return self.dim if self.rows is None else self.rows

    @property
    def unbiased_scale(self) -> float:
        """alpha with E[alpha |r| S^T sign(S r)] = r."""
        if self.kind == "gaussian":
            return math.sqrt(math.pi / 2) / self.row_count
        return 1 / (self.row_count * sphere.mean_absolute(self.dim))

    @property
    def unbiased_error(self) -> float:
        """E|decoded - r|^2 / |r|^2 at the unbiased scale."""
        m, d = self.row_count, self.dim
        if self.kind == "gaussian":
            return (math.pi * d / 2 - 1) / m
        return 1 / (m * sphere.mean_absolute(d) ** 2) - 1

    @property
    def expected_error(self) -> float:
        """E|decoded - r|^2 / |r|^2 at the chosen scale."""
        e = self.unbiased_error
        return e if self.scale == "unbiased" else e / (1 + e)

    @property
    def decoder_scale(self) -> float:
        """alpha at the chosen scale.

        With E<decoded, r> = |r|^2 and E|decoded|^2 = (1 + e) |r|^2 at the unbiased scale, the
        least squared error is at 1 / (1 + e) of it, and equals e / (1 + e).
        """
        shrink = 1.0 if self.scale == "unbiased" else 1 / (1 + self.unbiased_error)
        return self.unbiased_scale * shrink

    def project(self, x: FloatArray) -> FloatArray:
        """S x for the last axis of ``x``: shape (..., dim) to (..., rows)."""
        y = as_real(x, "x")
        if y.ndim == 0 or y.shape[-1] != self.dim:
            raise ValueError(f"x must have {self.dim} coordinates on its last axis, got {y.shape}")
        if self.kind == "gaussian":
            matrix = _gaussian_matrix(self.row_count, self.dim, self.seed)
            return np.asarray(y @ matrix.T.astype(y.dtype, copy=False))
        return _orthogonal(self.kind, self.dim, self.seed).apply(y)[..., : self.row_count]

    def transpose(self, y: FloatArray) -> FloatArray:
        """S^T y for the last axis of ``y``: shape (..., rows) to (..., dim)."""
        y = as_real(y, "y")
        if y.ndim == 0 or y.shape[-1] != self.row_count:
            raise ValueError(f"y must have {self.row_count} rows on its last axis, got {y.shape}")
        if self.kind == "gaussian":
            matrix = _gaussian_matrix(self.row_count, self.dim, self.seed)
            return np.asarray(y @ matrix.astype(y.dtype, copy=False))
        full = y
        if self.row_count < self.dim:
            full = np.zeros((*y.shape[:-1], self.dim), dtype=y.dtype)
            full[..., : self.row_count] = y
        return _orthogonal(self.kind, self.dim, self.seed).inverse(full)

    def signs(self, residual: FloatArray) -> NDArray[np.bool_]:
        """The stored bits: True where <s, r> >= 0; shape (..., rows)."""
        return np.asarray(self.project(residual) >= 0)

    def reconstruct(self, signs: NDArray[np.bool_], norms: FloatArray) -> FloatArray:
        """alpha |r| S^T sign(S r), shape (..., dim), in the dtype of ``norms``.

        Parameters
        ----------
        signs : bool array, shape (..., rows)
        norms : array, shape (...)
            |r| of each vector.
        """
        norms = as_real(norms, "norms")
        refuse_masked(signs, "signs")
        signs = np.asarray(signs)
        if signs.dtype != np.bool_ or signs.shape != (*norms.shape, self.row_count):
            raise ValueError(
                f"signs must be booleans of shape {(*norms.shape, self.row_count)}, "
                f"got dtype {signs.dtype} and shape {signs.shape}"
            )
        plus_minus = np.where(signs, 1, -1).astype(norms.dtype)
        alpha = norms.dtype.type(self.decoder_scale)
        return np.asarray(alpha * norms[..., None] * self.transpose(plus_minus))
