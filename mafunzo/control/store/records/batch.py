"""Batch endpoints in the database, and their deployments, which go with them."""

import builtins
from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.control.store import table
from mafunzo.control.store.records.row import NamedRecords, NounRecords, Row, first_row, named_row, to_entity, to_row
from mafunzo.entities.batch import BatchDeployment, BatchEndpoint
from mafunzo.errors import NotFound, did_you_mean


class BatchEndpointRecords(NamedRecords[BatchEndpoint]):
    """Every batch endpoint of one home."""

    _kind, _table = BatchEndpoint, table.batch_endpoint

    def put(self, endpoint: BatchEndpoint) -> BatchEndpoint:
        """Add an endpoint, or change the one of that name, and return it with who made it first, and when.

        Raises `NotFound` where its default deployment isn't there.
        """
        with self._database.transaction() as connection:
            stored = first_row(connection, table.batch_endpoint, table.batch_endpoint.c.name == endpoint.name)
            if endpoint.default_deployment:
                _existing(connection, endpoint.name, endpoint.default_deployment)
            first = endpoint if stored is None else to_entity(BatchEndpoint, stored)
            created_at = first.created_at or datetime.now(UTC)
            endpoint = replace(endpoint, created_by=first.created_by, created_at=created_at)
            _write(connection, table.batch_endpoint, stored, to_row(table.batch_endpoint, endpoint))
        return endpoint


class BatchDeploymentRecords(NounRecords):
    """Every deployment of every batch endpoint of one home."""

    def put(self, deployment: BatchDeployment) -> BatchDeployment:
        """Add a deployment, or change the one of that name, and return it with who made it first, and when.

        Raises `NotFound` for an unknown endpoint.
        """
        with self._database.transaction() as connection:
            named_row(connection, table.batch_endpoint, deployment.endpoint)
            stored = first_row(connection, table.batch_deployment, _is_one(deployment.endpoint, deployment.name))
            first = deployment if stored is None else to_entity(BatchDeployment, stored)
            created_at = first.created_at or datetime.now(UTC)
            deployment = replace(deployment, created_by=first.created_by, created_at=created_at)
            _write(connection, table.batch_deployment, stored, to_row(table.batch_deployment, deployment))
        return deployment

    def get(self, endpoint: str, name: str) -> BatchDeployment:
        """Return a deployment of an endpoint. Raises `NotFound`."""
        with self._database.snapshot() as connection:
            return to_entity(BatchDeployment, _existing(connection, endpoint, name))

    def list(self) -> builtins.list[BatchDeployment]:
        """Return the deployments of all endpoints, oldest first."""
        return self._read(BatchDeployment, sa.select(table.batch_deployment).order_by(table.batch_deployment.c.id))

    def page(self, endpoint: str, limit: int | None = None, after: str | None = None) -> builtins.list[BatchDeployment]:
        """Return the deployments of an endpoint by name: all, or `limit` of those whose names come after a name."""
        columns = table.batch_deployment.c
        query = sa.select(table.batch_deployment).where(columns.endpoint == endpoint)
        query = query.order_by(columns.name).limit(limit)
        return self._read(BatchDeployment, query if after is None else query.where(columns.name > after))

    def delete(self, endpoint: str, name: str) -> None:
        """Delete a deployment; where it is its endpoint's default, there is none then. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing(connection, endpoint, name)
            connection.execute(sa.delete(table.batch_deployment).where(table.batch_deployment.c.id == stored.id))
            row = named_row(connection, table.batch_endpoint, endpoint)
            owner = to_entity(BatchEndpoint, row)
            if owner.default_deployment == name:
                without = to_row(table.batch_endpoint, replace(owner, default_deployment=""))
                _write(connection, table.batch_endpoint, row, without)


def _write(connection: Connection, of: sa.Table, stored: Row | None, row: dict[str, object]) -> None:
    if stored is None:
        connection.execute(sa.insert(of).values(row))
    else:
        connection.execute(sa.update(of).where(of.c.id == stored.id).values(row))


def _existing(connection: Connection, endpoint: str, name: str) -> Row:
    row = first_row(connection, table.batch_deployment, _is_one(endpoint, name))
    if row is None:
        columns = table.batch_deployment.c
        names = connection.execute(sa.select(columns.name).where(columns.endpoint == endpoint)).scalars()
        raise NotFound(f"Batch endpoint {endpoint} has no deployment '{name}'." + did_you_mean(name, names, 3))
    return row


def _is_one(endpoint: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(table.batch_deployment.c.endpoint == endpoint, table.batch_deployment.c.name == name)
