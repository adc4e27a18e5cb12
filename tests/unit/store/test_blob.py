"""Uploaded files: whole or in blocks, each stored once by its content, under names that lead nowhere else."""

import os
import time
from pathlib import Path

import pytest

from mafunzo.errors import InvalidParameter, NotFound
from mafunzo.store.artifact import Artifacts
from mafunzo.store.blob import ABANDONED_S, Blobs
from mafunzo.store.database import Database
from mafunzo.store.home import Home
from mafunzo.store.record import Records


@pytest.fixture
def blobs(database: Database, artifacts: Artifacts, home: Home) -> Blobs:
    return Blobs(Records(database), artifacts, home)


def put(blobs: Blobs, name: str, body: bytes, container: str = "files", **more: object) -> None:
    with blobs.draft() as draft:
        draft.write(body)
        blobs.put(container, name, draft, **more)


def put_block(blobs: Blobs, name: str, block: str, body: bytes) -> None:
    with blobs.draft() as draft:
        draft.write(body)
        blobs.put_block("files", name, block, draft)


def test_a_blob_is_what_was_uploaded(blobs: Blobs) -> None:
    put(blobs, "a/train.jsonl", b"rows", content_type="text/plain", metadata={"name": "data"})
    found = blobs.get("files", "a/train.jsonl")
    assert (found.size, found.content_type, dict(found.metadata)) == (4, "text/plain", {"name": "data"})
    assert blobs.path(found).read_bytes() == b"rows"


def test_equal_bytes_are_stored_once_under_every_name(blobs: Blobs, artifacts: Artifacts) -> None:
    put(blobs, "a/x.bin", b"same")
    put(blobs, "b/y.bin", b"same")
    assert len(list((artifacts.root / "blobs").glob("*/*"))) == 1


def test_a_name_that_is_written_again_has_the_new_bytes_and_another_etag(blobs: Blobs) -> None:
    put(blobs, "x", b"old")
    before = blobs.get("files", "x")
    put(blobs, "x", b"new")
    after = blobs.get("files", "x")
    assert blobs.path(after).read_bytes() == b"new"
    assert after.etag != before.etag


def test_blocks_are_put_together_in_the_order_that_is_asked(blobs: Blobs, home: Home) -> None:
    for block, body in (("MQ==", b"one "), ("Mg==", b"two "), ("Mw==", b"three ")):
        put_block(blobs, "big", block, body)
    found = blobs.put_blocks("files", "big", ["Mw==", "MQ==", "MQ=="])
    assert blobs.path(found).read_bytes() == b"three one one "
    assert list((home.root / "uploads").iterdir()) == []


def test_a_block_that_was_not_uploaded_is_told(blobs: Blobs) -> None:
    put_block(blobs, "big", "MQ==", b"one")
    with pytest.raises(InvalidParameter, match="1 of 2 blocks of 'big' weren't uploaded"):
        blobs.put_blocks("files", "big", ["MQ==", "Mg=="])
    with pytest.raises(NotFound):
        blobs.get("files", "big")


def test_names_below_a_prefix_are_a_folder_without_a_copy(blobs: Blobs, artifacts: Artifacts, tmp_path: Path) -> None:
    put(blobs, "model/config.json", b"{}")
    put(blobs, "model/data/weights", b"w")
    put(blobs, "models/other", b"o")
    artifact = blobs.artifact("files", "model")
    artifacts.checkout(artifact, tmp_path / "out")
    found = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {"config.json": b"{}", "data/weights": b"w"}
    assert blobs.artifact("files", "model/config.json") != artifact
    with pytest.raises(NotFound, match="neither a blob 'mod' nor any below it"):
        blobs.artifact("files", "mod")


def test_a_list_takes_its_prefix_literally(blobs: Blobs) -> None:
    for name in ("a_b/1", "a%b/2", "axb/3"):
        put(blobs, name, b"x")
    assert [blob.name for blob in blobs.list("files", "a_")] == ["a_b/1"]
    assert [blob.name for blob in blobs.list("files", "a%")] == ["a%b/2"]
    assert blobs.list("others") == []


@pytest.mark.parametrize("name", ["..", "a/..", "a/", ".", "a/\0"])
def test_a_name_that_is_no_files_name_is_refused(blobs: Blobs, name: str) -> None:
    with pytest.raises(InvalidParameter, match="can't name a blob"):
        put(blobs, name, b"x")


def test_a_name_cannot_lead_out_of_the_folder_that_it_is_part_of(blobs: Blobs) -> None:
    put(blobs, "folder/../../evil", b"x")
    with pytest.raises(InvalidParameter, match="would lie outside"):
        blobs.artifact("files", "folder")


def test_the_bytes_of_a_blob_are_kept_until_it_is_deleted(
    blobs: Blobs, artifacts: Artifacts, database: Database
) -> None:
    put(blobs, "x", b"bytes")
    records = Records(database)
    assert artifacts.collect(records.referenced_artifacts(), grace_s=0) == 0
    blobs.delete("files", "x")
    assert artifacts.collect(records.referenced_artifacts(), grace_s=0) == 5
    with pytest.raises(NotFound):
        blobs.delete("files", "x")


def test_blocks_that_nobody_put_together_are_forgotten_after_a_week(blobs: Blobs, home: Home) -> None:
    put_block(blobs, "old", "MQ==", b"1")
    put_block(blobs, "new", "MQ==", b"1")
    (old, *_) = sorted((home.root / "uploads").iterdir(), key=lambda path: path.stat().st_mtime)
    os.utime(old / "blocks", (time.time() - ABANDONED_S - 1,) * 2)
    blobs.forget_abandoned()
    assert not old.exists()
    assert len(list((home.root / "uploads").iterdir())) == 1


def test_what_broke_off_leaves_nothing(blobs: Blobs, home: Home) -> None:
    with pytest.raises(RuntimeError), blobs.draft() as draft:
        draft.write(b"half")
        raise RuntimeError("the client went away")
    assert list((home.root / "uploads").iterdir()) == []


def test_an_artifacts_files_are_shown_and_withdrawn_without_a_copy(
    blobs: Blobs, artifacts: Artifacts, tmp_path: Path
) -> None:
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "MLmodel").write_text("flavors")
    (tmp_path / "out" / "data" / "model.bin").write_bytes(b"weights")
    artifact = artifacts.put(tmp_path / "out")
    stored = len(list((artifacts.root / "blobs").glob("*/*")))
    for _ in range(2):
        blobs.publish("files", "jobs/one/outputs/model", artifact)
    put(blobs, "jobs/one-more", b"another's")
    names = [blob.name for blob in blobs.list("files", "jobs/one/")]
    assert names == ["jobs/one/outputs/model/MLmodel", "jobs/one/outputs/model/data/model.bin"]
    assert blobs.path(blobs.get("files", names[1])).read_bytes() == b"weights"
    assert len(list((artifacts.root / "blobs").glob("*/*"))) == stored + 1
    assert len(blobs.withdraw("files", "jobs/one")) == 2
    assert [blob.name for blob in blobs.list("files")] == ["jobs/one-more"]
