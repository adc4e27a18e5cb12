"""Assets in the database: the versions of models, data sets, environments and components, and their labels.

A label is a name of one's own for one version, which can be put on another one.
"""

import builtins
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store import table
from mafunzo.control.store.codec import decode, encode
from mafunzo.control.store.records.row import NounRecords, Row, first_row, to_row
from mafunzo.entities.asset import Asset, AssetKey, AssetType
from mafunzo.errors import Conflict, NotFound, did_you_mean

LATEST = "latest"
"""The label of the version that was added last, which can't be put on another one."""


class AssetRecords(NounRecords):
    """Every version of every asset of one home."""

    def add(self, asset: Asset) -> Asset:
        """Add a version of an asset and return it with its moment of creation. Raises `Conflict` if it exists."""
        asset = replace(asset, created_at=asset.created_at or datetime.now(UTC))
        with self._database.transaction() as connection:
            if first_row(connection, table.asset, _is_asset(asset.key)) is not None:
                raise Conflict(
                    f"{_noun(asset.key.type)} {asset.key} exists already. A version never changes; choose another one."
                )
            connection.execute(sa.insert(table.asset).values(_asset_row(asset)))
        return asset

    def get(self, key: AssetKey) -> Asset:
        """Return one version of an asset. Raises `NotFound`, with what has a similar name."""
        with self._database.snapshot() as connection:
            return _to_asset(_existing_asset(connection, key))

    def latest(self, scope: str, type: AssetType, name: str) -> Asset:
        """Return the version that was added last and isn't archived. Raises `NotFound`."""
        with self._database.snapshot() as connection:
            return _to_asset(_latest_asset(connection, scope, type, name))

    def list(
        self,
        scope: str | None = None,
        type: AssetType | None = None,
        name: str | None = None,
        with_archived: bool = False,
    ) -> builtins.list[Asset]:
        """Return the assets that match, the newest first."""
        columns = {"scope": scope, "type": None if type is None else str(type), "name": name}
        query = sa.select(table.asset).filter_by(**{key: value for key, value in columns.items() if value is not None})
        if not with_archived:
            query = query.where(~table.asset.c.is_archived)
        with self._database.snapshot() as connection:
            return [_to_asset(row) for row in connection.execute(query.order_by(table.asset.c.id.desc()))]

    def update(self, asset: Asset) -> None:
        """Replace what may change of an asset: description, tags, properties, whether it is archived.

        Raises `NotFound`, and `Conflict` for another artifact or type of folder: a version's bytes never change.
        """
        with self._database.transaction() as connection:
            stored = _to_asset(_existing_asset(connection, asset.key))
            if stored.artifact not in (None, asset.artifact) or stored.folder_type != asset.folder_type:
                raise Conflict(
                    f"{_noun(asset.key.type)} {asset.key} has other bytes already. Add a new version instead."
                )
            row = _asset_row(replace(asset, created_at=stored.created_at))
            connection.execute(sa.update(table.asset).where(_is_asset(asset.key)).values(row))

    def delete(self, key: AssetKey) -> None:
        """Delete one version of an asset and the labels on it; its bytes go with the next collection. Raises `NotFound`."""
        with self._database.transaction() as connection:
            _existing_asset(connection, key)
            connection.execute(sa.delete(table.asset).where(_is_asset(key)))
            labels = sa.delete(table.label).filter_by(scope=key.scope, type=str(key.type), name=key.name)
            connection.execute(labels.where(table.label.c.version == key.version))


