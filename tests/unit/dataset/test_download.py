"""The catalogue's data sets, from a package in the cache, a mirror, or the hub."""

import hashlib
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from mafunzo.dataset import download
from mafunzo.dataset import wheel as wheels
from mafunzo.dataset.download import (
    Access,
    DataCard,
    HubSource,
    PypiSource,
    cards,
    chitchat_conversations,
    find_card,
    get_dataset,
    split_files,
)
from mafunzo.errors import ArtifactCorrupt, InvalidFile, InvalidParameter, NotFound, Unreachable

ROWS = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]} for i in range(10)
]


def utterances(*pairs: tuple[str, str]) -> dict[str, object]:
    return {"messages": [[{"sender": sender, "text": text, "timestamp": "2018"}] for sender, text in pairs]}


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def package_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a small wheel that is laid out as chitchat's, and a card that names it."""
    talk = utterances(("a", "Hi."), ("b", "Hello!"), ("a", "Bye."), ("b", "See you."))
    wheel = tmp_path / "cache" / "wheels" / "chitchat_dataset-0.9.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("chitchat_dataset/dataset.json", json.dumps({f"id{i}": talk for i in range(10)}))
    card = find_card("chitchat")
    assert isinstance(card.source, PypiSource)
    source = card.source.model_copy(update={"sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()})
    monkeypatch.setattr(download, "cards", lambda: {"chitchat": card.model_copy(update={"source": source})})
    return tmp_path / "cache"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror" / "org" / "name"
    (folder / "data").mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(ROWS[:6]), folder / "data" / "train_sft-00000-of-00002.parquet")
    parquet.write_table(
        pa.Table.from_pylist(ROWS[6:]), folder / "data" / "train_sft-00001-of-00002-0a1b2c3d4e5f.parquet"
    )
    (folder / "test.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS[:4]))
    return tmp_path / "mirror"


def test_two_people_become_user_and_assistant() -> None:
    talk = utterances(
        ("a", "Hi."), ("a", "You?"), ("b", "Hello!"), ("b", " "), ("a", "Bye."), ("b", "See you."), ("a", "Yes.")
    )
    assert list(chitchat_conversations({"x": talk})) == [
        {
            "messages": [
                {"role": "user", "content": "Hi.\nYou?"},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": "Bye."},
                {"role": "assistant", "content": "See you."},
            ],
            "id": "x",
        }
    ]


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param(utterances(("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")), id="one person"),
        pytest.param(utterances(("a", "1"), ("b", "2"), ("c", "3"), ("a", "4")), id="three people"),
        pytest.param(utterances(("a", "1"), ("b", "2"), ("a", "3")), id="three turns"),
    ],
)
def test_other_conversations_are_left_out(talk: dict[str, object]) -> None:
    assert list(chitchat_conversations({"x": talk})) == []


def test_a_package_in_the_cache_needs_no_network(package_cache: Path, tmp_path: Path) -> None:
    files = get_dataset("chitchat", tmp_path / "data", Access(package_cache, offline=True))
    assert {name: len(rows_of(path)) for name, path in files.items()} == {"train": 8, "test": 2}
    first = get_dataset(
        "chitchat", tmp_path / "half", Access(package_cache, offline=True), percent=50, splits=["train"]
    )
    assert list(first) == ["train"]
    assert rows_of(first["train"]) == rows_of(files["train"])[:4]


def test_offline_without_the_package_says_both_ways(tmp_path: Path) -> None:
    with pytest.raises(
        Unreachable, match="Run once without MAFUNZO_OFFLINE, or put its wheel there: pip download"
    ) as excinfo:
        get_dataset("chitchat", tmp_path / "data", Access(tmp_path / "cache", offline=True))
    assert "chitchat-dataset==0.9.0 isn't in" in excinfo.value.message
    assert not (tmp_path / "data").exists()


def test_a_damaged_package_is_never_used(package_cache: Path, tmp_path: Path) -> None:
    wheel = next((package_cache / "wheels").iterdir())
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(Unreachable):
        get_dataset("chitchat", tmp_path / "data", Access(package_cache, offline=True))


