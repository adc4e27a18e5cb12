"""Tables of text as spreadsheets write them."""

from pathlib import Path

import pytest

from mafunzo.dataset.delimited import shown_delimiter
from mafunzo.dataset.files import open_source
from mafunzo.errors import InvalidFile

EXCEL = """\ufeffprompt;completion\r
Wie heißt du, «Müller»?;"Ich heiße Jürgen; und du? Das kostet 5 €."\r
"Er sagte ""ja""; oder?";"Zeile 1\r
Zeile 2; Ende"\r
Are you, or not, sentient?;Sort of, yes.\r
"""
ROWS = [
    {"prompt": "Wie heißt du, «Müller»?", "completion": "Ich heiße Jürgen; und du? Das kostet 5 €."},
    {"prompt": 'Er sagte "ja"; oder?', "completion": "Zeile 1\r\nZeile 2; Ende"},
    {"prompt": "Are you, or not, sentient?", "completion": "Sort of, yes."},
]


def bodies(path: Path, text: str) -> list[object]:
    path.write_bytes(text.encode())
    return [row.body for row in open_source(path).rows()]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "noname"])
@pytest.mark.parametrize("first", ["", "sep=;\r\n", '"sep=;"\r\n', "SEP=;\n"])
def test_a_spreadsheet_with_semicolons_is_read(tmp_path: Path, name: str, first: str) -> None:
    assert bodies(tmp_path / name, EXCEL.replace("\ufeff", "\ufeff" + first)) == ROWS


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_first_line_shows_the_delimiter(tmp_path: Path, delimiter: str) -> None:
    table = f'id{delimiter}"a, b; c"{delimiter}completion\n1{delimiter}x{delimiter}y\n'
    assert bodies(tmp_path / "a.csv", table) == [{"id": "1", "a, b; c": "x", "completion": "y"}]
    other = f"sep={delimiter}\nprompt{delimiter}completion\nx{delimiter}y\n"
    assert bodies(tmp_path / "a.csv", other) == [{"prompt": "x", "completion": "y"}]


@pytest.mark.parametrize(
    "line, delimiter",
    [("messages", ""), ("a,b", ","), ("a;b,c;d", ";"), ('"a;b;c",d', ","), ("sep=|", "|"), ("sep=abc", ""), ("", "")],
)
def test_quoted_text_shows_no_delimiter(line: str, delimiter: str) -> None:
    assert shown_delimiter(line) == delimiter


def test_one_column_and_old_line_ends_are_read(tmp_path: Path) -> None:
    assert bodies(tmp_path / "a.csv", 'messages\n"[]"\n') == [{"messages": "[]"}]
    assert bodies(tmp_path / "a.csv", "prompt;completion\rx;y\r") == [{"prompt": "x", "completion": "y"}]


def test_a_broken_quote_names_its_line_and_the_delimiter(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"a\.csv, line 3: .* have ';' between them; check the quotes"):
        bodies(tmp_path / "a.csv", 'sep=;\nprompt;completion\n"x"y;z\n')
    with pytest.raises(InvalidFile, match="have tabs between them"):
        bodies(tmp_path / "a.tsv", 'prompt\tcompletion\n"x"y\tz\n')


def test_another_encoding_is_named_with_what_excel_calls_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(EXCEL.encode("cp1252", "ignore"))
    with pytest.raises(InvalidFile, match=r"a\.csv isn't UTF-8: .* Save the file as UTF-8 \(Excel: 'CSV UTF-8'\)"):
        list(open_source(tmp_path / "a.csv").rows())


def test_blank_lines_and_blank_rows_are_no_rows(tmp_path: Path) -> None:
    table = "\r\n\r\nsep=;\r\n\r\nprompt;completion;\r\nx;y;\r\n;;\r\n\r\nz;w;\r\n;;\r\n"
    rows = [{"prompt": "x", "completion": "y"}, {"prompt": "z", "completion": "w"}]
    assert bodies(tmp_path / "a.csv", table) == bodies(tmp_path / "b.csv", table.replace("sep=;", "")) == rows
    with pytest.raises(InvalidFile, match="has no column names"):
        bodies(tmp_path / "c.csv", "sep=;\n")
