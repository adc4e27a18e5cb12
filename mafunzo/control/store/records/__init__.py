"""The nouns in the database, a file each with what belongs to it: every verb is one transaction on frozen entities."""

import re
from collections import defaultdict
from collections.abc import Set
from typing import Final

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records import asset, batch, blob, compute, endpoint, job, serving, user
from mafunzo.entities.asset import AssetKey, AssetType

ARTIFACT_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class Records:
    """The records of one home by noun: `records.jobs.get(name)`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.assets: Final = asset.AssetRecords(database)
        self.labels: Final = asset.LabelRecords(database)
        self.jobs: Final = job.JobRecords(database)
        self.steps: Final = job.StepRecords(database)
        self.endpoints: Final = endpoint.EndpointRecords(database)
        self.deployments: Final = endpoint.DeploymentRecords(database)
        self.batch_endpoints: Final = batch.BatchEndpointRecords(database)
        self.batch_deployments: Final = batch.BatchDeploymentRecords(database)
        self.computes: Final = compute.ComputeRecords(database)
        self.containers: Final = blob.ContainerRecords(database)
        self.blobs: Final = blob.BlobRecords(database)
        self.users: Final = user.UserRecords(database)
        self.servings: Final = serving.ServingRecords(database)

    def version(self) -> int | None:
        """Return a number that changes with every write by anybody, or None where there is none; see `Database.version`."""
        return self._database.version()

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

    def artifacts_by_job(self) -> dict[str, set[str]]:
        """Return every artifact hash that stands in the rows of a job and of its steps, by the job's name."""
        artifacts: dict[str, set[str]] = defaultdict(set)
        with self._database.snapshot() as connection:
            for name, body in ((table.job.c.name, table.job.c.body), (table.step.c.job, table.step.c.body)):
                for job, text in connection.execute(sa.select(name, sa.cast(body, sa.Text))):
                    artifacts[job].update(ARTIFACT_HASH.findall(text))
        return artifacts

    def jobs_naming(self, artifact: str) -> list[str]:
        """Return the jobs in whose rows, or in whose steps', the hash of an artifact stands, the newest first."""
        steps = sa.select(table.step.c.job).where(_names(table.step, artifact))
        query = sa.select(table.job.c.name).where(sa.or_(_names(table.job, artifact), table.job.c.name.in_(steps)))
        with self._database.snapshot() as connection:
            return list(connection.execute(query.order_by(table.job.c.id.desc())).scalars())

    def models_naming(self, artifact: str) -> list[AssetKey]:
        """Return the versions of models, archived ones too, whose bytes are an artifact, or that name it, the newest first."""
        columns = table.asset.c
        query = sa.select(columns.scope, columns.name, columns.version).where(
            columns.type == str(AssetType.MODEL), sa.or_(columns.artifact == artifact, _names(table.asset, artifact))
        )
        with self._database.snapshot() as connection:
            rows = connection.execute(query.order_by(columns.id.desc())).all()
        return [AssetKey(row.scope, AssetType.MODEL, row.name, row.version) for row in rows]

    def artifact_holders(self, views: Set[str] = frozenset()) -> dict[str, str]:
        """Return every artifact that an asset, a deployment or a blob names, with what that is.

        views: what blobs show that don't count, see `Blob.view_of`.
        """
        asset_query = sa.select(table.asset, sa.cast(table.asset.c.body, sa.Text).label("text"))
        deployment_query = sa.select(table.deployment, sa.cast(table.deployment.c.body, sa.Text).label("text"))
        holders: dict[str, str] = {}
        with self._database.snapshot() as connection:
            for row in connection.execute(asset_query):
                for artifact in {row.artifact, *ARTIFACT_HASH.findall(row.text)} - {None}:
                    holders.setdefault(artifact, f"{row.type} {row.name}:{row.version} needs it")
            for row in connection.execute(deployment_query):
                for artifact in ARTIFACT_HASH.findall(row.text):
                    holders.setdefault(artifact, f"deployment {row.endpoint}/{row.name} needs it")
            for row in connection.execute(sa.select(table.blob)):
                if row.body.get("view_of", "") not in views - {""}:
                    holders.setdefault(row.artifact, f"blob {row.name} of {row.container} is it")
        return holders


def _names(of: sa.Table, artifact: str) -> sa.ColumnElement[bool]:
    """Return the condition for rows of a table whose body has the hash of an artifact anywhere."""
    return sa.cast(of.c.body, sa.Text).contains(artifact, autoescape=True)
