from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database


def test_moments_come_back_as_utc_whatever_their_offset(database: Database) -> None:
    given = datetime(2026, 3, 4, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=-7)))
    row = {"number": 99, "name": "n", "mafunzo_version": "v", "applied_at": given}
    with database.transaction() as connection:
        connection.execute(sa.insert(table.migration).values(row))
        back = connection.execute(sa.select(table.migration.c.applied_at).filter_by(number=99)).scalar_one()
    assert (back, back.tzinfo) == (given, UTC)


def test_a_moment_without_its_offset_is_a_bug_that_shows(database: Database) -> None:
    row = {"number": 99, "name": "n", "mafunzo_version": "v", "applied_at": datetime(2026, 3, 4)}
    with pytest.raises(sa.exc.StatementError, match="without its offset"), database.transaction() as connection:
        connection.execute(sa.insert(table.migration).values(row))
