"""Opening a database, and its schema migrations: numbered steps from every earlier one to the tables of `store.table`.

A step never changes once it is released: what comes next is a new step. Before each, the database is copied into the
home's `backups/`; each runs in one transaction with the row that records it, so that it is atomic. A new database goes
through all of them in one.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.dump import dump
from mafunzo.control.store.home import SECRET_FILE, Home
from mafunzo.errors import Conflict, NewerHome

logger = logging.getLogger(__name__)

COPY = "before-"
"""Begins the name of a copy that was made before a step."""


@dataclass(frozen=True)
class Migration:
    """One step; `apply` runs inside of its transaction."""

    number: int
    name: str
    apply: Callable[[Connection], None]


def open_database(home: Home, url: str | None = None) -> Database:
    """Open the database of `home`, or the one at `url`, and bring its tables up to date.

    Raises `NewerHome` when a newer version wrote it, `Unreachable` when there is no server at `url`, and `Conflict` when
    the database at `url` belongs to another home: one with another secret.
    """
    database = Database(home, url)
    try:
        migrate(database)
        if not database.is_sqlite:
            _claim(database)
    except BaseException:
        database.close()
        raise
    return database


def migrate(database: Database, migrations: "tuple[Migration, ...] | None" = None) -> None:
    """Bring the tables up to date, with a copy before each step of a database that isn't new.

    Raises `NewerHome` for a database from the future. Idempotent, also in several processes at once.
    """
    steps = MIGRATIONS if migrations is None else migrations
    _refuse_newer(database, len(steps))
    version = schema_version(database)
    if not version:
        _apply(database, steps)
        version = schema_version(database)
    for step in steps[version:]:
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        copy = dump(database, database.home.backups, f"{COPY}{step.number:04d}-{moment}")
        logger.info("Copied %s to %s", database, copy)
        _apply(database, [step])
    _refuse_newer(database, len(steps))


def _apply(database: Database, steps: Sequence[Migration]) -> None:
    """Apply steps that follow one another in one transaction, unless another process has been faster."""
    writer = metadata.version("mafunzo")
    with database.transaction() as connection:
        if not steps or _version(connection) != steps[0].number - 1:
            return
        for step in steps:
            step.apply(connection)
            row = {"number": step.number, "name": step.name, "mafunzo_version": writer}
            connection.execute(sa.insert(table.migration).values(row | {"applied_at": datetime.now(UTC)}))
            logger.info("Migrated %s to %s (%s)", database, step.number, step.name)


def schema_version(database: Database) -> int:
    """Return the number of the last step that the database has been through; 0 for an empty one."""
    with database.snapshot() as connection:
        return _version(connection)


def _refuse_newer(database: Database, known: int) -> None:
    """Raise `NewerHome` when the database has been through a step that this version doesn't know."""
    version = schema_version(database)
    if version <= known:
        return
    writer = sa.select(table.migration.c.mafunzo_version).where(table.migration.c.number == version)
    with database.snapshot() as connection:
        refuse_newer_version(version, str(database.home.root), connection.execute(writer).scalar_one(), known)


def refuse_newer_version(version: int, what: str, writer: str = "", known: int | None = None) -> None:
    """Raise `NewerHome` when this version doesn't know `version` of the tables, in which `what` was written."""
    known = len(MIGRATIONS) if known is None else known
    if version > known:
        raise NewerHome(
            f"{what} was written by {f'Mafunzo {writer}' if writer else 'a newer Mafunzo'} (database version {version}). "
            f"This is Mafunzo {metadata.version('mafunzo')}, which knows versions up to {known}. Run pip install -U mafunzo, "
            "name another home with MAFUNZO_HOME, or go back to a copy from before in the home's backups folder."
        )


def _version(connection: Connection) -> int:
    if not sa.inspect(connection).has_table("migration"):
        return 0
    return connection.execute(sa.select(sa.func.max(table.migration.c.number))).scalar() or 0


def _claim(database: Database) -> None:
    """Have a database on a server belong to the home that opens it first, as two would start each other's jobs."""
    own = hashlib.sha256(b"mafunzo home" + database.home.secret()).hexdigest()
    with database.transaction() as connection:
        known = connection.execute(sa.select(table.owner.c.home)).scalar()
        if known is None:
            connection.execute(sa.insert(table.owner).values(home=own))
    if known not in (None, own):
        raise Conflict(
            f"{database} belongs to another home than {database.home.root}: its {SECRET_FILE} is another one. "
            "Name an empty database, or put the secret of the home that it belongs to back from a backup."
        )


