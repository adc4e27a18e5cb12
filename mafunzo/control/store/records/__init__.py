"""The nouns in the database, a file each with what belongs to it: every verb is one transaction on frozen entities."""

import re
from typing import Final

import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records.asset import AssetRecords, LabelRecords
from mafunzo.control.store.records.blob import BlobRecords, ContainerRecords
from mafunzo.control.store.records.compute import ComputeRecords
from mafunzo.control.store.records.endpoint import DeploymentRecords, EndpointRecords
from mafunzo.control.store.records.job import JobRecords, StepRecords
from mafunzo.control.store.records.user import UserRecords

ARTIFACT_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class Records:
    """The records of one home by noun: `records.jobs.get(name)`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.assets: Final = AssetRecords(database)
        self.labels: Final = LabelRecords(database)
        self.jobs: Final = JobRecords(database)
        self.steps: Final = StepRecords(database)
        self.endpoints: Final = EndpointRecords(database)
        self.deployments: Final = DeploymentRecords(database)
        self.computes: Final = ComputeRecords(database)
        self.containers: Final = ContainerRecords(database)
        self.blobs: Final = BlobRecords(database)
        self.users: Final = UserRecords(database)

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
