"""Names of blobs in their containers."""

from dataclasses import replace

import pytest

from mafunzo.control.store.records import Records
from mafunzo.entities.blob import Blob, Condition, Container
from mafunzo.errors import Conflict, ContainerNotFound, PreconditionFailed
from tests.unit.control.store.records.sample import NOON, artifact_hash

BLOB = Blob("files", "a/b", artifact_hash("a"), 3, '"1"', modified_at=NOON)


@pytest.fixture(autouse=True)
def container(records: Records) -> None:
    records.containers.add(Container("files", '"1"', modified_at=NOON))


def test_a_container_has_its_name_alone(records: Records) -> None:
    with pytest.raises(Conflict, match="A container 'files' exists already"):
        records.containers.add(Container("files", '"2"', modified_at=NOON))
    assert [one.etag for one in records.containers.list()] == ['"1"']


def test_a_blob_is_written_into_a_container_that_is_there(records: Records) -> None:
    assert records.blobs.write("files", "a/b", lambda _: BLOB) == records.blobs.find("files", "a/b") == BLOB
    with pytest.raises(ContainerNotFound, match="There is no container 'none'"):
        records.blobs.write("none", "a/b", lambda _: BLOB)


def test_a_write_sees_what_is_there_and_is_refused_whole(records: Records) -> None:
    records.blobs.write("files", "a/b", lambda _: BLOB)
    later = Condition(match=frozenset({"2"}))
    with pytest.raises(PreconditionFailed):
        records.blobs.write("files", "a/b", lambda there: replace(there or BLOB, size=9), later)
    with pytest.raises(PreconditionFailed):
        records.blobs.delete("files", "a/b", later)
    assert records.blobs.list("files") == [BLOB]


def test_a_prefix_is_one_by_its_very_letters(records: Records) -> None:
    for name in ("A/x", "a/%", "a/x"):
        records.blobs.write("files", name, lambda _, name=name: replace(BLOB, name=name))  # type: ignore[misc]
    assert [blob.name for blob in records.blobs.list("files", "a/")] == ["a/%", "a/x"]


def test_views_go_together_and_a_container_takes_its_blobs_along(records: Records) -> None:
    records.blobs.write("files", "own", lambda _: replace(BLOB, name="own"))
    records.blobs.write("files", "view", lambda _: replace(BLOB, name="view", view_of="job:j"))
    assert [blob.name for blob in records.blobs.delete_views("job:j")] == ["view"]
    records.containers.delete("files")
    assert (records.containers.list(), records.blobs.list("files")) == ([], [])
