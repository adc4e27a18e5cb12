"""Tests of `mafunzo.control.workspace.row_check`: whether files can be trained on, told before anything starts."""

import json
from pathlib import Path

import pytest

from mafunzo.control.workspace.row_check import require_file, require_good
from mafunzo.errors import InvalidData, InvalidFile

ROW = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
BAD = '{"messages": []}'


def write(folder: Path, name: str, *lines: str) -> Path:
    (file := folder / name).write_text("\n".join(lines))
    return file


def test_a_file_that_is_there_and_of_a_known_format_is_enough(tmp_path: Path) -> None:
    require_file(write(tmp_path, "bad.jsonl", BAD))


@pytest.mark.parametrize("name", ["none.jsonl", "empty.jsonl", "rows.txt"], ids=["missing", "empty", "unknown format"])
def test_a_file_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, "empty.jsonl")
    write(tmp_path, "rows.txt", ROW)
    for refuse in (require_file, lambda file: require_good([file], "skip")):
        with pytest.raises(InvalidFile, match=name):
            refuse(tmp_path / name)


def test_good_files_pass(tmp_path: Path) -> None:
    require_good([write(tmp_path, "a.jsonl", ROW), write(tmp_path, "b.jsonl", ROW, ROW)], "fail")


def test_every_bad_row_of_all_files_is_named_at_once(tmp_path: Path) -> None:
    files = [write(tmp_path, "a.jsonl", ROW, BAD), write(tmp_path, "b.jsonl", BAD, ROW)]
    with pytest.raises(InvalidData) as refusal:
        require_good(files, "fail")
    text = str(refusal.value)
    assert "a.jsonl, row 2" in text
    assert "b.jsonl, row 1" in text


def test_bad_rows_that_are_to_be_skipped_pass(tmp_path: Path) -> None:
    require_good([write(tmp_path, "a.jsonl", ROW, BAD)], "skip")
