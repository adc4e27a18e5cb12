"""A disk that really is full: each scenario runs in a process of its own that sees a file system of 4 MB."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.backup import backup, restore
from mafunzo.control.store.home import Home
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.records import Records
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.errors import StorageFull

MB = 1 << 20


def an_artifact_that_does_not_fit_is_taken_back(disk: Path, elsewhere: Path) -> None:
    artifacts = Artifacts(disk / "store")
    small = artifacts.put(_folder(elsewhere / "small", 1, MB))
    free = _free(disk)
    with expect_full("disk is full", str(elsewhere / "large")):
        artifacts.put(_folder(elsewhere / "large", 6, MB))
    assert _free(disk) == free, "bytes of what didn't fit are left"
    assert list((disk / "store" / "partial").iterdir()) == []
    assert artifacts.hashes() == [small] and artifacts.verify(small) == []
    artifacts.collect(set(), grace_s=0)
    assert artifacts.verify(artifacts.put(_folder(elsewhere / "fits", 2, MB))) == []


def what_is_stored_already_needs_no_room(disk: Path, elsewhere: Path) -> None:
    artifacts = Artifacts(disk / "store")
    source = _folder(elsewhere / "source", 2, MB)
    stored = artifacts.put(source)
    _fill(disk, leave=64 * 1024)
    assert artifacts.put(source) == stored


def a_checkout_that_does_not_fit_leaves_nothing(disk: Path, elsewhere: Path) -> None:
    artifacts = Artifacts(disk / "store")
    stored = artifacts.put(_folder(elsewhere / "source", 5, MB // 2))
    with expect_full("disk is full", str(disk / "out")):
        artifacts.checkout(stored, disk / "out", is_writable=True)
    assert sorted(path.name for path in disk.iterdir()) == ["store"]
    artifacts.checkout(stored, disk / "out")


def a_record_that_does_not_fit_leaves_the_database_as_it_was(disk: Path, elsewhere: Path) -> None:
    home = Home(disk / "home")
    records = Records(open_database(home))
    asset = Asset(AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, "chat", "1"), FolderType.CUSTOM_MODEL)
    records.assets.add(asset)
    filler = _fill(disk, leave=64 * 1024)
    large = replace(asset, key=replace(asset.key, version="2"), properties={"text": "x" * MB})
    with expect_full("disk is full", "mafunzo.db"):
        records.assets.add(large)
    assert [found.version for found in Records(open_database(home)).assets.list()] == ["1"]
    filler.unlink()
    records.assets.add(large)
    assert [found.version for found in records.assets.list()] == ["2", "1"]


def a_backup_that_does_not_fit_leaves_no_file(disk: Path, elsewhere: Path) -> None:
    home, artifacts = _home_of(elsewhere, 5 * MB)
    with expect_full("disk is full", str(disk / "home.tar")):
        backup(home, open_database(home), artifacts, disk / "home.tar")
    assert list(disk.iterdir()) == []


def a_home_that_does_not_fit_is_not_restored_in_part(disk: Path, elsewhere: Path) -> None:
    home, artifacts = _home_of(elsewhere, 5 * MB)
    backup(home, open_database(home), artifacts, elsewhere / "home.tar")
    empty = Home(disk / "home")
    free = _free(disk)
    with expect_full("disk is full", str(elsewhere / "home.tar")):
        restore(elsewhere / "home.tar", empty)
    assert _free(disk) == free
    assert [path for path in empty.root.rglob("*") if path.is_file()] == [empty.root / "server.lock"]


SCENARIOS = (
    an_artifact_that_does_not_fit_is_taken_back,
    what_is_stored_already_needs_no_room,
    a_checkout_that_does_not_fit_leaves_nothing,
    a_record_that_does_not_fit_leaves_the_database_as_it_was,
    a_backup_that_does_not_fit_leaves_no_file,
    a_home_that_does_not_fit_is_not_restored_in_part,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_on_a_full_disk(scenario: Callable[[Path, Path], None], tmp_path: Path, namespace: list[str]) -> None:
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    elsewhere.mkdir()
    mount_then = 'mount -t tmpfs -o size=4m tmpfs "$1" && shift && exec "$@"'
    argv = [sys.executable, __file__, scenario.__name__, str(disk), str(elsewhere)]
    command = [*namespace, "sh", "-c", mount_then, "sh", str(disk), *argv]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def expect_full(*parts: str) -> Iterator[None]:
    """The error is ours, and says each of `parts`."""
    with pytest.raises(StorageFull) as raised:
        yield
    assert all(part in str(raised.value) for part in parts), str(raised.value)


def _folder(root: Path, files: int, size: int) -> Path:
    root.mkdir()
    for number in range(files):
        (root / f"{number}.bin").write_bytes(secrets.token_bytes(size))
    return root


def _home_of(elsewhere: Path, size: int) -> tuple[Home, Artifacts]:
    home = Home(elsewhere / "full-home")
    artifacts = Artifacts(home.artifacts)
    artifacts.put(_folder(elsewhere / "source", 1, size))
    return home, artifacts


def _free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_bsize


def _fill(disk: Path, leave: int) -> Path:
    filler = disk / "filler"
    filler.write_bytes(b"0" * (_free(disk) - leave))
    return filler


if __name__ == "__main__":
    {scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
