"""Parquet and Arrow files to rows, a batch at a time, memory-mapped where they aren't compressed as a whole."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mafunzo.dataset.compression import compression_of, open_bytes
from mafunzo.dataset.delimited import column_names
from mafunzo.dataset.reading import Reading, Record, Selection
from mafunzo.errors import InvalidFile

_BATCH_ROWS = 256
_ARROW_FILE_MAGIC = b"ARROW1"


def read_parquet(path: Path, _reading: Reading, selection: Selection) -> Iterator[Record]:
    """Yield the rows of a parquet file."""
    file = _parquet(path)
    yield from _records(
        path, file.schema_arrow.names, _batches(path, file.iter_batches(batch_size=_BATCH_ROWS)), selection
    )


def read_arrow(path: Path, _reading: Reading, selection: Selection) -> Iterator[Record]:
    """Yield the rows of an Arrow file, in the stream format (as `datasets` saves) or the file format (Feather)."""
    names, batches = _arrow(path)
    parts = (batch.slice(start, _BATCH_ROWS) for batch in batches for start in range(0, batch.num_rows, _BATCH_ROWS))
    yield from _records(path, names, parts, selection)


def count_parquet(path: Path) -> int:
    """Return the number of rows by the file's own metadata."""
    return int(_parquet(path).metadata.num_rows)


def count_arrow(path: Path) -> int:
    """Return the number of rows, without reading their values."""
    return sum(batch.num_rows for batch in _arrow(path)[1])


def _records(path: Path, names: list[str], batches: Iterator[Any], selection: Selection) -> Iterator[Record]:
    columns = column_names(names, path)
    start = 0
    for batch in batches:
        rows = range(start, start + batch.num_rows)
        start += batch.num_rows
        if not any(selection(row) for row in rows):
            yield from (Record(row + 1, None) for row in rows)
            continue
        for row, values in zip(rows, batch.to_pylist(), strict=True):
            body = {name: _without_nulls(value) for name, value in zip(columns, values.values(), strict=True)}
            yield Record(row + 1, {name: value for name, value in body.items() if value is not None})


def _parquet(path: Path) -> Any:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(_decompressed(path)) if compression_of(path) else ParquetFile(path, memory_map=True)
    except (ArrowException, OSError) as error:
        raise InvalidFile(f"{path.name} isn't a parquet file that can be read: {error}") from error


def _arrow(path: Path) -> tuple[list[str], Iterator[Any]]:
    """Return the names of the columns, and the batches."""
    import pyarrow as pa

    try:
        source = _decompressed(path) if compression_of(path) else pa.memory_map(str(path))
        is_file = source.read(len(_ARROW_FILE_MAGIC)) == _ARROW_FILE_MAGIC
        source.seek(0)
        if is_file:
            file = pa.ipc.open_file(source)
            return file.schema.names, _batches(path, (file.get_batch(i) for i in range(file.num_record_batches)))
        stream = pa.ipc.open_stream(source)
        return stream.schema.names, _batches(path, stream)
    except (pa.ArrowException, OSError) as error:
        raise InvalidFile(f"{path.name} isn't an Arrow file that can be read: {error}") from error


def _batches(path: Path, batches: Any) -> Iterator[Any]:
    from pyarrow import ArrowException

    try:
        yield from batches
    except (ArrowException, OSError) as error:
        raise InvalidFile(f"{path.name} is damaged or was cut off: {error}") from error


def _decompressed(path: Path) -> Any:
    """Return a nameless file with the decompressed bytes: both kinds are read from their end."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - its reader owns it
    with open_bytes(path) as source:
        shutil.copyfileobj(source, file)
    file.seek(0)
    return file


def _without_nulls(value: Any) -> Any:
    """Return a value without the nulls that stand for missing keys."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
