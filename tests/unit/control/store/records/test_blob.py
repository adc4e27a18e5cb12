"""Names of blobs in their containers."""

from dataclasses import replace

import pytest

from mafunzo.control.store.records import Records
from mafunzo.entities.blob import Blob, Condition, Container
from mafunzo.errors import Conflict, ContainerNotFound, PreconditionFailed
from tests.support.statements import statements_sent
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


def write(records: Records, *names: str) -> None:
    for name in names:
        records.blobs.write("files", name, lambda _, name=name: replace(BLOB, name=name))  # type: ignore[misc]


def test_blobs_are_scanned_from_a_name_on_by_the_code_points_of_their_names(records: Records) -> None:
    write(records, "a", "B", "b/1", "b/2", "b/\ud7ff", "b0", "é")
    assert [blob.name for blob in records.blobs.scan("files", size=2)] == [
        "B",
        "a",
        "b/1",
        "b/2",
        "b/\ud7ff",
        "b0",
        "é",
    ]
    assert [blob.name for blob in records.blobs.scan("files", after="b/1", size=2)] == ["b/2", "b/\ud7ff", "b0", "é"]
    assert [blob.name for blob in records.blobs.scan("files", "b/", after="b/1", size=1)] == ["b/2", "b/\ud7ff"]
    assert [blob.name for blob in records.blobs.scan("files", "b/\ud7ff")] == ["b/\ud7ff"]
    assert list(records.blobs.scan("files", "\U0010ffff")) == []


def test_of_a_virtual_folder_one_blob_is_enough(records: Records) -> None:
    write(records, "a", *(f"d/{number}" for number in range(30)), "d0", *(f"x/y/{number}" for number in range(9)))
    with statements_sent() as statements:
        names = [blob.name for blob in records.blobs.scan("files", delimiter="/", size=3)]
    assert {name.partition("/")[0] for name in names} == {"a", "d", "d0", "x"} and len(names) < 9
    assert len([one for one in statements if one.startswith("SELECT")]) == 3
    assert {name[:4] for name in (blob.name for blob in records.blobs.scan("files", "x/", delimiter="/", size=2))} == {
        "x/y/"
    }


def test_containers_are_read_a_page_at_a_time(records: Records) -> None:
    for name in ("b-1", "b-2", "b-3", "c"):
        records.containers.add(Container(name, '"1"', modified_at=NOON))
    assert [one.name for one in records.containers.page("b-", 2, "")] == ["b-1", "b-2"]
    assert [one.name for one in records.containers.page("b-", 2, "b-2")] == ["b-3"]


def test_views_go_together_and_a_container_takes_its_blobs_along(records: Records) -> None:
    records.blobs.write("files", "own", lambda _: replace(BLOB, name="own"))
    records.blobs.write("files", "view", lambda _: replace(BLOB, name="view", view_of="job:j"))
    assert [blob.name for blob in records.blobs.delete_views("job:j")] == ["view"]
    records.containers.delete("files")
    assert (records.containers.list(), records.blobs.list("files")) == ([], [])