class LabelRecords(NounRecords):
    """Every label of one home."""

    def set(self, key: AssetKey, label: str) -> None:
        """Put `label` on one version, and off whichever version of that name had it. Raises `NotFound`."""
        if label == LATEST:
            raise Conflict("The label 'latest' is always on the version that was added last; choose another label.")
        row = {"scope": key.scope, "type": str(key.type), "name": key.name, "label": label}
        with self._database.transaction() as connection:
            _existing_asset(connection, key)
            connection.execute(sa.delete(table.label).filter_by(**row))
            connection.execute(sa.insert(table.label).values(row | {"version": key.version}))

    def get(self, scope: str, type: AssetType, name: str, label: str) -> Asset:
        """Return the version that has `label`; `latest` is the one that was added last. Raises `NotFound`."""
        with self._database.snapshot() as connection:
            if label == LATEST:
                return _to_asset(_latest_asset(connection, scope, type, name))
            versions = _labels(connection, scope, type, name)
            if label not in versions:
                known = ", ".join(sorted([*versions, LATEST]))
                raise NotFound(f"No version of {type} '{name}' in {scope} has the label '{label}'. Labels: {known}.")
            return _to_asset(_existing_asset(connection, AssetKey(scope, type, name, versions[label])))

    def list(self, scope: str, type: AssetType, name: str) -> dict[str, str]:
        """Return the labels that were put on versions of a name, each with its version."""
        with self._database.snapshot() as connection:
            return _labels(connection, scope, type, name)

    def delete(self, scope: str, type: AssetType, name: str, label: str) -> bool:
        """Take a label off; return whether it was there."""
        query = sa.delete(table.label).filter_by(scope=scope, type=str(type), name=name, label=label)
        with self._database.transaction() as connection:
            return bool(connection.execute(query).rowcount)


def _labels(connection: Connection, scope: str, type: AssetType, name: str) -> dict[str, str]:
    query = sa.select(table.label.c.label, table.label.c.version).order_by(table.label.c.label)
    rows = connection.execute(query.filter_by(scope=scope, type=str(type), name=name))
    return {row.label: row.version for row in rows}


def _existing_asset(connection: Connection, key: AssetKey) -> Row:
    """Return the row of one version of an asset. Raises `NotFound`, with what has a similar name."""
    row = first_row(connection, table.asset, _is_asset(key))
    if row is None:
        raise NotFound(_no_asset(connection, key))
    return row


def _latest_asset(connection: Connection, scope: str, type: AssetType, name: str) -> Row:
    """Return the row of the version that was added last and isn't archived. Raises `NotFound`."""
    asset = table.asset.c
    where = sa.and_(asset.scope == scope, asset.type == str(type), asset.name == name, ~asset.is_archived)
    row = connection.execute(sa.select(table.asset).where(where).order_by(asset.id.desc()).limit(1)).first()
    if row is None:
        raise NotFound(_no_asset(connection, AssetKey(scope, type, name, LATEST)))
    return row


def _asset_row(asset: Asset) -> dict[str, Any]:
    row = to_row(table.asset, asset)
    key: dict[str, Any] = row["body"].pop("key")
    return row | key


def _to_asset(row: Row) -> Asset:
    """Put an asset together from its columns and its body."""
    columns = row._mapping
    key = {name: columns[name] for name in ("scope", "type", "name", "version")}
    direct = {name: columns[name] for name in ("artifact", "is_archived")}
    return decode(Asset, row.body | direct | {"key": key, "created_at": encode(row.created_at)})


def _is_asset(key: AssetKey) -> sa.ColumnElement[bool]:
    asset = table.asset.c
    return sa.and_(
        asset.scope == key.scope, asset.type == str(key.type), asset.name == key.name, asset.version == key.version
    )


def _no_asset(connection: Connection, key: AssetKey) -> str:
    of_type = sa.select(table.asset.c.name, table.asset.c.version).filter_by(scope=key.scope, type=str(key.type))
    rows = connection.execute(of_type.order_by(table.asset.c.id)).all()
    missing = f"No {key.type} '{key}' in {key.scope}."
    versions = [row.version for row in rows if row.name == key.name]
    if versions:
        return f"{missing} Versions of {key.name}: {', '.join(versions)}."
    return missing + did_you_mean(key.name, {row.name for row in rows}, 3)


def _noun(type: AssetType) -> str:
    return {"data": "Data set"}.get(type, str(type).capitalize())
