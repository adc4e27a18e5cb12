"""Tests of `mafunzo.control.store.response`: the files of stored responses."""

import errno
from pathlib import Path

import pytest

from mafunzo.control.store import response as store
from mafunzo.control.store.home import Home
from mafunzo.entities.stored_response import StoredResponse
from mafunzo.errors import ArtifactCorrupt, StorageFull

ID = "resp_" + "0" * 48


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def made(endpoint: str = "chat", id: str = ID) -> StoredResponse:
    return StoredResponse(id, endpoint, "keys", None, ({"type": "message", "content": ["ü"]},), {"id": id})


def test_a_response_is_found_as_it_was_and_its_user_s_only(home: Home) -> None:
    store.put(home, made())
    assert store.find(home, "chat", ID) == made()
    [path] = store.files(home)
    assert [one.stat().st_mode & 0o077 for one in (path, path.parent)] == [0, 0]


def test_there_is_none_under_another_id_or_endpoint(home: Home) -> None:
    store.put(home, made())
    assert store.find(home, "other", ID) is None
    assert store.find(home, "chat", ID[:-1] + "1") is None


@pytest.mark.parametrize("id", ["", "resp_1", f"../chat/{ID}", ID + "\n", ID.upper()])
def test_what_is_no_id_is_no_path(id: str, home: Home) -> None:
    store.put(home, made())
    assert store.find(home, "chat", id) is None


def test_deleting_is_idempotent_and_an_endpoint_is_forgotten_with_all_of_its_own(home: Home) -> None:
    other = made("other")
    for one in (made(), other):
        store.put(home, one)
    store.delete(home, made())
    store.delete(home, made())
    assert [path.parent.name for path in store.files(home)] == ["other"]
    store.forget(home, "other")
    store.forget(home, "other")
    assert list(store.files(home)) == []
    store.mark_used(home, other)  # gone meanwhile


def test_a_damaged_file_is_named(home: Home) -> None:
    store.put(home, made())
    [path] = store.files(home)
    path.write_text("{")
    with pytest.raises(ArtifactCorrupt, match=str(path)):
        store.find(home, "chat", ID)


def test_a_full_disk_is_told_as_such(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "write_json", full)
    with pytest.raises(StorageFull, match=f"response {ID} was being stored"):
        store.put(home, made())
