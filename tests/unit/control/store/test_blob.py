"""Uploaded files: whole or in blocks, each stored once by its content, under names that lead nowhere else."""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.blob import ABANDONED_S, Blobs
from mafunzo.control.store.database import Database
from mafunzo.control.store.home import Home
from mafunzo.control.store.records import Records
from mafunzo.entities.blob import BlockUse, Condition
from mafunzo.errors import (
    BlobExists,
    BlocksMissing,
    Conflict,
    ContainerNotFound,
    InvalidParameter,
    NotFound,
    PreconditionFailed,
)


@pytest.fixture
def blobs(database: Database, artifacts: Artifacts, home: Home) -> Blobs:
    found = Blobs(Records(database), artifacts, home)
    found.create_container("files")
    return found


def put(blobs: Blobs, name: str, body: bytes, container: str = "files", **more: object) -> None:
    with blobs.draft() as draft:
        draft.write(body)
        blobs.put(container, name, draft, **more)


def put_block(blobs: Blobs, name: str, block: str, body: bytes) -> None:
    with blobs.draft() as draft:
        draft.write(body)
        blobs.blocks.put("files", name, block, draft)


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
    found = blobs.put_blocks("files", "big", [BlockUse("Mw=="), BlockUse("MQ=="), BlockUse("MQ==")])
    assert blobs.path(found).read_bytes() == b"three one one "
    assert list((home.root / "uploads").iterdir()) == []


def test_a_block_that_was_not_uploaded_is_told(blobs: Blobs) -> None:
    put_block(blobs, "big", "MQ==", b"one")
    with pytest.raises(BlocksMissing, match="1 of 2 blocks of 'big' weren't uploaded"):
        blobs.put_blocks("files", "big", [BlockUse("MQ=="), BlockUse("Mg==")])
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


@pytest.mark.parametrize("name", ["..", "a/..", "a/", ".", "a/\0", "n" * 256, f"{'é' * 128}/x"])
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
    (old, *_) = sorted((home.root / "uploads").glob("*/*"), key=lambda path: path.stat().st_mtime)
    os.utime(old / "blocks", (time.time() - ABANDONED_S - 1,) * 2)
    blobs.blocks.forget_abandoned()
    assert not old.exists()
    assert len(list((home.root / "uploads").glob("*/*"))) == 1


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
    assert artifacts.checkout(blobs.artifact("files", names[1]), tmp_path / "taken").is_file()
    assert len(list((artifacts.root / "blobs").glob("*/*"))) == stored + 1
    assert len(blobs.withdraw("files", "jobs/one")) == 2
    assert [blob.name for blob in blobs.list("files")] == ["jobs/one-more"]


