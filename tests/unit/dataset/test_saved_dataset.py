"""What `save_to_disk` of Hugging Face's `datasets` wrote gives its rows, not what its JSON files tell of them."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from mafunzo.dataset.files import open_source
from mafunzo.errors import InvalidFile, NotSupported

ROWS = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(6)]


def save(folder: Path, *parts: list[dict[str, str]], state: dict[str, object] | None = None) -> Path:
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{len(parts):05}.arrow" for i in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        part = pa.Table.from_pylist(rows)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part, max_chunksize=2)
    body = {"_data_files": [{"filename": name} for name in names], "_split": None, **(state or {})}
    (folder / "state.json").write_text(json.dumps(body))
    (folder / "dataset_info.json").write_text("{}")
    (folder / "cache-1234.arrow").write_bytes(b"x")
    return folder


def test_a_saved_data_set_gives_its_rows_in_order(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "saved", ROWS[:4], ROWS[4:]))
    assert [row.body for row in source.rows()] == ROWS
    assert source.count() == 6
    assert [row.body for row in source.rows(range(3, 5))] == ROWS[3:5]


def test_one_split_is_taken_and_several_are_named(tmp_path: Path) -> None:
    save(tmp_path / "train", ROWS)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert open_source(tmp_path).count() == 6
    save(tmp_path / "test", ROWS)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InvalidFile, match=rf"holds the splits train, test\. Name one of them: {tmp_path}/train"):
        open_source(tmp_path)


def test_a_folder_of_saved_data_sets_has_their_rows_only(tmp_path: Path) -> None:
    save(tmp_path / "a", ROWS[:2])
    save(tmp_path / "b", ROWS[2:])
    assert [row.body for row in open_source(tmp_path).rows()] == ROWS


def test_a_saved_data_set_that_isnt_whole_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", ROWS)
    (folder / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(InvalidFile, match=r"isn't whole: data-00000-of-00001\.arrow is missing"):
        open_source(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(InvalidFile, match=r"state\.json can't be read"):
        open_source(folder)
    with pytest.raises(NotSupported, match="selected by an index"):
        open_source(save(tmp_path / "old", ROWS, state={"_indices_data_files": [{"filename": "indices.arrow"}]}))


def test_a_damaged_arrow_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"\xff\xff\xff\xffnonsense")
    with pytest.raises(InvalidFile, match=r"a\.arrow (isn't an Arrow file|is damaged)"):
        list(open_source(tmp_path / "a.arrow").rows())
