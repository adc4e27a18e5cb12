import json
import os
import stat

import pytest

from mafunzo.tracking.atomic_json import write_json, write_text

BODY = {"b": "Å", "a": [1, None]}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        pytest.param({}, '{"b": "\\u00c5", "a": [1, null]}', id="one line for programs"),
        pytest.param(
            {"indent": 1, "ensure_ascii": False}, '{\n "b": "Å",\n "a": [\n  1,\n  null\n ]\n}\n', id="people"
        ),
        pytest.param({"indent": 2, "sort_keys": True}, json.dumps(BODY, indent=2, sort_keys=True) + "\n", id="sorted"),
        pytest.param({"is_durable": True}, json.dumps(BODY), id="on the disk"),
    ],
)
def test_a_file_is_written_whole_and_alone(tmp_path, options, text):
    write_json(tmp_path / "x.json", BODY, **options)
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_file_has_its_mode_from_the_start(tmp_path, mode):
    umask = os.umask(0o022)
    try:
        write_json(tmp_path / "x.json", BODY, mode=mode)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == mode & ~0o022


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    write_json(tmp_path / "x.json", BODY)
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "x.json", "\ud800")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == BODY
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_reader_who_has_the_old_file_open_goes_on_with_it(tmp_path):
    write_json(tmp_path / "x.json", 1)
    with (tmp_path / "x.json").open(encoding="utf-8") as reader:
        write_json(tmp_path / "x.json", 2)
        assert reader.read() == "1"
