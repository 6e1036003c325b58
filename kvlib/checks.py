"""Checks shared by the public functions: one clear error, naming argument, value and remedy."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[Any]

MAX_BITS = 8


def as_vectors(x: ArrayLike, name: str, *, dim: int | None = None) -> FloatArray:
    """Return ``x`` as a float32 or float64 array of shape (..., tokens, d).

    float16 and bfloat16 are widened to float32, integers to float64; float32 and float64 pass
    unchanged.

    Raises
    ------
    TypeError
        If ``x`` does not hold real numbers.
    ValueError
        If ``x`` has fewer than two axes, is empty, is not finite, or its last axis is not ``dim``.
    """
    array = as_real(x, name)
    if array.ndim < 2:
        raise ValueError(
            f"{name} must have shape (..., tokens, d) with at least two axes, got {array.shape}"
        )
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    if dim is not None and array.shape[-1] != dim:
        raise ValueError(f"{name} must have {dim} coordinates on its last axis, got {array.shape}")
    return as_finite(array, name)


def as_finite(x: ArrayLike, name: str) -> FloatArray:
    """Return ``x`` as by :func:`as_real`, refusing NaN and infinite entries."""
    array = as_real(x, name)
    finite = np.isfinite(array)
    if not finite.all():
        bad = int(array.size - finite.sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite entries")
    return array


def as_array(x: ArrayLike, name: str) -> NDArray[Any]:
    """Return ``x`` as an array of numpy's own types.

    bfloat16, which numpy does not know (arrays of ml_dtypes, tensors of torch), becomes float32,
    which holds all its numbers. Tensors are read in place, without their gradients. Masked arrays
    are refused: numpy would drop the mask.

    Raises
    ------
    TypeError
        If ``x`` is masked, or a tensor that numpy cannot read, such as one on another device.
    """
    refuse_masked(x, name)
    if hasattr(x, "detach") and hasattr(x, "numpy"):
        return _of_tensor(x, name)
    array = np.asarray(x)
    if array.dtype.kind == "V" and array.dtype.name == "bfloat16":  # a name takes microseconds
        return array.astype(np.float32)
    return array


def _of_tensor(x: Any, name: str) -> NDArray[Any]:
    """The numpy view of a torch tensor; torch itself need not be known here."""
    tensor = x.detach()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    try:
        return np.asarray(tensor.numpy())
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be an array, or a tensor in the memory of the CPU such as {name}.cpu(), "
            f"got a tensor of {x.dtype} on {getattr(x, 'device', 'an unknown device')} ({error})"
        ) from error


def as_real(x: ArrayLike, name: str) -> FloatArray:
    """Return ``x`` as a float32 or float64 array of any shape (see :func:`as_vectors`).

    In the byte order of the machine.
    """
    array = as_array(x, name)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        return array.astype(np.float32, copy=False)
    return array.astype(np.float64, copy=False)


def refuse_masked(x: object, name: str) -> None:
    """Refuse a masked array, whose masked entries would count like the others."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must not be a masked array: drop the masked entries ({name}.compressed()), or "
            f"take {name}.data if they are to count"
        )


def as_integers(x: ArrayLike, name: str) -> NDArray[Any]:
    """Return ``x`` as an array of integers of any shape and width."""
    array = as_array(x, name)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    return array


def as_booleans(x: ArrayLike, name: str) -> NDArray[np.bool_]:
    """Return ``x`` as an array of booleans; numbers that merely count as true are refused."""
    array = as_array(x, name)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must hold booleans, got dtype {array.dtype}")
    return array


def as_bytes(x: object, name: str) -> NDArray[np.uint8]:
    """Return ``x`` if it is an array of uint8 with at least one axis."""
    refuse_masked(x, name)
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} must be a uint8 array, got {type(x).__name__}")
    if x.dtype != np.uint8:
        raise TypeError(f"{name} must have dtype uint8, got {x.dtype}")
    if x.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, got a scalar")
    return x


