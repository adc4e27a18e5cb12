"""The one database of a home: SQLite with a write-ahead log (WAL) by default, PostgreSQL by URL, by the same code.

Write transactions are serialized (SQLite's BEGIN IMMEDIATE, an advisory lock on PostgreSQL), so that what is read inside of
one can't change before it ends: no lost update and no lease taken twice, whichever database it is.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine

from mafunzo.control.store.home import Home
from mafunzo.errors import (
    FailedError,
    InvalidFile,
    InvalidParameter,
    MissingExtra,
    StorageFull,
    TimedOut,
    Unreachable,
)

BUSY_TIMEOUT_S = 60
POSTGRESQL_LOCK = 0x6D6166756E7A6F  # "mafunzo": the advisory lock that every writer of the database takes
SQLITE_FILE = "mafunzo.db"


class Database:
    """Connections to one database; to be shared by the threads of a process, and opened anew in each process."""

    def __init__(self, home: Home, url: str | sa.URL | None = None) -> None:
        """`url`: of another database than the home's own. It is taken as it is, without bringing its tables up to date."""
        self.home = home
        self.engine = _engine(home, url)
        self._writing = threading.local()
        self._watching = threading.Lock()
        self._watcher: sqlite3.Connection | None = None  # it never writes, so that it sees every write

    def __repr__(self) -> str:
        return f"Database({self.engine.url.render_as_string(hide_password=True)!r})"

    def __str__(self) -> str:
        """Where it is, without a password."""
        url = self.engine.url
        return str(url.database) if self.is_sqlite else url.render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection whose reads and writes are one atomic step, serialized; an exception rolls it back.

        Raises `TimedOut` when others write for a minute on end, `StorageFull` when the disk is.
        """
        assert not getattr(self._writing, "now", False), "a write transaction inside of another would wait for itself"
        self._writing.now = True
        try:
            with _translated(self), self.engine.connect() as connection, connection.begin():
                if not self.is_sqlite:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(POSTGRESQL_LOCK)))
                yield connection
        finally:
            self._writing.now = False

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield a connection with snapshot isolation, for reads only; it and writers never block one another."""
        if self.is_sqlite:
            engine = self.engine.execution_options(mafunzo_begin="BEGIN")
        else:
            engine = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with _translated(self), engine.connect() as connection, connection.begin():
            yield connection

    def version(self) -> int | None:
        """Return a number that changes with every write by anybody: in 20 microseconds, what was read before still holds.

        None where the database has no such number (PostgreSQL).
        """
        if not self.is_sqlite:
            return None
        with self._watching:
            if self._watcher is None:
                self._watcher = sqlite3.connect(
                    str(self.engine.url.database), isolation_level=None, check_same_thread=False
                )
            return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close every connection."""
        with self._watching:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None
        self.engine.dispose()


def _engine(home: Home, url: str | sa.URL | None) -> Engine:
    target = _url(home, url)
    if target.get_backend_name() == "sqlite":
        return _sqlite_engine(target)
    try:
        return sa.create_engine(target, json_serializer=_to_json, pool_size=8, max_overflow=32, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise MissingExtra("PostgreSQL needs its driver. Run: pip install 'mafunzo[postgres]'") from error


def _url(home: Home, url: str | sa.URL | None) -> sa.URL:
    if url is None:
        file = home.database / SQLITE_FILE
        _make_private(file)
        return sa.URL.create("sqlite", database=str(file))
    try:
        target = sa.make_url(url)
    except exc.ArgumentError as error:
        raise InvalidParameter("The database URL can't be read, expected postgresql://user@host/name.") from error
    backend = target.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise InvalidParameter(f"The database URL names '{backend}', expected postgresql://user@host/name.")
    return target.set(drivername="postgresql+psycopg") if backend == "postgresql" else target


def _make_private(file: Path) -> None:
    """Make the file for its owner only; SQLite would make it for everyone to read.

    A file that is there is never opened: closing it would take away the locks that SQLite holds on it for this process's
    other connections (POSIX locks go with the first descriptor that is closed), and two writers would damage the database.
    """
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _sqlite_engine(url: sa.URL) -> Engine:
    engine = sa.create_engine(
        url, json_serializer=_to_json, connect_args={"timeout": BUSY_TIMEOUT_S}, pool_size=8, max_overflow=32
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late for BEGIN IMMEDIATE
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("mafunzo_begin", "BEGIN IMMEDIATE"))

    return engine


def _to_json(value: Any) -> str:
    """NaN isn't JSON: SQLite would keep it and PostgreSQL would not."""
    return json.dumps(value, allow_nan=False)


@contextmanager
def _translated(database: Database) -> Iterator[None]:
    """Turn the driver's faults that a user can do something about into our errors."""
    try:
        yield
    except exc.TimeoutError as error:
        raise TimedOut(f"All connections to {database} were busy for 30 s.") from error
    except exc.OperationalError as error:
        raise _operational(database, error) from error
    except exc.DatabaseError as error:
        if isinstance(error.orig, sqlite3.DatabaseError) and _sqlite_code(error) in _SQLITE_BROKEN:
            raise InvalidFile(_broken(database)) from error
        raise


_SQLITE_BROKEN = {"SQLITE_NOTADB", "SQLITE_CORRUPT"}


def _operational(database: Database, error: exc.OperationalError) -> Exception:
    code = _sqlite_code(error)
    if code == "SQLITE_FULL":
        return StorageFull(f"{database}: the disk is full. Nothing of the change was kept; free some space.")
    if code.startswith("SQLITE_BUSY"):
        return TimedOut(f"{database}: other processes were writing for {BUSY_TIMEOUT_S} s on end. Try again.")
    if code in _SQLITE_BROKEN:
        return InvalidFile(_broken(database))
    if database.is_sqlite:
        return FailedError(f"{database}: {error.orig}.")
    if getattr(error.orig, "sqlstate", None) == "53100":
        return StorageFull(f"{database}: the disk of the database server is full. Nothing of the change was kept.")
    reason = str(error.orig).strip().splitlines()[0]
    return Unreachable(f"{database} can't be reached: {reason}. Is PostgreSQL running, and is the URL right?")


def _sqlite_code(error: exc.DBAPIError) -> str:
    return str(getattr(error.orig, "sqlite_errorname", ""))


def _broken(database: Database) -> str:
    return f"{database} is no database or is damaged. Copies from before each migration are in {database.home.backups}."
