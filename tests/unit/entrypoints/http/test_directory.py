"""What requests see of the store, and from when."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mafunzo.control.store.database import Database
from mafunzo.control.store.home import Home
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.records import Records
from mafunzo.control.workspace.endpoints import Endpoints
from mafunzo.control.workspace.services import Services
from mafunzo.entities.endpoint import Endpoint
from mafunzo.entrypoints.http.directory import Directory, Snapshot
from mafunzo.errors import NotFound, Unauthorized


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(Home(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def records(database: Database) -> Records:
    found = Records(database)
    found.endpoints.add(Endpoint("chat"), keys=("one", "two"))
    found.endpoints.add(Endpoint("other"), keys=("three", "four"))
    return found


def endpoints(records: Records) -> Endpoints:
    return Endpoints(cast(Services, SimpleNamespace(records=records)))


@pytest.fixture
def directory(records: Records, database: Database) -> Directory:
    return Directory(endpoints(records), database.version)


def opened(directory: Directory, key: str) -> list[str]:
    return [entry.endpoint.name for entry in asyncio.run(directory.newest()).opened_by(key)]


def test_each_of_its_keys_opens_an_endpoint_and_no_other(directory: Directory) -> None:
    assert opened(directory, "one") == opened(directory, "two") == ["chat"]
    assert opened(directory, "four") == ["other"]


@pytest.mark.parametrize("key", ["", "on", "onee", "One", "schlüssel"])
def test_keys_are_compared_whole(directory: Directory, key: str) -> None:
    with pytest.raises(Unauthorized):
        opened(directory, key)


def test_an_endpoint_that_is_being_deleted_is_gone(directory: Directory, records: Records) -> None:
    records.endpoints.update(replace(records.endpoints.get("chat"), is_deleting=True))
    with pytest.raises(Unauthorized):
        opened(directory, "one")


def test_an_endpoint_that_the_key_does_not_open_looks_like_one_that_is_not_there(directory: Directory) -> None:
    told = []
    for name in ("other", "nobody"):
        with pytest.raises(NotFound) as caught:
            asyncio.run(directory.newest()).find("one", name)
        told.append(caught.value.message.replace(name, "NAME"))
    assert told[0] == told[1]


def test_what_was_written_counts_at_once_whoever_wrote_it(
    directory: Directory, records: Records, tmp_path: Path
) -> None:
    assert opened(directory, "one") == ["chat"]
    records.endpoints.set_keys("chat", ("new", "two"))
    assert opened(directory, "new") == ["chat"]
    with pytest.raises(Unauthorized):
        opened(directory, "one")
    another = open_database(Home(tmp_path))
    Records(another).endpoints.set_keys("chat", ("newer", "two"))
    another.close()
    assert opened(directory, "newer") == ["chat"]


def test_nothing_is_read_again_while_nothing_is_written(directory: Directory) -> None:
    async def read_twice() -> tuple[Snapshot, Snapshot]:
        return await directory.newest(), await directory.newest()

    first, second = asyncio.run(read_twice())
    assert first is second


def test_many_that_ask_at_once_are_served_by_one_reading(directory: Directory) -> None:
    async def ask_often() -> list[Snapshot]:
        return await asyncio.gather(*(directory.newest() for _ in range(50)))

    assert len({id(snapshot) for snapshot in asyncio.run(ask_often())}) == 1


def test_a_database_without_a_version_is_read_each_time(records: Records) -> None:
    directory = Directory(endpoints(records), lambda: None)
    assert opened(directory, "one") == ["chat"]
    records.endpoints.set_keys("chat", ("new", "two"))
    assert opened(directory, "new") == ["chat"]
