"""Rows out of every kind of file, and one clear error for a file that can't be read."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from mafunzo.dataset.files import RawRow, open_source
from mafunzo.errors import InvalidFile, NotSupported

ROWS = [{"messages": [{"role": "user", "content": f"question {i} é"}], "id": i} for i in range(5)]


def bodies(path: Path) -> list[Any]:
    return [row.body for row in open_source(path).rows()]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines(rows: list[Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.mark.parametrize(
    "name, text",
    [
        pytest.param("a.jsonl", lines(ROWS), id="jsonl"),
        pytest.param("a.jsonl", "\ufeff" + lines(ROWS) + "\n\n", id="jsonl with a mark and blank lines"),
        pytest.param("a.jsonl", lines(ROWS).replace("\n", "\r\n"), id="jsonl from Windows"),
        pytest.param("a.jsonl", json.dumps(ROWS), id="an array that is called jsonl"),
        pytest.param("a.json", json.dumps(ROWS), id="json array"),
        pytest.param("a.json", "\ufeff\n" + json.dumps(ROWS, indent=2), id="json array, indented"),
        pytest.param("a.json", lines(ROWS), id="lines that are called json"),
        pytest.param("a.json", json.dumps({"data": ROWS}, indent=1), id="rows under one key"),
        pytest.param("train_file_path", lines(ROWS), id="no suffix"),
        pytest.param("A.JSONL", lines(ROWS), id="upper case"),
    ],
)
def test_json_in_all_its_forms_gives_the_same_rows(tmp_path: Path, name: str, text: str) -> None:
    source = open_source(write(tmp_path / name, text))
    assert [row.body for row in source.rows()] == ROWS
    assert [row.index for row in source.rows()] == [0, 1, 2, 3, 4]
    assert source.count() == 5


ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-16 with a mark, the other byte first")


def encoded(text: str, encoding: str) -> bytes:
    return b"\xfe\xff" + text.encode("utf-16-be") if "other" in encoding else text.encode(encoding)


@pytest.mark.parametrize("encoding", [pytest.param(one, id=one) for one in ENCODINGS])
@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        pytest.param("a.jsonl", lines(ROWS).replace("\n", "\r\n") + "\r\n", ROWS, id="jsonl of PowerShell"),
        pytest.param("a.jsonl", json.dumps(ROWS, ensure_ascii=False), ROWS, id="an array that is called jsonl"),
        pytest.param("a.json", json.dumps(ROWS, ensure_ascii=False, indent=1), ROWS, id="json"),
        pytest.param("a.json", json.dumps({"data": ROWS}, indent=1), ROWS, id="rows under one key"),
        pytest.param("a.csv", "prompt;completion\r\nx;é\r\n", [{"prompt": "x", "completion": "é"}], id="csv"),
        pytest.param(
            "a.txt", 'prompt\tcompletion\r\nx\t"é\n,"\r\n', [{"prompt": "x", "completion": "é\n,"}], id="Excel's"
        ),
        pytest.param("noname", "prompt\tcompletion\r\nx\té\r\n", [{"prompt": "x", "completion": "é"}], id="no suffix"),
        pytest.param("a", lines(ROWS), ROWS, id="jsonl without a suffix"),
    ],
)
def test_texts_of_other_widths_are_read_as_their_first_bytes_say(
    name: str, text: str, rows: list[Any], encoding: str, tmp_path: Path
) -> None:
    source = open_source(write(tmp_path / name, encoded(text, encoding)))
    assert [row.body for row in source.rows()] == rows and source.count() == len(rows)
    packed = open_source(write(tmp_path / f"{name}.gz", gzip.compress(encoded(text, encoding))))
    assert [row.body for row in packed.rows()] == rows


def test_a_table_as_text_is_a_table_in_utf_8_too(tmp_path: Path) -> None:
    assert bodies(write(tmp_path / "a.txt", "prompt\tcompletion\nx\ty\n")) == [{"prompt": "x", "completion": "y"}]


def test_a_json_array_larger_than_one_chunk_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mafunzo.dataset.json_file._CHUNK", 7)
    assert bodies(write(tmp_path / "a.json", json.dumps(ROWS, indent=1))) == ROWS


def test_one_object_is_one_row(tmp_path: Path) -> None:
    assert bodies(write(tmp_path / "a.json", json.dumps(ROWS[0], indent=1))) == [ROWS[0]]
    alone = {"messages": ROWS[0]["messages"]}
    assert bodies(write(tmp_path / "b.json", json.dumps(alone, indent=1))) == [alone]


def test_a_bad_line_is_one_bad_row_with_its_line_number(tmp_path: Path) -> None:
    text = (
        lines(ROWS[:2]).encode()
        + b'\n\n{"messages": [}\n{"x": "\xff"}\n[1]\nnull\n{"a": 1, "a": 2}\n'
        + lines(ROWS[2:]).encode()
    )
    rows = list(open_source(write(tmp_path / "train.jsonl", text)).rows())
    bad = {row.row: row.fault for row in rows if row.body is None}
    assert bad == {
        4: "isn't JSON: Expecting value (column 15)",
        5: "isn't UTF-8: byte 0xff at position 7. Save the file as UTF-8",
        6: "is a list, expected an object",
        7: "is null, expected an object",
        8: "has the key 'a' twice",
    }
    cut_rows = list(open_source(write(tmp_path / "b.jsonl", "{\n{}\n")).rows())
    assert cut_rows[0].fault == "isn't JSON: Expecting property name enclosed in double quotes (column 2)"
    assert [row.row for row in rows] == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert [row.index for row in rows] == list(range(10))


def test_rows_that_arent_wanted_arent_parsed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "broken\n" + lines(ROWS))
    assert [row.body for row in open_source(path).rows(range(2, 4))] == ROWS[1:3]
    table = pa.Table.from_pylist(ROWS)
    parquet.write_table(table, tmp_path / "a.parquet")
    assert [row.body for row in open_source(tmp_path / "a.parquet").rows(frozenset({1, 4}))] == [ROWS[1], ROWS[4]]


def test_a_json_array_that_is_broken_or_cut_off_names_the_row(tmp_path: Path) -> None:
    text = json.dumps(ROWS).replace('"id": 2', '"id": }')
    with pytest.raises(InvalidFile, match=r"a\.json, row 3: isn't JSON: Expecting value"):
        bodies(write(tmp_path / "a.json", text))
    with pytest.raises(InvalidFile, match=r"a\.json ends after row 5 without '\]': it was cut off"):
        bodies(write(tmp_path / "a.json", json.dumps(ROWS)[:-1]))


def test_tables_of_text_give_rows_by_column(tmp_path: Path) -> None:
    table = ' id ,"messages"\n1,"[{""role"": ""user""}]"\n\n2,"a\nb"\n'
    expected = [{"id": "1", "messages": '[{"role": "user"}]'}, {"id": "2", "messages": "a\nb"}]
    assert bodies(write(tmp_path / "a.csv", "\ufeff" + table)) == expected
    assert bodies(write(tmp_path / "a.tsv", "id\tmessages\n1\tx, y\n")) == [{"id": "1", "messages": "x, y"}]
    assert bodies(write(tmp_path / "noname", "id\tmessages\n1\tx, y\n")) == [{"id": "1", "messages": "x, y"}]


def test_a_line_with_other_cells_is_one_bad_row(tmp_path: Path) -> None:
    rows = list(open_source(write(tmp_path / "a.csv", "a,b\n1,2\n1,2,3\n3,4\n")).rows())
    assert rows[1] == RawRow("a.csv", 2, 1, None, "has 3 cells, expected 2 as in the first line")
    assert [row.body for row in rows][::2] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_parquet_gives_lists_without_the_nulls_of_other_rows(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "x", "name": "Sam"}], "tools": None},
        {"messages": [{"role": "assistant", "content": "y"}], "tools": "[]"},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=1)
    assert bodies(tmp_path / "a.parquet") == [{"messages": rows[0]["messages"]}, rows[1]]
    assert open_source(tmp_path / "a.parquet").count() == 2


@pytest.mark.parametrize(
    "name, content, message",
    [
        pytest.param("a.jsonl", b"", r"a\.jsonl is empty", id="empty"),
        pytest.param(
            "a.txt",
            b"x",
            r"has the suffix '\.txt', expected jsonl, ndjson, json, csv, tsv, parquet or arrow, each also compressed",
            id="unknown suffix",
        ),
        pytest.param("a.zip", b"PK", r"'\.zip', .* Unpack it, and name the file", id="an archive"),
        pytest.param("a.tar.gz", b"\x1f\x8b", r"'\.tar', .* Unpack it, and name the file", id="a packed archive"),
        pytest.param("a.xlsx", b"PK", r"'\.xlsx', .* Save the sheet as 'CSV UTF-8'", id="a workbook"),
        pytest.param("file", b"hello", "has no suffix and isn't recognised", id="unknown content"),
        pytest.param(
            "a.jsonl", b"\xff\xfe{\x00}", r"a\.jsonl isn't utf-16: .* Save the file as UTF-8", id="UTF-16 cut off"
        ),
        pytest.param("a.txt", b'{"a":\t1}', "has the suffix '.txt', expected jsonl", id="JSON in a text"),
        pytest.param("a.txt", b"Once upon a time, there was", "has the suffix '.txt', expected jsonl", id="prose"),
        pytest.param("a.csv", b"a,b\n\xe9,2\n", "isn't UTF-8: byte 0xe9", id="csv in Latin-1"),
        pytest.param("a.csv", b"messages, messages\n1,2\n", "has the column messages twice", id="duplicate columns"),
        pytest.param("a.csv", b'a,b\n"x,2\n', r"a\.csv, line 2: unexpected end of data", id="open quote"),
        pytest.param("a.parquet", b"PAR1 no", "isn't a parquet file that can be read", id="damaged parquet"),
        pytest.param("a.json", b'{"a": \n 1', r"a\.json isn't JSON", id="damaged json"),
    ],
)
def test_a_file_that_cant_be_read_says_what_to_do(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InvalidFile, match=message):
        bodies(write(tmp_path / name, content))


def test_missing_files_and_files_of_blank_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="doesn't exist"):
        open_source(tmp_path / "none.jsonl")
    with pytest.raises(InvalidFile, match="has no rows"):
        open_source(write(tmp_path / "a.jsonl", "\n\n")).count()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidFile, match="has no data file"):
        open_source(tmp_path / "empty")


def test_a_file_without_suffix_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    rows = [{"prompt": "x", "completion": "y"}]
    for delimiter in ",;\t|":
        table = f"prompt{delimiter}completion\nx{delimiter}y\n"
        assert bodies(write(tmp_path / "file", table)) == rows
        assert bodies(write(tmp_path / "file.gz", gzip.compress(table.encode()))) == rows
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "file")
    assert bodies(tmp_path / "file") == rows


def test_what_is_hidden_or_tells_of_data_isnt_data_and_the_rest_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "train.jsonl", lines(ROWS))
    for name in (".train.jsonl", ".cache/x.jsonl", "__MACOSX/._train.jsonl", "dataset_infos.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, lines(ROWS))
    write(tmp_path / "README.md", "about")
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "sheet.xlsx", "PK")
    assert bodies(tmp_path) == ROWS
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: not read, since they are no data files: README.md, dataset_infos.json, more/sheet.xlsx"
    ]
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(
        InvalidFile, match=r"has no data file .*It has README\.md, dataset_infos\.json, more/sheet\.xlsx"
    ):
        open_source(tmp_path)


def test_a_delta_lake_table_isnt_read_with_its_past(tmp_path: Path) -> None:
    (tmp_path / "_delta_log").mkdir()
    write(tmp_path / "part-0.jsonl", lines(ROWS))
    with pytest.raises(NotSupported, match="is a Delta Lake table"):
        open_source(tmp_path)


def test_a_folder_and_an_mltable_give_the_rows_of_all_their_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "1.jsonl", lines(ROWS[:2]))
    write(tmp_path / "data" / "2.csv", "id,messages\n7,x\n")
    source = open_source(tmp_path / "data")
    assert [(row.file, row.row, row.index) for row in source.rows()] == [
        ("1.jsonl", 1, 0),
        ("1.jsonl", 2, 1),
        ("2.csv", 1, 2),
    ]
    assert source.name == "1.jsonl, 2.csv"
    for entry in ("file: ./data/1.jsonl", "pattern: ./data/*.jsonl", f"file: {tmp_path}/data/1.jsonl"):
        (tmp_path / "MLTable").write_text(
            f"paths:\n  - {entry}\ntransformations:\n  - read_json_lines:\n      encoding: utf8\n"
        )
        assert bodies(tmp_path) == bodies(tmp_path / "MLTable") == ROWS[:2]
    (tmp_path / "MLTable").write_text("paths:\n  - folder: ./data\n  - file: data/1.jsonl\n")
    assert open_source(tmp_path).count() == 5


@pytest.mark.parametrize(
    "text, error, message",
    [
        pytest.param("paths: x", InvalidFile, "'paths' must be a list", id="no list"),
        pytest.param("paths:\n  - file: azureml://datastores/x", NotSupported, "isn't on this machine", id="remote"),
        pytest.param(
            "paths:\n  - file: a.jsonl\ntransformations:\n  - keep_columns: [a]",
            NotSupported,
            "the transformations keep_columns, which aren't applied",
            id="transformation",
        ),
        pytest.param("paths:\n  - pattern: ./*.nothing", InvalidFile, "no file matches", id="no match"),
        pytest.param(
            "paths:\n  - url: x", InvalidFile, "isn't understood, expected file, folder or pattern", id="unknown key"
        ),
        pytest.param("a: [", InvalidFile, "isn't YAML", id="no yaml"),
    ],
)
def test_an_mltable_that_cant_be_honoured_is_refused(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "MLTable").write_text(text)
    with pytest.raises(error, match=message):
        open_source(tmp_path)
