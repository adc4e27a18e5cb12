import stat
import threading
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.home import Home
from mafunzo.control.store.migrations import open_database
from mafunzo.errors import InvalidFile, InvalidParameter, Unreachable

ADD_ONE = """
import sys
from pathlib import Path
import sqlalchemy as sa
from mafunzo.control.store import table
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.home import Home
database = open_database(Home(Path(sys.argv[1])), sys.argv[2] or None)
for _ in range(25):
    with database.transaction() as connection:
        count = connection.execute(sa.select(table.label.c.version)).scalar_one()
        connection.execute(sa.update(table.label).values(version=str(int(count) + 1)))
"""
DIE_HALFWAY = """
import os, sys
from pathlib import Path
import sqlalchemy as sa
from mafunzo.control.store import table
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.home import Home
database = open_database(Home(Path(sys.argv[1])), sys.argv[2] or None)
with database.transaction() as connection:
    connection.execute(sa.update(table.label).values(version="half"))
    os.kill(os.getpid(), 9)
"""
LABEL = {"scope": "s", "type": "t", "name": "n", "label": "l"}


def _add_label(database: Database, version: str) -> None:
    with database.transaction() as connection:
        connection.execute(sa.insert(table.label).values(LABEL | {"version": version}))


def _version(database: Database) -> str:
    with database.snapshot() as connection:
        return str(connection.execute(sa.select(table.label.c.version)).scalar_one())


def test_an_exception_undoes_the_whole_transaction(database: Database) -> None:
    _add_label(database, "1")
    with pytest.raises(RuntimeError), database.transaction() as connection:
        connection.execute(sa.update(table.label).values(version="2"))
        raise RuntimeError
    assert _version(database) == "1"


def test_a_snapshot_sees_one_moment_and_holds_up_no_writer(database: Database) -> None:
    _add_label(database, "1")
    with database.snapshot() as connection:
        query = sa.select(table.label.c.version)
        assert connection.execute(query).scalar_one() == "1"
        with database.transaction() as writer:
            writer.execute(sa.update(table.label).values(version="2"))
        assert connection.execute(query).scalar_one() == "1"
    assert _version(database) == "2"


@pytest.mark.parametrize("url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_threads_and_processes_that_count_at_once_lose_no_count(
    database: Database, home: Home, url: str | None, start_python: Callable[..., Popen[str]]
) -> None:
    _add_label(database, "0")

    def count() -> None:
        for _ in range(25):
            with database.transaction() as connection:
                value = connection.execute(sa.select(table.label.c.version)).scalar_one()
                connection.execute(sa.update(table.label).values(version=str(int(value) + 1)))

    processes = [start_python(ADD_ONE, home.root, url or "") for _ in range(2)]
    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        assert process.wait() == 0, process.communicate()[1]
    assert _version(database) == str(5 * 25)


def test_a_process_killed_in_a_transaction_leaves_no_trace_and_no_lock(
    database: Database, home: Home, url: str | None, start_python: Callable[..., Popen[str]]
) -> None:
    _add_label(database, "whole")
    assert start_python(DIE_HALFWAY, home.root, url or "").wait() == -9
    assert _version(database) == "whole"
    with database.transaction() as connection:
        connection.execute(sa.update(table.label).values(version="later"))
    assert _version(database) == "later"


def test_opening_a_home_again_leaves_the_locks_of_its_other_connections(
    home: Home, start_python: Callable[..., Popen[str]]
) -> None:
    database = open_database(home)
    _add_label(database, "1")
    open_database(home).close()
    assert start_python(ADD_ONE, home.root, "").wait() == 0  # the last one to leave would take the log away
    with database.transaction() as connection:
        connection.execute(sa.update(table.label).values(version="100"))
    assert start_python(ADD_ONE, home.root, "").wait() == 0
    assert _version(database) == "125"
    database.close()


def test_a_transaction_inside_of_another_is_a_bug_that_shows(database: Database) -> None:
    with database.transaction(), pytest.raises(AssertionError, match="would wait for itself"), database.transaction():
        pass
    with database.transaction():
        pass


def test_the_file_of_sqlite_is_for_its_owner_only_and_in_wal_mode(home: Home) -> None:
    database = open_database(home)
    with database.snapshot() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    modes = {stat.S_IMODE(path.stat().st_mode) for path in home.database.iterdir()}
    database.close()
    assert modes == {0o600}


def test_a_file_that_is_no_database_is_named(home: Home) -> None:
    (home.database / "mafunzo.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(InvalidFile, match=r"mafunzo\.db.* is no database or is damaged"):
        open_database(home)


@pytest.mark.parametrize("url", ["mysql://me@host/name", "no url"])
def test_a_url_of_something_else_is_refused_without_repeating_it(home: Home, url: str) -> None:
    with pytest.raises(InvalidParameter, match="expected postgresql://user@host/name"):
        Database(home, url)


def test_a_server_that_is_not_there_is_said_to_be_unreachable_without_the_password(home: Home, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="Is PostgreSQL running") as raised:
        open_database(home, f"postgresql://me:hidden-word@/name?host={tmp_path}")
    assert "hidden-word" not in str(raised.value)


def test_the_version_changes_with_each_write_and_only_then(home: Home) -> None:
    database, another = open_database(home), open_database(home)
    first = database.version()
    assert database.version() == first
    _add_label(database, "1")
    second = database.version()
    assert second != first
    with another.transaction() as connection:
        connection.execute(sa.update(table.label).values(version="2"))
    assert database.version() not in (first, second)
    database.close()
    another.close()
