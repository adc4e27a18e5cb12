"""The whole component on real files and a tiny model's tokenizer: folders in, folder out."""

import csv
import gc
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from mafunzo.compute.chat import row_cache
from mafunzo.compute.chat.examples import Encoder
from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.components import prepare_data
from mafunzo.compute.components.command import load_interface, parse
from mafunzo.compute.components.data_report import summary
from mafunzo.compute.components.tiny_model import make
from mafunzo.control.store.usage import CACHED
from mafunzo.dataset.check import check_source
from mafunzo.dataset.files import open_source
from mafunzo.dataset.repeats import by_split
from mafunzo.entities.conversation import conversation_from_dict
from mafunzo.errors import Conflict, InvalidData, InvalidFile, InvalidParameter
from tests.support.component_line import complete, refused

INTERFACE = load_interface(Path(prepare_data.__file__).with_suffix(".yml"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "tiny-phi3"
    make("tiny-phi3", 0, folder)
    return folder


def talk(number: int, *more: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"It is {number}."}]
    return {"messages": [*messages, *more]}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def prepare(model: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that runs the component into `tmp_path/prepared` and returns its report."""

    def run(cache: Path | None = None, **inputs: Any) -> dict[str, Any]:
        argv = [part for name, value in {"model": model, **inputs}.items() for part in (f"--{name}", str(value))]
        arguments = parse(INTERFACE, [*argv, "--prepared", str(tmp_path / "prepared")])
        prepare_data.work(replace(arguments, cache=cache))
        report: dict[str, Any] = json.loads((tmp_path / "prepared" / "report.json").read_text(encoding="utf-8"))
        return report

    return run


def raw(tmp_path: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "prepared" / "raw" / f"{split}.jsonl").read_text().splitlines()]


def encoded(tmp_path: Path, split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(tmp_path / "prepared" / f"{split}.parquet").to_pylist()
    return rows


def test_one_file_gives_three_splits_with_all_that_later_steps_read(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path, model: Path
) -> None:
    report = prepare(train_file_path=write(tmp_path / "train.jsonl", [talk(i) for i in range(20)]))
    row_counts = {name: (part["rows_read"], part["rows_kept"]) for name, part in report["splits"].items()}
    assert row_counts == {"train": (16, 16), "validation": (2, 2), "test": (2, 2)}
    assert report["splits"]["validation"]["taken"] == "rows 17 to 18"
    assert report["format"] == "messages"
    assert report["max_seq_length"] == 8192
    folder = tmp_path / "prepared"
    assert {path.name for path in folder.iterdir()} == {
        "raw", "tokenizer", "report.json", "preview.json", "lengths.png",
        "train.parquet", "validation.parquet", "test.parquet",
    }  # fmt: skip
    assert [row["row"] for row in raw(tmp_path, "test")] == [19, 20]
    assert raw(tmp_path, "test")[0] == {**talk(18), "file": "train.jsonl", "row": 19}
    for name in ("train", "validation", "test"):
        rows = encoded(tmp_path, name)
        assert [(row["file"], row["row"]) for row in rows] == [(row["file"], row["row"]) for row in raw(tmp_path, name)]
        assert sum(len(row["input_ids"]) for row in rows) == report["splits"][name]["tokens"]
        assert (
            sum(label != -100 for row in rows for label in row["labels"]) == report["splits"][name]["assistant_tokens"]
        )
    schema = parquet.read_schema(folder / "train.parquet")
    assert schema.field("input_ids").type == schema.field("labels").type == pa.list_(pa.int32())
    tokenizer = load_tokenizer(folder / "tokenizer")
    assert (folder / "tokenizer" / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    first = encoded(tmp_path, "train")[0]
    assert first["input_ids"] == list(tokenizer.apply_chat_template(talk(0)["messages"])["input_ids"])
    assert tokenizer.decode([label for label in first["labels"] if label != -100]) == "It is 0.<|end|>"
    assert (folder / "lengths.png").read_bytes().startswith(b"\x89PNG")
    preview = json.loads((folder / "preview.json").read_text())
    assert preview[0]["pieces"] == [
        {"text": "<|user|>\nWhat is 0?<|end|>\n<|assistant|>\n", "trained": False},
        {"text": "It is 0.<|end|>", "trained": True},
        {"text": "\n<|endoftext|>", "trained": False},
    ]


def test_given_files_are_taken_whole_and_a_seed_draws_the_rest(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    train = write(tmp_path / "train.jsonl", [talk(i) for i in range(30)])
    test = write(tmp_path / "test.jsonl", [talk(i) for i in range(100, 104)])
    report = prepare(train_file_path=train, test_file_path=test, split_seed=5)
    assert {name: part["rows_kept"] for name, part in report["splits"].items()} == {
        "train": 24,
        "validation": 6,
        "test": 4,
    }
    assert report["splits"]["validation"]["taken"] == "drawn by seed"
    indices = [row["row"] for row in raw(tmp_path, "validation")]
    assert indices == sorted(indices) != list(range(25, 31))
    assert sorted(indices + [row["row"] for row in raw(tmp_path, "train")]) == list(range(1, 31))


def test_rows_that_are_held_out_are_named_and_kept_out_of_training(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    again = {"messages": [{**message, "content": f" {message['content']}\n"} for message in talk(102)["messages"]]}
    train = write(tmp_path / "train.jsonl", [talk(i) for i in range(14)] + [again] + [talk(3)] * 3)
    test = write(tmp_path / "test.jsonl", [talk(i) for i in range(100, 104)])
    validation = write(tmp_path / "validation.jsonl", [talk(3)])
    report = prepare(train_file_path=train, test_file_path=test, validation_file_path=validation)
    reasons = {row["row"]: row["reason"] for row in report["splits"]["train"]["dropped"]}
    in_validation = "stands in the validation rows (validation.jsonl, row 1) as well, so it is kept out of training"
    assert reasons == {
        4: in_validation,
        15: "stands in the test rows (test.jsonl, row 3) as well, so it is kept out of training",
        16: in_validation,
        17: in_validation,
        18: in_validation,
    }
    assert report["splits"]["train"]["rows_kept"] == 13
    assert report["splits"]["train"]["bad_rows"] == 0


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("given", [[], ["test"], ["validation", "test"]], ids=["one file", "two files", "three files"])
def test_what_is_left_out_is_what_a_check_of_the_files_said(
    seed: int | None, given: list[str], prepare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    rows = [*(talk(i) for i in range(30)), *(talk(i) for i in range(0, 30, 3)), {"messages": []}]
    files = {"train": rows, **{name: [talk(number), talk(40)] for number, name in enumerate(given)}}
    paths = {name: write(tmp_path / f"{name}.jsonl", lines) for name, lines in files.items()}
    splits = by_split({name: check_source(open_source(path)) for name, path in paths.items()}, seed)
    options = {} if seed is None else {"split_seed": seed}
    report = prepare(**{f"{name}_file_path": path for name, path in paths.items()}, on_bad_row="skip", **options)
    train = report["splits"]["train"]
    kinds = Counter(row["reason"].split()[3] for row in train["dropped"] if row["reason"].startswith("stands"))
    assert dict(kinds) == splits.left_out()
    assert train["rows_read"] == splits.training_rows()


def test_rows_that_repeat_are_counted_and_kept(prepare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [talk(i % 11) for i in range(14)])
    test = write(tmp_path / "test.jsonl", [talk(90), talk(91), talk(91)])
    report = prepare(
        train_file_path=train, test_file_path=test, validation_file_path=write(tmp_path / "v.jsonl", [talk(90)])
    )
    assert report["splits"]["train"]["notes"] == {"stands more than once in these rows": 3}
    assert report["splits"]["train"]["rows_kept"] == 14
    assert report["splits"]["test"]["notes"] == {"stands more than once in these rows": 1}
    assert report["splits"]["validation"]["notes"] == {"stands in the test rows too": 1}


BAD = [talk(i) for i in range(12)] + ["{broken", {"text": "x"}, talk(14, {"role": "tool", "content": "x"}), talk(15)]


def test_bad_rows_fail_the_step_with_every_reason_and_leave_nothing(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    train = write(tmp_path / "train.jsonl", BAD)
    held_out = write(tmp_path / "test.jsonl", [talk(99), {"messages": []}])
    with pytest.raises(InvalidData) as excinfo:
        prepare(
            train_file_path=train, test_file_path=held_out, validation_file_path=write(tmp_path / "v.jsonl", [talk(98)])
        )
    assert excinfo.value.message == "4 rows can't be used. Correct them, or pass on_bad_row skip to leave them out."
    assert [fault.split(": ")[0] for fault in excinfo.value.faults] == [
        "train.jsonl, row 13", "train.jsonl, row 14", "train.jsonl, row 15", "test.jsonl, row 2",
    ]  # fmt: skip
    assert not (tmp_path / "prepared").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_bad_rows_are_skipped_where_asked_and_reported(prepare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    report = prepare(
        train_file_path=write(tmp_path / "train.jsonl", BAD),
        test_file_path=write(tmp_path / "test.jsonl", [talk(99)]),
        validation_file_path=write(tmp_path / "v.jsonl", [talk(98)]),
        on_bad_row="skip",
    )
    train = report["splits"]["train"]
    assert (train["rows_read"], train["rows_kept"], train["bad_rows"]) == (16, 13, 3)
    assert [row["row"] for row in train["dropped"]] == [13, 14, 15]
    assert train["rows_read"] == train["rows_kept"] + len(train["dropped"])
    assert [row["row"] for row in raw(tmp_path, "train")] == [*range(1, 13), 16]


def test_what_the_template_leaves_out_is_a_bad_row(prepare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
    result = {"role": "tool", "content": "x", "tool_call_id": "1"}
    rows = [talk(i) for i in range(15)] + [talk(20, {"role": "user", "content": "f?"}, call, result)]
    with pytest.raises(InvalidData) as excinfo:
        prepare(train_file_path=write(tmp_path / "train.jsonl", rows))
    assert "the chat template of tiny-phi3" in excinfo.value.faults[0]


def test_a_cut_is_counted_and_a_row_without_an_answer_left_is_dropped(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    long = {"messages": [{"role": "user", "content": "why " * 100}, {"role": "assistant", "content": "because"}]}
    late = {"messages": [*talk(1)["messages"], *long["messages"]]}
    rows = [talk(i) for i in range(20)]
    rows[2], rows[5] = long, late
    report = prepare(train_file_path=write(tmp_path / "train.jsonl", rows), max_seq_length=64)
    train = report["splits"]["train"]
    assert train["truncated"] == 1
    assert train["dropped"][0]["reason"].startswith("cut at 64 tokens, before the assistant's first word (token ")
    assert max(len(row["input_ids"]) for row in encoded(tmp_path, "train")) == 64
    assert report["lengths"]["train"]["max"] > 64


def test_a_long_row_is_dropped_where_that_is_asked_for(prepare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rows = [talk(i) for i in range(20)]
    rows[2] = talk(2, {"role": "user", "content": "why " * 100}, {"role": "assistant", "content": "because"})
    report = prepare(train_file_path=write(tmp_path / "train.jsonl", rows), max_seq_length=64, long_rows="drop")
    train = report["splits"]["train"]
    assert (train["truncated"], train["rows_kept"], report["long_rows"]) == (0, 15, "drop")
    assert train["dropped"][0]["reason"].endswith("tokens, more than 64, and long_rows is 'drop'")


def test_a_long_row_is_split_and_none_of_its_trained_tokens_lost(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_data, "CACHED_ROWS", 1)
    rows = [talk(i) for i in range(20)]
    for number in range(30):
        rows[2]["messages"] += talk(number)["messages"]
    file = write(tmp_path / "train.jsonl", rows)
    whole = prepare(train_file_path=file)["splits"]["train"]
    (tmp_path / "prepared").rename(tmp_path / "whole")
    for attempt in ("made", "from the cache"):
        report = prepare(train_file_path=file, max_seq_length=64, long_rows="split", cache=tmp_path / "cache")
        train = report["splits"]["train"]
        lines = encoded(tmp_path, "train")
        assert train["assistant_tokens"] == whole["assistant_tokens"] > 0
        assert (train["rows_kept"], train["truncated"], len(lines)) == (16, 0, train["sequences"])
        assert train["sequences"] > 20 and train["notes"][prepare_data.SPLIT] == 1
        assert all(len(line["input_ids"]) <= 64 for line in lines)
        assert sum(line["row"] == 3 for line in lines) == train["sequences"] - 15
        assert len(raw(tmp_path, "train")) == 16 and report["lengths"]["train"]["max"] > 64
        assert f"16 of 16 rows in {train['sequences']} sequences" in next(iter(summary(report)))
        (tmp_path / "prepared").rename(tmp_path / attempt)
    assert (tmp_path / "made" / "train.parquet").read_bytes() == (
        tmp_path / "from the cache" / "train.parquet"
    ).read_bytes()


def test_a_split_of_the_last_turn_is_refused(prepare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="which is of a whole conversation"):
        prepare(
            train_file_path=write(tmp_path / "t.jsonl", [talk(i) for i in range(20)]),
            long_rows="split",
            train_on="last",
        )


def test_what_is_trained_on_is_recorded_and_kept_apart_in_the_cache(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_data, "CACHED_ROWS", 1)
    more = ({"role": "user", "content": "And?"}, {"role": "assistant", "content": "No more."})
    file = write(tmp_path / "train.jsonl", [talk(i, *more) for i in range(20)])
    trained = {}
    for train_on in ("assistant", "last", "everything"):
        report = prepare(train_file_path=file, train_on=train_on, cache=tmp_path / "cache")
        assert report["train_on"] == train_on
        trained[train_on] = part = report["splits"]["train"]["assistant_tokens"]
        labels = [label for row in encoded(tmp_path, "train") for label in row["labels"] if label != -100]
        assert len(labels) == part
        (tmp_path / "prepared").rename(tmp_path / train_on)
    assert trained["last"] < trained["assistant"] < trained["everything"] == report["splits"]["train"]["tokens"]
    assert "100% trained on" in next(iter(summary(report)))
    assert len(list((tmp_path / "cache" / row_cache.FOLDER).iterdir())) == 3


def test_padding_fills_every_row_with_masked_tokens(prepare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [talk(i) for i in range(20)])
    report = prepare(train_file_path=train, max_seq_length=100, pad_to_max_length="true")
    for row in encoded(tmp_path, "train"):
        assert len(row["input_ids"]) == len(row["labels"]) == 100
        assert row["input_ids"][-1] == report["pad_token_id"]
        assert row["labels"][-1] == -100


def test_batches_change_memory_and_no_byte_of_the_result(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    train = write(tmp_path / "train.jsonl", [talk(i) for i in range(40)])
    whole = prepare(train_file_path=train)
    rows = encoded(tmp_path, "train")
    (tmp_path / "prepared").rename(tmp_path / "whole")
    assert prepare(train_file_path=train, batch_size=7) == whole
    assert encoded(tmp_path, "train") == rows
    assert parquet.ParquetFile(tmp_path / "prepared" / "train.parquet").num_row_groups == 5


def test_every_file_kind_and_format_gives_the_same_tokens(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    rows = [talk(i) for i in range(20)]
    pairs = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(20)]
    write(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(pairs))
    (tmp_path / "c.csv").write_text("instruction,output\n" + "".join(f"What is {i}?,It is {i}.\n" for i in range(20)))
    with (tmp_path / "d.tsv").open("w", newline="") as file:
        cells = [[i, json.dumps(row["messages"])] for i, row in enumerate(rows)]
        csv.writer(file, delimiter="\t").writerows([["id", "messages"], *cells])
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "e.parquet")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "MLTable").write_text("paths:\n  - file: ../a.jsonl\n")
    tokens_by_kind = []
    for name, path in [
        ("file", "a.jsonl"),
        ("file", "b.json"),
        ("file", "c.csv"),
        ("file", "d.tsv"),
        ("file", "e.parquet"),
        ("mltable", "table"),
    ]:
        prepare(**{f"train_{name}_path": tmp_path / path})
        tokens_by_kind.append([row["input_ids"] for row in encoded(tmp_path, "train")])
        (tmp_path / "prepared").rename(tmp_path / f"prepared-{path}")
    assert all(tokens == tokens_by_kind[0] for tokens in tokens_by_kind)


def test_an_mltable_wins_over_a_file(prepare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [talk(i) for i in range(20)])
    (tmp_path / "MLTable").write_text("paths:\n  - file: a.jsonl\n")
    path = write(tmp_path / "b.jsonl", [talk(i) for i in range(30)])
    report = prepare(train_file_path=path, train_mltable_path=tmp_path / "MLTable")
    assert report["splits"]["train"]["source"] == "a.jsonl"


def test_held_out_rows_alone_are_prepared_for_a_comparison(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    report = prepare(test_file_path=write(tmp_path / "test.jsonl", [talk(1)]))
    assert list(report["splits"]) == ["test"]
    assert len(encoded(tmp_path, "test")) == 1
    assert not (tmp_path / "prepared" / "train.parquet").exists()


@pytest.mark.parametrize(
    "rows, inputs, error, message",
    [
        pytest.param(None, {}, InvalidParameter, "The training rows are missing", id="no rows given"),
        pytest.param([], {}, InvalidFile, r"train\.jsonl is empty", id="empty file"),
        pytest.param([talk(1)] * 12, {}, InvalidData, "stands in the|Of 10 train rows 0 can be used", id="all rows alike"),
        pytest.param([talk(i) for i in range(11)], {}, InvalidData, "has 11 rows, of which 9 are for training, expected 10 or more", id="few rows"),
        pytest.param([talk(i) for i in range(20)], {"max_seq_length": 0}, InvalidParameter, "max_seq_length is 0, expected -1", id="no length"),
        pytest.param([talk(i) for i in range(20)], {"max_seq_length": 5}, InvalidData, "Of 2 test rows 0 can be used, expected 1 or more|Of 16 train rows 0", id="all cut"),
    ],
)  # fmt: skip
def test_what_cant_be_prepared_is_said_before_anything_is_written(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path, rows: Any, inputs: Any, error: type[Exception], message: str
) -> None:
    if rows is not None:
        inputs = {**inputs, "train_file_path": write(tmp_path / "train.jsonl", rows)}
    with pytest.raises(error, match=message):
        prepare(**inputs)
    assert not (tmp_path / "prepared").exists()


def test_an_output_that_is_there_is_never_overwritten(prepare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [talk(i) for i in range(20)])
    (tmp_path / "prepared").mkdir()
    prepare(train_file_path=train)
    with pytest.raises(Conflict, match="exists already and isn't empty"):
        prepare(train_file_path=train)


def test_it_tells_its_progress_and_records_its_error(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "step").mkdir()
    monkeypatch.setenv("MAFUNZO_STEP_FOLDER", str(tmp_path / "step"))
    caplog.set_level("INFO")
    train = write(tmp_path / "train.jsonl", [talk(i) for i in range(19)] + ["{"])
    argv = ["--model", model, "--train_file_path", train]
    assert refused(prepare_data, [*argv, "--prepared", tmp_path / "a"]) == 2
    assert "train.jsonl, row 20: isn't JSON" in capsys.readouterr().err
    assert json.loads((tmp_path / "step" / "error.json").read_text())["code"] == "invalid_data"
    complete(prepare_data, [*argv, "--prepared", tmp_path / "b", "--on_bad_row", "skip"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {event["phase"] for event in events} == {"prepare train", "prepare validation", "prepare test"}
    assert "train           16 of 16 rows" in caplog.text
    assert "1 left out: isn't JSON" in caplog.text
    metrics = json.loads((tmp_path / "step" / "metrics.jsonl").read_text().splitlines()[0])
    assert metrics["train_rows_kept"] == 16


def test_the_files_are_to_the_byte_those_of_a_row_at_a_time(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path, model: Path
) -> None:
    rows = [talk(i, {"role": "user", "content": "é" * (i % 5 + 1)}) for i in range(30)]
    prepare(train_file_path=write(tmp_path / "train.jsonl", rows), batch_size=7)
    encoder = Encoder(load_tokenizer(model))
    selection = rows[:24]
    ids = pa.list_(pa.int32())
    schema = pa.schema([("input_ids", ids), ("labels", ids), ("file", pa.string()), ("row", pa.int64())])
    with parquet.ParquetWriter(tmp_path / "slow.parquet", schema, compression="zstd") as writer:
        for first in range(0, 24, 7):
            part = [encoder.encode([conversation_from_dict(row)], None)[0] for row in selection[first : first + 7]]
            numbers = range(first + 1, first + 1 + len(part))
            columns = [[e.input_ids for e in part], [e.labels for e in part], ["train.jsonl"] * len(part), [*numbers]]
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema))
    assert (tmp_path / "prepared" / "train.parquet").read_bytes() == (tmp_path / "slow.parquet").read_bytes()
    lines = [
        json.dumps({**row, "file": "train.jsonl", "row": i}, ensure_ascii=False) for i, row in enumerate(selection, 1)
    ]
    assert (tmp_path / "prepared" / "raw" / "train.jsonl").read_text().splitlines() == lines


def test_the_collector_of_garbage_is_as_before_when_rows_are_prepared(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count() > 0
    prepare(train_file_path=write(tmp_path / "train.jsonl", [talk(i) for i in range(20)]))
    assert (gc.get_threshold(), gc.get_freeze_count() > 0) == (thresholds, frozen)


def test_rows_of_an_earlier_file_come_from_the_cache_and_change_no_byte(
    prepare: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(prepare_data, "CACHED_ROWS", 30)
    monkeypatch.setattr(row_cache, "MEAN_BLOCK", 4)
    caplog.set_level("INFO")
    odd = {
        "messages": [{"role": "user", "content": "a <|end|> b", "name": "Amina"}, {"role": "assistant", "content": "é"}]
    }
    rows = [*(talk(i) for i in range(60)), odd, {"messages": []}, talk(90) | {"column": 1}]
    options = {"on_bad_row": "skip", "max_seq_length": 64}

    def files(name: str, lines: list[Any], cache: str = "cache") -> dict[str, bytes]:
        prepare(tmp_path / cache, train_file_path=write(tmp_path / "train.jsonl", lines), **options)
        folder = (tmp_path / "prepared").rename(tmp_path / name)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = files("first", rows)
    assert "came from the cache" not in caplog.text
    assert files("again", rows) == first
    assert f"The tokens of {len(rows)} rows came from the cache" in caplog.text
    longer = [*rows, *(talk(i) for i in range(100, 110))]
    from_cache = files("longer", longer)
    assert files("fresh", longer, "empty") == from_cache
    reused = [int(record.args[0]) for record in caplog.records if "came from the cache" in record.msg and record.args]
    assert len(reused) == 2 and reused[0] == len(rows) and reused[1] > len(rows) / 2


def test_a_few_rows_are_not_kept(prepare: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    prepare(tmp_path / "cache", train_file_path=write(tmp_path / "train.jsonl", [talk(i) for i in range(20)]))
    assert not (tmp_path / "cache").exists()


def test_a_step_keeps_what_it_tokenized_in_the_cache_of_its_settings(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAFUNZO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare_data, "CACHED_ROWS", 20)
    train = write(tmp_path / "train.jsonl", [talk(i) for i in range(20)])
    complete(prepare_data, ["--model", model, "--train_file_path", train, "--prepared", tmp_path / "prepared"])
    (entry,) = {path.parent for path in (tmp_path / "cache").rglob("*.rows")}
    assert entry.parent == tmp_path / "cache" / "tokens"
    assert entry in [path for pattern in CACHED for path in (tmp_path / "cache").glob(pattern)]


def test_other_processes_change_no_byte(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = write(tmp_path / "train.jsonl", [talk(i) for i in range(60)])
    whole = prepare(train_file_path=train)
    (tmp_path / "prepared").rename(tmp_path / "whole")
    monkeypatch.setattr(prepare_data, "worker_count", lambda rows: 2)
    assert prepare(train_file_path=train) == whole
    for name in ("train.parquet", "raw/train.jsonl", "report.json", "preview.json"):
        assert (tmp_path / "prepared" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows_but_for_what_tells_them_apart(
    prepare: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_cache, "MOST_BYTES", 10_000)
    peaks = []
    for name, count in (("warm", 20), ("few", 60), ("many", 360)):
        rows = [talk(i) for i in range(count)]
        for row in rows:
            row["messages"][0]["content"] += " why" * 250
        path = write(tmp_path / f"{name}.jsonl", rows)
        del rows, row
        tracemalloc.start()
        try:
            prepare(train_file_path=path, batch_size=10)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        (tmp_path / "prepared").rename(tmp_path / name)
    assert peaks[2] - peaks[1] < 300 * 1000  # bytes a row; each has 1,000 of text and 4,000 of tokens
