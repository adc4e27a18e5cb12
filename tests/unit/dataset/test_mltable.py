"""What an MLTable says of its files is honoured, or refused by name."""

from pathlib import Path

import pytest

from mafunzo.dataset.files import open_source
from mafunzo.errors import InvalidFile, MafunzoError, NotSupported

ROWS = [{"prompt": "où?", "completion": "là"}, {"prompt": "x", "completion": "y"}]


def table(folder: Path, file: str, reader: str, *options: str, entry: str = "file") -> Path:
    body = "".join(f"      {option}\n" for option in options)
    text = f"type: mltable\npaths:\n  - {entry}: ./{file}\ntransformations:\n  - {reader}:\n{body}"
    (folder / "MLTable").write_text(text if options else text.replace(f"{reader}:", reader))
    return folder


def bodies(path: Path) -> list[object]:
    source = open_source(path)
    rows = [row.body for row in source.rows()]
    assert source.count() == len(rows)
    return rows


def cells(delimiter: str = ",", end: str = "\n") -> str:
    return end.join(delimiter.join(row) for row in (("prompt", "completion"), ("où?", "là"), ("x", "y"))) + end


@pytest.mark.parametrize(
    "delimiter, written", [(";", "';'"), ("\t", '"\\t"'), ("\t", "'\\t'"), ("~", '"~"'), (",", '","')]
)
def test_the_delimiter_and_not_the_suffix_decides(tmp_path: Path, delimiter: str, written: str) -> None:
    (tmp_path / "rows.txt").write_text(cells(delimiter))
    for entry, file in (("file", "rows.txt"), ("pattern", "*.txt")):
        table(tmp_path, file, "read_delimited", f"delimiter: {written}", "encoding: utf8", entry=entry)
        assert bodies(tmp_path) == ROWS


@pytest.mark.parametrize(
    "encoding, codec",
    [
        ("utf8", "utf-8"),
        ("utf8bom", "utf-8-sig"),
        ("latin1", "latin-1"),
        ("iso88591", "latin-1"),
        ("windows1252", "cp1252"),
        ("utf16", "utf-16"),
    ],
)
def test_the_encoding_is_honoured(tmp_path: Path, encoding: str, codec: str) -> None:
    (tmp_path / "rows.csv").write_bytes(cells().encode(codec))
    assert bodies(table(tmp_path, "rows.csv", "read_delimited", f"encoding: {encoding}")) == ROWS
    text = '{"prompt": "où?", "completion": "là"}\r\n{"prompt": "x", "completion": "y"}\r\n'
    (tmp_path / "rows.log").write_bytes(text.encode(codec))
    assert bodies(table(tmp_path, "rows.log", "read_json_lines", f"encoding: {encoding}")) == ROWS


def test_bytes_of_another_encoding_name_it(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(cells())
    with pytest.raises(InvalidFile, match=r"rows\.csv isn't ascii: byte 0xc3 .*the encoding that the MLTable names"):
        bodies(table(tmp_path, "rows.csv", "read_delimited", "encoding: ascii"))


def test_only_the_first_file_may_have_a_header(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("prompt,completion\noù?,là\n")
    (tmp_path / "2.csv").write_text("x,y\n")
    table(tmp_path, "*.csv", "read_delimited", "header: from_first_file", entry="pattern")
    assert bodies(tmp_path) == ROWS


def test_invalid_lines_are_dropped_and_told_where_it_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "où?"\n{"prompt": "x", "completion": "y"}\n[1]\n{"prompt": "z"}\n')
    table(tmp_path, "rows.jsonl", "read_json_lines", "invalid_lines: drop")
    assert [row.body for row in open_source(tmp_path).rows()] == [ROWS[1], {"prompt": "z"}]
    told = "rows.jsonl: lines that can't be read are left out, as the MLTable says (invalid_lines: drop): 1, 3"
    assert [record.getMessage() for record in caplog.records] == [told]
    assert open_source(tmp_path).count() == 2
    assert [(row.row, row.index, row.body) for row in open_source(tmp_path).rows(range(1, 2))] == [
        (4, 1, {"prompt": "z"})
    ]
    table(tmp_path, "rows.jsonl", "read_json_lines", "invalid_lines: error")
    assert [bool(row.fault) for row in open_source(tmp_path).rows()] == [True, False, True, False]


def test_empty_cells_and_line_breaks_mean_what_the_table_says(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('prompt,system\n"a\nb",\n')
    assert bodies(table(tmp_path, "rows.csv", "read_delimited", "support_multi_line: true")) == [
        {"prompt": "a\nb", "system": ""}
    ]
    table(tmp_path, "rows.csv", "read_delimited", "empty_as_string: false", "support_multi_line: true")
    assert bodies(tmp_path) == [{"prompt": "a\nb"}]
    table(tmp_path, "rows.csv", "read_delimited", "support_multi_line: false")
    assert "has a line break in prompt" in next(open_source(tmp_path).rows()).fault


def test_what_azure_itself_saves_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(cells())
    options = ("delimiter: ','", "empty_as_string: false", "encoding: utf8", "header: all_files_same_headers")
    more = ("include_path_column: false", "infer_column_types: true", "partition_size: 20971520", "path_column: Path")
    assert bodies(table(tmp_path, "rows.csv", "read_delimited", *options, *more, "support_multi_line: false")) == ROWS


@pytest.mark.parametrize(
    "reader, option, error, message",
    [
        ("read_delimited", "header: no_header", NotSupported, "rows need names of columns"),
        ("read_delimited", "header: maybe", NotSupported, "expected all_files_same_headers"),
        ("read_delimited", "delimiter: '||'", NotSupported, r"delimiter: '\|\|'; expected one character"),
        ("read_delimited", "encoding: ebcdic", NotSupported, "encoding: 'ebcdic'; expected one of utf8"),
        ("read_delimited", "include_path_column: true", NotSupported, "include_path_column: True; a column of paths"),
        ("read_delimited", "support_multi_line: maybe", NotSupported, "expected true or false"),
        ("read_delimited", "skip_rows: 3", NotSupported, "has the option skip_rows, which isn't known"),
        ("read_json_lines", "delimiter: ';'", NotSupported, "has the option delimiter, which isn't known"),
        ("read_json_lines", "invalid_lines: skip", NotSupported, "invalid_lines: 'skip'; expected error or drop"),
        ("read_parquet", "encoding: utf8", NotSupported, "has the option encoding, which isn't known"),
        (
            "read_delta_lake",
            "version_as_of: 1",
            NotSupported,
            "the transformations read_delta_lake, which aren't applied",
        ),
    ],
)
def test_an_option_that_isnt_honoured_is_refused_by_name(
    tmp_path: Path, reader: str, option: str, error: type[MafunzoError], message: str
) -> None:
    (tmp_path / "rows.csv").write_text(cells())
    with pytest.raises(error, match=message):
        open_source(table(tmp_path, "rows.csv", reader, option))


def test_all_that_is_refused_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(cells())
    path = table(tmp_path, "rows.csv", "read_delimited", "header: no_header", "encoding: x", "skip: 1")
    (path / "MLTable").write_text((path / "MLTable").read_text() + "  - take: 5\nquery: x\n")
    with pytest.raises(NotSupported) as refusal:
        open_source(path)
    assert len(refusal.value.faults) == 5
