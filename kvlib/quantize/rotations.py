"""Rotations applied before scalar quantization: none, randomised Walsh-Hadamard, Haar.

A rotation is data: kind, dimension, seed and number of rounds. Whoever stores a compressed cache
stores these four, and can rebuild the matrix from them on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kvlib.checks import (
    FloatArray,
    as_real,
    check_choice,
    check_dim,
    check_int,
    check_power_of_two,
    keep_checked,
)

KINDS = ("none", "hadamard", "haar")

# Largest Hadamard factor held as a dense matrix: small enough to stay in cache, large enough that
# the transform runs as a few matrix products instead of log2(d) passes over memory.
_MAX_FACTOR = 64

# Three rounds are as good as a Haar rotation; a file must not ask for millions.
_MOST_ROUNDS = 128

# Separate random streams for the signs and for the Haar matrix of one seed.
_SIGN_STREAM, _HAAR_STREAM = 1, 2


@lru_cache(maxsize=16)
def _hadamard_factor(size: int) -> FloatArray:
    factor = np.ones((1, 1))
    while len(factor) < size:  # Sylvester's doubling
        factor = np.block([[factor, factor], [factor, -factor]])
    factor /= np.sqrt(size)
    factor.setflags(write=False)
    return factor


def walsh_hadamard(x: FloatArray) -> FloatArray:
    """Orthonormal Walsh-Hadamard transform along the last axis (Sylvester order).

    Parameters
    ----------
    x : array, shape (..., d)
        d a power of two. float16 is computed in float32.

    Returns
    -------
    array, shape (..., d)
        H x with H symmetric, H H = I, entries +-1/sqrt(d). The matrix H is never formed for
        d above 64: H_d is a Kronecker product of smaller ones, applied one factor at a time.

    Raises
    ------
    ValueError
        If d is not a power of two.
    """
    y = as_real(x, "x")
    if y.ndim == 0:
        raise ValueError("x must have at least one axis, got a scalar")
    dim = check_power_of_two(y.shape[-1], "x.shape[-1]")
    shape, done = y.shape, 1
    while done < dim:
        size = min(_MAX_FACTOR, dim // done)
        factor = _hadamard_factor(size).astype(y.dtype, copy=False)
        # View the coordinate index as (outer, size, inner) and transform the middle digit.
        blocks = y.reshape(-1, size, done)
        y = (blocks[..., 0] @ factor)[..., None] if done == 1 else factor @ blocks
        done *= size
    return y.reshape(shape)


@lru_cache(maxsize=16)
def _hartley_matrix(size: int) -> FloatArray:
    """Entries (cos t + sin t) / sqrt(size), t = 2 pi j k / size: symmetric, and its own inverse."""
    turns = np.outer(np.arange(size), np.arange(size)) % size
    angles = 2 * np.pi / size * turns
    matrix = (np.cos(angles) + np.sin(angles)) / np.sqrt(size)
    matrix.setflags(write=False)
    return np.asarray(matrix)


def block_size(dim: int) -> int:
    """The largest power of two that divides ``dim``: 16 for 80, 64 for 192, ``dim`` for 128."""
    size = check_int(dim, "dim", low=1)
    return size & -size


def block_hadamard(x: FloatArray) -> FloatArray:
    """The Walsh-Hadamard transform of blocks, which are then mixed: for any dimension.

    Parameters
    ----------
    x : array, shape (..., d)
        d = m b with b the largest power of two that divides it. float16 is computed in float32.

    Returns
    -------
    array, shape (..., d)
        (F x H_b) x as a Kronecker product: each of the m blocks of b neighbours is transformed,
        then every m coordinates of one place by Hartley's matrix F of size m. Symmetric,
        orthonormal and its own inverse, with no entry above sqrt(2/d). For a power of two this is
        :func:`walsh_hadamard`.

    Notes
    -----
    Blocks alone would leave the energy of a channel in its block: where a few channels are large,
    as in real keys, coordinates then follow another law than the one that codebooks are made for.
    With three tenths of the energy in one channel (n = 4, over draws of the signs) blocks alone
    have 1.06 times the distortion D(n) at d = 112 and 1.15 times at 576; mixed ones have 0.97
    times, as the plain transform has at 64 and 128.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((3, 80))
    >>> np.allclose(block_hadamard(block_hadamard(x)), x)
    True
    """
    y = as_real(x, "x")
    if y.ndim == 0 or y.shape[-1] == 0:
        raise ValueError(f"x must have at least one coordinate on its last axis, got {y.shape}")
    size = block_size(y.shape[-1])
    count = y.shape[-1] // size
    if count == 1:
        return walsh_hadamard(y)
    blocks = walsh_hadamard(y.reshape(*y.shape[:-1], count, size))
    mixed = _hartley_matrix(count).astype(y.dtype, copy=False) @ blocks
    return np.asarray(mixed.reshape(y.shape))


def pad_to_power_of_two(x: FloatArray) -> FloatArray:
    """Append zeros to the last axis up to the next power of two (norms are unchanged).

    A padded vector costs bits for every padded coordinate, 128/80 times as many for d = 80, and its
    rotated coordinates follow the law of the padded dimension; decode and cut back to the original
    length yourself. The "hadamard" rotation takes any dimension without it.
    """
    y = as_real(x, "x")
    if y.ndim == 0 or y.shape[-1] == 0:
        raise ValueError(f"x must have at least one coordinate on its last axis, got {y.shape}")
    dim = y.shape[-1]
    padded = 1 << (dim - 1).bit_length()
    if padded == dim:
        return y
    widths = [(0, 0)] * (y.ndim - 1) + [(0, padded - dim)]
    return np.pad(y, widths)


@lru_cache(maxsize=32)
def _signs(dim: int, rounds: int, seed: int) -> FloatArray:
    rng = np.random.default_rng([_SIGN_STREAM, seed])
    signs = np.where(rng.integers(0, 2, size=(rounds, dim), dtype=np.int8) == 1, 1.0, -1.0)
    signs.setflags(write=False)
    return signs


@lru_cache(maxsize=8)
def _haar_matrix(dim: int, seed: int) -> FloatArray:
    """Haar-distributed orthogonal matrix: QR of a Gaussian, signs fixed by R's diagonal.

    Mezzadri, "How to generate random matrices from the classical compact groups" (2007).
    """
    gaussian = np.random.default_rng([_HAAR_STREAM, seed]).standard_normal((dim, dim))
    q, r = np.linalg.qr(gaussian)
    matrix = np.asarray(q * np.sign(np.diagonal(r)))
    matrix.setflags(write=False)
    return matrix


@dataclass(frozen=True)
class Rotation:
    """An orthogonal map of R^dim, rebuilt from its seed.

    Parameters
    ----------
    kind : {"none", "hadamard", "haar"}
        "hadamard" is (H D_r) ... (H D_1) with independent random signs D in each of ``rounds``
        rounds; one round is TurboQuant's rotation as implemented in practice. H is the
        Walsh-Hadamard matrix where d is a power of two, and else that of :func:`block_hadamard`
        (blocks of 16 for d = 80, of 64 for 192), which no compiled kernel does. "haar" is uniform
        over the orthogonal group.
    dim : int
        Dimension d >= 2.
    seed : int
        Non-negative. Equal seeds give equal rotations.
    rounds : int
        Rounds of "hadamard"; must be 1 for the other kinds.
    """

    kind: str
    dim: int
    seed: int = 0
    rounds: int = 1

    def __post_init__(self) -> None:
        check_choice(self.kind, "kind", KINDS)
        most = _MOST_ROUNDS if self.kind == "hadamard" else 1
        keep_checked(
            self,
            dim=check_dim(self.dim),
            seed=check_int(self.seed, "seed", low=0),
            rounds=check_int(self.rounds, "rounds", low=1, high=most),
        )

    def apply(self, x: FloatArray) -> FloatArray:
        """Rotate the last axis of ``x``, shape (..., dim); float16 is computed in float32."""
        y = self._checked(x)
        if self.kind == "haar":
            return np.asarray(y @ _haar_matrix(self.dim, self.seed).T.astype(y.dtype, copy=False))
        if self.kind == "hadamard":
            for signs in _signs(self.dim, self.rounds, self.seed):
                y = block_hadamard(y * signs.astype(y.dtype))
        return y

    def inverse(self, y: FloatArray) -> FloatArray:
        """Undo :meth:`apply` on the last axis of ``y``."""
        x = self._checked(y)
        if self.kind == "haar":
            return np.asarray(x @ _haar_matrix(self.dim, self.seed).astype(x.dtype, copy=False))
        if self.kind == "hadamard":
            for signs in _signs(self.dim, self.rounds, self.seed)[::-1]:
                x = block_hadamard(x) * signs.astype(x.dtype)
        return x

    def matrix(self) -> FloatArray:
        """The dense matrix R of the map x -> R x, shape (dim, dim), float64."""
        return self.apply(np.eye(self.dim)).T

    def _checked(self, x: FloatArray) -> FloatArray:
        array = as_real(x, "x")
        if array.ndim == 0 or array.shape[-1] != self.dim:
            raise ValueError(
                f"x must have {self.dim} coordinates on its last axis, got {array.shape}"
            )
        return array
