"""Compressed vectors of a sequence that grows token by token, as in generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvlib.checks import FloatArray, as_array, as_vectors, check_int, refuse_masked


class Growable(Protocol):
    """A quantizer whose vectors can grow."""

    @property
    def period(self) -> int | None:
        """Tokens that are encoded together, whatever comes after them; None where all are."""

    def encode(self, x: ArrayLike, *, seed: int = 0) -> Any:
        """Compress vectors: a dataclass of arrays with ``growing``, ``kept`` and ``decode``."""


class _Column:
    """An array that grows along one axis, in memory for twice its length at most."""

    def __init__(self, first: NDArray[Any], axis: int) -> None:
        self._held, self._axis, self._length = first.copy(), axis, first.shape[axis]

    def extend(self, more: NDArray[Any]) -> None:
        """Append entries."""
        length = self._length + more.shape[self._axis]
        if length > self._held.shape[self._axis]:
            shape = list(self._held.shape)
            shape[self._axis] = 2 * length
            wider = np.empty(shape, dtype=self._held.dtype)
            wider[self._at(0, self._length)] = self.view(0, self._length)
            self._held = wider
        self._held[self._at(self._length, length)] = more
        self._length = length

    def cut(self, length: int) -> None:
        """Forget the entries from ``length`` on."""
        self._length = length

    def view(self, start: int, stop: int) -> NDArray[Any]:
        """Entries from ``start`` to ``stop``, not copied."""
        return np.asarray(self._held[self._at(start, stop)])

    def _at(self, start: int, stop: int) -> tuple[Any, ...]:
        index: list[Any] = [slice(None)] * self._held.ndim
        index[self._axis] = slice(start, stop)
        return tuple(index)


class Growing:
    """Compressed vectors of shape (..., tokens, d) that grow along the tokens.

    Made by the ``grow`` of a quantizer. What is stored is, byte for byte, what encoding all tokens
    at once would give, however they came in: every vector is encoded by itself, or in blocks. Where
    a block is encoded together (a mean a block, channels over 32 tokens as in KIVI) its tokens are
    kept as they came until it is full.

    Notes
    -----
    A product with a matrix (rotation "haar", sketches "gaussian" and "haar", and what numpy does
    where there are no kernels) may round its last digit otherwise for one vector than for many, and
    move a coordinate that lies within rounding of a cell's edge to its other side.

    Examples
    --------
    >>> from kvlib import RotatedQuantizer
    >>> x = np.random.default_rng(0).standard_normal((3, 200, 64)).astype(np.float32)
    >>> cache = RotatedQuantizer(4, scale="unbiased", center=True).grow(seed=7)
    >>> cache.append(x[:, :150])  # the prompt, whose mean is subtracted from now on
    >>> cache.append(x[:, 150:])
    >>> cache.tokens, cache.nbytes
    (200, 20784)
    >>> cache.truncate(180)
    >>> cache.decode().shape
    (3, 180, 64)
    """

    def __init__(
        self, quantizer: Growable, *, seed: int = 0, options: Mapping[str, Any] | None = None
    ) -> None:
        self.quantizer = quantizer
        self._seed, self._options = check_int(seed, "seed", low=0), dict(options or {})
        period = quantizer.period
        if period is None:
            raise ValueError(
                f"quantizer must encode its tokens in blocks to grow, got {quantizer}, which needs "
                "all of them: give it a size"
            )
        self._period = period
        self._first: Any = None  # the first block, encoded: what does not grow, and how
        self._columns: dict[str, _Column] = {}
        self._stored = 0
        self._waiting: NDArray[Any] | None = None

    def __repr__(self) -> str:
        """What has come in so far."""
        shape = None if self._waiting is None else self.shape
        return f"Growing(shape={shape}, nbytes={self.nbytes}, quantizer={self.quantizer})"

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return self._stored + self.waiting

    @property
    def waiting(self) -> int:
        """Tokens of a block that is not full, kept as they came."""
        return 0 if self._waiting is None else int(self._waiting.shape[-2])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (..., tokens, d); known once something was appended."""
        waiting = self._something()
        return (*waiting.shape[:-2], self.tokens, waiting.shape[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored, waiting tokens at their full size; room to grow not counted."""
        if self._waiting is None:
            return 0
        if self._first is None:
            return self._waiting.nbytes
        fixed = sum(array.nbytes for array in self._first.kept.values())
        stored = sum(array.nbytes for array in self._views(0, self._stored).values())
        return int(fixed + stored + self._waiting.nbytes)

    def append(self, x: ArrayLike) -> None:
        """Add tokens at the end.

        Parameters
        ----------
        x : array, shape (..., new tokens, d)
            Of the dtype and the other axes of what was appended first; bfloat16 is float32 here.

        Raises
        ------
        TypeError, ValueError
            If it does not fit; nothing is added then.
        """
        self.commit(*self.prepare(x))

    def prepare(self, x: ArrayLike, name: str = "x") -> tuple[Any, NDArray[Any]]:
        """Check and encode tokens without adding them: what :meth:`commit` takes."""
        new = self._checked(x, name)
        if self._waiting is not None:
            new = np.concatenate([self._waiting, new], axis=-2)
        full = new.shape[-2] // self._period * self._period
        encoded = None
        if full:
            encoded = self._encode(new[..., :full, :])
        return encoded, new[..., full:, :].copy()

    def commit(self, encoded: Any, waiting: NDArray[Any]) -> None:
        """Add what :meth:`prepare` returned, before anything else was added."""
        self._waiting = waiting
        if encoded is None:
            return
        self._options |= encoded.kept
        self._stored += encoded.shape[-2]
        if self._first is not None:
            for name, column in self._columns.items():
                column.extend(getattr(encoded, name))
            return
        self._columns = {
            name: _Column(getattr(encoded, name), axis)
            for name, (axis, _) in encoded.growing.items()
        }
        self._first = encoded
        block = {name: array.copy() for name, array in self._views(0, self._period).items()}
        self._first = replace(encoded, **block)  # the rest is in the columns

    def truncate(self, tokens: int) -> None:
        """Forget all but the first ``tokens``.

        Raises
        ------
        ValueError
            If there are fewer, or a block that is encoded together would be cut.
        """
        count = self.check_end(tokens)
        if self._waiting is None:
            return
        kept = min(count, self._stored)
        self._waiting = self._waiting[..., : count - kept, :].copy()
        self._stored = kept
        for name, column in self._columns.items():
            column.cut(kept // self._first.growing[name][1])

    def check_end(self, tokens: int) -> int:
        """Return ``tokens`` if :meth:`truncate` can leave so many."""
        count = check_int(tokens, "tokens", low=0, high=self.tokens)
        if count < self._stored and count % self._period:
            raise ValueError(
                f"tokens must be a multiple of {self._period}, the tokens that are encoded "
                f"together, or from {self._stored} to {self.tokens}, got {count}"
            )
        return count

    def encoded(self) -> Any:
        """All tokens as the quantizer would have encoded them at once, copied.

        Tokens that wait are encoded as a shorter block.
        """
        waiting = self._something()
        parts = [] if self._first is None or not self._stored else [self._encoded(0, self._stored)]
        if waiting.shape[-2]:
            parts.append(self._encode(waiting))
        if not parts:
            raise ValueError("nothing is left to encode: append tokens first")
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts], axis=axis)
            for name, (axis, _) in parts[0].growing.items()
        }
        return replace(parts[0], **joined)

    def decode(self, *, start: int = 0, out: FloatArray | None = None) -> FloatArray:
        """Reconstruct the tokens from ``start`` on, shape (..., tokens - start, d).

        Tokens that wait come back exact.

        Parameters
        ----------
        start : int
            Where a decoded copy of the earlier ones is at hand already.
        out : array, optional
            Where to write them, of that shape and the dtype of the result (float32 unless float64
            was appended), and what is returned then.
        """
        waiting = self._something()
        first = check_int(start, "start", low=0, high=self.tokens)
        wide = np.float64 if waiting.dtype == np.float64 else np.float32
        shape = (*self.shape[:-2], self.tokens - first, self.shape[-1])
        result = np.empty(shape, dtype=wide) if out is None else self._checked_out(out, shape, wide)
        stored = max(self._stored - first, 0)
        if stored:
            block = first // self._period * self._period
            x_hat = self._encoded(block, self._stored).decode()
            result[..., :stored, :] = x_hat[..., first - block :, :]
        result[..., stored:, :] = waiting[..., waiting.shape[-2] - (shape[-2] - stored) :, :]
        return result

    def _something(self) -> NDArray[Any]:
        if self._waiting is None:
            raise ValueError("nothing has been appended yet: append tokens first")
        return self._waiting

    def _checked(self, x: ArrayLike, name: str) -> NDArray[Any]:
        given = as_array(x, name)
        wide = as_vectors(given, name)
        new = given if given.dtype == np.float16 else wide
        if self._waiting is None:
            return new
        lead, dim, dtype = self.shape[:-2], self.shape[-1], self._waiting.dtype
        if new.shape[:-2] != lead or new.shape[-1] != dim or new.dtype != dtype:
            raise ValueError(
                f"{name} must be tokens of shape {(*lead, 'new', dim)} in {dtype}, as those before "
                f"were, got shape {new.shape} in {new.dtype}"
            )
        return new

    def _checked_out(self, out: object, shape: tuple[int, ...], dtype: Any) -> FloatArray:
        refuse_masked(out, "out")
        fits = isinstance(out, np.ndarray) and out.shape == shape and out.dtype == dtype
        if not isinstance(out, np.ndarray) or not fits or not out.flags.writeable:
            given = repr(out)[:100]
            if isinstance(out, np.ndarray):
                locked = "" if out.flags.writeable else "read-only "
                given = f"a {locked}{out.dtype} array of shape {out.shape}"
            wanted = f"a writeable {np.dtype(dtype).name} array of shape {shape}"
            raise ValueError(f"out must be {wanted}, got {given}")
        return out

    def _encode(self, x: NDArray[Any]) -> Any:
        encode: Any = self.quantizer.encode
        return encode(x, seed=self._seed, **self._options)

    def _views(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Arrays of stored tokens, from the beginning of a block to the end of one, not copied."""
        each = {name: tokens for name, (_, tokens) in self._first.growing.items()}
        return {
            name: column.view(start // each[name], stop // each[name])
            for name, column in self._columns.items()
        }

    def _encoded(self, start: int, stop: int) -> Any:
        return replace(self._first, **self._views(start, stop))
