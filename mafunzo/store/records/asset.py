"""The nouns in the database: each verb is one transaction on frozen entities."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from mafunzo.entities.asset import Asset, AssetKey, AssetType
from mafunzo.entities.blob import UNCONDITIONAL, Blob, Condition, Container
from mafunzo.entities.compute import Compute
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.entities.job import Job, JobStatus, Step, StepStatus
from mafunzo.entities.user import User
from mafunzo.errors import BlobRefused, Conflict, NotFound
from mafunzo.store import table
from mafunzo.store.codec import decode, encode
from mafunzo.store.database import Database
from mafunzo.store.secret import seal, unseal

ARTIFACT_HASH = re.compile(r"sha256:[0-9a-f]{64}")
LATEST = "latest"
Row = sa.Row[Any]
Entity = TypeVar("Entity", Asset, Job, Step, Endpoint, Deployment, Compute, Container, Blob, User)


class Records:
    """Every asset, job, step, endpoint, deployment, compute, blob and user of one home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Assets

    def add_asset(self, asset: Asset) -> Asset:
        """Add a version of an asset and return it with its moment of creation. Raises `Conflict` if it exists."""
        asset = replace(asset, created_at=asset.created_at or datetime.now(UTC))
        with self._database.transaction() as connection:
            if _first(connection, table.asset, _is_asset(asset.key)) is not None:
                raise Conflict(
                    f"{_noun(asset.key.type)} {asset.key} exists already. A version never changes; choose another one."
                )
            connection.execute(sa.insert(table.asset).values(_asset_row(asset)))
        return asset

    def get_asset(self, key: AssetKey) -> Asset:
        """Return one version of an asset. Raises `NotFound`, with what has a similar name."""
        with self._database.snapshot() as connection:
            return _to_asset(_existing_asset(connection, key))

    def latest_asset(self, scope: str, type: AssetType, name: str) -> Asset:
        """Return the version that was added last and isn't archived. Raises `NotFound`."""
        asset = table.asset.c
        where = sa.and_(asset.scope == scope, asset.type == str(type), asset.name == name, ~asset.is_archived)
        with self._database.snapshot() as connection:
            row = connection.execute(sa.select(table.asset).where(where).order_by(asset.id.desc()).limit(1)).first()
            if row is None:
                raise NotFound(_no_asset(connection, AssetKey(scope, type, name, LATEST)))
        return _to_asset(row)

    def list_assets(
        self,
        scope: str | None = None,
        type: AssetType | None = None,
        name: str | None = None,
        with_archived: bool = False,
    ) -> list[Asset]:
        """Return the assets that match, the newest first."""
        wanted = {"scope": scope, "type": None if type is None else str(type), "name": name}
        query = sa.select(table.asset).filter_by(**{key: value for key, value in wanted.items() if value is not None})
        if not with_archived:
            query = query.where(~table.asset.c.is_archived)
        with self._database.snapshot() as connection:
            return [_to_asset(row) for row in connection.execute(query.order_by(table.asset.c.id.desc()))]

    def update_asset(self, asset: Asset) -> None:
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

    def delete_asset(self, key: AssetKey) -> None:
        """Delete one version of an asset and the labels on it; its bytes go with the next collection. Raises `NotFound`."""
        with self._database.transaction() as connection:
            _existing_asset(connection, key)
            connection.execute(sa.delete(table.asset).where(_is_asset(key)))
            labels = sa.delete(table.label).filter_by(scope=key.scope, type=str(key.type), name=key.name)
            connection.execute(labels.where(table.label.c.version == key.version))

    def set_label(self, key: AssetKey, label: str) -> None:
        """Put `label` on one version, and off whichever version of that name had it. Raises `NotFound`."""
        if label == LATEST:
            raise Conflict("The label 'latest' is always on the version that was added last; choose another label.")
        row = {"scope": key.scope, "type": str(key.type), "name": key.name, "label": label}
        with self._database.transaction() as connection:
            _existing_asset(connection, key)
            connection.execute(sa.delete(table.label).filter_by(**row))
            connection.execute(sa.insert(table.label).values(row | {"version": key.version}))

    def get_labelled(self, scope: str, type: AssetType, name: str, label: str) -> Asset:
        """Return the version that has `label`; `latest` is the one that was added last. Raises `NotFound`."""
        if label == LATEST:
            return self.latest_asset(scope, type, name)
        of_name = {"scope": scope, "type": str(type), "name": name}
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(table.label.c.label, table.label.c.version).filter_by(**of_name))
            versions = {row.label: row.version for row in rows}
            if label not in versions:
                known = ", ".join(sorted([*versions, LATEST]))
                raise NotFound(f"No version of {type} '{name}' in {scope} has the label '{label}'. Labels: {known}.")
            return _to_asset(_existing_asset(connection, AssetKey(scope, type, name, versions[label])))

    def list_labels(self, scope: str, type: AssetType, name: str) -> dict[str, str]:
        """Return the labels that were put on versions of a name, each with its version."""
        query = sa.select(table.label.c.label, table.label.c.version).order_by(table.label.c.label)
        with self._database.snapshot() as connection:
            rows = connection.execute(query.filter_by(scope=scope, type=str(type), name=name))
            return {row.label: row.version for row in rows}

    def delete_label(self, scope: str, type: AssetType, name: str, label: str) -> bool:
        """Take a label off; return whether it was there."""
        of_name = {"scope": scope, "type": str(type), "name": name, "label": label}
        with self._database.transaction() as connection:
            gone = connection.execute(sa.delete(table.label).filter_by(**of_name))
        return bool(gone.rowcount)

    # Jobs and their steps

    def add_job(self, job: Job, steps: Sequence[Step]) -> Job:
        """Add a job with all its steps, in the order planned, and return it with its moment of creation.

        Raises `Conflict` if a job of that name exists.
        """
        job = replace(job, created_at=job.created_at or datetime.now(UTC))
        with self._database.transaction() as connection:
            if _first(connection, table.job, table.job.c.name == job.name) is not None:
                raise Conflict(f"Job {job.name} exists already. Choose another name.")
            connection.execute(sa.insert(table.job).values(_to_row(table.job, job)))
            rows = [_step_row(step) | {"position": position} for position, step in enumerate(steps)]
            if rows:
                connection.execute(sa.insert(table.step), rows)
        return job

    def get_job(self, name: str) -> Job:
        """Return a job. Raises `NotFound`, with similar names."""
        with self._database.snapshot() as connection:
            return _to_entity(Job, _existing_job(connection, name))

    def list_jobs(self, statuses: Iterable[JobStatus] | None = None, newest_first: bool = True) -> list[Job]:
        """Return the jobs that are in one of `statuses`, by default all, in order of age."""
        query = sa.select(table.job)
        if statuses is not None:
            query = query.where(table.job.c.status.in_([str(status) for status in statuses]))
        order = table.job.c.id.desc() if newest_first else table.job.c.id
        with self._database.snapshot() as connection:
            return [_to_entity(Job, row) for row in connection.execute(query.order_by(order))]

    def queue(self) -> list[Job]:
        """Return the jobs that haven't ended (queued or running) in order of priority, then age: the oldest first."""
        open_statuses = [str(status) for status in JobStatus if not status.is_terminal]
        query = sa.select(table.job).where(table.job.c.status.in_(open_statuses))
        with self._database.snapshot() as connection:
            rows = connection.execute(query.order_by(table.job.c.priority.desc(), table.job.c.id)).all()
        return [_to_entity(Job, row) for row in rows]

    def update_job(self, job: Job) -> None:
        """Replace a job's state. A request to cancel stays, even if `job` was read before it came. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_job(connection, job.name)
            row = _to_row(table.job, replace(job, created_at=stored.created_at))
            row["is_cancel_requested"] = job.is_cancel_requested or stored.is_cancel_requested
            connection.execute(sa.update(table.job).where(table.job.c.id == stored.id).values(row))

    def request_cancel(self, name: str) -> None:
        """Ask for a job to end, whatever the scheduler writes at the same moment. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_job(connection, name)
            connection.execute(sa.update(table.job).where(table.job.c.id == stored.id).values(is_cancel_requested=True))

    def delete_job(self, name: str) -> None:
        """Delete a job that has ended, and its steps. Raises `NotFound`, and `Conflict` while it is queued or runs."""
        with self._database.transaction() as connection:
            stored = _existing_job(connection, name)
            if not JobStatus(stored.status).is_terminal:
                raise Conflict(f"Job {name} is {stored.status}. Cancel it first.")
            connection.execute(sa.delete(table.job).where(table.job.c.id == stored.id))

    def list_steps(self, job_name: str) -> list[Step]:
        """Return the steps of a job in the order planned; empty for an unknown job."""
        query = sa.select(table.step).filter_by(job=job_name).order_by(table.step.c.position)
        with self._database.snapshot() as connection:
            return [_to_entity(Step, row) for row in connection.execute(query)]

    def update_step(self, step: Step) -> None:
        """Replace a step's state. Raises `NotFound`."""
        is_step = sa.and_(table.step.c.job == step.job, table.step.c.name == step.name)
        with self._database.transaction() as connection:
            if connection.execute(sa.update(table.step).where(is_step).values(_step_row(step))).rowcount == 0:
                raise NotFound(f"Job {step.job} has no step '{step.name}'.")

    def find_cached(self, cache_key: str) -> Step | None:
        """Return the step with that key that was done last, whose outputs another may reuse, or None."""
        return self._newest_done_step(table.step.c.cache_key == cache_key)

    def last_step_like(self, component: str, name: str) -> Step | None:
        """Return the step of that name and component, in whichever version, that was done last, or None."""
        is_like = sa.and_(table.step.c.component_name == _component_name(component), table.step.c.name == name)
        return self._newest_done_step(is_like)

    def _newest_done_step(self, where: sa.ColumnElement[bool]) -> Step | None:
        done = [str(status) for status in StepStatus if status.is_done]
        query = sa.select(table.step).where(where, table.step.c.status.in_(done))
        newest = query.order_by(table.step.c.ended_at.desc().nulls_last(), table.step.c.id.desc()).limit(1)
        with self._database.snapshot() as connection:
            row = connection.execute(newest).first()
        return None if row is None else _to_entity(Step, row)

    # Endpoints and their deployments

    def add_endpoint(self, endpoint: Endpoint, keys: tuple[str, str]) -> Endpoint:
        """Add an endpoint with its (primary, secondary) key and return it with its moment of creation.

        Raises `Conflict` if it exists.
        """
        endpoint = replace(endpoint, created_at=endpoint.created_at or datetime.now(UTC))
        with self._database.transaction() as connection:
            if _first(connection, table.endpoint, table.endpoint.c.name == endpoint.name) is not None:
                raise Conflict(f"Endpoint {endpoint.name} exists already. Choose another name, or delete it first.")
            row = _to_row(table.endpoint, endpoint) | self._key_row(keys)
            connection.execute(sa.insert(table.endpoint).values(row))
        return endpoint

    def get_endpoint(self, name: str) -> Endpoint:
        """Return an endpoint. Raises `NotFound`, with similar names."""
        with self._database.snapshot() as connection:
            return _to_entity(Endpoint, _existing_endpoint(connection, name))

    def list_endpoints(self) -> list[Endpoint]:
        """Return every endpoint by name."""
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(table.endpoint).order_by(table.endpoint.c.name)).all()
        return [_to_entity(Endpoint, row) for row in rows]

    def update_endpoint(self, endpoint: Endpoint) -> None:
        """Replace an endpoint's state, not its keys. That it is being deleted stays. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_endpoint(connection, endpoint.name)
            row = _to_row(table.endpoint, replace(endpoint, created_at=stored.created_at))
            row["is_deleting"] = endpoint.is_deleting or stored.is_deleting
            connection.execute(sa.update(table.endpoint).where(table.endpoint.c.id == stored.id).values(row))

    def delete_endpoint(self, name: str) -> None:
        """Delete an endpoint, its keys and the records of its deployments. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_endpoint(connection, name)
            connection.execute(sa.delete(table.endpoint).where(table.endpoint.c.id == stored.id))

    def endpoint_keys(self, name: str) -> tuple[str, str]:
        """Return the (primary, secondary) key of an endpoint. Raises `NotFound`."""
        with self._database.snapshot() as connection:
            row = _existing_endpoint(connection, name)
        home = self._database.home
        return unseal(home, row.primary_key), unseal(home, row.secondary_key)

    def set_endpoint_keys(self, name: str, keys: tuple[str, str]) -> None:
        """Replace the (primary, secondary) key of an endpoint. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_endpoint(connection, name)
            by_id = table.endpoint.c.id == stored.id
            connection.execute(sa.update(table.endpoint).where(by_id).values(self._key_row(keys)))

    def _key_row(self, keys: tuple[str, str]) -> dict[str, str]:
        home = self._database.home
        return {"primary_key": seal(home, keys[0]), "secondary_key": seal(home, keys[1])}

    def add_deployment(self, deployment: Deployment) -> Deployment:
        """Add a deployment and return it with its moment of creation.

        Raises `NotFound` for an unknown endpoint, `Conflict` if the deployment exists or its endpoint is being deleted.
        """
        deployment = replace(deployment, created_at=deployment.created_at or datetime.now(UTC))
        with self._database.transaction() as connection:
            if _existing_endpoint(connection, deployment.endpoint).is_deleting:
                raise Conflict(f"Endpoint {deployment.endpoint} is being deleted.")
            if _first(connection, table.deployment, _is_deployment(deployment.endpoint, deployment.name)) is not None:
                raise Conflict(f"Endpoint {deployment.endpoint} has a deployment '{deployment.name}' already.")
            connection.execute(sa.insert(table.deployment).values(_to_row(table.deployment, deployment)))
        return deployment

    def get_deployment(self, endpoint: str, name: str) -> Deployment:
        """Return a deployment of an endpoint. Raises `NotFound`."""
        with self._database.snapshot() as connection:
            return _to_entity(Deployment, _existing_deployment(connection, endpoint, name))

    def list_deployments(self, endpoint: str | None = None) -> list[Deployment]:
        """Return the deployments of one endpoint, or of all, by endpoint and name."""
        query = sa.select(table.deployment).order_by(table.deployment.c.endpoint, table.deployment.c.name)
        if endpoint is not None:
            query = query.where(table.deployment.c.endpoint == endpoint)
        with self._database.snapshot() as connection:
            return [_to_entity(Deployment, row) for row in connection.execute(query)]

    def update_deployment(self, deployment: Deployment) -> None:
        """Replace a deployment's state. That it is being deleted stays. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_deployment(connection, deployment.endpoint, deployment.name)
            row = _to_row(table.deployment, replace(deployment, created_at=stored.created_at))
            if stored.status == DeploymentStatus.DELETING:
                row["status"] = stored.status
            connection.execute(sa.update(table.deployment).where(table.deployment.c.id == stored.id).values(row))

    def delete_deployment(self, endpoint: str, name: str) -> None:
        """Delete the record of a deployment. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_deployment(connection, endpoint, name)
            connection.execute(sa.delete(table.deployment).where(table.deployment.c.id == stored.id))

    # Computes

    def put_compute(self, compute: Compute) -> Compute:
        """Add a compute, or replace the one of that name, and return it with who made it first, and when."""
        with self._database.transaction() as connection:
            stored = _first(connection, table.compute, table.compute.c.name == compute.name)
            if stored is None:
                compute = replace(compute, created_at=compute.created_at or datetime.now(UTC))
            else:
                first = _to_entity(Compute, stored)
                compute = replace(compute, created_by=first.created_by, created_at=first.created_at)
            row = _to_row(table.compute, compute)
            if stored is None:
                connection.execute(sa.insert(table.compute).values(row))
            else:
                connection.execute(sa.update(table.compute).where(table.compute.c.id == stored.id).values(row))
        return compute

    def get_compute(self, name: str) -> Compute:
        """Return a compute. Raises `NotFound`, with similar names."""
        with self._database.snapshot() as connection:
            return _to_entity(Compute, _existing_compute(connection, name))

    def list_computes(self) -> list[Compute]:
        """Return every compute by name."""
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(table.compute).order_by(table.compute.c.name)).all()
        return [_to_entity(Compute, row) for row in rows]

    def delete_compute(self, name: str) -> None:
        """Delete a compute. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_compute(connection, name)
            connection.execute(sa.delete(table.compute).where(table.compute.c.id == stored.id))

    # Blobs

    def add_container(self, container: Container) -> None:
        """Add a container of blobs. Raises `Conflict` when the name is taken."""
        with self._database.transaction() as connection:
            if _first(connection, table.container, table.container.c.name == container.name) is not None:
                raise Conflict(f"A container '{container.name}' exists already. Choose another name.")
            connection.execute(sa.insert(table.container).values(_to_row(table.container, container)))

    def find_container(self, name: str) -> Container | None:
        """Return a container, or None."""
        with self._database.snapshot() as connection:
            row = _first(connection, table.container, table.container.c.name == name)
        return None if row is None else _to_entity(Container, row)

    def list_containers(self) -> list[Container]:
        """Return all containers that were added, by name."""
        with self._database.snapshot() as connection:
            found = connection.execute(sa.select(table.container).order_by(table.container.c.name))
            return [_to_entity(Container, row) for row in found]

    def delete_container(self, name: str) -> bool:
        """Delete a container and all blobs in it; return whether it was there."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table.blob).where(table.blob.c.container == name))
            gone = connection.execute(sa.delete(table.container).where(table.container.c.name == name))
        return bool(gone.rowcount)

    def write_blob(self, container: str, name: str, make: Callable[[Blob | None], Blob]) -> Blob:
        """Store and return what `make` makes of the blob that has the name so far; what it raises changes nothing.

        Raises `BlobRefused` when there is no such container.
        """
        with self._database.transaction() as connection:
            if _first(connection, table.container, table.container.c.name == container) is None:
                raise BlobRefused(f"There is no container '{container}'.", reason="ContainerNotFound")
            blob = make(_blob(connection, container, name))
            connection.execute(sa.delete(table.blob).where(_is_blob(container, name)))
            connection.execute(sa.insert(table.blob).values(_to_row(table.blob, blob)))
        return blob

    def find_blob(self, container: str, name: str) -> Blob | None:
        """Return a blob, or None."""
        with self._database.snapshot() as connection:
            return _blob(connection, container, name)

    def list_blobs(self, container: str, prefix: str = "") -> list[Blob]:
        """Return the blobs of a container whose names begin with `prefix`, by name."""
        query = sa.select(table.blob).where(table.blob.c.container == container)
        if prefix:
            query = query.where(sa.func.substr(table.blob.c.name, 1, len(prefix)) == prefix)  # LIKE takes A for a
        with self._database.snapshot() as connection:
            found = [_to_entity(Blob, row) for row in connection.execute(query)]
        return sorted(found, key=lambda blob: blob.name)  # whatever order the database's language has

    def delete_blob(self, container: str, name: str, condition: Condition = UNCONDITIONAL) -> bool:
        """Delete a blob; return whether it was there. Raises `BlobRefused` when `condition` doesn't hold."""
        with self._database.transaction() as connection:
            there = _blob(connection, container, name)
            if there is not None:
                condition.check_write(there)
                connection.execute(sa.delete(table.blob).where(_is_blob(container, name)))
        return there is not None

    # Users

    def add_user(self, user: User, token_hash: str) -> User:
        """Add a user and return them with their moment of creation. Raises `Conflict` if the name is taken."""
        user = replace(user, created_at=user.created_at or datetime.now(UTC))
        with self._database.transaction() as connection:
            if _first(connection, table.user, table.user.c.name == user.name) is not None:
                raise Conflict(
                    f"User {user.name} exists already. For a new token: mafunzo user rotate {user.name}. For another role, "
                    f"delete them first: mafunzo user delete {user.name}"
                )
            row = _to_row(table.user, user) | {"token_hash": token_hash}
            connection.execute(sa.insert(table.user).values(row))
        return user

    def get_user(self, name: str) -> User:
        """Return a user. Raises `NotFound`, with similar names."""
        with self._database.snapshot() as connection:
            return _to_entity(User, _existing_user(connection, name))

    def find_user(self, token_hash: str) -> User | None:
        """Return whose token has that hash, or None."""
        with self._database.snapshot() as connection:
            row = _first(connection, table.user, table.user.c.token_hash == token_hash)
        return None if row is None else _to_entity(User, row)

    def list_users(self) -> list[User]:
        """Return every user by name."""
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(table.user).order_by(table.user.c.name)).all()
        return [_to_entity(User, row) for row in rows]

    def update_user(self, user: User, token_hash: str | None = None) -> None:
        """Replace a user's state, and their token's hash unless it is None. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_user(connection, user.name)
            row = _to_row(table.user, replace(user, created_at=stored.created_at))
            row |= {} if token_hash is None else {"token_hash": token_hash}
            connection.execute(sa.update(table.user).where(table.user.c.id == stored.id).values(row))

    def delete_user(self, name: str) -> None:
        """Delete a user. Raises `NotFound`."""
        with self._database.transaction() as connection:
            stored = _existing_user(connection, name)
            connection.execute(sa.delete(table.user).where(table.user.c.id == stored.id))

    # All of them

    def referenced_artifacts(self) -> set[str]:
        """Return every artifact hash that stands anywhere in a record: as bytes, input, output or in its properties."""
        artifacts: set[str] = set()
        with self._database.snapshot() as connection:
            for body in (table.asset.c.body, table.job.c.body, table.step.c.body, table.deployment.c.body):
                for text in connection.execute(sa.select(sa.cast(body, sa.Text))).scalars():
                    artifacts.update(ARTIFACT_HASH.findall(text))
            for column in (table.asset.c.artifact, table.blob.c.artifact):
                artifacts.update(connection.execute(sa.select(column)).scalars())
        return {artifact for artifact in artifacts if artifact}


def _to_row(of: sa.Table, entity: Any) -> dict[str, Any]:
    """Split an entity into the columns that its table has and the JSON `body` of the others."""
    row: dict[str, Any] = {}
    body: dict[str, Any] = {}
    for field in fields(entity):
        value = getattr(entity, field.name)
        if field.name in of.c:
            row[field.name] = value if isinstance(value, datetime) else encode(value)
        else:
            body[field.name] = encode(value)
    return row | {"body": body}


def _to_entity(kind: type[Entity], row: Row) -> Entity:
    """Put an entity together from its columns and its body."""
    names = {field.name for field in fields(kind)}
    from_columns = {name: encode(value) for name, value in row._mapping.items() if name in names}
    return decode(kind, row.body | from_columns)


def _asset_row(asset: Asset) -> dict[str, Any]:
    row = _to_row(table.asset, asset)
    key: dict[str, Any] = row["body"].pop("key")
    return row | key


def _to_asset(row: Row) -> Asset:
    columns = row._mapping
    key = {name: columns[name] for name in ("scope", "type", "name", "version")}
    direct = {name: columns[name] for name in ("artifact", "is_archived")}
    return decode(Asset, row.body | direct | {"key": key, "created_at": encode(row.created_at)})


def _step_row(step: Step) -> dict[str, Any]:
    row = _to_row(table.step, step)
    return row | {"name": step.name, "component_name": _component_name(step.spec.component)}


def _component_name(component: str) -> str:
    return component.partition(":")[0]


def _is_asset(key: AssetKey) -> sa.ColumnElement[bool]:
    asset = table.asset.c
    return sa.and_(
        asset.scope == key.scope, asset.type == str(key.type), asset.name == key.name, asset.version == key.version
    )


def _is_deployment(endpoint: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(table.deployment.c.endpoint == endpoint, table.deployment.c.name == name)


def _is_blob(container: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(table.blob.c.container == container, table.blob.c.name == name)


def _blob(connection: Connection, container: str, name: str) -> Blob | None:
    row = _first(connection, table.blob, _is_blob(container, name))
    return None if row is None else _to_entity(Blob, row)


def _first(connection: Connection, of: sa.Table, where: sa.ColumnElement[bool]) -> Row | None:
    return connection.execute(sa.select(of).where(where)).first()


def _existing_asset(connection: Connection, key: AssetKey) -> Row:
    row = _first(connection, table.asset, _is_asset(key))
    if row is None:
        raise NotFound(_no_asset(connection, key))
    return row


def _existing_job(connection: Connection, name: str) -> Row:
    row = _first(connection, table.job, table.job.c.name == name)
    if row is None:
        raise NotFound(f"No job '{name}'." + _near(name, connection.execute(sa.select(table.job.c.name)).scalars()))
    return row


def _existing_endpoint(connection: Connection, name: str) -> Row:
    row = _first(connection, table.endpoint, table.endpoint.c.name == name)
    if row is None:
        names = connection.execute(sa.select(table.endpoint.c.name)).scalars()
        raise NotFound(f"No endpoint '{name}'." + _near(name, names))
    return row


def _existing_compute(connection: Connection, name: str) -> Row:
    row = _first(connection, table.compute, table.compute.c.name == name)
    if row is None:
        names = connection.execute(sa.select(table.compute.c.name)).scalars()
        raise NotFound(f"No compute '{name}'." + _near(name, names))
    return row


def _existing_user(connection: Connection, name: str) -> Row:
    row = _first(connection, table.user, table.user.c.name == name)
    if row is None:
        raise NotFound(f"No user '{name}'." + _near(name, connection.execute(sa.select(table.user.c.name)).scalars()))
    return row


def _existing_deployment(connection: Connection, endpoint: str, name: str) -> Row:
    _existing_endpoint(connection, endpoint)
    row = _first(connection, table.deployment, _is_deployment(endpoint, name))
    if row is None:
        names = connection.execute(sa.select(table.deployment.c.name).filter_by(endpoint=endpoint)).scalars()
        raise NotFound(f"Endpoint {endpoint} has no deployment '{name}'." + _near(name, names))
    return row


def _no_asset(connection: Connection, key: AssetKey) -> str:
    of_type = sa.select(table.asset.c.name, table.asset.c.version).filter_by(scope=key.scope, type=str(key.type))
    rows = connection.execute(of_type.order_by(table.asset.c.id)).all()
    missing = f"No {key.type} '{key}' in {key.scope}."
    versions = [row.version for row in rows if row.name == key.name]
    if versions:
        return f"{missing} Versions of {key.name}: {', '.join(versions)}."
    return missing + _near(key.name, {row.name for row in rows})


def _near(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def _noun(type: AssetType) -> str:
    return {"data": "Data set"}.get(type, str(type).capitalize())
