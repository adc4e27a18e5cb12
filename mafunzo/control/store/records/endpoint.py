"""Endpoints in the database, with their keys, which rest encrypted, and their deployments, which go with them."""

import builtins
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store import table
from mafunzo.control.store.records.row import (
    NamedRecords,
    NounRecords,
    Row,
    first_row,
    named_row,
    to_entity,
    to_row,
)
from mafunzo.control.store.records.serving import remember
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.errors import Conflict, NotFound, did_you_mean


class EndpointRecords(NamedRecords[Endpoint]):
    """Every endpoint of one home."""

    _kind, _table = Endpoint, table.endpoint

    def add(self, endpoint: Endpoint, keys: tuple[str, str]) -> Endpoint:
        """Add an endpoint with its (primary, secondary) key and return it with its moment of creation.

        Raises `Conflict` if it exists.
        """
        taken = f"Endpoint {endpoint.name} exists already. Choose another name, or delete it first."
        with self._database.transaction() as connection:
            return self._insert(connection, endpoint, taken, **self._key_row(keys))

    def update(self, endpoint: Endpoint) -> None:
        """Replace an endpoint's state, not its keys. That it is being deleted stays. Raises `NotFound`."""
        self._replace(endpoint, lambda stored: {"is_deleting": endpoint.is_deleting or stored.is_deleting})

    def keys(self, name: str) -> tuple[str, str]:
        """Return the (primary, secondary) key of an endpoint. Raises `NotFound`."""
        with self._database.snapshot() as connection:
            row = named_row(connection, table.endpoint, name)
        home = self._database.home
        return home.unseal(row.primary_key), home.unseal(row.secondary_key)

    def all_keys(self) -> dict[str, tuple[str, str]]:
        """Return the (primary, secondary) key of every endpoint by its name."""
        columns = table.endpoint.c
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(columns.name, columns.primary_key, columns.secondary_key)).all()
        home = self._database.home
        return {row.name: (home.unseal(row.primary_key), home.unseal(row.secondary_key)) for row in rows}

    def set_keys(self, name: str, keys: tuple[str, str]) -> None:
        """Replace the (primary, secondary) key of an endpoint. Raises `NotFound`."""
        self._change(name, **self._key_row(keys))

    def _key_row(self, keys: tuple[str, str]) -> dict[str, str]:
        home = self._database.home
        return {"primary_key": home.seal(keys[0]), "secondary_key": home.seal(keys[1])}


class DeploymentRecords(NounRecords):
    """Every deployment of every endpoint of one home."""

    def add(self, deployment: Deployment) -> Deployment:
        """Add a deployment and return it with its moment of creation.

        Raises `NotFound` for an unknown endpoint, `Conflict` if the deployment exists or its endpoint is being deleted.
        """
        deployment = replace(deployment, created_at=deployment.created_at or datetime.now(UTC))
        with self._database.transaction() as connection:
            if named_row(connection, table.endpoint, deployment.endpoint).is_deleting:
                raise Conflict(f"Endpoint {deployment.endpoint} is being deleted.")
            stored = first_row(connection, table.deployment, _is_deployment(deployment.endpoint, deployment.name))
            if stored is not None:
                raise Conflict(f"Endpoint {deployment.endpoint} has a deployment '{deployment.name}' already.")
            connection.execute(sa.insert(table.deployment).values(to_row(table.deployment, deployment)))
            remember(connection, deployment)
        return deployment

    def get(self, endpoint: str, name: str) -> Deployment:
        """Return a deployment of an endpoint. Raises `NotFound`."""
        with self._database.snapshot() as connection:
            return to_entity(Deployment, _existing_deployment(connection, endpoint, name))

    def of(self, endpoints: Iterable[str]) -> builtins.list[Deployment]:
        """Return the deployments of some endpoints, by endpoint and name."""
        is_of = table.deployment.c.endpoint.in_(builtins.list(endpoints))
        order = (table.deployment.c.endpoint, table.deployment.c.name)
        return self._read(Deployment, sa.select(table.deployment).where(is_of).order_by(*order))

    def list(self, endpoint: str | None = None) -> builtins.list[Deployment]:
        """Return the deployments of one endpoint, or of all, by endpoint and name."""
        query = sa.select(table.deployment).order_by(table.deployment.c.endpoint, table.deployment.c.name)
        if endpoint is not None:
            query = query.where(table.deployment.c.endpoint == endpoint)
        return self._read(Deployment, query)

    def page(self, endpoint: str, limit: int, after: str | None) -> builtins.list[Deployment]:
        """Return `limit` deployments of an endpoint by name, those whose names come after a name (keyset pagination)."""
        name = table.deployment.c.name
        query = sa.select(table.deployment).where(table.deployment.c.endpoint == endpoint).order_by(name).limit(limit)
        return self._read(Deployment, query if after is None else query.where(name > after))

    def update(self, deployment: Deployment) -> None:
        """Replace a deployment's state. That it is being deleted stays. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_deployment(connection, deployment.endpoint, deployment.name)
            _replace_deployment(connection, stored, deployment)

    def change(self, endpoint: str, name: str, change: Callable[[Deployment], Deployment | None]) -> Deployment | None:
        """Replace a deployment's state by what `change` makes of it, in one transaction; return that.

        None, also of `change`, changes nothing. That it is being deleted stays. Raises `NotFound`.
        """
        with self._database.transaction() as connection:
            stored = _existing_deployment(connection, endpoint, name)
            changed = change(to_entity(Deployment, stored))
            if changed is not None:
                _replace_deployment(connection, stored, changed)
        return changed

    def remember_all(self) -> None:
        """Keep what each deployment serves, as it is once it changes: for those that an earlier version wrote."""
        deployments = self.list()
        with self._database.transaction() as connection:
            for deployment in deployments:
                remember(connection, deployment)

    def delete(self, endpoint: str, name: str) -> None:
        """Delete the record of a deployment. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_deployment(connection, endpoint, name)
            connection.execute(sa.delete(table.deployment).where(table.deployment.c.id == stored.id))


def _replace_deployment(connection: Connection, stored: Row, deployment: Deployment) -> None:
    row = to_row(table.deployment, replace(deployment, created_at=stored.created_at))
    if stored.status == DeploymentStatus.DELETING:
        row["status"] = stored.status
    connection.execute(sa.update(table.deployment).where(table.deployment.c.id == stored.id).values(row))
    remember(connection, replace(deployment, created_at=stored.created_at))


def _existing_deployment(connection: Connection, endpoint: str, name: str) -> Row:
    named_row(connection, table.endpoint, endpoint)
    row = first_row(connection, table.deployment, _is_deployment(endpoint, name))
    if row is None:
        names = connection.execute(sa.select(table.deployment.c.name).filter_by(endpoint=endpoint)).scalars()
        raise NotFound(f"Endpoint {endpoint} has no deployment '{name}'." + did_you_mean(name, names, 3))
    return row


def _is_deployment(endpoint: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(table.deployment.c.endpoint == endpoint, table.deployment.c.name == name)
