import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.home import Home
from mafunzo.control.store.migrations import MIGRATIONS, Migration, migrate, open_database, schema_version
from mafunzo.errors import Conflict, NewerHome

OPEN = """
import sys
from pathlib import Path
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.home import Home
open_database(Home(Path(sys.argv[1])), sys.argv[2] or None).close()
"""


def _add_column(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE label ADD COLUMN colour TEXT")


def _fail_halfway(connection: Connection) -> None:
    _add_column(connection)
    raise RuntimeError("power cut")


NEXT = (*MIGRATIONS, Migration(len(MIGRATIONS) + 1, "colours of labels", _add_column))
BROKEN = (*MIGRATIONS, Migration(len(MIGRATIONS) + 1, "colours of labels", _fail_halfway))


def _shape(database: Database) -> dict[str, object]:
    """Return what a database says of its tables, in words that are the same for migrated and for declared ones."""
    with database.snapshot() as connection:
        inspector = sa.inspect(connection)
        return {
            name: {
                "columns": {c["name"]: (str(c["type"]), c["nullable"]) for c in inspector.get_columns(name)},
                "primary key": inspector.get_pk_constraint(name)["constrained_columns"],
                "unique": sorted(u["column_names"] for u in inspector.get_unique_constraints(name)),
                "indexes": sorted(
                    (i["name"], i["column_names"]) for i in inspector.get_indexes(name) if not i["unique"]
                ),
                "foreign keys": [
                    (f["constrained_columns"], f["referred_table"], f["referred_columns"], f["options"])
                    for f in inspector.get_foreign_keys(name)
                ],
            }
            for name in sorted(inspector.get_table_names())
        }


def test_the_migrations_end_at_the_tables_that_the_code_declares(
    database: Database, url: str | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    other_url = None if url is None else request.getfixturevalue("new_postgresql_database")()
    declared = Database(Home(tmp_path / "declared"), other_url)
    with declared.transaction() as connection:
        table.metadata.create_all(connection)
    assert _shape(database) == _shape(declared)
    declared.close()


def test_what_the_registry_has_is_in_the_scope_of_today(home: Home) -> None:
    database = Database(home)
    migrate(database, MIGRATIONS[:5])
    scopes = ("workspace", "registry:azureml", "registry:mirror")
    with database.transaction() as connection:
        for scope in scopes:
            row = {"scope": scope, "type": "data", "name": "n", "label": "l", "version": "1"}
            connection.execute(sa.insert(table.label).values(row))
            del row["label"]
            row |= {"is_archived": False, "created_at": datetime(2026, 1, 1, tzinfo=UTC), "body": {}}
            connection.execute(sa.insert(table.asset).values(row))
    migrate(database)
    with database.snapshot() as connection:
        for rows in (table.asset, table.label):
            assert set(connection.execute(sa.select(rows.c.scope)).scalars()) == {
                "workspace",
                "registry",
                "registry:mirror",
            }
    database.close()


def test_the_migrations_are_numbered_without_gaps() -> None:
    assert [migration.number for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_a_step_makes_a_copy_first_and_happens_once(database: Database, home: Home) -> None:
    with database.transaction() as connection:
        row = {"scope": "s", "type": "t", "name": "n", "label": "l", "version": "v"}
        connection.execute(sa.insert(table.label).values(row))
    assert list(home.backups.iterdir()) == []
    migrate(database, NEXT)
    migrate(database, NEXT)
    assert schema_version(database) == len(NEXT)
    (copy,) = home.backups.iterdir()
    assert copy.name.startswith(f"before-{len(NEXT):04d}-")
    if copy.suffix == ".db":
        assert sqlite3.connect(copy).execute("SELECT * FROM label").fetchall() == [("s", "t", "n", "l", "v")]
    else:
        assert '"table": "label"' in copy.read_text()


def test_a_new_database_goes_through_all_steps_without_copies(home: Home) -> None:
    database = Database(home)
    migrate(database, NEXT)
    assert (schema_version(database), list(home.backups.iterdir())) == (len(NEXT), [])
    database.close()


def test_a_step_that_fails_changes_nothing(database: Database) -> None:
    before = _shape(database)
    with pytest.raises(RuntimeError, match="power cut"):
        migrate(database, BROKEN)
    assert (schema_version(database), _shape(database)) == (len(MIGRATIONS), before)
    migrate(database, NEXT)
    assert schema_version(database) == len(NEXT)


def test_a_new_database_goes_through_all_steps_or_none(home: Home, url: str | None) -> None:
    database = Database(home, url)
    with pytest.raises(RuntimeError, match="power cut"):
        migrate(database, BROKEN)
    assert (schema_version(database), _shape(database)) == (0, {})
    migrate(database)
    assert schema_version(database) == len(MIGRATIONS)
    database.close()


def test_older_code_refuses_a_newer_home_and_says_what_to_do(database: Database, home: Home, url: str | None) -> None:
    migrate(database, NEXT)
    with pytest.raises(
        NewerHome,
        match=rf"database version {len(NEXT)}.*knows versions up to {len(MIGRATIONS)}.*pip install -U mafunzo",
    ) as raised:
        open_database(home, url)
    assert str(home.root) in str(raised.value)


@pytest.mark.parametrize("url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_processes_that_open_a_new_home_at_once_all_find_it_whole(
    home: Home, url: str | None, start_python: Callable[..., Popen[str]]
) -> None:
    processes = [start_python(OPEN, home.root, url or "") for _ in range(4)]
    for process in processes:
        assert process.wait() == 0, process.communicate()[1]
    database = open_database(home, url)
    assert schema_version(database) == len(MIGRATIONS)
    database.close()


def test_a_database_on_a_server_belongs_to_one_home(
    home: Home, tmp_path: Path, new_postgresql_database: Callable[[], str]
) -> None:
    url = new_postgresql_database()
    open_database(home, url).close()
    open_database(home, url).close()
    with pytest.raises(Conflict, match=r"belongs to another home than .*other: its secret\.key is another one"):
        open_database(Home(tmp_path / "other"), url)
