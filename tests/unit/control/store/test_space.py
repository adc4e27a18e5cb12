"""The space on the home's disk: the reserve, the limits, and what holds the rest."""

import os
from pathlib import Path

import pytest

from mafunzo.control.store.home import Home
from mafunzo.control.store.space import FLOOR_BYTES, RESERVE_BYTES, START_BYTES, Space, bytes_in
from mafunzo.errors import StorageFull


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def with_free(home: Home, free_bytes: int, monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.setattr(Space, "free_bytes", lambda self: free_bytes)
    return Space(home)


def test_a_reserve_is_kept_while_there_is_room_and_freed_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    space, reserve = with_free(home, START_BYTES + RESERVE_BYTES, monkeypatch), home.root / "reserve"
    space.keep_reserve()
    space.keep_reserve()
    assert (reserve.stat().st_size, reserve.stat().st_mode & 0o777) == (RESERVE_BYTES, 0o600)
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES, "it holds its space"
    space.free_reserve()
    space.free_reserve()
    assert not reserve.exists()


def test_no_reserve_is_made_where_there_is_no_room_for_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(home, START_BYTES, monkeypatch).keep_reserve()
    assert not (home.root / "reserve").exists()


def test_the_reserve_is_given_away_only_where_hardly_anything_is_left(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(home, START_BYTES + RESERVE_BYTES, monkeypatch).keep_reserve()
    with_free(home, RESERVE_BYTES, monkeypatch).free_reserve_if_full()
    assert (home.root / "reserve").exists()
    with_free(home, RESERVE_BYTES - 1, monkeypatch).free_reserve_if_full()
    assert not (home.root / "reserve").exists()


def test_where_too_little_is_free_it_says_what_holds_the_space(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.jobs / "large.bin").write_bytes(b"x" * 3 * 2**20)
    (home.logs / "small.log").write_bytes(b"x" * 2 * 2**20)
    with_free(home, FLOOR_BYTES, monkeypatch).require()
    with pytest.raises(StorageFull) as refusal:
        with_free(home, 2**20, monkeypatch).require()
    assert refusal.value.message == (
        f"1 MB are free on the disk of {home.root}, expected 64 MB at least. The home holds 3 MB in jobs, 2 MB in logs. "
        "Free some space, and start again."
    )


def test_a_folder_holds_what_is_freed_with_it(tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    (folder / "own.bin").write_bytes(b"x" * 2**20)
    (tmp_path / "shared.bin").write_bytes(b"x" * 2**20)
    os.link(tmp_path / "shared.bin", folder / "shared.bin")
    (folder / "away").symlink_to(tmp_path)
    assert 2**20 <= bytes_in(folder) < 2**20 + 64 * 1024