def test_views_of_one_thing_are_withdrawn_together_and_an_upload_in_their_place_stays(
    blobs: Blobs, artifacts: Artifacts, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    for name in ("a", "b"):
        (tmp_path / "out" / name).write_text(name)
    artifact = artifacts.put(tmp_path / "out")
    blobs.publish("files", "of/one", artifact, view_of="job:one")
    blobs.publish("files", "of/two", artifact, view_of="job:two")
    put(blobs, "of/one/a", b"a user's own")
    shown = blobs.get("files", "of/one/b").artifact
    assert blobs.withdraw_views("job:one") == {shown}
    assert [blob.name for blob in blobs.list("files")] == ["of/one/a", "of/two/a", "of/two/b"]


def test_an_artifacts_files_take_the_place_of_others(blobs: Blobs, artifacts: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("kept")
    (tmp_path / "out" / "changed").write_text("before")
    blobs.place("files", "a", artifacts.put(tmp_path / "out"))
    before = {blob.name: blob.etag for blob in blobs.list("files", "a/")}
    (tmp_path / "out" / "changed").write_text("after")
    blobs.place("files", "a", artifacts.put(tmp_path / "out"))
    found = {blob.name: blob for blob in blobs.list("files", "a/")}
    assert found["a/kept"].etag == before["a/kept"]
    assert found["a/changed"].etag != before["a/changed"]
    assert blobs.path(found["a/changed"]).read_text() == "after"
    blobs.place("files", "one.txt", artifacts.put(tmp_path / "out" / "kept"))
    assert [blob.name for blob in blobs.list("files", "one")] == ["one.txt"]


def test_a_block_of_the_blob_that_is_there_can_be_kept(blobs: Blobs) -> None:
    put_block(blobs, "big", "MQ==", b"one ")
    put_block(blobs, "big", "Mg==", b"two ")
    blobs.put_blocks("files", "big", [BlockUse("MQ=="), BlockUse("Mg==")])
    put_block(blobs, "big", "MQ==", b"new ")
    uses = [
        BlockUse("Mg=="),
        BlockUse("MQ==", may_be_committed=False),
        BlockUse("MQ==", may_wait=False),
        BlockUse("MQ=="),
    ]
    found = blobs.put_blocks("files", "big", uses)
    assert blobs.path(found).read_bytes() == b"two new one new "
    assert [(block.id, block.size) for block in found.blocks] == [("Mg==", 4), ("MQ==", 4), ("MQ==", 4), ("MQ==", 4)]
    with pytest.raises(BlocksMissing, match="1 of 1 blocks"):
        blobs.put_blocks("files", "big", [BlockUse("MQ==", may_be_committed=False)])


def test_blocks_that_wait_are_told_by_id(blobs: Blobs) -> None:
    put_block(blobs, "big", "Mg==", b"two")
    put_block(blobs, "big", "MQ==", b"1")
    assert [(block.id, block.size) for block in blobs.blocks.list("files", "big")] == [("MQ==", 1), ("Mg==", 3)]
    assert blobs.blocks.list("files", "other") == []


def test_of_two_writers_that_want_no_blob_to_be_there_one_is_refused(blobs: Blobs) -> None:
    is_new = Condition(none_match=frozenset("*"))

    def write(number: int) -> str:
        try:
            put(blobs, "x", b"%d" % number, condition=is_new)
        except BlobExists as refused:
            return refused.code
        return "written"

    with ThreadPoolExecutor(8) as pool:
        found = Counter(pool.map(write, range(8)))
    assert found == {"written": 1, "blob_exists": 7}


def test_a_condition_is_checked_by_what_is_there(blobs: Blobs) -> None:
    put(blobs, "x", b"old")
    etag = blobs.get("files", "x").etag.strip('"')
    blobs.change("files", "x", Condition(match=frozenset({etag})), metadata={"a": "b"})
    for verb in (blobs.delete, blobs.change):
        with pytest.raises(PreconditionFailed, match="doesn't hold"):
            verb("files", "x", Condition(match=frozenset({etag})))
    assert dict(blobs.get("files", "x").metadata) == {"a": "b"}


def test_a_container_is_made_once_and_deleted_with_its_blobs(blobs: Blobs, home: Home) -> None:
    with pytest.raises(Conflict, match="'files' exists already"):
        blobs.create_container("files")
    put(blobs, "x", b"x")
    put_block(blobs, "y", "MQ==", b"y")
    blobs.delete_container("files")
    assert list((home.root / "uploads").iterdir()) == []
    for verb in (blobs.container, blobs.delete_container):
        with pytest.raises(ContainerNotFound, match="no container 'files'"):
            verb("files")
    with pytest.raises(ContainerNotFound, match="no container 'files'"):
        put(blobs, "x", b"x")
    blobs.ensure_container("files")
    blobs.ensure_container("files")
    assert blobs.list("files") == []


def test_a_prefix_is_taken_as_it_is_spelled(blobs: Blobs) -> None:
    put(blobs, "A/x", b"x")
    put(blobs, "a/y", b"y")
    assert [blob.name for blob in blobs.list("files", "a/")] == ["a/y"]
    assert [blob.name for blob in blobs.list("files")] == ["A/x", "a/y"]
