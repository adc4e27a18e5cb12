import pytest
import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records import Records
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.entities.job import (
    ArtifactInput,
    Step,
    StepSpec,
    StepStatus,
)
from mafunzo.errors import NewerHome
from tests.unit.control.store.records.sample import artifact_hash, job_named, model


def test_every_hash_in_any_record_is_referenced(records: Records) -> None:
    records.assets.add(model(artifact=artifact_hash("1"), properties={"data": {"train": artifact_hash("2")}}))
    spec = StepSpec(
        "s", "c:1", "code", "run", {"x": ArtifactInput(artifact_hash("3"))}, code_artifact=artifact_hash("4")
    )
    job = job_named(inputs={"model": {"artifact": artifact_hash("5")}})
    records.jobs.add(job, [Step("job", spec, outputs={"o": artifact_hash("6")}, status=StepStatus.COMPLETED)])
    records.endpoints.add(Endpoint("chat"), ("1", "2"))
    records.deployments.add(Deployment("chat", "blue", "m:1", artifact_hash("7")))
    assert records.referenced_artifacts() == {artifact_hash(digit) for digit in "1234567"}


def test_a_record_of_a_newer_version_is_refused_instead_of_cut(records: Records, database: Database) -> None:
    records.jobs.add(job_named(), [])
    with database.transaction() as connection:
        body = connection.execute(sa.select(table.job.c.body)).scalar_one()
        connection.execute(sa.update(table.job).values(body=body | {"mood": "good"}))
    with pytest.raises(NewerHome, match="A stored Job has the field mood"):
        records.jobs.get("job")
