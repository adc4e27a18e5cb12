"""Every kind of data file in every compression, told by the first bytes."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from mafunzo.dataset.compression import plain_name
from mafunzo.dataset.files import open_source
from mafunzo.errors import InvalidFile

ROWS = [{"prompt": f"question {i} é", "completion": "answer"} for i in range(300)]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
}


def content(suffix: str) -> bytes:
    table = pa.Table.from_pylist(ROWS)
    sink = pa.BufferOutputStream()
    if suffix == ".parquet":
        parquet.write_table(table, sink)
    elif suffix == ".arrow":
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    elif suffix == ".feather":
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        delimiter = "\t" if suffix == ".tsv" else ","
        lines = {
            ".jsonl": "\n".join(json.dumps(row) for row in ROWS),
            ".ndjson": "\n".join(json.dumps(row) for row in ROWS),
            ".json": json.dumps(ROWS),
        }
        table_text = "\n".join(delimiter.join(row.values()) for row in [{"a": "prompt", "b": "completion"}, *ROWS])
        return lines.get(suffix, table_text).encode()
    return bytes(sink.getvalue())


@pytest.mark.parametrize("compression", ["", *COMPRESS])
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather"])
def test_each_kind_of_file_gives_its_rows(tmp_path: Path, suffix: str, compression: str) -> None:
    data = content(suffix)
    path = tmp_path / f"train{suffix}{compression}"
    path.write_bytes(COMPRESS[compression](data) if compression else data)
    source = open_source(path)
    assert [row.body for row in source.rows()] == ROWS
    assert source.count() == len(ROWS)
    assert [row.body for row in source.rows(range(297, 299))] == ROWS[297:299]
    assert [row.body for row in open_source(tmp_path).rows()] == ROWS


@pytest.mark.parametrize("compression", list(COMPRESS))
def test_a_name_may_be_wrong_about_the_compression(tmp_path: Path, compression: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(COMPRESS[compression](content(".jsonl")))
    (tmp_path / f"b.jsonl{compression}").write_bytes(content(".jsonl"))
    (tmp_path / "c").write_bytes(COMPRESS[compression](content(".csv")))
    for name in ("a.jsonl", f"b.jsonl{compression}", "c"):
        assert [row.body for row in open_source(tmp_path / name).rows()] == ROWS


def test_parts_that_were_put_behind_each_other_are_all_read(tmp_path: Path) -> None:
    for suffix, compress in COMPRESS.items():
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(b"".join(compress(json.dumps(row).encode() + b"\n") for row in ROWS[:3]))
        assert [row.body for row in open_source(path).rows()] == ROWS[:3]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".arrow"])
@pytest.mark.parametrize("compression", list(COMPRESS))
def test_a_compressed_file_that_was_cut_off_is_named(tmp_path: Path, compression: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}{compression}"
    path.write_bytes(COMPRESS[compression](content(suffix))[:-9])
    with pytest.raises(InvalidFile, match=rf"a\{suffix}\{compression} can't be decompressed .*was cut off"):
        list(open_source(path).rows())


def test_only_the_suffix_of_a_compression_is_taken_off() -> None:
    assert plain_name(Path("a.jsonl.GZ")) == Path("a.jsonl")
    assert plain_name(Path("a.jsonl")) == Path("a.jsonl")
