from dataclasses import replace

import pytest
import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records import Records
from mafunzo.entities.asset import WORKSPACE_SCOPE, AssetType
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.entities.job import (
    ArtifactInput,
    JobStatus,
    LiteralInput,
    Step,
    StepSpec,
    StepStatus,
)
from mafunzo.errors import NewerHome
from tests.unit.control.store.records.sample import NOON, artifact_hash, job_named, model, step_of


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


def test_jobs_and_models_that_name_an_artifact_are_found_in_one_look(records: Records) -> None:
    name, other = artifact_hash("b"), artifact_hash("c")
    records.jobs.add(job_named("by-input", inputs={"train": {"artifact": name}}), [])
    records.jobs.add(job_named("by-step"), [step_of("by-step", outputs={"out": name})])
    records.jobs.add(job_named("neither"), [step_of("neither", outputs={"out": other})])
    records.assets.add(model("whole", artifact=name, is_archived=True))
    records.assets.add(model("base", properties={"base_artifact": name}))
    records.assets.add(model("neither"))
    assert records.jobs_naming(name) == ["by-step", "by-input"]
    assert [str(key) for key in records.models_naming(name)] == ["base:1", "whole:1"]
    assert (records.jobs_naming(artifact_hash("d")), records.models_naming(artifact_hash("d"))) == ([], [])


def test_steps_of_several_jobs_are_read_in_one_look(records: Records) -> None:
    done = {"status": StepStatus.COMPLETED, "ended_at": NOON}
    fetched = step_of("ended", "fetch", "import_model:2", **done)
    literal = replace(fetched.spec, inputs={"huggingface_id": LiteralInput("org/name")})
    fetched = replace(fetched, spec=literal)
    records.jobs.add(job_named("ended", status=JobStatus.COMPLETED), [fetched, step_of("ended", **done)])
    records.jobs.add(job_named("open", status=JobStatus.RUNNING), [step_of("open", "b"), step_of("open", "a")])
    steps = records.steps.of_each(["open", "ended", "none"])
    assert {job: [step.name for step in those] for job, those in steps.items()} == {
        "open": ["b", "a"],
        "ended": ["fetch", "finetune"],
        "none": [],
    }
    assert [step.name for step in records.steps.of_open_jobs()] == ["b", "a"]
    assert records.jobs.names() == {"ended", "open"}
    assert records.steps.last_with("import_model", "huggingface_id", "org/name") == fetched
    assert records.steps.last_with("import_model", "huggingface_id", "org/other") is None


def test_names_are_read_a_page_at_a_time_with_their_versions_and_labels(records: Records) -> None:
    for name, version in (("a", "1"), ("a", "2"), ("b", "1"), ("c", "1")):
        records.assets.add(model(name, version, is_archived=version == "2"))
    records.labels.set(model("b").key, "good")
    records.labels.set(model("c").key, "good")
    scopes = (WORKSPACE_SCOPE, "other")
    assert records.assets.names(scopes, AssetType.MODEL, 2) == ["a", "b"]
    assert records.assets.names(scopes, AssetType.MODEL, 2, "b") == ["c"]
    versions = records.assets.of_names(WORKSPACE_SCOPE, AssetType.MODEL, ["a", "b", "none"])
    assert {name: [one.version for one in those] for name, those in versions.items()} == {
        "a": ["2", "1"],
        "b": ["1"],
        "none": [],
    }
    assert records.labels.by_name(WORKSPACE_SCOPE, AssetType.MODEL, ["a", "b"]) == {"b": {"good": "1"}}


def test_every_endpoint_s_keys_are_read_in_one_look(records: Records) -> None:
    for name in ("one", "two"):
        records.endpoints.add(Endpoint(name), (f"{name}-1", f"{name}-2"))
    assert records.endpoints.all_keys() == {"one": ("one-1", "one-2"), "two": ("two-1", "two-2")}
    found = records.endpoints.find_named("one")
    assert found is not None and found.name == "one" and records.endpoints.find_named("three") is None
    for name in ("a", "b", "c"):
        records.deployments.add(Deployment("one", name, "m:1", artifact_hash("a")))
    assert [one.name for one in records.deployments.page("one", 2, "a")] == ["b", "c"]