def test_a_package_of_another_hash_is_refused(
    package_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = next((package_cache / "wheels").iterdir())
    content = wheel.read_bytes() + b"x"
    wheel.unlink()
    monkeypatch.setattr(wheels, "_pip_download", lambda requirement, into: (into / wheel.name).write_bytes(content))
    with pytest.raises(ArtifactCorrupt, match="isn't the file that the catalogue names"):
        get_dataset("chitchat", tmp_path / "data", Access(package_cache))


def test_a_mirror_gives_the_splits_by_the_names_of_its_files(mirror: Path, tmp_path: Path) -> None:
    files = get_dataset("org/name", tmp_path / "data", Access(tmp_path / "cache", mirror=mirror))
    assert rows_of(files["train_sft"]) == ROWS
    assert rows_of(files["test"]) == ROWS[:4]
    first = get_dataset("org/name", tmp_path / "few", Access(tmp_path / "cache", mirror=mirror), percent=20)
    assert rows_of(first["train_sft"]) == ROWS[:2]
    itself = get_dataset("org/name", tmp_path / "same", Access(tmp_path / "cache", mirror=mirror / "org" / "name"))
    assert list(itself) == list(files)


def test_what_a_readme_declares_wins_over_names(mirror: Path) -> None:
    folder = mirror / "org" / "name"
    header = "configs:\n- config_name: default\n  data_files:\n  - split: validation\n    path: data/train_sft-*\n"
    (folder / "README.md").write_text(f"---\n{header}---\n# A data set")
    assert {name: len(paths) for name, paths in split_files(folder, "org/name").items()} == {"validation": 2}


def test_a_readme_may_name_files_without_splits(mirror: Path) -> None:
    folder = mirror / "org" / "name"
    for declared in ('"data/train*"', '["data/train*", "data/none*"]'):
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {declared}\n---\n")
        splits = split_files(folder, "org/name")
        assert list(splits) == ["train"] and len(splits["train"]) == 2


def test_what_is_compressed_or_saved_has_its_splits_and_what_tells_of_data_is_none(tmp_path: Path) -> None:
    for name in ("train.jsonl.gz", "test-00000-of-00001.json.zst", "dataset_infos.json", ".hidden.jsonl"):
        (tmp_path / name).write_bytes(b"{}")
    assert sorted(split_files(tmp_path, "org/name")) == ["test", "train"]
    saved = tmp_path / "saved"
    for split in ("train", "test"):
        (saved / split).mkdir(parents=True)
        (saved / split / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
        (saved / split / "data.arrow").touch()
    (saved / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert split_files(saved, "org/name") == {name: (saved / name / "data.arrow",) for name in ("train", "test")}


def test_folders_name_splits_where_files_are_numbered(tmp_path: Path) -> None:
    for name in ("train/0000.parquet", "train/0001.parquet", "test/part-00000.jsonl", ".cache/x.jsonl", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert {name: len(paths) for name, paths in split_files(tmp_path, "x").items()} == {"test": 1, "train": 2}


@pytest.mark.parametrize(
    "percent, message",
    [
        pytest.param(0, "percent is 0, expected a number above 0", id="0"),
        pytest.param(101, "percent is 101", id="101"),
        pytest.param(
            1, r"1% of the 4 rows of test are none. Ask for 25% or more|1% of the 10 rows of train_sft", id="no row"
        ),
    ],
)
def test_a_share_without_rows_is_refused(mirror: Path, tmp_path: Path, percent: float, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        get_dataset("org/name", tmp_path / "data", Access(tmp_path / "cache", mirror=mirror), percent=percent)


def test_unknown_names_are_named_with_near_ones(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"No data set 'chitcat'\. Did you mean chitchat\?"):
        find_card("chitcat")
    with pytest.raises(InvalidParameter, match="org/name has no split dev"):
        get_dataset("org/name", tmp_path, Access(tmp_path, mirror=mirror), splits=["dev"])
    with pytest.raises(InvalidFile, match="isn't a mirror of org/other"):
        get_dataset("org/other", tmp_path, Access(tmp_path, mirror=tmp_path / "nowhere"))


def test_the_hub_without_network_says_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        Unreachable, match="Connect this machine to the network, or name a folder that has it: mafunzo data mirror"
    ):
        get_dataset("ultrachat_200k", tmp_path / "data", Access(tmp_path / "cache", offline=True))


def test_every_card_of_the_catalogue_is_sound() -> None:
    catalogue = cards()
    assert {"chitchat", "ultrachat_200k"} <= set(catalogue)
    assert all(card.name == name and card.licence and card.splits for name, card in catalogue.items())
    assert find_card("HuggingFaceH4/ultrachat_200k") == catalogue["ultrachat_200k"]
    assert find_card("org/name").source == HubSource(kind="hub", repo="org/name")


def test_a_card_with_unknown_keys_names_them() -> None:
    with pytest.raises(InvalidFile, match=r"x\.yml: not a data set's card") as excinfo:
        download.card_from_yaml("name: x\nversion: '1'\ncolour: red", "x.yml")
    assert any("colour" in fault for fault in excinfo.value.faults)
    assert isinstance(find_card("chitchat"), DataCard)
