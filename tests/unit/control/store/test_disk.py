"""Files on the disk: what is hashed, copied, linked and deleted, and what of it is refused."""

import errno
import hashlib
import os
from io import BytesIO
from pathlib import Path

import pytest

from mafunzo.control.store.disk import copy_and_hash, delete_file, full_disk_told, hash_file, link_final, remove_tree
from mafunzo.errors import StorageFull


def test_a_file_is_hashed_with_its_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 2_000_000)
    assert hash_file(tmp_path / "a") == (hashlib.sha256(b"x" * 2_000_000).hexdigest(), 2_000_000)


def test_a_copy_is_new_and_has_the_mode_and_hash_that_were_written(tmp_path: Path) -> None:
    target = tmp_path / "copy"
    assert copy_and_hash(BytesIO(b"abc"), target, 0o444) == (hashlib.sha256(b"abc").hexdigest(), 3)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"abc", 0o444)
    with pytest.raises(FileExistsError):
        copy_and_hash(BytesIO(b"other"), target, 0o444)


def test_a_copy_never_goes_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        copy_and_hash(BytesIO(b"abc"), tmp_path / "link", 0o600)
    assert not (tmp_path / "elsewhere").exists()


def test_a_final_file_becomes_its_other_name_read_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert link_final(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "b").samefile(tmp_path / "a")


def test_bytes_are_freed_by_the_last_of_several_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("four")
    os.link(tmp_path / "a", tmp_path / "b")
    assert [delete_file(tmp_path / "a"), delete_file(tmp_path / "b")] == [0, 4]


def test_a_folder_goes_whatever_its_modes(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").touch(mode=0o444)
    inner.chmod(0o500)
    inner.parent.chmod(0o500)
    remove_tree(tmp_path / "outer")
    remove_tree(tmp_path / "never there")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_other_errors_stay(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageFull, match="at /there while it was being written"),
        full_disk_told("it was being written"),
    ):
        raise OSError(errno.ENOSPC, "no space", "/there")
    with pytest.raises(PermissionError), full_disk_told("it was being written"):
        raise PermissionError(errno.EACCES, "no")
