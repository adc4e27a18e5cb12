"""Tests of `mafunzo.control.workspace.models`: what may be registered, and what deleting a model frees."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.retention import Holders, models_made_by
from mafunzo.entities.asset import FolderType
from mafunzo.entities.asset_request import ModelRequest
from mafunzo.entities.job import Job, JobStatus, Step, StepOutputInput, StepSpec, StepStatus
from mafunzo.entities.reference import JobOutputReference, StoredPath
from mafunzo.errors import Conflict, InvalidParameter, NotFound, VersionTaken

WEIGHTS = b"weights" * 1000


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "tuned").mkdir()
    (folder / "MLmodel").write_bytes(WEIGHTS)
    return folder


def add_job(workspace: Workspace, status: JobStatus, output: str | None = None) -> Job:
    job = Job("job-1", "job", "talk", "pipeline", outputs={"mlflow_model_folder": StepOutputInput("pack", "out")})
    spec = StepSpec("pack", "package_model:1", "sha256:0", "true")
    outputs = {} if output is None else {"out": output}
    step = Step("job-1", spec, StepStatus.COMPLETED if output else StepStatus.WAITING, outputs=outputs)
    return workspace.records.jobs.add(replace(job, status=status), [step])


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELED])
def test_only_a_completed_job_can_be_registered(status, workspace, folder):
    add_job(workspace, status, workspace.artifacts.put(folder))
    with pytest.raises(Conflict, match=f"Job job-1 is {status}; only a completed job"):
        workspace.models.register("job-1", name="tuned")
    assert workspace.models.list("tuned") == []


def test_a_folder_is_registered_as_what_it_holds(workspace, folder):
    assert workspace.models.register(folder, name="tuned").folder_type is FolderType.MLFLOW_MODEL
    (folder / "MLmodel").rename(folder / "model.safetensors")
    assert workspace.models.register(folder, name="tuned").folder_type is FolderType.CUSTOM_MODEL


def test_a_folder_has_no_outputs(workspace, folder):
    with pytest.raises(InvalidParameter, match=r"output is best, but .* is a folder"):
        workspace.models.register(folder, name="tuned", output="best")


def test_deleting_a_model_frees_its_bytes_at_once(workspace, folder):
    asset = workspace.models.register(folder, name="tuned")
    assert workspace.models.delete("tuned") == len(WEIGHTS)
    assert not workspace.artifacts.exists(asset.artifact or "")


def test_what_another_version_or_a_job_holds_stays_and_is_named(workspace, folder):
    asset = workspace.models.register(folder, name="tuned")
    workspace.models.register(folder, name="other")
    assert asset.artifact is not None
    add_job(workspace, JobStatus.COMPLETED, asset.artifact)
    assert workspace.models.delete("tuned") == 0
    assert workspace.models.holders(asset.artifact) == Holders(("job-1",), ("other:1",))


def test_bytes_that_were_put_again_wait_for_the_record_that_may_come(workspace, folder):
    asset = workspace.models.register(folder, name="tuned")
    assert asset.artifact is not None
    soon = time.time() + 1
    os.utime(workspace.artifacts.manifest_path(asset.artifact), (soon, soon))
    assert workspace.models.delete("tuned") == 0
    assert workspace.artifacts.exists(asset.artifact)


def test_a_job_knows_the_models_that_it_made(workspace, folder):
    asset = workspace.models.register(folder, name="tuned")
    workspace.records.assets.update(replace(asset, properties={"job": "job-1"}, is_archived=True))
    assert [str(made.key) for made in models_made_by(workspace.services, "job-1")] == ["tuned:1"]
    assert models_made_by(workspace.services, "job-2") == ()


def request(path: str, **more) -> ModelRequest:
    return ModelRequest(source=StoredPath("workspaceblobstore", path), **more)


def test_a_version_is_registered_once_and_then_only_what_may_change_changes(workspace, folder):
    artifact = workspace.artifacts.put(folder)
    for path in ("up/one", "up/two"):
        workspace.blobs.publish("azureml-blobstore", path, artifact)
    first = request("up/one", properties={"c": "d"}, echoes={"some": {"x": 1}})
    made = workspace.models.create("tuned", "1", first)
    assert (made.artifact, made.echoes, made.properties["user_properties"]) == (artifact, first.echoes, {"c": "d"})
    again = request("up/one", description="said", is_archived=True, echoes={"some": {"x": 2}})
    changed = workspace.models.create("tuned", "1", again)
    assert (changed.description, changed.is_archived, changed.echoes) == ("said", True, again.echoes)
    with pytest.raises(VersionTaken, match="Model tuned:1 exists already, with other content"):
        workspace.models.create("tuned", "1", request("up/two"))


def test_a_version_that_exists_is_not_registered_again(workspace, folder):
    workspace.models.register(folder, name="tuned", version="1", description="the first")
    with pytest.raises(
        Conflict, match=r"^Model tuned:1 exists already\. A version never changes; choose another one\.$"
    ):
        workspace.models.register(folder, name="tuned", version="1")
    assert workspace.models.get("tuned:1").description == "the first"


def test_a_model_of_a_job_is_known_by_the_path_at_which_it_is_shown(workspace, folder):
    add_job(workspace, JobStatus.COMPLETED, workspace.artifacts.put(folder))
    output = ModelRequest(source=JobOutputReference("job-1", "mlflow_model_folder"), folder_type="mlflow_model")
    made = workspace.models.create("tuned", "1", output)
    workspace.models.show(made, made.artifact)
    assert [blob.name for blob in workspace.blobs.list("azureml-blobstore")] == ["models/tuned/1/model/MLmodel"]
    shown = request("models/tuned/1/model", description="said")
    assert workspace.models.create("tuned", "1", shown).description == "said"
    workspace.models.delete("tuned:1")
    assert workspace.blobs.list("azureml-blobstore") == []


def test_a_model_in_another_datastore_is_told_which_there_is(workspace):
    elsewhere = ModelRequest(source=StoredPath("elsewhere", "model"))
    with pytest.raises(NotFound, match=r"datastore 'elsewhere'\. There is 'workspaceblobstore'"):
        workspace.models.create("tuned", "1", elsewhere)
