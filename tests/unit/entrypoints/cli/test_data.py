"""Tests of `mafunzo data`: files are checked, split and fetched; what is bad in them is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo.control.workspace.datasets import DataSets, Preview
from tests.support.command_line import Shell

ROW = {"messages": [{"role": "user", "content": "Habari?"}, {"role": "assistant", "content": "Nzuri!"}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(ROW | {"id": number}) + "\n" for number in range(10)))
    return file


def test_the_catalogues_data_sets_are_listed(shell: Shell) -> None:
    names = [card["name"] for card in json.loads(shell("data", "list", "--json"))]
    assert names == ["chitchat", "ultrachat_200k"]
    header, *rows = shell("data", "list").splitlines()
    assert header.split() == ["name", "licence", "description"]
    assert [row.split()[0] for row in rows] == names


def test_a_good_file_is_counted(shell: Shell, file: Path) -> None:
    facts = dict(line.split(maxsplit=1) for line in shell("data", "check", file).splitlines())
    assert (facts["file"], facts["rows"], facts["good"], facts["bad"]) == (str(file), "10", "10", "0")
    body = json.loads(shell("data", "check", file, "--json"))
    assert (body["rows"], body["good"], body["bad"], body["faults"]) == (10, 10, 0, [])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        pytest.param('{"messages": [{"role": "user", ', "row 3: ", id="broken JSON"),
        pytest.param('{"text_": "nothing here"}', "messages", id="no messages"),
        pytest.param(json.dumps(ROW).replace("assistant", "asistant"), "id you mean 'assistant'?", id="unknown role"),
    ],
)
def test_bad_rows_are_named_by_file_row_and_reason_and_end_with_2(
    line: str, text: str, shell: Shell, file: Path
) -> None:
    lines = file.read_text().splitlines()
    lines[2] = line
    file.write_text("\n".join(lines))
    ended = shell.run("data", "check", file)
    assert ended.exit_code == 2
    assert "rows.jsonl, row 3" in ended.stderr
    assert text in ended.stderr
    body = shell.run("data", "check", file, "--json")
    assert body.exit_code == 2
    facts = json.loads(body.stdout)
    assert (facts["rows"], facts["good"], facts["bad"]) == (10, 9, 1)
    assert text in facts["faults"][0]


def test_rows_that_a_job_would_leave_out_are_told_by_a_check_of_its_files(shell: Shell, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "validation", "test")}
    for file, numbers in zip(files.values(), ([1, 2, 2], [2], [9]), strict=True):
        rows = [{"prompt": f"{number}?", "completion": "Yes."} for number in numbers]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    options = ("--validation", files["validation"], "--test", files["test"])
    told = shell("data", "check", files["train"], *options)
    assert told.count("format  prompt_completion=") == 3
    assert told.splitlines()[-3:] == [
        "repeats 1 of the 3 train rows equal an earlier one; rows that repeat within a split are kept.",
        "repeats 2 of the 3 training rows are left out of training, since they stand elsewhere too: 2 in the validation rows.",
        "repeats 1 of the training rows remain, and a job fails with fewer than 10.",
    ]
    body = json.loads(shell("data", "check", files["train"], *options, "--json"))
    assert (body["equal_rows"], body["training_rows"], body["left_out"]) == (1, 3, {"validation": 2})
    assert (body["validation"]["rows"], body["test"]["rows"]) == (1, 1)


def test_reasons_and_notes_are_counted_by_kind(shell: Shell, tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "id": 1}, {"prompt": "c", "completion": "d"}, *[{"x": "y"}] * 4]
    (file := tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ended = shell.run("data", "check", file)
    assert ended.exit_code == 2
    assert "bad     4 of 6 rows: has no 'messages' (it has: x)." in ended.stdout
    assert "note    1 of 6 rows: has a column 'id', which isn't read" in ended.stdout
    assert "rows.jsonl, 4 rows (3 to 6): has no 'messages' (it has: x)." in ended.stderr


@pytest.mark.parametrize("verb", [["check"], ["split", "--to", "to"]], ids=["check", "split"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("none.jsonl", "doesn't exist", id="missing"),
        pytest.param("empty.jsonl", "empty", id="empty"),
        pytest.param("rows.txt", "rows.txt", id="of no known format"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    verb: list[str], name: str, text: str, shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "rows.txt").write_text("x")
    told = shell("data", verb[0], tmp_path / name, *verb[1:], code=2)
    assert told.startswith("error: ")
    assert text in told


def test_a_file_is_split_into_80_10_and_10_percent(shell: Shell, file: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    rows = [line.split() for line in shell("data", "split", file, "--to", to).splitlines()]
    assert rows == [
        ["split", "rows", "file"],
        ["train", "8", str(to / "train.jsonl")],
        ["validation", "1", str(to / "validation.jsonl")],
        ["test", "1", str(to / "test.jsonl")],
    ]
    assert len((to / "train.jsonl").read_text().splitlines()) == 8
    told = shell("data", "split", file, "--to", to, code=3)
    assert told.startswith(f"error: {to / 'train.jsonl'}, ")
    assert told.endswith("exists already. Name a new folder.\n")


def test_the_parts_of_a_split_are_json_too(shell: Shell, file: Path, tmp_path: Path) -> None:
    body = json.loads(shell("data", "split", file, "--to", tmp_path / "to", "--seed", "1", "--json"))
    assert body["train"] == {"file": str(tmp_path / "to" / "train.jsonl"), "rows": 8}


def test_a_data_set_is_fetched_as_the_options_say(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def get(_: DataSets, name: str, **options: Any) -> dict[str, Path]:
        calls.append((name, options))
        return {"train": Path("/to/train.jsonl"), "test": Path("/to/test.jsonl")}

    monkeypatch.setattr(DataSets, "get", get)
    assert shell("data", "get", "chitchat", "--to", "/to") == "/to/train.jsonl\n/to/test.jsonl\n"
    told = shell("data", "get", "org/name", "--to", "/to", "--percent", "5", "--overwrite", "--json")
    assert json.loads(told) == {"train": "/to/train.jsonl", "test": "/to/test.jsonl"}
    assert calls == [
        ("chitchat", {"to": Path("/to"), "percent": 100.0, "overwrite": False}),
        ("org/name", {"to": Path("/to"), "percent": 5.0, "overwrite": True}),
    ]


def test_files_that_are_there_are_not_replaced(shell: Shell, file: Path) -> None:
    told = shell("data", "get", "chitchat", "--to", file.parent, code=3)
    assert told == f"error: {file.parent} holds jsonl files already. Name a new folder, or pass --overwrite.\n"


def test_an_unknown_data_set_is_refused_with_near_names(shell: Shell, tmp_path: Path) -> None:
    assert "id you mean chitchat" in shell("data", "get", "chitchatt", "--to", tmp_path / "to", code=2)


def test_rows_are_shown_as_the_network_sees_them(shell: Shell, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [{"text": "Habari?", "trained": False}, {"text": "Nzuri!", "trained": True}]
    calls: list[tuple[Any, ...]] = []

    def preview(_: DataSets, *given: Any) -> Preview:
        calls.append(given)
        return Preview(({"row": 4, "pieces": pieces},), {"rows_read": 10})

    monkeypatch.setattr(DataSets, "preview", preview)
    told = shell("data", "preview", file, "--model", "tiny-llama", "--rows", "2", "--max-seq-length", "64")
    assert "row 4" in told
    assert "Habari?[[Nzuri!]]" in told
    body = json.loads(shell("data", "preview", file, "--model", "tiny-llama", "--json"))
    assert body == {"rows": [{"row": 4, "pieces": pieces}], "report": {"rows_read": 10}}
    shell("data", "preview", file, "--model", "tiny-llama", "--train-on", "last", "--long-rows", "drop")
    assert calls == [
        ("tiny-llama", file, 2, 64, "assistant", "truncate"),
        ("tiny-llama", file, 3, -1, "assistant", "truncate"),
        ("tiny-llama", file, 3, -1, "last", "drop"),
    ]


def test_a_mirror_stands_in_for_the_hub(shell: Shell, tmp_path: Path) -> None:
    assert shell("data", "mirror", "org/rows", tmp_path) == f"org/rows is found in {tmp_path}\n"
    assert json.loads(shell("data", "mirror", "org/rows", tmp_path, "--json")) == {
        "repository": "org/rows",
        "folder": str(tmp_path),
    }
    assert "isn't a folder" in shell("data", "mirror", "org/rows", tmp_path / "none", code=2)
    assert "expected org/name" in shell("data", "mirror", "rows", tmp_path, code=2)
