"""Files: written in one step, known by their digest, locked, and arrays in them without pickle."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kvlib.checks import check_int

MAX_BYTES = 2 << 30
"""Default limit on the unpacked size of an archive: 2 GiB."""

_MAX_DIRECTORY = 1 << 16  # bytes: hundreds of members, a dozen of which are read
_END = 22  # bytes of the end record of a zip file; a comment may follow, of up to 64 KiB
_END_AND_COMMENT = _END + 76 + (1 << 16)
_CORRUPT = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Writing ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write that appears under its name complete and flushed, or not at all.

    Two processes or threads that write the same file do not meet: the last one to end wins.
    """
    target = Path(path)
    if target.exists() and not target.is_file():  # a folder, or a device, which root could replace
        raise OSError(errno.EINVAL, "must be a regular file to be replaced", str(target))
    name = f".{target.name}.{os.getpid()}.{threading.get_ident()}.part"
    partial = target.with_name(name)
    try:
        with partial.open("wb") as file:
            yield file
            flush(file)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    flush_folder(target.parent)


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write bytes, or text in UTF-8, as by :func:`replacing`; makes missing folders."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_if_changed(path: str | os.PathLike[str], content: bytes | str) -> bool:
    """As :func:`write_atomically`, unless the file holds this already; says whether it wrote."""
    wanted = content.encode() if isinstance(content, str) else content
    target = Path(path)
    if target.exists() and target.read_bytes() == wanted:
        return False
    write_atomically(target, wanted)
    return True


def flush(file: IO[Any]) -> None:
    """Hand what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets folders be flushed."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock(path: str | os.PathLike[str]) -> IO[str] | None:
    """Hold a lock until the file that is returned is closed, or the process ends, however it ends.

    Returns
    -------
    file or None
        None if another holder has it. A system without file locks has no guard: the file is
        returned all the same.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    held = target.open("a", encoding="utf-8")
    try:
        import fcntl
    except ImportError:
        return held
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        held.close()
        return None
    return held


# Archives of arrays ----------------------------------------------------------------------------


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as compressed ``.npz``, as by :func:`replacing`.

    Arrays keep their values and dtypes, and the same arrays always give the same bytes.
    """
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_npz(
    path: str | os.PathLike[str],
    required: Sequence[str],
    optional: Sequence[str] | None = (),
    *,
    max_bytes: int = MAX_BYTES,
) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz`` file, read without pickle and after their sizes have been checked.

    Parameters
    ----------
    path : path-like
    required, optional : sequence of str
        Arrays to read; others are counted but never unpacked. None: read all there are.
    max_bytes : int
        Refuse files that declare more than this many unpacked bytes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If an array holds objects, which would need pickle.
    ValueError
        If the file is damaged or too large, or an array is missing or there twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    limit = check_int(max_bytes, "max_bytes", low=1)
    with naming(path), path.open("rb") as file:
        _refuse_long_directory(file)
        with zipfile.ZipFile(file) as archive:
            return _read_arrays(archive, required, optional, limit)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in whatever is wrong with it."""
    try:
        yield
    except PermissionError:
        raise  # an OSError, but nothing is wrong with the file
    except _CORRUPT as error:
        raise ValueError(f"{path}: not a readable npz file ({error})") from error
    except KeyError as error:
        raise ValueError(f"{path}: misses {error}") from error
    except TypeError as error:
        raise TypeError(f"{path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _refuse_long_directory(file: IO[bytes]) -> None:
    """Refuse a file of thousands of members before zipfile makes an object of each.

    The length of the directory stands in the end record of a zip file, and in a second one before
    it (zip64) if the file is large. What is no zip file is left for zipfile to refuse.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_AND_COMMENT))
    tail = file.read()
    plain = tail[-_END:].startswith(b"PK\x05\x06") and tail.endswith(b"\0\0")
    at = len(tail) - _END if plain else tail.rfind(b"PK\x05\x06")
    if at < 0:
        return
    field = tail[at + 12 : at + 16]
    if at >= 76 and tail[at - 20 :].startswith(b"PK\x06\x07"):
        field = tail[at - 36 : at - 28]
    length = int.from_bytes(field, "little")
    if length > _MAX_DIRECTORY:
        raise ValueError(f"has a directory of {length} bytes, allowed are {_MAX_DIRECTORY}")


def _read_arrays(
    archive: zipfile.ZipFile,
    required: Sequence[str],
    optional: Sequence[str] | None,
    max_bytes: int,
) -> dict[str, NDArray[Any]]:
    members = archive.infolist()
    declared = sum(member.file_size for member in members)
    if declared > max_bytes:
        raise ValueError(f"declares {declared} unpacked bytes, allowed are {max_bytes}")
    by_name = {member.filename.removesuffix(".npy"): member for member in members}
    missing = [name for name in required if name not in by_name]
    if missing or len(by_name) < len(members):
        raise ValueError(
            f"must hold each of the arrays {', '.join(required)} once, "
            + (f"misses {', '.join(missing)}" if missing else "holds some twice")
        )
    if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members):
        raise ValueError("must be compressed by deflate or not at all")
    arrays = {}
    for name in by_name if optional is None else (*required, *optional):
        if name in by_name:
            with archive.open(by_name[name]) as stream:
                arrays[name] = _read_array(stream, name, by_name[name].file_size)
    return arrays


def _read_array(stream: IO[bytes], name: str, size: int) -> NDArray[Any]:
    """Read one npy stream of ``size`` bytes, refusing before allocating."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = readers[version](stream)
    except Exception as error:  # numpy parses the header as Python, and that may fail anyhow
        raise ValueError(f"array {name!r} has no readable npy header ({error})") from error
    if dtype.hasobject:
        raise TypeError(f"array {name!r} holds Python objects, which are never unpickled")
    if any(n < 1 for n in shape):
        raise ValueError(f"array {name!r} must not be empty, got shape {shape}")
    wanted, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if wanted != there:
        raise ValueError(
            f"array {name!r} declares shape {shape} of {dtype}, {wanted} bytes, but holds {there}"
        )
    # Asking for no more than was declared also bounds what a lying member can unpack to.
    array = np.frombuffer(stream.read(wanted), dtype=dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def json_array(value: Mapping[str, Any]) -> NDArray[Any]:
    """A JSON object as the array of one string that :func:`json_object` reads."""
    return np.array(json.dumps(value, sort_keys=True))


def json_object(array: NDArray[Any], name: str) -> dict[str, Any]:
    """The JSON object in an array of one string.

    Raises
    ------
    TypeError, ValueError
        If it is no string, or not of a JSON object.
    """
    if array.dtype.kind != "U" or array.ndim:
        raise TypeError(f"array {name!r} must be one string, got {array.dtype} {array.shape}")
    try:
        found = json.loads(str(array))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"array {name!r} must be a JSON object ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"array {name!r} must be a JSON object, got {type(found).__name__}")
    return found
