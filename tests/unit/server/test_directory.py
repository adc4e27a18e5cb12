"""What requests see of the store, and from when."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.errors import NotFound, Unauthorized
from mafunzo.server.directory import MAX_AGE_S, Directory, Snapshot
from mafunzo.store.database import open_database
from mafunzo.store.home import Home
from mafunzo.store.record import Records


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    database = open_database(Home(tmp_path))
    found = Records(database)
    found.add_endpoint(Endpoint("chat"), keys=("one", "two"))
    found.add_endpoint(Endpoint("other"), keys=("three", "four"))
    yield found
    database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(records: Records, clock: Clock) -> Directory:
    return Directory(records, clock)


def opened(directory: Directory, key: str) -> list[str]:
    return [entry.endpoint.name for entry in asyncio.run(directory.ask(lambda snapshot: snapshot.opened_by(key)))]


def test_each_of_its_keys_opens_an_endpoint_and_no_other(directory: Directory) -> None:
    assert opened(directory, "one") == opened(directory, "two") == ["chat"]
    assert opened(directory, "four") == ["other"]


@pytest.mark.parametrize("key", ["", "on", "onee", "One", "schlüssel"])
def test_keys_are_compared_whole(directory: Directory, key: str) -> None:
    with pytest.raises(Unauthorized):
        opened(directory, key)


def test_an_endpoint_that_is_being_deleted_is_gone(directory: Directory, records: Records) -> None:
    records.update_endpoint(replace(records.get_endpoint("chat"), is_deleting=True))
    with pytest.raises(Unauthorized):
        opened(directory, "one")


def test_an_endpoint_that_the_key_does_not_open_looks_like_one_that_is_not_there(directory: Directory) -> None:
    told = []
    for name in ("other", "nobody"):
        with pytest.raises(NotFound) as caught:
            asyncio.run(directory.ask(lambda snapshot, name=name: snapshot.find("one", name)))  # type: ignore[misc]
        told.append(caught.value.message.replace(name, "NAME"))
    assert told[0] == told[1]


def test_what_was_read_counts_for_a_moment_and_no_longer(directory: Directory, records: Records, clock: Clock) -> None:
    assert opened(directory, "one") == ["chat"]
    records.set_endpoint_keys("chat", ("new", "two"))
    clock.now += MAX_AGE_S
    assert opened(directory, "one") == ["chat"], "still the same reading"
    clock.now += 0.001
    with pytest.raises(Unauthorized):
        opened(directory, "one")


def test_a_refusal_is_always_that_of_a_fresh_reading(directory: Directory, records: Records, clock: Clock) -> None:
    assert opened(directory, "one") == ["chat"]
    records.set_endpoint_keys("chat", ("new", "two"))
    clock.now += 0.001
    assert opened(directory, "new") == ["chat"]


def test_many_that_ask_at_once_are_served_by_one_reading(directory: Directory, records: Records) -> None:
    records.add_deployment(Deployment("chat", "blue", "m:1", "sha256:0"))

    async def ask_often() -> set[float]:
        def read_at(snapshot: Snapshot) -> float:
            return snapshot.read_at if snapshot.find("one", "chat").deployments else -1.0

        return set(await asyncio.gather(*(directory.ask(read_at) for _ in range(50))))

    assert asyncio.run(ask_often()) == {100.0}
