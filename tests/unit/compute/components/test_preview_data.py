"""Rows as the network will see them, and every bad row."""

import json
from pathlib import Path

import pytest

from mafunzo.compute.components import preview_data
from mafunzo.compute.components.command import load_interface, parse
from mafunzo.compute.components.tiny_model import make
from mafunzo.errors import InvalidFile

INTERFACE = load_interface(Path(preview_data.__file__).with_suffix(".yml"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    make("tiny-llama", 0, folder)
    return folder


def run(model: Path, file: Path, *more: str) -> None:
    argv = ["--model", str(model), "--train_file_path", str(file), "--preview", str(file.parent / "preview"), *more]
    preview_data.work(parse(INTERFACE, argv))


def test_the_first_good_rows_are_shown_and_all_bad_ones_listed(model: Path, tmp_path: Path) -> None:
    pairs = [{"prompt": f"Question {i}", "completion": f"Answer {i}"} for i in range(5)]
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(["{"] + [json.dumps(pair) for pair in pairs] + ["[]"]))
    run(model, file, "--rows", "2")
    preview = json.loads((tmp_path / "preview" / "preview.json").read_text())
    assert [(row["row"], row["pieces"][1]) for row in preview] == [
        (2, {"text": "Answer 0<|eot_id|>", "trained": True}),
        (3, {"text": "Answer 1<|eot_id|>", "trained": True}),
    ]
    assert preview[0]["truncated_from"] is None
    report = json.loads((tmp_path / "preview" / "report.json").read_text())
    assert report["rows_read"] == 7
    assert [row["row"] for row in report["bad"]] == [1, 7]
    assert report["formats"] == {"prompt_completion": 5}


def test_a_cut_row_says_how_long_it_was(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"prompt": "a", "completion": "b " * 100}))
    run(model, file, "--max_seq_length", "30")
    preview = json.loads((tmp_path / "preview" / "preview.json").read_text())
    assert preview[0]["tokens"] == 30
    assert preview[0]["truncated_from"] > 100


def test_a_missing_file_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InvalidFile, match="is empty"):
        run(model, tmp_path / "empty.jsonl")


def test_what_is_trained_on_is_shown_as_in_a_job(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"prompt": "a", "completion": "b"}))
    run(model, file, "--train_on", "everything")
    preview = json.loads((tmp_path / "preview" / "preview.json").read_text())
    assert [piece["trained"] for piece in preview[0]["pieces"]] == [True]
    assert preview[0]["assistant_tokens"] == preview[0]["tokens"]
    assert json.loads((tmp_path / "preview" / "report.json").read_text())["train_on"] == "everything"
