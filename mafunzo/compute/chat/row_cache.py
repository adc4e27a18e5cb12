"""The token cache: what rows gave when they were prepared, kept by their content.

    CACHE/tokens/<tokenizer>/<rows>.rows        one file for each block of rows

The first name is a hash of all that decides what a row gives besides the row: the tokenizer's files with the chat template,
which turns the loss counts, where long rows are split, the code and the versions of the libraries that do it, and the day for a
template that writes it. The second is a hash of the rows. A block ends behind a row whose own hash says so (content-defined
chunking), so that a file with rows that were added, taken out or moved to another split has most of its blocks in common with
the file before.

An entry appears whole (atomic rename) and begins with a hash of the rest: what was cut off or altered is made anew. It carries
no program, and two processes that write the same entry write the same bytes. The oldest are deleted beyond `LIMIT_BYTES`.
"""

import hashlib
import importlib.metadata
import logging
import marshal
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from mafunzo.compute.chat.examples import TrainOn
from mafunzo.compute.chat.rows import PreparedRow
from mafunzo.dataset.files import RawRow

logger = logging.getLogger(__name__)

FOLDER = "tokens"
SUFFIX = ".rows"
LIMIT_BYTES = 4 * 2**30
"""Of all entries together."""
CACHED_ROWS = 500
"""Fewer rows in all are tokenized at once, and aren't kept."""
MEAN_BLOCK, MOST_BLOCK, MOST_BYTES = 256, 1024, 1 << 20
"""Rows of a block: on average, and at most; bytes of their content at most, so that long rows take no more memory."""
_DIGEST = 16
_SOURCES = (
    "mafunzo.compute.chat",
    "mafunzo.dataset",
    "mafunzo.entities.conversation",
)
_LIBRARIES = ("jinja2", "tokenizers", "transformers")
_TODAY = b"strftime_now"
"""What a chat template calls to write the day."""


class Block(NamedTuple):
    """Rows that follow one another. key: the hash of their content, None for rows that have none (a table's with dates)."""

    rows: list[RawRow]
    key: bytes | None


class RowCache:
    """The entries of one tokenizer. rows_reused: how many rows came from it."""

    def __init__(self, folder: Path, tokenizer_key: str) -> None:
        self.folder = folder / FOLDER / tokenizer_key
        self.rows_reused = 0
        self._is_writable = True

    def get(self, key: bytes) -> list[PreparedRow] | None:
        """Return what a block of rows gave; None where that isn't known."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        rows = _unpacked(data)
        if rows is None:
            logger.warning("%s in the token cache is damaged: its rows are tokenized again", path.name)
            return None
        with suppress(OSError):  # of another user, perhaps
            os.utime(path)  # the last use, by which the oldest are found
        self.rows_reused += len(rows)
        return rows

    def put(self, key: bytes, rows: Sequence[PreparedRow]) -> None:
        """Keep what a block of rows gave. Where nothing can be written, the rows are prepared without."""
        if not self._is_writable:
            return
        try:
            data = _packed(rows)
        except ValueError:  # a reason quotes half of a character, which can't be written
            return
        try:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            descriptor, draft = tempfile.mkstemp(dir=self.folder.parent)
            try:
                with open(descriptor, "wb") as file:
                    file.write(data)
                os.replace(draft, self._path(key))
            except BaseException:
                os.unlink(draft)
                raise
        except OSError as error:
            self._is_writable = False
            logger.warning("Tokens aren't kept for the next time: %s", error)

    def delete_oldest(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """Delete the entries of all tokenizers that were used longest ago, until the rest is within the limit."""
        entries = []
        for path in self.folder.parent.glob(f"*/*{SUFFIX}"):
            with suppress(OSError):  # gone by now
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _path(self, key: bytes) -> Path:
        return self.folder / f"{key.hex()}{SUFFIX}"


def tokenizer_key(
    files: Iterable[Path], name: str, train_on: TrainOn = "assistant", split_at: int | None = None
) -> str:
    """Return a hash of what decides what a row gives: a tokenizer's files, its name in errors, what the loss counts, where
    rows are split, our code, the libraries."""
    digest = hashlib.blake2b(f"{train_on}\0{split_at}\0{name}".encode(), digest_size=_DIGEST)
    contents = [(path.name, path.read_bytes()) for path in sorted(files)]
    for label, content in chain(contents, _code()):
        digest.update(f"\0{label}\0{len(content)}\0".encode())
        digest.update(content)
    for library in _LIBRARIES:
        digest.update(f"\0{library} {importlib.metadata.version(library)}".encode())
    if any(_TODAY in content for _, content in contents):
        digest.update(date.today().isoformat().encode())
    return digest.hexdigest()


def blocks(rows: Iterable[RawRow]) -> Iterator[Block]:
    """Yield rows in blocks, each with its key."""
    block: list[RawRow] = []
    keys: list[bytes | None] = []
    size = 0
    for row in rows:
        content = _content(row)
        key = hashlib.blake2b(content, digest_size=_DIGEST).digest() if content else None
        block.append(row)
        keys.append(key)
        size += len(content)
        is_end = key is not None and int.from_bytes(key[:4]) % MEAN_BLOCK == 0
        if is_end or len(block) == MOST_BLOCK or size >= MOST_BYTES:
            yield Block(block, _block_key(keys))
            block, keys, size = [], [], 0
    if block:
        yield Block(block, _block_key(keys))


def _content(row: RawRow) -> bytes:
    """Return what a row says as bytes; none for a row with values that only tables have."""
    try:
        content: bytes = marshal.dumps((row.body, row.fault), 2)  # version 2 writes equal values as equal bytes
    except ValueError:
        return b""
    return content


def _block_key(keys: Sequence[bytes | None]) -> bytes | None:
    if None in keys:
        return None
    return hashlib.blake2b(b"".join(key or b"" for key in keys), digest_size=_DIGEST).digest()


def _code() -> Iterator[tuple[str, bytes]]:
    """Yield the source of all code that decides what a row gives."""
    root = Path(__file__).parents[2]
    for source in _SOURCES:
        path = root.joinpath(*source.split(".")[1:])
        files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        yield from ((f"{source}/{file.name}", file.read_bytes()) for file in files)


def _packed(rows: Sequence[PreparedRow]) -> bytes:
    """Return rows as a compressed table of Arrow, behind its hash."""
    import pyarrow as pa

    columns = zip(*rows, strict=True)
    table = pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, _types(), strict=True)], names=PreparedRow._fields
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return hashlib.blake2b(data, digest_size=_DIGEST).digest() + data


def _unpacked(data: bytes) -> list[PreparedRow] | None:
    """Return the rows of an entry; None for one that is damaged."""
    import pyarrow as pa

    content = memoryview(data)[_DIGEST:]
    if hashlib.blake2b(content, digest_size=_DIGEST).digest() != data[:_DIGEST]:
        return None
    table = pa.ipc.open_stream(pa.py_buffer(content)).read_all()
    columns = [column.to_pylist() for column in table.columns]
    lists = [number for number, kind in enumerate(table.schema.types) if pa.types.is_list(kind)]
    for number in lists:
        columns[number] = list(map(tuple, columns[number]))
    return list(map(PreparedRow._make, zip(*columns, strict=True)))


def _types() -> tuple[Any, ...]:
    """Return the Arrow types of a prepared row's fields, in their order."""
    import pyarrow as pa

    text, texts, data = pa.string(), pa.list_(pa.string()), pa.binary()
    numbers = pa.list_(pa.int32())
    return text, text, texts, data, text, text, data, numbers, texts, numbers, pa.int64()