def _running(statements: str) -> Callable[[Connection], None]:
    """Return the step that runs `statements`, with ID and MOMENT in the words of the database."""

    def apply(connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            words = {"ID": "INTEGER NOT NULL PRIMARY KEY", "MOMENT": "DATETIME"}
        else:
            words = {"ID": "BIGSERIAL PRIMARY KEY", "MOMENT": "TIMESTAMP WITH TIME ZONE"}
        for statement in filter(str.strip, statements.format(**words).split(";")):
            connection.exec_driver_sql(statement)

    return apply


_FIRST_TABLES = """
CREATE TABLE migration (
    number INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, mafunzo_version TEXT NOT NULL, applied_at {MOMENT} NOT NULL
);
CREATE TABLE owner (home TEXT NOT NULL PRIMARY KEY);
CREATE TABLE asset (
    id {ID}, scope TEXT NOT NULL, type TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, artifact TEXT,
    is_archived BOOLEAN NOT NULL, created_at {MOMENT} NOT NULL, body JSON NOT NULL,
    UNIQUE (scope, type, name, version)
);
CREATE TABLE label (
    scope TEXT NOT NULL, type TEXT NOT NULL, name TEXT NOT NULL, label TEXT NOT NULL, version TEXT NOT NULL,
    PRIMARY KEY (scope, type, name, label)
);
CREATE TABLE job (
    id {ID}, name TEXT NOT NULL UNIQUE, status TEXT NOT NULL, priority INTEGER NOT NULL,
    is_cancel_requested BOOLEAN NOT NULL, created_at {MOMENT} NOT NULL, body JSON NOT NULL
);
CREATE INDEX ix_job_status ON job (status);
CREATE TABLE step (
    id {ID}, job TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL,
    component_name TEXT NOT NULL, status TEXT NOT NULL, cache_key TEXT NOT NULL, ended_at {MOMENT}, body JSON NOT NULL,
    UNIQUE (job, name), FOREIGN KEY (job) REFERENCES job (name) ON DELETE CASCADE
);
CREATE INDEX ix_step_cache_key ON step (cache_key);
CREATE INDEX ix_step_component_name ON step (component_name, name);
CREATE TABLE endpoint (
    id {ID}, name TEXT NOT NULL UNIQUE, is_deleting BOOLEAN NOT NULL, created_at {MOMENT} NOT NULL,
    primary_key TEXT NOT NULL, secondary_key TEXT NOT NULL, body JSON NOT NULL
);
CREATE TABLE deployment (
    id {ID}, endpoint TEXT NOT NULL, name TEXT NOT NULL,
    status TEXT NOT NULL, created_at {MOMENT} NOT NULL, body JSON NOT NULL,
    UNIQUE (endpoint, name), FOREIGN KEY (endpoint) REFERENCES endpoint (name) ON DELETE CASCADE
);
CREATE TABLE lease (
    owner TEXT NOT NULL PRIMARY KEY, cpus INTEGER NOT NULL, gpus INTEGER NOT NULL, memory_mb BIGINT NOT NULL,
    processes INTEGER NOT NULL, devices JSON NOT NULL, since {MOMENT} NOT NULL
)
"""

_COMPUTES_AND_BLOBS = """
CREATE TABLE compute (id {ID}, name TEXT NOT NULL UNIQUE, created_at {MOMENT} NOT NULL, body JSON NOT NULL);
CREATE TABLE blob (
    id {ID}, container TEXT NOT NULL, name TEXT NOT NULL, artifact TEXT NOT NULL, modified_at {MOMENT} NOT NULL,
    body JSON NOT NULL, UNIQUE (container, name)
)
"""

_USERS = """
CREATE TABLE "user" (
    id {ID}, name TEXT NOT NULL UNIQUE, token_hash TEXT NOT NULL UNIQUE, created_at {MOMENT} NOT NULL, body JSON NOT NULL
)
"""

_CONTAINERS = """
CREATE TABLE container (id {ID}, name TEXT NOT NULL UNIQUE, modified_at {MOMENT} NOT NULL, body JSON NOT NULL)
"""

_ONE_REGISTRY = """
UPDATE asset SET scope = 'registry' WHERE scope = 'registry:azureml';
UPDATE label SET scope = 'registry' WHERE scope = 'registry:azureml'
"""

_INDEXES_OF_LONG_LISTS = """
CREATE INDEX ix_asset_type ON asset (scope, type, id);
CREATE INDEX ix_step_status ON step (status)
"""

_SERVINGS = """
CREATE TABLE serving (reference TEXT NOT NULL PRIMARY KEY, body JSON NOT NULL)
"""

_BATCH_ENDPOINTS = """
CREATE TABLE batch_endpoint (id {ID}, name TEXT NOT NULL UNIQUE, created_at {MOMENT} NOT NULL, body JSON NOT NULL);
CREATE TABLE batch_deployment (
    id {ID}, endpoint TEXT NOT NULL, name TEXT NOT NULL, created_at {MOMENT} NOT NULL, body JSON NOT NULL,
    UNIQUE (endpoint, name), FOREIGN KEY (endpoint) REFERENCES batch_endpoint (name) ON DELETE CASCADE
)
"""


def _neutral_specifications(connection: Connection) -> None:
    from mafunzo.control.store import migration_5

    migration_5.apply(connection)


MIGRATIONS = (
    Migration(1, "first tables", _running(_FIRST_TABLES)),
    Migration(2, "computes and blobs", _running(_COMPUTES_AND_BLOBS)),
    Migration(3, "users", _running(_USERS)),
    Migration(4, "containers of blobs", _running(_CONTAINERS)),
    Migration(5, "neutral specifications", _neutral_specifications),
    Migration(6, "one registry", _running(_ONE_REGISTRY)),
    Migration(7, "indexes of long lists", _running(_INDEXES_OF_LONG_LISTS)),
    Migration(8, "what has given answers", _running(_SERVINGS)),
    Migration(9, "batch endpoints", _running(_BATCH_ENDPOINTS)),
)
