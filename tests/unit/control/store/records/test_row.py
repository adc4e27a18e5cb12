"""Entities as rows: columns for what is looked up, JSON for the rest."""

import pytest
import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records import Records
from mafunzo.control.store.records.row import named_row, to_entity, to_row
from mafunzo.entities.compute import Compute
from mafunzo.errors import Conflict, NotFound
from tests.unit.control.store.records.sample import NOON, job_named

COMPUTE = Compute("big", "Standard_NC6", tags={"a": "b"}, created_at=NOON)


def test_an_entity_is_split_into_columns_and_a_body() -> None:
    row = to_row(table.compute, COMPUTE)
    assert (row["name"], row["created_at"]) == ("big", NOON)
    assert "name" not in row["body"] and row["body"]["tags"] == {"a": "b"}


def test_a_row_becomes_the_entity_that_it_was(records: Records, database: Database) -> None:
    records.computes.put(COMPUTE)
    with database.snapshot() as connection:
        assert to_entity(Compute, named_row(connection, table.compute, "big")) == COMPUTE


def test_what_is_not_there_is_refused_with_what_looks_like_it(records: Records) -> None:
    records.computes.put(COMPUTE)
    with pytest.raises(NotFound, match=r"No compute 'bigg'\. Did you mean big\?"):
        records.computes.delete("bigg")


def test_the_moment_of_creation_stays_and_a_name_is_taken_once(records: Records, database: Database) -> None:
    records.jobs.add(job_named(created_at=NOON), [])
    records.jobs.update(job_named(description="new"))
    assert (records.jobs.get("job").created_at, records.jobs.get("job").description) == (NOON, "new")
    with pytest.raises(Conflict, match="Job job exists already"):
        records.jobs.add(job_named(), [])
    with database.snapshot() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(table.job)).scalar() == 1