def as_within(
    x: ArrayLike, name: str, *, low: float = -np.inf, high: float = np.inf, above: bool = False
) -> FloatArray:
    """Return finite numbers from ``low`` to ``high`` in float64, of any shape.

    ``above`` says that ``low`` itself is excluded.
    """
    array = as_real(x, name).astype(np.float64, copy=False)
    inside = (array > low if above else array >= low) & (array <= high) & np.isfinite(array)
    if not inside.all():
        raise ValueError(f"{name} must be {_range(low, high, above)}, got {array[~inside].flat[0]}")
    return array


def _range(low: float, high: float, above: bool) -> str:
    """What numbers are allowed, in words."""
    if np.isfinite(high):
        return f"a number in {'(' if above else '['}{low:g}, {high:g}]"
    if np.isfinite(low):
        return f"a finite number {'>' if above else '>='} {low:g}"
    return "a finite number"


def check_nonzero_norms(norms: FloatArray, name: str) -> None:
    """Refuse zero-norm vectors: they have no direction, nor an error relative to their length."""
    zero = int((norms == 0).sum())
    if zero:
        raise ValueError(
            f"{name} must hold nonzero vectors, got {zero} of {norms.size} with norm zero; "
            "leave those tokens out of what is measured"
        )


def keep_checked(instance: object, **checked: object) -> None:
    """Store checked values in the fields of a frozen dataclass: numpy's integers wrap around."""
    for name, value in checked.items():
        object.__setattr__(instance, name, value)


def check_int(value: object, name: str, *, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int within [low, high]."""
    allowed = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be {allowed}, got {value}")
    return int(value)


def check_bits(bits: object, name: str = "bits", *, low: int = 0) -> int:
    """Return ``bits`` as an int from ``low`` to 8."""
    return check_int(bits, name, low=low, high=MAX_BITS)


def check_dim(dim: object, name: str = "dim") -> int:
    """Return a dimension of at least two as an int."""
    return check_int(dim, name, low=2)


def check_shape(shape: object, name: str) -> tuple[int, ...]:
    """Return the shape (..., tokens, d) of vectors as a tuple of ints."""
    if not isinstance(shape, (tuple, list)) or len(shape) < 2:
        raise ValueError(f"{name} must be (..., tokens, d), got {shape!r}")
    return tuple(check_int(size, name, low=1) for size in shape)


def check_power_of_two(dim: object, name: str = "dim") -> int:
    """Return ``dim`` if a Walsh-Hadamard matrix of that size exists in Sylvester's form."""
    size = check_int(dim, name, low=1)
    if size & (size - 1):
        padded = 1 << size.bit_length()
        raise ValueError(
            f"{name} must be a power of two for a Walsh-Hadamard transform, got {size}; "
            "rotations.block_hadamard takes any size at no cost in bits, "
            f"padding to {padded} would store {padded / size:.3g} times the coordinates"
        )
    return size


def check_choice(value: object, name: str, allowed: Collection[str]) -> str:
    """Return ``value`` if it is one of the ``allowed`` names."""
    if not isinstance(value, str) or value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")
    return value


def check_number(
    value: object,
    name: str,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    above: bool = False,
) -> float:
    """Return ``value`` as a finite float from ``low`` (or just ``above`` it) to ``high``."""
    allowed = _range(low, high, above)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")
    if not np.isfinite(value) or value < low or value > high or (above and value == low):
        raise ValueError(f"{name} must be {allowed}, got {value}")
    return float(value)


def check_positive(value: object, name: str) -> float:
    """Return ``value`` as a finite float above zero."""
    return check_number(value, name, low=0, above=True)


def check_cosine(value: object, name: str = "cosine") -> float:
    """Return ``value`` as a float from -1 to 1."""
    return check_number(value, name, low=-1, high=1)


def check_fraction(value: object, name: str) -> float:
    """Return ``value`` as a float strictly between zero and one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number in (0, 1), got {value!r}")
    if not 0 < value < 1:
        raise ValueError(f"{name} must be a number in (0, 1), got {value}")
    return float(value)


def check_bool(value: object, name: str) -> bool:
    """Return ``value`` as a bool; what merely counts as true is refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_rng(rng: object, name: str = "rng") -> np.random.Generator:
    """Return ``rng`` if it is a Generator: what draws must be asked to repeat itself by name."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"{name} must be a numpy.random.Generator, got {rng!r}")
    return rng
