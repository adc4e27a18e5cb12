"""What crosses between machines comes once by content, and arrives whole or is refused."""

import os
import time
from pathlib import Path

import pytest

from mafunzo.control.launcher import transfer
from mafunzo.control.launcher.transfer import KEPT_S, Cache, SentFile, blocks_of, files_of, read_block
from mafunzo.errors import ArtifactCorrupt


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source" / "model").mkdir(parents=True)
    (tmp_path / "source" / "model" / "weights").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "source" / "rows.jsonl").write_text("{}\n")
    (tmp_path / "source" / "model" / "same").write_text("{}\n")
    return tmp_path / "source"


def send(source: Path, files: list[SentFile], cache: Cache) -> int:
    lacking = cache.missing(files)
    for file in {file.sha256: file for file in files if file.sha256 in lacking}.values():
        for start, size in reversed(list(blocks_of(file.size))):  # in any order
            cache.write(file.sha256, "me", start, read_block(source / file.path, start, size))
        cache.finish(file.sha256, "me")
    return len(lacking)


def test_files_arrive_as_they_were_and_equal_ones_once(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BLOCK_BYTES", 100)
    files = files_of(source, [source / "model", source / "rows.jsonl"])
    assert [file.path for file in files] == ["model/same", "model/weights", "rows.jsonl"]
    cache = Cache(tmp_path / "cache")
    assert (send(source, files, cache), send(source, files, cache)) == (2, 0)
    cache.lay_out(tmp_path / "there", files)
    assert all((tmp_path / "there" / file.path).read_bytes() == (source / file.path).read_bytes() for file in files)


def test_an_empty_file_arrives_too(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    files, cache = files_of(tmp_path, [tmp_path / "empty"]), Cache(tmp_path / "cache")
    send(tmp_path, files, cache)
    cache.lay_out(tmp_path / "there", files)
    assert (tmp_path / "there" / "empty").read_bytes() == b""


def test_other_bytes_than_were_sent_are_refused_and_leave_nothing(tmp_path: Path, source: Path) -> None:
    (file,) = files_of(source, [source / "rows.jsonl"])
    cache = Cache(tmp_path / "cache")
    cache.write(file.sha256, "me", 0, b"[]\n")
    with pytest.raises(ArtifactCorrupt, match="has other bytes than were sent"):
        cache.finish(file.sha256, "me")
    assert cache.missing([file]) == {file.sha256}
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_was_not_used_for_long_goes_and_what_is_asked_for_stays(tmp_path: Path, source: Path) -> None:
    files, cache = files_of(source, [source]), Cache(tmp_path / "cache")
    send(source, files, cache)
    for path in (tmp_path / "cache").iterdir():
        os.utime(path, (0, time.time() - KEPT_S - 60))
    used = [file for file in files if file.path == "rows.jsonl"]
    assert cache.missing(used) == set()
    cache.forget_unused()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [used[0].sha256]
