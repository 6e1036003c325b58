"""Storage of a sweep: checksummed pieces of a table that survive any interruption.

A folder holds ``identity.json``, one ``shard-00000012.parquet`` a piece, and ``manifest.jsonl``,
to which a line with size and SHA-256 is appended once a piece is on disk. A piece counts only if
its line is whole and its bytes match: what a killed process left half-written is never read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kvlib import files

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 1 << 16
"""Rows of a Parquet row group, the unit in which the final table is streamed."""


@dataclass(frozen=True)
class Entry:
    """One line of the manifest."""

    shard: int
    bytes: int
    sha256: str
    rows: int
    failed: int


class Store:
    """The shards of one sweep, written by one process at a time.

    Parameters
    ----------
    folder : Path
        Made if missing.
    identity : mapping
        JSON values that decide the numbers: a folder of another identity is refused.

    Raises
    ------
    ValueError
        If the folder belongs to another sweep; the message names what differs.
    RuntimeError
        If another process is writing to it.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._acquire()
        try:
            self._check_identity(json.loads(json.dumps(identity)))
            self.done = {entry.shard: entry for entry in self._valid_entries()}
            self._rewrite_manifest()
            self._manifest = self._manifest_path.open("a", encoding="utf-8")
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._manifest.close()
        self._lock.close()

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "manifest.jsonl"

    def path(self, shard: int) -> Path:
        """Where a shard is stored."""
        return self.folder / f"shard-{shard:08d}.parquet"

    def add(self, shard: int, table: pa.Table, failed: int) -> None:
        """Store a shard, then enter it in the manifest."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        content = buffer.getvalue().to_pybytes()
        files.write_atomically(self.path(shard), content)
        digest = hashlib.sha256(content).hexdigest()
        entry = Entry(shard, len(content), digest, table.num_rows, failed)
        self._manifest.write(json.dumps(asdict(entry)) + "\n")
        files.flush(self._manifest)
        self.done[shard] = entry

    def forget_failed(self) -> None:
        """Drop the shards with failed rows, so that they are computed again."""
        self.done = {shard: entry for shard, entry in self.done.items() if not entry.failed}
        self._manifest.close()
        self._rewrite_manifest()
        self._manifest = self._manifest_path.open("a", encoding="utf-8")

    def tables(self) -> Iterator[pa.Table]:
        """The stored shards in order, each checked once more as it is read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for shard in sorted(self.done):
            content = self.path(shard).read_bytes()
            if hashlib.sha256(content).hexdigest() != self.done[shard].sha256:
                raise ValueError(f"{self.path(shard)}: changed since it was written")
            yield pq.read_table(pa.BufferReader(content))

    def _acquire(self) -> IO[str]:
        lock = files.lock(self.folder / "lock")
        if lock is None:
            raise RuntimeError(f"{self.folder}: another sweep is writing here")
        return lock

    def _check_identity(self, identity: dict[str, Any]) -> None:
        path = self.folder / "identity.json"
        if not path.exists():
            text = json.dumps(identity, indent=1, sort_keys=True)
            files.write_atomically(path, text.encode())
            return
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path}: damaged ({error}); delete the folder to start anew"
            ) from error
        differs = differing_keys(stored, identity)
        if differs and not any(self.folder.glob("shard-*.parquet")):  # it holds nothing yet
            files.write_atomically(path, json.dumps(identity, indent=1, sort_keys=True))
        elif differs:
            raise ValueError(
                f"{self.folder}: holds another sweep (different: {', '.join(differs)}); "
                "write to another file, or delete the folder to start anew"
            )

    def _valid_entries(self) -> Iterator[Entry]:
        if not self._manifest_path.exists():
            return
        for line in self._manifest_path.read_text(encoding="utf-8").splitlines():
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):  # the line that was being written at the end
                continue
            path = self.path(entry.shard)
            if (
                path.is_file()
                and path.stat().st_size == entry.bytes
                and files.sha256(path) == entry.sha256
            ):
                yield entry

    def _rewrite_manifest(self) -> None:
        lines = [json.dumps(asdict(self.done[shard])) + "\n" for shard in sorted(self.done)]
        files.write_atomically(self._manifest_path, "".join(lines).encode())


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names whose values differ, looking into nested mappings."""
    names: list[str] = []
    for name in sorted({*a, *b}):
        left, right = a.get(name), b.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            names += differing_keys(left, right)
        elif left != right:
            names.append(name)
    return names


def write_table(path: Path, tables: Iterator[pa.Table], schema: pa.Schema) -> int:
    """Stream tables into one Parquet file, complete or not at all; returns the rows written.

    Row groups have a fixed size, however the rows were cut into ``tables``: the same rows give
    the same bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[pa.Table] = []
    written = held = 0
    with files.replacing(path) as file, pq.ParquetWriter(file, schema) as writer:
        for table in tables:
            waiting.append(table.replace_schema_metadata(schema.metadata))
            held += table.num_rows
            while held >= ROWS_PER_GROUP:
                # One chunk a column: how it is chunked would show in the bytes.
                rows = pa.concat_tables(waiting).combine_chunks()
                writer.write_table(rows.slice(0, ROWS_PER_GROUP), ROWS_PER_GROUP)
                waiting, held = [rows.slice(ROWS_PER_GROUP)], held - ROWS_PER_GROUP
                written += ROWS_PER_GROUP
        if held:
            writer.write_table(pa.concat_tables(waiting).combine_chunks(), ROWS_PER_GROUP)
    return written + held
