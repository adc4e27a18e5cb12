"""Labels in the database: a name of one's own for one version of an asset, which can be put on another one."""

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records.asset import LATEST, existing_asset, latest_asset, to_asset
from mafunzo.entities.asset import Asset, AssetKey, AssetType
from mafunzo.errors import Conflict, NotFound


class LabelRecords:
    """Every label of one home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, key: AssetKey, label: str) -> None:
        """Put `label` on one version, and off whichever version of that name had it. Raises `NotFound`."""
        if label == LATEST:
            raise Conflict("The label 'latest' is always on the version that was added last; choose another label.")
        row = {"scope": key.scope, "type": str(key.type), "name": key.name, "label": label}
        with self._database.transaction() as connection:
            existing_asset(connection, key)
            connection.execute(sa.delete(table.label).filter_by(**row))
            connection.execute(sa.insert(table.label).values(row | {"version": key.version}))

    def get(self, scope: str, type: AssetType, name: str, label: str) -> Asset:
        """Return the version that has `label`; `latest` is the one that was added last. Raises `NotFound`."""
        of_name = {"scope": scope, "type": str(type), "name": name}
        with self._database.snapshot() as connection:
            if label == LATEST:
                return to_asset(latest_asset(connection, scope, type, name))
            rows = connection.execute(sa.select(table.label.c.label, table.label.c.version).filter_by(**of_name))
            versions = {row.label: row.version for row in rows}
            if label not in versions:
                known = ", ".join(sorted([*versions, LATEST]))
                raise NotFound(f"No version of {type} '{name}' in {scope} has the label '{label}'. Labels: {known}.")
            return to_asset(existing_asset(connection, AssetKey(scope, type, name, versions[label])))

    def list(self, scope: str, type: AssetType, name: str) -> dict[str, str]:
        """Return the labels that were put on versions of a name, each with its version."""
        query = sa.select(table.label.c.label, table.label.c.version).order_by(table.label.c.label)
        with self._database.snapshot() as connection:
            rows = connection.execute(query.filter_by(scope=scope, type=str(type), name=name))
            return {row.label: row.version for row in rows}

    def delete(self, scope: str, type: AssetType, name: str, label: str) -> bool:
        """Take a label off; return whether it was there."""
        of_name = {"scope": scope, "type": str(type), "name": name, "label": label}
        with self._database.transaction() as connection:
            result = connection.execute(sa.delete(table.label).filter_by(**of_name))
        return bool(result.rowcount)
