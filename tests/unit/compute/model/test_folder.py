"""A model's folder: what is copied, hashed, checked and recorded of it."""

import json
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mafunzo.compute.model.folder import (
    TOKENIZER_FILES,
    check_weights,
    copy_files,
    drop_keys,
    new_folder,
    read_facts,
    read_json,
    weights_sha256,
    write_facts,
)
from mafunzo.errors import InvalidFile


def test_the_hash_of_the_weights_is_what_two_shell_commands_print(tmp_path: Path) -> None:
    import subprocess

    for name in ("model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"):
        save_file({"w": torch.ones(2)}, tmp_path / name)
    process = subprocess.run(
        "LC_ALL=C; sha256sum *.safetensors | sha256sum",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert weights_sha256(tmp_path) == process.stdout.split()[0]


def test_files_are_copied_with_the_folders_that_they_lie_in_and_links_are_followed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "additional_chat_templates").mkdir(parents=True)
    (source / "tokenizer_of_mine").mkdir()
    for name in ("tokenizer.json", "additional_chat_templates/rag.jinja", "model.bin"):
        (source / name).write_text(name)
    (source / "merges.txt").symlink_to(source / "tokenizer.json")
    copy_files(source, TOKENIZER_FILES, target)
    copies = {str(path.relative_to(target)): path for path in target.rglob("*") if path.is_file()}
    assert set(copies) == {"tokenizer.json", "additional_chat_templates/rag.jinja", "merges.txt"}
    assert copies["merges.txt"].read_text() == "tokenizer.json" and not copies["merges.txt"].is_symlink()


def test_every_fault_of_the_weights_is_told_at_once(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "model-00001-of-00003.safetensors")
    (tmp_path / "model-00002-of-00003.safetensors").write_bytes(b"cut")
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = {"weight_map": dict(zip("abc", shards, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidFile, match="aren't whole") as caught:
        check_weights(tmp_path)
    damaged, missing = caught.value.faults
    assert damaged.startswith(f"{shards[1]} is cut off or damaged: ") and missing == f"{shards[2]} is missing"


def test_a_folder_appears_at_once_and_complete(tmp_path: Path) -> None:
    target = tmp_path / "below" / "out"
    with new_folder(target) as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x" and [target] == list(target.parent.iterdir())
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def test_an_error_leaves_nothing_of_a_new_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_faster_process_stays(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("late")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("early")
    assert (tmp_path / "out" / "file").read_text() == "early" and len(list(tmp_path.iterdir())) == 1


def test_facts_read_back_and_a_folder_of_another_tool_has_none(tmp_path: Path) -> None:
    assert read_facts(tmp_path) == {}
    write_facts(tmp_path, {"name": "Jina"})
    assert read_facts(tmp_path) == {"name": "Jina"}


def test_a_file_without_the_dropped_keys_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a":1,   "b":2}')
    drop_keys(path, "c")
    assert path.read_text() == '{"a":1,   "b":2}'
    drop_keys(path, "b", "c")
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("{", "isn't a JSON file that can be read", id="no JSON"),
        pytest.param("[]", "is list, expected a JSON object", id="no object"),
        pytest.param(None, "isn't a JSON file that can be read", id="no file"),
    ],
)
def test_what_is_no_json_object_is_refused(text: str | None, reason: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(InvalidFile, match=reason):
        read_json(tmp_path / "x.json")
