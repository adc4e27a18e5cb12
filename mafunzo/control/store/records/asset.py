"""Assets in the database: the versions of models, data sets, environments and components, and their labels.

A label is a name of one's own for one version, which can be put on another one.
"""

import builtins
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store import table
from mafunzo.control.store.codec import decode, encode
from mafunzo.control.store.records.row import NounRecords, Row, first_row, to_row
from mafunzo.entities.asset import Asset, AssetKey, AssetType
from mafunzo.entities.scan import Scan
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
        with_anonymous: bool = True,
        limit: int | None = None,
        before: AssetKey | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> builtins.list[Asset]:
        """Return the assets that match, the newest first.

        limit: how many at most (pagination); before: the key of one, of which only older ones are returned (keyset);
        facts: properties that it must have. Raises `NotFound` where there is none such as `before`.
        """
        where = _matches(scope, type, name, None if with_archived else False, with_anonymous)
        properties = table.asset.c.body["properties"]
        where = sa.and_(where, *(properties[fact].as_string() == value for fact, value in (facts or {}).items()))
        query = sa.select(table.asset).where(where).order_by(table.asset.c.id.desc()).limit(limit)
        with self._database.snapshot() as connection:
            if before is not None:
                query = query.where(table.asset.c.id < _existing_asset(connection, before).id)
            return [_to_asset(row) for row in connection.execute(query)]

    def scan(
        self,
        scan: Scan,
        scope: str,
        type: AssetType,
        name: str | None = None,
        is_archived: bool | None = None,
    ) -> Iterator[tuple[int, Asset]]:
        """Yield the assets that match with their positions, read as they are needed.

        is_archived: only those that are, or that aren't; None for both.
        """
        query = sa.select(table.asset).where(_matches(scope, type, name, is_archived))
        return ((row.position, _to_asset(row)) for row in self._scan(query, table.asset.c.id, scan))

    def scan_names(
        self,
        scan: Scan,
        scope: str,
        type: AssetType,
        is_archived: bool | None = None,
        with_anonymous: bool = True,
    ) -> Iterator[tuple[int, str]]:
        """Yield the names of the assets that match with their positions: that of the version which was added last, or first."""
        ids = table.asset.c.id
        newest = sa.func.min(ids) if scan.is_oldest_first else sa.func.max(ids)
        where = _matches(scope, type, None, is_archived, with_anonymous)
        names = sa.select(table.asset.c.name, newest.label("id")).where(where).group_by(table.asset.c.name).subquery()
        rows = self._scan(sa.select(names.c.name), names.c.id, scan)
        return ((row.position, row.name) for row in rows)

    def versions(self, scope: str, type: AssetType, name: str) -> builtins.list[str]:
        """Return the versions of a name, archived ones too, the newest first; the rest of their rows isn't read."""
        query = sa.select(table.asset.c.version).where(_matches(scope, type, name)).order_by(table.asset.c.id.desc())
        with self._database.snapshot() as connection:
            return builtins.list(connection.execute(query).scalars())

    def names(self, scopes: Sequence[str], type: AssetType, limit: int, after: str = "") -> builtins.list[str]:
        """Return `limit` names that have versions in any of the scopes, in order, those after a name (keyset pagination)."""
        columns = table.asset.c
        query = sa.select(columns.name).where(
            columns.scope.in_(scopes), columns.type == str(type), columns.name > after
        )
        with self._database.snapshot() as connection:
            return builtins.list(connection.execute(query.distinct().order_by(columns.name).limit(limit)).scalars())

    def of_names(self, scope: str, type: AssetType, names: Sequence[str]) -> dict[str, builtins.list[Asset]]:
        """Return the versions of some names, archived ones too, the newest first, by name."""
        columns = table.asset.c
        where = sa.and_(columns.scope == scope, columns.type == str(type), columns.name.in_(names))
        assets: dict[str, builtins.list[Asset]] = {name: [] for name in names}
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(table.asset).where(where).order_by(columns.id.desc())).all()
        for row in rows:
            assets[row.name].append(_to_asset(row))
        return assets

    def find(self, key: AssetKey) -> Asset | None:
        """Return one version of an asset, or None."""
        with self._database.snapshot() as connection:
            row = first_row(connection, table.asset, _is_asset(key))
        return None if row is None else _to_asset(row)

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

    def by_name(self, scope: str, type: AssetType, names: Sequence[str] | None = None) -> dict[str, dict[str, str]]:
        """Return the labels of all names that have any, or of some, each with its version."""
        query = sa.select(table.label).filter_by(scope=scope, type=str(type)).order_by(table.label.c.label)
        if names is not None:
            query = query.where(table.label.c.name.in_(names))
        labels: dict[str, dict[str, str]] = {}
        with self._database.snapshot() as connection:
            for row in connection.execute(query):
                labels.setdefault(row.name, {})[row.label] = row.version
        return labels

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


def _matches(
    scope: str | None,
    type: AssetType | None,
    name: str | None,
    is_archived: bool | None = None,
    with_anonymous: bool = True,
) -> sa.ColumnElement[bool]:
    """Return the condition for what a list shows; None of anything is all."""
    asset = table.asset.c
    columns = ((asset.scope, scope), (asset.type, None if type is None else str(type)), (asset.name, name))
    where = [column == value for column, value in columns if value is not None]
    if is_archived is not None:
        where.append(asset.is_archived if is_archived else ~asset.is_archived)
    if not with_anonymous:
        where.append(~sa.func.coalesce(asset.body["is_anonymous"].as_boolean(), sa.false()))
    return sa.and_(sa.true(), *where)


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
