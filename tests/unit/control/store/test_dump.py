import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mafunzo.control.store.database import Database
from mafunzo.control.store.disk import full_disk_told
from mafunzo.control.store.dump import copy_sqlite, dump
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.control.store.loading import load
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.records import Records
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.entities.job import Job, LiteralInput, Resources, Step, StepSpec
from mafunzo.errors import Conflict, StorageFull

ASSET = Asset(
    AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, "chat", "1"),
    FolderType.MLFLOW_MODEL,
    properties={"loss": 1.0, "text": "Ünï\n\u0000"},
    created_at=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
)
STEP = Step("job", StepSpec("s", "c:1", "code", "run", {"x": LiteralInput(1.0)}), ended_at=ASSET.created_at)


def _fill(database: Database) -> None:
    records = Records(database)
    for version in ("1", "2", "3"):
        records.assets.add(replace(ASSET, key=replace(ASSET.key, version=version)))
    records.labels.set(ASSET.key, "live")
    records.jobs.add(Job("job", "", "e", "c:1"), [STEP])
    records.endpoints.add(Endpoint("chat", {"blue": 100}), ("one", "two"))
    records.deployments.add(Deployment("chat", "blue", "m:1", "sha256:" + "a" * 64))
    Leases(database).take("owner", Resources(1, 1), Resources(2, 2))


def _everything(database: Database) -> list[object]:
    records = Records(database)
    return [
        records.assets.list(),
        records.labels.get(WORKSPACE_SCOPE, AssetType.MODEL, "chat", "live"),
        records.jobs.list(),
        records.steps.of("job"),
        records.endpoints.list(),
        records.endpoints.keys("chat"),
        records.deployments.list(),
        Leases(database).list(),
        Leases(database).devices("owner"),
    ]


def test_a_dump_of_either_database_loads_into_either(database: Database, target: Database, tmp_path: Path) -> None:
    _fill(database)
    load(dump(database, tmp_path, "copy"), target)
    assert _everything(target) == _everything(database)
    newer = replace(ASSET, key=replace(ASSET.key, version="4"))
    Records(target).assets.add(newer)
    assert Records(target).assets.list()[0] == newer
    target.close()


def test_a_dump_is_of_one_moment_and_for_its_owner_only(database: Database, tmp_path: Path) -> None:
    _fill(database)
    with database.transaction():
        copy = dump(database, tmp_path, "copy")
    assert copy.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        dump(database, tmp_path, "copy")


def test_a_database_with_rows_is_never_loaded_into(database: Database, home: Home, tmp_path: Path) -> None:
    _fill(database)
    before = _everything(database)
    with pytest.raises(Conflict, match="isn't empty: it has rows in 'asset'"):
        load(dump(database, tmp_path, "copy"), database)
    assert _everything(database) == before


def test_a_load_that_was_cut_off_can_be_done_again(database: Database, target: Database, tmp_path: Path) -> None:
    _fill(database)
    open_database(target.home, target.engine.url.render_as_string(hide_password=False)).close()
    load(dump(database, tmp_path, "copy"), target)
    assert _everything(target) == _everything(database)
    target.close()


def test_a_disk_that_is_full_while_sqlite_copies_is_an_error_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has an error of its own for it, which nobody above knows."""

    class Full(sqlite3.Connection):
        def backup(self, *_: object, **__: object) -> None:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path: connect(path, factory=Full))
    with (
        pytest.raises(StorageFull, match=r"disk is full at .*copy\.db while it was copied"),
        full_disk_told("it was copied"),
    ):
        copy_sqlite(tmp_path / "source.db", tmp_path / "copy.db")
